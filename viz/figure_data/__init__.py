"""The data of figures, independent of plotting libraries: results as labelled arrays and text."""

from .curve_panels import CurvePanelsData, curve_panels_data
from .faithfulness import faithfulness_data
from .heatmap import HeatmapData, heatmap_data
from .options import Statistics
from .overlay import OverlayData, overlay_data
from .panels import PanelAxis, PanelsData, panels_data
from .plans import AlphaData, alpha_data
from .points import CurvesData, PointsData, curves_data, points_data
from .profile import ProfileData, profile_data
from .select import Profiled, Source, pair_number

Data = HeatmapData | PanelsData | OverlayData | ProfileData | AlphaData | PointsData | CurvesData | CurvePanelsData

__all__ = [
    "AlphaData",
    "CurvePanelsData",
    "CurvesData",
    "Data",
    "HeatmapData",
    "OverlayData",
    "PanelAxis",
    "PanelsData",
    "PointsData",
    "ProfileData",
    "Profiled",
    "Source",
    "Statistics",
    "alpha_data",
    "curve_panels_data",
    "curves_data",
    "faithfulness_data",
    "heatmap_data",
    "overlay_data",
    "pair_number",
    "panels_data",
    "points_data",
    "profile_data",
]
