"""The data of an overlay: layer × patch maps of an image tower, and the image below them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ...errors import FigureError
from ...tracer.results.causal_trace import CausalTrace
from ...validation import is_positive
from .. import theme
from .labels import MINUS, clean, number, quoted, shorten
from .notes import model_suffix, settings
from .options import check_palette
from .select import pair_number

__all__ = ["OUTLINE", "OverlayData", "Segment", "blended", "overlay_data"]

MAX_PANELS = 8
OUTLINE = "#ffd400"  # yellow: on no grey image and on no red-blue scale
_ARROWS = {"foil->correct": "counterfactual → image", "correct->foil": "image → counterfactual"}

Segment = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class OverlayData:
    """What there is to draw, whoever draws it.

    film: grey, 0 to 1, as wide and high as the tower's input, cut to what its grid covers.
    values: CTE by layer and cell of the grid; NaN where no column holds the cell, or several do.
    first: CTE by layer of each token before the patches. outlined: cells whose pixels differ.
    """

    film: Float[np.ndarray, "h w"]
    values: Float[np.ndarray, "layer row column"]
    layers: Int[np.ndarray, "layer"]
    first: dict[str, Float[np.ndarray, "layer"]]
    outlined: Bool[np.ndarray, "row column"]
    limit: float
    title: str
    notes: tuple[str, ...]
    palette: str = theme.PALETTE

    def __post_init__(self) -> None:
        check_palette(self.palette)
        object.__setattr__(self, "title", shorten(clean(self.title), 300))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> OverlayData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self

    @property
    def clipped_ends(self) -> tuple[bool, bool]:
        """Whether values below -limit, and above limit, are drawn in the colour of the limit."""
        bound = self.limit * (1 + 1e-9)
        return bool((self.values < -bound).any()), bool((self.values > bound).any())

    @property
    def borders(self) -> list[Segment]:
        """Line segments (x0, y0), (x1, y1) around the outlined cells, in cells."""
        inside = np.pad(self.outlined, 1)
        segments = []
        for row, column in np.argwhere(inside[1:, :] != inside[:-1, :]):
            segments.append(((column - 1.0, float(row)), (float(column), float(row))))
        for row, column in np.argwhere(inside[:, 1:] != inside[:, :-1]):
            segments.append(((float(column), row - 1.0), (float(column), float(row))))
        return segments

    @property
    def below_zero(self) -> Bool[np.ndarray, "layer row column"]:
        """Patches whose colour is seen to be that of a negative value."""
        return theme.below_zero(self.values, self.limit)

    def dashes(self, at: int) -> dict[str, list[Segment]]:
        """The signs of patches below 0, in the colour that contrasts with what they stand on: segments in cells."""
        picture = blended(self.film, self.values[at], self.limit, self.palette)
        rows, columns = self.outlined.shape
        shades = picture.reshape(rows, picture.shape[0] // rows, columns, -1, 3).mean(axis=(1, 3))
        found: dict[str, list[Segment]] = {}
        for row, column in np.argwhere(self.below_zero[at]).tolist():
            red, green, blue = shades[row, column].tolist()
            segment = ((column + 0.3, row + 0.5), (column + 0.7, row + 0.5))
            found.setdefault(theme.ink_on((red, green, blue)), []).append(segment)
        return found

    def panel_title(self, at: int) -> str:
        """The layer's name, with the effect of tokens that have no place on the film."""
        named = "".join(f" · {name} {number(values[at], 2)}" for name, values in self.first.items())
        return f"layer {self.layers[at]}{named}"


def overlay_data(
    trace: CausalTrace,
    image: Any,
    pair: int | str | None = None,
    layers: list[int] | None = None,
    limit: float | None = None,
    title: str | None = None,
) -> OverlayData:
    """The map of one pair of an image trace over its image.

    image: the pair's image as the model sees it: pixels [3, h, w] (``model.image.pixels(...)``), or a path, PIL image
        or array [h, w] or [h, w, 3] of the same aspect ratio as the model's input.
    pair: number or id of the pair; None where there is only one.
    layers: which layers get a panel; None = all of them, or, where there are more than eight, eight from first to last.
    limit: colours run from -limit to limit; None = the largest absolute value of a patch.
    title: in place of the default one; "" for none.

    Raises:
        FigureError: not an image trace, no such pair or layer, or an image of another shape.
    """
    if not isinstance(trace, CausalTrace) or trace.provenance.get("modality") != "image":
        raise FigureError("an overlay needs the result of trace_images; draw other traces with heatmap")
    if pair is None and trace.n_pairs > 1:
        raise FigureError(
            f"the trace has {trace.n_pairs} image pairs: choose one to draw, e.g. pair={quoted(trace.ids[0])}"
        )
    i = pair_number(trace, 0 if pair is None else pair)
    tower = trace.provenance["tower"]
    grid, first = tuple(tower["grid"]), tower["first"]
    chosen = _chosen_layers(trace, layers)
    regions = trace.provenance["regions"]
    if regions is None:  # the set of differing patches, pair by pair
        regions = [np.flatnonzero(trace.differs[i]).tolist()]
    by_position = np.full((len(chosen), len(first) + grid[0] * grid[1]), np.nan)
    counts = np.bincount([position for region in regions for position in region], minlength=by_position.shape[1])
    cte = trace.cte[i, np.searchsorted(trace.layers, chosen)]
    for column, region in enumerate(regions):
        by_position[:, region] = cte[:, column, None]
    by_position[:, counts > 1] = np.nan
    named = {name: by_position[:, at] for at, name in enumerate(first) if np.isfinite(by_position[:, at]).any()}
    if limit is not None and not is_positive(limit):
        raise FigureError(f"limit={quoted(limit)}: colours need a finite limit above 0")
    margin = f"S_image − S_counterfactual = {trace.denominator[i]:.3f}".replace("-", MINUS)
    notes = [margin, _ARROWS[trace.direction], *settings(trace)[1:], "outline: where the pixels differ"]
    if trace.captions is not None and trace.captions[i]:
        notes.append(f"caption “{shorten(trace.captions[i], 120)}”")
    if trace.provenance["regions"] is None:
        notes.append("all differing patches together")
    if not trace.valid[i]:
        notes.insert(0, f"no CTE: the margin is below the floor of {trace.floor:g}")
    elif trace.denominator[i] < 0:
        notes.insert(1, "the model prefers the counterfactual")
    default = f"CTE by layer and patch, pair {shorten(trace.ids[i], 60)}{model_suffix(trace)}"
    return OverlayData(
        film=_film(image, tuple(tower["image_size"]), (grid[0] * tower["cell"][0], grid[1] * tower["cell"][1])),
        values=by_position[:, len(first) :].reshape(-1, *grid),
        layers=chosen,
        first=named,
        outlined=trace.differs[i, len(first) :].reshape(grid),
        limit=theme.colour_limit(by_position[:, len(first) :]) if limit is None else float(limit),
        title=default if title is None else title,
        notes=tuple(notes),
    )


def _chosen_layers(trace: CausalTrace, layers: list[int] | None) -> Int[np.ndarray, "layer"]:
    if layers is None:
        spread = np.linspace(0, len(trace.layers) - 1, min(len(trace.layers), MAX_PANELS)).round().astype(int)
        return trace.layers[spread]
    unknown = sorted(set(layers) - set(trace.layers.tolist()))
    if unknown or not layers:
        raise FigureError(f"layers={layers}: the trace has layers {trace.layers[0]} to {trace.layers[-1]}")
    return np.array(sorted(set(layers)))


def _film(image: Any, size: tuple[int, int], covered: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """The image in grey, 0 to 1, cut to the part that the patches cover."""
    if isinstance(image, (str, bytes, os.PathLike)) or hasattr(image, "getexif"):
        from ...patching import read_image

        image = read_image(image)
    try:
        values = image.detach().cpu().float().numpy() if hasattr(image, "detach") else np.asarray(image, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FigureError(f"the image is a path, a PIL image, or an array of numbers, not {quoted(image)}") from None
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3:
        values = values[..., :3].mean(axis=-1)
    wide = size[1] / size[0]
    if values.ndim != 2 or 0 in values.shape or abs(values.shape[1] / values.shape[0] - wide) > 0.02 * wide:
        raise FigureError(
            f"the image has shape {list(values.shape)}, but the model sees {size[0]} x {size[1]} pixels: give what it "
            f"sees, model.image.pixels(image)"
        )
    if not np.isfinite(values).all():
        raise FigureError("the image holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    grey = (values - low) / (high - low or 1.0)
    keep = [round(whole * part / full) for whole, part, full in zip(grey.shape, covered, size, strict=True)]
    return grey[: keep[0], : keep[1]]


def blended(
    film: Float[np.ndarray, "h w"],
    values: Float[np.ndarray, "row column"],
    limit: float,
    palette: str = theme.PALETTE,
) -> Float[np.ndarray, "y x 3"]:
    """The film with the map over it: the stronger an effect, the more its colour covers the film.

    Where the effect is 0 or unknown the film is itself, a little paler, so that colours stand out from its greys.
    """
    repeat = [max(1, round(400 / n)) for n in values.shape]
    rows, columns = (n * r for n, r in zip(values.shape, repeat, strict=True))
    at = [(np.arange(n) + 0.5) / n * whole for n, whole in zip((rows, columns), film.shape, strict=True)]
    paler = 0.12 + 0.80 * film[np.ix_(at[0].astype(int), at[1].astype(int))]
    shown = np.nan_to_num(values)
    colour = np.array([[theme.colour_at(value, limit, palette) for value in row] for row in shown])
    strength = 0.72 * np.minimum(1.0, np.abs(shown) / limit) ** 0.6
    wide = [np.repeat(np.repeat(part, repeat[0], axis=0), repeat[1], axis=1) for part in (colour, strength)]
    return paler[..., None] * (1 - wide[1][..., None]) + wide[0] * wide[1][..., None]
