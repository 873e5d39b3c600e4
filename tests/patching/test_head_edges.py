"""Edges between heads: three plain passes with hooks agree, and so does the formula on the source model's weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import (
    chinese_clip_model,
    open_clip_hf_model,
    open_clip_model,
    siglip_model,
    source_blocks,
    source_encoder,
    transformers_model,
)
from torch import Tensor, nn
from towers import rows_for, tower_over
from zoo.hooks import put_hook

from tracescribe.errors import SiteError, TowerMismatchError
from tracescribe.patching import HeadEdgeEngine, TextTower
from tracescribe.patching.engine import head_edges as engines

ROUNDING = 1e-12  # unit vectors in float64, of at most 3 blocks
MODELS: dict[str, Any] = {
    "open_clip": open_clip_model,
    "LayerScale": lambda: open_clip_model(ls_init_value=0.5),
    "transformers": transformers_model,
    "SigLIP, bidirectional": siglip_model,
    "ChineseCLIP, post-norm": chinese_clip_model,
    "BERT, mean over tokens": lambda: open_clip_hf_model(pooler="mean_pooler"),
}
BASE, FOIL = [62, 5, 6, 7, 8, 63], [62, 5, 40, 7, 41, 63]
HELD = ("hook_attn_out", "hook_mlp_out")


def tower_of(name: str) -> TextTower:
    return tower_over(copy.deepcopy(MODELS[name]()).double())


def by_hooks(
    tower: TextTower, base: list[int], donor: list[int], edge: tuple[int, int, int, int], inputs: str
) -> Tensor:
    """The definition in three passes of plain hooks: what the receiver would read, and a run in which it reads that."""
    sender, head, receiver, other = edge
    twin = tower.twin()
    points = [f"attn.hook_{name}" for name in "qkvz"] + list(HELD)
    kept: dict[tuple[str, int, str], Tensor] = {}

    def run(row: list[int], name: str, change: Any) -> Tensor:
        handles = []
        for number in range(twin.n_layers):
            for point in points:

                def fire(module: nn.Module, args: Any, output: Tensor, number: int = number, point: str = point) -> Any:
                    output = change(number, point, output.clone())
                    kept[name, number, point] = output
                    return output

                handles.append(twin.blocks[number].get_submodule(point).register_forward_hook(fire))
        try:
            with torch.no_grad():
                return nn.functional.normalize(twin(torch.tensor([row])), dim=-1)[0]
        finally:
            for handle in handles:
                handle.remove()

    def sent(number: int, point: str, output: Tensor) -> Tensor:
        if (number, point) == (sender, "attn.hook_z"):
            output[:, :, head] = kept["donor", number, point][:, :, head]
        elif point in HELD and sender <= number < receiver and (number, point) != (sender, "hook_attn_out"):
            return kept["base", number, point]
        return output

    def received(number: int, point: str, output: Tensor) -> Tensor:
        if number == receiver and point[-1] in inputs and point[:-1] == "attn.hook_":
            output[:, :, other] = kept["sent", number, point][:, :, other]
        return output

    run(base, "base", lambda number, point, output: output)
    run(donor, "donor", lambda number, point, output: output)
    run(base, "sent", sent)
    return run(base, "received", received)


@pytest.mark.parametrize("name", MODELS)
def test_edges_are_what_three_passes_of_plain_hooks_give(name: str) -> None:
    tower = tower_of(name)
    base, donor = rows_for(tower, BASE, FOIL)
    rng = np.random.default_rng(0)
    edges = engines.all_edges(tower.n_layers, tower.n_heads or 1)
    for inputs in ("qkv", "q", "v"):
        found = {}
        for path in ("auto", "generic"):
            [(number, one)] = HeadEdgeEngine(tower).between_heads([base], [donor], inputs=inputs, path=path, checks=5)
            assert number == 0 and one.path == ("resume" if path == "auto" else "generic")
            found[path] = one.patched
        assert torch.equal(torch.isnan(found["auto"]), torch.isnan(found["generic"]))
        assert int(torch.isfinite(found["auto"][..., 0]).sum()) == len(edges)
        assert float((found["auto"] - found["generic"]).nan_to_num().abs().max()) <= ROUNDING
        for pick in rng.permutation(len(edges))[:4].tolist():
            expected = by_hooks(tower, base, donor, edges[pick], inputs)
            assert float((found["auto"][edges[pick]] - expected).abs().max()) <= ROUNDING
        assert float((found["auto"] - one.base).nan_to_num().abs().max()) > 1e-5


def test_the_formula_on_the_source_models_own_weights() -> None:
    """Pre-norm: the sender adds W_O (z' - z) to the receiver's input, from which its q, k, v and softmax follow."""
    source = copy.deepcopy(open_clip_model()).double()
    tower = tower_over(source)
    [base], [foil] = tower.rows(["there is no large edema"]), tower.rows(["there is some large edema"])
    ids = [tower.tokenize([text]) for text in ("there is no large edema", "there is some large edema")]
    blocks, size, context = source_blocks(source), 16, ids[0].shape[1]
    (sender, head), (receiver, other) = (0, 1), (2, 0)
    of = [slice(number * size, (number + 1) * size) for number in (head, other)]

    def inputs(row: Tensor) -> dict[int, Tensor]:
        """What each block takes."""
        seen: dict[int, Tensor] = {}
        handles = [
            put_hook(block, "in", lambda state, at=at: seen.setdefault(at, state)) for at, block in enumerate(blocks)
        ]
        with torch.no_grad():
            source_encoder(source, row)
        for handle in handles:
            handle.remove()
        return seen

    def output(block: Any, x: Tensor, part: slice) -> Tensor:
        """One head's output before the projection, by hand."""
        normed, weight, bias = block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias
        q, k, v = (
            nn.functional.linear(normed, w[part], b[part]) for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
        )
        scores = q @ k.mT / size**0.5 + torch.full((context, context), -torch.inf, dtype=torch.float64).triu(1)
        return scores.softmax(dim=-1) @ v

    with torch.no_grad():
        ours, theirs = inputs(ids[0]), inputs(ids[1])
        change = output(blocks[sender], theirs[sender], of[0]) - output(blocks[sender], ours[sender], of[0])
        arriving = ours[receiver] + change @ blocks[sender].attn.out_proj.weight[:, of[0]].T
        moved = output(blocks[receiver], arriving, of[1]) - output(blocks[receiver], ours[receiver], of[1])
        written = moved @ blocks[receiver].attn.out_proj.weight[:, of[1]].T
        handle = put_hook(blocks[receiver].attn, "out", lambda state: state + written)
        expected = nn.functional.normalize(source_encoder(source, ids[0]), dim=-1)[0]
        handle.remove()
    [(_, found)] = HeadEdgeEngine(tower).between_heads([base], [foil])
    assert float((found.patched[sender, head, receiver, other] - expected).abs().max()) <= ROUNDING
    assert float((expected - found.base).abs().max()) > 1e-5


def test_equal_captions_send_nothing_and_a_shard_is_its_pairs() -> None:
    tower = tower_of("open_clip")
    base = [BASE, [62, 9, 63], [62, 9, 8, 7, 6, 63]]
    donor = [FOIL, [62, 40, 63], [62, 9, 8, 7, 6, 63]]
    engine = HeadEdgeEngine(tower)
    together = dict(engine.between_heads(base, donor))
    for number in range(3):
        [(_, alone)] = engine.between_heads([base[number]], [donor[number]], batch_size=1)
        torch.testing.assert_close(together[number].patched, alone.patched, atol=ROUNDING, rtol=0, equal_nan=True)
    same = together[2]
    assert float((same.patched - same.base).nan_to_num().abs().max()) <= ROUNDING


def test_what_is_wrong_is_caught_and_what_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tower_of("open_clip")
    engine = HeadEdgeEngine(tower)
    with pytest.raises(SiteError, match="inputs are 'q', 'k' and 'v'"):
        list(engine.between_heads([BASE], [FOIL], inputs="z"))
    one_block = HeadEdgeEngine(tower_over(open_clip_model(layers=1)))
    with pytest.raises(SiteError, match="a single block"):
        list(one_block.between_heads([BASE], [FOIL]))
    opaque = tower_over(open_clip_model(custom=True, qk_norm=True))
    with pytest.raises(SiteError, match="not taken apart"):
        list(HeadEdgeEngine(opaque).between_heads([BASE], [FOIL]))
    real = engines.run_passes
    monkeypatch.setattr(engines, "run_passes", lambda *given: [part.flip(-1) for part in real(*given)])
    with pytest.raises(TowerMismatchError, match="self-check failed for the edge"):
        list(engine.between_heads([BASE], [FOIL]))
