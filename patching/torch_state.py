"""The torch settings under which every forward pass of the package runs, whatever the caller's settings are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import _pop_mode, _push_mode

from ..errors import TorchStateError

# Operations on float32 whose factors a backend may round to TF32 (10 bits) or bfloat16 (7 bits): (backend, operation).
_PRODUCTS = (("cuda", "matmul"), ("cuda", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")
# Variables by which a process asks oneDNN for the same; it reads them once, and nothing can take that back.
_MATH_MODE_VARIABLES = ("DNNL_DEFAULT_FPMATH_MODE", "ONEDNN_DEFAULT_FPMATH_MODE")


@contextmanager
def neutral_state(*modules: nn.Module, grad: bool = False) -> Iterator[None]:
    """Run a block under torch's default settings, and put the caller's back afterwards, also after an exception.

    Inside, in this thread: no autocast, no inference mode, gradients as ``grad`` says (tensors saved for them are kept
    as they are), no torch function mode (a default device is one).

    In the whole process, from the first block that is entered in any thread to the last that is left: default dtype
    float32; float32 products and convolutions in float32 (no TF32, no bfloat16); no anomaly detection; deterministic
    algorithms not enforced (every operation used is deterministic without it); all attention kernels, cuDNN and oneDNN
    available, with their default settings; and ``modules`` in evaluation mode. A setting that the caller changes
    meanwhile is left alone.

    The number of threads stays the caller's: it changes the order of summation, that is the last bits.

    Raises:
        TorchStateError: a state that cannot be suspended: a fake-tensor mode, a functorch transform, tracing by
            torch.jit, or oneDNN told by an environment variable to round float32.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16), neutral_state():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    _refuse()
    with ExitStack() as stack:
        stack.enter_context(_SHARED.changed("process", _set_process))
        for module in modules:
            stack.enter_context(_SHARED.changed(id(module), partial(_set_evaluating, module)))
        stack.enter_context(without_function_modes())
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        if grad and torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_unchanged, _unchanged))
        yield


class _SharedChanges:
    """Changes that all threads see: made by the first that asks for them, undone when the last has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[object, tuple[int, Callable[[], None]]] = {}

    @contextmanager
    def changed(self, key: object, change: Callable[[], Callable[[], None]]) -> Iterator[None]:
        """``change`` is called unless the key is held already; it returns what undoes it."""
        with self._lock:
            count, undo = self._held[key] if key in self._held else (0, change())
            self._held[key] = count + 1, undo
        try:
            yield
        finally:
            with self._lock:
                count, undo = self._held.pop(key)
                if count > 1:
                    self._held[key] = count - 1, undo
                else:
                    undo()


_SHARED = _SharedChanges()


def _set_process() -> Callable[[], None]:
    """Set every process-wide switch that is not neutral already."""
    changed = [(read, write, read(), neutral) for read, write, neutral in _switches() if read() != neutral]
    for _, write, _, neutral in changed:
        write(neutral)
    rounded = [name for name in _PRODUCTS if _has_precisions() and _precision(*name) != "ieee"]
    products = [(name, _own_precision(*name)) for name in rounded]
    for name, _ in products:
        _set_precision(*name, "ieee")

    def undo() -> None:
        for read, write, before, neutral in changed:
            if read() == neutral:
                write(before)
        for name, before in products:
            if _precision(*name) == "ieee":
                _set_precision(*name, before)

    return undo


def _set_evaluating(module: nn.Module) -> Callable[[], None]:
    """Evaluation mode; every submodule's mode is put back."""
    training = [child for child in module.modules() if child.training]
    for child in training:
        child.training = False

    def undo() -> None:
        for child in training:
            child.training = True

    return undo


def _switches() -> Iterator[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """Process-wide settings as (how it is read, how it is set, its neutral value)."""
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    yield _anomaly, lambda value: torch.set_anomaly_enabled(*value), (False, True)
    yield _deterministic, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]), (False, False)
    for owner, name, neutral in (
        (torch.backends.cudnn, "enabled", True),
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "deterministic", False),
        (torch.backends.mkldnn, "enabled", True),
        (torch.backends.mkldnn, "deterministic", False),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", True),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", True),
        (torch.backends.cuda.matmul, "allow_fp16_accumulation", False),
    ):
        if hasattr(owner, name):  # some are newer than the oldest torch that is supported
            yield _attribute(owner, name, neutral)
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        read = getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")
        yield read, getattr(torch.backends.cuda, f"enable_{kernel}_sdp"), True
    if not _has_precisions():  # before torch 2.9
        yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
        yield _attribute(torch.backends.cudnn, "allow_tf32", False)


def _attribute(owner: Any, name: str, neutral: Any) -> tuple[Callable[[], Any], Callable[[Any], None], Any]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value), neutral


@contextmanager
def without_function_modes() -> Iterator[None]:
    """Take this thread's torch function modes off their stack for a while; others may be entered inside."""
    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


# precision of float32 products: a tree (all backends, backend, operation), in which "none" means as the level above ---


def _has_precisions() -> bool:
    return hasattr(torch._C, "_get_fp32_precision_getter")


def _precision(backend: str, operation: str) -> str:
    """The precision in effect, set here or above."""
    return str(torch._C._get_fp32_precision_getter(backend, operation))


def _set_precision(backend: str, operation: str, precision: str) -> None:
    torch._C._set_fp32_precision_setter(backend, operation, precision)


def _own_precision(backend: str, operation: str) -> str:
    """What was set at this level itself; torch tells only what is in effect.

    To put an inherited setting back as if it had been set here would cut the level off from those above. It is
    inherited if it follows the level above, which is full precision for a moment to see that.
    """
    found = _precision(backend, operation)
    if found in ("none", "ieee"):
        return found
    above = ("generic", "all") if operation == "all" else (backend, "all")
    before = _precision(*above) if operation == "all" else _own_precision(*above)
    _set_precision(*above, "ieee")
    inherited = _precision(backend, operation) == "ieee"
    _set_precision(*above, before)
    return "none" if inherited else found


def _refuse() -> None:
    """Raise for a state of torch that would reach the passes and cannot be suspended."""
    for variable in _MATH_MODE_VARIABLES:
        mode = os.environ.get(variable, "")
        if mode.upper() not in ("", "STRICT"):
            raise TorchStateError(
                f"the environment variable {variable}={mode[:20]!r} lets oneDNN round float32 products, so that "
                f"results would not be float32: start Python without it"
            )
    from torch._guards import detect_fake_mode

    if detect_fake_mode() is not None:
        found = "a fake-tensor mode, under which nothing is computed"
    elif torch._C._functorch.peek_interpreter_stack() is not None:
        found = "a transform of torch.func (vmap, grad, …)"
    elif torch._C._get_tracing_state() is not None:
        found = "torch.jit.trace"
    elif torch.compiler.is_compiling():
        found = "torch.compile or torch.export"
    else:
        return
    raise TorchStateError(f"this was called inside {found}: call it outside, and pass its result in")
