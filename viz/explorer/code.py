"""A view as code: the calls of the API that give exactly its numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ...tracer.results.candidates import Candidates
from .tracing import BATCH

if TYPE_CHECKING:
    from ...tracer.run.options import TraceOptions
    from .session import ExplorerSession
    from .tracing import Query

__all__ = ["view_code"]


def view_code(session: ExplorerSession) -> str:
    """Python that computes what is shown.

    It binds ``cells`` (the map; of two traces their difference), ``profile``, ``cell`` for a selected cell, and
    ``plan``. The models and data sets are those that were given to ``explore``, under the names of its arguments.
    """
    settings = session.settings
    kind, name = session.compared()
    pooled = settings.scope == "data"
    lines = _givens(session, kind)
    traces = ["trace"]
    if pooled:
        options = _pooled(session, "pairs")
        lines.append(f"trace = ts.trace(model, pairs{options}, batch_size={BATCH}, progress=False)")
        if kind == "model":
            lines.append(f"trace_b = ts.trace({_model(name)}, pairs{options}, batch_size={BATCH}, progress=False)")
            traces.append("trace_b")
    elif kind == "tried":
        before = next((one.query for one in session.tried if str(one.number) == name), session.query)
        lines += [*_pair(before, "trace", "model"), "", *_pair(session.query, "trace_b", "model")]
        traces.append("trace_b")
    else:
        lines += _pair(session.query, "trace", "model")
        if kind == "model":
            lines += [
                *_retargeted(session.query, _model(name)),
                *_traced(session.query, "trace_b", _model(name)),
            ]
            traces.append("trace_b")
    if settings.subtract:
        options = _pooled(session, "control_pairs")
        lines.append(f"control = ts.trace(model, control_pairs{options}, batch_size={BATCH}, progress=False)")
    sources = [f"{trace}.control(control)" if settings.subtract else trace for trace in traces]
    lines += ["", *_cells(session, sources)]
    if settings.layer is not None and settings.column is not None:
        lines.append(f"cell = cells[{settings.layer}, {settings.column}]")
    lines += [
        "",
        f"plan = ts.prescribe({sources[-1]}, beta={settings.beta:g}, aggregate={settings.aggregate!r}, "
        f"normalize={settings.normalize!r}, layers={settings.layers!r})",
    ]
    return "\n".join([*_imports(lines), "", *(line for line in lines if not line.startswith("from "))]) + "\n"


def _imports(lines: list[str]) -> list[str]:
    """The imports that these lines need, those among them included."""
    numpy = ["import numpy as np"] if any("np." in line for line in lines) else []
    named = [line for line in dict.fromkeys(lines) if line.startswith("from ")]
    return [*numpy, "import tracescribe as ts", *named]


def _givens(session: ExplorerSession, kind: str) -> list[str]:
    """What the code takes as given."""
    if session.model.name == "phantom":
        lines = ['model = ts.load("phantom")']
    else:
        lines = [f"# model: {session.model.name!r}, as it was given to explore(model, ...)"]
    if kind == "model":
        lines.append("# compare: the models that were given to explore(..., compare=)")
    if session.settings.scope == "data" or any("pairs[" in line for line in session.target.code):
        lines.append("# pairs: the data set that was given to explore(..., pairs)")
    if session.settings.subtract:
        lines.append("# control_pairs: the pairs that were given to explore(..., control=)")
    return lines


def _model(name: str) -> str:
    return f"compare[{name!r}]"


def _options(options: TraceOptions, *skip: str) -> str:
    """The options that differ from their defaults, as keyword arguments of a call."""
    given = [(each, getattr(options, each.name)) for each in fields(options) if each.name not in skip]
    return "".join(f", {each.name}={_literal(value)}" for each, value in given if value != each.default)


def _literal(value: Any) -> str:
    if isinstance(value, Candidates):
        return repr(list(value.rows))
    return repr(str(value)) if type(value).__module__ == "torch" else repr(value)


def _pooled(session: ExplorerSession, pairs: str) -> str:
    """The options of a trace of pairs, as keyword arguments; of candidates, each pair has its foil and the further."""
    options = session.pooled_options()
    rivals = ""
    if options.candidates is not None:
        further = ", ".join(repr(caption) for caption in session.candidates)
        rivals = f", candidates=[[pair.foil, {further}] for pair in {pairs}]"
    return _options(options, "batch_size", "candidates") + rivals


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
        last.replace("model.encode_images", f"{model}.encode_images"),
        f"pair = ts.Pair(correct={query.correct!r}, foil={query.foil!r}, image=target)",
    ]


def _cells(session: ExplorerSession, sources: list[str]) -> list[str]:
    """Lines that bind the map and the profile beside it; of two, the difference and both profiles."""
    panels = session.panels()
    aggregate = session.settings.aggregate
    lines: list[str] = []
    names = ["profile", "profile_b"][: len(sources)]
    if panels is None or isinstance(panels, str) or not panels.by_role:
        maps = [f"{source}.cte[0]" for source in sources]
        cells = f"cells = {maps[0]}" if len(maps) == 1 else f"cells = {maps[1]}.astype(np.float64) - {maps[0]}"
        made = [f"np.nan{aggregate}({cells_of}.astype(np.float64), axis=1)" for cells_of in maps]
    else:
        single = session.settings.scope == "pair" or len(session.pairs) == 1
        segment = ", segment='all'" if single and not session.settings.subtract else ""
        maps = ["map_a", "map_b"][: len(sources)]
        for name, source in zip(maps, sources, strict=True):
            lines.append(f"{name} = {source}.map(align='role'{segment})")
        cells = "cells = map_a.values"
        if len(maps) == 2:
            lines.append("rows = [row for row in map_a.rows if row in map_b.rows]")
            cells = "cells = np.stack([map_b.row(row) - map_a.row(row) for row in rows], axis=1)"
        of = maps if segment else sources
        made = [f"{one}.per_layer(aggregate={aggregate!r}).value" for one in of]
    return [*lines, cells, *(f"{name} = {value}" for name, value in zip(names, made, strict=True))]
