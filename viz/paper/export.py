"""Figures for papers: vector PDF, SVG and EPS (and PNG) of an exact width, the same bytes each time, no display."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...errors import FigureError
from ...io.atomic import ensure_writable, write_atomically
from ...tracer.results.maps import LayerProfile
from ..figure_data import HeatmapView, Profiled, ProfileView, heatmap_view, profile_view
from .fonts import Fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "WIDTHS", "export"]

FORMATS = (".pdf", ".svg", ".eps", ".png")
WIDTHS = {"column": 3.25, "page": 6.75}  # inches: one column and the text width of the usual two-column templates

_RC = {
    "pdf.fonttype": 42,  # TrueType, which journals ask for; matplotlib's default is Type 3
    "ps.fonttype": 42,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tracescribe",
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


def export(
    source: Profiled | Mapping[str, Profiled],
    path: str | os.PathLike[str],
    width: Literal["column", "page"] | float = "column",
    *,
    pair: int | str | None = None,
    title: str | None = None,
    notes: bool = False,
    values: Literal["auto"] | bool = "auto",
    profile: bool | LayerProfile = True,
    limit: float | None = None,
    height: float | None = None,
    font: str | None = None,
    dpi: int = 300,
    **options: Any,
) -> Path:
    """Write a figure for a paper and return its path; the suffix chooses among .pdf, .svg, .eps and .png.

    source: a CausalTrace, TraceMap or Excess gives the heatmap of :func:`heatmap`; a LayerProfile, or a dict from names
        to any of these, gives the curves of :func:`profile`.
    width: "column" (3.25 inches), "page" (6.75 inches) or inches; the file is exactly that wide.
    pair: number or id of one pair of a trace.
    title: None = none drawn, because a paper's caption says it; the default title is in the file's metadata.
    notes: whether to write what the numbers stand on (pairs, direction, site, ...) above the cells.
    values: whether each cell's number is written; "auto" = where they fit at a readable size.
    profile: whether the CTE per layer stands beside the cells, or the LayerProfile to put there.
    limit: colours run from -limit to limit; None = the largest absolute value.
    height: inches; None = from the content.
    font: an installed font family; None = DejaVu Sans, which comes with matplotlib, so that every machine draws alike.
    dpi: of a PNG; the other formats hold no bitmap.
    options: of :meth:`CausalTrace.map` and :meth:`CausalTrace.per_layer`.

    Tokens that no line can hold at a readable size continue below, in further rows of cells. Fonts are embedded as
    TrueType (Type 42). The user's matplotlib settings are neither used nor changed.

    Raises:
        FigureError: an unknown suffix, width, option or font, or something that cannot be drawn.
        OutputError: nothing can be written at ``path``; nothing was written.

    >>> import numpy as np, tempfile
    >>> from tracescribe.tracer import TraceMap
    >>> values, counts = np.array([[1.0, 0.0], [0.6, 0.3]]), np.array([5, 5])
    >>> cells = TraceMap(values, ("first differing", "[end]"), np.arange(2), counts)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(cells, f"{folder}/fig3.svg").name
    'fig3.svg'
    """
    suffix = suffix_of(path)
    if values not in ("auto", True, False):
        raise FigureError(f'values={values!r}: choose True, False or "auto"')
    inches = _inches(width)
    if height is not None and not 0.5 <= height <= 100:
        raise FigureError(f"height={height!r}: give inches between 0.5 and 100")
    ensure_writable(path)

    view: HeatmapView | ProfileView
    if isinstance(source, LayerProfile | Mapping):
        if pair is not None:
            raise FigureError(f"pair={pair!r}: a layer profile has no pairs; export trace.select([...]).per_layer()")
        view = profile_view(source, **options)
    else:
        view = heatmap_view(source, pair, profile=profile, **options)

    with _settings():
        from .heatmap import draw_heatmap
        from .profile import draw_profile

        fonts = Fonts(font)
        header = (title or "", view.notes if notes else ())
        if isinstance(view, HeatmapView):
            figure = draw_heatmap(view, fonts, inches, header, values=values, limit=limit, height=height)
        else:
            figure = draw_profile(view, fonts, inches, header, height=height, transparent=suffix != ".eps")
        content = _render(figure, suffix, title or view.title, ". ".join(view.notes), dpi)
    with write_atomically(path, binary=True) as handle:
        handle.write(content)
    return Path(path)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's suffix names.

    Raises:
        FigureError: it names none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        said = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise FigureError(f"{os.fspath(path)!r} has {said}; a figure can be written as {', '.join(FORMATS)}")
    return suffix


def _inches(width: str | float) -> float:
    if isinstance(width, str):
        if width not in WIDTHS:
            names = ", ".join(f"{name!r} ({size} in)" for name, size in WIDTHS.items())
            raise FigureError(f"unknown width {width!r}; choose {names} or a number of inches")
        return WIDTHS[width]
    if isinstance(width, bool) or not 1.5 <= width <= 40:
        raise FigureError(f"width={width!r}: give inches between 1.5 and 40")
    return float(width)


@contextmanager
def _settings() -> Iterator[None]:
    """matplotlib's own defaults and ours, for the block only: a user's style must not change a figure."""
    import matplotlib
    import matplotlib.style

    with matplotlib.style.context(_RC, after_reset=True):
        yield


def _render(figure: Figure, suffix: str, title: str, notes: str, dpi: int) -> bytes:
    # No dates: the same data give the same bytes.
    metadata: dict[str, dict[str, str | None]] = {
        ".pdf": {"Title": title, "Subject": notes, "Creator": "tracescribe", "CreationDate": None},
        ".svg": {"Title": title, "Description": notes, "Creator": "tracescribe", "Date": None},
        ".png": {"Title": title, "Description": notes, "Software": "tracescribe"},
        ".eps": {"Creator": "tracescribe"},
    }
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=metadata[suffix], facecolor="white")
    content = buffer.getvalue()
    if suffix == ".eps":  # matplotlib has no option for this one
        content = re.sub(rb"^%%CreationDate:.*\n", b"", content, flags=re.MULTILINE)
    return content
