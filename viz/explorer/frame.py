"""What the page draws: a session as plain data, with its arrays and pictures as one run of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..figure_data.labels import MINUS, number, shorten
from .answers import answer
from .buffers import Buffers
from .captions import SIDES
from .code import view_code
from .computing import MAIN
from .panels import Panel, Panels, expected_panel
from .prescribing import Plan
from .rankings import shown_rankings
from .settings import CHOICES, LARGEST_BETA

if TYPE_CHECKING:
    from ...tracer import CausalTrace
    from ..figure_data import HeatmapData
    from .session import ExplorerSession

__all__ = ["make_frame"]

PRESETS = 300  # pairs of the data set that the page lists


def make_frame(session: ExplorerSession, answered: int = 0) -> tuple[dict[str, Any], bytes]:
    """Everything that is shown now, which JSON can hold, and the bytes that it refers to.

    answered: the number of the last request that it knows of; the page keeps what was entered after it.
    """
    buffers = Buffers()
    with session.lock:
        doing = session.worker.doing
        panels = session.panels()
        plan = session.plan()
        problem = session.problem or session.captions.problem
        if not problem and isinstance(panels, str):
            problem = panels
        frame = {
            "answered": answered,
            "status": {
                "text": problem or (f"{doing} …" if doing else session.said) or "ready",
                "kind": "problem" if problem else "busy" if doing else "ready",
                "busy": bool(doing),
            },
            "settings": _settings(session),
            "captions": _captions(session),
            "target": _target(session, buffers),
            "presets": _presets(session),
            "preset": session.preset_shown,
            "maps": _maps(session, panels, buffers),
            "scores": shown_rankings(session, panels),
            "ask": answer(session, panels, buffers),
            "compare": _compare(session),
            "plan": _plan(plan, buffers),
            "history": _history(session),
            "code": view_code(session) if panels is not None and not isinstance(panels, str) else "",
        }
    return frame, buffers.content


def _settings(session: ExplorerSession) -> dict[str, Any]:
    settings = session.settings
    text = session.model.text
    return {
        "direction": settings.direction,
        "site": settings.site,
        "metric": settings.metric,
        "align": settings.align,
        "scope": settings.scope,
        "subtract": settings.subtract,
        "layer": settings.layer,
        "column": settings.column,
        "aggregate": settings.aggregate,
        "beta": settings.beta,
        "layers": settings.layers,
        "normalize": settings.normalize,
        "choices": {name: list(values) for name, values in CHOICES.items()},
        "largest_beta": LARGEST_BETA,
        "model": shorten(str(session.model.name), 60),
        "context": text.context_length,
        "n_pairs": len(session.pairs),
        "n_control": len(session.control),
    }


def _captions(session: ExplorerSession) -> dict[str, Any]:
    found = session.captions
    sides = {
        side: {
            "text": found.texts[i],
            "tokens": list(found.tokens[i]),
            "differs": list(found.differs[i]),
        }
        for i, side in enumerate(SIDES)
    }
    fix = None if found.fix is None else {"side": found.fix.side, "caption": found.fix.caption}
    return {**sides, "problem": found.problem, "notes": list(found.notes), "fix": fix, "aligned": found.aligned}


def _target(session: ExplorerSession, buffers: Buffers) -> dict[str, Any]:
    target = session.target
    return {
        "kind": target.kind,
        "label": target.label,
        "value": target.value if target.kind in ("text", "film", "file") else "",
        "picture": buffers.picture(target.picture),
    }


def _presets(session: ExplorerSession) -> list[str]:
    return [
        shorten(f"{pair.id if pair.id is not None else i}: {pair.correct} / {pair.foil}", 90)
        for i, pair in enumerate(session.pairs[:PRESETS])
    ]


def _maps(session: ExplorerSession, panels: Panels | str | None, buffers: Buffers) -> dict[str, Any]:
    if isinstance(panels, Panels):
        return {
            "panels": [
                _panel(panel, buffers, causal, _about_panel(session, panel.name))
                for panel, causal in zip(panels.panels, _causal(session), strict=False)
            ],
            "limit": panels.limit,
            "notes": [*panels.notes, *(one for one in session.doubts if one not in session.captions.notes)],
            "finished": True,
            "by_role": panels.by_role,
        }
    data = None if isinstance(panels, str) or session.settings.scope == "data" else _expected(session)
    drawn = [] if data is None else [_panel(Panel("A", data, None), buffers, _causal(session)[0])]  # type: ignore[arg-type]
    return {
        "panels": drawn,
        "limit": 1.0 if data is None else data.limit,
        "notes": [],
        "finished": False,
        "by_role": False,
    }


def _expected(session: ExplorerSession) -> HeatmapData | None:
    """The map that is being computed."""
    captions = session.captions
    if captions.problem is not None:
        return None
    n_blocks = session.model.text.n_layers
    layers = np.arange(0 if session.settings.site == "resid" else 1, n_blocks + 1)
    base = 0 if session.settings.direction == "foil->correct" else 1
    tokens, foils = captions.tokens[0], captions.tokens[1]
    if captions.aligned:
        tokens, foils = captions.tokens[base], ("",) * len(captions.tokens[base])
    values = np.full((len(layers), len(tokens)), np.nan)
    if session.partial is not None:
        width = min(session.partial.shape[1], len(tokens))
        values[: len(session.partial), :width] = session.partial[: len(layers), :width]
    return expected_panel(tokens, foils, captions.differs[base], layers, values)


def _causal(session: ExplorerSession) -> tuple[bool, bool, bool]:
    """Whether no token reads a later one, in the models of A, of B and of both."""
    kind, name = session.compared()
    one = session.model.text.causal
    other = session.models[name].text.causal if kind == "model" else one
    return one, other, one and other


def _about_panel(session: ExplorerSession, name: str) -> str:
    """What a panel is of, where two are compared: a model, or an entry of the history."""
    kind, other = session.compared()
    if kind == "model":
        return {"A": str(session.model.name), "B": other}.get(name, "")
    if kind == "tried" and session.result is not None:
        return {"A": f"trace {other}", "B": f"trace {session.result.number}"}.get(name, "")
    return ""


def _panel(panel: Panel, buffers: Buffers, causal: bool, about: str = "") -> dict[str, Any]:
    data = panel.data
    curve = data.profile
    profile = None
    if curve is not None:
        profile = {
            "value": buffers.array(curve.value),
            "lo": None if curve.lo is None else buffers.array(curve.lo),
            "hi": None if curve.hi is None else buffers.array(curve.hi),
            "name": data.profile_name,
        }
    return {
        "name": panel.name,
        "about": shorten(about, 40),
        "cells": buffers.array(data.values),
        "layers": data.layers.tolist(),
        "columns": list(data.columns),
        "foils": list(data.foils),
        "marked": data.marked.tolist(),
        "profile": profile,
        "quantity": data.quantity,
        "causal": causal,
    }


# -- comparing, prescribing, leaving --------------------------------------------------------------------------------


def _compare(session: ExplorerSession) -> dict[str, Any]:
    options = [{"value": "", "name": "nothing"}]
    options += [{"value": f"model:{name}", "name": f"model {name}"} for name in session.models if name]
    if session.settings.scope == "pair":
        options += [
            {"value": f"tried:{one['number']}", "name": f"{one['number']}: {one['name']}"} for one in _history(session)
        ]
    kind, name = session.compared()
    return {"options": options, "chosen": f"{kind}:{name}" if kind else ""}


def _plan(plan: Plan | str | None, buffers: Buffers) -> dict[str, Any] | None:
    if plan is None:
        return None
    if isinstance(plan, str):
        return {"problem": plan}
    found = plan.plan
    return {
        "alpha": buffers.array(found.alpha),
        "multipliers": buffers.array(found.multipliers),
        "lo": None if found.ci is None else buffers.array(found.ci[:, 0]),
        "hi": None if found.ci is None else buffers.array(found.ci[:, 1]),
        "shares": buffers.array(plan.shares),
        "top": [{"k": k, "share": share, "uniform": k / found.n_blocks} for k, share in plan.top.items()],
        "warnings": list(found.warnings),
    }


def _history(session: ExplorerSession) -> list[dict[str, Any]]:
    current = None if session.result is None else session.result.number
    return [
        {
            "number": one.number,
            "name": shorten(f"{one.query.correct} / {one.query.foil}", 80),
            "about": _about(one.traces[MAIN], one.query.target.label),
            "current": one.number == current,
        }
        for one in reversed(session.tried)
    ]


def _about(trace: CausalTrace, target: str) -> str:
    arrows = {"foil->correct": "foil → correct", "correct->foil": "correct → foil"}
    margin = number(float(trace.denominator[0]))
    score = "" if trace.metric.name == "cosine" else f" ({trace.metric.name})"
    how = f"{arrows.get(trace.direction, trace.direction)} · {trace.site}"
    return f"{target} · {how} · S_corr {MINUS} S_foil = {margin}{score}"
