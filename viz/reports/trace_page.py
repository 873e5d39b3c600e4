"""The report page of a trace: what was traced, what was found, how far to trust it, and how it came about."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ...arguments import explains_arguments
from ...errors import TraceError
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import LayerProfile, TraceMap
from ...tracer.results.profiles import pairs_used
from ...tracer.results.tables import what_the_readout_reads
from ..figure_data.labels import number, plural, shorten
from ..figure_data.notes import settings
from ..figures import heatmap, profile
from .provenance import provenance_table
from .report import Note, Plot, Report, Section, Table

__all__ = ["trace_page"]

_MOST_PAIRS = 12


@explains_arguments
def trace_page(
    trace: CausalTrace, *, control: CausalTrace | None = None, title: str | None = None, seed: int = 0
) -> Report:
    """The page for :func:`tracescribe.viz.report`.

    control: a trace of swaps without the distinction; the page then says what exceeds it.

    Raises:
        TraceError: the control does not come from the same model and kind of trace.
    """
    name = shorten(str(trace.provenance.get("model") or "a model"), 80)
    title = title if title is not None else f"Causal trace of {name}"
    if not trace.valid.any():
        return Report(title, _no_pair(trace), [_pairs(trace), _provenance(trace)], footer=trace.summary())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which pairs enter stands in the text
        curve, cells = trace.per_layer(seed=seed), trace.map()
        sections = [_traced(trace), _where(trace, cells), _layers(trace, curve)]
        if control is not None:
            sections.append(_beyond(trace, control, seed))
        sections += [_trust(trace, curve, seed), _pairs(trace), _provenance(trace)]
    used, _ = pairs_used(trace, None, warn=False)
    facts = [("pairs in the map", f"{len(used):,} of {trace.n_pairs:,}"), ("layers", _span(trace))]
    peak = _peak(trace, curve)
    if peak is not None:
        facts.append(("highest sum of CTE", f"layer {curve.layers[peak]}"))
    facts.append(("site", settings(trace)[1]))
    return Report(title, " ".join(_findings(trace, curve, cells)), sections, facts, trace.summary())


def _no_pair(trace: CausalTrace) -> str:
    largest = float(np.abs(trace.denominator).max(initial=0.0))
    return (
        f"No CTE is defined: none of the {plural(trace.n_pairs, 'pair')} has |S_corr − S_foil| of {trace.floor:g} or "
        f"more (the largest is {largest:.2g}). The model does not tell these captions apart on these images."
    )


def _span(trace: CausalTrace) -> str:
    return f"{trace.layers[0]} to {trace.layers[-1]}"


def _ends_are_fixed(trace: CausalTrace) -> bool:
    """Whether the sums of layer 0 and of the last layer are 1 whatever the model."""
    told = trace.provenance
    resid = trace.site == "resid" and told.get("method", "exact") == "exact" and trace.columns is None
    return resid and what_the_readout_reads(told) is None


def _peak(trace: CausalTrace, curve: LayerProfile) -> int | None:
    """Where the curve is highest; of the residual stream, between the ends, which are 1 by construction."""
    value = curve.value.copy()
    if _ends_are_fixed(trace):
        value[[0, -1]] = np.nan
    return int(np.nanargmax(value)) if np.isfinite(value).any() else None


def _findings(trace: CausalTrace, curve: LayerProfile, cells: TraceMap) -> list[str]:
    said, peak = [], _peak(trace, curve)
    if peak is not None:
        interval = ""
        if curve.lo is not None and curve.hi is not None:
            interval = f" ({curve.ci:.0%} interval {number(curve.lo[peak], 2)} to {number(curve.hi[peak], 2)})"
        between = "Between the first and the last layer, " if _ends_are_fixed(trace) else ""
        sentence = f"CTE summed over tokens is highest at layer {curve.layers[peak]}: {number(curve.value[peak], 2)}"
        said.append(f"{between}{sentence}{interval}.")
    start = next((row for row in ("negator", "first differing") if row in cells.rows), None)
    end = next((row for row in ("[end]", "[EOT]") if row in cells.rows), None)
    if start is not None and end is not None:
        behind = np.flatnonzero(cells.row(end) <= cells.row(start))  # the last layer where the end token is behind
        if len(behind) and behind[-1] + 1 < len(cells.layers):
            layer = cells.layers[behind[-1] + 1]
            said.append(f"From layer {layer} on, the end token carries more of the effect than the differing token.")
    return said or [trace.summary()]


def _traced(trace: CausalTrace) -> Section:
    segments = trace.segment
    rows = [
        ["model", trace.provenance.get("model", "not said")],
        ["what was patched", ", ".join(settings(trace))],
        ["pairs", f"{trace.n_pairs:,}, of {plural(len(np.unique(trace.text_pair)), 'text')}"],
        ["clusters", f"{len(set(trace.groups)):,}"],
        ["pairs that the model gets right", f"{100 * (1 - trace.share_inverted):.0f} %"],
        ["margins", ", ".join(f"{int((segments == s).sum())} {s}" for s in ("correct", "ambiguous", "incorrect"))],
        ["below the floor", f"{int((~trace.valid).sum()):,} (|S_corr − S_foil| < {trace.floor:g})"],
    ]
    images = trace.provenance.get("modality") == "image"
    both = "an image and a counterfactual" if images else "a correct caption and a foil"
    read = "caption" if images else "image"
    return Section(
        "What was traced",
        text=[
            f"Each pair has {both}. One hidden state of one's run is put into the run of the other, at one layer and "
            f"one {'patch' if images else 'token'}, and the score with the {read} is read again. The causal tracing "
            "effect (CTE) is the share of S_corr − S_foil that this one state decides: 1 = all of it, 0 = nothing."
        ],
        tables=[Table(["fact", "value"], rows)],
    )


def _where(trace: CausalTrace, cells: TraceMap) -> Section:
    notes = []
    readout = what_the_readout_reads(trace.provenance)
    if readout is not None:
        notes.append(Note(f"{readout}.", "caution"))
    elif _ends_are_fixed(trace):
        notes.append(
            Note(
                "Layer 0 and the last layer sum to 1 by construction, and any differing token leaves such a path to "
                "the end token. Only what exceeds a control of other swaps is about the distinction.",
                "caution",
            )
        )
    said = f"{cells.quantity} by layer and {'token' if trace.columns is None else 'column'}"
    strongest = np.unravel_index(int(np.nanargmax(np.abs(cells.values))), cells.values.shape)
    alt = (
        f"Heatmap of {said}: {len(cells.layers)} layers by {len(cells.rows)} rows; the strongest cell is "
        f"{cells.rows[strongest[1]]}, layer {cells.layers[strongest[0]]}. The numbers follow as a table."
    )
    table = Table(
        ["layer", *cells.rows],
        [[int(layer), *map(float, row)] for layer, row in zip(cells.layers, cells.values, strict=True)][::-1],
        caption="The numbers of the figure.",
    )
    few = cells.values.shape[1] <= 16
    return Section(
        "Where the difference is carried",
        notes=notes,
        figures=[Plot(heatmap(trace, title=""), f"{said[0].upper()}{said[1:]}, over the pairs used.", alt)],
        tables=[table] if few else [],
    )


def _layers(trace: CausalTrace, curve: LayerProfile) -> Section:
    level = "" if curve.ci is None else f"{curve.ci:.0%} "
    columns = [("CTE", curve.value)]
    columns += [(f"{level}{end}", b) for end, b in (("low", curve.lo), ("high", curve.hi)) if b is not None]
    rows = [[int(layer), *(float(values[i]) for _, values in columns)] for i, layer in enumerate(curve.layers)]
    peak = _peak(trace, curve)
    alt = f"Line of CTE by layer{f' with its {level}interval' if level else ''}. The numbers follow as a table."
    return Section(
        "By layer",
        figures=[Plot(profile(curve, title=""), f"CTE, {curve.aggregate} over tokens, per layer.", alt)],
        tables=[
            Table(
                ["layer", *(name for name, _ in columns)],
                rows,
                highlight=[] if peak is None else [peak],
                caption="The highest row is stressed." if peak is not None else "",
            )
        ],
    )


def _beyond(trace: CausalTrace, control: CausalTrace, seed: int) -> Section:
    excess = trace.control(control)
    curve = excess.per_layer(seed=seed)
    text = "The same map for swaps that have nothing to do with the distinction, subtracted."
    if curve.lo is not None and curve.hi is not None:
        beyond = [int(n) for n, lo, hi in zip(curve.layers, curve.lo, curve.hi, strict=True) if lo > 0 or hi < 0]
        layers = ", ".join(map(str, beyond))
        text += f" The interval leaves out 0 at layers {layers}." if beyond else " The interval holds 0 at every layer."
    alt = "Lines of CTE by layer of the trace and of its control, and their difference as a heatmap"
    return Section(
        "Beyond the control",
        text=[text],
        figures=[
            Plot(profile({"trace": trace, "control": control}, title="", seed=seed), "The two by layer.", alt),
            Plot(heatmap(excess, title="", seed=seed), "Trace minus control.", "Heatmap of CTE − control"),
        ],
    )


def _trust(trace: CausalTrace, curve: LayerProfile, seed: int) -> Section:
    notes = [Note(f"{curve.caution}.", "caution")] if curve.caution else []
    text = []
    used, name = pairs_used(trace, None, warn=False)
    text.append(f"The maps are over {plural(len(used), 'pair')}: {name.replace('<=', '≤')}.")
    if name != "S_corr > S_foil":
        notes.append(Note("The model prefers the foil in every valid pair: these are its errors.", "caution"))
    try:
        agreement = trace.split_half(seed=seed)
    except TraceError:
        text.append("There are too few clusters to compare two halves of the data.")
    else:
        text.append(f"Maps of two random halves of the clusters correlate at {number(agreement, 2)} (1 = no noise).")
    if curve.ci is not None:
        text.append(
            f"Intervals resample {plural(curve.n_groups, 'cluster')}"
            + (f" and {plural(curve.n_texts, 'text')}." if curve.n_texts is not None else ".")
        )
    else:
        text.append("There is no interval: all pairs are of one cluster.")
    return Section("How far to trust it", text=text, notes=notes)


def _pairs(trace: CausalTrace) -> Section:
    order = np.argsort(-np.abs(trace.denominator), kind="stable")[:_MOST_PAIRS].tolist()
    rows: list[list[Any]] = []
    for i in order:
        sums = np.nansum(trace.cte[i], axis=1) if trace.valid[i] else np.full(len(trace.layers), np.nan)
        if _ends_are_fixed(trace):
            sums[[0, -1]] = np.nan
        peak = int(trace.layers[np.nanargmax(sums)]) if np.isfinite(sums).any() else None
        both = ["" if said is None else shorten(said[i], 90) for said in (trace.captions, trace.foil_captions)]
        rows.append([shorten(trace.ids[i], 40), *both, float(trace.denominator[i]), peak])
    few = trace.n_pairs > _MOST_PAIRS
    return Section(
        "Pairs",
        text=[f"The {_MOST_PAIRS} pairs with the largest margins, of {trace.n_pairs:,}."] if few else [],
        tables=[Table(["id", "correct", "foil", "S_corr − S_foil", "highest layer"], rows, decimals=3)],
    )


def _provenance(trace: CausalTrace) -> Section:
    code = 'import tracescribe as ts\n\ntrace = ts.load_trace("trace.safetensors")\ntrace.heatmap()'
    return Section("How it came about", tables=[provenance_table(trace.provenance)], code=[code])
