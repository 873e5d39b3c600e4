"""A watched run: layers come one after another, the numbers are those of a run in one go, and it can be ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tracescribe as ts
from tracescribe.patching import DirectEngine, PatchingEngine, Sweep, site_named
from tracescribe.patching.engine.resumed import layer_groups
from tracescribe.tracer.run.options import TraceOptions
from tracescribe.tracer.run.trace import run_trace

CAPTIONS = ["There is no opacity.", "There is no edema.", "no large effusion"]
FOILS = ["There is severe opacity.", "There is mild edema.", "no small effusion"]


class Ended(Exception):
    pass


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.load("phantom")


@pytest.mark.parametrize(("path", "site"), [("resume", "resid"), ("resume", "attn"), ("generic", "resid")])
def test_a_watched_run_gives_the_same_embeddings(model: ts.DualEncoder, path: Any, site: str) -> None:
    base, donor = model.text.rows(CAPTIONS), model.text.rows(FOILS)
    engine = PatchingEngine(model.text)
    prepared = engine.prepare(base, donor, path=path, sweep=Sweep(site_named(site)))
    shown: dict[int, list[torch.Tensor]] = {}

    def watch(members: list[int], cells: torch.Tensor) -> None:
        for member, of_pair in zip(members, cells, strict=True):
            shown.setdefault(member, []).append(of_pair.clone())

    shard = prepared.shards[0]
    whole, watched = engine.run(prepared, shard), engine.run(prepared, shard, watch=watch)
    assert watched.members == whole.members and sorted(shown) == [0, 1, 2]
    # unit vectors in float32: sums in another order move a coordinate by a few units in the last place of 1
    torch.testing.assert_close(watched.patched, whole.patched, rtol=0, atol=5e-7, equal_nan=True)
    for row, member in enumerate(watched.members):
        states = shown[member]
        known = [int(torch.isfinite(cells).all(dim=-1).any(dim=-1).sum()) for cells in states]
        assert known == sorted(known) and known[0] < known[-1] == len(states[-1])
        last = watched.patched[row, :, : states[-1].shape[1]]
        for cells in states:  # what was shown stays as it is
            finite = torch.isfinite(cells)
            assert torch.equal(cells[finite], last[finite])


def test_what_watch_raises_ends_the_run(model: ts.DualEncoder) -> None:
    base, donor = model.text.rows(CAPTIONS[:1]), model.text.rows(FOILS[:1])
    for engine in (PatchingEngine(model.text), DirectEngine(model.text)):
        calls = []

        def watch(members: list[int], cells: torch.Tensor, calls: list[int] = calls) -> None:
            calls.append(1)
            raise Ended

        prepared = engine.prepare(base, donor)
        with pytest.raises(Ended):
            engine.run(prepared, [0], watch=watch)
        assert len(calls) == 1
        assert torch.isfinite(engine.run(prepared, [0]).patched).all()  # and the engine still works


def test_the_scores_of_a_watched_trace_are_the_pairs_own(model: ts.DualEncoder) -> None:
    pairs = [
        ts.Pair(correct=c, foil=f, image=ts.Text("The lungs are clear.")) for c, f in zip(CAPTIONS, FOILS, strict=True)
    ]
    last: dict[int, np.ndarray] = {}
    trace = run_trace(model, pairs, TraceOptions(), False, watch=lambda number, scores: last.update({number: scores}))
    whole = ts.trace(model, pairs, progress=False)
    np.testing.assert_allclose(trace.scores.patched, whole.scores.patched, rtol=0, atol=5e-7)
    for number, scores in last.items():
        inside = trace.inside[number]
        np.testing.assert_allclose(
            scores[:, : inside.sum()], trace.scores.patched[number][:, inside], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(("n_layers", "n_rows"), [(2, 8), (9, 32), (13, 50), (33, 3003), (12, 1.0)])
def test_groups_hold_every_layer_once_from_the_last_on(n_layers: int, n_rows: float) -> None:
    groups = layer_groups(n_layers, n_rows)
    assert [layer for group in reversed(groups) for layer in group] == list(range(n_layers))
