"""Negating words: one list for the package, found as whole words in texts and in the tokens of a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

__all__ = ["NEGATORS", "negator_count", "negator_tokens"]

# "n't" stands for every contraction: isn't, doesn't, can't, ... An entry of several words counts once.
NEGATORS = (
    "no",
    "not",
    "n't",
    "cannot",
    "without",
    "never",
    "none",
    "neither",
    "nor",
    "nothing",
    "absent",
    "absence of",
    "lack of",
    "lacks",
    "lacking",
    "devoid of",
    "free of",
    "free from",
    "negative for",
    "ruled out",
)

_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\uff07\u00b4", "'"))
_MARKS = re.compile(r"^(?:##|[Ġ▁·]+)|(?:</w>|·)$")  # how tokenizers mark that a word goes on, begins or ends
_SPACELESS = re.compile(r"[\u2e80-\U0003ffff]")  # scripts without spaces between words


def negator_count(text: str, negators: Collection[str] = NEGATORS) -> int:
    """How many negating words a text has.

    >>> negator_count("No effusion, lungs free of opacity, normal heart size.")
    2
    >>> negator_count("The nodule isn’t seen; negative for edema; absence of fluid; lacking a device.")
    4
    """
    return len(_pattern(tuple(negators)).findall(_plain(text)))


def negator_tokens(text: str, tokens: Sequence[str], negators: Collection[str] = NEGATORS) -> list[bool]:
    """Which of a text's tokens belong to a negating word; tokens that the text does not hold do not.

    tokens: as :meth:`tracescribe.patching.TextTower.token_strings` gives them, in order. A part of another word is no
        negator: "no" of "nodule".

    >>> negator_tokens("A nodule isn't there.", ["[SOT]", "a", "no", "dule", "isn", "'t", "there", ".", "[EOT]"])
    [False, False, False, False, True, True, False, False, False]
    """
    plain = _plain(text)
    spans = [found.span() for found in _pattern(tuple(negators)).finditer(plain)]
    out, at = [], 0
    for token in tokens:
        word = _plain(_MARKS.sub("", token)).strip()
        start = plain.find(word, at) if word else -1
        if start < 0:
            out.append(False)
            continue
        at = start + len(word)
        out.append(any(low < at and start < high for low, high in spans))
    return out


def _plain(text: str) -> str:
    return text.translate(_APOSTROPHES).lower()


@lru_cache(maxsize=32)
def _pattern(negators: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the entries as whole words, the longest first."""
    parts = [_entry(_plain(entry)) for entry in sorted(negators, key=len, reverse=True)]
    return re.compile("|".join(parts) or r"(?!)")


def _entry(entry: str) -> str:
    if entry == "n't":
        return r"\b\w+n't\b"
    words = r"\s+".join(map(re.escape, entry.split()))
    return words if _SPACELESS.search(entry) else rf"(?<!\w){words}(?!\w)"
