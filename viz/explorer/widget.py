"""The explorer's page: a session shown by one anywidget, whose JavaScript is explorer.js."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ...errors import FigureError, TracescribeError
from ...io.quoting import shown
from ...warn import heard
from ..figure_data.labels import quoted, shorten
from ..theme import PALETTE, PALETTES
from .frame import make_frame
from .leaving import static_figure, static_forms
from .panels import Panels
from .session import ExplorerSession

__all__ = ["Explorer"]

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_FIRST = 10.0  # seconds that the static picture waits for the first trace
_LARGEST = 50_000_000  # bytes of a file that is dropped


class Explorer(anywidget.AnyWidget):
    """An :class:`ExplorerSession` as a widget. The page gets frames and sends requests; it computes nothing.

    frame: everything that is shown. data: float32 arrays and PNG pictures that the frame refers to.
    """

    _esm = (_HERE / "explorer.js").read_text(encoding="utf-8")
    _css = (_HERE / "explorer.css").read_text(encoding="utf-8")
    frame = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes(b"").tag(sync=True)
    palette = traitlets.List(list(PALETTES[PALETTE])).tag(sync=True)

    def __init__(self, session: ExplorerSession) -> None:
        self.session = session
        self._showing = threading.RLock()  # taken before the session's lock, never while that is held
        self._answered = 0  # the number of the page's last request
        self._parts: list[bytes] = []  # of a file that is arriving
        super().__init__()
        self.on_msg(self._receive)
        session.changed = self._show
        self._show()

    def _show(self) -> None:
        """Show what the session has now. Called from any thread, never with the session's lock."""
        with self._showing:
            frame, data = make_frame(self.session, self._answered)
            with self.hold_sync():
                self.data = data
                self.frame = frame

    def _receive(self, widget: Any, content: Any, buffers: list[Any]) -> None:
        """A request of the page. Whatever it asks, the answer is a new frame, or a sentence in the status line."""
        number = content.get("number") if isinstance(content, dict) else None
        with self._showing:  # no frame between the request's number and its effect
            if isinstance(number, int):
                self._answered = max(self._answered, number)  # views of one explorer count on from each other
            try:
                with heard() as sentences:
                    self._answer(content if isinstance(content, dict) else {}, buffers)
                if sentences:
                    self.session.doubt(sentences)
                    self._show()
            except TracescribeError as error:
                self._say(str(error))
            except Exception as error:  # a request that no button sends
                logger.exception("the explorer could not answer")
                self._say(f"{type(error).__name__}: {error}")

    def _answer(self, content: dict[str, Any], buffers: list[Any]) -> None:
        session, value = self.session, content.get("value")
        match content.get("do"):
            case "choose":
                session.choose(**{str(name): chosen for name, chosen in dict(value or {}).items()})
            case "target":
                dropped = self._arrived(content, bytes(buffers[0]) if buffers else b"")
                if dropped is not None:
                    session.set_target(str(content.get("kind")), "" if value is None else value, dropped)
            case "preset":
                session.preset(value)
            case "candidate":
                session.add_candidate(value)
            case "no candidate":
                session.drop_candidate(value)
            case "restore":
                session.restore(value)
            case "export":
                session.export(value)
            case "fix":
                session.apply_fix()
            case "stop":
                session.stop()
            case "heads":
                session.ask_heads()
            case "attention":
                session.ask_attention()
            case "data":
                session.ask_data()
            case other:
                raise FigureError(f"the explorer does not know the request {shown(other)}")

    def _arrived(self, content: dict[str, Any], part: bytes) -> bytes | None:
        """What was dropped on the page, once its last part is there: Jupyter closes a connection that gets over 10 MB.

        Raises:
            FigureError: a part is missing, or all of them are too much.
        """
        at, parts = content.get("part", 0), content.get("parts", 1)
        held, self._parts = (self._parts, []) if at else ([], [])
        if not isinstance(parts, int) or at != len(held) or sum(map(len, held)) + len(part) > _LARGEST:
            raise FigureError("the file did not arrive as it was sent: drop it again, or enter its path")
        if at + 1 < parts:
            self._parts = [*held, part]
            self._show()  # the page hears that the kernel is there
            return None
        return b"".join([*held, part])

    def _say(self, sentence: str) -> None:
        with self.session.lock:
            self.session.problem = sentence
        self._show()

    def __repr__(self) -> str:
        correct, foil = (quoted(text) for text in (self.session.settings.correct, self.session.settings.foil))
        return f"Explorer({shorten(str(self.session.model.name), 60)}: {correct} / {foil})"

    def figure(self) -> Any:
        """The view as a static figure, which a notebook keeps and :func:`tracescribe.viz.export` writes.

        Raises:
            FigureError: there is nothing to draw, or the trace is not finished.
        """
        panels = self.session.panels()
        if not isinstance(panels, Panels):
            raise FigureError(panels or "the trace is not finished: there is no map yet")
        return static_figure(panels, self.session.settings.aggregate)

    def code(self) -> str:
        """The calls that give the numbers of the view."""
        return str(make_frame(self.session)[0]["code"])

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        """The whole state: script and style are defaults of their traits, and an exported page needs them."""
        return super().get_state(key, drop_defaults=False)

    def close(self) -> None:
        self.session.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget's view, and a static picture for where no widget can be shown."""
        bundle = super()._repr_mimebundle_(**kwargs)
        forms, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if forms is None:
            return bundle
        self.session.wait(_FIRST)
        panels = self.session.panels()
        if isinstance(panels, Panels):
            try:
                forms = {**forms, **static_forms(panels, self.session.settings.aggregate)}
            except FigureError as error:  # such as too many panels for a page: the explorer is shown all the same
                logger.warning("the notebook keeps no picture of the explorer: %s", error)
        return forms, metadata
