"""A view as code: the calls of the API that give exactly its numbers."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ...tracer.pairs.pairs import Text
from ...tracer.results.candidates import Candidates
from .answers import alone, selected_role
from .computing import MAIN
from .panels import Panels
from .rankings import rankings
from .tracing import BATCH

if TYPE_CHECKING:
    from ...tracer.run.options import TraceOptions
    from .session import ExplorerSession
    from .tracing import Query

__all__ = ["view_code"]


def view_code(session: ExplorerSession) -> str:
    """Python that computes what is shown.

    It binds ``cells`` (the map; of two traces their difference, or the second one's where their layers differ),
    ``profile``, ``plan`` and ``shares`` (of the update);
    for a selected cell ``cell`` and ``patched`` (the base caption's score with the patch); and where they are shown
    ``scores`` (of the captions), ``heads``, ``attention`` and ``effects`` (by pair of the data set). Of a second trace,
    ``profile_b``, ``scores_b`` and ``patched_b``. The models and data sets are those that were given to ``explore``,
    under the names of its arguments.
    """
    settings = session.settings
    kind, name = session.compared()
    traces = ["trace"]
    if settings.scope == "data":
        lines = [_traced_set(session, "trace", "model", "pairs")]
        if kind == "model":
            lines.append(_traced_set(session, "trace_b", _model(name), "pairs"))
            traces.append("trace_b")
    elif kind == "tried":
        before = session.entry(name)
        lines = [*_pair(before.query, "trace", "model"), *_scores(before.query, before.candidates[2:]), ""]
        lines += [*_pair(session.query, "trace_b", "model"), *_scores(session.query, session.further, "_b")]
        traces.append("trace_b")
    else:
        lines = [*_pair(session.query, "trace", "model"), *_scores(session.query, session.further)]
        if kind == "model":
            lines += [
                *_retargeted(session.query, _model(name)),
                *_traced(session.query, "trace_b", _model(name)),
                *_scores(session.query, session.further, "_b", _model(name)),
            ]
            traces.append("trace_b")
    sources = traces
    if settings.subtract:
        lines.append(_traced_set(session, "control", "model", "control_pairs"))
        controls = ["control"] * len(traces)
        if kind == "model":
            lines.append(_traced_set(session, "control_b", _model(name), "control_pairs"))
            controls = ["control", "control_b"]
        sources = [f"{trace}.control({control})" for trace, control in zip(traces, controls, strict=True)]
    lines += ["", *_cells(session, sources), *_asked(session)]
    lines += [
        "",
        f"plan = ts.prescribe({sources[-1]}, beta={float(settings.beta)!r}, aggregate={settings.aggregate!r}, "
        f"normalize={settings.normalize!r}, layers={settings.layers!r})",
        "shares = plan.multipliers / plan.multipliers.sum()",
    ]
    lines = [*_givens(session, lines), *lines]
    return "\n".join([*_imports(lines), "", *(line for line in lines if not line.startswith("from "))]) + "\n"


def _imports(lines: list[str]) -> list[str]:
    """The imports that these lines need, those among them included."""
    numpy = ["import numpy as np"] if any("np." in line for line in lines) else []
    named = [line for line in dict.fromkeys(lines) if line.startswith("from ")]
    return [*numpy, "import tracescribe as ts", *named]


def _givens(session: ExplorerSession, lines: list[str]) -> list[str]:
    """What the other lines take as given."""
    weights = {trace.provenance.get("weights_sha256") for trace in session.traces_shown()}
    if session.model.name == "phantom" and weights <= {_shipped_weights()}:
        found = ['model = ts.load("phantom")']
    else:
        found = [f"# model: {session.model.name!r}, as it was given to explore(model, ...)"]
    used = " ".join(lines)
    if "compare[" in used:
        found.append("# compare: the models that were given to explore(..., compare=)")
    for name, argument in (("pairs", "pairs"), ("control_pairs", "control=")):
        if re.search(rf"\b{name}\b", used):
            path = session.files.get(name)
            read = f"{name} = ts.read_pairs({path!r})"
            found.append(f"# {name}: the pairs that were given to explore(..., {argument})" if path is None else read)
    return found


@cache
def _shipped_weights() -> str:
    """The fingerprint of the shipped miniature: a model of its name that was trained since is another one."""
    from ...patching import load

    return load("phantom").text.fingerprint()


def _model(name: str) -> str:
    return f"compare[{name!r}]"


def _options(options: TraceOptions, *skip: str) -> str:
    """The options that differ from their defaults, as keyword arguments of a call."""
    given = [(each, getattr(options, each.name)) for each in fields(options) if each.name not in skip]
    return "".join(f", {each.name}={_literal(value)}" for each, value in given if value != each.default)


def _literal(value: Any) -> str:
    if isinstance(value, Candidates):
        return repr([[value.rows[row] for row in listed] for listed in value.lists or ()])
    return repr(str(value)) if type(value).__module__ == "torch" else repr(value)


def _traced_set(session: ExplorerSession, name: str, model: str, pairs: str) -> str:
    """The trace of a set of pairs; of candidates, each pair has its foil and the further ones."""
    options = session.pooled_options("data" if pairs == "pairs" else "control")
    rivals = ""
    if options.candidates is not None:
        further = ", ".join(repr(caption) for caption in session.candidates)
        rivals = f", candidates=[[pair.foil, {further}] for pair in {pairs}]"
    given = _options(options, "batch_size", "candidates") + rivals
    return f"{name} = ts.trace({model}, {pairs}{given}, batch_size={BATCH}, progress=False)"


def _pair(query: Query, name: str, model: str) -> list[str]:
    lines = [*query.target.code]
    lines.append(f"pair = ts.Pair(correct={query.correct!r}, foil={query.foil!r}, image=target)")
    return [*lines, *_traced(query, name, model)]


def _traced(query: Query, name: str, model: str) -> list[str]:
    return [f"{name} = ts.trace({model}, [pair]{_options(query.options)}, progress=False)"]


def _retargeted(query: Query, model: str) -> list[str]:
    """The pair with the image as another model sees it; a text is the same to all."""
    last = query.target.code[-1]
    if "model.encode_images" not in last:
        return []
    return [
        last.replace("model.encode_images", f"{model}.encode_images", 1),
        f"pair = ts.Pair(correct={query.correct!r}, foil={query.foil!r}, image=target)",
    ]


def _scores(query: Query, further: tuple[str, ...], suffix: str = "", model: str = "model") -> list[str]:
    """The captions' cosines, where others than the two of the trace are ranked with them."""
    if not further:
        return []
    if isinstance(query.target.content, Text):
        unit = f"{model}.encode_texts([target.text])[0].float().cpu().numpy()"
    elif "encode_images" in query.target.code[-1]:
        unit = "target.float().cpu().numpy()"
    else:
        unit = "np.asarray(target) / np.linalg.norm(target)"
    captions = "".join(f", {caption!r}" for caption in further)
    return [
        f"captions{suffix} = [pair.correct, pair.foil{captions}]",
        f"scores{suffix} = {model}.encode_texts(captions{suffix}).float().cpu().numpy() @ ({unit})",
    ]


def _asked(session: ExplorerSession) -> list[str]:
    """What is shown of the selected cell or column."""
    layer, column = session.settings.layer, session.settings.column
    panels = session.panels()
    if column is None or not isinstance(panels, Panels):
        return []
    rows, columns = panels.panels[-1].values.shape
    if column >= columns or (layer or 0) >= rows:  # of a map that is not shown any more
        return []
    lines = [] if layer is None else [f"cell = cells[{layer}, {column}]"]
    for one, suffix in zip(rankings(session, panels), ("", "_b"), strict=False):
        if one.patched is not None and one.trace is not None:
            cosines = "" if one.trace.metric.name == "cosine" else ".rescore(metric='cosine')"
            lines.append(f"patched{suffix} = trace{suffix}{cosines}.scores.patched[0, {layer}, {column}]")
    if alone(session, panels) and session.result is not None:
        trace, query = session.result.traces[MAIN], session.result.query
        if (session.result.number, column) in session.heads:
            options = _options(replace(query.options, site="z", positions=(column,), heads="each"))
            lines.append(f"heads = ts.trace(model, [pair]{options}, progress=False).cte[0]")
        if layer is not None and (session.result.number, layer, column) in session.attention:
            lines += _attention(session, int(trace.layers[layer]), column)
    role = selected_role(session, panels)
    if role is not None and layer is not None and ("data", MAIN, session.pooled_options()) in session.pooled:
        number = int(panels.panels[-1].data.layers[layer])
        if session.settings.scope == "pair":
            lines.append(_traced_set(session, "data", "model", "pairs"))
        lines += [
            f"frame = {'data' if session.settings.scope == 'pair' else 'trace'}.to_frame()",
            f"frame = frame[(frame.layer == {number}) & (frame.role == {role!r})]",
            "effects = frame.groupby('pair').cte.mean().dropna().sort_values()",
        ]
    return lines


def _attention(session: ExplorerSession, number: int, column: int) -> list[str]:
    captions = "(pair.correct,)" if session.captions.aligned else "(pair.correct, pair.foil)"
    return [
        "attention = []",
        f"for caption in {captions}:",
        "    [(_, patterns)] = ts.patching.attention_patterns(model.text, model.text.rows([caption]))",
        f"    attention.append(patterns[0, {number - 1}, :, {column}])",
    ]


def _cells(session: ExplorerSession, sources: list[str]) -> list[str]:
    """Lines that bind the map and the profile beside it; of two, their difference (else B's) and both profiles."""
    panels = session.panels()
    aggregate = session.settings.aggregate
    lines: list[str] = []
    difference = isinstance(panels, Panels) and len(panels.panels) == 3
    names = ["profile", "profile_b"][: len(sources)]
    if panels is None or isinstance(panels, str) or not panels.by_role:
        maps = [f"{source}.cte[0]" for source in sources]
        cells = f"cells = {maps[-1]}"
        if difference:
            cells = f"cells = {maps[1]}.astype(np.float64) - {maps[0]}"
        made = [f"np.nan{aggregate}({cells_of}.astype(np.float64), axis=1)" for cells_of in maps]
    else:
        single = session.settings.scope == "pair" or len(session.pairs) == 1
        segment = ", segment='all'" if single and not session.settings.subtract else ""
        maps = ["map_a", "map_b"][: len(sources)]
        for name, source in zip(maps, sources, strict=True):
            lines.append(f"{name} = {source}.map(align='role'{segment})")
        cells = f"cells = {maps[-1]}.values"
        if difference:
            lines.append("rows = [row for row in map_a.rows if row in map_b.rows]")
            cells = "cells = np.stack([map_b.row(row) - map_a.row(row) for row in rows], axis=1)"
        of = maps if segment else sources
        made = [f"{one}.per_layer(aggregate={aggregate!r}).value" for one in of]
    return [*lines, cells, *(f"{name} = {value}" for name, value in zip(names, made, strict=True))]
