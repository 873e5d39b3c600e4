"""Other ways to trace caption pairs, written independently: compared with ours in time and result.

Each returns the score maps S[pair, l, p] = cos(image, text) with the donor's state of layer l (0 = embedding output) at
position p put into the base text's run, for every layer 0..L and every token. Nothing is shared with the package's
engine: clean and donor states come from runs of their own. All but the published algorithm run the text tower alone,
on rows padded to the context or trimmed, and take many pairs of one length at once.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tracescribe.patching import TextTower

ScoreMaps = Float[np.ndarray, "pair layer token"]
Ids = Int[Tensor, "pair pos"]
Images = Float[Tensor, "pair embed"]


@torch.no_grad()
def published(
    model: nn.Module,
    pixels: Float[Tensor, "1 3 height width"],
    base: Int[Tensor, "1 context"],
    donor: Int[Tensor, "1 context"],
    n_tokens: int,
) -> ScoreMaps:
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

    scores = np.empty((1, len(states), n_tokens), dtype=np.float64)
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
            scores[0, layer, position] = float(image[0].double() @ text[0].double())
    return scores


class NnsightPeers:
    """nnsight around the text tower."""

    def __init__(self, tower: TextTower) -> None:
        from nnsight import NNsight

        self.n_layers = tower.n_layers
        self.model: Any = NNsight(tower.twin())

    def _states(self, ids: Ids) -> list[Float[Tensor, "pair pos d_model"]]:
        """States of layers 0..L in an clean run."""
        import nnsight

        with self.model.trace(ids):
            states = nnsight.save([])
            for block in range(self.n_layers):
                states.append(self.model.blocks[block].hook_resid_pre.output.clone())
            states.append(self.model.blocks[self.n_layers - 1].hook_resid_post.output.clone())
        return list(states)

    @torch.no_grad()
    def one_trace_per_patch(self, base: Ids, donor: Ids, images: Images, n_tokens: int) -> ScoreMaps:
        """One nnsight trace for every (layer, token); the pairs are the rows of its batch."""
        import nnsight

        states = self._states(donor)
        scores = np.empty((len(base), self.n_layers + 1, n_tokens), dtype=np.float64)
        for layer in range(self.n_layers + 1):
            for position in range(n_tokens):
                with self.model.trace(base) as tracer:
                    if layer < self.n_layers:
                        self.model.blocks[layer].hook_resid_pre.output[:, position] = states[layer][:, position]
                    else:
                        self.model.blocks[layer - 1].hook_resid_post.output[:, position] = states[layer][:, position]
                    result = nnsight.save(tracer.result)
                scores[:, layer, position] = _cosines(result, images)
        return scores

    @torch.no_grad()
    def batched_skip(self, base: Ids, donor: Ids, images: Images, n_tokens: int) -> ScoreMaps:
        """One nnsight trace for every layer: pairs and positions are its rows, and the blocks before it are skipped."""
        import nnsight

        ids, images = (t.repeat_interleave(n_tokens, dim=0) for t in (base, images))
        rows, positions = torch.arange(len(ids)), torch.arange(n_tokens).repeat(len(base))
        clean, states = self._states(base), self._states(donor)
        scores = np.empty((len(base), self.n_layers + 1, n_tokens), dtype=np.float64)
        for layer in range(self.n_layers + 1):
            n_skipped = min(layer, self.n_layers - 1)
            before = clean[n_skipped].repeat_interleave(n_tokens, dim=0)
            state = states[layer][:, :n_tokens].flatten(0, 1)
            with self.model.trace(ids) as tracer:
                for block in range(n_skipped):
                    self.model.blocks[block].skip(before)
                if layer < self.n_layers:
                    self.model.blocks[layer].hook_resid_pre.output[rows, positions] = state
                else:
                    self.model.blocks[layer - 1].hook_resid_post.output[rows, positions] = state
                result = nnsight.save(tracer.result)
            scores[:, layer] = _cosines(result, images).reshape(-1, n_tokens)
        return scores


class LensPeer:
    """TransformerLens' ``generic_activation_patch`` on the tower that ``TextTower.to_transformer_lens`` gives.

    The function runs the model once for every (layer, token), with the pairs as the batch. Granted: fused attention,
    which the tower gives up for TransformerLens only so that attention patterns can be read: here they are not.
    """

    def __init__(self, tower: TextTower) -> None:
        self.model: Any = tower.to_transformer_lens()
        for block in self.model.blocks:
            block.attn.explicit = False

    @torch.no_grad()
    def __call__(self, base: Ids, donor: Ids, images: Images, n_tokens: int) -> ScoreMaps:
        import pandas as pd
        from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

        n_layers = self.model.cfg.n_layers
        sweeps = [("resid_pre", range(n_layers)), ("resid_post", [n_layers - 1])]  # layers 0..L-1, and L
        _, cache = self.model.run_with_cache(donor, names_filter=lambda name: "hook_resid_p" in name)
        values = [
            generic_activation_patch(
                self.model,
                base,
                cache,
                lambda embeddings: torch.from_numpy(_cosines(embeddings, images)),
                layer_pos_patch_setter,
                name,
                index_df=pd.DataFrame(
                    [(layer, p) for layer in layers for p in range(n_tokens)], columns=["layer", "pos"]
                ),
                reduce="none",
            ).values
            for name, layers in sweeps
        ]  # each [layer · pos, pair]
        return torch.cat(values).unflatten(0, (n_layers + 1, n_tokens)).permute(2, 0, 1).double().numpy()


class PyvenePeer:
    """pyvene's ``VanillaIntervention``: one pass for every layer, pairs and positions the rows of its batch.

    pyvene chooses a position for each row, takes activations that were collected before, and skips no block.
    """

    available = find_spec("pyvene") is not None

    def __init__(self, tower: TextTower) -> None:
        import pyvene

        class Model(nn.Module):
            """The tower as pyvene wants a model: with ``config`` and ``device``, called by keyword."""

            config: Any = None

            def __init__(self, tower: TextTower) -> None:
                super().__init__()
                self.tower, self.device = tower, tower.device

            def forward(self, input_ids: Ids) -> Float[Tensor, "pair embed"]:
                return self.tower(input_ids)

        model, last = Model(tower.twin()), tower.n_layers - 1
        points = [f"tower.blocks[{block}].hook_resid_pre.output" for block in range(tower.n_layers)]
        points.append(f"tower.blocks[{last}].hook_resid_post.output")

        def intervenable(*interventions: tuple[str, Any]) -> Any:
            """pyvene around the one model, at these points."""
            return pyvene.IntervenableModel(
                [{"component": point, "unit": "pos", "intervention": kind} for point, kind in interventions],
                model=model,
            )

        self.collect = intervenable(*((point, pyvene.CollectIntervention()) for point in points))
        self.swaps = [intervenable((point, pyvene.VanillaIntervention())) for point in points]

    @torch.no_grad()
    def __call__(self, base: Ids, donor: Ids, images: Images, n_tokens: int) -> ScoreMaps:
        everywhere = [[list(range(n_tokens))] * len(donor)] * len(self.swaps)
        (_, states), _ = self.collect({"input_ids": donor}, unit_locations={"base": everywhere})  # [pair, pos, d] each
        ids, images = (t.repeat_interleave(n_tokens, dim=0) for t in (base, images))
        where = [[[position] for position in range(n_tokens)] * len(base)]
        scores = np.empty((len(base), len(self.swaps), n_tokens), dtype=np.float64)
        for layer, swap in enumerate(self.swaps):
            _, embeddings = swap(
                {"input_ids": ids},
                unit_locations={"sources->base": (None, where)},
                source_representations=[states[layer].flatten(0, 1).unsqueeze(1)],
            )
            scores[:, layer] = _cosines(embeddings, images).reshape(-1, n_tokens)
        return scores


def _cosines(embeddings: Float[Tensor, "rows embed"], images: Images) -> Float[np.ndarray, " rows"]:
    return (F.normalize(embeddings, dim=-1).double() * images.double()).sum(dim=-1).numpy()
