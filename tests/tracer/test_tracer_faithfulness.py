"""Faithfulness curves and circuits: exact joint patches, the areas of MIB, and what is refused."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import WordTokenizer, open_clip_model, source_blocks, source_encoder
from planted import AFFIRMATIVE, NEGATED, planted_model
from zoo.entry import Reading
from zoo.hooks import patched_together
from zoo.open_clip_models import NATIVE_SITES

import tracescribe as ts
from tracescribe.errors import ArgumentError, DataFormatError, OutputError, PrescriptionError, TraceError
from tracescribe.tracer.results.cells import MapCells

RNG = np.random.default_rng(0)
TEXTS = [
    ("there is no large edema", "there is some large edema"),
    ("no small old nodule", "some small old nodule"),
    ("this is no big lung mass.", "this is some big lung mass."),
]
SOURCE = open_clip_model()
MODEL = ts.wrap(SOURCE, tokenizer=WordTokenizer(), name="tiny")
TOLERANCE = 1e-5  # on a difference of cosines, in float32 and another order of summation; measured 4e-7


def model() -> ts.DualEncoder:
    return MODEL


def pairs() -> list[ts.Pair]:
    """Every second image prefers the foil, so that only some pairs enter the map; text pairs have two images each."""
    images = np.random.default_rng(1).normal(size=(6, 16))
    return [ts.Pair(correct=a, foil=b, image=image) for (a, b), image in zip(TEXTS * 2, images, strict=True)]


def traced(**options) -> ts.CausalTrace:
    return ts.trace(model(), pairs(), floor=0, progress=False, **options)


def curves(trace: ts.CausalTrace, **options) -> ts.Faithfulness:
    return ts.faithfulness(model(), trace, pairs(), progress=False, **options)


@pytest.mark.parametrize("site", ["resid", "mlp"])
def test_each_joint_patch_equals_plain_hooks_on_the_source_model(site: str) -> None:
    trace = traced(site=site)
    found = curves(trace, sizes=[1, 3, 9], random=1)
    reading = Reading("", source_encoder, source_blocks, NATIVE_SITES, WordTokenizer)
    used = np.flatnonzero(trace.denominator > 0)
    tower, first = model().text, int(trace.layers[0])
    from tracescribe.tracer.results.sides import rows_of

    rows = rows_of(trace, used, "role")
    label = np.array([*rows.labels, ""], dtype=object)[rows.index]
    assert len(used) == found.n_pairs and 1 < len(used) < 6
    for at, pair in enumerate(used.tolist()):
        image = pairs()[pair].image / np.linalg.norm(pairs()[pair].image)
        base, donor = (tower.tokenize([text]) for text in (pairs()[pair].correct, pairs()[pair].foil))
        for order in range(len(found.orders)):
            for size in range(len(found.sizes)):
                chosen = found.permutations[order][: found.sizes[size]]
                cells = np.zeros((len(trace.layers), trace.kinds.shape[1]), dtype=bool)
                for cell in chosen:
                    here = label[at] == found.cells.rows[found.cells.row[cell]]
                    cells[found.cells.layer[cell] - first, here] = True
                inside = trace.inside[pair]
                for curve, mask in (("sufficiency", cells), ("necessity", ~cells & inside)):
                    embedding = patched_together(reading, SOURCE, base, donor, mask, first, site=site)
                    effect = trace.scores.correct[pair] - float(embedding.double().numpy() @ image)
                    assert abs(getattr(found, curve)[order, size, at] - effect) < TOLERANCE


def test_the_ends_are_exact_and_the_first_point_is_the_map() -> None:
    for options in ({}, {"direction": "correct->foil"}, {"site": "z", "heads": "each"}):
        trace = traced(**options)
        found = curves(trace, sizes=[1], random=2)
        sufficiency, necessity = found.values("sufficiency"), found.values("necessity")
        assert (sufficiency[:, 0] == 0).all() and (necessity[:, -1] == 0).all()
        np.testing.assert_allclose(sufficiency[:, -1], necessity[:, 0], atol=1e-6)
        top = found.cells.by_effect()[0]
        if trace.site == "resid":
            np.testing.assert_allclose(sufficiency[:, -1], 1, atol=1e-5)
        if found.cells.rows[found.cells.row[top]] in ("first differing", "[end]") or trace.columns:  # one token each
            np.testing.assert_allclose(sufficiency[0, 1], found.cells.value[top], atol=1e-4)
        assert found.curve("necessity", "random").lo is not None


def test_a_trace_that_keeps_its_targets_needs_neither_pairs_nor_targets(tmp_path: Path) -> None:
    trace = traced(site="mlp", keep_embeddings=True)
    trace.save(tmp_path / "kept.safetensors")
    kept = ts.load_trace(tmp_path / "kept.safetensors")
    one, other = curves(trace, sizes=4), ts.faithfulness(model(), kept, sizes=4, progress=False)
    np.testing.assert_allclose(one.sufficiency, other.sufficiency, atol=1e-6)
    assert ts.circuit(model(), kept, share=0.5, progress=False).share >= 0.5
    with pytest.raises(TraceError, match="neither for a trace that keeps its targets"):
        ts.faithfulness(model(), traced(site="mlp", keep_embeddings=False), progress=False)


def test_targets_serve_instead_of_pairs_and_attribution_gives_an_order() -> None:
    trace = traced(site="mlp", method="attribution", exact_sample=0)
    images = np.stack([pair.image for pair in pairs()])
    one, other = curves(trace, sizes=4), ts.faithfulness(model(), trace, targets=images, sizes=4, progress=False)
    np.testing.assert_allclose(one.sufficiency, other.sufficiency, atol=1e-6)
    exact = curves(traced(site="mlp"), sizes=4)
    assert np.array_equal(exact.sizes, one.sizes)
    np.testing.assert_allclose(exact.sufficiency[:, -1], one.sufficiency[:, -1], atol=1e-6)
    other_images = traced().rescore(images[::-1].copy())
    again = ts.faithfulness(model(), other_images, targets=images[::-1].copy(), sizes=3, progress=False)
    assert again.n_pairs == int((other_images.denominator > 0).sum())


def hand_made(sufficiency: list[float], necessity: list[float]) -> ts.Faithfulness:
    n = len(sufficiency) - 1
    cells = MapCells(np.arange(n), np.zeros(n, dtype=int), np.linspace(1, 0.1, n), ("[end]",))
    return ts.Faithfulness(
        cells=cells,
        orders=("effect",),
        permutations=np.arange(n)[None],
        sizes=np.arange(n + 1),
        sufficiency=0.1 * np.array(sufficiency)[None, :, None].repeat(4, axis=2),
        necessity=0.1 * np.array(necessity)[None, :, None].repeat(4, axis=2),
        denominator=np.full(4, 0.1),
        clusters=np.arange(4),
        texts=np.arange(4),
        provenance={"model": "made up"},
    )


def test_the_areas_are_those_of_the_benchmark() -> None:
    line = np.linspace(0, 1, 5).tolist()
    straight = hand_made(line, line[::-1])
    for curve in ("sufficiency", "necessity"):
        assert straight.curve(curve).cpr == pytest.approx(0.5)
        assert straight.curve(curve).cmd == pytest.approx(0.5)
    # all at once, then beyond it: CPR counts what is beyond 1 for, CMD against
    beyond = hand_made([0, 2, 2, 2, 1], [1, -1, -1, -1, 0])
    for curve in ("sufficiency", "necessity"):
        assert beyond.curve(curve).cpr == pytest.approx((1 + 2 + 2 + 1.5) / 4)
        assert beyond.curve(curve).cmd == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    half = hand_made([0, 0.25, 0.5], [0.5, 0.25, 0])  # the cells carry half of the difference: f is of what they carry
    assert half.curve("sufficiency").cpr == half.curve("necessity").cpr == pytest.approx(0.5)
    assert "CPR 0.500, CMD 0.500" in half.summary()
    nothing = hand_made([0, 0, 0], [0, 0, 0])
    assert np.isnan(nothing.curve("sufficiency").cpr)


def test_a_file_gives_the_curves_back_and_damage_is_refused(tmp_path: Path) -> None:
    found = curves(traced(site="mlp"), sizes=4)
    path = tmp_path / "curves.safetensors"
    found.save(path)
    again = ts.load_faithfulness(path)
    for name in ("permutations", "sizes", "sufficiency", "necessity", "denominator", "clusters", "texts"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    assert again.orders == found.orders and again.provenance == found.provenance
    assert found.top(2) == again.top(2) and "layer" in found.top(1)[0]
    assert found.to_frame().equals(again.to_frame())
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(raw)
    with pytest.raises(DataFormatError, match="SHA-256"):
        ts.load_faithfulness(tmp_path / "damaged.safetensors")
    (tmp_path / "short.safetensors").write_bytes(raw[:200])
    with pytest.raises(DataFormatError):
        ts.load_faithfulness(tmp_path / "short.safetensors")
    trace = traced()
    trace.save(tmp_path / "trace.safetensors")
    with pytest.raises(DataFormatError, match=r"has format 'tracescribe\.trace"):
        ts.load_faithfulness(tmp_path / "trace.safetensors")
    with pytest.raises(OutputError):
        found.save(tmp_path / "no" / "such" / "folder" / "x.safetensors")


def test_curves_are_drawn(tmp_path: Path) -> None:
    found = curves(traced(site="mlp"), sizes=5)
    figure = found.plot()
    names = [line.name for line in figure.data if line.mode == "lines+markers"]
    assert names[0] == "first k patched" and "all but first k patched" in names and "random k" in names
    assert "k = 0" in figure.data[1].hovertext[0]
    assert "CPR" in figure.layout.title.text
    for suffix in ("svg", "pdf"):
        assert ts.viz.export(found, tmp_path / f"curves.{suffix}").stat().st_size > 5000
    text = (tmp_path / "curves.svg").read_text()
    assert "all but first k patched" in text and "CTE of the joint patch" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 3}, "window=3"),
        ({"method": "direct"}, "method='direct'"),
        ({"replace": "mean"}, "replace='mean'"),
    ],
)
def test_traces_whose_cells_cannot_be_joined_are_refused(change: dict, message: str) -> None:
    trace = traced()
    with pytest.raises(TraceError, match=message):
        curves(replace(trace, provenance={**trace.provenance, **change}))


POOL = ["a small nodule", "this is some edema", "no mass is there"]
SCALE = 5.0


def squared(texts: np.ndarray, target: np.ndarray) -> np.ndarray:
    return -(((texts - target) ** 2).sum(axis=1) ** 2)


def rivals_of_all() -> np.ndarray:
    """Candidates: some captions, and what lies between the captions of each pair, so that ranks change."""
    a, b, others = (model().encode_texts(list(texts)).numpy() for texts in (*zip(*TEXTS, strict=True), POOL))
    between = a + b
    return np.concatenate([others, between / np.linalg.norm(between, axis=1, keepdims=True)])


def by_formula(metric: str, t: np.ndarray, image: np.ndarray, correct: np.ndarray, foil: np.ndarray) -> dict:
    """S of a caption t, as docs/method.md has it, among the foil (log_probability) or the pool (the others)."""
    pool = rivals_of_all().astype(np.float64)
    cosine, odds = t @ image, lambda rivals: np.exp(SCALE * (rivals - t @ image)).sum()
    return {
        "distance": -np.linalg.norm(t - image),
        "squared": -(((t - image) ** 2).sum() ** 2),
        "log_probability": -np.log1p(odds(np.array([foil @ image]))),
        "probability": 1 / (1 + odds(pool @ image)),
        "margin": cosine - (pool @ t).max(),
        "rank": -(1.0 + (pool @ image > cosine).sum()),
    }[metric]


METRICS = {
    "distance": {},
    "squared": {},
    "log_probability": {"logit_scale": SCALE},
    "probability": {"logit_scale": SCALE, "candidates": ...},
    "margin": {"candidates": ..., "against": "target"},
    "rank": {"candidates": ...},
}


@pytest.mark.parametrize("direction", ["foil->correct", "correct->foil"])
@pytest.mark.parametrize("metric", METRICS)
def test_joint_patches_are_scored_as_the_trace_is(monkeypatch: pytest.MonkeyPatch, metric: str, direction: str) -> None:
    """By formulas of their own, on the embeddings of plain hooks on the source model; as made, and as rescored."""
    from tracescribe.tracer.results.metrics import METRICS as known

    monkeypatch.delitem(known, "squared", raising=False)
    ts.tracer.register_metric("squared", squared)
    given = {name: rivals_of_all() if value is ... else value for name, value in METRICS[metric].items()}
    among = {"among": given["candidates"]} if "candidates" in given else {}
    cosines = traced(site="mlp", direction=direction, keep_embeddings=True)
    asked = traced(site="mlp", direction=direction, metric=metric, **given)
    rescored = cosines.rescore(metric=metric, **given)
    reading = Reading("", source_encoder, source_blocks, NATIVE_SITES, WordTokenizer)
    options = {"sizes": [2, 7], "random": 1, "progress": False, "align": "position"}
    found = ts.faithfulness(model(), rescored, **among, **options)
    again = ts.faithfulness(model(), asked, pairs(), **among, **options)
    np.testing.assert_allclose(again.sufficiency, found.sufficiency, atol=1e-5)
    used, images = np.flatnonzero(rescored.denominator > 0), cosines.target_embeddings[cosines.target]
    assert found.n_pairs == len(used) >= 1
    for at, pair in enumerate(used.tolist()):
        image, texts = images[pair].astype(np.float64), [pairs()[pair].correct, pairs()[pair].foil]
        ids = [model().text.tokenize([text]) for text in texts]
        ends = [row.astype(np.float64) for row in model().encode_texts(texts).numpy()]
        base = int(direction == "correct->foil")
        score = [by_formula(metric, t, image, *ends) for t in ends]
        assert found.denominator[at] == pytest.approx(score[0] - score[1], abs=2e-5)
        for size in range(len(found.sizes)):
            cells = np.zeros((len(cosines.layers), cosines.kinds.shape[1]), dtype=bool)
            for cell in found.permutations[0][: found.sizes[size]]:
                cells[found.cells.layer[cell] - 1, int(found.cells.rows[found.cells.row[cell]])] = True
            t = patched_together(reading, SOURCE, ids[base], ids[1 - base], cells, 1, site="mlp").double().numpy()
            effect = (score[base] - by_formula(metric, t, image, *ends)) * (1, -1)[base]
            # rounding of cosines (1e-6) times what a metric makes of it at this scale
            assert found.sufficiency[0, size, at] == pytest.approx(effect, abs=2e-5)


def test_a_circuit_is_of_the_traces_score() -> None:
    kept = traced(site="mlp", keep_embeddings=True)
    trace = kept.rescore(metric="log_probability", candidates=POOL, logit_scale=SCALE, model=model())
    found = trace.circuit(model(), share=0.5, among=POOL, progress=False)
    assert found.share >= 0.5 and found.provenance["metric"]["name"] == "log_probability"
    curve = ts.faithfulness(model(), trace, among=POOL, sizes=2, progress=False)
    assert found.whole == pytest.approx(curve.values("sufficiency")[0, -1], abs=1e-6)
    assert found.whole != pytest.approx(kept.circuit(model(), share=0.5, progress=False).whole, abs=1e-4)


def test_candidates_that_are_not_the_traces_are_refused() -> None:
    kept = traced(site="mlp", keep_embeddings=True)
    trace = kept.rescore(metric="probability", candidates=POOL, logit_scale=SCALE, model=model())
    for among, message in (
        (None, r"scored by probability among candidates that it does not keep: give them again \(among="),
        (POOL[:2], "among= holds 2 candidates, but the trace was scored among 3"),
        ([*POOL[:2], "some large old lung"], "give the images, targets and candidates it was traced"),
    ):
        with pytest.raises(TraceError, match=message):
            ts.faithfulness(model(), trace, among=among, progress=False)
    with pytest.raises(TraceError, match=r"this trace was scored by cosine without candidates"):
        ts.faithfulness(model(), kept, among=POOL, progress=False)
    unknown = replace(kept, provenance={**kept.provenance, "metric": {"name": "theirs", "unit": 1.0}})
    with pytest.raises(TraceError, match="'theirs', which is not registered in this process"):
        ts.circuit(model(), unknown, progress=False)


def test_another_model_other_pairs_and_other_images_are_refused() -> None:
    trace = traced()
    other = ts.wrap(open_clip_model(seed=5), tokenizer=WordTokenizer(), name="other")
    with pytest.raises(TraceError, match="other weights"):
        ts.faithfulness(other, trace, pairs(), progress=False)
    with pytest.raises(TraceError, match="the trace has 6 pairs, but 5 given"):
        ts.faithfulness(model(), trace, pairs()[:5], progress=False)
    with pytest.raises(TraceError, match="was traced with the correct caption"):
        ts.faithfulness(model(), trace, pairs()[::-1], progress=False)
    with pytest.raises(TraceError, match=r"has S = .* in the trace and .* with what is given"):
        ts.faithfulness(model(), trace, targets=np.ones((6, 16)), progress=False)
    with pytest.raises(TraceError, match="2 targets are given"):
        ts.faithfulness(model(), trace, targets=np.ones((2, 16)), progress=False)
    bare = replace(trace, target_embeddings=None, target=None)
    for of, given in ((bare, {}), (trace, {"pairs": pairs(), "targets": np.ones((6, 16))})):
        with pytest.raises(TraceError, match="give either the traced pairs again"):
            ts.faithfulness(model(), of, progress=False, **given)
    with pytest.raises(TraceError, match="the map has"):
        curves(trace, sizes=[1, 10_000])
    with pytest.raises(TraceError, match="sizes must be"):
        curves(trace, sizes=[0.5])
    with pytest.raises(TraceError, match="layers must be"):
        curves(trace, layers=[9])
    for function in (ts.faithfulness, ts.circuit):
        with pytest.raises(ArgumentError, match="trace must be of type CausalTrace, not 'a trace'"):
            function(model(), "a trace", pairs())  # type: ignore[operator]
    with pytest.raises(TraceError, match="unknown order 'best'"):
        hand_made([0, 1], [1, 0]).curve("sufficiency", "best")


# -- circuits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["greedy", "order"])
def test_the_planted_head_is_the_circuit(method: str) -> None:
    images = np.random.default_rng(1).normal(size=(4, 16))
    planted = [ts.Pair(correct=NEGATED, foil=AFFIRMATIVE, image=image) for image in images]
    whole = planted_model(2, 1)
    trace = ts.trace(whole, planted, site="z", heads="each", floor=0, progress=False)
    found = ts.circuit(whole, trace, planted, method=method, progress=False)  # type: ignore[arg-type]
    assert found.cells == [(2, "head 1")]
    assert found.share == pytest.approx(1, abs=1e-4) and found.whole == pytest.approx(1, abs=1e-4)
    assert found.stability.tolist() == [1.0]
    assert np.array_equal(found.by_layer().round(3), [0, 0, 1, 0])


def test_a_circuit_reaches_its_share_and_no_cell_of_it_can_be_spared() -> None:
    trace = traced(site="mlp")
    found = ts.circuit(model(), trace, pairs(), share=0.5, candidates=40, progress=False)
    assert found.share >= 0.5 and len(found) == len(found.shares) == len(found.to_frame())
    assert ((found.stability >= 0) & (found.stability <= 1)).all()
    assert found.lo <= found.share <= found.hi
    from tracescribe.tracer.run.joint import JointRuns
    from tracescribe.tracer.run.joint_options import CircuitOptions

    runs = JointRuns.of(model(), trace, pairs(), None, CircuitOptions())
    numbers = [
        next(c for c in range(len(runs.cells)) if (runs.cells.layer[c], runs.cells.rows[runs.cells.row[c]]) == cell)
        for cell in found.cells
    ]
    sets = np.zeros((len(numbers) + 1, len(runs.cells)), dtype=bool)
    sets[:, numbers] = True
    for at, number in enumerate(numbers):
        sets[at, number] = False
    together = runs.effects(sets).sum(axis=1) / trace.denominator[runs.used].sum()
    assert together[-1] == pytest.approx(found.share, abs=1e-5)
    if len(numbers) > 1:
        assert (together[:-1] < 0.5).all()
    in_order = ts.circuit(model(), trace, pairs(), share=0.5, method="order", progress=False)
    assert len(found) <= len(in_order)
    assert in_order.shares[-1] >= 0.5 > max([0.0, *in_order.shares[:-1]])
    assert np.array_equal(in_order.alone, np.sort(in_order.alone)[::-1])


def test_a_trace_has_the_method_circuit_with_the_functions_options(tmp_path: Path) -> None:
    ours, theirs = (dict(inspect.signature(call).parameters) for call in (ts.CausalTrace.circuit, ts.circuit))
    assert list(ours)[1:3] == ["model", "pairs"] and set(ours) - {"self"} == set(theirs) - {"trace"}
    for name in set(ours) - {"self"}:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind), name
    traced(site="z", heads="each", keep_embeddings=True).save(tmp_path / "heads.safetensors")
    heads = ts.load_trace(tmp_path / "heads.safetensors")
    options = {"share": 0.2, "candidates": 6, "layers": [2, 3], "seed": 1, "progress": False}
    found, expected = heads.circuit(model(), **options), ts.circuit(model(), heads, pairs(), **options)  # type: ignore[arg-type]
    assert found.cells == expected.cells and found.share >= 0.2
    np.testing.assert_array_equal(found.shares, expected.shares)
    with pytest.raises(ArgumentError, match="circuit: the argument model must be of type DualEncoder, not 'phantom'"):
        heads.circuit("phantom")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["greedy", "order"])
def test_rounding_does_not_keep_a_circuit_from_the_whole_effect(method: str) -> None:
    """The differing token of layer 0 decides all; its CTE is measured as 0.99999996 here."""
    other = ts.wrap(open_clip_model(seed=1), tokenizer=WordTokenizer(), name="other")
    trace = ts.trace(other, pairs(), floor=0, progress=False)
    found = trace.circuit(other, share=1.0, segment="all", method=method, n_boot=0, progress=False, pairs=pairs())  # type: ignore[arg-type]
    assert found.cells == [(0, "first differing")]
    assert found.share < 1 and found.share == pytest.approx(1, abs=1e-6)
    assert "6 pairs" in repr(found) and "1 pair:" in repr(
        ts.circuit(other, trace[[0]], pairs()[:1], segment="all", n_boot=0, progress=False)
    )


def test_a_share_that_no_circuit_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced(site="mlp")
    for method in ("greedy", "order"):
        with pytest.raises(TraceError, match="cells of the map together carry"):
            ts.circuit(model(), trace, pairs(), share=50, method=method, progress=False)  # type: ignore[arg-type]
    monkeypatch.setattr(MapCells, "by_effect", lambda cells: np.argsort(cells.value))  # the worst first
    with pytest.raises(TraceError, match=r"the 1 candidates together carry .* more than 1"):
        ts.circuit(model(), trace, pairs(), share=0.5, candidates=1, progress=False)
    with pytest.raises(TraceError, match="share must be"):
        ts.circuit(model(), trace, pairs(), share=float("nan"), progress=False)


def test_weights_come_from_a_circuit() -> None:
    trace = traced(site="mlp")
    found = ts.circuit(model(), trace, pairs(), share=0.5, candidates=40, progress=False)
    plan = ts.prescribe(found)
    gains = found.by_layer()[1:]
    expected = (gains - gains.min()) / (gains.max() - gains.min())
    np.testing.assert_allclose(plan.alpha, expected, atol=1e-6)
    assert plan.provenance["source"] == "circuit"
    with pytest.raises(PrescriptionError, match="'max'"):
        ts.prescribe(found, aggregate="max")


def test_hidden_state_is_neutral_after_an_interrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ts.faithfulness(model(), trace, pairs(), sizes=3, progress=stop)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
