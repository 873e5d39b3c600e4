"""HTML of comparisons, faithfulness curves and circuits in notebooks."""

from __future__ import annotations

import re

from ...cards import card, table
from ...tracer.results.circuit import Circuit
from ...tracer.results.comparison import TraceComparison
from ...tracer.results.faithfulness import CURVES, RANDOM, Curve, Faithfulness
from ..figure_data import heatmap_data
from ..figure_data.labels import MINUS, number, plural
from .pictures import cells_svg

__all__ = ["circuit_html", "comparison_html", "curve_html", "faithfulness_html"]

_MOST = 24  # lines of a table in a cell of a notebook


def comparison_html(comparison: TraceComparison) -> str:
    """What was compared and what differs, and the map of differences with those of the profile."""
    said, *lines = comparison.summary().splitlines()
    told = [
        line.partition(": ")[::2] for line in lines if line.startswith(("cells: ", "layers: ", "blocks by alpha: "))
    ]
    doubts = [line for line in lines if not line.startswith(("cells: ", "layers: ", "blocks by alpha: "))]
    sizes = f"{len(comparison.layers)} layers × {len(comparison.rows)} rows"
    told = [(name, re.sub(r"-(?=\d)", MINUS, text)) for name, text in told]
    facts = [("compared", said), ("aggregate", comparison.aggregate), *told]
    picture = cells_svg(heatmap_data(comparison.map(), profile=comparison.per_layer()))
    return card("TraceComparison", sizes, facts, picture, doubts=doubts)


def faithfulness_html(found: Faithfulness) -> str:
    """The areas of every order, and the curves of the map's order beside the random ones, by k."""
    orders = list(dict.fromkeys(RANDOM if name.startswith(f"{RANDOM} ") else name for name in found.orders))
    header = ["k", "share of cells"]
    columns, facts = [], [("pairs", plural(found.n_pairs, "pair")), ("cells", f"{len(found.cells):,}")]
    for curve in CURVES:
        areas = []
        for order in orders:
            one = found.curve(curve, order, ci=None)
            areas.append(f"{order} CPR {one.cpr:.2f}, CMD {one.cmd:.2f}")
            if order != "magnitude":
                header.append(f"{curve}, {order}")
                columns.append(one.value)
        facts.append((curve, "; ".join(areas)))
    sizes = found.sizes.tolist()
    rows = [[sizes[at], sizes[at] / len(found.cells), *(float(v[at]) for v in columns)] for at in _listed(len(sizes))]
    first = f"first: {'; '.join(found.top(3))}"
    return card("Faithfulness", f"CTE of joint patches, {first}", facts, table(header, rows))


def curve_html(curve: Curve) -> str:
    """The curve's areas, and its values by k with their interval."""
    columns = [values for values in (curve.value, curve.lo, curve.hi) if values is not None]
    rows = [[int(curve.sizes[at]), *(float(values[at]) for values in columns)] for at in _listed(len(curve.sizes))]
    interval = ["from", "to"] if curve.ci is None else [f"{curve.ci:.0%} from", "to"]
    header = ["k", "CTE", *interval[: len(columns) - 1]]
    areas = f"CPR {curve.cpr:.2f}, CMD {curve.cmd:.2f}"
    return card("Curve", f"CTE of joint patches of k cells, {areas}", (), table(header, rows))


def _listed(n: int) -> list[int]:
    """Which of so many lines are listed: all, or every so many and the last."""
    step = max(1, -(-n // _MOST))
    return [at for at in range(n) if at % step == 0 or at == n - 1]


def circuit_html(found: Circuit) -> str:
    """The cells in the order in which they were taken, with what they carry together."""
    spread = "" if found.lo is None or found.hi is None else f" [{number(found.lo, 2)}, {number(found.hi, 2)}]"
    facts = [
        ("share", f"{number(found.share, 2)}{spread} of S_corr − S_foil; asked for {found.wanted:g}"),
        ("all cells together", number(found.whole, 2)),
        ("method", found.method),
        ("pairs", plural(found.n_pairs, "pair")),
    ]
    cells = zip(found.cells, found.alone.tolist(), found.shares.tolist(), found.stability.tolist(), strict=True)
    rows = [[row, layer, *values] for (layer, row), *values in cells][:_MOST]
    listed = table(["row", "layer", "CTE alone", "together", "stability"], rows)
    more = [f"{len(found) - _MOST} further cells are in .to_frame()"] if len(found) > _MOST else []
    return card("Circuit", f"{len(found)} of {found.n_cells} cells", facts, listed, doubts=more)
