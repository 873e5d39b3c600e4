"""Cut attention equals masks set by plain hooks on the source model, in float64; what cannot change is exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import open_clip_hf_model, open_clip_model, source_blocks, source_encoder, transformers_model
from torch import Tensor, nn
from towers import tower_over
from zoo import entries
from zoo.hooks import put_hook

import tracescribe as ts
from tracescribe.errors import SiteError, TowerMismatchError
from tracescribe.patching import Column, KnockOutEngine, PatchingEngine, Sweep, site_named
from tracescribe.patching.resume import cut_sequences
from tracescribe.patching.resume.patched_sequences import PatchedSequences

# name: the source model, and the module of its blocks that takes the mask, with the mask's name
MODELS: dict[str, Any] = {
    "open_clip": (open_clip_model, "attn", "attn_mask"),
    "bidirectional argmax": (lambda: open_clip_model(custom=True, no_causal_mask=True), "attn", "attn_mask"),
    "transformers": (transformers_model, "self_attn", "attention_mask"),
    "BERT, mean over tokens": (lambda: open_clip_hf_model(pooler="mean_pooler"), "attention.self", "attention_mask"),
}
BASE, FOIL = "there is no large edema", "there is some large edema"
ROUNDING = 1e-12  # unit vectors in float64, of at most 3 blocks
HEADS = 2
EDGES = Sweep(site_named("edges"))


def doubled(name: str) -> tuple[nn.Module, str, str]:
    make, module, mask = MODELS[name]
    return copy.deepcopy(make()).double(), module, mask


def by_hooks(
    name: str, source: nn.Module, ids: Tensor, layers: range, edges: list[tuple[int, int]], head: int | None
) -> Tensor:
    """The source model's embedding with -inf added to the scores of edges (query, key), in blocks ``layers``."""
    _, path, argument = MODELS[name]
    context = ids.shape[1]
    cut = torch.zeros(HEADS, context, context, dtype=torch.float64)
    for query, key in edges:
        cut[slice(None) if head is None else head, query, key] = -torch.inf
    fired = 0

    def mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal fired
        fired += 1
        known = kwargs.get(argument, args[1] if len(args) > 1 and argument == "attention_mask" else None)
        if known is not None and known.dtype == torch.bool:
            known = torch.zeros(known.shape, dtype=torch.float64).masked_fill(~known, -torch.inf)
        total = cut if known is None else cut + known.clamp_min(-1e300)
        if argument == "attention_mask":  # [batch, head, query, key], of which transformers 5 cuts nothing off
            total = total.reshape(1, HEADS, context, context)
            causal = torch.full((context, context), -torch.inf, dtype=torch.float64).triu(1)
            total = total + causal if known is None and name == "transformers" else total
            args = args[:1]
        return args, kwargs | {argument: total}

    handles = [
        source_blocks(source)[at].get_submodule(path).register_forward_pre_hook(mask, with_kwargs=True) for at in layers
    ]
    try:
        with torch.no_grad():
            found = nn.functional.normalize(source_encoder(source, ids), dim=-1)[0]
    finally:
        for handle in handles:
            handle.remove()
    assert fired == len(layers)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_cut_edges_equal_masks_by_plain_hooks_on_the_source_model(name: str) -> None:
    source, *_ = doubled(name)
    tower = tower_over(source)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    ids, end = tower.tokenize([BASE]), len(base) - 1
    engine = KnockOutEngine(tower)
    for head in (None, 1):
        columns = [
            Column((3,), head, (end,)),
            Column((0,), head, (4,)),
            Column((3, 4), head, (end - 1, end)),
            Column((2,), head, (2,)),  # a token's attention to itself
            Column((0, 1), head, tuple(range(2, end + 1))),
        ]
        for window in (1, 2):
            sweep = Sweep(site_named("edges"), window)
            found = {
                path: engine.patch([base], [foil], sweep=sweep, columns=[columns], path=path, checks=4)
                for path in ("resume", "generic")
            }
            assert [one.path for one in found.values()] == ["resume", "generic"]
            for at in range(tower.n_layers):
                for number, column in enumerate(columns):
                    edges = [(query, key) for query in column.queries or () for key in column.positions]
                    expected = by_hooks(name, source, ids, sweep.layers(at, tower.n_layers), edges, head)
                    for one in found.values():
                        assert float((one.patched[0, at, number] - expected).abs().max()) <= ROUNDING
            assert float((found["resume"].patched - found["resume"].base[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_what_a_cut_cannot_change_is_the_base_run(name: str) -> None:
    source, *_ = doubled(name)
    tower = tower_over(source)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    end = len(base) - 1
    everything = tuple(range(len(base)))
    columns = [
        Column((4,), None, (2,)),  # in a causal tower token 2 does not see token 4
        Column(everything, None, (0,)),  # of which it sees itself alone
        Column((0,), None, (2,)),
    ]
    found = KnockOutEngine(tower).patch([base], [foil], sweep=EDGES, columns=[columns])
    generic = KnockOutEngine(tower).patch([base], [foil], sweep=EDGES, columns=[columns], path="generic")
    assert float((found.patched - generic.patched).abs().max()) <= ROUNDING
    moved = (found.patched[0] - found.base[0]).abs().amax(dim=-1)  # layer, column
    if tower.causal:
        assert (moved[:, :2] == 0).all()
    else:
        assert (moved[:-1, :2] > 1e-6).all()
    if tower.spec.reads_one:  # the last block's attention counts where it is read
        assert moved[-1, 2] == 0
    assert (moved[:-1, 2] > 1e-6).all()
    assert float((found.donor[0] - KnockOutEngine(tower).encode([foil])[0]).abs().max()) <= ROUNDING
    assert end not in (0, 2, 4)


def test_a_query_that_may_read_nothing_else_passes_its_own_value_on() -> None:
    """Cutting all keys leaves a token its own: attention's output is the projection of its own value."""
    source, *_ = doubled("open_clip")
    tower = tower_over(source)
    [base], [foil] = tower.rows([BASE]), tower.rows([FOIL])
    ids, end, layer = tower.tokenize([BASE]), len(base) - 1, 1
    block = source_blocks(source)[layer]
    seen: list[Tensor] = []

    def keep(state: Tensor) -> Tensor:
        seen.append(state)
        return state

    def alone(output: Tensor) -> Tensor:
        attn, output = block.attn, output.clone()
        value = nn.functional.linear(seen[0][0, end], attn.in_proj_weight[-32:], attn.in_proj_bias[-32:])
        output[0, end] = attn.out_proj(value)
        return output

    handles = [put_hook(block.ln_1, "out", keep), put_hook(block.attn, "out", alone)]
    with torch.no_grad():
        expected = nn.functional.normalize(source_encoder(source, ids), dim=-1)[0]
    for handle in handles:
        handle.remove()
    column = Column(tuple(range(len(base))), None, (end,))
    found = KnockOutEngine(tower).patch([base], [foil], sweep=EDGES, columns=[[column]])
    assert float((found.patched[0, layer, 0] - expected).abs().max()) <= ROUNDING


def test_a_cut_that_does_not_happen_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = tower_over(open_clip_model())
    rows = tower.rows([BASE]), tower.rows([FOIL])
    columns = [[Column((key,), None, (6,)) for key in range(7)]]
    monkeypatch.setattr(cut_sequences.CutSequences, "mask_of", PatchedSequences.mask_of)
    with pytest.raises(TowerMismatchError, match="self-check failed"):
        KnockOutEngine(tower).patch(*rows, sweep=EDGES, columns=columns, checks=20)


def test_columns_that_mean_nothing_are_refused() -> None:
    tower = tower_over(open_clip_model())
    rows = tower.rows([BASE]), tower.rows([FOIL])
    edge = [[Column((1,), None, (2,))]]
    with pytest.raises(SiteError, match="cut, not replaced"):
        PatchingEngine(tower).prepare(*rows, sweep=EDGES, columns=edge)
    with pytest.raises(SiteError, match="site 'edges', not at 'z'"):
        KnockOutEngine(tower).prepare(*rows, sweep=Sweep(site_named("z")))
    with pytest.raises(SiteError, match="queries belong to the columns of site 'edges'"):
        KnockOutEngine(tower).prepare(*rows, sweep=EDGES, columns=[[Column((1,))]])
    with pytest.raises(SiteError, match="queries belong to the columns of site 'edges'"):
        PatchingEngine(tower).prepare(*rows, columns=edge)
    with pytest.raises(SiteError, match=r"no position \[9\]"):
        KnockOutEngine(tower).prepare(*rows, sweep=EDGES, columns=[[Column((1,), None, (9,))]])
    with pytest.raises(SiteError, match="no head 2"):
        KnockOutEngine(tower).prepare(*rows, sweep=EDGES, columns=[[Column((1,), 2, (3,))]])


@pytest.mark.parametrize("name", ["open_clip:mt5-base-ViT-B-32", "ModernBERT, cls_last_hidden_state_pooler, mlp"])
def test_positions_inside_attention_go_with_the_cut(name: str) -> None:
    """Biases by distance, and rotated queries and keys with local windows: resumed and full passes agree."""
    entry = next(entry for entry in entries() if name in entry.name)
    tower = ts.wrap(entry.build(0).double(), tokenizer=entry.tokenizer).text
    rows = tower.rows(["there is no edema."]), tower.rows(["there is severe edema."])
    last = len(rows[0][0]) - 1
    columns = [[Column((2,), 1, (0,)), Column((0, 3), 1, (2, last)), Column((last,), 1, (1,))]]
    found = [
        KnockOutEngine(tower).patch(*rows, sweep=Sweep(site_named("edges"), 2), columns=columns, path=path).patched
        for path in ("resume", "generic")
    ]
    assert float((found[0] - found[1]).abs().max()) <= 1e-6  # rotations are computed in single precision


def test_many_pairs_of_different_lengths_share_a_pass() -> None:
    tower = tower_over(open_clip_model())
    texts = [(BASE, FOIL), ("a mass", "no mass"), ("a small nodule", "a large nodule")]
    base, foil = tower.rows([one for one, _ in texts]), tower.rows([other for _, other in texts])
    columns = [[Column((key,), None, (len(row) - 1,)) for key in range(len(row))] for row in base]
    together = KnockOutEngine(tower).patch(base, foil, sweep=EDGES, columns=columns, memory=2**16)
    for i in range(len(texts)):
        alone = KnockOutEngine(tower).patch([base[i]], [foil[i]], sweep=EDGES, columns=[columns[i]])
        here = together.patched[i, :, : len(base[i])]
        assert float((here - alone.patched[0]).abs().max()) < 2e-6  # float32, another order of rows
        assert np.isnan(together.patched[i, :, len(base[i]) :].numpy()).all()
