"""From pairs to the input of the patching engine: token ids, checked and deduplicated, and image embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Int8

from ...errors import ContextOverflowError, DataFormatError, IdenticalPairError, LengthMismatchError, TraceError
from ...io.json_lines import shown
from ...token_strings import is_punctuation
from .directions import DIRECTIONS
from .indexing import distinct, picked
from .pairs import Pair
from .roles import TokenKind

if TYPE_CHECKING:
    from ...patching import Alignment, PositionPolicy, TextTower

__all__ = ["PairBatch", "as_pairs", "make_batch"]


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs as the tower sees them: two captions that several pairs share are patched once.

    images: the target of each pair, as it was given.
    captions, caption_pair: distinct (correct, foil), and which of them each pair has.
    base, donor: token ids by patched pair, of the caption whose run is patched and of the one whose states go in.
    alignments: by patched pair, where lengths may differ. patched_pair: the patched pair of each pair.
    noising: whether a pair's base is its correct caption; the same two captions may be given both ways round.
    text_pair: number of each pair's distinct (correct, foil) token ids.
    tokens, foil_tokens, differs, kinds: at the base's positions; where only one caption has a token, "" stands for the
    other's.
    """

    pairs: tuple[Pair, ...]
    images: list[Any]
    captions: tuple[tuple[str, str], ...]
    caption_pair: Int[np.ndarray, "pair"]
    base: list[list[int]]
    donor: list[list[int]]
    alignments: list[Alignment] | None
    noising: Bool[np.ndarray, "pair"]
    patched_pair: Int[np.ndarray, "pair"]
    text_pair: Int[np.ndarray, "pair"]
    tokens: tuple[tuple[str, ...], ...]  # by pair
    foil_tokens: tuple[tuple[str, ...], ...]
    differs: Bool[np.ndarray, "pair token"]
    kinds: Int8[np.ndarray, "pair token"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def inside(self) -> Bool[np.ndarray, "pair token"]:
        """True at tokens that can be patched."""
        return (self.kinds != TokenKind.OUTSIDE) & (self.kinds != TokenKind.UNMATCHED)

    @property
    def example_of_patched(self) -> Int[np.ndarray, "patched_pair"]:
        """One pair of each patched pair."""
        return np.unique(self.patched_pair, return_index=True)[1]

    @property
    def example_of_text(self) -> Int[np.ndarray, "text_pair"]:
        """One pair of each text pair."""
        return np.unique(self.text_pair, return_index=True)[1]


def as_pairs(pairs: Any) -> list[Pair]:
    """Pairs from what a user passes: a Pair, a list of Pairs or of mappings with their fields.

    Raises:
        DataFormatError: none at all, or something that is no pair.
    """
    given = [pairs] if isinstance(pairs, (Pair, Mapping)) else pairs
    if isinstance(given, (str, Path)) or not isinstance(given, Iterable):
        raise DataFormatError(f"expected a list of Pairs, got {shown(given)}: read a file with read_pairs(path)")
    if hasattr(given, "to_dict"):  # a pandas table, whose items are the names of its columns
        raise DataFormatError('expected a list of Pairs, got a table: give table.to_dict("records")')
    out = list(given)
    if set(map(type, out)) != {Pair}:
        out = [_as_pair(pair, i) for i, pair in enumerate(out)]
    if not out:
        raise DataFormatError("there are no pairs to trace: the list is empty")
    return out


def _as_pair(pair: Any, i: int) -> Pair:
    if isinstance(pair, Mapping):
        record = {str(name): value for name, value in pair.items()}
        try:
            return Pair(**record)
        except DataFormatError as error:
            raise DataFormatError(f"pair {i}: {error}") from None
    if not isinstance(pair, Pair):
        raise DataFormatError(
            f"pair {i} is a {type(pair).__name__}, not a Pair: {shown(pair)}; give "
            f"ts.Pair(correct=..., foil=..., image=...), or a mapping with these fields"
        )
    return pair


def make_batch(
    tower: TextTower,
    pairs: Sequence[Pair],
    *,
    direction: str = DIRECTIONS[0],
    align: Literal["none", "auto"] = "none",
    position_policy: PositionPolicy = "shift",
) -> PairBatch:
    """Tokenise, check, align and deduplicate.

    Raises:
        ContextOverflowError: a caption is longer than the context.
        DataFormatError: a caption has no token, or holds the padding token itself.
        LengthMismatchError: a pair's captions have different numbers of tokens, and ``align`` is "none"; shows both and
            the first difference.
        IdenticalPairError: a pair's captions are the same tokens.
        TraceError: "negated->affirmative" and a pair that does not say which caption is negated.
    """
    read = _read(pairs, direction)
    ids, groups = _names(pairs, read)
    index: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    texts: list[_TextPair] = []  # by patched pair
    patched_of: list[int] = []  # by caption pair and side, as the next three
    tokens: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    sides = [_is_noising(pairs[i], ids[i], direction) for i in read.examples]
    captions, caption_of = distinct((pairs[i].correct, pairs[i].foil) for i in read.examples)
    for i, noising in zip(read.examples, sides, strict=True):
        pair = pairs[i]
        n_tokens = _checked_lengths(tower, pair, ids[i], align)
        both = (pair.correct, pair.foil) if noising else (pair.foil, pair.correct)
        rows = tuple(map(tuple, tower.rows(both)))
        number = index.setdefault((rows[0], rows[1]), len(index))
        if len(index) > len(texts):
            lengths = n_tokens if noising else n_tokens[::-1]
            texts.append(_TextPair.of(tower, rows[0], rows[1], lengths, position_policy))
        patched_of.append(number)
        ours, theirs = texts[number].strings
        tokens.append((ours, theirs) if noising else (theirs, ours))
    _, text_of = distinct(zip(patched_of, sides, strict=True))
    patched_pair = np.array(patched_of, dtype=np.int64)[read.which]
    longest = max(len(text.base) for text in texts)
    differs = np.zeros((len(texts), longest), dtype=bool)
    kinds = np.full((len(texts), longest), TokenKind.OUTSIDE, dtype=np.int8)
    for t, text in enumerate(texts):
        differs[t, : len(text.base)] = text.differs
        kinds[t, : len(text.base)] = text.kinds
    return PairBatch(
        pairs=tuple(pairs),
        images=read.images,
        captions=tuple(captions),
        caption_pair=caption_of[read.which],
        base=[list(text.base) for text in texts],
        donor=[list(text.donor) for text in texts],
        alignments=None if align == "none" else [text.alignment for text in texts],
        noising=np.array(sides, dtype=bool)[read.which],
        patched_pair=patched_pair,
        text_pair=text_of[read.which],
        tokens=picked([correct for correct, _ in tokens], read.which),
        foil_tokens=picked([foil for _, foil in tokens], read.which),
        differs=np.take(differs, patched_pair, axis=0),
        kinds=np.take(kinds, patched_pair, axis=0),
        ids=ids,
        groups=groups,
    )


@dataclass(eq=False)
class _Fields:
    """What pairs say of themselves. which: the distinct captions of each pair. examples: a pair of each of those."""

    which: Int[np.ndarray, "pair"]
    examples: list[int]
    images: list[Any]
    named: bool  # whether any has an id or a group


def _read(pairs: Sequence[Pair], direction: str) -> _Fields:
    """A hundred thousand pairs may share ten captions: each is looked at once, and runs of equal captions are one step.

    Captions whose negation differs are different where the direction depends on it.
    """
    by_side = direction == "negated->affirmative"
    known: dict[tuple[str, str, str | None], int] = {}
    examples: list[int] = []
    starts: list[int] = []  # of runs of equal captions
    numbers: list[int] = []  # and which captions they are
    images: list[Any] = []
    correct = foil = side = None
    named = False
    for pair in pairs:
        values = pair.__dict__  # pydantic's fields, in half the time of its attributes
        if values["correct"] is not correct or values["foil"] is not foil or (by_side and values["negation"] != side):
            correct, foil, side = values["correct"], values["foil"], values["negation"] if by_side else None
            starts.append(len(images))
            numbers.append(known.setdefault((correct, foil, side), len(known)))
            if numbers[-1] == len(examples):
                examples.append(len(images))
        images.append(values["image"])
        if values["id"] is not None or values["group"] is not None:
            named = True
    return _Fields(np.repeat(numbers, np.diff([*starts, len(images)])), examples, images, named)


def _names(pairs: Sequence[Pair], read: _Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids and groups: a pair without an id has its number, one without a group is its own."""
    if not read.named:
        ids = tuple([f"{i}" for i in range(len(pairs))])
        return ids, ids
    ids = tuple([str(i) if pair.id is None else pair.id for i, pair in enumerate(pairs)])
    return ids, tuple([name if pair.group is None else pair.group for pair, name in zip(pairs, ids, strict=True)])


@dataclass(eq=False)
class _TextPair:
    """Two rows of token ids and what is known of the base's positions."""

    base: tuple[int, ...]
    donor: tuple[int, ...]
    alignment: Alignment
    strings: tuple[tuple[str, ...], tuple[str, ...]]  # the base's tokens, and the donor's at the base's positions
    differs: list[bool]
    kinds: list[TokenKind]

    @classmethod
    def of(
        cls,
        tower: TextTower,
        base: tuple[int, ...],
        donor: tuple[int, ...],
        n_tokens: tuple[int, int],
        policy: PositionPolicy,
    ) -> _TextPair:
        from ...patching import align_rows

        alignment = align_rows(base, donor, policy, n_tokens if tower.spec.padding == "attend" else None)
        ours, theirs = tower.token_strings(base), tower.token_strings(donor)
        sources = alignment.sources
        kinds = _kinds(tower, base, ours, n_tokens[0])
        return cls(
            base,
            donor,
            alignment,
            (tuple(ours), tuple("" if at < 0 else theirs[at] for at in sources)),
            [at < 0 or base[i] != donor[at] for i, at in enumerate(sources)],
            [TokenKind.UNMATCHED if at < 0 else kind for at, kind in zip(sources, kinds, strict=True)],
        )


def _is_noising(pair: Pair, name: str, direction: str) -> bool:
    """Whether the foil's states go into the correct caption's run."""
    if direction != "negated->affirmative":
        return direction == "foil->correct"
    if pair.negation is None:
        raise TraceError(
            f"direction 'negated->affirmative' needs to know which caption is negated: pair {name!r} has no negation= "
            f"('correct' or 'foil')"
        )
    return pair.negation == "foil"


def _checked_lengths(tower: TextTower, pair: Pair, name: str, align: str) -> tuple[int, int]:
    """Numbers of tokens, without padding, of a pair that can be traced."""
    try:
        correct, foil = tower.token_ids(pair.correct), tower.token_ids(pair.foil)
    except (ContextOverflowError, DataFormatError) as error:
        raise type(error)(f"pair {name!r}: {error}") from None
    if len(correct) != len(foil) and align == "none":
        raise LengthMismatchError(
            f"pair {name!r}: the captions must have equally many tokens, but have {len(correct)} and {len(foil)} "
            f"(align='auto' maps them); {_first_difference(tower, correct, foil)}\n"
            f"  correct: {_shown(tower, correct)}\n  foil:    {_shown(tower, foil)}"
        )
    if correct == foil:
        raise IdenticalPairError(
            f"pair {name!r}: {pair.correct!r} and {pair.foil!r} are the same {len(correct)} tokens to this model "
            f"({_shown(tower, correct)}), so nothing can be traced"
        )
    return len(correct), len(foil)


def _first_difference(tower: TextTower, correct: list[int], foil: list[int]) -> str:
    shared = min(len(correct), len(foil))
    at = next((i for i in range(shared) if correct[i] != foil[i]), shared)
    ends = [tower.token_strings(ids[at : at + 1]) for ids in (correct, foil)]
    return f"they first differ at token {at}: " + " / ".join(repr(end[0]) if end else "nothing" for end in ends)


def _shown(tower: TextTower, ids: list[int]) -> str:
    return " | ".join(tower.token_strings(ids))


def _kinds(tower: TextTower, row: Sequence[int], strings: Sequence[str], n_tokens: int) -> list[TokenKind]:
    """What each position of a row holds; padding is only there where the tower attends to it."""
    special = tower.tokenizer.special_ids
    kinds = [TokenKind.PADDING] * len(row)
    if tower.spec.appended:
        kinds[-1] = TokenKind.END
    for i in range(n_tokens):
        if row[i] in special:
            kinds[i] = TokenKind.START if i == 0 else TokenKind.END
        else:
            kinds[i] = TokenKind.PUNCTUATION if is_punctuation(strings[i]) else TokenKind.ORDINARY
    return kinds
