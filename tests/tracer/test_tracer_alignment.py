"""Captions of different lengths: the alignment itself, what is put where, and that the result says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bounds import S_ERROR, assert_same_cte
from hypothesis import given
from hypothesis import strategies as st
from models import open_clip_hf_model, open_clip_model, siglip_model, transformers_model, word_tokenizer
from torch import nn

import tracescribe as ts
from tracescribe.errors import LengthMismatchError
from tracescribe.patching import TextTower, align_rows

IMAGE = np.random.default_rng(0).normal(size=16)
UNEQUAL = {"correct": "there is no edema today", "foil": "there is some quite severe edema"}
LONGER = {"correct": "there is some quite severe edema", "foil": "there is edema"}
FAMILIES = {
    "open_clip": open_clip_model,
    "transformers": transformers_model,
    "BERT, CLS": open_clip_hf_model,
    "bidirectional last": lambda: open_clip_model(custom=True, no_causal_mask=True, pool_type="last"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> ts.DualEncoder:
    source = FAMILIES[request.param]()
    return ts.wrap(source, tokenizer=word_tokenizer(source))


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_an_alignment_is_one_to_one_in_order_and_keeps_both_ends(base: list[int], donor: list[int]) -> None:
    rows = [8, *base, 9], [8, *donor, 9]
    found = align_rows(*rows)
    matched = [(at, source) for at, source in enumerate(found.sources) if source >= 0]
    assert [source for _, source in matched] == sorted({source for _, source in matched})
    assert found.sources[0] == 0 and found.sources[-1] == len(rows[1]) - 1
    kept = align_rows(*rows, policy="keep")
    assert kept.sources == found.sources
    if kept.donor_positions is not None:
        assert all(kept.donor_positions[source] == at for at, source in matched)
        assert list(kept.donor_positions) == sorted(kept.donor_positions)


def cell_by_hand(
    tower: TextTower, base: list[int], donor: list[int], layer: int, at: int, policy: str
) -> torch.Tensor | None:
    """One aligned patch with plain operations: the donor's state is computed and written by this function."""
    lengths = (base.index(63) + 1, donor.index(63) + 1)
    alignment = align_rows(base, donor, policy, lengths)  # type: ignore[arg-type]
    source = alignment.sources[at]
    if source < 0:
        return None
    ids, others = torch.tensor([base]), torch.tensor([donor])
    places = None if alignment.donor_positions is None else torch.tensor([alignment.donor_positions])

    def blocks(x: torch.Tensor, mask: torch.Tensor | None, first: int, last: int) -> torch.Tensor:
        for block in tower.blocks[first:last]:
            x = block(x, mask)
        return x

    with torch.no_grad():
        theirs = blocks(tower.embed(others, places), tower.attention_mask(others), 0, layer)
        x = blocks(tower.embed(ids), tower.attention_mask(ids), 0, layer).clone()
        x[0, at] = theirs[0, source]
        x = blocks(x, tower.attention_mask(ids), layer, tower.n_layers)
        return nn.functional.normalize(tower.read(x, tower.pooled_positions(ids)), dim=-1)[0]


@pytest.mark.parametrize("policy", ["shift", "keep"])
@pytest.mark.parametrize("direction", ["foil->correct", "correct->foil"])
def test_aligned_cells_are_the_donors_states_at_their_counterparts(
    model: ts.DualEncoder, policy: str, direction: str
) -> None:
    for captions in (UNEQUAL, LONGER):
        pair = ts.Pair(**captions, image=IMAGE)
        options = {"align": "auto", "position_policy": policy, "direction": direction, "floor": 0, "progress": False}
        trace = ts.trace(model, [pair], **options)  # type: ignore[arg-type]
        whole = ts.trace(model, [pair], path="generic", **options)  # type: ignore[arg-type]
        np.testing.assert_allclose(trace.scores.patched, whole.scores.patched, atol=S_ERROR)
        assert trace.provenance["aligned"] == policy
        base, donor = model.text.rows([pair.correct, pair.foil])
        if direction == "correct->foil":
            base, donor = donor, base
        assert len(trace.tokens[0]) == len(trace.foil_tokens[0]) == len(base)
        assert trace.embeddings is not None
        for layer in range(model.text.n_layers + 1):
            for at in range(len(base)):
                expected = cell_by_hand(model.text, base, donor, layer, at, policy)
                cell = trace.embeddings[0, layer, at]
                if expected is None:
                    assert np.isnan(cell).all() and not trace.inside[0, at]
                else:
                    np.testing.assert_allclose(cell, expected.numpy(), atol=2e-5)


def test_shifted_states_keep_what_holds_by_construction() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=word_tokenizer(open_clip_model()))
    trace = ts.trace(model, [ts.Pair(**LONGER, image=IMAGE)], align="auto", floor=0)
    assert trace.cte[0, -1, -1] == 1  # the last state of [EOT] is all that is read
    assert (trace.cte[0, :, :3] == 0).all()  # [SOT] there is: equal in both captions
    assert (trace.kinds[0] == ts.tracer.TokenKind.UNMATCHED).sum() == 3
    assert trace.map().values.shape[0] == 4 and np.isfinite(trace.per_layer(ci=None).value).all()
    assert "aligned" in trace.summary()


def test_equal_lengths_are_aligned_place_by_place(model: ts.DualEncoder) -> None:
    pair = ts.Pair(correct="there is no edema", foil="no edema is there", image=IMAGE)
    plain, aligned = (ts.trace(model, [pair], align=align, floor=0) for align in ("none", "auto"))  # type: ignore
    assert_same_cte(aligned.cte, plain)


def test_padding_that_is_attended_to_stays_in_its_place() -> None:
    source = siglip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source))
    image = np.random.default_rng(0).normal(size=model.embed_dim)
    trace = ts.trace(model, [ts.Pair(**UNEQUAL, image=image)], align="auto", floor=0)
    assert trace.cte.shape[2] == model.text.context_length
    unmatched = np.flatnonzero(trace.kinds[0] == ts.tracer.TokenKind.UNMATCHED)
    assert len(unmatched) == 2  # "today", and one padding place that a token of the foil takes
    assert trace.cte[0, -1, -1] == 1


def test_unequal_lengths_are_an_error_by_default(model: ts.DualEncoder) -> None:
    with pytest.raises(LengthMismatchError, match="align='auto'"):
        ts.trace(model, [ts.Pair(**UNEQUAL, image=IMAGE)])
