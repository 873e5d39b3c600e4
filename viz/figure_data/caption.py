"""Suggested captions of figures: what is drawn, and from which data, in sentences."""

from __future__ import annotations

from .heatmap import HeatmapData
from .overlay import OverlayData
from .profile import ProfileData

__all__ = ["caption_of"]


def caption_of(data: HeatmapData | ProfileData | OverlayData) -> str:
    """A caption to start from: the title, the scale, the marks, and the notes."""
    sentences = [data.title or "Causal tracing effect (CTE)", *_reading(data)]
    sentences += ["; ".join(data.notes)] if data.notes else []
    return " ".join(f"{sentence[0].upper()}{sentence[1:].rstrip('.')}." for sentence in sentences)


def _reading(data: HeatmapData | ProfileData | OverlayData) -> list[str]:
    if isinstance(data, ProfileData):
        return []
    below, above = data.clipped_ends
    beyond = ((f"below −{data.limit:g}", below), (f"above {data.limit:g}", above))
    ends = " and ".join(name for name, there in beyond if there)
    said = [f"Colours are symmetric about 0 and run from −{data.limit:g} to {data.limit:g}"]
    said += [f"Values {ends} have the colour of the limit"] if ends else []
    if isinstance(data, HeatmapData) and data.marked.any():
        said.append("Bold names under a mark: the tokens in which the two captions differ")
    if isinstance(data, HeatmapData) and data.profile is not None:
        said.append(f"Right: {data.profile_name}")
    return said
