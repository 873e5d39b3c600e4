"""The data of layer weights: alpha per block with its interval, the multipliers, and what training changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import FigureError
from .labels import clean, quoted, shorten

__all__ = ["AlphaData", "alpha_data"]


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, eq=False)
class AlphaData:
    """Weights of the blocks 1..L.

    lo, hi: interval of alpha; None without one. multipliers: what a block's update is multiplied by.
    shares: by name, each block's share of the whole update, 0 to 1.
    """

    alpha: Float[np.ndarray, " block"]
    lo: Float[np.ndarray, " block"] | None
    hi: Float[np.ndarray, " block"] | None
    multipliers: Float[np.ndarray, " block"]
    power: str
    shares: tuple[tuple[str, Float[np.ndarray, " block"]], ...]
    title: str
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple((shorten(clean(name), 40), share) for name, share in self.shares))
        object.__setattr__(self, "title", shorten(clean(self.title), 300))
        object.__setattr__(self, "notes", tuple(map(clean, self.notes)))

    def titled(self, title: str | None) -> AlphaData:
        """The same with another title; None or "" keeps the one it has."""
        return replace(self, title=title) if title else self


def alpha_data(plan: Any, shares: Any = None, title: str | None = None) -> AlphaData:
    """The picture of a Prescription.

    shares: an UpdateShare or one number per block, or a dict from names to these.

    Raises:
        FigureError: not a plan, or shares of another number of blocks.
    """
    if not all(hasattr(plan, name) for name in ("alpha", "multipliers", "beta", "ci")):
        raise FigureError(f"give a Prescription of tracescribe.prescribe, not a {type(plan).__name__}")
    alpha = np.asarray(plan.alpha, dtype=np.float64)
    named = dict(shares) if isinstance(shares, Mapping) else {} if shares is None else {"update share": shares}
    lo, hi = (None, None) if plan.ci is None else np.asarray(plan.ci, dtype=np.float64).T
    raised = f"{plan.beta:g}"
    power = "α" if plan.beta == 1 else "α" + raised.translate(_RAISED) if raised.isdigit() else f"α^{raised}"
    power += "" if plan.scale == 1 else f" × {plan.scale:.3g}"
    model = plan.provenance.get("model")
    notes = (f"{len(alpha)} blocks", f"β = {plan.beta:g}", *(["bars: interval of α"] if lo is not None else []))
    default = "Layer weights" + (f" — {shorten(str(model), 60)}" if model else "")
    return AlphaData(
        alpha=alpha,
        lo=lo,
        hi=hi,
        multipliers=np.asarray(plan.multipliers, dtype=np.float64),
        power=power,
        shares=tuple((str(name), _share(share, len(alpha), str(name))) for name, share in named.items()),
        title=default if title is None else title,
        notes=notes,
    )


def _share(share: Any, n_blocks: int, name: str) -> Float[np.ndarray, " block"]:
    try:
        values = np.asarray(getattr(share, "share", share), dtype=np.float64)
    except (TypeError, ValueError):
        raise FigureError(f"{quoted(name)}: an update share is one number per block, not {quoted(share)}") from None
    if values.shape != (n_blocks,) or not np.isfinite(values).all() or (values < 0).any():
        raise FigureError(f"{quoted(name)}: an update share is {n_blocks} numbers >= 0, one per block")
    total = float(values.sum())
    return values / total if total > 0 else values
