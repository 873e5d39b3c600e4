"""A plotly figure that carries a static picture of itself, for viewers without plotly."""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from ..figure_data import Data
from .html import PLOTLY_CONFIG, plain_title

__all__ = ["NotebookFigure"]

_OF_A_HOST = ("azure", "cocalc", "colab", "databricks", "kaggle")  # plotly's renderers for notebooks of these


class NotebookFigure(go.Figure):
    """A ``plotly.graph_objects.Figure`` whose notebook output has three forms: plotly's own, HTML and PNG.

    JupyterLab, Notebook 7 and VS Code draw plotly's own. Where nothing can (nbconvert, a Lab that does not see the
    kernel's packages, GitHub), the HTML or the PNG is shown: a static picture drawn by matplotlib. The toolbar is that
    of :data:`tracescribe.viz.interactive.html.PLOTLY_CONFIG` unless ``config`` says otherwise.
    """

    _shown: Data | None = None
    _draw: Callable[[], bytes] | None = None
    _ipython_display_ = None  # plotly's would show its own form only

    def showing(self, data: Data, draw: Callable[[], bytes]) -> NotebookFigure:
        """The same figure, told what it shows and how its static picture (PNG) is drawn when a notebook asks for it."""
        self._shown, self._draw = data, draw
        return self

    @property
    def shown(self) -> Data | None:
        """What the figure was made from; None after copying or changing it into another figure."""
        return self._shown

    def __repr__(self) -> str:
        """One line: plotly's holds every number."""
        shapes = ", ".join(dict.fromkeys(trace.type for trace in self.data))
        return f"NotebookFigure({plain_title(self)!r}: {shapes})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"application/vnd.plotly.v1+json": {**self.to_plotly_json(), "config": PLOTLY_CONFIG}}
        bundle.update(self._host_form())
        picture = self._picture()
        if picture is not None:
            encoded = base64.b64encode(picture).decode("ascii")
            bundle["image/png"] = encoded
            name = html.escape(plain_title(self), quote=True)
            # As wide as on paper, not wider than the page: the bitmap has twice the pixels.
            shown = f'<img alt="{name}" style="width:100%;max-width:720px" src="data:image/png;base64,{encoded}">'
            bundle.setdefault("text/html", shown)
        return bundle

    def _host_form(self) -> dict[str, Any]:
        """What plotly has for a hosted notebook that knows neither of the standard forms, such as Colab."""
        import plotly.io as pio

        names = [name for name in (pio.renderers.default or "").split("+") if name in _OF_A_HOST]
        found: dict[str, Any] = {}
        for name in names:
            found.update(pio.renderers[name].to_mimebundle(self.to_plotly_json()))
        return found

    def _picture(self) -> bytes | None:
        if self._draw is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about fonts: said when a file is exported
            return self._draw()

    def show(self, *args: Any, **kwargs: Any) -> Any:
        return super().show(*args, **{**kwargs, "config": _merged(kwargs.get("config"))})

    def to_html(self, config: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> str:
        return str(super().to_html(_merged(config), *args, **kwargs))

    def write_html(self, file: Any, config: dict[str, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().write_html(file, _merged(config), *args, **kwargs)


def _merged(config: dict[str, Any] | None) -> dict[str, Any]:
    return {**PLOTLY_CONFIG, **(config or {})}
