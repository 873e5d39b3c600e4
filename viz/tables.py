"""The numbers of a figure as a table for a paper: LaTeX (booktabs), Markdown or CSV."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..arguments import explains_arguments
from ..errors import FigureError
from ..io.atomic import ensure_writable, write_atomically
from ..io.spreadsheets import guarded
from ..tracer.results.maps import LayerProfile
from ..validation import is_whole
from .figure_data import AlphaData, CurvePanelsData, Data, HeatmapData, OverlayData, PanelsData, PointsData, ProfileData
from .figure_data.labels import number, quoted, tex_text

if TYPE_CHECKING:
    from .interactive.figure import NotebookFigure
    from .paper.figure import PaperFigure

__all__ = ["caption", "export_table"]


@explains_arguments
def caption(figure: NotebookFigure | PaperFigure) -> str:
    """A caption to start from, for a figure of :func:`heatmap`, :func:`profile`, :func:`overlay`, :func:`panels`, ...

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


@explains_arguments
def export_table(figure: NotebookFigure | PaperFigure, path: str | os.PathLike[str], *, decimals: int = 2) -> Path:
    """Write the numbers that a figure shows and return the path: .tex (booktabs), .md or .csv by the suffix.

    One line per layer, from the last to the first as in a heatmap. A heatmap has a column per token and the profile
    beside it, panels have those of each panel; a profile has a column per curve, with its interval. Layer weights have
    a line per block, trade-offs per point, other curves per point of each curve.

    decimals: of .tex and .md; a .csv holds every digit. There a name that begins as a spreadsheet's formula does
        (=, +, -, @) has an apostrophe before it.

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
    if not is_whole(decimals, most=12):
        raise FigureError(f"decimals={quoted(decimals)}: give a whole number between 0 and 12")
    ensure_writable(path)
    content = writers[suffix](*_columns(_data(figure)), int(decimals))
    with write_atomically(path, binary=True) as handle:
        handle.write(content.encode("utf-8"))
    return Path(path)


def _data(figure: Any) -> Data:
    shown = getattr(figure, "shown", None)
    if shown is None:
        raise FigureError(f"give a figure of tracescribe.viz (heatmap, profile, panels), not a {type(figure).__name__}")
    return cast("Data", shown)


Cell = float | int | str
_MARKUP = re.compile(r"[\\|<*_`~$]|&(?=#?\w+;)|\](?=[(\[])")  # what Markdown, or GitHub's, would read


def _columns(data: Data) -> tuple[list[str], list[list[Cell]]]:
    """Header and lines: layers downwards as in the figure, blocks or points in order, then what stands in them."""
    if isinstance(data, OverlayData):
        raise FigureError("an overlay has a table per layer: write trace.to_frame() instead")
    if isinstance(data, HeatmapData):
        return _by_layer(data.layers.tolist(), _of_map(data))
    if isinstance(data, PanelsData):
        columns = [
            (f"{name}: {column}", layers, values)
            for name, view in zip(data.names, data.views, strict=True)
            for column, layers, values in _of_map(view)
        ]
        return _by_layer(sorted({layer for view in data.views for layer in view.layers.tolist()}), columns)
    if isinstance(data, ProfileData):
        layers = sorted({layer for _, curve in data.series for layer in curve.layers.tolist()})
        return _by_layer(layers, [c for name, curve in data.series for c in _of_curve(name or data.quantity, curve)])
    if isinstance(data, AlphaData):
        bounds = [] if data.lo is None or data.hi is None else [("low", data.lo), ("high", data.hi)]
        columns_of = [("alpha", data.alpha), *bounds, ("multiplier", data.multipliers), *data.shares]
        lines: list[list[Cell]] = [
            [i + 1, *(float(values[i]) for _, values in columns_of)] for i in range(len(data.alpha))
        ]
        return ["block", *(name for name, _ in columns_of)], lines
    if isinstance(data, PointsData):
        header = ["name", *(f"{axis}{part}" for axis in (data.x_name, data.y_name) for part in ("", ", low", ", high"))]
        return header, [
            [name, *map(float, x), *map(float, y)] for name, x, y in zip(data.names, data.x, data.y, strict=True)
        ]
    if isinstance(data, CurvePanelsData):
        parts = [(name, _columns(panel)) for name, panel in zip(data.names, data.panels, strict=True)]
        told = [[name, *line] for name, (_, lines) in parts for line in lines if np.isfinite(line[2])]
        return ["panel", *parts[0][1][0]], told
    names, curves = ["name", data.x_name, data.y_name, "low", "high"], list[list[Cell]]()
    for name, (x, y, lo, hi) in zip(data.names, data.curves, strict=True):
        bands = [np.full(len(x), np.nan) if bound is None else bound for bound in (lo, hi)]
        curves += [[name, *map(float, line)] for line in zip(x, y, *bands, strict=True)]
    return names, curves


Column = tuple[str, list[int], np.ndarray]  # its name, the layers it has, the values there


def _of_map(data: HeatmapData) -> list[Column]:
    layers = data.layers.tolist()
    columns = [(label, layers, values) for label, values in zip(data.labels, data.values.T, strict=True)]
    return columns + ([] if data.profile is None else _of_curve(data.profile_name, data.profile))


def _of_curve(name: str, curve: LayerProfile) -> list[Column]:
    layers, columns = curve.layers.tolist(), [(name, curve.value)]
    if curve.ci is not None and curve.lo is not None and curve.hi is not None:
        columns += [(f"{curve.ci:.0%} low", curve.lo), (f"{curve.ci:.0%} high", curve.hi)]
    return [(name, layers, values) for name, values in columns]


def _by_layer(layers: list[int], columns: list[Column]) -> tuple[list[str], list[list[Cell]]]:
    found = [dict(zip(known, np.asarray(values).tolist(), strict=True)) for _, known, values in columns]
    lines: list[list[Cell]] = [[layer, *(float(values.get(layer, np.nan)) for values in found)] for layer in layers]
    return ["layer", *(name for name, _, _ in columns)], lines[::-1]


def _shown(value: Cell, decimals: int) -> str:
    return str(value) if isinstance(value, int | str) else number(value, decimals) if np.isfinite(value) else "–"


def _latex(names: list[str], lines: list[list[Cell]], decimals: int) -> str:
    def row(cells: list[str]) -> str:
        begun = "{}" if cells[0].startswith(("[", "*")) else ""  # else an argument of the line's end before it
        return begun + " & ".join(map(tex_text, cells)) + r" \\"

    aligned = "".join("l" if lines and isinstance(cell, str) else "r" for cell in (lines[0] if lines else names))
    body = "\n".join(row([_shown(value, decimals) for value in line]) for line in lines)
    written = {
        character for cell in (*names, *(x for line in lines for x in line)) for character in tex_text(str(cell))
    }
    further = sorted(character for character in written if ord(character) > 0x24F)
    fonts = f"% {' '.join(further[:20])}: XeLaTeX or LuaLaTeX with a font that has them\n" if further else ""
    return (
        f"% needs \\usepackage{{booktabs}}\n{fonts}\\begin{{tabular}}{{{aligned}}}\n\\toprule\n{row(names)}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def _markdown(names: list[str], lines: list[list[Cell]], decimals: int) -> str:
    table = [names, ["---:"] * len(names), *([_shown(value, decimals) for value in line] for line in lines)]
    rows = [[_MARKUP.sub(r"\\\g<0>", cell) for cell in cells] for cells in table]
    rule = "|" + "---:|" * len(names)
    return "\n".join(rule if i == 1 else f"| {' | '.join(cells)} |" for i, cells in enumerate(rows)) + "\n"


def _csv(names: list[str], lines: list[list[Cell]], decimals: int) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(guarded, names))
    writer.writerows([["" if value != value else guarded(value) for value in line] for line in lines])
    return buffer.getvalue()
