"""A figure for papers before it is written to a file: notebooks show it, `export` writes it."""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass
from html import escape
from typing import Any

from ..figure_data import Data
from .files import PaperOptions, rendered

__all__ = ["PaperFigure"]

_PICTURE = PaperOptions("page", title=True, notes=True, dpi=200)


@dataclass(frozen=True, eq=False, repr=False)
class PaperFigure:
    """What :func:`tracescribe.viz.panels` and its like return; a notebook shows it as a picture.

    :func:`tracescribe.viz.export` writes it to a file, :func:`tracescribe.viz.export_table` its numbers, and
    :func:`tracescribe.viz.caption` offers a caption.

    shown: the data.
    """

    shown: Data

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about fonts: said when a file is exported
            picture = base64.b64encode(rendered(self.shown, ".png", _PICTURE)).decode("ascii")
        name = escape(self.shown.title or "figure", quote=True)
        shown = f'<img alt="{name}" style="width:100%;max-width:720px" src="data:image/png;base64,{picture}">'
        return {"text/plain": repr(self), "text/html": shown, "image/png": picture}

    def __repr__(self) -> str:
        return f"PaperFigure({type(self.shown).__name__.removesuffix('Data').lower()}: {self.shown.title!r})"
