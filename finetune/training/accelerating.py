"""accelerate around our loop: mixed precision, clipping, several processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import OptionError
from .config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Embed = Callable[[Int[Tensor, " n"]], Float[Tensor, "n embed"]]
PATIENCE = timedelta(days=30)  # the others wait while the first evaluates; a dead one is the launcher's to notice
PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def launched_in_parallel() -> bool:
    """Whether this is one of several processes of ``accelerate launch`` or ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def own_device(device: str) -> str:
    """The device of this process: of several that were launched each has a GPU of its own.

    >>> own_device("cpu")
    'cpu'
    """
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launched_in_parallel() and device == "cuda" else device


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Ask before images are encoded, which may take hours. accelerate would train in float32 and say nothing.

    Raises:
        OptionError: fp16 on a CPU.
    """
    if config.precision == "fp16" and device.type == "cpu":
        raise OptionError("precision 'fp16' needs an accelerator; on a CPU use 'bf16' or 'float32'")


@contextlib.contextmanager
def accelerator_for(config: TrainConfig, device: torch.device) -> Iterator[Accelerator | None]:
    """An Accelerator where this run needs one: half precision, or one of several processes; else None.

    One that the caller has in this process keeps its state, which they would share.

    Raises:
        OptionError: accelerate has no such precision on this device.
    """
    parallel = launched_in_parallel()
    if config.precision == "float32" and not parallel:
        yield None
        return
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [AcceleratorState, GradientState, *([] if parallel else [PartialState])]
    kept = [dict(kind._shared_state) for kind in shared]
    environment = {name: os.environ.get(name) for name in ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION")}
    _set(shared, [{}] * len(shared))
    try:
        try:
            made = Accelerator(
                mixed_precision=PRECISIONS[config.precision],
                cpu=device.type == "cpu",
                kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
            )
        except ValueError as problem:
            raise OptionError(f"precision {config.precision!r} on the device {str(device)!r}: {problem}") from problem
        yield made
    finally:
        if not parallel:
            _set(shared, kept)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def sum_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients; with one process they are left alone."""
    if accelerator.num_processes == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter).clone()


def shared_by_processes(embed: Embed, accelerator: Accelerator) -> Embed:
    """The same embeddings, each process running its share of the texts: every one sees the whole batch's loss.

    The gradient that flows back to a share is summed over processes, which all have the same loss, and is thus too
    large by their number; the mean of :func:`sum_gradients` takes that factor out again.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    if world == 1:
        return embed

    def shared(wanted: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
        from torch.distributed.nn.functional import all_gather

        each = -(-len(wanted) // world)
        padded = torch.cat([wanted, wanted[-1:].expand(each * world - len(wanted))])
        return torch.cat(list(all_gather(embed(padded[rank * each : (rank + 1) * each]))))[: len(wanted)]

    return shared


def _set(kinds: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    for kind, state in zip(kinds, states, strict=True):
        kind._shared_state.clear()
        kind._shared_state.update(state)
