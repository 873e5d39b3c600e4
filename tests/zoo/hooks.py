"""Patching a source model with plain PyTorch hooks: whole passes, no tower, no shortcut. What the engine must equal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.entry import Place, Reading


def put_hook(
    module: nn.Module, side: str, seen: Callable[[Tensor], Tensor], call: int = 0, of: int = 1
) -> torch.utils.hooks.RemovableHandle:
    """Let ``seen`` read, and replace, the first input or the (first) output tensor of ``module``.

    A module that runs ``of`` times in a pass is seen in its run number ``call`` only (ALBERT's blocks). Ahead of all
    other hooks: transformers 5 collects ``hidden_states`` by hooks of its own, which must see the patch.
    """
    runs = itertools.cycle(range(of))

    if side == "out":

        def after(_: nn.Module, args: Any, out: Any) -> Any:
            if next(runs) != call:
                return None
            return (seen(out[0]), *out[1:]) if isinstance(out, tuple) else seen(out)

        return module.register_forward_hook(after, prepend=True)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if next(runs) != call:
            return None
        if args:
            return (seen(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": seen(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)


def put_hook_at(
    reading: Reading, model: nn.Module, layer: int, site: str, seen: Callable[[Tensor], Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """A hook where the source shows ``site`` at ``layer``; layer 0 is the embedding output.

    Sites: ``in`` and ``resid`` are what a block takes and gives; ``attn``, ``mid``, ``mlp`` lie inside.
    """
    blocks = reading.blocks(model)
    if layer == 0:
        if site != "resid":
            raise ValueError(f"layer 0 is the embedding output: it has no site {site!r}")
        block, place, earlier = blocks[0], Place(side="in"), blocks[:0]
    else:
        block, place, earlier = blocks[layer - 1], reading.sites.at(site), blocks[: layer - 1]
    module = block.get_submodule(place.path)
    return put_hook(module, place.side, seen, sum(one is block for one in earlier), sum(one is block for one in blocks))


@contextmanager
def recording(reading: Reading, model: nn.Module, layer: int, site: str = "resid") -> Iterator[list[Tensor]]:
    """Keep what passes a site inside the block: one tensor a pass, as the source lays it out."""
    kept: list[Tensor] = []

    def keep(state: Tensor) -> Tensor:
        kept.append(state.detach().clone())
        return state

    handle = put_hook_at(reading, model, layer, site, keep)
    try:
        yield kept
    finally:
        handle.remove()


def patched_by_hooks(
    reading: Reading,
    model: nn.Module,
    base: Tensor,
    donor: Tensor,
    layer: int,
    positions: Sequence[int] | None,
    *,
    site: str = "resid",
) -> Tensor:
    """The embedding [embed] of ``base`` with ``donor``'s states at ``site``, ``layer`` and ``positions`` put in.

    base, donor: ids [1, context] of one width. positions: None for every row the source holds, which in CoCa is one
    more than there are ids. L2-normalised.
    """
    with recording(reading, model, layer, site) as kept:
        reading.embed(model, donor)
    where = slice(None) if positions is None else list(positions)
    fired = 0

    def put(state: Tensor) -> Tensor:
        nonlocal fired
        fired += 1
        new = kept[0] - entering[0] if between else kept[0]
        state = state.clone()
        state.movedim(reading.time_axis, 0)[where] = new.movedim(reading.time_axis, 0)[where]
        return state

    # The state between attention and MLP of a pre-norm block is no module's output: what is added to the block's
    # input is chosen such that their sum is the donor's.
    between = site == "mid" and reading.sites.norms is None
    with recording(reading, model, layer, "in") if between else nullcontext() as entering:
        handle = put_hook_at(reading, model, layer, "attn" if between else site, put)
        try:
            patched = reading.embed(model, base)[0]
        finally:
            handle.remove()
    assert fired == 1 == len(kept), f"the hook fired {fired} times"
    return patched


def patched_together(
    reading: Reading, model: nn.Module, base: Tensor, donor: Tensor, cells: Any, first: int, *, site: str = "resid"
) -> Tensor:
    """The embedding [embed] of ``base`` with ``donor``'s states in all cells [layer, position]; L2-normalised.

    first: number of the first layer of ``cells``.
    """
    states = {}
    with ExitStack() as stack, torch.no_grad():
        for at in cells.any(axis=1).nonzero()[0].tolist():
            with recording(reading, model, at + first, site) as kept:
                reading.embed(model, donor)
            states[at] = kept[0]
        for at, state in states.items():
            chosen = cells[at].nonzero()[0].tolist()

            def put(new: Tensor, state: Tensor = state, where: list[int] = chosen) -> Tensor:
                new = new.clone()
                new.movedim(reading.time_axis, 0)[where] = state.movedim(reading.time_axis, 0)[where]
                return new

            stack.callback(put_hook_at(reading, model, at + first, site, put).remove)
        return nn.functional.normalize(reading.embed(model, base), dim=-1)[0]
