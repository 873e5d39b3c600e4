"""Towers over the small random models, and rows of token ids for them: what tests of patching start from."""

from __future__ import annotations

from hypothesis import strategies as st
from models import word_tokenizer
from torch import nn

import tracescribe as ts
from tracescribe.patching import TextTower


def tower_over(source: nn.Module) -> TextTower:
    """The text tower of a model, with a word tokenizer that pads as the model expects."""
    return ts.wrap(source, tokenizer=word_tokenizer(source)).text


def rows_for(tower: TextTower, *rows: list[int]) -> list[list[int]]:
    """Rows as the tower takes them: padded where padding is attended to."""
    padded = tower.spec.padding == "attend"
    return [row + [0] * (tower.context_length - len(row)) if padded else row for row in rows]


@st.composite
def differing_rows(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two rows of 3 to 8 token ids that differ at random places between the start and the end token."""
    length = draw(st.integers(1, 6))
    base = draw(st.lists(st.integers(2, 50), min_size=length, max_size=length))
    donor = list(base)
    for at in draw(st.sets(st.integers(0, length - 1), min_size=1)):
        donor[at] = 51 + draw(st.integers(0, 9))
    return [62, *base, 63], [62, *donor, 63]
