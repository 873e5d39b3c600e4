"""Colours, fonts and sizes of all figures and pages."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "ACCENT",
    "FAINT",
    "FONTS",
    "GRID",
    "INK",
    "MISSING",
    "MUTED",
    "PALETTE",
    "PALETTES",
    "SERIES",
    "axis_ends",
    "below_zero",
    "colour_at",
    "colour_limit",
    "ink_on",
    "over_white",
    "series_style",
    "text_colour",
]

# ColorBrewer's diverging scales, low to high (Apache-2.0, colorbrewer.org). +v and -v stay apart under simulated
# deuteranopia, protanopia and tritanopia, and both are darker than 0 in grey.
PALETTES = {
    "RdBu": (  # reversed: blue is negative, red positive
        *("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7"),
        *("#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"),
    ),
    "PuOr": (  # reversed: purple is negative, orange positive
        *("#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7"),
        *("#fee0b6", "#fdb863", "#e08214", "#b35806", "#7f3b08"),
    ),
    "BrBG": (  # reversed: teal is negative, brown positive
        *("#003c30", "#01665e", "#35978f", "#80cdc1", "#c7eae5", "#f5f5f5"),
        *("#f6e8c3", "#dfc27d", "#bf812d", "#8c510a", "#543005"),
    ),
}
PALETTE = "RdBu"
# Okabe and Ito's colour-blind-safe series, without yellow (too light for lines on white), the darker ones first.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1a1a1a")

INK = "#1b1f24"
MUTED = "#57606a"
FAINT = "#8b949e"
GRID = "#e4e7eb"
MISSING = "#d5dae0"  # cells without a value: darker than 0, and grey
ACCENT = "#8a3a00"  # marks the tokens that differ; 8:1 against white, and not on the red-blue scale

FONTS = "Inter, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"

_SMALLEST_LIMIT = 0.05  # rounding noise around 0 must not fill the whole scale


def colour_limit(values: np.ndarray) -> float:
    """Half of a colour range that is symmetric about 0 and holds every finite value.

    >>> colour_limit(np.array([0.2, -1.5, np.nan]))
    1.5
    """
    finite = np.abs(values[np.isfinite(values)])
    return max(float(finite.max(initial=0.0)), _SMALLEST_LIMIT)


def axis_ends(*values: np.ndarray | None) -> tuple[float, float]:
    """Ends of an axis that holds 0 and every finite value. As of the colours, rounding noise does not fill it.

    >>> axis_ends(np.array([0.2, np.nan]), None, np.array([-1.5])), axis_ends(np.array([2e-7, -1e-7]))
    ((-1.5, 0.2), (-0.05, 0.05))
    """
    seen = np.concatenate([np.zeros(1), *(one[np.isfinite(one)] for one in values if one is not None)])
    low, high = float(seen.min()), float(seen.max())
    if max(-low, high) < _SMALLEST_LIMIT:
        low, high = (-_SMALLEST_LIMIT if low < 0 else 0.0), (_SMALLEST_LIMIT if high > 0 or low == 0 else 0.0)
    return low, high


def below_zero(values: Float[np.ndarray, "*cell"], limit: float) -> Bool[np.ndarray, "*cell"]:
    """Cells that are negative by more than a tenth of the scale: in grey, v and -v look alike, and 0 as what is nearer.

    Where such a cell has no number, it is drawn with a dash.

    >>> below_zero(np.array([-0.5, -0.04, 0.5, np.nan]), 1.0).tolist()
    [True, False, False, False]
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(values < -0.1 * limit)


def series_style(i: int, forms: int) -> tuple[str, int]:
    """Colour of the i-th curve or point of a figure, and which of so many markers it has: 49 look different.

    >>> len({series_style(i, 7) for i in range(49)}), series_style(7, 7)
    (49, ('#0072b2', 1))
    """
    return SERIES[i % len(SERIES)], (i + i // len(SERIES)) % forms


def colour_at(value: float, limit: float, palette: str = PALETTE) -> tuple[float, float, float]:
    """Red, green, blue (0..1) of ``value`` on a diverging scale from -limit to limit, as all renderers draw it.

    >>> colour_at(0.0, 1.0) == tuple(int("f7", 16) / 255 for _ in "rgb")
    True
    """
    position = (np.clip(value / limit, -1.0, 1.0) + 1) / 2 * (len(PALETTES[palette]) - 1)
    stops = np.array([_rgb(colour) for colour in PALETTES[palette]])
    red, green, blue = (float(np.interp(position, np.arange(len(stops)), stops[:, i])) for i in range(3))
    return red, green, blue


def text_colour(value: float, limit: float, palette: str = PALETTE) -> str:
    """The one of ink and white that has more contrast with the colour of ``value`` (WCAG relative luminance).

    >>> text_colour(0.0, 1.0) == INK, text_colour(1.0, 1.0), text_colour(-1.0, 1.0)
    (True, '#ffffff', '#ffffff')
    """
    return ink_on(colour_at(value, limit, palette))


def ink_on(colour: tuple[float, float, float]) -> str:
    """The one of ink and white that has more contrast with a colour (red, green, blue, 0..1).

    >>> ink_on((1.0, 1.0, 0.9)) == INK, ink_on((0.2, 0.2, 0.2))
    (True, '#ffffff')
    """
    cell = _luminance(colour)
    with_white = 1.05 / (cell + 0.05)
    with_ink = (cell + 0.05) / (_luminance(_rgb(INK)) + 0.05)
    return "#ffffff" if with_white > with_ink else INK


def over_white(colour: str, opacity: float) -> str:
    """The opaque colour that ``colour`` at ``opacity`` gives on white: formats such as EPS have no transparency.

    >>> over_white("#000000", 0.2)
    '#cccccc'
    """
    return "#" + "".join(f"{round(255 * (1 - opacity * (1 - part))):02x}" for part in _rgb(colour))


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _luminance(rgb: tuple[float, float, float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
