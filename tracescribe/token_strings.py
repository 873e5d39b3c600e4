"""Token strings for people: every tokenizer's marks for word boundaries become one, as in 'no·' '·dule'.

A tokenizer splits "nodule" into "no" and "dule", and the first of these must not look like the word "no". Tokenizers
mark words in four ways: ``no dule</w>`` (CLIP's byte-pair encoding), ``Ġno dule`` (byte-level), ``▁no dule``
(SentencePiece) and ``no ##dule`` (WordPiece). Here all of them become ``no· ·dule``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["JOIN", "WordMarks", "bare", "is_part_of_word", "is_punctuation"]

# Unambiguous beside a letter or a digit: the tokenizers' own splitting keeps a literal "·" apart from these.
JOIN = "·"

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback
_PART = re.compile(r" \d+/\d+$")  # which part of a character the token is
_LONGEST = 24  # tokens that may spell one run of characters together


def _byte_table() -> dict[str, int]:
    """GPT-2's and CLIP's printable stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_table()


def bare(token: str) -> str:
    """A token without the boundary marks that a tokenizer puts outside its letters; :data:`JOIN` stays.

    >>> [bare(token) for token in ("severe</w>", "Ġedema", "▁no", "no·", "</w>")]
    ['severe', 'edema', 'no', 'no·', '</w>']
    """
    return token.removesuffix("</w>").lstrip("Ġ▁") or token


def is_part_of_word(token: str) -> bool:
    """Whether the token is only a part of a word.

    >>> [is_part_of_word(token) for token in ("no·", "·dule", "##itis", "no", "·")]
    [True, True, True, False, False]
    """
    return len(token) > 1 and (token.startswith((JOIN, "##")) or token.endswith(JOIN))


def is_punctuation(token: str) -> bool:
    """Whether the token has neither letters nor digits.

    >>> [is_punctuation(token) for token in (".", "！ 1/3", "無 1/3", "no·", "·")]
    [True, True, False, False, True]
    """
    return not any(character.isalnum() for character in _PART.sub("", token))


@dataclass(frozen=True)
class WordMarks:
    """How a tokenizer's pieces tell words apart, and whether their letters stand for bytes.

    >>> WordMarks("</w>").strings(["no", "dule</w>", ".</w>"])
    ['no·', '·dule', '.']
    >>> WordMarks("Ġ").strings(["No", "Ġno", "dule", "."])
    ['No', 'no·', '·dule', '.']
    >>> WordMarks("▁").strings(["▁no", "dule"]), WordMarks("##").strings(["no", "##dule", "no"])
    (['no·', '·dule'], ['no·', '·dule', 'no'])
    """

    mark: Literal["</w>", "Ġ", "▁", "##", ""]  # "": nothing tells where words end
    byte_level: bool = False

    @classmethod
    def of(cls, vocabulary: Iterable[str]) -> WordMarks:
        """What the pieces of a vocabulary use.

        >>> WordMarks.of(["a", "a</w>", "Ā", "no</w>"])
        WordMarks(mark='</w>', byte_level=True)
        """
        counts: dict[Literal["</w>", "Ġ", "▁", "##"], int] = {"</w>": 0, "Ġ": 0, "▁": 0, "##": 0}
        byte_level = False
        for piece in vocabulary:
            byte_level = byte_level or piece in ("Ā", "Ā</w>")  # the stand-in of byte 0
            if piece.endswith("</w>"):
                counts["</w>"] += 1
            elif len(piece) > 1 and piece.startswith("Ġ"):
                counts["Ġ"] += 1
            elif len(piece) > 1 and piece.startswith("▁"):
                counts["▁"] += 1
            elif len(piece) > 2 and piece.startswith("##"):
                counts["##"] += 1
        best = max(counts, key=lambda mark: counts[mark])
        return cls(best if counts[best] else "", byte_level)

    def strings(self, pieces: Sequence[str], names: Sequence[str | None] | None = None) -> list[str]:
        """A readable string for each piece of a text, in order.

        Where a word goes on, the two pieces that it runs through have :data:`JOIN` on that side. Words are runs of
        letters and digits; scripts that are written without spaces have no marks. Pieces that hold only some bytes of
        a character are shown as that character with a number: "無 1/3", "無 2/3", "無 3/3".

        names: for special tokens, the string to show in place of the piece; None elsewhere.

        >>> WordMarks("</w>", byte_level=True).strings(["ç", "Ħ", "¡</w>"])
        ['無 1/3', '無 2/3', '無 3/3']
        """
        given: Sequence[str | None] = [None] * len(pieces) if names is None else names
        contents = [self._content(piece) for piece in pieces]
        spelled = _spelled(contents, [name is not None for name in given])
        shown = [
            name if name is not None else spelled[i][0] or piece
            for i, (piece, name) in enumerate(zip(pieces, given, strict=True))
        ]
        out = list(shown)
        for i in range(1, len(pieces)):
            whole = given[i - 1] is given[i] is None and spelled[i - 1][1] and spelled[i][1]
            if whole and self._joined(pieces[i - 1], pieces[i]) and _in_word(shown[i - 1][-1], shown[i][0]):
                out[i - 1] += JOIN
                out[i] = JOIN + out[i]
        return out

    def _joined(self, before: str, piece: str) -> bool:
        """Whether no word boundary lies between two pieces."""
        if self.mark == "</w>":
            return not before.endswith("</w>")
        if self.mark == "##":
            return piece.startswith("##")
        return bool(self.mark) and not piece.startswith(self.mark)

    def _content(self, piece: str) -> bytes:
        """What the piece holds, as UTF-8 or a part of it."""
        text = piece.removesuffix("</w>") if self.mark == "</w>" else piece
        if self.mark == "##" and len(piece) > 2:
            text = piece.removeprefix("##")
        if self.mark in ("Ġ", "▁"):
            text = text.lstrip(self.mark)
        fallback = _BYTE_TOKEN.fullmatch(text)
        if fallback:
            return bytes([int(fallback[1], 16)])
        if (self.byte_level or self.mark == "Ġ") and all(character in _BYTES for character in text):
            return bytes(_BYTES[character] for character in text)
        return text.encode("utf-8", "surrogatepass")


def _spelled(contents: Sequence[bytes], special: Sequence[bool]) -> list[tuple[str, bool]]:
    """The text of each piece, and whether it is whole characters by itself."""
    out: list[tuple[str, bool]] = []
    while len(out) < len(contents):
        i = len(out)
        end = i + 1
        while end < len(contents) and end - i < _LONGEST and not special[end] and _decoded(contents[i:end]) is None:
            end += 1
        text = _decoded(contents[i:end])
        if text is None:
            out.append(("".join(f"<0x{byte:02X}>" for byte in contents[i]), False))
        elif end == i + 1:
            out.append((text, True))
        else:
            out += [(f"{text} {k}/{end - i}", False) for k in range(1, end - i + 1)]
    return out


def _decoded(parts: Sequence[bytes]) -> str | None:
    try:
        return b"".join(parts).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _in_word(left: str, right: str) -> bool:
    """Whether two neighbouring characters are inside one word: letters, marks or digits of a script with spaces."""
    return all(
        unicodedata.category(character)[0] in "LMN" and unicodedata.east_asian_width(character) not in "WF"
        for character in (left, right)
    )
