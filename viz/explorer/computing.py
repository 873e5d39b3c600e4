"""What the explorer computes and keeps: traces in the background, and the maps and plans that follow from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import FigureError, TracescribeError
from ...io.quoting import shown
from ...tracer.pairs.pairs import Pair
from ...tracer.results.candidates import Candidates, given_candidates
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.metrics import METRICS
from .background import Ticket, Worker
from .captions import Captions, read_captions
from .panels import Panels, draw_panels
from .prescribing import Plan, make_plan
from .settings import Settings
from .targets import Pictures
from .tracing import Query, Result, score_captions, trace_pair, trace_pairs

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from ...tracer.run.options import TraceOptions
    from .targets import Target

__all__ = ["MAIN", "Computing"]

MAIN = ""  # the name of the model that is explored, among those that it is compared with
KEPT = 30  # entries of the history


class Computing:
    """The state of an explorer, and the tasks that fill it; :class:`.session.ExplorerSession` is what a user does.

    ``lock`` is held while state is read or changed, and never while ``changed`` is called.
    """

    def __init__(
        self,
        model: DualEncoder,
        settings: Settings,
        target: Target,
        *,
        pairs: Sequence[Pair] = (),
        models: Mapping[str, DualEncoder] | None = None,
        control: Sequence[Pair] = (),
        candidates: Iterable[str] = (),
        options: TraceOptions,
        logit_scale: float | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        self.models = {MAIN: model, **(models or {})}
        self.pairs, self.control = list(pairs), list(control)
        self.files = dict(files or {})  # from which "pairs" and "control_pairs" were read, for the copied code
        self.settings, self.target, self.candidates = settings, target, tuple(candidates)
        self.options, self.logit_scale = options, logit_scale
        self._check_scale(settings)
        self.pictures = Pictures(self.pairs)
        self.changed: Callable[[], Any] = lambda: None
        self.lock = threading.RLock()
        self.worker = Worker(self._failed, self.doubt, lambda: self.changed())
        self.problem: str | None = None  # what failed last, as a sentence
        self.said = ""  # what was done last
        self.doubts: tuple[str, ...] = ()  # what was warned of since the captions, the target or the options changed
        self.partial: np.ndarray | None = None  # cells of the trace that is being computed
        self.scores: tuple[float, ...] | None = None  # of its candidates
        self.result: Result | None = None  # of what is entered now
        self.tried: list[Result] = []
        self.preset_shown: int | None = None  # the pair of the data set whose captions and target are entered
        self.pooled: dict[tuple[str, str, TraceOptions], CausalTrace] = {}  # by "data" or "control", model, options
        self.heads: dict[tuple[int, int], np.ndarray] = {}  # by entry of the history and token
        self.attention: dict[tuple[int, int, int], list[tuple[np.ndarray, tuple[str, ...]]]] = {}
        self._count = 0
        self._drawn: tuple[Any, Panels | str] | None = None
        self._planned: tuple[Any, Plan | str] | None = None
        self._captions: tuple[Any, Captions] | None = None
        self._ensure(0.0)

    @property
    def model(self) -> DualEncoder:
        """What is explored."""
        return self.models[MAIN]

    @property
    def captions(self) -> Captions:
        """The captions that are entered, as the model reads them."""
        with self.lock:
            key = (self.settings.correct, self.settings.foil, self.settings.align)
            if self._captions is None or self._captions[0] != key:
                found = read_captions(self.model.text, key[0], key[1], align=key[2])
                self._captions = (key, found)
            return self._captions[1]

    @property
    def further(self) -> tuple[str, ...]:
        """The captions that are ranked beside the two, each once: one of the two may be among the candidates."""
        entered = (self.settings.correct, self.settings.foil)
        return tuple(dict.fromkeys(caption for caption in self.candidates if caption not in entered))

    @property
    def query(self) -> Query:
        """What the trace of the pair is of."""
        settings = self.settings
        options = self._options((settings.foil,), aligned=settings.align and self.captions.aligned)
        return Query(settings.correct, settings.foil, self.target, options)

    def pooled_options(self, kind: str = "data") -> TraceOptions:
        """The options of the trace of the "data" set, or of the "control"."""
        foils = tuple(pair.foil for pair in (self.pairs if kind == "data" else self.control))
        return self._options(foils, aligned=self.settings.align)

    def _options(self, foils: tuple[str, ...], *, aligned: bool) -> TraceOptions:
        """The options that are chosen, for pairs with these foils; captions compete with these and the candidates."""
        settings, rivals = self.settings, None
        if self.candidates and foils and METRICS[settings.metric].takes == "candidates":
            rivals = _rivals(foils, self.candidates)
        chosen: dict[str, Any] = {"direction": settings.direction, "site": settings.site, "metric": settings.metric}
        if METRICS[settings.metric].scaled:
            chosen["logit_scale"] = self.logit_scale
        return replace(self.options, **chosen, candidates=rivals, align="auto" if aligned else "none")

    def panels(self) -> Panels | str | None:
        """The maps that are shown; a sentence where there is nothing to draw; None while they are computed."""
        with self.lock:
            sources, controls = self._sources(), self._controls()
            if sources is None or controls is None:
                return None
            key = ([(name, id(trace)) for name, trace in sources], [*map(id, controls)], self.settings.aggregate)
            if self._drawn is None or self._drawn[0] != key:
                pooled = self.settings.scope == "data"
                self._drawn = (
                    key,
                    _tried(lambda: draw_panels(sources, controls, self.settings.aggregate, pooled=pooled)),
                )
            return self._drawn[1]

    def plan(self) -> Plan | str | None:
        """The prescription from what is shown (of two maps, from the second); a sentence; None while it is unknown."""
        with self.lock:
            panels, settings = self.panels(), self.settings
            if panels is None or isinstance(panels, str):
                return panels
            trace = self._sources()[-1][1]  # type: ignore[index]
            controls = self._controls()
            control = controls[-1] if controls else None
            key = (id(trace), id(control), settings.aggregate, settings.layers, settings.normalize, settings.beta)
            if self._planned is None or self._planned[0] != key:
                source = trace if control is None else trace.control(control)
                found = _tried(
                    lambda: make_plan(
                        source,
                        beta=settings.beta,
                        aggregate=settings.aggregate,
                        layers=settings.layers,
                        normalize=settings.normalize,
                    )
                )
                self._planned = (key, found)
            return self._planned[1]

    # -- tasks -------------------------------------------------------------------------------------------------

    def compared(self) -> tuple[str, str]:
        """What is compared with: "model" and its name, "tried" and its number, or nothing."""
        kind, _, name = self.settings.compare.partition(":")
        return (kind, name) if (kind == "model" and name in self.models) or kind == "tried" else ("", "")

    def _check_scale(self, settings: Settings) -> None:
        """Refuse probabilities by a model that states no logit scale, as encoders of texts alone.

        Raises:
            FigureError: none is known of a model that is shown.
        """
        if self.logit_scale is not None or not METRICS[settings.metric].scaled:
            return
        kind, _, name = settings.compare.partition(":")
        for shown_model in (MAIN, name) if kind == "model" else (MAIN,):
            model = self.models.get(shown_model)
            if model is not None and model.stated_logit_scale is None:
                raise FigureError(
                    f"a {settings.metric} needs a logit scale, and the model {shown(model.name)} has none: choose "
                    f"another score, or give one, explore(..., logit_scale=20)"
                )

    def _check_compared(self, chosen: Any) -> None:
        """Refuse what there is nothing of to compare with.

        Raises:
            FigureError: no such model, or no such trace in the history.
        """
        kind, _, name = str(chosen).partition(":")
        if kind == "tried":
            self.entry(name)
        elif chosen != "" and (kind != "model" or name not in self.models):
            raise FigureError(f"there is nothing called {shown(chosen)} to compare with")

    def traces_shown(self) -> list[CausalTrace]:
        """The traces that are drawn of the explored model."""
        with self.lock:
            kind, _ = self.compared()
            sources = [trace for _, trace in self._sources() or []]
        return sources[:1] if kind == "model" else sources

    def _sources(self) -> list[tuple[str, CausalTrace]] | None:
        """The traces that are drawn, with what they are called; None while one is missing."""
        kind, name = self.compared()
        models = [MAIN, name] if kind == "model" else [MAIN]
        if self.settings.scope == "data":
            found = [self._pooled("data", model) for model in models]
        else:
            traces = {} if self.result is None else self.result.traces
            found = [traces.get(model) for model in models]
            if kind == "tried" and self.result is not None:
                found.insert(0, self.entry(name).traces[MAIN])
        if any(trace is None for trace in found):
            return None
        names = ["A"] if len(found) == 1 else ["A", "B"]
        return [(names[i], trace) for i, trace in enumerate(found) if trace is not None]

    def _controls(self) -> list[CausalTrace] | None:
        """What is subtracted from each trace that is drawn: its model's control. None while one is missing."""
        if not self.settings.subtract:
            return []
        kind, name = self.compared()
        found = [self._pooled("control", model) for model in ([MAIN, name] if kind == "model" else [MAIN])]
        known = [trace for trace in found if trace is not None]
        if len(known) < len(found):
            return None
        return known * 2 if kind == "tried" and self.settings.scope == "pair" else known

    def _pooled(self, kind: str, model: str) -> CausalTrace | None:
        return self.pooled.get((kind, model, self.pooled_options(kind)))

    def entry(self, number: Any) -> Result:
        """A trace of the history.

        Raises:
            FigureError: there is none of this number.
        """
        found = [result for result in self.tried if str(result.number) == str(number)]
        if not found:
            raise FigureError(f"the history has no trace {shown(number)}")
        return found[0]

    def _asked(self) -> tuple[Result, int]:
        with self.lock:
            column = self.settings.column
            if self.settings.scope != "pair" or self.settings.compare or self.settings.subtract:
                raise FigureError("this is asked of one pair's tokens: show the pair, alone and without a control")
            if self.result is None:
                raise FigureError("the trace is not finished")
            if column is None or column >= self.result.traces[MAIN].inside.shape[1]:
                raise FigureError("select a token's column or one of its cells first")
            return self.result, column

    def _retarget(self, target: Target, preset: int | None, **values: Any) -> None:
        with self.lock:
            self.settings, self.preset_shown = self.settings.changed(**values), preset
            self.target, self.problem, self.said = target, None, ""
            self._forget()
        self._ensure(0.0)

    def _forget(self) -> None:
        """Drop what belonged to other captions, targets or options."""
        self.worker.cancel("trace", "heads", "attention")
        self.result = self.partial = self.scores = None
        self.doubts = ()

    def _ensure(self, delay: float) -> None:
        """Start what the view lacks."""
        kind, name = self.compared()
        models = [MAIN, name] if kind == "model" else [MAIN]
        with self.lock:
            traces = {} if self.result is None else self.result.traces
            missing = [model for model in models if model not in traces]
            if missing and self.captions.problem is None:
                self.worker.submit("trace", lambda ticket: self._trace(ticket, models, delay), "tracing")
            if self.settings.scope == "data" and self.pairs:
                for model in models:
                    self._pool("data", model)
            if self.settings.subtract and self.control:
                for model in models:
                    self._pool("control", model)
        self.changed()

    def _pool(self, kind: str, model: str) -> None:
        options = self.pooled_options(kind)
        if (kind, model, options) in self.pooled:
            return
        pairs = self.pairs if kind == "data" else self.control

        def task(ticket: Ticket) -> None:
            def progress(done: int, total: int) -> None:
                ticket.note = f"{done} of {total} text pairs"
                self.changed()

            found = trace_pairs(self.models[model], pairs, options, ticket, progress)
            self._keep(ticket, lambda: self.pooled.update({(kind, model, options): found}))

        what = "the data set" if kind == "data" else "the control"
        self.worker.submit(f"{kind} {model}", task, f"tracing {what}" + (f" with {model}" if model else ""))

    def _trace(self, ticket: Ticket, models: list[str], delay: float) -> None:
        ticket.wait(delay)
        with self.lock:
            query, candidates, known = self.query, self.further, self.result
        captions = (query.correct, query.foil, *candidates)
        traces = {} if known is None else dict(known.traces)
        scores = {} if known is None else dict(known.scores)
        started = time.monotonic()

        def show(cells: np.ndarray) -> None:
            if len(traces) == 0:  # the explored model's, which comes first
                self._keep(ticket, lambda: setattr(self, "partial", cells))
                self.changed()

        for name in models:
            if name in traces:
                continue
            scores[name] = score_captions(self.models[name], query, captions)
            ticket.check()
            if name == MAIN:
                self._keep(ticket, lambda: setattr(self, "scores", scores[MAIN]))
                self.changed()
            traces[name] = trace_pair(self.models[name], query, scores[name], ticket, show)
        seconds = time.monotonic() - started
        self._keep(ticket, lambda: self._finish(query, traces, captions, scores, seconds, known))

    def _finish(
        self,
        query: Query,
        traces: dict[str, CausalTrace],
        captions: tuple[str, ...],
        scores: dict[str, tuple[float, ...]],
        seconds: float,
        known: Result | None,
    ) -> None:
        if known is None:
            self._count += 1
        number = self._count if known is None else known.number
        result = Result(number, query, traces, captions, scores, seconds)
        self.result, self.partial = result, None
        tried = [*(one for one in self.tried if one.number != number), result]
        compared = [one for one in tried[:-KEPT] if self.compared() == ("tried", str(one.number))]
        self.tried = [*compared, *tried[-KEPT:]]
        self.said = f"traced in {seconds:.2f} s"

    def _keep(self, ticket: Ticket, keep: Callable[[], Any]) -> None:
        """Store a result, unless it is not wanted any more."""
        with self.lock:
            ticket.check()
            keep()

    def doubt(self, sentences: Iterable[str]) -> None:
        """Keep what was warned of, for the page to show; of the captions it is said beside them."""
        with self.lock:
            self.doubts = tuple(dict.fromkeys([*self.doubts, *sentences]))

    def _failed(self, sentence: str) -> None:
        with self.lock:
            self.problem, self.partial = sentence, None


@lru_cache(maxsize=8)  # options that hold the same candidates must be equal
def _rivals(foils: tuple[str, ...], candidates: tuple[str, ...]) -> Candidates:
    """What the captions of each pair compete with: its foil and the candidates. A list per pair, of one pair too: else
    its trace could not be compared with a control's.
    """
    return given_candidates([(foil, *candidates) for foil in foils])


def _tried(make: Callable[[], Any]) -> Any:
    """What is made, or why it cannot be."""
    try:
        return make()
    except TracescribeError as error:
        return str(error)
