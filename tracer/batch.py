"""From pairs to what the patching engine takes: token rows, checked and deduplicated, and image embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int8
from pydantic import ValidationError

from ..errors import ContextOverflowError, DataFormatError, IdenticalPairError, LengthMismatchError
from .pairs import Pair, Text
from .roles import TokenKind
from .scoring import normalise_rows

if TYPE_CHECKING:
    from ..patching import DualEncoder, TextTower

__all__ = ["PairBatch", "as_pairs", "image_embeddings", "make_batch"]


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs as the tower sees them. Captions that several pairs share are one text pair, traced once."""

    pairs: tuple[Pair, ...]
    correct: list[list[int]]  # token ids by text pair
    foil: list[list[int]]
    text_pair: Int[np.ndarray, "pair"]
    tokens: tuple[tuple[str, ...], ...]  # by pair
    foil_tokens: tuple[tuple[str, ...], ...]
    differs: Bool[np.ndarray, "pair token"]
    kinds: Int8[np.ndarray, "pair token"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]


def as_pairs(pairs: Any) -> list[Pair]:
    """Pairs from what a user passes: a Pair, a list of Pairs or of mappings with their fields.

    Raises:
        DataFormatError: none at all, or something that is no pair.
    """
    given = [pairs] if isinstance(pairs, (Pair, Mapping)) else pairs
    if isinstance(given, (str, Path)) or not isinstance(given, Iterable):
        raise DataFormatError(f"expected a list of Pairs, got {given!r}: read a file with read_pairs(path)")
    out = []
    for i, pair in enumerate(given):
        if isinstance(pair, Mapping):
            try:
                pair = Pair(**pair)
            except (ValidationError, TypeError) as error:
                raise DataFormatError(f"pair {i} is not a pair: {error}") from None
        if not isinstance(pair, Pair):
            raise DataFormatError(f"pair {i} is a {type(pair).__name__}, not a Pair: {pair!r}")
        out.append(pair)
    if not out:
        raise DataFormatError("there are no pairs to trace: the list is empty")
    return out


def make_batch(tower: TextTower, pairs: Sequence[Pair]) -> PairBatch:
    """Tokenise, check and deduplicate.

    Raises:
        ContextOverflowError: a caption is longer than the context.
        LengthMismatchError: a pair's captions have different numbers of tokens; shows both and the first difference.
        IdenticalPairError: a pair's captions are the same tokens.
    """
    ids = tuple(str(i) if pair.id is None else pair.id for i, pair in enumerate(pairs))
    index: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    n_tokens: list[int] = []  # of each text pair's captions, without padding
    text_pair = np.empty(len(pairs), dtype=np.int64)
    known: dict[tuple[str, str], int] = {}
    for i, pair in enumerate(pairs):
        captions = (pair.correct, pair.foil)
        if captions not in known:
            rows, n = _checked_rows(tower, pair, ids[i])
            known[captions] = index.setdefault(rows, len(index))
            n_tokens += [n] * (len(index) - len(n_tokens))
        text_pair[i] = known[captions]
    correct, foil = ([list(rows[side]) for rows in index] for side in (0, 1))
    strings = [
        (tuple(tower.token_strings(c)), tuple(tower.token_strings(f))) for c, f in zip(correct, foil, strict=True)
    ]
    longest = max(map(len, correct))
    differs = np.zeros((len(correct), longest), dtype=bool)
    kinds = np.full((len(correct), longest), TokenKind.OUTSIDE, dtype=np.int8)
    for t, (c, f) in enumerate(zip(correct, foil, strict=True)):
        differs[t, : len(c)] = np.not_equal(c, f)
        kinds[t, : len(c)] = _kinds(tower, c, strings[t][0], n_tokens[t])
    return PairBatch(
        pairs=tuple(pairs),
        correct=correct,
        foil=foil,
        text_pair=text_pair,
        tokens=tuple(strings[t][0] for t in text_pair),
        foil_tokens=tuple(strings[t][1] for t in text_pair),
        differs=differs[text_pair],
        kinds=kinds[text_pair],
        ids=ids,
        groups=tuple(name if pair.group is None else pair.group for pair, name in zip(pairs, ids, strict=True)),
    )


def _checked_rows(tower: TextTower, pair: Pair, name: str) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], int]:
    """The rows to run of both captions, and how many tokens they have without padding."""
    try:
        correct, foil = tower.token_ids(pair.correct), tower.token_ids(pair.foil)
    except ContextOverflowError as error:
        raise ContextOverflowError(f"pair {name!r}: {error}") from None
    if len(correct) != len(foil):
        raise LengthMismatchError(
            f"pair {name!r}: the captions must have equally many tokens, but have {len(correct)} and {len(foil)}; "
            f"{_first_difference(tower, correct, foil)}\n  correct: {_shown(tower, correct)}\n"
            f"  foil:    {_shown(tower, foil)}"
        )
    if correct == foil:
        raise IdenticalPairError(
            f"pair {name!r}: {pair.correct!r} and {pair.foil!r} are the same {len(correct)} tokens to this model "
            f"({_shown(tower, correct)}), so nothing can be traced"
        )
    rows = tower.rows([pair.correct, pair.foil])
    return (tuple(rows[0]), tuple(rows[1])), len(correct)


def _first_difference(tower: TextTower, correct: list[int], foil: list[int]) -> str:
    shared = min(len(correct), len(foil))
    at = next((i for i in range(shared) if correct[i] != foil[i]), shared)
    ends = [tower.token_strings(ids[at : at + 1]) for ids in (correct, foil)]
    return f"they first differ at token {at}: " + " / ".join(repr(end[0]) if end else "nothing" for end in ends)


def _shown(tower: TextTower, ids: list[int]) -> str:
    return " | ".join(tower.token_strings(ids))


def _kinds(tower: TextTower, row: list[int], strings: Sequence[str], n_tokens: int) -> list[TokenKind]:
    """What each position of a row holds; padding is only there where the tower attends to it."""
    special = tower.tokenizer.special_ids
    kinds = [TokenKind.PADDING] * len(row)
    if tower.spec.appended:
        kinds[-1] = TokenKind.END
    for i in range(n_tokens):
        if row[i] in special:
            kinds[i] = TokenKind.START if i == 0 else TokenKind.END
        elif any(c.isalnum() for c in strings[i]):
            kinds[i] = TokenKind.ORDINARY
        else:
            kinds[i] = TokenKind.PUNCTUATION
    return kinds


def image_embeddings(model: DualEncoder, pairs: Sequence[Pair], ids: Sequence[str]) -> Float[np.ndarray, "pair embed"]:
    """The unit-length target of every pair: its image, its precomputed embedding or its target text, each encoded once.

    Raises:
        DataFormatError: a pair has no image, or an image or embedding that cannot be used; names the pair.
    """
    width = model.embed_dim
    places: dict[Any, int] = {}
    paths_and_images: list[Any] = []
    texts: list[str] = []
    sources: list[tuple[str, int, str]] = []
    rows: list[np.ndarray] = []
    for pair, name in zip(pairs, ids, strict=True):
        target = pair.image
        if target is None:
            raise DataFormatError(
                f"pair {name!r} has no image: give a path, a PIL image, a precomputed embedding or ts.Text('...')"
            )
        if isinstance(target, Text):
            sources.append(("text", _place(places, ("text", target.text), target.text, texts), name))
        elif getattr(target, "ndim", None) == 1 or isinstance(target, (list, tuple)):
            rows.append(_embedding(target, width, name))
            sources.append(("row", len(rows) - 1, name))
        else:
            key = str(target) if isinstance(target, (str, Path)) else id(target)
            sources.append(("image", _place(places, ("image", key), target, paths_and_images), name))
    encoded: dict[str, np.ndarray] = {"row": np.stack(rows) if rows else np.empty((0, width))}
    if texts:
        encoded["text"] = model.encode_texts(texts).double().cpu().numpy()
    if paths_and_images:
        encoded["image"] = _encode_images(model, paths_and_images, sources)
    return np.stack([encoded[kind][at] for kind, at, _ in sources])


def _place(places: dict[Any, int], key: Any, value: Any, values: list[Any]) -> int:
    if key not in places:
        places[key] = len(values)
        values.append(value)
    return places[key]


def _embedding(target: Any, width: int, name: str) -> np.ndarray:
    row = target.detach().float().cpu().numpy() if hasattr(target, "detach") else np.asarray(target, dtype=np.float64)
    if row.shape != (width,):
        raise DataFormatError(
            f"pair {name!r} has an image embedding of shape {list(row.shape)}, but the model's are [{width}]"
        )
    return normalise_rows(row[None], f"the image embedding of pair {name!r}")[0]


def _encode_images(model: DualEncoder, images: list[Any], sources: list[tuple[str, int, str]]) -> np.ndarray:
    try:
        return model.encode_images(images).double().cpu().numpy()
    except DataFormatError as error:
        users = {at: name for kind, at, name in reversed(sources) if kind == "image"}
        guilty = next((users[at] for at, image in enumerate(images) if repr(str(image)) in str(error)), None)
        raise DataFormatError(f"pair {guilty!r}: {error}" if guilty else str(error)) from None
