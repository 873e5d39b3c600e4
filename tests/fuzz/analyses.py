"""Functions that start from a trace or make a page or figure of a result, with valid arguments."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

import tracescribe as ts
from fuzz.files import a_faithfulness, a_trace
from fuzz.options import Target, keywords, model, pairs


@cache
def a_small_trace() -> ts.CausalTrace:
    """Of `pairs` by `model`, with few cells."""
    return ts.trace(model(), pairs(), floor=0, progress=False)


def draw(**given: Any) -> None:
    """Into axes that are new each time, unless others are given."""
    from matplotlib.figure import Figure

    source, ax = given.pop("source"), given.pop("ax", None)
    ts.viz.draw(source, Figure(figsize=(3, 2)).subplots() if ax is None else ax, **given)


def explore(**given: Any) -> None:
    """The page's first map is computed, or it says why not; its thread is over before the next call."""
    session = ts.viz.explore(**given).session
    try:
        assert session.wait(4)
    finally:
        session.close()
    assert not (session.problem or "").startswith(("TypeError", "ValueError", "AttributeError")), session.problem


def analyses() -> dict[str, Target]:
    """What runs the model."""
    small = partial(Target, quick=24, slowdown=4, fixed=("model",))
    traced = {"model": model(), "trace": a_small_trace(), "pairs": pairs(), "segment": "all", "progress": False}
    functions: dict[str, tuple[Any, dict[str, Any]]] = {
        "tracer.faithfulness": (ts.faithfulness, {**traced, "sizes": 3, "random": 1}),
        "tracer.circuit": (ts.circuit, {**traced, "n_boot": 10, "candidates": 3, "share": 0.1}),
    }
    return {name: small(call, given, keywords(call)) for name, (call, given) in functions.items()}


def pages() -> dict[str, Target]:
    """What shows a trace or curves; pages of other results are in options.py."""
    viz = ts.viz
    small = partial(Target, quick=20, slowdown=2)
    return {
        "viz.trace_page": small(viz.trace_page, {"trace": a_trace()}, ("control", "title", "seed")),
        "viz.faithfulness": small(
            viz.faithfulness, {"source": a_faithfulness(), "n_boot": 10}, keywords(viz.faithfulness)
        ),
        "viz.draw": small(draw, {"source": a_trace(), "segment": "all", "n_boot": 10}, keywords(viz.draw)),
        "viz.explore": small(
            explore, {"model": model(), "target": np.linspace(-1, 1, 16)}, keywords(viz.explore, "model")
        ),
    }
