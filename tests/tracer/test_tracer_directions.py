"""Directions: only the component of a state in their span is replaced, exactly, on both paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_hf_model, open_clip_model, source_blocks, source_encoder, word_tokenizer
from zoo.entry import Reading
from zoo.hooks import put_hook_at, recording
from zoo.open_clip_models import BERT_SITES, NATIVE_SITES

import tracescribe as ts
from tracescribe.errors import SiteError, TraceError

IMAGE = np.random.default_rng(0).normal(size=16)
PAIR = ts.Pair(correct="there is no large edema", foil="there is some big edema", image=IMAGE)
BASIS = np.random.default_rng(1).normal(size=(3, 32))
MODELS = {
    "causal": (open_clip_model, NATIVE_SITES),
    "cls": (open_clip_hf_model, BERT_SITES),
    "mean": (lambda: open_clip_hf_model(pooler="mean_pooler"), BERT_SITES),
}
TOLERANCE = 1e-5  # unit vectors of the same float32 passes in another order of summation; measured 4e-7


@pytest.mark.parametrize("site", ["resid", "mlp"])
@pytest.mark.parametrize("name", MODELS)
def test_each_cell_equals_plain_hooks_on_the_source_model(name: str, site: str) -> None:
    make, sites = MODELS[name]
    source = make()
    reading = Reading("", source_encoder, source_blocks, sites, WordTokenizer)
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"site": site, "directions": BASIS, "keep_embeddings": True, "floor": 0, "progress": False}
    fast, slow = (ts.trace(model, [PAIR], path=path, **options) for path in ("resume", "generic"))
    np.testing.assert_allclose(fast.embeddings, slow.embeddings, atol=TOLERANCE)
    q, _ = np.linalg.qr(BASIS.T)
    projection = torch.from_numpy(q @ q.T).float()
    base, foil = (model.text.tokenize([text]) for text in (PAIR.correct, PAIR.foil))
    first = int(fast.layers[0])
    with torch.no_grad():
        for layer in (first, 2, int(fast.layers[-1])):
            with recording(reading, source, layer, site) as kept:
                reading.embed(source, foil)
            for position in (1, 3, 6):

                def put(state: torch.Tensor, donor: torch.Tensor = kept[0], at: int = position) -> torch.Tensor:
                    state = state.clone()
                    ours, theirs = (side.movedim(reading.time_axis, 0) for side in (state, donor))
                    ours[at] = ours[at] + (theirs[at] - ours[at]) @ projection
                    return state

                handle = put_hook_at(reading, source, layer, site, put)
                expected = torch.nn.functional.normalize(reading.embed(source, base), dim=-1)[0].numpy()
                handle.remove()
                np.testing.assert_allclose(fast.embeddings[0, layer - first, position], expected, atol=TOLERANCE)


def test_all_directions_are_the_state_and_a_basis_is_its_span() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"floor": 0, "progress": False}
    whole = ts.trace(model, [PAIR], **options)
    every = ts.trace(model, [PAIR], directions=np.eye(32), **options)
    np.testing.assert_allclose(every.scores.patched, whole.scores.patched, atol=1e-5)
    some = ts.trace(model, [PAIR], directions=BASIS, **options)
    mixed = ts.trace(
        model, [PAIR], directions=np.array([[2, 1, 0], [0, -1, 3], [1, 1, 1], [3, 2, 1]]) @ BASIS, **options
    )
    np.testing.assert_allclose(some.scores.patched, mixed.scores.patched, atol=1e-5)
    assert np.abs(some.scores.patched - whole.scores.patched).max() > 0.01
    assert (some.effect()[0, :, :3] == 0).all()  # before the first difference
    assert some.provenance["directions"]["count"] == 3
    assert "in the span of 3 given directions only" in some.summary()


def test_the_cache_tells_directions_apart(tmp_path) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"floor": 0, "progress": False, "cache": tmp_path / "kept"}
    found = [ts.trace(model, [PAIR], directions=basis, **options) for basis in (None, BASIS, BASIS[:1], BASIS)]
    assert len({trace.scores.patched.tobytes() for trace in found}) == 3
    assert np.array_equal(found[1].scores.patched, found[3].scores.patched)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": np.ones((2, 31))}, "directions have shape"),
        ({"directions": np.ones(32)}, "directions must be"),
        ({"directions": np.full((1, 32), np.nan)}, "directions must be"),
        ({"directions": np.zeros((1, 32))}, "directions must be"),
        ({"directions": "pca"}, "directions must be"),
        ({"directions": []}, "directions must be"),
        ({"directions": BASIS, "site": "z"}, "at sites without heads"),
        ({"directions": BASIS, "window": 3}, "window=3"),
        ({"directions": BASIS, "method": "attribution"}, "has no meaning with method='attribution'"),
        ({"directions": BASIS, "method": "direct"}, "has no meaning with method='direct'"),
    ],
)
def test_what_cannot_be_replaced_is_refused(options: dict, message: str) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    with pytest.raises((TraceError, SiteError), match=message):
        ts.trace(model, [PAIR], floor=0, progress=False, **options)
