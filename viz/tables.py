"""The numbers of a figure as a table for a paper: LaTeX (booktabs), Markdown or CSV."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import FigureError
from ..io.atomic import ensure_writable, write_atomically
from .figure_data import Data, HeatmapData, OverlayData, ProfileData
from .figure_data.labels import number, quoted

if TYPE_CHECKING:
    from .interactive.figure import NotebookFigure

__all__ = ["caption", "export_table"]

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$",
}  # fmt: skip


def caption(figure: NotebookFigure) -> str:
    """A caption to start from, for a figure of :func:`heatmap`, :func:`profile` or :func:`overlay`.

    It says what is drawn, how colours are to be read, which pairs entered, how they were traced, and what the band is.

    Raises:
        FigureError: a figure that these functions did not draw.

    >>> from tracescribe import viz
    >>> from tracescribe.tracer import LayerProfile
    >>> viz.caption(viz.profile(LayerProfile(np.array([1.0, 0.9]), np.arange(2), "sum", n_pairs=4, n_groups=4)))
    'CTE, sum per layer. 4 pairs.'
    """
    from .figure_data.caption import caption_of

    return caption_of(_data(figure))


def export_table(figure: NotebookFigure, path: str | os.PathLike[str], *, decimals: int = 2) -> Path:
    """Write the numbers that a figure shows and return the path: .tex (booktabs), .md or .csv by the suffix.

    One line per layer, from the last to the first as in the figure. A heatmap has a column per token and the profile
    beside it; a profile has a column per curve, with its interval.

    decimals: of .tex and .md; a .csv holds every digit.

    Raises:
        FigureError: a figure that tracescribe did not draw, an overlay, or an unknown suffix.
        OutputError: nothing can be written at ``path``; nothing was written.

    >>> import tempfile
    >>> from tracescribe import viz
    >>> from tracescribe.tracer import LayerProfile
    >>> figure = viz.profile({"a & b": LayerProfile(np.array([1.0, 0.9]), np.arange(2), "sum")})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(viz.export_table(figure, f"{folder}/t.md").read_text(encoding="utf-8"))
    | layer | a & b |
    |---:|---:|
    | 1 | 0.90 |
    | 0 | 1.00 |
    <BLANKLINE>
    """
    writers = {".tex": _latex, ".md": _markdown, ".csv": _csv}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise FigureError(f"{quoted(os.fspath(path))}: a table can be written as {', '.join(writers)}")
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= 12:
        raise FigureError(f"decimals={quoted(decimals)}: give a whole number between 0 and 12")
    ensure_writable(path)
    content = writers[suffix](*_columns(_data(figure)), decimals)
    with write_atomically(path, binary=True) as handle:
        handle.write(content.encode("utf-8"))
    return Path(path)


def _data(figure: Any) -> Data:
    shown = getattr(figure, "shown", None)
    if shown is None:
        raise FigureError(f"give a figure of heatmap, profile or overlay, not a {type(figure).__name__}")
    return cast("Data", shown)


def _columns(data: Data) -> tuple[list[str], list[list[float | int]]]:
    """Header and lines: layers downwards, then what stands in them."""
    if isinstance(data, OverlayData):
        raise FigureError("an overlay has a table per layer: write trace.to_frame() instead")
    names: list[str] = []
    columns: list[np.ndarray] = []
    if isinstance(data, HeatmapData):
        layers = data.layers.tolist()
        names += data.labels
        columns += list(data.values.T)
        curves = [(data.profile_name, data.profile)] if data.profile is not None else []
    else:
        assert isinstance(data, ProfileData)
        layers = sorted({layer for _, curve in data.series for layer in curve.layers.tolist()})
        curves = [(name or data.quantity, curve) for name, curve in data.series]
    for name, curve in curves:
        interval = [] if curve.ci is None else [(f"{curve.ci:.0%} low", curve.lo), (f"{curve.ci:.0%} high", curve.hi)]
        for column_name, values in ((name, curve.value), *interval):
            by_layer = dict(zip(curve.layers.tolist(), np.asarray(values).tolist(), strict=True))
            names.append(column_name)
            columns.append(np.array([by_layer.get(layer, np.nan) for layer in layers]))
    lines = [[layer, *(float(column[i]) for column in columns)] for i, layer in enumerate(layers)]
    return ["layer", *names], lines[::-1]


def _shown(value: float | int, decimals: int) -> str:
    return str(value) if isinstance(value, int) else number(value, decimals) if np.isfinite(value) else "–"


def _latex(names: list[str], lines: list[list[float | int]], decimals: int) -> str:
    def row(cells: list[str]) -> str:
        return " & ".join("".join(_TEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = "\n".join(row([_shown(value, decimals) for value in line]) for line in lines)
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{{'r' * len(names)}}}\n\\toprule\n{row(names)}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _markdown(names: list[str], lines: list[list[float | int]], decimals: int) -> str:
    table = [names, ["---:"] * len(names), *([_shown(value, decimals) for value in line] for line in lines)]
    rows = [[cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<") for cell in cells] for cells in table]
    rule = "|" + "---:|" * len(names)
    return "\n".join(rule if i == 1 else f"| {' | '.join(cells)} |" for i, cells in enumerate(rows)) + "\n"


def _csv(names: list[str], lines: list[list[float | int]], decimals: int) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if value != value else value for value in line] for line in lines])
    return buffer.getvalue()
