"""Whether a device of torch is there, said in a sentence before anything is loaded."""

from __future__ import annotations

from .errors import OptionError

__all__ = ["check_device"]


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or this machine does not have.

    Raises:
        OptionError: see there.

    >>> check_device("gpu")
    Traceback (most recent call last):
    tracescribe.errors.OptionError: unknown device 'gpu': use cpu, cuda, cuda:0 or mps
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise OptionError(f"unknown device {device!r}: use cpu, cuda, cuda:0 or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        raise OptionError(f"the device {device!r} is not available here: use cpu")
