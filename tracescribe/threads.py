"""The number of torch threads: small models are slower with several, and much slower beside other work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["spare_threads", "threads"]

_SMALL = 5_000_000  # parameters of a text tower; CLIP ViT-B/32's has 38 million (63 with its embedding)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """``n`` threads of torch on the CPU inside the block; the number of before is put back.

    The threads of a parallel operation wait for each other by spinning. In a model whose operations take microseconds,
    one thread that waits for a processor then holds the others up.

    >>> import torch
    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spare_threads(tower: Any) -> None:
    """One thread for the rest of the process if a text tower is small, runs on the CPU, and OMP_NUM_THREADS is not set.

    For commands; a library must not change this for its caller.
    """
    import torch

    small = sum(parameter.numel() for parameter in tower.parameters()) < _SMALL
    if small and tower.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
