"""Statistical options of figures, and which of them apply to what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ...errors import FigureError
from .. import theme
from .labels import quoted

__all__ = ["Statistics", "check_palette"]


@dataclass(frozen=True)
class Statistics:
    """Options of :meth:`CausalTrace.map` and :meth:`CausalTrace.per_layer`; None = the default there.

    >>> Statistics(reduce="median").given("reduce", "segment")
    {'reduce': 'median'}
    >>> Statistics(ci=0.9).refuse_all_but("a TraceMap", "aggregate")
    Traceback (most recent call last):
    tracescribe.errors.FigureError: ci=0.9 does not apply to a TraceMap
    """

    align: str | None = None
    reduce: str | None = None
    segment: str | None = None
    aggregate: str | None = None
    ci: float | None = 0.95
    n_boot: int = 1000
    seed: int = 0

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the named options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in names and self._differs(f.name)}

    def refuse_all_but(self, what: str, *allowed: str) -> None:
        """Refuse every option that was given and says nothing about ``what``.

        Raises:
            FigureError: there is one.
        """
        extra = [f.name for f in fields(self) if f.name not in allowed and self._differs(f.name)]
        if extra:
            said = ", ".join(f"{name}={getattr(self, name)!r}" for name in extra)
            raise FigureError(f"{said} does not apply to {what}")

    def _differs(self, name: str) -> bool:
        default = next(f.default for f in fields(self) if f.name == name)
        return bool(getattr(self, name) != default)


def check_palette(palette: object) -> None:
    """Refuse what is no palette.

    Raises:
        FigureError: see there.

    >>> check_palette("jet")
    Traceback (most recent call last):
    tracescribe.errors.FigureError: palette='jet': choose RdBu, PuOr or BrBG, which colour-blind readers can tell apart
    """
    if not isinstance(palette, str) or palette not in theme.PALETTES:
        *most, last = theme.PALETTES
        raise FigureError(
            f"palette={quoted(palette)}: choose {', '.join(most)} or {last}, which colour-blind readers can tell apart"
        )


COUNTING = ("reduce", "segment", "aggregate", "ci", "n_boot", "seed")
"""What :meth:`CausalTrace.per_layer` takes; ``align`` has another default there."""
