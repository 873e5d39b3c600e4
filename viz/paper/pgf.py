"""PGF for LaTeX documents: drawn without LaTeX on this machine, in the document's own font, every token escaped."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure

from ..figure_data.labels import tex_text

__all__ = ["pgf_of"]

_HEAD = r"""%% drawn by tracescribe
%% \usepackage{{pgf}} in the preamble, and where the figure goes: \input{{NAME.pgf}}
%% It is {width:.3f} in wide and is not to be scaled. Text has the document's sans-serif font; scripts beyond Latin need
%% XeLaTeX or LuaLaTeX and a font that has them.
\begingroup
\makeatletter
\begin{{pgfpicture}}
\pgfpathrectangle{{\pgfpointorigin}}{{\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}
\pgfusepath{{use as bounding box, clip}}
"""
_FOOT = "\\end{pgfpicture}\n\\makeatother\n\\endgroup\n"


def pgf_of(figure: Figure) -> bytes:
    """The figure as a pgfpicture; the same figure gives the same bytes."""
    width, height = (float(inches) for inches in figure.get_size_inches())
    code = io.StringIO()
    figure.draw(_Renderer(figure, code))
    body = re.sub(r"[ \t]+$", "", code.getvalue(), flags=re.MULTILINE)
    return (_HEAD.format(width=width, height=height) + body + _FOOT).encode("utf-8")


class _Renderer(RendererPgf):
    """matplotlib's, but text is measured here, as for every other format, and never read as LaTeX."""

    def __init__(self, figure: Figure, code: io.StringIO) -> None:
        super().__init__(figure, code)  # type: ignore[no-untyped-call]
        self._ruler = RendererAgg(8, 8, figure.dpi)

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        return self._ruler.get_text_width_height_descent(s, prop, ismath)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        prop = prop.copy()
        prop.set_family("sans-serif")  # the document's; ours need not be installed where the paper is typeset
        if mtext is not None and angle == 0 and mtext.get_verticalalignment() == "center_baseline":
            mtext = _OnBaseline(mtext, y)
        super().draw_text(gc, x, y, tex_text(s), prop, angle, False, mtext)  # type: ignore[no-untyped-call]

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        raise NotImplementedError("a PGF file holds no bitmap")  # refused before drawing starts


class _OnBaseline:
    """A text that LaTeX aligns by its own width, on the baseline that was measured here.

    matplotlib leaves "center_baseline" to its own layout, whose widths are another font's.
    """

    def __init__(self, text: Any, y: float) -> None:
        self._text, self._place = text, (text.get_transform().transform(text.get_unitless_position())[0], y)

    def get_rotation_mode(self) -> Any:
        return self._text.get_rotation_mode()

    def get_verticalalignment(self) -> str:
        return "baseline"

    def get_horizontalalignment(self) -> Any:
        return self._text.get_horizontalalignment()

    def get_unitless_position(self) -> tuple[float, float]:
        return self._place

    def get_transform(self) -> Any:
        from matplotlib.transforms import IdentityTransform

        return IdentityTransform()
