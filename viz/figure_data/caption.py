"""Suggested captions of figures: what is drawn, and from which data, in sentences."""

from __future__ import annotations

import numpy as np

from . import AlphaData, CurvePanelsData, CurvesData, Data, HeatmapData, PanelsData, PointsData, ProfileData

__all__ = ["caption_of"]


def caption_of(data: Data) -> str:
    """A caption to start from: the title, the scale, the marks, and the notes."""
    sentences = [data.title or "Causal tracing effect (CTE)", *_reading(data)]
    sentences += ["; ".join(data.notes)] if data.notes else []
    return " ".join(f"{sentence[0].upper()}{sentence[1:].rstrip('.')}." for sentence in sentences)


def _reading(data: Data) -> list[str]:
    if isinstance(data, ProfileData | AlphaData | PointsData | CurvesData | CurvePanelsData):
        return _series(data)
    below, above = data.clipped_ends
    beyond = ((f"below −{data.limit:g}", below), (f"above {data.limit:g}", above))
    ends = " and ".join(name for name, there in beyond if there)
    said = [f"Colours are symmetric about 0 and run from −{data.limit:g} to {data.limit:g}"]
    said += [f"Values {ends} have the colour of the limit"] if ends else []
    if data.below_zero.any():
        said.append("A dash in the place of a number: below 0")
    if isinstance(data, HeatmapData) and data.marked.any():
        said.append("Bold names under a mark: the tokens in which the two captions differ")
    if isinstance(data, PanelsData) and any(view.marked.any() for view in data.views):
        said.append("Bold: the tokens in which the two captions differ")
    if isinstance(data, HeatmapData) and data.profile is not None:
        said.append(f"Right: {data.profile_name}")
    if isinstance(data, PanelsData) and data.axis == "depth":
        said.append("Layers stand at their relative depth, layer over the number of the last one")
    if isinstance(data, PanelsData) and data.bars_name:
        said.append(f"Below: {data.bars_name}")
    return said


def _series(data: ProfileData | AlphaData | PointsData | CurvesData | CurvePanelsData) -> list[str]:
    if isinstance(data, PointsData):
        return ["Filled and joined by a line: what no other is better than in both"]
    if not isinstance(data, AlphaData):
        return []
    said = [] if np.allclose(data.multipliers, data.alpha) else [f"Diamonds: the multiplier {data.power}"]
    return [*said, *(["Below: share of the whole update per block"] if data.shares else [])]
