"""Which caption wins: scores and ranks of the candidates, without and with a patch, for each trace that is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .asking import rank_captions
from .computing import MAIN
from .panels import Panels

if TYPE_CHECKING:
    from ...tracer import CausalTrace
    from .session import ExplorerSession

__all__ = ["Ranking", "rankings", "shown_rankings"]


@dataclass(frozen=True)
class Ranking:
    """The candidates of one trace.

    name: "A" or "B" where two traces are compared, else "". about: the model, or the entry of the history.
    captions: the correct one, the foil, and others. scores: their cosines. trace: None while it is computed.
    patched: the score of the base caption with the patch of the selected cell; None without one.
    entered: whether these are the captions on the page, of which further ones can be dropped.
    """

    name: str
    about: str
    captions: tuple[str, ...]
    scores: tuple[float, ...]
    trace: CausalTrace | None
    patched: float | None
    entered: bool = True

    def plain(self) -> dict[str, Any]:
        """What the page draws, from the best caption to the worst."""
        base = 1 if self.trace is not None and self.trace.direction == "correct->foil" else 0
        ranked = rank_captions(self.captions, self.scores, base, self.patched)
        roles = dict(zip(self.captions, ("correct", "foil"), strict=False))
        return {
            "name": self.name,
            "about": self.about,
            "rows": [
                {
                    "caption": one.caption,
                    "role": roles.get(one.caption, ""),
                    "score": one.score,
                    "rank": one.rank,
                    "with": one.score_with,
                    "rank_with": one.rank_with,
                    "patched": one.patched,
                }
                for one in ranked
            ],
            "winner": roles.get(ranked[0].caption, "other"),
            "margin": self.scores[0] - self.scores[1],
            "entered": self.entered,
        }


def shown_rankings(session: ExplorerSession, panels: Panels | str | None) -> list[dict[str, Any]]:
    """The rankings as plain data."""
    return [one.plain() for one in rankings(session, panels)]


def rankings(session: ExplorerSession, panels: Panels | str | None) -> list[Ranking]:
    """The ranking of the pair that is entered; where it is compared, that of A and of B, as far as they are known."""
    result, (kind, other) = session.result, session.compared()
    if result is None:
        if session.scores is None:
            return []
        captions = (session.settings.correct, session.settings.foil, *session.further)
        return [Ranking("", "", captions, session.scores, None, None)]
    own = (result, MAIN, str(session.model.name) if kind == "model" else f"trace {result.number}", True)
    if kind == "model":
        shown = [own, (result, other, other, True)]
    elif kind == "tried" and session.settings.scope == "pair":
        before = session.entry(other)
        shown = [(before, MAIN, f"trace {before.number}", False), own]
    else:
        shown = [own]
    several = len(shown) > 1
    return [
        Ranking(
            "AB"[i] if several else "",
            about if several else "",
            of.candidates,
            _cosines(of.traces[model], of.scores[model]),
            of.traces[model],
            _patched(session, panels, of.traces[model]),
            entered,
        )
        for i, (of, model, about, entered) in enumerate(shown)
        if model in of.traces
    ]


def _cosines(trace: CausalTrace, scores: tuple[float, ...]) -> tuple[float, ...]:
    """The candidates' scores; of the two captions those that the trace holds, so that a patch is compared with them."""
    if trace.metric.name != "cosine":
        return scores
    return (float(trace.scores.correct[0]), float(trace.scores.foil[0]), *scores[2:])


def _patched(session: ExplorerSession, panels: Panels | str | None, trace: CausalTrace) -> float | None:
    """The base caption's score with the patch of the selected cell, where the cell is one of this trace."""
    settings = session.settings
    layer, column = settings.layer, settings.column
    if layer is None or column is None or not isinstance(panels, Panels) or panels.by_role:
        return None
    if settings.scope != "pair" or layer >= len(trace.layers) or column >= trace.inside.shape[1]:
        return None
    cosines = trace if trace.metric.name == "cosine" else trace.rescore(metric="cosine")
    patched = float(cosines.scores.patched[0, layer, column])
    return patched if np.isfinite(patched) else None
