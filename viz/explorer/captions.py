"""Live tokenisation of two captions: their tokens, which differ, what is wrong with them, and a caption that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ...errors import TracescribeError
from ...warn import heard
from ..figure_data.labels import tidy_token

if TYPE_CHECKING:
    from ...patching import TextTower

__all__ = ["SIDES", "Captions", "Fix", "read_captions"]

SIDES = ("correct", "foil")
LONGEST = 5_000  # characters of a caption; no context holds so many tokens
FILLERS = ("some", "mild", "severe", "a", "any", "clear", "new", "very", "really")
"""Words that may be put into the shorter caption; Quantmeyer et al. 2024 put "some" beside "no"."""


@dataclass(frozen=True)
class Fix:
    """One caption reworded, so that both have equally many tokens."""

    side: str
    caption: str


@dataclass(frozen=True)
class Captions:
    """Two captions as the tower reads them.

    tokens, differs: of the correct caption and of the foil. problem: why they cannot be traced, as a sentence; None if
    they can. notes: what the tokenizer warned of. fix: see :class:`Fix`. aligned: lengths differ, and align says how.
    """

    texts: tuple[str, str]
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    differs: tuple[tuple[bool, ...], tuple[bool, ...]]
    problem: str | None = None
    notes: tuple[str, ...] = ()
    fix: Fix | None = None
    aligned: bool = False


def read_captions(tower: TextTower, correct: str, foil: str, *, align: bool = False) -> Captions:
    """Tokenise both captions and say whether they can be traced.

    align: captions of different lengths are aligned by their common runs of tokens instead of refused.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> both = read_captions(text, "There is no edema.", "There is edema.")
    >>> both.tokens[1], both.fix
    (('[SOT]', 'there', 'is', 'ede·', '·ma', '.', '[EOT]'), Fix(side='foil', caption='There is mild edema.'))
    >>> both.problem
    'the captions have 8 and 7 tokens, and must have equally many: reword one, or switch alignment on'
    """
    texts = (correct, foil)
    ids: list[list[int]] = []
    with heard() as caught:
        for side, text in zip(SIDES, texts, strict=True):
            if len(text) > LONGEST:
                return _refused(texts, f"the {side} caption has {len(text):,} characters: shorten it")
            if not text.strip():
                return _refused(texts, f"the {side} caption is empty")
            if any("\ud800" <= character <= "\udfff" for character in text):
                return _refused(texts, f"the {side} caption holds half of a character, which no tokenizer can read")
            try:
                ids.append(tower.token_ids(text))
            except TracescribeError as error:
                return _refused(texts, f"the {side} caption cannot be read: {error}")
    notes = tuple(dict.fromkeys(caught))
    differs = _differences(ids[0], ids[1])
    problem, fix = None, None
    if ids[0] == ids[1]:
        problem = "both captions are the same tokens to this model, so that nothing can be traced"
    elif len(ids[0]) != len(ids[1]) and not align:
        problem = (
            f"the captions have {len(ids[0])} and {len(ids[1])} tokens, and must have equally many: reword one, or "
            f"switch alignment on"
        )
        fix = _fix(tower, texts, ids)
    names = tuple(_names(tower, row) for row in ids)
    return Captions(texts, (names[0], names[1]), differs, problem, notes, fix, len(ids[0]) != len(ids[1]))


def _refused(texts: tuple[str, str], problem: str) -> Captions:
    return Captions(texts, ((), ()), ((), ()), problem)


def _names(tower: TextTower, ids: Sequence[int]) -> tuple[str, ...]:
    special = tower.tokenizer.special_ids
    return tuple(tidy_token(name, i in special) for name, i in zip(tower.token_strings(ids), ids, strict=True))


def _differences(correct: Sequence[int], foil: Sequence[int]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which tokens of either caption have no equal counterpart."""
    from ...patching import align_rows

    def of(base: Sequence[int], donor: Sequence[int]) -> tuple[bool, ...]:
        sources = align_rows(base, donor).sources
        return tuple(at < 0 or base[i] != donor[at] for i, at in enumerate(sources))

    return of(correct, foil), of(foil, correct)


def _fix(tower: TextTower, texts: tuple[str, str], ids: Sequence[Sequence[int]]) -> Fix | None:
    """The shorter caption with one or two words more, or the longer one with a word less; None if none fits."""
    short = 0 if len(ids[0]) < len(ids[1]) else 1
    wanted, other = len(ids[1 - short]), list(ids[1 - short])
    for side, caption in _rewordings(texts[short], texts[1 - short], abs(len(ids[0]) - len(ids[1])), short):
        length, against = (wanted, other) if side == short else (len(ids[short]), list(ids[short]))
        with heard() as caught:
            try:
                row = tower.token_ids(caption)
            except TracescribeError:
                continue
        if len(row) == length and row != against and not caught:
            return Fix(SIDES[side], caption)
    return None


def _rewordings(short: str, long: str, missing: int, side: int) -> Iterator[tuple[int, str]]:
    """Candidates, the likeliest first: fillers where the captions part, elsewhere, then the longer caption cut."""
    words, theirs = short.split(), long.split()
    part = next(
        (i for i, (a, b) in enumerate(zip(words, theirs, strict=False)) if a != b), min(len(words), len(theirs))
    )
    fillers = [word for word in FILLERS if word not in {w.strip(".,").lower() for w in words + theirs}]
    if missing <= 2:
        for chosen in combinations(fillers, missing):
            yield side, " ".join([*words[:part], *chosen, *words[part:]])
    for at in range(len(theirs)):
        if theirs[at] not in words:
            yield 1 - side, " ".join(theirs[:at] + theirs[at + 1 :])
