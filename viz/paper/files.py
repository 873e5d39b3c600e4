"""Figures for papers: PDF, SVG, EPS, PGF and PNG of an exact width, the same bytes each time, no display."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import FigureError
from ...validation import is_number, is_whole
from ..figure_data import Data
from ..figure_data.curve_panels import CurvePanelsData
from ..figure_data.heatmap import HeatmapData
from ..figure_data.labels import clean, quoted
from ..figure_data.overlay import OverlayData
from ..figure_data.panels import PanelsData
from ..figure_data.plans import AlphaData
from ..figure_data.points import PointsData
from ..figure_data.profile import ProfileData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "WIDTHS", "PaperOptions", "inches_of", "matplotlib_settings", "rendered", "suffix_of"]

FORMATS = (".pdf", ".svg", ".eps", ".pgf", ".png")
WIDTHS = {
    # Inches, from the templates' own settings: icml2022.sty to icml2026.sty (\\textwidth 487.8225pt, \\columnwidth
    # 234.8775pt), neurips_*.sty and iclr*_conference.sty (5.5in), acl.sty (A4, margins 2.5 cm, \\columnsep 0.6 cm),
    # and Nature's guide to figures (89 and 183 mm). "column" and "page" are ICML's.
    "column": 3.25,
    "page": 6.75,
    "icml": 3.25,
    "icml-page": 6.75,
    "neurips": 5.5,
    "iclr": 5.5,
    "acl": 7.7 / 2.54,
    "acl-page": 16 / 2.54,
    "nature": 89 / 25.4,
    "nature-page": 183 / 25.4,
}

_PER_INCH = {"in": 1.0, "cm": 2.54, "mm": 25.4, "pt": 72.27}  # TeX's points, as \\the\\columnwidth prints them

_RC = {
    "pdf.fonttype": 42,  # TrueType, which journals ask for; matplotlib's default is Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tracescribe",
    "pgf.rcfonts": False,  # the document's font
    "text.usetex": False,
    "text.parse_math": False,  # "$" is a token, not LaTeX
    "text.hinting": "none",
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.major.pad": 1.5,
    "ytick.major.pad": 1.5,
}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's suffix names.

    Raises:
        FigureError: it names none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        said = f"the suffix {quoted(suffix)}" if suffix else "no suffix"
        raise FigureError(f"{quoted(os.fspath(path))} has {said}; a figure can be written as {', '.join(FORMATS)}")
    return suffix


def inches_of(width: str | float) -> float:
    """Inches of a named width, of a measure, or of a number.

    Raises:
        FigureError: an unknown name, or a width that no figure has.

    >>> inches_of("icml"), inches_of("50.8mm"), inches_of(3.25)
    (3.25, 2.0, 3.25)
    """
    if isinstance(width, str):
        if width in WIDTHS:
            return WIDTHS[width]
        measure = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(in|cm|mm|pt)", width.strip())
        if measure is None:
            names = ", ".join(f"{name!r} ({size:.3g} in)" for name, size in WIDTHS.items())
            raise FigureError(f"unknown width {quoted(width)}; choose {names}, a measure such as '89mm', or inches")
        inches: Any = float(measure[1]) / _PER_INCH[measure[2]]
    else:
        inches = width
    if not is_number(inches, 1.5, 40):
        raise FigureError(f"width={quoted(width)}: give inches between 1.5 and 40, or a name such as 'column'")
    return float(inches)


@contextmanager
def matplotlib_settings() -> Iterator[None]:
    """matplotlib's own defaults and ours, for the block only: a user's style must not change a figure."""
    import matplotlib
    import matplotlib.style

    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of every fallback font that has no bold face
    try:
        with matplotlib.style.context(_RC, after_reset=True):
            yield
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class PaperOptions:
    """How a figure is drawn for a paper; see :func:`tracescribe.viz.export`.

    Raises:
        FigureError: a value that is none of those allowed.
    """

    width: str | float = "column"
    height: float | None = None
    values: Literal["auto"] | bool = "auto"
    title: bool = False
    notes: bool = False
    font: str | None = None
    dpi: int = 300
    size: float = 6.5

    def __post_init__(self) -> None:
        inches_of(self.width)
        if self.values not in ("auto", True, False):
            raise FigureError(f'values={quoted(self.values)}: choose True, False or "auto"')
        if self.height is not None and not is_number(self.height, 0.5, 100):
            raise FigureError(f"height={quoted(self.height)}: give inches between 0.5 and 100")
        if not is_number(self.size, 4, 14):
            raise FigureError(f"size={quoted(self.size)}: give the size of ticks in points, between 4 and 14")
        if not is_whole(self.dpi, 20, 2400):
            raise FigureError(f"dpi={quoted(self.dpi)}: give a whole number between 20 and 2400")
        numbers = {"dpi": int(self.dpi), "size": float(self.size)}
        for name, value in (numbers if self.height is None else {**numbers, "height": float(self.height)}).items():
            object.__setattr__(self, name, value)


def rendered(data: Data, suffix: str, options: PaperOptions) -> bytes:
    """The file's content; the same data give the same bytes.

    Raises:
        FigureError: an unknown font, or a height that is too little.
    """
    import matplotlib

    with matplotlib_settings():
        from .curve_panels import draw_curve_panels
        from .fonts import Fonts
        from .heatmap import draw_heatmap
        from .overlay import draw_overlay
        from .panels import draw_panels
        from .plans import draw_alpha
        from .points import draw_curves, draw_points
        from .profile import draw_profile

        if suffix == ".pgf" and isinstance(data, OverlayData):
            raise FigureError("an overlay holds a bitmap, which a PGF file cannot: write a .pdf")
        fonts, inches = Fonts(options.font, options.size), inches_of(options.width)
        header = (data.title if options.title else "", data.notes if options.notes else ())
        height, transparent = options.height, suffix != ".eps"
        if isinstance(data, HeatmapData):
            figure = draw_heatmap(data, fonts, inches, header, values=options.values, height=height)
        elif isinstance(data, PanelsData):
            figure = draw_panels(data, fonts, inches, header, values=options.values, height=height)
        elif isinstance(data, ProfileData):
            figure = draw_profile(data, fonts, inches, header, height=height, transparent=transparent)
        elif isinstance(data, AlphaData):
            figure = draw_alpha(data, fonts, inches, header, height=height)
        elif isinstance(data, PointsData):
            figure = draw_points(data, fonts, inches, header, height=height)
        elif isinstance(data, CurvePanelsData):
            figure = draw_curve_panels(data, fonts, inches, header, height=height, transparent=transparent)
        elif isinstance(data, OverlayData):
            figure = draw_overlay(data, fonts, inches, header)
        else:
            figure = draw_curves(data, fonts, inches, header, height=height, transparent=transparent)
        if suffix == ".pgf":
            from .pgf import pgf_of

            return pgf_of(figure)
        if suffix == ".eps" and not fonts.has_glyph_names:
            matplotlib.rcParams["ps.fonttype"] = 3  # outlines by themselves; restored with the other settings
        return _saved(figure, suffix, clean(data.title), clean(". ".join(data.notes)), options.dpi)


def _saved(figure: Figure, suffix: str, title: str, notes: str, dpi: int) -> bytes:
    # No dates: the same data give the same bytes.
    metadata: dict[str, dict[str, str | None]] = {
        ".pdf": {"Title": title, "Subject": notes, "Creator": "tracescribe", "CreationDate": None},
        ".svg": {"Title": title, "Description": notes, "Creator": "tracescribe", "Date": None},
        ".png": {"Title": title, "Description": notes, "Software": "tracescribe"},
        ".eps": {"Creator": "tracescribe"},
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        try:
            figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=metadata[suffix], facecolor="white")
        except UserWarning:
            raise FigureError("the figure has too little room for its names: give more width or height") from None
    content = buffer.getvalue()
    if suffix == ".eps":  # matplotlib has no option for this one
        content = re.sub(rb"^%%CreationDate:.*\n", b"", content, flags=re.MULTILINE)
    return content
