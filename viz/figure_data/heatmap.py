"""The data of a layer × column heatmap: cells, and the names of columns and layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import FigureError
from ...io.quoting import shown
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from ...tracer.results.statistics import aggregate_rows
from ...validation import is_positive
from .. import theme
from .labels import MINUS, clean, quoted, shorten, tidy_token
from .notes import band, captions, map_notes, model_suffix, reduced, settings, trace_notes, unit
from .options import COUNTING, Statistics, check_palette
from .select import Source, pair_number

__all__ = ["HeatmapData", "heatmap_data"]

_TITLE = 300  # characters


@dataclass(frozen=True, eq=False)
class HeatmapData:
    """A layer × column picture.

    values: NaN where there is no cell.
    columns: what a person reads under each column: a token, or the name of a row of tokens.
    foils: the foil's token where it differs from the column's, else "".
    marked: True where the captions differ.
    counts: pairs that have the column; None for one pair.
    profile: one number per layer to draw beside the cells; None for none.
    quantity: what a cell is, for the colour bar. unit: what the columns are.
    title: "" for none. notes: what the numbers stand on, in phrases.
    limit: colours run from -limit to limit. palette: of :data:`tracescribe.viz.theme.PALETTES`.
    """

    values: Float[np.ndarray, "layer column"]
    layers: Int[np.ndarray, "layer"]
    columns: tuple[str, ...]
    foils: tuple[str, ...]
    marked: Bool[np.ndarray, "column"]
    counts: Int[np.ndarray, "column"] | None
    profile: LayerProfile | None
    quantity: str
    unit: str
    title: str
    notes: tuple[str, ...]
    limit: float
    palette: str = theme.PALETTE

    def __post_init__(self) -> None:
        check_palette(self.palette)
        for name in ("columns", "foils"):
            object.__setattr__(self, name, tuple(map(clean, getattr(self, name))))
        for name in ("quantity", "unit"):
            object.__setattr__(self, name, shorten(clean(getattr(self, name)), 60))
        object.__setattr__(self, "title", shorten(clean(self.title), _TITLE))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> HeatmapData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns' names, with the foil's token where the captions differ."""
        return tuple(f"{ours} / {foil}" if foil else ours for ours, foil in zip(self.columns, self.foils, strict=True))

    @property
    def profile_name(self) -> str:
        """What the curve beside the cells is."""
        return "" if self.profile is None else f"{shorten(clean(self.profile.aggregate), 40)} over {self.unit}"

    @property
    def axis_name(self) -> str:
        """What the layer axis is: sites other than the residual stream have no layer 0."""
        return "layer (0 = embedding output)" if len(self.layers) and self.layers[0] == 0 else "layer"

    @property
    def below_zero(self) -> Bool[np.ndarray, "layer column"]:
        """Cells whose colour is seen to be that of a negative value."""
        return theme.below_zero(self.values, self.limit)

    @property
    def clipped(self) -> Bool[np.ndarray, "layer column"]:
        """Cells beyond the colour range, whose colour is that of the limit."""
        with np.errstate(invalid="ignore"):
            return np.abs(self.values) > self.limit * (1 + 1e-9)

    @property
    def clipped_ends(self) -> tuple[bool, bool]:
        """Whether values below -limit, and above limit, are drawn in the colour of the limit."""
        return bool((self.values[self.clipped] < 0).any()), bool((self.values[self.clipped] > 0).any())


def heatmap_data(
    source: Source,
    pair: int | str | None = None,
    *,
    profile: bool | LayerProfile = True,
    limit: float | None = None,
    title: str | None = None,
    statistics: Statistics | None = None,
) -> HeatmapData:
    """The picture of a trace, of one of its pairs, of a map, or of an excess over a control.

    limit: colours run from -limit to limit; None = the largest absolute value.
    title: in place of the default one; "" for none.

    Raises:
        FigureError: not something to draw, an option that does not apply, or no such pair.
    """
    statistics = statistics or Statistics()
    if limit is not None and not is_positive(limit):
        raise FigureError(f"limit={quoted(limit)}: colours need a finite limit above 0")
    if isinstance(source, CausalTrace):
        if pair is None and source.n_pairs == 1:
            pair = 0
        if pair is not None:
            statistics.refuse_all_but("one pair", "aggregate")
            return _of_pair(source, pair_number(source, pair), profile, statistics.aggregate or "sum", limit, title)
    elif not isinstance(source, TraceMap | Excess):
        raise FigureError(
            f"cannot draw a heatmap of a {type(source).__name__}; give a CausalTrace, a TraceMap or an Excess"
        )
    if pair is not None:
        raise FigureError(f"pair={pair!r}: only a CausalTrace has pairs, not a {type(source).__name__}")
    if isinstance(source, TraceMap):
        statistics.refuse_all_but("a TraceMap", "aggregate")
        columns = "heads" if all(row.startswith("head ") for row in source.rows) else "rows"
        beside = _beside(profile, source.layers, lambda: source.per_layer(**statistics.given("aggregate")))
        return _of_map(source, beside, columns, source.quantity, map_notes(source), "", limit, title)
    cells = source.map(**statistics.given("align", "reduce", "segment"))
    beside = _beside(profile, cells.layers, lambda: source.per_layer(**statistics.given(*COUNTING)))
    columns = unit(source.trace if isinstance(source, Excess) else source)
    quantity = "CTE − control" if isinstance(source, Excess) else "CTE"
    notes = (*trace_notes(source, statistics.segment), reduced(cells))
    return _of_map(cells, beside, columns, quantity, notes, model_suffix(source), limit, title)


def _of_pair(
    trace: CausalTrace, i: int, profile: bool | LayerProfile, aggregate: str, limit: float | None, title: str | None
) -> HeatmapData:
    columns, foils, marked = _named_columns(trace) if trace.columns is not None else _token_columns(trace, i)
    values = trace.cte[i, :, : len(columns)].astype(np.float64)
    valid = bool(trace.valid[i])
    curve = LayerProfile(
        value=aggregate_rows(values, aggregate) if valid else np.full(len(values), np.nan),
        layers=trace.layers,
        aggregate=aggregate,
        n_pairs=1,
        n_groups=1,
    )
    margin = float(trace.denominator[i])
    notes = [*_captions(trace, i), f"S_corr − S_foil = {margin:.3f}".replace("-", MINUS), *settings(trace)]
    if not valid:
        notes.insert(0, f"no CTE: |S_corr − S_foil| is below the floor of {trace.floor:g}")
    elif margin < 0:
        notes.insert(1, "the model prefers the foil")
    default = f"CTE by layer and {unit(trace)[:-1]}, pair {shorten(trace.ids[i], 60)}{model_suffix(trace)}"
    return HeatmapData(
        values=values,
        layers=trace.layers,
        columns=columns,
        foils=foils,
        marked=marked,
        counts=None,
        profile=_beside(profile, trace.layers, lambda: curve),
        quantity="CTE",
        unit=unit(trace),
        title=default if title is None else title,
        notes=tuple(notes),
        limit=theme.colour_limit(values) if limit is None else float(limit),
    )


Columns = tuple[tuple[str, ...], tuple[str, ...], np.ndarray]  # names, the foil's names, which differ


def _special(trace: CausalTrace, i: int) -> Bool[np.ndarray, "token"]:
    kinds = trace.kinds[i, : len(trace.tokens[i])]
    return np.asarray((kinds == 1) | (kinds >= 4))


def _captions(trace: CausalTrace, i: int) -> tuple[str, ...]:
    """Both captions where the columns do not spell them out."""
    if trace.columns is None:
        return ()
    correct, foil = captions(trace, i, _special(trace, i))
    return (f"correct “{correct}”", f"foil “{foil}”")


def _token_columns(trace: CausalTrace, i: int) -> Columns:
    special, marked = _special(trace, i), trace.differs[i, : len(trace.tokens[i])]
    foils = tuple(
        tidy_token(token, bool(s)) if differs else ""
        for token, s, differs in zip(trace.foil_tokens[i], special, marked, strict=True)
    )
    return tuple(tidy_token(t, bool(s)) for t, s in zip(trace.tokens[i], special, strict=True)), foils, marked


def _named_columns(trace: CausalTrace) -> Columns:
    assert trace.columns is not None
    return trace.columns, ("",) * len(trace.columns), np.zeros(len(trace.columns), dtype=bool)


def _of_map(
    cells: TraceMap,
    beside: LayerProfile | None,
    columns: str,
    quantity: str,
    notes: tuple[str, ...],
    model: str,
    limit: float | None,
    title: str | None,
) -> HeatmapData:
    default = f"{quantity} by layer and {columns[:-1] if columns != 'rows' else 'token'}{model}"
    values = np.asarray(cells.values, dtype=np.float64)
    return HeatmapData(
        values=values,
        layers=cells.layers,
        columns=tuple(tidy_token(row) for row in cells.rows),
        foils=("",) * len(cells.rows),
        marked=np.array([row == "negator" or row.endswith(" differing") for row in cells.rows], dtype=bool),
        counts=np.asarray(cells.counts),
        profile=beside,
        quantity=quantity,
        unit=columns,
        title=default if title is None else title,
        notes=notes if beside is None else (*notes, *band(beside)),
        limit=theme.colour_limit(values) if limit is None else float(limit),
    )


def _beside(
    profile: bool | LayerProfile, layers: Int[np.ndarray, "layer"], compute: Callable[[], LayerProfile]
) -> LayerProfile | None:
    if isinstance(profile, LayerProfile):
        beyond = np.setdiff1d(profile.layers, layers)
        if beyond.size:
            raise FigureError(
                f"the profile has layer {beyond[0]}, and the map layers {layers[0]} to {layers[-1]}: give the profile "
                "of the same trace"
            )
        return profile
    if not isinstance(profile, bool | np.bool_):
        raise FigureError(f"profile must be True, False or a LayerProfile, not {shown(profile)}")
    return compute() if profile else None
