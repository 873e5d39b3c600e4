"""Which items of several models are the same question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from ..errors import DataFormatError
from ..io.quoting import shown
from .items import FIXED, OPTIONS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["by_item", "of_same_candidates", "refuse_other_items"]


def by_item(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    indexed = frame.astype({"task": str, "id": str, "group": str}).set_index(["task", "id"])
    if not indexed.index.is_unique:
        task, item = indexed.index[indexed.index.duplicated()][0]
        raise DataFormatError(f"{model}: item {item!r} of {task} is there twice")
    return indexed


def of_same_candidates(frames: Sequence[pd.DataFrame]) -> Bool[np.ndarray, "item"]:
    """Which items rank the same candidates for all models, as far as their files say."""
    told = [frame["candidates"].astype(object) for frame in frames if "candidates" in frame]
    alike = np.ones(len(frames[0]), dtype=bool)
    for one, other in combinations(told, 2):
        alike &= ((one == other) | one.isna() | other.isna()).to_numpy()
    return alike


def refuse_other_items(frames: Sequence[pd.DataFrame], models: Sequence[str]) -> None:
    """Refuse items of one name that are not the same question: of another group, chance, right option or label."""
    for (base, first), (frame, model) in combinations(zip(frames, models, strict=True), 2):
        for column in frame.columns.intersection(base.columns):
            if column in ("hit", "margin", "scores", "options", "candidates"):
                continue
            what = "right option" if column == "gold" else str(column)
            hint = f", or {column!r} is not of the items: remove that column from the files"
            hint = "" if column in (*FIXED, *OPTIONS) else hint
            one, other = base[column], frame[column]
            if column in ("chance", "gold"):
                differs = ~np.isclose(one, other, equal_nan=True)
            else:
                differs = one.notna() & other.notna() & (one.astype(str) != other.astype(str))
            if differs.any():
                at = int(np.asarray(differs).argmax())
                task, item = frame.index[at]
                values = (shown(v) if isinstance(v, str) else f"{v:g}" for v in (one.iloc[at], other.iloc[at]))
                raise DataFormatError(
                    f"item {shown(item)} of {task} has the {what} {next(values)} for {first} and {next(values)} "
                    f"for {model}: these are other items{hint}"
                )
