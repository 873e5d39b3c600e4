"""What is drawn: one map, or two and, of equally many layers, their difference, with the profile beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ...errors import FigureError
from ...tracer.pairs.roles import TokenKind
from ...tracer.results.maps import LayerProfile, TraceMap
from ...warn import heard
from ..figure_data import HeatmapData, Source, Statistics, heatmap_data
from ..figure_data.labels import tidy_token
from ..theme import colour_limit

if TYPE_CHECKING:
    from ...tracer import CausalTrace

__all__ = ["Panel", "Panels", "draw_panels", "expected_panel"]


@dataclass(frozen=True, eq=False)
class Panel:
    """One map. name: "A", "B" or "B − A", with what it is of. source: what a figure of it is made from."""

    name: str
    data: HeatmapData
    source: Source

    @property
    def values(self) -> Float[np.ndarray, "layer column"]:
        return self.data.values


@dataclass(frozen=True, eq=False)
class Panels:
    """All maps of a view.

    limit: of their common colour scale. notes: what they stand on. by_role: the columns are roles.
    """

    panels: tuple[Panel, ...]
    limit: float
    notes: tuple[str, ...]
    by_role: bool


def draw_panels(
    sources: Sequence[tuple[str, CausalTrace]], controls: Sequence[CausalTrace], aggregate: str, *, pooled: bool
) -> Panels:
    """The maps of one or two traces; of two with the same layers, their difference too.

    controls: what is subtracted from each; empty for nothing. pooled: the traces are of data sets, whose tokens are
        rows by role.

    Raises:
        TracescribeError: what cannot be drawn or subtracted, in a sentence.
    """
    scores = [trace.metric.name for _, trace in sources]
    if len(set(scores)) > 1:
        raise FigureError(f"A is scored by {scores[0]} and B by {scores[1]}: choose the score of the earlier trace")
    taken: Sequence[CausalTrace | None] = controls or [None] * len(sources)
    alike = all(np.array_equal(trace.layers, sources[0][1].layers) for _, trace in sources)
    with heard() as caught:
        by_role = pooled or bool(controls) or (alike and _columns_differ([trace for _, trace in sources]))
        drawn = [
            _panel(name, trace, control, aggregate, by_role=by_role)
            for (name, trace), control in zip(sources, taken, strict=True)
        ]
        if len(drawn) == 2 and alike:
            drawn.append(_difference(drawn[0], drawn[1], aggregate))
    said = tuple(dict.fromkeys(caught))
    if not alike:
        said += ("A and B have different layers, so that there is no difference to show",)
    limit = max(colour_limit(panel.values) for panel in drawn)
    return Panels(tuple(drawn), limit, (*drawn[0].data.notes, *said), by_role)


def _columns_differ(traces: Sequence[CausalTrace]) -> bool:
    """Whether the columns of one pair's traces do not stand for each other.

    Captions of equally many tokens do, position by position; the same captions only where their tokens are the same.
    """
    if len({trace.inside.shape[1] for trace in traces}) > 1:
        return True
    same = len({(trace.captions, trace.foil_captions) for trace in traces}) == 1
    return same and len(set(map(_words, traces))) > 1


def _words(trace: CausalTrace) -> tuple[str, ...]:
    """The tokens of a trace of one pair, whatever their tokenizer calls the special ones and the ends of words."""
    special = (trace.kinds[0] == TokenKind.START) | (trace.kinds[0] >= TokenKind.END)
    return tuple("" if s else tidy_token(token).casefold() for token, s in zip(trace.tokens[0], special, strict=True))


def _panel(name: str, trace: CausalTrace, control: CausalTrace | None, aggregate: str, *, by_role: bool) -> Panel:
    source: Source = trace if control is None else trace.control(control)
    if control is None and by_role and trace.n_pairs == 1:
        if not trace.valid[0]:
            raise FigureError(f"{name} has no CTE: |S_corr − S_foil| is below the floor of {trace.floor:g}")
        source = trace.map(align="role", segment="all")
    statistics = Statistics(aggregate=aggregate)
    return Panel(name, heatmap_data(source, statistics=statistics, title=name), source)


def _difference(one: Panel, other: Panel, aggregate: str) -> Panel:
    """The second minus the first, over the columns that both have."""
    ours, theirs = one.data, other.data
    if ours.values.shape == theirs.values.shape:
        here = there = list(range(len(ours.columns)))
    else:
        here = [i for i, column in enumerate(ours.columns) if column in theirs.columns]
        there = [theirs.columns.index(ours.columns[i]) for i in here]
    values = theirs.values[:, there] - ours.values[:, here]
    names = zip((ours.labels[i] for i in here), (theirs.labels[i] for i in there), strict=True)
    rows = tuple(a if a == b else f"{a} | {b}" for a, b in names)
    cells = TraceMap(
        values=values,
        rows=rows,
        layers=ours.layers,
        counts=np.ones(len(here), dtype=np.int64),
        segment="all",
        quantity="CTE, B − A",
    )
    curve: LayerProfile | bool = False
    if ours.profile is not None and theirs.profile is not None:
        curve = LayerProfile(theirs.profile.value - ours.profile.value, ours.layers, aggregate)
    data = heatmap_data(cells, profile=curve, title="B − A")
    marked = ours.marked[here] | theirs.marked[there]
    return Panel("B − A", replace(data, marked=marked, columns=rows, unit=ours.unit), cells)


def expected_panel(
    tokens: Sequence[str], foils: Sequence[str], differs: Sequence[bool], layers: np.ndarray, values: np.ndarray
) -> HeatmapData:
    """A map that is being computed: its columns, and the cells that are known."""
    shown = [foil if differ else "" for foil, differ in zip(foils, differs, strict=True)]
    return HeatmapData(
        values=values,
        layers=layers,
        columns=tuple(tokens),
        foils=tuple(shown),
        marked=np.array(differs, dtype=bool),
        counts=None,
        profile=None,
        quantity="CTE",
        unit="tokens",
        title="",
        notes=(),
        limit=colour_limit(values),
    )
