"""States of torch in which a user's process may be, and how it looks from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


class Halving(TorchFunctionMode):
    """A function mode that changes every product."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return found / 2 if func in (torch.nn.functional.linear, torch.Tensor.matmul) else found


def precision(backend: str, operation: str, value: str) -> AbstractContextManager[None]:
    """A precision of float32 products at its own level of torch's tree (torch 2.9 and later)."""
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        pytest.skip("this torch has one switch for all products")
    return setting(
        lambda: "none",  # the default at these levels
        lambda chosen: torch._C._set_fp32_precision_setter(backend, operation, chosen),
        value,
    )


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "default dtype": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "default half": lambda: setting(torch.get_default_dtype, torch.set_default_dtype, torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "function mode": Halving,
    "deterministic": lambda: setting(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "medium precision": lambda: setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "TF32 everywhere": lambda: precision("generic", "all", "tf32"),
    "bfloat16 in oneDNN": lambda: precision("mkldnn", "all", "bf16"),
    "bfloat16 convolutions": lambda: precision("mkldnn", "conv", "bf16"),
    "without oneDNN": lambda: setting(
        lambda: torch.backends.mkldnn.enabled, lambda on: torch._C._set_mkldnn_enabled(on), False
    ),
    "anomaly detection": lambda: setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, True),
    "attention by products": lambda: sdpa_kernel(SDPBackend.MATH),
    "saved tensors rounded": lambda: torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensor.bfloat16(), lambda tensor: tensor.float()
    ),
}


def _precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # newer switches, one by one, say what this one has no word for
        return "mixed"


def state_of_torch() -> dict[str, Any]:
    """Everything that the states above change, as the caller sees it."""
    tree = [(backend, op) for backend in ("cuda", "mkldnn") for op in ("all", "matmul", "conv")]
    return {
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "inference": torch.is_inference_mode_enabled(),
        "grad": torch.is_grad_enabled(),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "dtype": torch.get_default_dtype(),
        "modes": torch._C._len_torch_function_stack(),
        "functions": torch._C._is_torch_function_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": _precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "sdp": [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ("flash", "math", "mem_efficient")],
        "tree": [torch._C._get_fp32_precision_getter(*at) for at in tree]
        if hasattr(torch._C, "_get_fp32_precision_getter")
        else [],
    }
