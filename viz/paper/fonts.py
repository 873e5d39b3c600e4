"""Fonts of paper figures: text is measured before it is placed, and every character gets a font that has it."""

from __future__ import annotations

import contextlib
import textwrap
import unicodedata
from functools import cache, cached_property
from typing import Any, Literal

from ...errors import FigureError
from ...warn import warn_user

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
_SCRIPTS = ("Noto Sans", "Noto Naskh", "Noto Serif", "Lohit", "Amiri")  # other families: asked after those above
_REPLACEMENT = "\ufffd"
# Joiners, variation selectors and tones of skin draw nothing by themselves.
_INVISIBLE = {"\u200c", "\u200d", "\ufe0e", "\ufe0f", *map(chr, range(0x1F3FB, 0x1F400))}
_HAS_GLYPH_NAMES = 1 << 9  # FreeType's FT_FACE_FLAG_GLYPH_NAMES
_DPI = 720  # of the ruler: a tenth of a point

Weight = Literal["normal", "bold"]


class Fonts:
    """The font families and sizes of one figure, and a ruler. Sizes and widths are in points.

    tick: size of ticks and tokens; label of axes, small of numbers and notes, and title follow from it.

    >>> fonts = Fonts()
    >>> fonts.width("severe", 7) < fonts.width("severe", 7, "bold")
    True
    """

    def __init__(self, family: str | None = None, size: float = 6.5) -> None:
        self._installed = _names()
        if family is not None and family not in self._installed:
            raise FigureError(f"no font family {family!r} is installed; leave font out for {_BASE}")
        # Points. A paper's caption of 8 or 9 points stays larger than its figure's text.
        self.tick, self.label, self.small, self.title = size, size * 14 / 13, size * 12 / 13, size * 16 / 13
        self.families = [family, _BASE] if family and family != _BASE else [_BASE]

    def admit(self, *texts: str) -> None:
        """Add the fallback families that these texts need; warn of characters that no installed font has.

        Fonts that were installed after matplotlib made its list of fonts are found too.
        """
        needed = {c for text in texts for c in text if ord(c) > 0x7E and c not in _INVISIBLE}
        missing = self._admit(needed - self._covered(*self.families))
        if missing and _list_new_fonts():
            self._installed = _names()
            missing = self._admit(missing)
        if missing:
            shown = " ".join(sorted(missing)[:10])
            several = f"{len(missing)} characters" if len(missing) > 1 else "1 character"
            instead = " or ".join(sorted({"its name in brackets" if named(c) else _REPLACEMENT for c in missing}))
            warn_user(
                f"no installed font has {shown} ({several}): drawn as {instead}; install one that has, such as Noto "
                "Sans CJK or Noto Emoji"
            )

    def _admit(self, missing: set[str]) -> set[str]:
        """Add families until nothing is missing that an installed font has; what still is."""
        others = sorted(name for name in self._installed - {*_FALLBACKS} if name.startswith(_SCRIPTS))
        for family in (*_FALLBACKS, *others):
            if not missing:
                break
            if family in self._installed and family not in self.families and missing & self._covered(family):
                self.families.append(family)
                missing = missing - self._covered(family)
        return missing

    def drawable(self, text: str) -> str:
        """The text with a replacement for each character that none of the families has: of a picture, its name."""
        if text.isascii():
            return text
        covered = self._covered(*self.families)
        kept = (c if c.isascii() or c in covered else named(c) or _REPLACEMENT for c in text if c not in _INVISIBLE)
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


def named(character: str) -> str:
    """The name of a picture or symbol in brackets, "" of other characters.

    >>> named("🫁"), named("🇩"), named("無")
    ('[lungs]', '[letter d]', '')
    """
    if unicodedata.category(character) != "So":
        return ""
    name = unicodedata.name(character, "").lower().removeprefix("regional indicator symbol ")  # two make a flag
    return f"[{textwrap.shorten(name, 24, placeholder='…')}]" if name else ""


def _names() -> set[str]:
    from matplotlib.font_manager import fontManager

    return set(fontManager.get_font_names())


@cache
def _list_new_fonts() -> bool:
    """Whether fonts were installed after matplotlib made its list, which it never renews; they are on it now."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    new = sorted(set(findSystemFonts(fontext="ttf")) - known)
    for file in new:
        with contextlib.suppress(Exception):  # a file that is no font, or one that FreeType cannot read
            fontManager.addfont(file)
    return bool(new)


@cache
def _characters(family: str) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(map(chr, get_font(findfont(FontProperties(family=[family]))).get_charmap()))
