"""HTML of traces, maps, profiles and plans in notebooks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from ...cards import card
from ...errors import DegenerateTraceError
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from ...tracer.results.profiles import pairs_used
from ...tracer.results.tables import what_the_readout_reads
from ..figure_data import heatmap_data
from ..figure_data.labels import number, plural
from ..figure_data.notes import map_notes, settings
from .pictures import bars_svg, cells_svg, patches_svg

if TYPE_CHECKING:
    from ...cards import Markup

__all__ = ["excess_html", "map_html", "profile_html", "trace_html"]

_MOST_PAIRS = 20_000  # of a map that is drawn whenever a cell shows the trace: about a second of work


def trace_html(trace: CausalTrace) -> str:
    """What was traced, which pairs enter a map, and the map with its sums per layer."""
    texts = len(np.unique(trace.text_pair))
    split = ", ".join(
        f"{int((trace.segment == name).sum()):,} {name}" for name in ("correct", "ambiguous", "incorrect")
    )
    invalid, about = int((~trace.valid).sum()), trace.provenance
    facts: list[tuple[str, object]] = [
        ("model", about.get("model")),
        ("patched", " · ".join(settings(trace))),
        ("pairs", plural(trace.n_pairs, "pair") + (f" of {plural(texts, 'text')}" if texts != trace.n_pairs else "")),
        ("in maps", _entered(trace)),
        ("margins", f"{split}; S_corr ≤ S_foil in {trace.share_inverted:.0%}"),
        ("below the floor", f"{invalid:,} (|S_corr − S_foil| < {trace.floor:g})" if invalid else None),
        ("first pair", f"{trace.captions[0]}" if trace.captions and trace.captions[0] else None),
        (
            "map",
            f"over {_MOST_PAIRS:,} pairs it is drawn on demand: .heatmap()" if trace.n_pairs > _MOST_PAIRS else None,
        ),
        ("its foil", f"{trace.foil_captions[0]}" if trace.foil_captions and trace.foil_captions[0] else None),
    ]
    readout = what_the_readout_reads(about)
    return card("CausalTrace", _size(trace), facts, *_map_of(trace), doubts=[] if readout is None else [readout])


def map_html(cells: TraceMap) -> str:
    """The map, how it was made, and its sums per layer."""
    facts = [("quantity", None if cells.quantity == "CTE" else cells.quantity), ("pairs", " · ".join(map_notes(cells)))]
    size = f"{len(cells.layers)} layers × {len(cells.rows)} rows"
    return card("TraceMap", size, facts, cells_svg(heatmap_data(cells)))


def excess_html(excess: Excess) -> str:
    """The difference map of a trace and its control."""
    sides = (("trace", excess.trace), ("control", excess.control))
    facts = [(name, f"{plural(side.n_pairs, 'pair')}, {' · '.join(settings(side))}") for name, side in sides]
    return card("Excess", "trace − control", facts, *_map_of(excess))


def profile_html(curve: LayerProfile) -> str:
    """Bars with their interval."""
    sizes = [plural(curve.n_pairs, "pair"), plural(curve.n_groups, "group")] if curve.n_pairs else []
    sizes += [plural(curve.n_texts, "text")] if curve.n_texts is not None else []
    peak = int(np.nanargmax(curve.value)) if np.isfinite(curve.value).any() else None
    facts = [
        ("over", ", ".join(sizes)),
        ("interval", f"{curve.ci:.0%} bootstrap" if curve.ci is not None else None),
        ("highest", None if peak is None else f"layer {curve.layers[peak]} ({number(float(curve.value[peak]))})"),
    ]
    picture = bars_svg(curve.value, curve.layers.tolist(), f"CTE, {curve.aggregate}", curve.lo, curve.hi)
    about = f"{curve.aggregate} per layer, layers {curve.layers[0]} to {curve.layers[-1]}"
    return card("LayerProfile", about, facts, picture, doubts=[curve.caution] if curve.caution else [])


def _size(trace: CausalTrace) -> str:
    cells = f"{trace.kinds.shape[1]} tokens" if trace.columns is None else f"{len(trace.columns)} columns"
    return f"{plural(trace.n_pairs, 'pair')}, layers {trace.layers[0]} to {trace.layers[-1]}, {cells}"


def _entered(trace: CausalTrace) -> str:
    if not trace.valid.any():
        return "none: no pair has a usable S_corr − S_foil, so that no CTE is defined"
    used, name = pairs_used(trace, None, warn=False)
    return f"{len(used):,} ({name.replace('<=', '≤')})"


def _map_of(source: CausalTrace | Excess) -> list[Markup]:
    trace = source.trace if isinstance(source, Excess) else source
    if trace.n_pairs > _MOST_PAIRS:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which pairs enter is among the facts
        try:
            view = heatmap_data(source, profile=_sums(source))
        except DegenerateTraceError:
            return []
    return [patches_svg(view) or cells_svg(view)]


def _sums(source: CausalTrace | Excess) -> LayerProfile:
    return source.per_layer(ci=None)
