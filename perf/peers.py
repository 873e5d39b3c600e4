"""Other ways to trace one caption pair, written independently: what ours is timed against and must agree with.

Each returns the score map S[l, p] = cos(image, text) with the donor's state of layer l (0 = embedding output) at
position p put into the base text's run, for every layer 0..L and every token. Nothing is shared with the package's
engine: clean and donor states come from runs of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracescribe.patching import TextTower

ScoreMap = Float[np.ndarray, "layer token"]


@torch.no_grad()
def published(
    model: nn.Module,
    pixels: Float[Tensor, "1 3 height width"],
    base: Int[Tensor, "1 context"],
    donor: Int[Tensor, "1 context"],
    n_tokens: int,
) -> ScoreMap:
    """The published algorithm: the whole CLIP, image tower and padding included, once for every (layer, token).

    Plain PyTorch hooks on an open_clip ``CLIP`` read the donor's states and replace one of them in each pass (NAST,
    arXiv 2602.12498, as its released scripts run it).
    """
    blocks = model.transformer.resblocks  # type: ignore[union-attr]
    states: list[Tensor] = []
    keeping = [blocks[0].register_forward_pre_hook(lambda module, args: states.append(args[0].clone()))]  # type: ignore
    keeping += [block.register_forward_hook(lambda module, args, out: states.append(out.clone())) for block in blocks]  # type: ignore
    model(pixels, donor)
    for handle in keeping:
        handle.remove()

    def replaced(state: Tensor, layer: int, position: int) -> Tensor:
        state = state.clone()
        state[:, position] = states[layer][:, position]
        return state

    scores = np.empty((len(states), n_tokens), dtype=np.float64)
    for layer in range(len(states)):
        for position in range(n_tokens):
            if layer == 0:
                handle = blocks[
                    0
                ].register_forward_pre_hook(  # type: ignore[index, union-attr]
                    lambda module, args, p=position: (replaced(args[0], 0, p), *args[1:])
                )
            else:
                handle = blocks[layer - 1].register_forward_hook(  # type: ignore[index, union-attr]
                    lambda module, args, out, at=layer, p=position: replaced(out, at, p)
                )
            image, text, *_ = model(pixels, base)  # both normalised by the model
            handle.remove()
            scores[layer, position] = float(image[0].double() @ text[0].double())
    return scores


class NnsightPeers:
    """nnsight on the text tower alone.

    Rows padded to the context cost what they cost whoever wraps an open_clip model (its text transformer takes nothing
    shorter); trimmed rows grant the peer our tower's trimming as well.
    """

    def __init__(self, tower: TextTower) -> None:
        from nnsight import NNsight

        self.n_layers = tower.n_layers
        self.model: Any = NNsight(tower.twin())

    def _states(self, ids: Int[Tensor, "1 pos"]) -> list[Float[Tensor, "1 pos d_model"]]:
        """States of layers 0..L in an unpatched run."""
        import nnsight

        with self.model.trace(ids):
            states = nnsight.save([])
            for block in range(self.n_layers):
                states.append(self.model.blocks[block].hook_resid_pre.output.clone())
            states.append(self.model.blocks[self.n_layers - 1].hook_resid_post.output.clone())
        return list(states)

    @torch.no_grad()
    def one_trace_per_patch(
        self, base: Int[Tensor, "1 pos"], donor: Int[Tensor, "1 pos"], image: Tensor, n_tokens: int
    ) -> ScoreMap:
        """One nnsight trace for every (layer, token)."""
        import nnsight

        states = self._states(donor)
        scores = np.empty((self.n_layers + 1, n_tokens), dtype=np.float64)
        for layer in range(self.n_layers + 1):
            for position in range(n_tokens):
                with self.model.trace(base) as tracer:
                    if layer < self.n_layers:
                        self.model.blocks[layer].hook_resid_pre.output[:, position] = states[layer][:, position]
                    else:
                        self.model.blocks[layer - 1].hook_resid_post.output[:, position] = states[layer][:, position]
                    result = nnsight.save(tracer.result)
                scores[layer, position] = _cosines(result, image)[0]
        return scores

    @torch.no_grad()
    def batched_skip(
        self, base: Int[Tensor, "1 pos"], donor: Int[Tensor, "1 pos"], image: Tensor, n_tokens: int
    ) -> ScoreMap:
        """One nnsight trace for every layer: its positions are the rows of a batch, the blocks before it skipped."""
        import nnsight

        ids, rows = base.expand(n_tokens, -1), torch.arange(n_tokens)
        clean, states = self._states(base), self._states(donor)
        scores = np.empty((self.n_layers + 1, n_tokens), dtype=np.float64)
        for layer in range(self.n_layers + 1):
            n_skipped = min(layer, self.n_layers - 1)
            before = clean[n_skipped].expand(n_tokens, -1, -1).clone()
            with self.model.trace(ids) as tracer:
                for block in range(n_skipped):
                    self.model.blocks[block].skip(before)
                if layer < self.n_layers:
                    self.model.blocks[layer].hook_resid_pre.output[rows, rows] = states[layer][0, :n_tokens]
                else:
                    self.model.blocks[layer - 1].hook_resid_post.output[rows, rows] = states[layer][0, :n_tokens]
                result = nnsight.save(tracer.result)
            scores[layer] = _cosines(result, image)
        return scores


def _cosines(embeddings: Float[Tensor, "rows embed"], image: Float[Tensor, " embed"]) -> Float[np.ndarray, " rows"]:
    return (F.normalize(embeddings, dim=-1).double() @ image.double()).numpy()
