"""Pages of single neurons, of edges between heads, of attention that is cut, and of attention to negators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...arguments import explains_arguments
from ...tracer.results.head_edges import HeadEdges
from ...tracer.results.knockout import KnockOut
from ...tracer.results.negator_attention import NegatorAttention
from ...tracer.results.neurons import Neurons
from ..figure_data.labels import number
from ..figures import heatmap
from ..layouts import panels
from .provenance import provenance_table
from .report import Note, Plot, Report, Section, Table
from .result_pages import bounds_text

if TYPE_CHECKING:
    from ...tracer.results.maps import TraceMap

__all__ = ["head_edges_page", "knock_out_page", "negator_attention_page", "neurons_page"]

_MOST = 15  # lines of a table


@explains_arguments
def neurons_page(found: Neurons, *, title: str | None = None, seed: int = 0) -> Report:
    """The page of neurons for :func:`tracescribe.viz.report`: where they sit, what each does, how good estimates are.

    seed: of the intervals.
    """
    frame = found.to_frame(seed=seed)
    lines = [
        [row["layer"], row["row"], row["neuron"], row["estimate"], row["cte"], bounds_text(row["lo"], row["hi"], 3)]
        for row in frame[found.chosen].head(_MOST).to_dict("records")
    ]
    smallest = float(np.abs(found.cte[found.chosen]).min())
    missed = found.agreement.largest_other
    notes = [Note(f"Estimates against exact effects: {found.agreement}.")]
    if missed is not None and missed > smallest:
        notes.append(
            Note(
                f"A neuron that was drawn at random has a larger |CTE| ({number(missed)}) than the smallest of the "
                f"chosen ones ({number(smallest)}): the estimates miss neurons. Trace more with top=.",
                "caution",
            )
        )
    chosen = int(found.chosen.sum())
    sections = [
        Section(
            "Where they sit",
            figures=[_heatmap(found.map(), f"Exact CTE of the first {chosen} neurons, summed by layer and row.")],
        ),
        Section(
            "The first neurons",
            text=[
                "A neuron is one activation of an MLP at the tokens of a row. All were ranked by gradient × "
                "difference; these were replaced one by one."
            ],
            notes=notes,
            tables=[Table(["layer", "row", "neuron", "estimate", "CTE", "interval"], lines, decimals=3)],
            code=['found = ts.tracer.load_neurons("neurons.safetensors")\nfound.to_frame()'],
        ),
        Section("How it came about", tables=[provenance_table(found.provenance)]),
    ]
    facts = [
        ("cells", f"{found.n_cells:,}"),
        ("pairs", f"{found.n_pairs:,}"),
        (f"the first {chosen} together", number(found.share_together)),
    ]
    return Report(_named(title, "Neurons", found.provenance), f"{found.summary()}.", sections, facts)


@explains_arguments
def head_edges_page(found: HeadEdges, *, title: str | None = None, seed: int = 0) -> Report:
    """The page of edges between heads for :func:`tracescribe.viz.report`: the largest ones, and where they lead.

    seed: of the intervals.
    """
    frame = found.to_frame(top=_MOST, seed=seed)
    lines = [
        [
            f"{row['layer']}.{row['head']}",
            f"{row['receiver_layer']}.{row['receiver_head']}",
            row["cte"],
            bounds_text(row["lo"], row["hi"], 3),
        ]
        for row in frame.to_dict("records")
    ]
    largest = frame.iloc[0]
    sender = (int(largest.layer), int(largest["head"]))
    receiver = (int(largest.receiver_layer), int(largest.receiver_head))
    sections = [
        Section(
            "Between layers",
            text=["Of the edges between two layers, the one with the CTE of largest size."],
            figures=[_heatmap(found.by_layer(), "CTE of the largest edge, from the layer across to that of the row.")],
        ),
        Section(
            "The largest edges",
            text=["Heads are layer.head. Every edge is exact; a chain of edges is not the sum of its parts."],
            tables=[Table(["from", "to", "CTE", "interval"], lines, decimals=3)],
            code=['found = ts.tracer.load_head_edges("edges.safetensors")\nfound.to_frame()'],
        ),
        Section(
            "The heads of the largest one",
            figures=[
                _heatmap(found.map(sender=sender), f"Where head {sender[1]} of layer {sender[0]} sends to."),
                _heatmap(
                    found.map(receiver=receiver), f"Where head {receiver[1]} of layer {receiver[0]} receives from."
                ),
            ],
        ),
        Section("How it came about", tables=[provenance_table(found.provenance)]),
    ]
    facts = [("inputs of the receiver", found.inputs), ("pairs", f"{found.n_pairs:,}")]
    return Report(_named(title, "Edges between heads", found.provenance), f"{found.summary()}.", sections, facts)


@explains_arguments
def knock_out_page(found: KnockOut, *, title: str | None = None) -> Report:
    """The page of attention that is cut for :func:`tracescribe.viz.report`: a map for every row of queries."""
    about = next(iter(found.traces.values())).provenance
    maps = {query: found.map(query) for query in found.queries}
    lines = [[cut.query, cut.key, cut.layer, cut.cte, maps[cut.query].n_pairs] for cut in found.largest()]
    sections = [
        Section(
            "What each row of queries reads",
            text=[
                "CTE of cutting attention from a row of queries (a panel) to a token (a line) in one layer. It says "
                "that the score needs the edge, not that the edge tells the two captions apart."
            ],
            figures=[
                Plot(
                    panels({f"queries: {query}": cells for query, cells in maps.items()}, bars=None, title=""),
                    "A panel per row of queries, all on one colour scale; NaN where no pair has the token.",
                    "Heatmaps of CTE by layer and key, one per row of queries",
                )
            ],
            tables=[
                Table(
                    ["queries", "key", "layer", "CTE", "pairs"],
                    lines,
                    caption="The largest cell of each row of queries.",
                    decimals=3,
                )
            ],
            code=['found = ts.tracer.load_knock_out("cut.safetensors")\nfound.at(2)'],
        ),
        Section("How it came about", tables=[provenance_table(about)]),
    ]
    facts = [("rows of queries", f"{len(found.traces)}"), ("window", f"{about.get('window') or 1}")]
    return Report(_named(title, "Attention that is cut", about), f"{found.summary()}.", sections, facts)


@explains_arguments
def negator_attention_page(found: NegatorAttention, *, title: str | None = None) -> Report:
    """The page of attention to negators for :func:`tracescribe.viz.report`: the map of heads, and the first of them."""
    frame = found.ranked()
    lines = [
        [
            f"{row['layer']}.{row['head']}",
            row["selectivity"],
            bounds_text(row["lo"], row["hi"], 3),
            row["negated"],
            row["affirmative"],
        ]
        for row in frame.head(_MOST).to_dict("records")
    ]
    sections = [
        Section(
            "Which heads select the negator",
            text=[
                "The largest excess, over later tokens, of the attention to the negator over that to the token in its "
                "place in the affirmative caption; averaged over pairs. It says what a head attends to, not what "
                "that does to the embedding."
            ],
            figures=[
                _heatmap(found.map(), "Attention to the negator less that to its counterpart, by layer and head.")
            ],
        ),
        Section(
            "The most selective heads",
            text=["Heads are layer.head."],
            tables=[
                Table(["head", "selectivity", "interval", "to the negator", "to its counterpart"], lines, decimals=3)
            ],
            code=['found = ts.tracer.load_negator_attention("heads.safetensors")\nfound.to_frame()'],
        ),
        Section("How it came about", tables=[provenance_table(found.provenance)]),
    ]
    facts = [("pairs", f"{found.n_pairs:,}"), ("negators", found.words())]
    if found.ci is not None:
        facts.append(("interval", f"{100 * found.ci:g} %"))
    return Report(_named(title, "Attention to negators", found.provenance), f"{found.summary()}.", sections, facts)


def _heatmap(cells: TraceMap, said: str) -> Plot:
    return Plot(heatmap(cells, title="", profile=False), said, f"Heatmap: {said}")


def _named(title: str | None, what: str, provenance: dict[str, object]) -> str:
    return title if title is not None else f"{what} of {provenance.get('model') or 'a model'}"
