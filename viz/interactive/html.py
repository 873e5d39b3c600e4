"""Writes an interactive figure as one self-contained HTML file that needs no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...arguments import explains_arguments
from ...errors import FigureError
from ...io.atomic import write_atomically
from ..figure_data.labels import clean

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["PLOTLY_CONFIG", "figure_div", "plain_title", "plotly_script", "save_html"]

# No logo, no upload button: nothing in the page calls out. Few buttons, so that they do not cover the title.
PLOTLY_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"],
    "toImageButtonOptions": {"format": "svg"},
}


@explains_arguments
def save_html(figure: go.Figure, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Write ``figure`` as a self-contained page (4.8 MB, of which plotly.js is nearly all). Same figure, same bytes.

    title: of the browser's tab; None = the first line of the figure's title.

    Raises:
        FigureError: not a plotly figure.
        OutputError: nothing can be written at ``path``; nothing was written.
    """
    from html import escape

    body = figure_div(figure, "figure")
    name = escape(clean(title if title is not None else plain_title(figure)))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n"
        "<style>body{margin:0;padding:16px;background:#fff}.plot{overflow-x:auto}</style>\n"
        f"<script>{plotly_script()}</script>\n</head>\n"
        f'<body>\n<div class="plot">{body}</div>\n</body>\n</html>\n'
    )
    with write_atomically(path, binary=True) as handle:
        handle.write(page.encode("utf-8"))
    return Path(path)


def plotly_script() -> str:
    """plotly.js, for the page's ``<script>``: once per page, however many figures it has."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def figure_div(figure: go.Figure, identifier: str) -> str:
    """The figure as a fragment of a page that holds plotly.js already.

    Raises:
        FigureError: not a plotly figure.
    """
    from plotly.basedatatypes import BaseFigure

    if not isinstance(figure, BaseFigure):
        raise FigureError(f"expected a plotly figure, not a {type(figure).__name__}")
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=identifier, config=PLOTLY_CONFIG)


def plain_title(figure: go.Figure) -> str:
    """The first line of a figure's title, without markup."""
    import re
    from html import unescape

    first = (figure.layout.title.text or "").split("<br>")[0]
    return unescape(re.sub(r"<[^>]*>", "", first)) or "figure"
