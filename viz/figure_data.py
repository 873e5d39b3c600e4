"""What there is to draw, whoever draws it: a result turned into labelled arrays that both renderers read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import FigureError
from ..tracer.results.causal_trace import CausalTrace
from ..tracer.results.maps import Excess, LayerProfile, TraceMap
from ..tracer.results.statistics import aggregate_rows
from .labels import tidy_token

__all__ = ["HeatmapView", "ProfileView", "Profiled", "Source", "heatmap_view", "profile_view"]

Source = CausalTrace | TraceMap | Excess
Profiled = CausalTrace | TraceMap | Excess | LayerProfile

_ARROWS = {
    "foil->correct": "foil → correct",
    "correct->foil": "correct → foil",
    "negated->affirmative": "negated → affirmative",
}
_SITES = {
    "resid": "residual stream",
    "resid_pre": "residual stream before the block",
    "resid_mid": "residual stream after attention",
    "resid_post": "residual stream after the block",
    "attn": "attention output",
    "mlp": "MLP output",
    "z": "attention heads (z)",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "pattern": "attention pattern",
}


@dataclass(frozen=True, eq=False)
class HeatmapView:
    """A layer × column picture.

    values: NaN where there is no cell.
    columns: what a person reads under each column: a token, or the name of a row of tokens.
    foils: the foil's token where it differs from the column's, else "".
    marked: True where the captions differ.
    counts: pairs that have the column; None for one pair.
    profile: one number per layer to draw beside the cells; None for none.
    quantity: what a cell is, for the colour bar.
    notes: what the numbers stand on, in phrases.
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

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns' names, with the foil's token where the captions differ."""
        return tuple(f"{ours} / {foil}" if foil else ours for ours, foil in zip(self.columns, self.foils, strict=True))


@dataclass(frozen=True, eq=False)
class ProfileView:
    """Curves over layers: one or several named profiles."""

    series: tuple[tuple[str, LayerProfile], ...]
    quantity: str
    title: str
    notes: tuple[str, ...]

    @property
    def span(self) -> tuple[float, float]:
        """Lower and upper end of the value axis: with 0 unless that would press the curves against the far end."""
        bands = [v for _, curve in self.series for v in (curve.value, curve.lo, curve.hi) if v is not None]
        seen = np.concatenate([v[np.isfinite(v)] for v in bands] or [np.zeros(1)])
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        if 0 < low < 0.4 * high:
            low = 0.0
        elif 0.4 * low < high < 0:
            high = 0.0
        room = 0.06 * (high - low) or 0.5
        return (low if low == 0 else low - room), (high if high == 0 else high + room)


def heatmap_view(
    source: Source, pair: int | str | None = None, *, profile: bool | LayerProfile = True, **options: Any
) -> HeatmapView:
    """The picture of a trace, of one of its pairs, of a map, or of an excess over a control.

    options: ``align``, ``reduce``, ``segment`` of :meth:`CausalTrace.map`, and ``aggregate``, ``ci``, ``n_boot``,
        ``seed`` of :meth:`CausalTrace.per_layer`.

    Raises:
        FigureError: not something to draw, an option that does not apply, or no such pair.
    """
    if isinstance(source, CausalTrace):
        if pair is None and source.n_pairs == 1:
            pair = 0
        if pair is not None:
            _refuse_options(options, "one pair", allowed=("aggregate",))
            return _pair_view(source, pair_number(source, pair), profile, options.get("aggregate", "sum"))
    elif not isinstance(source, TraceMap | Excess):
        raise FigureError(
            f"cannot draw a heatmap of a {type(source).__name__}; give a CausalTrace, a TraceMap or an Excess"
        )
    if pair is not None:
        raise FigureError(f"pair={pair!r}: only a CausalTrace has pairs, not a {type(source).__name__}")
    if isinstance(source, TraceMap):
        _refuse_options(options, "a TraceMap", allowed=("aggregate",))
        beside = _beside(profile, lambda: source.per_layer(options.get("aggregate", "sum")))
        unit = "heads" if all(row.startswith("head ") for row in source.rows) else "rows"
        return _map_view(source, beside, unit, source.quantity, _map_notes(source))
    mapping = {name: options[name] for name in ("align", "reduce", "segment") if name in options}
    cells = source.map(**mapping)
    counting = {name: value for name, value in options.items() if name != "align"}
    beside = _beside(profile, lambda: source.per_layer(**counting))
    unit = _unit(source.trace if isinstance(source, Excess) else source)
    if isinstance(source, Excess):
        notes = (*_trace_notes(source.trace), f"less a control of {_plural(source.control.n_pairs, 'pair')}")
        return _map_view(cells, beside, unit, "CTE − control", (*notes, _reduced(cells)))
    return _map_view(cells, beside, unit, "CTE", (*_trace_notes(source), _reduced(cells)), _model(source))


def profile_view(sources: Profiled | Mapping[str, Profiled], **options: Any) -> ProfileView:
    """Curves of one or several results; options as in :meth:`CausalTrace.per_layer`."""
    named = dict(sources) if isinstance(sources, Mapping) else {"": sources}
    if not named:
        raise FigureError("there is no profile to draw: the dict of sources is empty")
    series = tuple((str(name), _profile_of(value, options)) for name, value in named.items())
    aggregates = list(dict.fromkeys(curve.aggregate for _, curve in series))
    excess = all(isinstance(value, Excess) for value in named.values())
    quantity = f"{'CTE − control' if excess else 'CTE'}, {' or '.join(aggregates)} per layer"
    only = next(iter(named.values())) if len(named) == 1 else None
    notes: tuple[str, ...] = ()
    if isinstance(only, CausalTrace):
        notes = _trace_notes(only)
    elif isinstance(only, Excess):
        notes = (*_trace_notes(only.trace), f"less a control of {_plural(only.control.n_pairs, 'pair')}")
    elif len(series) == 1 and series[0][1].n_pairs:
        notes = (_plural(series[0][1].n_pairs, "pair"),)
    levels = {curve.ci for _, curve in series if curve.lo is not None}
    if len(levels) == 1:
        groups = {curve.n_groups for _, curve in series}
        over = f" over {_plural(groups.pop(), 'group')}" if len(groups) == 1 else ""
        notes = (*notes, f"band: {levels.pop():.0%} bootstrap interval{over}")
    return ProfileView(series, quantity, quantity + _model(only), notes)


def _pair_view(trace: CausalTrace, i: int, profile: bool | LayerProfile, aggregate: str) -> HeatmapView:
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
    notes = [f"S_corr − S_foil = {margin:.3f}".replace("-", "−"), *_settings(trace)]
    if not valid:
        notes.insert(0, f"no CTE: |S_corr − S_foil| is below the floor of {trace.floor:g}")
    elif margin < 0:
        notes.insert(1, "the model prefers the foil")
    return HeatmapView(
        values=values,
        layers=trace.layers,
        columns=columns,
        foils=foils,
        marked=marked,
        counts=None,
        profile=_beside(profile, lambda: curve),
        quantity="CTE",
        unit=_unit(trace),
        title=f"CTE by layer and {_unit(trace)[:-1]}, pair {trace.ids[i]}{_model(trace)}",
        notes=tuple(notes),
    )


Columns = tuple[tuple[str, ...], tuple[str, ...], np.ndarray]  # names, the foil's names, which differ


def _token_columns(trace: CausalTrace, i: int) -> Columns:
    n = len(trace.tokens[i])
    special = (trace.kinds[i, :n] == 1) | (trace.kinds[i, :n] >= 4)
    marked = trace.differs[i, :n]
    foils = tuple(
        tidy_token(token, bool(s)) if differs else ""
        for token, s, differs in zip(trace.foil_tokens[i], special, marked, strict=True)
    )
    return tuple(tidy_token(t, bool(s)) for t, s in zip(trace.tokens[i], special, strict=True)), foils, marked


def _named_columns(trace: CausalTrace) -> Columns:
    assert trace.columns is not None
    return trace.columns, ("",) * len(trace.columns), np.zeros(len(trace.columns), dtype=bool)


def _unit(trace: CausalTrace) -> str:
    """What the columns are, for a person."""
    if trace.columns is None:
        return "tokens"
    return "heads" if all(name.startswith("head ") for name in trace.columns) else "columns"


def _map_view(
    cells: TraceMap, beside: LayerProfile | None, unit: str, quantity: str, notes: tuple[str, ...], model: str = ""
) -> HeatmapView:
    if beside is not None and beside.lo is not None and beside.ci is not None:
        notes = (*notes, f"band: {beside.ci:.0%} bootstrap interval over {_plural(beside.n_groups, 'group')}")
    return HeatmapView(
        values=np.asarray(cells.values, dtype=np.float64),
        layers=cells.layers,
        columns=tuple(tidy_token(row) for row in cells.rows),
        foils=("",) * len(cells.rows),
        marked=np.array([row == "negator" or row.endswith(" differing") for row in cells.rows], dtype=bool),
        counts=np.asarray(cells.counts),
        profile=beside,
        quantity=quantity,
        unit=unit,
        title=f"{quantity} by layer and {unit[:-1] if unit != 'rows' else 'token'}{model}",
        notes=notes,
    )


def _beside(profile: bool | LayerProfile, compute: Any) -> LayerProfile | None:
    if isinstance(profile, LayerProfile):
        return profile
    return compute() if profile else None


def _profile_of(value: Any, options: Mapping[str, Any]) -> LayerProfile:
    if isinstance(value, CausalTrace | Excess):
        return value.per_layer(**options)
    if isinstance(value, TraceMap):
        _refuse_options(options, "a TraceMap", allowed=("aggregate",))
        return value.per_layer(**options)
    if isinstance(value, LayerProfile):
        _refuse_options(options, "a LayerProfile", allowed=())
        return value
    raise FigureError(
        f"cannot draw a profile of a {type(value).__name__}; give a CausalTrace, a TraceMap, a LayerProfile, "
        "an Excess, or a dict of names and these"
    )


def pair_number(trace: CausalTrace, pair: int | str) -> int:
    """Position of a pair that is given by its number or its id.

    Raises:
        FigureError: there is no such pair, or several have that id.
    """
    if isinstance(pair, str):
        found = [i for i, name in enumerate(trace.ids) if name == pair]
        if len(found) == 1:
            return found[0]
        if found:
            raise FigureError(f"{len(found)} pairs are called {pair!r}: choose one by its number, e.g. pair={found[0]}")
        close = difflib.get_close_matches(pair, trace.ids, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; the first is {trace.ids[0]!r}"
        raise FigureError(f"no pair is called {pair!r}{hint}")
    if isinstance(pair, bool) or not isinstance(pair, int | np.integer):
        raise FigureError(f"pair={pair!r}: choose a pair by its number or by its id")
    if not 0 <= pair < trace.n_pairs:
        raise FigureError(f"there is no pair {pair}: they are numbered 0 to {trace.n_pairs - 1}")
    return int(pair)


def _refuse_options(options: Mapping[str, Any], what: str, allowed: tuple[str, ...]) -> None:
    extra = [name for name in options if name not in allowed]
    if extra:
        raise FigureError(f"{', '.join(f'{name}={options[name]!r}' for name in extra)} does not apply to {what}")


def _trace_notes(trace: CausalTrace) -> tuple[str, ...]:
    texts = len(np.unique(trace.text_pair))
    size = _plural(trace.n_pairs, "pair") + (f" ({texts} texts)" if texts != trace.n_pairs else "")
    notes = [size, f"S_corr ≤ S_foil in {trace.share_inverted:.0%}"]
    invalid = int((~trace.valid).sum())
    if invalid:
        notes.append(f"{invalid} below the floor")
    return (*notes, *_settings(trace))


def _map_notes(cells: TraceMap) -> tuple[str, ...]:
    return (*((_plural(cells.n_pairs, "pair"),) if cells.n_pairs else ()), _reduced(cells))


def _reduced(cells: TraceMap) -> str:
    segment = "" if cells.segment == "all" else f", pairs: {cells.segment}"
    return cells.reduce.replace("_", " ") + segment.replace("<=", "≤")


def _settings(trace: CausalTrace) -> tuple[str, ...]:
    site = trace.provenance.get("site")
    named: tuple[str, ...] = (_SITES.get(str(site), str(site)),) if site else ()
    window = trace.provenance.get("window", 1)
    method = trace.provenance.get("method", "exact")
    named += () if method == "exact" else (f"method: {method}",)
    return (_ARROWS[trace.direction], *named, *((f"windows of {window} layers",) if window > 1 else ()))


def _model(source: Any) -> str:
    name = source.provenance.get("model") if isinstance(source, CausalTrace) else None
    return f" — {name}" if name else ""


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
