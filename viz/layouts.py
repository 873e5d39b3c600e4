"""Figures of several results for papers: panels on one scale, layer weights, trade-offs, curves, an author's axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from ..arguments import explains_arguments
from ..errors import FigureError
from ..io.quoting import shown
from ..tracer.results.maps import LayerProfile
from ..validation import is_number
from .figure_data import (
    AlphaData,
    CurvesData,
    Data,
    HeatmapData,
    PanelAxis,
    PointsData,
    Profiled,
    ProfileData,
    Source,
    Statistics,
    alpha_data,
    curve_panels_data,
    curves_data,
    heatmap_data,
    panels_data,
    points_data,
    profile_data,
)
from .paper.figure import PaperFigure
from .paper.files import matplotlib_settings
from .theme import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .interactive.figure import NotebookFigure

__all__ = ["alpha_bars", "curves", "draw", "panels", "pareto"]


@explains_arguments
def panels(
    sources: Mapping[str, Source],
    *,
    bars: Literal["sum", "mean", "max", "std", "locality"] | None = "sum",
    difference: str | None = None,
    per_row: int | None = None,
    axis: PanelAxis = "layer",
    limit: float | None = None,
    title: str | None = None,
    palette: str = PALETTE,
    align: str | None = None,
    reduce: str | None = None,
    segment: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> PaperFigure:
    """Maps side by side on one colour scale: layers across, tokens down, bars per layer beneath each.

    sources: from names to traces, maps or excesses over a control: directions, conditions, before and after, sites.
        A trace of one pair shows its own tokens; of several, ``trace.map(align="role")``.
    bars: what the bars are: the sum, mean, max or std over a layer's tokens, or :meth:`TraceMap.locality`; None for
        none. Those of traces have an interval, but for locality.
    difference: with two sources, the name of a third panel: the second minus the first, such as "after − before". Of
        two traces its bars have an interval, for which clusters and texts that both have are resampled together.
    per_row: panels in a row; None = as many as are readable at the figure's width.
    axis: where the layers stand: "layer", at their number; "depth", at their number over that of the map's last layer,
        on one axis of relative depth for models of different depths, whose cells are then of different widths.
    limit: colours of all panels run from -limit to limit; None = the largest absolute value.
    palette: "RdBu", "PuOr" or "BrBG".
    align, reduce, segment, ci, n_boot, seed: as in :meth:`CausalTrace.map` and :meth:`CausalTrace.per_layer`.

    Raises:
        FigureError: nothing to draw, maps of different layers on the axis of layers, or an option that does not apply.
        DegenerateTraceError: a trace without a usable pair.

    >>> import numpy as np
    >>> from tracescribe.tracer import TraceMap
    >>> rows = ("first differing", "[end]")
    >>> maps = [TraceMap(np.array([[1.0, 0.0], [x, 1 - x]]), rows, np.arange(2), np.array([5, 5])) for x in (0.6, 0.2)]
    >>> panels({"before": maps[0], "after": maps[1]}, difference="after − before").shown.names
    ('before', 'after', 'after − before')
    """
    statistics = Statistics(align, reduce, segment, None, ci, n_boot, seed)
    return PaperFigure(
        panels_data(
            sources,
            bars=bars,
            difference=difference,
            per_row=per_row,
            axis=axis,
            limit=limit,
            title=title,
            palette=palette,
            statistics=statistics,
        )
    )


@explains_arguments
def alpha_bars(plan: Any, shares: Any = None, *, title: str | None = None) -> PaperFigure:
    """A plan's alpha per block as bars with their interval, and shares of the update beneath.

    plan: of :func:`tracescribe.prescribe`.
    shares: what training changed, of :func:`tracescribe.finetune.update_share` (or one number per block), or a dict
        from names to these: ``{"uniform": ..., "CTE-weighted": ...}``.

    Raises:
        FigureError: not a plan, or shares of another number of blocks.

    >>> import numpy as np
    >>> from tracescribe import Prescription
    >>> alpha_bars(Prescription(np.array([0.5, 1.0, 0.0])), {"uniform": [1, 1, 2]}).shown.shares
    (('uniform', array([0.25, 0.25, 0.5 ])),)
    """
    return PaperFigure(alpha_data(plan, shares, title))


@explains_arguments
def pareto(
    points: Mapping[str, Sequence[Any]],
    x: str,
    y: str,
    *,
    better: tuple[Literal["higher", "lower"], Literal["higher", "lower"]] = ("higher", "higher"),
    title: str | None = None,
) -> PaperFigure:
    """Ways of training by two scores, with a line through those that no other is better than in both.

    points: from names to (x, y): numbers, or intervals such as ``evaluation.gap`` and ``evaluation.claims``.
    x, y: what the axes are, with their unit. better: which end of each axis is.

    Raises:
        FigureError: no points, or one that is no pair of finite numbers.

    >>> figure = pareto({"a": (1, 2), "b": (2, 1), "c": (0, 0)}, "kept (%)", "gained (pp)")
    >>> figure.shown.front.tolist()
    [True, True, False]
    """
    return PaperFigure(points_data(points, x, y, better, title))


@explains_arguments
def curves(sources: Mapping[str, Any], x: str, y: str, *, title: str | None = None) -> PaperFigure:
    """Curves over any axis with their bands: faithfulness by the number of restored cells, scores by training step.

    sources: from names to (x, y) or (x, y, lo, hi), arrays of one length, or to :meth:`Faithfulness.curve`. Or from
        names of panels to such dicts: then there is a panel each, on the same axes; a name has the same colour in all.
    x, y: what the axes are, with their unit.

    Raises:
        FigureError: no curve, or one whose arrays do not fit.

    >>> curves({"by CTE": ([0, 1, 2], [0.0, 0.8, 1.0])}, "cells restored", "faithfulness").shown.title
    'faithfulness by cells restored'
    """
    if isinstance(sources, Mapping) and any(isinstance(source, Mapping) for source in sources.values()):
        return PaperFigure(curve_panels_data(sources, x, y, title))
    return PaperFigure(curves_data(sources, x, y, title))


@explains_arguments
def draw(
    source: Profiled | Mapping[str, Profiled] | NotebookFigure | PaperFigure,
    ax: Axes,
    *,
    pair: int | str | None = None,
    title: str | None = None,
    values: Literal["auto"] | bool = "auto",
    limit: float | None = None,
    palette: str = PALETTE,
    font: str | None = None,
    size: float = 6.5,
    align: str | None = None,
    reduce: str | None = None,
    segment: str | None = None,
    aggregate: str | None = None,
    ci: float | None = 0.95,
    n_boot: int = 1000,
    seed: int = 0,
) -> Any:
    """Draw into axes of your own matplotlib figure; returns the cells of a map, for ``figure.colorbar``, else None.

    source: a CausalTrace, TraceMap or Excess gives a map with layers across and tokens down; a LayerProfile, or a dict
        from names to any of these, gives curves; a figure of :func:`heatmap`, :func:`profile`, :func:`alpha_bars`,
        :func:`pareto` or :func:`curves` gives what it shows.
    ax: at its final size: names are thinned to what it has room for.
    title: of the axes. font: a family; None = DejaVu Sans. size: of ticks, in points; the other texts follow from it.
    pair, values, limit, palette, align, reduce, segment, aggregate, ci, n_boot, seed: as in :func:`export`.

    Raises:
        FigureError: something that needs a figure of its own (panels, overlays), or an option that does not apply.

    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from tracescribe.tracer import TraceMap
    >>> cells = TraceMap(np.array([[1.0, 0.0], [0.6, 0.3]]), ("no", "[end]"), np.arange(2), np.array([5, 5]))
    >>> figure = Figure(figsize=(3.25, 2))
    >>> bar = figure.colorbar(draw(cells, figure.subplots()))
    """
    from .paper.author import put

    if not hasattr(ax, "pcolormesh"):
        raise FigureError(f"ax is the axes of a matplotlib figure, not a {type(ax).__name__}")
    if not is_number(size, 1, 200):
        raise FigureError(f"size must be that of ticks in points, from 1 to 200, not {shown(size)}")
    statistics = Statistics(align, reduce, segment, aggregate, ci, n_boot, seed)
    data: Data
    known = getattr(source, "shown", None)
    if known is not None:
        statistics.refuse_all_but("a figure that is drawn already")
        data = known
    elif isinstance(source, LayerProfile | Mapping):
        data = profile_data(source, statistics)
    else:
        data = heatmap_data(cast("Source", source), pair, profile=False, limit=limit, statistics=statistics)
    if isinstance(data, HeatmapData):
        data = replace(data, palette=palette)
    if not isinstance(data, HeatmapData | ProfileData | AlphaData | PointsData | CurvesData):
        raise FigureError("panels and overlays need a figure of their own: draw each map into axes, or use export")
    with matplotlib_settings():
        return put(data, ax, title=title, values=values, font=font, size=size)
