"""Token roles: which tokens of different pairs correspond, so that their traces can be averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from ...errors import DataFormatError
from ...token_strings import bare
from ...validation import check_choice
from ..choices import ALIGNMENTS

__all__ = ["QUANTMEYER_ROWS", "ROLES", "Rows", "TokenKind", "assign_rows"]

ROLES = (
    "[start]",
    "before",
    "first differing",
    "further differing",
    "first after",
    "further after",
    "punctuation",
    "[end]",
    "padding",
)
QUANTMEYER_ROWS = (
    "[SOT]",
    "there",
    "is/are",
    "negator",
    "first subject token",
    "further subject tokens (mean)",
    ".",
    "[EOT]",
)
_DETERMINERS = ("a", "an", "some", "no")  # of Quantmeyer's template: the negator, and what stands in its place


class TokenKind(IntEnum):
    """What a token position of a pair holds."""

    OUTSIDE = 0  # beyond the pair's tokens
    START = 1  # [SOT], [CLS]
    ORDINARY = 2
    PUNCTUATION = 3
    END = 4  # [EOT], [SEP]: the readout token of a tower that pools there
    PADDING = 5  # padding that the tower attends to (SigLIP)
    UNMATCHED = 6  # a token that the other caption has no counterpart for: nothing can be put in its place


@dataclass(frozen=True, eq=False)
class Rows:
    """The row of every token; each token is in exactly one row.

    index: number of the token's row, -1 outside the pair's tokens.
    """

    labels: tuple[str, ...]
    index: Int[np.ndarray, "pair token"]

    def member(self, pairs: slice = slice(None)) -> Float[np.ndarray, "pair token row"]:
        """1 where the token belongs to the row, else 0."""
        return (self.index[pairs, :, None] == np.arange(len(self.labels))).astype(np.float64)


def assign_rows(
    align: str,
    kinds: Int8[np.ndarray, "pair token"],
    differs: Bool[np.ndarray, "pair token"],
    tokens: Sequence[tuple[str, ...]],
    ids: Sequence[str],
) -> Rows:
    """The row of every token of every pair.

    align: "position": one row a token index.
        "role": start; the tokens before the first difference; the first differing token; the further differing ones;
        the first equal token after the first difference; the further ones (also those between two differing tokens);
        the sentence's final punctuation; end; padding. Defined for any pair.
        "quantmeyer": the rows of Quantmeyer, Mosteiro, Gatt 2024 (arXiv 2407.10488) for
        "There is/are a|some|no SUBJECT."
    differs: True where the two captions' token ids differ.

    Raises:
        DataFormatError: "quantmeyer" and a pair of another shape; the message quotes it.

    >>> kinds = np.array([[1, 2, 2, 2, 3, 4]], dtype=np.int8)
    >>> differs = np.array([[False, False, True, False, False, False]])
    >>> rows = assign_rows("role", kinds, differs, [("[SOT]", "there", "no", "edema", ".", "[EOT]")], ["p1"])
    >>> [rows.labels[i] for i in rows.index[0]]
    ['[start]', 'before', 'first differing', 'first after', 'punctuation', '[end]']
    """
    check_choice("align", align, ALIGNMENTS)
    inside = (kinds != TokenKind.OUTSIDE) & (kinds != TokenKind.UNMATCHED)
    if align == "position":
        width = int((kinds != TokenKind.OUTSIDE).sum(axis=1).max())
        return Rows(tuple(map(str, range(width))), np.where(inside, np.arange(kinds.shape[1]), -1))
    if align == "quantmeyer":
        index = np.full(kinds.shape, -1, dtype=np.int64)
        for pair, words in enumerate(tokens):
            index[pair, : len(words)] = _quantmeyer_rows(words, kinds[pair], differs[pair], ids[pair])
        return Rows(QUANTMEYER_ROWS, index)
    return Rows(ROLES, np.where(inside, _roles(kinds, differs), -1))


def _roles(
    kinds: Int8[np.ndarray, "pair token"], differs: Bool[np.ndarray, "pair token"]
) -> Int[np.ndarray, "pair token"]:
    word = (kinds == TokenKind.ORDINARY) | (kinds == TokenKind.PUNCTUATION)
    seen = np.cumsum(differs, axis=1)  # differing tokens up to and including this one
    final = _final_punctuation(kinds, differs, word)
    after = word & ~differs & ~final & (seen > 0)
    conditions = [
        kinds == TokenKind.START,
        kinds == TokenKind.END,
        kinds == TokenKind.PADDING,
        final,
        differs & (seen == 1),
        differs,
        after & (np.cumsum(after, axis=1) == 1),
        after,
    ]
    names = ("[start]", "[end]", "padding", "punctuation", *ROLES[2:6])
    return np.select(conditions, [ROLES.index(name) for name in names], default=ROLES.index("before"))


def _final_punctuation(
    kinds: Int8[np.ndarray, "pair token"],
    differs: Bool[np.ndarray, "pair token"],
    word: Bool[np.ndarray, "pair token"],
) -> Bool[np.ndarray, "pair token"]:
    """The run of equal punctuation tokens with which the sentence ends."""
    other = word & ((kinds != TokenKind.PUNCTUATION) | differs)
    others_from_here = np.cumsum(other[:, ::-1], axis=1)[:, ::-1]
    return word & (others_from_here == 0)


def _quantmeyer_rows(
    tokens: tuple[str, ...], kinds: Int8[np.ndarray, "token"], differs: Bool[np.ndarray, "token"], name: str
) -> list[int]:
    words = [plain_word(token) for token in tokens]
    n = len(words)
    fits = (
        n >= 7
        and kinds[0] == TokenKind.START
        and words[1] == "there"
        and words[2] in ("is", "are")
        and words[3] in _DETERMINERS
        and np.flatnonzero(differs).tolist() == [3]
        and words[-2] == "."
        and kinds[n - 1] == TokenKind.END
        and (kinds[1 : n - 1] != TokenKind.END).all()
    )
    if not fits:
        raise DataFormatError(
            f"pair {name!r} ({' '.join(tokens)}) is not of the form 'There is/are a|some|no SUBJECT.' with a foil that "
            "differs in a|some|no only; use align='role', which fits any pair"
        )
    return [0, 1, 2, 3, 4, *[5] * (n - 7), 6, 7]


def plain_word(token: str) -> str:
    """The token as a word to compare; a part of a word keeps its mark, so that "no·" (of "nodule") is not "no"."""
    return bare(token).strip().lower()
