"""HTML of neurons, edges between heads, attention that is cut, and attention to negators in notebooks."""

from __future__ import annotations

from ...cards import card, table
from ...tracer.results.head_edges import HeadEdges
from ...tracer.results.knockout import KnockOut
from ...tracer.results.negator_attention import NegatorAttention
from ...tracer.results.neurons import Neurons
from ..figure_data import heatmap_data
from ..figure_data.labels import number, plural
from .pictures import cells_svg

__all__ = ["head_edges_html", "knock_out_html", "negator_attention_html", "neurons_html"]

_MOST = 12  # lines of a table in a cell of a notebook


def neurons_html(found: Neurons) -> str:
    """Where the chosen neurons sit, the first ones with their exact CTE, and how good the estimates are."""
    chosen = int(found.chosen.sum())
    facts = [
        ("pairs", plural(found.n_pairs, "pair")),
        (f"the first {chosen} together", f"CTE {number(found.share_together)}"),
        ("estimates", str(found.agreement)),
    ]
    cells = zip(found.row, found.layer.tolist(), found.neuron.tolist(), found.estimate, found.cte, strict=True)
    rows = [[*cell[:3], *(number(float(value)) for value in cell[3:])] for cell in cells][: min(chosen, _MOST)]
    listed = table(["row", "layer", "neuron", "estimate", "CTE"], rows)
    picture = cells_svg(heatmap_data(found.map(), profile=False))
    more = [f"all {len(found)} cells are in .to_frame()"] if len(found) > len(rows) else []
    return card("Neurons", f"{chosen} of {found.n_cells:,} cells", facts, picture, listed, doubts=more)


def head_edges_html(found: HeadEdges) -> str:
    """The largest edge between every two layers, and the largest of all."""
    frame = found.to_frame(ci=None)
    facts = [("pairs", plural(found.n_pairs, "pair")), ("inputs of the receiver", found.inputs)]
    rows = [
        [f"{layer}.{head} → {to_layer}.{to_head}", number(float(cte))]
        for layer, head, to_layer, to_head, cte in frame.iloc[:_MOST, :5].itertuples(index=False)
    ]
    listed = table(["layer.head → layer.head", "CTE"], rows)
    picture = cells_svg(heatmap_data(found.by_layer(), profile=False))
    return card("HeadEdges", f"{len(frame):,} edges", facts, picture, listed)


def knock_out_html(found: KnockOut) -> str:
    """The row of queries with the largest effect as a map, and the largest cell of each."""
    largest = found.largest()
    cells = found.map(largest[0].query)
    rows = [[cut.query, cut.key, cut.layer, number(cut.cte)] for cut in largest[:_MOST]]
    listed = table(["queries", "key", "layer", "CTE"], rows, left=2)
    facts = [("rows of queries", len(found.traces)), ("map", f"queries {largest[0].query}")]
    picture = cells_svg(heatmap_data(cells, profile=False))
    return card("KnockOut", f"{len(cells.layers)} layers", facts, picture, listed)


def negator_attention_html(found: NegatorAttention) -> str:
    """The heads' selectivity as a map, and the most selective ones with the two attentions."""
    frame = found.ranked()
    columns = ["selectivity", "negated", "affirmative"]
    rows = [
        [f"{row['layer']}.{row['head']}", *(number(row[name]) for name in columns)]
        for row in frame.head(_MOST).to_dict("records")
    ]
    listed = table(["layer.head", "selectivity", "to the negator", "to its counterpart"], rows)
    facts = [("pairs", plural(found.n_pairs, "pair")), ("negators", found.words())]
    picture = cells_svg(heatmap_data(found.map(), profile=False))
    return card("NegatorAttention", f"{len(frame):,} heads", facts, picture, listed)
