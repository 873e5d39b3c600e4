"""Other scores than the cosine: each equals an independent computation on the source model, and its own invariants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import synthetic_trace
from models import WordTokenizer, open_clip_model, patched_by_hooks, source_encoder
from torch import Tensor

import tracescribe as ts
from tracescribe.errors import DataFormatError, DegenerateTraceError, NonFiniteError, TraceError
from tracescribe.tracer import register_metric
from tracescribe.tracer.choices import METRIC_NAMES
from tracescribe.tracer.results.metrics import METRICS

NO, SOME = "there is no edema", "there is some edema"
POOL = ["there is no edema", "there is some edema", "mild edema", "no effusion", "severe nodule is there"]
POOL += [f"{what} {where}" for what in ("large mass", "no device", "some") for where in ("left", "right lung", "here")]
TOKENIZER = WordTokenizer()
AMONG = ("margin", "log_probability", "probability", "rank")
SCALE = 20.0


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(), tokenizer=TOKENIZER, name="tiny")


def image_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=16).astype(np.float32)


IMAGES = np.random.default_rng(7).normal(size=(40, 16)).astype(np.float32)  # of all directions, so that ranks change


def pair(seed: int = 0, correct: str = NO, foil: str = SOME, **fields: Any) -> ts.Pair:
    return ts.Pair(correct=correct, foil=foil, image=image_of(seed), **fields)


def embedded(model: ts.DualEncoder, texts: list[str]) -> Tensor:
    """By the source model itself."""
    ids = TOKENIZER.rows(texts, 12)
    with torch.no_grad():
        return torch.nn.functional.normalize(source_encoder(model.source, ids).double(), dim=-1)


def by_hand(metric: str, text: Tensor, target: Tensor, others: Tensor, against: str) -> float:
    """S of one text by the definition in words: the others in a list, one by one."""
    own = float(text @ target)
    rivals = [float(other @ target) if against == "caption" else float(text @ other) for other in others]
    if metric == "margin":
        return own - max(rivals)
    if metric == "rank":
        return -(1 + sum((rival > own + 1e-6) + 0.5 * (abs(rival - own) <= 1e-6) for rival in rivals))
    among = torch.tensor([own, *rivals], dtype=torch.float64) * SCALE
    return float((torch.log_softmax if metric == "log_probability" else torch.softmax)(among, 0)[0])


def test_the_names_that_help_shows_are_those_of_the_metrics() -> None:
    built_in = [name for name, metric in METRICS.items() if metric.takes != "embeddings"]  # registered ones take these
    assert tuple(built_in) == METRIC_NAMES


@pytest.mark.parametrize("against", ["caption", "target"])
@pytest.mark.parametrize("metric", AMONG)
def test_a_score_among_candidates_is_that_of_plain_hooks_on_the_source_model(
    model: ts.DualEncoder, metric: str, against: str
) -> None:
    trace = ts.trace(
        model,
        [pair()],
        metric=metric,
        candidates=POOL if against == "caption" else IMAGES,
        against=against,
        logit_scale=None if metric in ("margin", "rank") else SCALE,
        floor=0,
        progress=False,
    )
    base, donor = (TOKENIZER.rows([text], 12) for text in (NO, SOME))
    target = torch.nn.functional.normalize(torch.from_numpy(image_of()).double(), dim=0)
    others = torch.nn.functional.normalize(torch.from_numpy(IMAGES).double(), dim=1)
    if against == "caption":
        others = embedded(model, POOL[1:])  # the correct caption stands in its own place
    bound = 1e-5 * SCALE  # float32 passes of a random tower: embeddings to some 1e-6
    for layer, token in ((0, 2), (1, 3), (2, 2), (3, len(trace.tokens[0]) - 1)):
        text = patched_by_hooks(model.source, base, donor, layer, [token]).double()
        expected = by_hand(metric, text, target, others, against)
        assert trace.scores.patched[0, layer, token] == pytest.approx(expected, abs=bound)
    for found, text in ((trace.scores.correct, NO), (trace.scores.foil, SOME)):
        expected = by_hand(metric, embedded(model, [text])[0], target, others, against)
        assert found[0] == pytest.approx(expected, abs=bound)
    told = trace.provenance["metric"]
    assert (told["name"], told["against"], told["candidates"]) == (
        metric,
        against,
        len(others) + (against == "caption"),
    )


def test_the_distance_is_that_of_the_embeddings(model: ts.DualEncoder) -> None:
    trace = ts.trace(model, [pair()], metric="distance", progress=False)
    target = torch.nn.functional.normalize(torch.from_numpy(image_of()).double(), dim=0)
    assert trace.scores.foil[0] == pytest.approx(-float((embedded(model, [SOME])[0] - target).norm()), abs=1e-5)


# invariants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(METRICS)[:6])
@pytest.mark.parametrize("direction", ["foil->correct", "correct->foil"])
def test_cells_that_are_a_clean_run_have_cte_exactly_0_or_1_by_every_metric(
    model: ts.DualEncoder, metric: str, direction: Any
) -> None:
    candidates = POOL if METRICS[metric].takes == "candidates" else None
    trace = ts.trace(
        model, [pair()], metric=metric, candidates=candidates, direction=direction, floor=1e-9, progress=False
    )
    first = int(np.flatnonzero(trace.differs[0])[0])
    assert (trace.cte[0, :, :first] == 0).all()
    assert trace.cte[0, 0, first] == 1  # one token differs
    assert trace.cte[0, -1, -1] == 1
    assert (trace.cte[0, -1, :-1] == 0).all()


def test_cte_of_the_margin_over_captions_is_that_of_the_cosine_whose_rivals_are_constant(
    model: ts.DualEncoder,
) -> None:
    pairs = [pair(seed, group=str(seed)) for seed in range(4)]
    cosine = ts.trace(model, pairs, progress=False)
    margin = cosine.rescore(metric="margin", candidates=POOL, model=model)
    assert not np.allclose(margin.scores.correct, cosine.scores.correct)
    # S is rounded to float32 at another place: 6e-8 of it, over a denominator
    bound = 4 * 2**-24 / np.abs(cosine.denominator).min() * (1 + np.nanmax(np.abs(cosine.cte)))
    np.testing.assert_allclose(margin.cte, cosine.cte, atol=bound, rtol=0)


def test_against_captions_probability_orders_the_cells_as_the_cosine_does(model: ts.DualEncoder) -> None:
    cosine = ts.trace(model, [pair()], progress=False)
    chance = cosine.rescore(metric="log_probability", candidates=POOL, model=model, logit_scale=5.0)
    a, b = (one.scores.patched[0][:, trace_tokens(one)].ravel() for one in (cosine, chance))
    order = np.argsort(a, kind="stable")
    assert (np.diff(b[order].astype(np.float64)) >= -1e-6).all()  # float32 rounding of values of order 1


def trace_tokens(trace: ts.CausalTrace) -> np.ndarray:
    return np.flatnonzero(trace.inside[0])


def test_without_candidates_the_foil_is_the_only_one(model: ts.DualEncoder) -> None:
    alone = ts.trace(model, [pair()], metric="probability", progress=False, floor=0)
    listed = ts.trace(model, [pair()], metric="probability", candidates=[SOME], progress=False, floor=0)
    np.testing.assert_allclose(alone.scores.patched, listed.scores.patched, atol=1e-5)
    assert alone.scores.foil[0] == 0.5  # the foil against itself
    assert "probability against the foil" in alone.summary()


def test_a_rank_that_no_foil_changes_has_no_cte_and_says_so(model: ts.DualEncoder) -> None:
    far = np.stack([-image_of(), -image_of() + 0.01])  # below every caption
    options: dict[str, Any] = {"metric": "rank", "candidates": far, "progress": False}
    with pytest.raises(DegenerateTraceError, match=r"the largest \|S_corr - S_foil\| \(rank\) is 0.0e\+00"):
        ts.trace(model, [pair()], **options)
    rescored = ts.trace(model, [pair()], progress=False).rescore(metric="rank", candidates=far)
    assert not rescored.valid.any() and np.isnan(rescored.cte).all()
    with pytest.raises(DegenerateTraceError, match="no CTE is defined"):
        rescored.map()


def test_ties_count_half_and_a_candidate_given_twice_once(model: ts.DualEncoder) -> None:
    tied = ts.trace(model, [pair()], metric="rank", candidates=[SOME, SOME, NO], progress=False)
    assert tied.scores.foil[0] == -1.5
    assert tied.scores.correct[0] in (-1, -2)


# the same score by every way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", AMONG)
@pytest.mark.parametrize("against", ["caption", "target"])
def test_lists_by_pair_a_shared_list_embeddings_and_rescoring_agree(
    model: ts.DualEncoder, metric: str, against: str, tmp_path: Path
) -> None:
    pairs = [pair(0, id="a"), pair(1, id="b"), pair(2, "mild effusion", "severe effusion", id="c")]
    options: dict[str, Any] = {"metric": metric, "against": against, "floor": 0, "progress": False}
    rows = model.encode_texts(POOL) if against == "caption" else torch.from_numpy(IMAGES)
    pool: Any = POOL if against == "caption" else IMAGES
    shared = ts.trace(model, pairs, candidates=pool, **options)
    file = tmp_path / "pool.txt"
    file.write_text("\n".join(["", *POOL, ""]), encoding="utf-8")
    ways = [[pool] * 3, dict.fromkeys("cba", pool), rows, 3 * rows.numpy(), np.stack([rows] * 3), rows.tolist()]
    ways += [str(file), file] if against == "caption" else []
    for candidates in ways:
        found = ts.trace(model, pairs, candidates=candidates, **options)
        np.testing.assert_allclose(found.scores.patched, shared.scores.patched, atol=1e-4)
        np.testing.assert_allclose(found.scores.correct, shared.scores.correct, atol=1e-4)
    plain = ts.trace(model, pairs, progress=False, floor=0)
    again = plain.rescore(metric=metric, candidates=pool, against=against, model=model)
    np.testing.assert_array_equal(again.scores.patched, shared.scores.patched)
    images = np.stack([image_of(seed) for seed in (0, 1, 2)])
    given = plain.rescore(images, metric=metric, candidates=pool, against=against, model=model)
    np.testing.assert_array_equal(given.scores.patched, shared.scores.patched)
    chosen = shared.select([2, 0])
    np.testing.assert_array_equal(chosen.rescore(metric=metric, candidates=pool, against=against, model=model)
                                  .scores.patched, chosen.scores.patched)  # fmt: skip


def test_many_candidates_in_parts_are_scored_as_all_at_once(
    model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = ts.trace(model, [pair(seed) for seed in range(5)], progress=False)
    rows = np.random.default_rng(3).normal(size=(300, 16))
    for against in ("caption", "target"):
        whole = trace.rescore(metric="log_probability", candidates=rows, against=against)
        with monkeypatch.context() as patch:
            patch.setattr("tracescribe.tracer.results.scorer._CELLS", 700)
            parts = trace.rescore(metric="log_probability", candidates=rows, against=against)
        np.testing.assert_allclose(parts.scores.patched, whole.scores.patched, rtol=1e-6)  # other sums of products


def test_own_targets_in_a_pool_are_no_rivals(model: ts.DualEncoder) -> None:
    images = np.stack([image_of(seed) for seed in range(6)])
    pairs = [pair(seed) for seed in range(6)]
    found = ts.trace(model, pairs, metric="rank", candidates=images, against="target", floor=0, progress=False)
    similar = embedded(model, [NO]).numpy() @ (images / np.linalg.norm(images, axis=1, keepdims=True)).T
    expected = [1 + (np.delete(similar[0], i) > similar[0, i]).sum() for i in range(6)]
    assert (-found.scores.correct).tolist() == expected


def test_the_metric_does_not_touch_the_cache(
    model: ts.DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ts.trace(model, [pair()], cache=tmp_path, progress=False)
    monkeypatch.setattr(
        "tracescribe.patching.PatchingEngine.run", lambda *a, **k: pytest.fail("traced again for another metric")
    )
    second = ts.trace(model, [pair()], cache=tmp_path, metric="probability", candidates=POOL, progress=False)
    again = first.rescore(metric="probability", candidates=POOL, model=model)
    np.testing.assert_array_equal(second.scores.patched, again.scores.patched)


def test_the_options_of_a_published_question_are_candidates(model: ts.DualEncoder, tmp_path: Path) -> None:
    """NegBench's questions as they are published: the rank of the right option among the four."""
    rows = (
        "image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template\n"
        "a.jpg,0,there is no edema,there is some edema,there is no mass,there is some mass,negative\n"
        "b.jpg,2,there is no edema,there is some nodule,there is no nodule,there is some mass,negative\n"
    )
    (tmp_path / "mcq.csv").write_text(rows)
    data = ts.read(tmp_path / "mcq.csv")
    pairs = [pair.model_copy(update={"image": image_of(int(str(pair.id)[0]))}) for pair in data.pairs]
    found = ts.trace(model, pairs, metric="rank", candidates=data.candidates, floor=0, progress=False)
    options = [embedded(model, claims).numpy() for claims in (record.claims for record in data.claims)]
    for at, one in enumerate(pairs):
        number = int(str(one.id)[0])
        similar = options[number] @ one.image / np.linalg.norm(one.image)
        assert -found.scores.correct[at] == 1 + (similar > similar[data.claims[number].label]).sum()
    with pytest.raises(DataFormatError, match=r"options of a published file are tracescribe.read\(FILE\).candidates"):
        ts.trace(model, pairs, metric="rank", candidates=tmp_path / "mcq.csv", progress=False)


# functions ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def manhattan() -> Any:
    def manhattan(texts: np.ndarray, target: np.ndarray) -> np.ndarray:
        return -np.abs(texts - target).sum(axis=1)

    yield register_metric("manhattan", manhattan, unit=0.5)
    del METRICS["manhattan"]


def test_a_registered_function_is_recorded_by_name_and_read_without_it(
    model: ts.DualEncoder, manhattan: Any, tmp_path: Path
) -> None:
    trace = ts.trace(model, [pair()], metric=manhattan, progress=False)
    expected = -np.abs(embedded(model, [SOME])[0].numpy() - image_of() / np.linalg.norm(image_of())).sum()
    assert trace.scores.foil[0] == pytest.approx(expected, abs=1e-4)
    assert trace.provenance["metric"]["name"] == "manhattan"
    assert trace.provenance["metric"]["function"].endswith("manhattan")
    trace.save(tmp_path / "t.safetensors")
    register_metric("manhattan", manhattan)  # again: no other metric
    del METRICS["manhattan"]
    read = ts.load_trace(tmp_path / "t.safetensors")
    assert (read.metric.name, read.metric.unit) == ("manhattan", 0.5)
    np.testing.assert_array_equal(read.cte, trace.cte)
    with pytest.raises(TraceError, match=r"'manhattan', which is not registered in this process"):
        read.rescore(np.ones((1, 16)))
    METRICS["manhattan"] = trace.metric


def test_a_function_without_a_name_is_refused(model: ts.DualEncoder) -> None:
    with pytest.raises(TraceError, match=r"no name that a trace could record: call tracescribe.tracer.register_metric"):
        ts.trace(model, [pair()], metric=lambda texts, target: texts @ target, progress=False)


DRAWS = np.random.default_rng(0)
RETURNED: dict[str, tuple[Any, Any, str]] = {
    "NaN": (lambda texts, target: texts @ target * np.nan, NonFiniteError, "returned NaN"),
    "too large": (lambda texts, target: texts @ target + 1e300, NonFiniteError, "more than float32 holds"),
    "nothing": (lambda texts, target: None, TraceError, "one number per text"),
    "a column": (lambda texts, target: (texts @ target)[:, None], TraceError, "one number per text"),
    "one number": (lambda texts, target: 0.5, TraceError, "one number per text"),
    "one too few": (lambda texts, target: (texts @ target)[1:], TraceError, "one number per text"),
    "texts": (lambda texts, target: ["high"] * len(texts), TraceError, "one number per text"),
    "lists of two lengths": (lambda texts, target: [[1.0], [1.0, 2.0]], TraceError, "one number per text"),
    "complex numbers": (lambda texts, target: texts @ target + 0j, TraceError, "one number per text"),
    "a softmax": (
        lambda texts, target: np.exp(texts @ target) / np.exp(texts @ target).sum(),
        TraceError,
        r"scores a text by what is beside it: 0\.\d+ among \d+ texts and 1 alone, for pair '0'",
    ),
    "ranks": (
        lambda texts, target: np.argsort(np.argsort(texts @ target)),
        TraceError,
        "it must score every text by itself",
    ),
    "what is drawn": (
        lambda texts, target: DRAWS.random(len(texts)),
        TraceError,
        "it must score every text by itself",
    ),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_function_may_not_return(model: ts.DualEncoder, case: str) -> None:
    function, error, words = RETURNED[case]
    register_metric("odd", function)
    try:
        with pytest.raises(error, match=words):
            ts.trace(model, [pair()], metric=function, progress=False)
    finally:
        del METRICS["odd"]


FORMS: dict[str, Any] = {
    "a list": lambda texts, target: list(texts @ target),
    "a tensor with a gradient": lambda texts, target: torch.tensor(texts @ target, requires_grad=True) * 1,
    "a tensor of bfloat16": lambda texts, target: torch.from_numpy(texts @ target).bfloat16(),
    "a changed argument": lambda texts, target: np.multiply(texts, 1, out=texts) @ np.multiply(target, 1, out=target),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_function_may_return(model: ts.DualEncoder, form: str) -> None:
    function = register_metric("fine", FORMS[form])
    try:
        found = ts.trace(model, [pair()], metric=function, progress=False)
    finally:
        del METRICS["fine"]
    cosine = ts.trace(model, [pair()], progress=False)
    bound = 2.0**-8 if "bfloat16" in form else 1e-6  # half a unit in the last place of numbers below 1
    np.testing.assert_allclose(found.scores.patched, cosine.scores.patched, atol=bound)


@pytest.mark.parametrize("name", ["cosine", "rank", "", "two words", "x" * 61, None])
def test_names_of_functions_are_identifiers_and_nobody_elses(name: Any) -> None:
    with pytest.raises(TraceError, match=r"identifier|already"):
        register_metric(name, len)


# files and refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", list(METRICS)[:6])
def test_a_trace_of_any_metric_is_saved_and_read(model: ts.DualEncoder, metric: str, tmp_path: Path) -> None:
    candidates = POOL if METRICS[metric].takes == "candidates" else None
    trace = ts.trace(model, [pair(), pair(1)], metric=metric, candidates=candidates, floor=0, progress=False)
    trace.save(tmp_path / "t.safetensors")
    read = ts.load_trace(tmp_path / "t.safetensors")
    assert read.provenance == trace.provenance and read.metric == trace.metric
    np.testing.assert_array_equal(read.scores.patched, trace.scores.patched)
    if candidates:
        with pytest.raises(TraceError, match="among candidates that it does not keep"):
            read.rescore()
    else:
        np.testing.assert_array_equal(read.rescore().scores.patched, trace.scores.patched)


def test_scores_that_a_metric_cannot_have_are_not_written(tmp_path: Path) -> None:
    for name, value in (("probability", 1.5), ("rank", 0.0), ("log_probability", 1.0), ("distance", 0.5)):
        trace = synthetic_trace()
        scores = replace(trace.scores, correct=np.full_like(trace.scores.correct, value))
        bad = replace(trace, scores=scores, provenance={"metric": {"name": name}})
        with pytest.raises(OSError, match=f"{name} cannot be that"):
            bad.save(tmp_path / "t.safetensors")


def test_a_trace_without_its_targets_asks_for_images() -> None:
    old = synthetic_trace(with_embeddings=True)
    with pytest.raises(TraceError, match="does not hold its targets' embeddings: give image_embeddings="):
        old.rescore(metric="distance")
    images = np.array(old.provenance["image_embeddings"])
    assert (old.rescore(images, metric="distance").scores.correct < 0).all()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"candidates": POOL}, r"candidates= has no meaning with metric='cosine': it belongs to margin"),
    ({"metric": "cosine", "against": "target"}, r"against= has no meaning"),
    ({"metric": "rank", "against": "target"}, r"against='target' needs candidates="),
    ({"metric": "rank", "logit_scale": 3.0}, r"logit_scale= has no meaning with metric='rank'"),
    ({"metric": "probability", "logit_scale": 0}, r"logit_scale must be None or a finite number >= 1e-06, not 0"),
    ({"metric": "euclid"}, r"metric must be one of 'cosine'.* not 'euclid'"),
    ({"metric": "rank", "method": "attribution", "exact_sample": 0}, r"metric='rank' has no meaning with method="),
    ({"metric": "rank", "replace": "resample", "donors": 2}, r"metric='rank' has no meaning with donors=2"),
    ({"metric": "rank", "candidates": []}, "the list is empty"),
    ({"metric": "rank", "candidates": {}}, "the list is empty"),
    ({"metric": "rank", "candidates": ["no edema", " "]}, r"' ' is no caption"),
    ({"metric": "rank", "candidates": ["no edema", None]}, "None is no caption"),
    ({"metric": "rank", "candidates": 5}, r"candidates must be None or a list of texts"),
    ({"metric": "rank", "candidates": np.full((2, 16), np.nan)}, "row 0 holds NaN"),
    ({"metric": "rank", "candidates": np.zeros((0, 16))}, r"not of shape \[0, 16\]"),
    ({"metric": "rank", "candidates": np.ones((3, 7))}, "have 7 dimensions, the model's have 16"),
    ({"metric": "rank", "candidates": [["no edema"], ["no"]]}, "2 lists of candidates for 1 pairs"),
    ({"metric": "rank", "candidates": {"q": ["no edema"]}}, "no candidates for pair '0'"),
    ({"metric": "rank", "candidates": [[]]}, "candidates of pair 0: there are none"),
    ({"metric": "rank", "candidates": [NO]}, "pair '0' has no candidate other than its own caption"),
    ({"metric": "rank", "candidates": "no/such.txt"}, "No such file"),
    ({"metric": "rank", "candidates": "pool.csv"}, r"must end in .txt"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_has_no_meaning_is_refused_in_a_sentence(model: ts.DualEncoder, options: Any, words: str) -> None:
    with pytest.raises((TraceError, DataFormatError, NonFiniteError), match=words):
        ts.trace(model, [pair()], progress=False, **options)


def test_rescoring_refuses_texts_without_a_model_and_another_model(model: ts.DualEncoder) -> None:
    trace = ts.trace(model, [pair()], progress=False)
    with pytest.raises(DataFormatError, match="need a model to encode them"):
        trace.rescore(metric="rank", candidates=POOL)
    other = ts.wrap(open_clip_model(seed=5), tokenizer=WordTokenizer(), name="other")
    with pytest.raises(TraceError, match="other text weights than the model that was traced"):
        trace.rescore(metric="rank", candidates=POOL, model=other)
    averaged = replace(trace, provenance={**trace.provenance, "donors": 2})
    with pytest.raises(TraceError, match="no meaning for means over 2 donors"):
        averaged.rescore(metric="distance")
    with pytest.raises(TraceError, match="go with image_embeddings="):
        trace.rescore(groups=["a"])


LINES = [
    ('{"id": "a", "candidates": ["no edema"]}\n{"id": "a", "candidates": ["x"]}', r":2: pair 'a' has candidates on an"),
    ('{"id": "a", "candidates": []}', ":1: expected"),
    ('{"id": "a", "candidates": "no edema"}', ":1: expected"),
    ('{"id": "a", "texts": ["no edema"]}', ":1: expected"),
    ("", "holds no candidates"),
]


@pytest.mark.parametrize(("text", "words"), LINES, ids=[str(i) for i in range(len(LINES))])
def test_files_of_candidates_are_checked_line_by_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataFormatError, match=words):
        ts.tracer.run.options.TraceOptions(metric="rank", candidates=file)


def test_a_control_by_another_metric_is_refused(model: ts.DualEncoder) -> None:
    trace = ts.trace(model, [pair()], progress=False)
    with pytest.raises(TraceError, match=r"differ in their metric \(cosine and distance\)"):
        trace.control(trace.rescore(metric="distance"))
