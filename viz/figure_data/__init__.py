"""The data of figures, independent of plotting libraries: results as labelled arrays and text."""

from .heatmap import HeatmapData, heatmap_data
from .options import Statistics
from .overlay import OverlayData, overlay_data
from .profile import ProfileData, profile_data
from .select import Profiled, Source, pair_number

Data = HeatmapData | OverlayData | ProfileData

__all__ = [
    "Data",
    "HeatmapData",
    "OverlayData",
    "ProfileData",
    "Profiled",
    "Source",
    "Statistics",
    "heatmap_data",
    "overlay_data",
    "pair_number",
    "profile_data",
]
