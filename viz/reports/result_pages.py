"""Pages of a comparison of two traces, of faithfulness curves, and of a circuit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arguments import explains_arguments
from ...tracer.results.circuit import Circuit
from ...tracer.results.comparison import Contrast, TraceComparison
from ...tracer.results.faithfulness import CURVES, RANDOM, Faithfulness
from ...tracer.results.maps import LayerProfile
from ..figure_data.labels import number, plural
from ..figures import faithfulness, heatmap, profile
from .provenance import provenance_table
from .report import Note, Plot, Report, Section, Table

__all__ = ["bounds_text", "circuit_page", "comparison_page", "faithfulness_page"]

_MOST = 15  # cells that a table lists
_LEVEL = 0.05  # of the false discovery rate


@explains_arguments
def comparison_page(comparison: TraceComparison, *, title: str | None = None) -> Report:
    """The page of a comparison for :func:`tracescribe.viz.report`: the differences by cell, layer and block."""
    first, second = comparison.names
    said, *lines = comparison.summary().splitlines()
    notes = [Note(f"{line}.", "caution") for line in lines if not line.startswith(("cells", "layers", "blocks"))]
    differ = [
        f"{int((contrast.q[contrast.tested] < _LEVEL).sum())} of {int(contrast.tested.sum())} {what}"
        for what, contrast in (("cells", comparison.cells), ("layers", comparison.profile))
    ]
    named = title if title is not None else f"{second} against {first}"
    curves = {first: comparison.profile.first, second: comparison.profile.second}
    drawn = {
        name: LayerProfile(values, comparison.layers, comparison.aggregate, n_pairs=pairs)
        for (name, values), pairs in zip(curves.items(), comparison.n_pairs, strict=True)
    }
    sections = [
        Section(
            "Where they differ",
            text=["A difference is the second less the first. Cells that are fixed by construction are not tested."],
            notes=notes,
            figures=[
                Plot(
                    heatmap(comparison.map(), title="", profile=comparison.per_layer()),
                    f"CTE of {second} less that of {first}, with its sum per layer.",
                    f"Heatmap of differences of CTE, {second} less {first}",
                )
            ],
            tables=[_largest(comparison)],
        ),
        Section(
            "By layer",
            figures=[Plot(profile(drawn, title=""), "Both profiles.", f"Lines of CTE of {first} and {second}")],
            tables=[_by_layer("layer", comparison.layers, comparison.profile, comparison)],
        ),
        Section(
            "Layer weights",
            text=["alpha: min-max of the profile over the blocks, as prescriptions have it."],
            tables=[_by_layer("block", comparison.blocks, comparison.alpha, comparison)],
        ),
    ]
    tables = [provenance_table(told, caption=comparison.names[i]) for i, told in enumerate(_provenances(comparison))]
    sections += [Section("How it came about", tables=tables)] if tables else []
    facts = [("differ", f"{', '.join(differ)} (q < {_LEVEL:g})"), ("pairs", " and ".join(map(str, comparison.n_pairs)))]
    facts += [
        (f"rank agreement, {what}", number(ranks, 2))
        for what, ranks in (("cells", comparison.cells.rank_agreement), ("layers", comparison.profile.rank_agreement))
        if ranks is not None
    ]
    return Report(named, f"{said}.", sections, facts)


@explains_arguments
def faithfulness_page(found: Faithfulness, *, title: str | None = None, seed: int = 0) -> Report:
    """The page of faithfulness curves for :func:`tracescribe.viz.report`: the curves, their areas, the first cells."""
    orders = list(dict.fromkeys(RANDOM if name.startswith(f"{RANDOM} ") else name for name in found.orders))
    areas = [[order, *(value for curve in CURVES for value in _areas(found, curve, order))] for order in orders]
    columns = ["order", *(f"{curve}: {area}" for curve in CURVES for area in ("CPR", "CMD"))]
    frame = found.to_frame(seed=seed)
    effect = frame[frame["order"] == "effect"]
    rows = [
        [row["curve"], int(row["k"]), row["share_of_cells"], row["cte"], bounds_text(row["lo"], row["hi"])]
        for row in effect.to_dict("records")
    ]
    first = [
        [rank + 1, *_layer_and_row(found, cell), float(found.cells.value[cell])]
        for rank, cell in enumerate(found.permutations[found.orders.index("effect")][:_MOST].tolist())
    ]
    drawn = faithfulness(found, title="", seed=seed)
    alt = "Lines of the CTE of joint patches by the number of cells, for the map's order and random orders"
    sections = [
        Section(
            "What the first cells do together",
            text=[
                "The map says what each cell does alone. Here the first k cells are patched together (sufficiency), "
                "and all but these (necessity: near 0 where the spared cells are needed), beside random orders.",
            ],
            figures=[Plot(drawn, "CTE of joint patches, with intervals; random orders: lowest to highest.", alt)],
            tables=[Table(columns, areas, caption="Higher CPR and lower CMD are better than another order's.")],
        ),
        Section("In the order of the map", tables=[Table(["curve", "k", "share of cells", "CTE", "interval"], rows)]),
        Section("The first cells", tables=[Table(["rank", "layer", "row", "CTE alone"], first)]),
        Section("How it came about", tables=[provenance_table(found.provenance)]),
    ]
    facts = [("cells", f"{len(found.cells):,}"), ("pairs", f"{found.n_pairs:,}")]
    named = title if title is not None else f"Faithfulness of the map of {found.provenance.get('model') or 'a model'}"
    return Report(named, found.summary() + ".", sections, facts)


@explains_arguments
def circuit_page(found: Circuit, *, title: str | None = None) -> Report:
    """The page of a circuit for :func:`tracescribe.viz.report`: its cells and what they carry together."""
    cells = zip(found.cells, found.alone.tolist(), found.shares.tolist(), found.stability.tolist(), strict=True)
    rows = [[rank, layer, row, *values] for rank, ((layer, row), *values) in enumerate(cells, start=1)]
    unsure = int((found.stability < 0.5).sum())
    notes = []
    if unsure:
        notes.append(Note(f"{plural(unsure, 'cell')} would be chosen again in less than half of the draws.", "caution"))
    interval = "" if found.lo is None or found.hi is None else f" (interval {bounds_text(found.lo, found.hi)})"
    carry = "carries" if len(found) == 1 else "carry"
    lead = (
        f"{plural(len(found), 'cell')} of {found.n_cells:,} {carry} {number(found.share, 2)}{interval} of S_corr − "
        f"S_foil together; {found.wanted:g} was asked for, and all cells together carry {number(found.whole, 2)}."
    )
    shown = LayerProfile(found.by_layer(), np.arange(found.n_layers + 1), "gain", n_pairs=found.n_pairs)
    sections = [
        Section(
            "The cells",
            text=["In the order in which they were taken; “together” is the exact CTE of all cells up to this one."],
            notes=notes,
            tables=[Table(["taken", "layer", "row", "CTE alone", "together", "stability"], rows)],
        ),
        Section(
            "By layer",
            text=["What the cells add when they are taken, summed by layer. A plan can take its layers from it."],
            figures=[Plot(profile(shown, title=""), "Gain in CTE by layer.", "Line of the gain in CTE by layer")],
            code=['plan = ts.prescribe(ts.tracer.load_circuit("circuit.json"))'],
        ),
        Section("How it came about", tables=[provenance_table(found.provenance)]),
    ]
    facts = [("method", found.method), ("pairs", f"{found.n_pairs:,}")]
    named = title if title is not None else f"Circuit of {found.provenance.get('model') or 'a model'}"
    return Report(named, lead, sections, facts)


def _provenances(comparison: TraceComparison) -> list[dict[str, Any]]:
    return [comparison.provenance[name] for name in ("first", "second") if name in comparison.provenance]


def _largest(comparison: TraceComparison) -> Table:
    """The cells of the smallest q, the largest difference first among equals."""
    frame = comparison.to_frame()
    cells = frame[(frame["quantity"] == "cte") & frame["p"].notna()]
    cells = cells.assign(size=cells["difference"].abs()).sort_values(["q", "size"], ascending=[True, False])
    rows = [
        [int(row["layer"]), row["row"], row["first"], row["second"], row["difference"],
         bounds_text(row["lo"], row["hi"]), f"{row['q']:.2g}"]
        for row in cells.head(_MOST).to_dict("records")
    ]  # fmt: skip
    columns = ["layer", "row", *comparison.names, "difference", "interval", "q"]
    caption = f"The {len(rows)} cells of the smallest q (false discovery rate over all tested cells)." if rows else ""
    return Table(columns, rows, caption=caption)


def _by_layer(what: str, layers: np.ndarray, contrast: Contrast, comparison: TraceComparison) -> Table:
    rows = [
        [
            int(layer), float(contrast.first[i]), float(contrast.second[i]), float(contrast.difference[i]),
            bounds_text(contrast.lo[i], contrast.hi[i]), f"{contrast.q[i]:.2g}" if contrast.tested[i] else "",
        ]
        for i, layer in enumerate(layers)
    ]  # fmt: skip
    strong = [i for i in range(len(rows)) if contrast.tested[i] and contrast.q[i] < _LEVEL]
    caption = f"Stressed: q < {_LEVEL:g}." if strong else ""
    return Table([what, *comparison.names, "difference", "interval", "q"], rows, caption=caption, highlight=strong)


def _areas(found: Faithfulness, curve: str, order: str) -> tuple[float, float]:
    one = found.curve(curve, order, ci=None)
    return one.cpr, one.cmd


def _layer_and_row(found: Faithfulness, cell: int) -> tuple[int, str]:
    return int(found.cells.layer[cell]), found.cells.rows[int(found.cells.row[cell])]


def bounds_text(lo: float, hi: float, decimals: int = 2) -> str:
    """An interval in a cell of a table; "" where there is none."""
    return "" if not np.isfinite([lo, hi]).all() else f"{number(lo, decimals)} … {number(hi, decimals)}"
