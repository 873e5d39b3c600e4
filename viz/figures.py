"""The functions that draw: from a result to an interactive figure or a file for a paper."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ..arguments import explains_arguments
from ..errors import FigureError
from ..io.atomic import ensure_writable, write_atomically
from ..tracer.results.faithfulness import Faithfulness
from ..tracer.results.maps import LayerProfile
from .figure_data import (
    Data,
    HeatmapData,
    OverlayData,
    Profiled,
    Source,
    Statistics,
    faithfulness_data,
    heatmap_data,
    overlay_data,
    profile_data,
)
from .figure_data.labels import quoted
from .paper.figure import PaperFigure
from .paper.files import PaperOptions, rendered, suffix_of
from .theme import PALETTE

if TYPE_CHECKING:
    from .interactive.figure import NotebookFigure

__all__ = ["export", "export_overlay", "faithfulness", "heatmap", "overlay", "profile"]

_PICTURE = PaperOptions("page", title=True, notes=True, dpi=200)
"""Of the static picture that a notebook keeps beside the interactive figure."""


@explains_arguments
def heatmap(
    source: Source,
    pair: int | str | None = None,
    *,
    title: str | None = None,
    values: Literal["auto"] | bool = "auto",
    profile: bool | LayerProfile = True,
    limit: float | None = None,
    width: int | None = None,
    height: int | None = None,
    palette: str = PALETTE,
    align: str | None = None,
    reduce: str | None = None,
    segment: str | None = None,
    aggregate: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> NotebookFigure:
    """Causal tracing effect by layer and token, as a plotly figure.

    source: a CausalTrace (several pairs: ``trace.map(align="role")``; one pair: its own tokens), a TraceMap, or an
        Excess over a control.
    pair: number or id of one pair of the trace.
    title: in place of the default one; "" for none, then the notes under it go too.
    values: whether each cell's number is written; "auto" = where they fit.
    profile: whether the CTE per layer stands beside the cells, or the LayerProfile to put there.
    limit: colours run from -limit to limit; None = the largest absolute value. Where cells lie beyond it, the end of
        the colour bar says "≤" or "≥".
    width, height: pixels; None = from the numbers of tokens and layers.
    palette: "RdBu", "PuOr" or "BrBG" (ColorBrewer).
    align, reduce, segment: as in :meth:`CausalTrace.map`.
    aggregate, ci, n_boot, seed: of the profile beside the cells, as in :meth:`CausalTrace.per_layer`.

    Colours are safe for colour-blind readers and centred at 0; a cell below 0 without a number has a dash, which is
    read in grey too. Tokens that differ between the captions are in bold under a mark; for one pair the foil's token
    follows a stroke: "severe / no". Parts of a word are marked: "no·", "·dule". The notes say which pairs entered and
    how they were traced.

    Raises:
        FigureError: something that is no trace, no such pair, an option that does not apply.

    >>> import numpy as np
    >>> from tracescribe.tracer import TraceMap
    >>> values, counts = np.array([[1.0, 0.0], [0.6, 0.3]]), np.array([5, 5])
    >>> cells = TraceMap(values, ("first differing", "[end]"), np.arange(2), counts)
    >>> figure = heatmap(cells)
    >>> figure.data[0].z, figure.data[0].zmin, figure.data[0].zmax
    (([1.0, 0.0], [0.6, 0.3]), -1.0, 1.0)
    """
    paper = replace(_PICTURE, values=values)
    statistics = Statistics(align, reduce, segment, aggregate, ci, n_boot, seed)
    data = heatmap_data(source, pair, profile=profile, limit=limit, title=title, statistics=statistics)
    data = replace(data, palette=palette)

    from .interactive.heatmap import draw_heatmap

    return _with_picture(draw_heatmap(data, values=values, width=width, height=height), data, paper)


@explains_arguments
def profile(
    sources: Profiled | Mapping[str, Profiled],
    *,
    title: str | None = None,
    width: int = 680,
    height: int = 380,
    align: str | None = None,
    reduce: str | None = None,
    segment: str | None = None,
    aggregate: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> NotebookFigure:
    """CTE per layer with confidence bands, as a plotly figure.

    sources: a CausalTrace, TraceMap, LayerProfile or Excess, or a dict from names to these: a trace and its controls.
    title: in place of the default one; "" for none, then the notes under it go too.
    width, height: pixels.
    align, reduce, segment, aggregate, ci, n_boot, seed: as in :meth:`CausalTrace.per_layer`.

    Raises:
        FigureError: something that has no profile, or an option that does not apply.

    >>> import numpy as np
    >>> from tracescribe.tracer import LayerProfile
    >>> curve = LayerProfile(np.array([1.0, 0.9, 1.0]), np.arange(3), "sum", n_pairs=4, n_groups=4)
    >>> profile({"negation": curve, "severity": curve}).data[-1].name
    'severity'
    """
    data = profile_data(sources, Statistics(align, reduce, segment, aggregate, ci, n_boot, seed), title)

    from .interactive.profile import draw_profile

    return _with_picture(draw_profile(data, width=width, height=height), data, _PICTURE)


@explains_arguments
def faithfulness(
    source: Faithfulness,
    *,
    title: str | None = None,
    width: int = 720,
    height: int = 420,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> NotebookFigure:
    """CTE of patching the first k cells together, and of patching all others, beside random cells; a plotly figure.

    source: from :func:`tracescribe.faithfulness`.
    title: in place of the default one; "" for none, then the notes under it go too.
    width, height: pixels. ci, n_boot, seed: of the bands, as in :meth:`CausalTrace.per_layer`.

    Raises:
        FigureError: something else.

    >>> import tracescribe as ts
    >>> model, clear = ts.load("phantom"), ts.Text("The lungs are clear.")
    >>> pairs = [ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=clear)]
    >>> trace = ts.trace(model, pairs, site="mlp", positions="all", progress=False)
    >>> figure = faithfulness(ts.faithfulness(model, trace, pairs, sizes=[1, 4], random=0, progress=False))
    >>> [curve.name for curve in figure.data][:1]
    ['first k patched']
    """
    data = faithfulness_data(source, title, ci, n_boot, seed)

    from .interactive.profile import draw_profile

    return _with_picture(draw_profile(data, width=width, height=height), data, _PICTURE)


@explains_arguments
def overlay(
    trace: Any,
    image: Any,
    pair: int | str | None = None,
    *,
    layers: list[int] | None = None,
    limit: float | None = None,
    title: str | None = None,
    width: int | None = None,
    palette: str = PALETTE,
) -> NotebookFigure:
    """Causal tracing effect by layer and patch over the image, as a plotly figure; hovering shows the numbers.

    trace: from :func:`tracescribe.trace_images`. image, pair, layers, limit: see :func:`overlay_data`.
    title: in place of the default one; "" for none.
    width: pixels; None = from the number of layers.

    palette: "RdBu" (blue is negative, red positive), "PuOr" or "BrBG" (ColorBrewer), centred at 0.

    Patches whose pixels differ are outlined.

    Raises:
        FigureError: not an image trace, no such pair or layer, or an image of another shape.

    >>> import tracescribe as ts
    >>> from tracescribe.benchmark.phantom import counterfactual_pairs
    >>> model, pairs = ts.load("phantom"), counterfactual_pairs(1)
    >>> figure = overlay(ts.trace_images(model, pairs, progress=False), pairs[0].image)
    >>> [annotation.text for annotation in figure.layout.annotations[:2]]
    ['layer 0', 'layer 1']
    """
    data = replace(overlay_data(trace, image, pair, layers, limit, title), palette=palette)

    from .interactive.overlay import draw_overlay

    return _with_picture(draw_overlay(data, width), data, _PICTURE)


@explains_arguments
def export(
    source: Profiled | Mapping[str, Profiled] | Faithfulness | NotebookFigure | PaperFigure,
    path: str | os.PathLike[str],
    width: str | float = "column",
    *,
    pair: int | str | None = None,
    title: str | None = None,
    notes: bool = False,
    values: Literal["auto"] | bool = "auto",
    profile: bool | LayerProfile = True,
    limit: float | None = None,
    height: float | None = None,
    font: str | None = None,
    size: float = 6.5,
    palette: str = PALETTE,
    dpi: int = 300,
    align: str | None = None,
    reduce: str | None = None,
    segment: str | None = None,
    aggregate: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> Path:
    """Write a figure for a paper and return its path; the suffix chooses among .pdf, .svg, .eps, .pgf
    and .png.

    source: a CausalTrace, TraceMap or Excess gives the heatmap of :func:`heatmap`; a LayerProfile, or a dict from names
        to any of these, gives the curves of :func:`profile`, and a Faithfulness those of :func:`faithfulness`; a figure
        of this module gives what it shows (not what was changed in it afterwards).
    width: "column" (3.25 inches), "page" (6.75), "icml", "neurips", "iclr", "acl", "nature" (the template's column or
        text width; also "icml-page", "acl-page", "nature-page"), a measure ("89mm", "8.5cm", TeX's "234.8775pt"), or
        inches; the file is exactly that wide.
    pair: number or id of one pair of a trace.
    title: None = none drawn, because a paper's caption says it; the default title is in the file's metadata.
    notes: whether to write what the numbers stand on (pairs, direction, site, ...) above the cells.
    values: whether each cell's number is written; "auto" = where they fit at a readable size.
    profile: whether the CTE per layer stands beside the cells, or the LayerProfile to put there.
    limit: colours run from -limit to limit; None = the largest absolute value. Where cells lie beyond it, the colour
        bar ends in an arrow.
    height: inches; None = from the content.
    font: an installed font family; None = DejaVu Sans, which comes with matplotlib, so that every machine draws alike.
    size: of ticks and tokens, in points; the other texts follow from it.
    palette: "RdBu", "PuOr" or "BrBG" (ColorBrewer), of maps.
    dpi: of a PNG; the other formats hold no bitmap.
    align, reduce, segment, aggregate, ci, n_boot, seed: as in :func:`heatmap`, or :func:`profile` for curves.

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
    paper = PaperOptions(width, height, values, bool(title), notes, font, dpi, size)
    statistics = Statistics(align, reduce, segment, aggregate, ci, n_boot, seed)
    suffix = suffix_of(path)
    ensure_writable(path)
    data: Data
    shown = getattr(source, "shown", None)
    if shown is not None:
        statistics.refuse_all_but("a figure that is drawn already")
        if pair is not None or limit is not None or profile is not True:
            raise FigureError(
                "pair, limit and profile do not apply to a figure that is drawn already: export the trace"
            )
        data = shown.titled(title)
    elif isinstance(source, Faithfulness):
        statistics.refuse_all_but("a Faithfulness", "ci", "n_boot", "seed")
        if pair is not None or limit is not None or profile is not True:
            raise FigureError("pair, limit and profile do not apply to faithfulness curves")
        data = faithfulness_data(source, title or None, ci, n_boot, seed)
    elif isinstance(source, LayerProfile | Mapping):
        if pair is not None:
            raise FigureError(
                f"pair={quoted(pair)}: a layer profile has no pairs; export trace.select([...]).per_layer()"
            )
        data = profile_data(source, statistics, title or None)
    else:
        # anything else is refused there, by its name
        cells = cast("Source", source)
        data = heatmap_data(cells, pair, profile=profile, limit=limit, title=title or None, statistics=statistics)
    return _write(_coloured(data, palette), path, suffix, paper)


@explains_arguments
def export_overlay(
    trace: Any,
    image: Any,
    path: str | os.PathLike[str],
    pair: int | str | None = None,
    *,
    layers: list[int] | None = None,
    limit: float | None = None,
    width: str | float = "page",
    title: str | None = None,
    notes: bool = False,
    font: str | None = None,
    size: float = 6.5,
    palette: str = PALETTE,
    dpi: int = 300,
) -> Path:
    """Write the overlay as a figure for a paper (.pdf, .svg, .eps, .png) and return its path.

    The first panel is the image itself. Arguments as in :func:`overlay` and :func:`export`.

    Raises:
        FigureError: see :func:`overlay`; an unknown suffix, width or font.
        OutputError: nothing can be written at ``path``; nothing was written.
    """
    paper = PaperOptions(width, title=bool(title), notes=notes, font=font, dpi=dpi, size=size)
    suffix = suffix_of(path)
    ensure_writable(path)
    data = _coloured(overlay_data(trace, image, pair, layers, limit, title or None), palette)
    return _write(data, path, suffix, paper)


def _coloured(data: Data, palette: str) -> Data:
    """The data in another palette; what is drawn already keeps its own where none is asked for."""
    if palette == PALETTE:
        return data
    if isinstance(data, HeatmapData | OverlayData):
        return replace(data, palette=palette)
    raise FigureError(f"palette={quoted(palette)} applies to maps; panels take it when they are made")


def _write(data: Data, path: str | os.PathLike[str], suffix: str, paper: PaperOptions) -> Path:
    content = rendered(data, suffix, paper)
    with write_atomically(path, binary=True) as handle:
        handle.write(content)
    return Path(path)


def _with_picture(figure: NotebookFigure, data: Data, paper: PaperOptions) -> NotebookFigure:
    return figure.showing(data, lambda: rendered(data, ".png", paper))
