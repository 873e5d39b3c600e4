"""Zero, mean and resample ablation equal plain hooks on the source model, on the fast path and on the generic one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_hf_model, open_clip_model, source_blocks, source_encoder, word_tokenizer
from zoo.hooks import Reading, put_hook_at, recording
from zoo.open_clip_models import BERT_SITES, NATIVE_SITES

import tracescribe as ts
from tracescribe.errors import TraceError

TEXTS = [("there is no large edema", "there is some large edema"), ("a small nodule", "no small nodule")]
POOL = ["there is a big effusion", "this was no old device", "that is the edema", "one left nodule", "some right lung"]
IMAGE = np.random.default_rng(0).normal(size=16)
MODELS = {
    "causal": (open_clip_model, NATIVE_SITES),
    "cls": (open_clip_hf_model, BERT_SITES),
    "mean": (lambda: open_clip_hf_model(pooler="mean_pooler"), BERT_SITES),
}
# Unit vectors of the same float32 passes in another order of summation; measured 4e-7.
TOLERANCE = 1e-5


def pairs() -> list[ts.Pair]:
    return [ts.Pair(correct=correct, foil=foil, image=IMAGE) for correct, foil in TEXTS]


def by_hooks(source, reading: Reading, ids: torch.Tensor, layer: int, position: int, site: str, states) -> torch.Tensor:
    """The source model's own embedding with one state overwritten."""

    def put(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        rows = state.movedim(reading.time_axis, 0)
        rows[position] = states.movedim(reading.time_axis, 0)[position]
        return state

    handle = put_hook_at(reading, source, layer, site, put)
    try:
        return torch.nn.functional.normalize(reading.embed(source, ids), dim=-1)[0]
    finally:
        handle.remove()


def recorded(source, reading: Reading, ids: torch.Tensor, layer: int, site: str) -> torch.Tensor:
    with recording(reading, source, layer, site) as kept:
        reading.embed(source, ids)
    return kept[0]


@pytest.mark.parametrize("site", ["resid", "mlp"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("replace", ["zero", "mean", "resample"])
def test_each_cell_equals_plain_hooks_on_the_source_model(name: str, replace: str, site: str) -> None:
    make, sites = MODELS[name]
    source = make()
    reading = Reading("", source_encoder, source_blocks, sites, WordTokenizer)
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"replace": replace, "site": site, "progress": False, "keep_embeddings": True, "floor": 0}
    if replace != "zero":
        options["pool"] = POOL
    if replace == "resample":
        options["donors"] = 2
    trace = ts.trace(model, pairs(), **options)
    generic = ts.trace(model, pairs(), **options, path="generic")
    assert trace.provenance["path"] == "resume" and generic.provenance["path"] == "generic"
    inside = trace.inside[:, None, :, None] & np.ones_like(trace.embeddings, dtype=bool)
    np.testing.assert_allclose(trace.embeddings[inside], generic.embeddings[inside], atol=TOLERANCE)
    first = int(trace.layers[0])
    with torch.no_grad():
        for number, (correct, _) in enumerate(TEXTS):
            base = model.text.tokenize([correct])
            length = len(trace.tokens[number])
            pool = [text for text in POOL if len(model.text.token_ids(text)) == length]
            assert len(pool) == 2
            for layer in (first, 2, int(trace.layers[-1])):
                donors = [recorded(source, reading, model.text.tokenize([text]), layer, site) for text in pool]
                for position in (0, 2, length - 1):
                    found = torch.from_numpy(np.array(trace.embeddings[number, layer - first, position]))
                    if replace == "zero":
                        wanted = [by_hooks(source, reading, base, layer, position, site, 0 * donors[0])]
                    elif replace == "mean":
                        mean = torch.stack(donors).mean(dim=0)
                        wanted = [by_hooks(source, reading, base, layer, position, site, mean)]
                    else:
                        wanted = [by_hooks(source, reading, base, layer, position, site, donor) for donor in donors]
                    assert float((sum(wanted) / len(wanted) - found).abs().max()) < TOLERANCE


def test_scores_stay_those_of_the_pair_and_known_cells_are_exact() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    foil = ts.trace(model, pairs(), progress=False, floor=0)
    for replace in ("zero", "mean", "resample"):
        trace = ts.trace(model, pairs(), replace=replace, pool=POOL if replace != "zero" else None,
                         progress=False, floor=0)  # fmt: skip
        for side in ("correct", "foil"):
            np.testing.assert_allclose(getattr(trace.scores, side), getattr(foil.scores, side), atol=1e-6)
        at = 1  # the second pair: its first token differs, and no token stands before it but [SOT]
        end = len(trace.tokens[at]) - 1
        assert (trace.effect()[at, -1, :end] == 0).all()  # the last layer is read at [EOT] only
        if replace != "resample":
            assert np.abs(trace.effect()[at, 1:-1, 0]).min() > 0  # positions before the difference count now
        assert trace.provenance["replace"] == replace
        assert f"replaced by {replace} ablation" in trace.summary()


def test_what_is_drawn_depends_on_the_pair_and_the_seed_alone(tmp_path) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"replace": "resample", "pool": POOL, "progress": False, "floor": 0}
    both, alone = (ts.trace(model, some, **options) for some in (pairs(), pairs()[1:]))
    np.testing.assert_allclose(both.scores.patched[1, :, :5], alone.scores.patched[0], atol=1e-6)
    seeds = [ts.trace(model, pairs()[1:], seed=seed, **options).scores.patched for seed in range(6)]
    assert len({round(float(scores[0, 1, 1]), 5) for scores in seeds}) == 2  # two captions fit this pair
    every = ts.trace(model, pairs()[1:], donors=2, **options).scores.patched
    halves = {round(float(scores[0, 1, 1]), 5): scores for scores in seeds}.values()
    np.testing.assert_allclose(every, sum(halves) / 2, atol=1e-6)  # the mean over both
    kept = ts.trace(model, pairs(), **options, donors=2, batch_size=1, cache=tmp_path / "kept")
    again = ts.trace(model, pairs(), **options, donors=2, batch_size=1, cache=tmp_path / "kept")
    assert np.array_equal(kept.scores.patched, again.scores.patched, equal_nan=True)


def test_the_cache_tells_replacements_and_pools_apart(tmp_path) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    options = {"progress": False, "floor": 0, "cache": tmp_path / "kept"}
    kinds = [{}, {"replace": "zero"}, {"replace": "mean", "pool": POOL}, {"replace": "mean", "pool": POOL[:4]}]
    first = [ts.trace(model, pairs(), **options, **kind).scores.patched for kind in kinds]
    fresh = [ts.trace(model, pairs(), progress=False, floor=0, **kind).scores.patched for kind in kinds]
    for a, b in zip(first, fresh, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert len({scores.tobytes() for scores in first}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replace": "nothing"}, "unknown replace 'nothing'"),
        ({"pool": POOL}, "pool=.* has no meaning with replace='foil'"),
        ({"replace": "mean", "pool": []}, "pool must be None or a list of captions"),
        ({"replace": "mean", "pool": "one caption"}, "pool must be None or a list of captions"),
        ({"replace": "mean", "pool": [1.0]}, "pool must be None or a list of captions"),
        ({"replace": "zero", "donors": 2}, "donors= has no meaning"),
        ({"replace": "zero", "align": "auto"}, "align='auto' has no meaning with replace='zero'"),
        ({"replace": "mean", "method": "attribution"}, "replace='mean' has no meaning with method='attribution'"),
        ({"replace": "mean", "pool": ["edema"]}, "pair '0': the pool has no captions of as many tokens"),
        ({"replace": "resample", "pool": POOL, "donors": 3}, "pair '0': the pool has 2 captions .* donors=3"),
        ({"replace": "resample", "pool": list(TEXTS[0])}, "pair '0': the pool has no captions"),
    ],
)
def test_what_cannot_be_replaced_is_refused(options: dict, message: str) -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    with pytest.raises(TraceError, match=message):
        ts.trace(model, pairs(), progress=False, floor=0, **options)


def test_heads_and_direct_effects_take_other_replacements() -> None:
    source = open_clip_model()
    model = ts.wrap(source, tokenizer=word_tokenizer(source), name="tiny")
    for site in ("z", "k", "pattern"):
        fast, slow = (
            ts.trace(model, pairs(), site=site, heads="each", replace="zero", path=path, progress=False, floor=0)
            for path in ("auto", "generic")
        )
        np.testing.assert_allclose(fast.scores.patched, slow.scores.patched, atol=TOLERANCE)
    direct = ts.trace(model, pairs(), method="direct", replace="zero", progress=False, floor=0)
    assert (np.isfinite(direct.scores.patched) == np.broadcast_to(direct.inside[:, None, :], direct.cte.shape)).all()
