"""Fonts of paper figures: text is measured before it is placed, and every character gets a font that has it."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any, Literal

from ...errors import FigureError

__all__ = ["Fonts"]

_BASE = "DejaVu Sans"
# Asked in this order for characters that the base font lacks; most systems have one of them. Fonts with TrueType
# outlines come first: matplotlib declares PostScript outlines (Noto Sans CJK's) wrongly in a PDF, though viewers cope.
_FALLBACKS = (
    "Noto Sans",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "MS Gothic",
    "Arial Unicode MS",
    "PingFang SC",
    "Hiragino Sans",
    "Droid Sans Fallback",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Symbol",
)
_REPLACEMENT = "\ufffd"
_HAS_GLYPH_NAMES = 1 << 9  # FreeType's FT_FACE_FLAG_GLYPH_NAMES
_DPI = 720  # of the ruler: a tenth of a point

Weight = Literal["normal", "bold"]


class Fonts:
    """The font families of one figure, and a ruler. Sizes and widths are in points.

    >>> fonts = Fonts()
    >>> fonts.width("severe", 7) < fonts.width("severe", 7, "bold")
    True
    """

    def __init__(self, family: str | None = None) -> None:
        from matplotlib.font_manager import fontManager

        self._installed = set(fontManager.get_font_names())
        if family is not None and family not in self._installed:
            raise FigureError(f"no font family {family!r} is installed; leave font out for {_BASE}")
        self.families = [family, _BASE] if family and family != _BASE else [_BASE]

    def admit(self, *texts: str) -> None:
        """Add the fallback families that these texts need; warn of characters that no installed font has."""
        missing = {c for text in texts for c in text if ord(c) > 0x7E} - self._covered(*self.families)
        for family in _FALLBACKS:
            if not missing:
                return
            if family in self._installed and family not in self.families and missing & self._covered(family):
                self.families.append(family)
                missing -= self._covered(family)
        missing = {c for c in missing if c not in "\u200d\ufe0e\ufe0f"}  # joiners and variation selectors draw nothing
        if missing:
            shown = " ".join(sorted(missing)[:10])
            warnings.warn(
                f"no installed font has {shown} ({len(missing)} characters): they are drawn as {_REPLACEMENT}; install "
                "one that has, such as Noto Sans CJK or Noto Emoji",
                stacklevel=5,
            )

    def drawable(self, text: str) -> str:
        """The text with a replacement for each character that none of the families has."""
        if text.isascii():
            return text
        covered = self._covered(*self.families)
        kept = (c if c.isascii() or c in covered else _REPLACEMENT for c in text if c not in "\u200d\ufe0e\ufe0f")
        return "".join(kept)

    def style(self, size: float, weight: Weight = "normal", **more: Any) -> dict[str, Any]:
        """Keywords for matplotlib's text functions."""
        return {"fontfamily": self.families, "fontsize": size, "fontweight": weight, **more}

    @property
    def has_glyph_names(self) -> bool:
        """Whether glyphs can be called by name, as in Type 42 PostScript; fonts of CJK scripts often have no names.

        matplotlib writes names that such a font does not define, and the characters vanish from the EPS.
        """
        from matplotlib.font_manager import FontProperties, findfont, get_font

        files = [findfont(FontProperties(family=[family])) for family in self.families]
        flags: list[Any] = [
            get_font(file).face_flags for file in files
        ]  # a number before matplotlib 3.10, then an enum
        return all(int(getattr(flag, "value", flag)) & _HAS_GLYPH_NAMES for flag in flags)

    def width(self, text: str, size: float, weight: Weight = "normal") -> float:
        """Width of the text, in points."""
        from matplotlib.font_manager import FontProperties

        properties = FontProperties(family=self.families, size=size, weight=weight)
        width, _, _ = self._renderer.get_text_width_height_descent(self.drawable(text), properties, ismath=False)
        return float(width) * 72 / _DPI

    @cached_property
    def _renderer(self) -> Any:
        from matplotlib.backends.backend_agg import RendererAgg

        return RendererAgg(8, 8, _DPI)

    def _covered(self, *families: str) -> set[str]:
        return set().union(*(_characters(family) for family in families))


def _characters(family: str) -> set[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return {chr(code) for code in get_font(findfont(FontProperties(family=[family]))).get_charmap()}
