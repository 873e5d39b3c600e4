"""Two traces against each other: before and after fine-tuning, two models, two prompts, two populations."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import TraceError
from ...io.quoting import shown
from .maps import LayerProfile, TraceMap
from .read_only import ReadOnlyArrays
from .statistics import rank_correlation

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["NUMBERS", "Contrast", "TraceComparison"]

NUMBERS = ("first", "second", "difference", "lo", "hi", "p", "q")


@dataclass(frozen=True, eq=False)
class Contrast(ReadOnlyArrays):
    """One quantity in both traces, cell by cell.

    difference: second - first. lo, hi: its bounds at the comparison's level. p: two-sided, of no difference, by t with
    the bootstrap's standard error; q: p after Benjamini and Hochberg's control of the false discovery rate over all
    cells that are tested. All four are NaN in cells that are fixed by construction, and where there is no interval.
    """

    first: Float[np.ndarray, "*cell"]
    second: Float[np.ndarray, "*cell"]
    difference: Float[np.ndarray, "*cell"]
    lo: Float[np.ndarray, "*cell"]
    hi: Float[np.ndarray, "*cell"]
    p: Float[np.ndarray, "*cell"]
    q: Float[np.ndarray, "*cell"]

    @property
    def tested(self) -> Bool[np.ndarray, "*cell"]:
        """Cells that are free to differ."""
        return np.isfinite(self.p)

    @property
    def rank_agreement(self) -> float | None:
        """Spearman's correlation over the cells that are free to differ; None for fewer than 3, or constant ones."""
        free = self.tested if self.tested.any() else np.isfinite(self.first + self.second)
        return rank_correlation(self.first[free], self.second[free])


@dataclass(frozen=True, eq=False)
class TraceComparison(ReadOnlyArrays):
    """What differs between two traces; a difference is the second less the first.

    cells: maps by [layer, row]. profile: by layer. alpha: layer weights, min-max over the blocks, by block.
    layers: numbers of the layers, of the shallower model where depths differ. depth: layer over the number of blocks.
    names: of the traces. rows: that both have. n_pairs: that enter from each. matching: which pairs were paired.
    interpolated: what was, where depths differ; else None. provenance: of both traces, by "first" and "second".
    """

    names: tuple[str, str]
    cells: Contrast
    profile: Contrast
    alpha: Contrast
    layers: Int[np.ndarray, "layer"]
    depth: Float[np.ndarray, "layer"]
    rows: tuple[str, ...]
    paired: bool
    matching: str
    n_pairs: tuple[int, int]
    n_groups: int
    n_texts: int
    ci: float | None
    aggregate: str
    align: str
    reduce: str
    interpolated: str | None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        shapes = {"cells": (len(self.layers), len(self.rows)), "profile": (len(self.layers),)}
        shapes |= {"alpha": (int((self.layers > 0).sum()),)}
        for name, shape in shapes.items():
            for number in NUMBERS:
                found = getattr(getattr(self, name), number).shape
                if found != shape:
                    raise TraceError(f"TraceComparison.{name}.{number} has shape {found}, expected {shape}")
        rising = len(self.layers) and (np.diff(self.layers) > 0).all() and self.layers[0] >= 0
        if not rising or self.depth.shape != self.layers.shape or not (np.diff(self.depth) > 0).all():
            raise TraceError("the layers of a comparison, and their depths, must rise")

    @property
    def blocks(self) -> Int[np.ndarray, "block"]:
        """Numbers of the layers that :attr:`alpha` is of."""
        return self.layers[self.layers > 0]

    def map(self) -> TraceMap:
        """The differences of the maps' cells, to draw: ``tracescribe.viz.heatmap(comparison.map())``."""
        level = self.ci if self.cells.tested.any() else None
        return TraceMap(
            values=self.cells.difference,
            rows=self.rows,
            layers=self.layers,
            counts=np.full(len(self.rows), min(self.n_pairs)),
            reduce=self.reduce,
            align=self.align,
            segment="in both traces" if self.paired else "two samples",
            n_pairs=min(self.n_pairs),
            quantity=f"CTE, {self.names[1]} less {self.names[0]}",
            lo=None if level is None else self.cells.lo,
            hi=None if level is None else self.cells.hi,
            ci=level,
        )

    def per_layer(self) -> LayerProfile:
        """The differences of the profiles, with their intervals."""
        tested = self.profile.tested.any()
        # a layer that is fixed by construction has an interval of no width
        lo, hi = (
            np.where(np.isnan(side), self.profile.difference, side) for side in (self.profile.lo, self.profile.hi)
        )
        return LayerProfile(
            value=self.profile.difference,
            layers=self.layers,
            aggregate=self.aggregate,
            lo=lo if tested else None,
            hi=hi if tested else None,
            ci=self.ci if tested else None,
            n_pairs=min(self.n_pairs),
            n_groups=self.n_groups,
            n_texts=self.n_texts,
        )

    def heatmap(
        self,
        *,
        title: str | None = None,
        values: Literal["auto"] | bool = "auto",
        profile: bool | LayerProfile = True,
        limit: float | None = None,
        width: int | None = None,
        height: int | None = None,
        palette: str = "RdBu",
    ) -> go.Figure:
        """Interactive plotly heatmap of the differences, with their profile; see :func:`tracescribe.viz.heatmap`."""
        from ...viz import heatmap

        return heatmap(
            self.map(),
            title=title,
            values=values,
            profile=self.per_layer() if profile is True else profile,
            limit=limit,
            width=width,
            height=height,
            palette=palette,
        )

    def export(
        self,
        path: str | os.PathLike[str],
        width: str | float = "column",
        *,
        title: str | None = None,
        notes: bool = False,
        values: Literal["auto"] | bool = "auto",
        profile: bool | LayerProfile = True,
        limit: float | None = None,
        height: float | None = None,
        font: str | None = None,
        size: float = 6.5,
        palette: str = "RdBu",
        dpi: int = 300,
    ) -> Path:
        """A paper figure of the differences, with their profile; see :func:`tracescribe.viz.export`."""
        from ...viz import export

        return export(
            self.map(),
            path,
            width,
            title=title,
            notes=notes,
            values=values,
            profile=self.per_layer() if profile is True else profile,
            limit=limit,
            height=height,
            font=font,
            size=size,
            palette=palette,
            dpi=dpi,
        )

    def to_frame(self) -> pd.DataFrame:
        """One line per cell, layer and block; ``quantity`` says which: "cte", "profile" or "alpha"."""
        import pandas as pd

        layer, row = np.indices(self.cells.difference.shape)
        free = np.isin(self.layers, self.blocks)
        parts = [
            _lines("cte", self.cells, self.layers[layer], self.depth[layer], np.array(self.rows, dtype=object)[row]),
            _lines("profile", self.profile, self.layers, self.depth, np.full(len(self.layers), "", dtype=object)),
            _lines("alpha", self.alpha, self.blocks, self.depth[free], np.full(free.sum(), "", dtype=object)),
        ]
        return pd.concat(parts, ignore_index=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`tracescribe.tracer.load_comparison` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``.
        """
        from .comparison_file import save_comparison

        save_comparison(self, path)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the comparison as one HTML file; see :func:`tracescribe.viz.comparison_page`."""
        from ...viz import comparison_page, report

        return report(path, comparison_page(self))

    def summary(self) -> str:
        """What was compared, what differs, and how alike the rankings are, as lines for people."""
        lines = [
            f"{self.names[1]} less {self.names[0]}: {self.matching}; {self.n_pairs[0]} and {self.n_pairs[1]} enter"
        ]
        lines += [] if self.interpolated is None else [self.interpolated]
        lines += self._unlike()
        for name, contrast in (("cells", self.cells), ("layers", self.profile), ("blocks by alpha", self.alpha)):
            lines.append(_told(name, contrast, self))
        if self.n_groups < 2:
            lines.append("no intervals: all pairs of a trace are of one cluster")
        elif (caution := self.per_layer().caution) is not None:
            lines.append(caution[0].upper() + caution[1:])
        return "\n".join(lines)

    def _unlike(self) -> list[str]:
        """What is not the same in both traces, although they can be compared."""
        told = [self.provenance.get(side, {}) for side in ("first", "second")]
        floors, pools, weights = ([one.get(key) for one in told] for key in ("floor", "pool", "weights_sha256"))
        lines = []
        if floors[0] != floors[1] and None not in floors:
            least = " and ".join(map(shown, floors))
            lines.append(f"the least |S_corr - S_foil| of a pair that enters differs: {least}")
        if pools[0] != pools[1] and None not in pools and weights[0] == weights[1]:  # by other tokenizers they differ
            lines.append("states are replaced by those of other captions: the pools differ")
        return lines

    def _repr_html_(self) -> str:
        from ...viz.notebook.comparisons import comparison_html

        return comparison_html(self)

    def __repr__(self) -> str:
        kind = "paired" if self.paired else "unpaired"
        return f"TraceComparison({self.names[1]!r} less {self.names[0]!r}, {kind}, {len(self.layers)} layers)"


def _lines(quantity: str, contrast: Contrast, layer: np.ndarray, depth: np.ndarray, row: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    values = {name: getattr(contrast, name).ravel() for name in NUMBERS}
    return pd.DataFrame(
        {"quantity": quantity, "layer": layer.ravel(), "depth": depth.ravel(), "row": row.ravel(), **values}
    )


def _told(name: str, contrast: Contrast, comparison: TraceComparison) -> str:
    agreement = contrast.rank_agreement
    ranks = "no rank agreement" if agreement is None else f"rank agreement {agreement:z.2f}"
    free = int(contrast.tested.sum())
    if not free:
        return f"{name}: largest difference {_largest(contrast.difference):+z.2f}; {ranks}"
    at = int(np.argmax(np.where(contrast.tested, np.abs(contrast.difference), -1)))
    lo, hi, value = (side.ravel()[at] for side in (contrast.lo, contrast.hi, contrast.difference))
    numbers = comparison.blocks if name.startswith("blocks") else comparison.layers
    layer, row = divmod(at, len(comparison.rows)) if name == "cells" else (at, None)
    where = f"layer {numbers[layer]}" + ("" if row is None else f", {comparison.rows[row]}")
    differ = int((contrast.q[contrast.tested] < 0.05).sum())
    largest = f"{value:+z.2f} [{lo:+z.2f}, {hi:+z.2f}]"
    return f"{name}: {differ} of {free} differ (q < 0.05); largest {largest} at {where}; {ranks}"


def _largest(values: np.ndarray) -> float:
    return float(values.ravel()[np.nanargmax(np.abs(values))]) if np.isfinite(values).any() else float("nan")
