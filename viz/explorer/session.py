"""The explorer without a page: what the user chose, what is known of it, and what is being computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ...errors import FigureError
from ...io.quoting import shown
from . import asking, targets
from .background import Ticket
from .captions import SIDES
from .computing import MAIN, Computing
from .leaving import write_view

if TYPE_CHECKING:
    from .targets import Target

__all__ = ["MAIN", "ExplorerSession"]

TYPING = 0.06  # seconds without a keystroke before a trace starts
OF_TRACE = ("correct", "foil", "align", "direction", "site", "metric")  # settings that a trace depends on


class ExplorerSession(Computing):
    """One user's exploration of a model: captions and target in, maps and answers out. Thread-safe.

    Every method returns at once. What takes long runs in a background thread; ``changed`` is called, from any thread,
    whenever there is something new to see. Results of what has been changed since are dropped: what is shown always
    belongs to what is entered.

    model: what is explored. models: others to compare it with, by name. pairs: a data set, and presets. control: pairs
    whose map can be subtracted. candidates: captions that are ranked beside the two. options: of every trace.
    logit_scale: factor of cosines in probabilities; None: each model's own.

    >>> import tracescribe as ts
    >>> from tracescribe.viz.explorer import make_session
    >>> session = make_session(ts.load("phantom"), correct="There is no edema.", foil="There is severe edema.")
    >>> session.wait(), session.result.traces[MAIN].cte.shape
    (True, (1, 9, 8))
    """

    # -- what is entered ----------------------------------------------------------------------------------------

    def choose(self, **values: Any) -> None:
        """Change settings by name; what depends on them is computed."""
        with self.lock:
            if "compare" in values:
                self._check_compared(values["compare"])
            before, after = self.settings, self.settings.changed(**values)
            self._check_scale(after)
            self.settings = after
            self.problem, self.said = None, ""
            other_trace = any(getattr(before, name) != getattr(self.settings, name) for name in OF_TRACE)
            if other_trace:
                self._forget()
                if "layer" not in values and len(self.captions.tokens[0]) <= (self.settings.column or 0):
                    self.settings = self.settings.changed(column=None, layer=None)
            typing = any(name in values for name in SIDES)
            if typing:
                self.preset_shown = None
        self._ensure(TYPING if typing else 0.0)

    def set_target(self, kind: str, value: Any = "", content: bytes = b"") -> None:
        """Another target: "text", a phantom "film" by its number, a "file" by its path, or a "dropped" one's bytes."""
        makers: dict[str, Callable[[], Target]] = {
            "text": lambda: targets.text(str(value)),
            "film": lambda: targets.film(value),
            "file": lambda: targets.image_file(str(value)),
            "dropped": lambda: targets.dropped(str(value), content),
        }
        if kind not in makers:
            raise FigureError(f"a target is one of {', '.join(makers)}, not {shown(kind)}")
        self._retarget(makers[kind](), None)

    def preset(self, number: Any) -> None:
        """Captions and target of a pair of the data set."""
        pair = self.pairs[_within(number, len(self.pairs), "pair")]
        target = self.target if pair.image is None else targets.of_pair(pair.image, int(number))
        self._retarget(target, int(number), correct=pair.correct, foil=pair.foil, scope="pair")

    def add_candidate(self, caption: Any) -> None:
        """A further caption that is ranked with the two."""
        if not isinstance(caption, str) or not caption.strip():
            raise FigureError("the further caption is empty")
        self.model.text.token_ids(caption)  # it may be too long
        with self.lock:
            if caption not in (*self.candidates, self.settings.correct, self.settings.foil):
                self.candidates = (*self.candidates, caption)
        self._retarget(self.target, self.preset_shown)

    def drop_candidate(self, caption: Any) -> None:
        """Rank a further caption no more."""
        with self.lock:
            if caption not in self.candidates:
                raise FigureError(f"{shown(caption)} is not among the further captions")
            self.candidates = tuple(one for one in self.candidates if one != caption)
        self._retarget(self.target, self.preset_shown)

    def apply_fix(self) -> None:
        """Take the caption that the explorer suggests."""
        fix = self.captions.fix
        if fix is None:
            raise FigureError("there is no suggestion for these captions")
        self.choose(**{fix.side: fix.caption})

    def restore(self, number: Any) -> None:
        """Captions, target, options and trace of an entry of the history, without computing it again."""
        with self.lock:
            result = self.entry(number)
            query, options = result.query, result.query.options
            self.settings = self.settings.changed(
                correct=query.correct,
                foil=query.foil,
                align=options.align == "auto",
                direction=options.direction,
                site=options.site,
                metric=options.metric,
                scope="pair",
                layer=None,
                column=None,
            )
            self.target, self.preset_shown = query.target, None
            self.candidates = result.candidates[2:]
            self._forget()
            self.result, self.problem, self.said = result, None, f"restored trace {result.number}"
        self._ensure(0.0)

    def stop(self) -> None:
        """Stop what is being computed."""
        stopped = self.worker.cancel()
        with self.lock:
            self.partial = None
            self.said = "stopped" if stopped else "nothing is running"
        self.changed()

    def close(self) -> None:
        """End the background thread."""
        self.worker.close()

    def wait(self, timeout: float | None = 60.0) -> bool:
        """Wait until nothing is being computed; False if that takes longer than ``timeout`` seconds."""
        return self.worker.join(timeout)

    # -- what is asked ------------------------------------------------------------------------------------------

    def ask_heads(self) -> None:
        """Split the selected token's effect by head."""
        result, column = self._asked()

        def task(ticket: Ticket) -> None:
            found = asking.heads_at(self.model, result.query, column)
            self._keep(ticket, lambda: self.heads.update({(result.number, column): found}))

        self.worker.submit("heads", task, "splitting by head")
        self.changed()

    def ask_attention(self) -> None:
        """Attention at the selected cell's token, in both captions' clean runs."""
        result, column = self._asked()
        layer = self.settings.layer
        if layer is None:
            raise FigureError("select one cell: attention belongs to a layer and a token")
        number = int(result.traces[MAIN].layers[layer])

        def task(ticket: Ticket) -> None:
            found = [asking.attention_at(self.model, result.query, number, column, foil=False)]
            if not self.captions.aligned:
                found.append(asking.attention_at(self.model, result.query, number, column, foil=True))
            self._keep(ticket, lambda: self.attention.update({(result.number, layer, column): found}))

        self.worker.submit("attention", task, "reading attention")
        self.changed()

    def ask_data(self) -> None:
        """Trace the data set, so that its pairs with the strongest and weakest effect in a cell can be shown."""
        if not self.pairs:
            raise FigureError("there is no data set: explore(model, pairs) takes one")
        self._pool("data", MAIN)
        self.changed()

    def export(self, path: Any) -> None:
        """Write the view to a file: .pdf, .svg, .eps or .png, its numbers as .csv, .tex or .md, the plan as .json.

        Of two maps, the figure shows them and their difference, and the table holds the difference.
        """
        if not isinstance(path, str) or not PurePath(path.strip()).suffix:  # ".pdf" alone is a name without one
            raise FigureError("say where to write: the name of a file that ends in .pdf, .svg, .png, .csv or .json")
        panels, plan = self.panels(), self.plan()
        if panels is None or isinstance(panels, str):
            raise FigureError(panels or "the trace is not finished: export when the map is there")
        aggregate = self.settings.aggregate

        def task(ticket: Ticket) -> None:
            written = write_view(panels, plan, path.strip(), aggregate)
            self._keep(ticket, lambda: setattr(self, "said", f"wrote {written}"))

        self.worker.submit(f"export {path}", task, "writing the file")  # one for each file that is asked for
        self.changed()


def _within(number: Any, count: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
        raise FigureError(f"there is no {what} {shown(number)}: they are numbered 0 to {count - 1}")
    return number
