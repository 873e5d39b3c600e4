"""The table of neurons: estimates over all pairs, exact effects of the first ones, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import WordTokenizer, in_double, open_clip_model

import tracescribe as ts
from tracescribe.errors import DegenerateTraceError, SiteError, TraceError

RNG = np.random.default_rng(3)
TEXTS = [
    ("there is no large edema", "there is some large edema"),
    ("no small old nodule.", "some small old nodule."),
    ("no mass", "some mass"),
]
MODEL = in_double(ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer(), name="tiny"))
IMAGES = RNG.normal(size=(6, 16)).astype(np.float32)
ROUNDING = 1e-9  # float64 passes; targets have length 1 in float32 and are the same on both sides


def pairs() -> list[ts.Pair]:
    """Two images per text pair; some prefer the foil. The last text pair has fewer rows than the others."""
    return [ts.Pair(correct=a, foil=b, image=image) for (a, b), image in zip(TEXTS * 2, IMAGES, strict=True)]


def found(**options: Any) -> ts.tracer.Neurons:
    return ts.neurons(MODEL, pairs(), **{"floor": 0, "progress": False, **options})


def test_estimates_of_a_layers_neurons_add_up_to_the_map_of_its_mlp() -> None:
    every = found(top=10_000, others=0)
    trace = ts.trace(MODEL, pairs(), site="mlp", method="attribution", exact_sample=0, floor=0, progress=False)
    cells = trace.map()
    assert every.n_cells == 2 * len(cells.rows) * 128 and every.rows == cells.rows and every.n_pairs == cells.n_pairs
    used = np.flatnonzero(trace.denominator > 0)
    from tracescribe.tracer.results.sides import rows_of

    index = rows_of(trace, used, "role")
    for number, row in enumerate(cells.rows):
        has = index.index == index.labels.index(row)
        n_tokens = has.sum(axis=1)
        # a map's row is a mean over tokens, a neuron's row replaces all of them
        expected = (np.nan_to_num(trace.effect(used)) * has[:, None]).sum(axis=(0, 2)) / trace.denominator[used][
            n_tokens > 0
        ].sum()
        for layer in (1, 2):
            here = (every.layer == layer) & (np.array(every.row) == row)
            # scores of a trace are float32
            assert every.estimate[here].sum() == pytest.approx(expected[layer - 1], abs=1e-4), (number, row, layer)


def test_exact_effects_are_those_of_the_engine_and_the_table_says_them() -> None:
    from tracescribe.patching import Column, PatchingEngine, Sweep, site_named

    table = found(top=5, others=2, seed=1)
    rows = [(MODEL.text.rows([pair.correct])[0], MODEL.text.rows([pair.foil])[0]) for pair in pairs()]
    images = torch.from_numpy(IMAGES).double()
    images = torch.nn.functional.normalize(images, dim=1).float().double()
    engine = PatchingEngine(MODEL.text)
    scores = [
        [float(engine.encode([row])[0] @ image) for row in both] for both, image in zip(rows, images, strict=True)
    ]
    used = [i for i, (correct, foil) in enumerate(scores) if correct > foil]
    assert len(used) == table.n_pairs and 1 < len(used) < 6
    np.testing.assert_allclose(table.denominator, [scores[i][0] - scores[i][1] for i in used], atol=1e-6)
    trace = ts.trace(MODEL, pairs(), floor=0, progress=False)
    from tracescribe.tracer.results.sides import rows_of

    index = rows_of(trace, np.array(used), "role")
    for cell in range(len(table)):
        for at, i in enumerate(used):
            positions = np.flatnonzero(index.index[at] == index.labels.index(table.row[cell]))
            if not len(positions):
                assert np.isnan(table.effects[cell, at])
                continue
            column = Column(tuple(positions.tolist()), int(table.neuron[cell]))
            patched = engine.patch([rows[i][0]], [rows[i][1]], sweep=Sweep(site_named("neurons")), columns=[[column]])
            effect = scores[i][0] - float(patched.patched[0, table.layer[cell] - 1, 0] @ images[i])
            assert table.effects[cell, at] == pytest.approx(effect, abs=ROUNDING)
    frame = table.to_frame(n_boot=50)
    assert list(frame["chosen_by"]) == ["estimate"] * 5 + ["random"] * 2
    assert (frame["lo"] <= frame["cte"]).all() and (frame["cte"] <= frame["hi"]).all()
    assert (np.diff(frame["estimate"].abs()[:5]) <= 0).all()
    agreement = table.agreement
    assert agreement.cells == 5 and agreement.other_cells == 2
    errors = np.abs(table.estimate - table.cte)[:5]
    assert agreement.max_error == errors.max() and agreement.mean_error == errors.mean()
    assert str(agreement) in table.summary() and table.provenance["path"] == "resume"
    cells = table.map()
    assert cells.values.sum() == pytest.approx(table.cte[:5].sum()) and cells.layers.tolist() == [1, 2]
    assert "first 5 neurons" in ts.viz.heatmap(cells).layout.title.text.replace("\xa0", " ")


def test_all_neurons_of_one_set_together_are_the_mlps() -> None:
    """Sets of tokens, both directions, several steps; the chosen cells together are a joint replacement."""
    for direction in ("foil->correct", "correct->foil"):
        table = found(top=10_000, others=0, positions="differing", direction=direction)
        assert table.rows == ("differing tokens",)
        trace = ts.trace(
            MODEL, pairs(), site="mlp", positions="differing", direction=direction, floor=0, progress=False
        )
        whole = ts.faithfulness(MODEL, trace, pairs(), sizes=2, random=0, progress=False).values("sufficiency")[0, -1]
        assert table.share_together == pytest.approx(whole, abs=1e-5)  # scores of a trace are float32
    several = found(top=20, others=0, steps=8)
    assert several.provenance["steps"] == 8 and len(several) == 20


def test_what_cannot_be_computed_is_said() -> None:
    for wrong, sentence in (
        ({"top": 0}, "top must be"),
        ({"top": 2.5}, "top must be"),
        ({"others": -1}, "others must be"),
        ({"steps": 0}, "steps must be"),
        ({"positions": "everywhere"}, "unknown positions 'everywhere'"),
        ({"align": "nothing"}, "align"),
        ({"segment": "some"}, "segment"),
        ({"direction": "back"}, "unknown direction"),
    ):
        with pytest.raises((TraceError, ValueError), match=sentence):
            found(**wrong)
    with pytest.raises(TraceError, match="site 'neurons' has no heads"):
        ts.trace(MODEL, pairs(), site="neurons", heads=1, progress=False)
    same = [ts.Pair(correct=TEXTS[0][0], foil=TEXTS[0][1], image=IMAGES[0])]
    with pytest.raises(DegenerateTraceError, match="below the floor 3"):
        ts.neurons(MODEL, same, floor=3, progress=False)
    opaque = ts.wrap(open_clip_model(custom=True, qk_norm=True), tokenizer=WordTokenizer())
    with pytest.raises(SiteError, match="not taken apart"):
        ts.neurons(opaque, pairs(), progress=False)
