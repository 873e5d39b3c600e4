"""Clean runs: one forward pass without a patch over texts of one length, with its states kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..towers.tower import Tower


@dataclass(frozen=True, eq=False)
class CleanRun:
    """The activations of one forward pass without a patch.

    resid: states of layers 0..L. site: activations of the patched site by block, where that is not the residual stream.
    pooled: the position that is read out, the same in every text; None where the readout is over all of them.
    embedding: not normalised.
    """

    resid: Sequence[Float[Tensor, "text pos _"]]
    site: Sequence[Tensor]
    pooled: int | None
    embedding: Float[Tensor, "text embed"]

    @property
    def length(self) -> int:
        """Positions of each text."""
        return self.resid[0].shape[1]

    def one(self, text: int) -> Self:
        """The run of one of the texts."""
        here = slice(text, text + 1)
        resid, site = ([state[here] for state in states] for states in (self.resid, self.site))
        return replace(self, resid=resid, site=site, embedding=self.embedding[here])

    def aligned(self, sources: Int[Tensor, "text pos"]) -> Self:
        """The activations reordered: position p of text i gets those of position ``sources[i, p]``.

        Where ``sources`` is -1 there is no counterpart, and the activations of position 0 fill the place.
        """
        at, texts = sources.clamp_min(0), torch.arange(len(sources), device=sources.device)[:, None]
        resid, site = ([state[texts, at] for state in states] for states in (self.resid, self.site))
        return replace(self, resid=resid, site=site, pooled=pooled_after_alignment(self.pooled, sources))


def run_clean(
    tower: Tower,
    inputs: Tensor,
    keep: str | None = None,
    places: Tensor | None = None,
    embedded: Float[Tensor, "text pos d_model"] | None = None,
) -> CleanRun:
    """A forward pass without a patch over inputs of one length and one pooled position.

    keep: a hook point inside the blocks whose activations are kept as well. places: see :meth:`Tower.embed`.
    embedded: states of layer 0 that replace the tower's own, as for a gradient that starts there.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> run = run_clean(text, text.tokenize(["no edema"]), keep="hook_mlp_out")
    >>> len(run.resid), len(run.site), list(run.embedding.shape)
    (9, 8, [1, 64])
    """
    pooled = pooled_position(tower, inputs)
    x, mask = tower.embed(inputs, places) if embedded is None else embedded, tower.attention_mask(inputs)
    resid: list[Tensor] = [x]
    site: list[Tensor] = []
    with _keeping(tower.blocks, keep, site):
        for block in tower.blocks:
            x = block(x, mask)
            resid.append(x)
    return CleanRun(resid, site, pooled, tower.read_states(resid, inputs))


def pooled_position(tower: Tower, inputs: Tensor) -> int | None:
    """The one position that all inputs are read out at; None where the readout is over all positions.

    Raises:
        ValueError: the inputs are read out at different positions.
    """
    pooled = tower.pooled_positions(inputs)
    if pooled is None:
        return None
    if (pooled != pooled[0]).any():
        raise ValueError(f"texts of one clean run must be read at one position, got {pooled.unique().tolist()}")
    return int(pooled[0])


def pooled_after_alignment(pooled: int | None, sources: Int[Tensor, "text pos"]) -> int | None:
    """Where the pooled position stands after alignment: -1 where that is not one place in every text."""
    if pooled is None:
        return None
    places = (sources == pooled).nonzero()[:, 1].unique()
    return int(places[0]) if len(places) == 1 else -1


@contextmanager
def _keeping(blocks: Iterable[nn.Module], hook: str | None, kept: list[Tensor]) -> Iterator[None]:
    """Collect the output of one hook point of every block."""
    if hook is None:
        yield
        return
    handles = [
        block.get_submodule(hook).register_forward_hook(lambda module, args, output: kept.append(output))
        for block in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
