"""Candidates that a caption, or a target, competes with: texts or embeddings, for all pairs or listed by pair."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int

from ...errors import DataFormatError
from ...io.json_lines import read_jsonl, read_text
from ...io.quoting import shown, shown_path
from ..pairs.indexing import distinct
from ..pairs.unit_rows import normalise_rows

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["Candidates", "Pool", "given_candidates", "read_candidates", "text_encoder"]

Encode = Callable[[list[str]], np.ndarray]


def text_encoder(model: DualEncoder) -> Encode:
    """Embeddings of texts by a model, as an array."""
    return lambda texts: model.encode_texts(texts).float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a user gave as ``candidates=``.

    rows: distinct texts, or embeddings of any length. lists: the rows of each pair, or of the pairs of each id; None:
    all pairs have all.
    """

    rows: tuple[str, ...] | np.ndarray
    lists: tuple[Int[np.ndarray, "listed"], ...] | None = None
    ids: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        kind = "texts" if isinstance(self.rows, tuple) else "embeddings"
        by = "" if self.lists is None else f" in {len(self.lists)} lists"
        return f"Candidates({len(self.rows)} {kind}{by})"

    def encoded(self, encode: Encode | None, ids: Sequence[str], width: int) -> Pool:
        """The candidates' unit embeddings, and which each of the pairs has.

        encode: embeddings of texts; None where there is no model.

        Raises:
            DataFormatError: texts without a model, embeddings of another width, or lists that do not fit the pairs.
        """
        if not isinstance(self.rows, tuple):
            rows, texts = normalise_rows(self.rows, "candidate embeddings"), None
        elif encode is None:
            raise DataFormatError("candidates are texts, which need a model to encode them: give model=, or embeddings")
        else:
            rows, texts = normalise_rows(encode(list(self.rows)), "candidate embeddings"), self.rows
        if rows.shape[1] != width:
            raise DataFormatError(f"candidate embeddings have {rows.shape[1]} dimensions, the model's have {width}")
        return Pool(rows, self._of_pairs(ids), texts)

    def _of_pairs(self, ids: Sequence[str]) -> tuple[Int[np.ndarray, "listed"], ...] | None:
        if self.lists is None:
            return None
        if self.ids is not None:
            places = dict(zip(self.ids, self.lists, strict=True))
            lacking = next((name for name in ids if name not in places), None)
            if lacking is not None:
                raise DataFormatError(f"there are no candidates for pair {shown(lacking)}; the lists go by pairs' ids")
            return tuple([places[name] for name in ids])
        if len(self.lists) != len(ids):
            raise DataFormatError(
                f"{len(self.lists)} lists of candidates for {len(ids)} pairs: give one list per pair, one flat list "
                f"that all pairs share, or a mapping of pairs' ids"
            )
        return self.lists


@dataclass(frozen=True, eq=False)
class Pool:
    """Encoded candidates. of_pair: the rows of each pair; None: all. texts: of the rows, where they are texts."""

    rows: Float32[np.ndarray, "candidate embed"]
    of_pair: tuple[Int[np.ndarray, "listed"], ...] | None = None
    texts: tuple[str, ...] | None = None

    @property
    def sha256(self) -> str:
        """A hash of the embeddings and of which pair has which."""
        digest = hashlib.sha256(repr(self.rows.shape).encode() + self.rows.tobytes())
        for rows in self.of_pair or ():
            digest.update(repr(len(rows)).encode() + rows.tobytes())
        return digest.hexdigest()

    def same_as(self, texts: Sequence[str] | None) -> Int[np.ndarray, "pair"] | None:
        """The row that is each of these texts; -1: none is. None where rows are no texts."""
        if self.texts is None or texts is None:
            return None
        places = {text: row for row, text in enumerate(self.texts)}
        return np.array([places.get(text, -1) for text in texts], dtype=np.int64)


def given_candidates(value: Any) -> Candidates:
    """What a user gave as ``candidates=``: texts, embeddings, lists of either by pair, a mapping of ids, or a file.

    Raises:
        DataFormatError: what cannot be used; says why.
        TypeError: anything else.
    """
    if isinstance(value, Candidates):
        return value
    if isinstance(value, (str, os.PathLike)):
        try:
            return read_candidates(value)
        except DataFormatError as error:
            raise DataFormatError(f"candidates: {error}") from None
    if isinstance(value, Mapping):
        found = _listed(list(value.values()), list(map(str, value)))
        return Candidates(found.rows, found.lists, tuple(map(str, value)))
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray):
        return _listed(list(value)) if value.ndim == 3 else Candidates(_embeddings(value))
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise TypeError
    if not value:
        raise DataFormatError("there are no candidates: the list is empty")
    if isinstance(value[0], str):
        return Candidates(_texts(value, "candidates"))
    if np.ndim(value[0]) == 1 and not _is_list_of_texts(value[0]):
        return Candidates(_embeddings(value))
    return _listed(value)


def read_candidates(path: str | os.PathLike[str]) -> Candidates:
    """Candidates of a file.

    ``.txt``: one caption per line, for all pairs. ``.jsonl``: per line a pair's ``id`` and its list of ``candidates``.

    Raises:
        DataFormatError: another kind of file, one that cannot be read, or a bad line; names it.
    """
    file = Path(path)
    if file.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_text(file).split("\n")]
        return Candidates(_texts([line for line in lines if line], shown_path(path)))
    if file.suffix.lower() != ".jsonl":
        raise DataFormatError(
            f"{shown_path(path)} must end in .txt (one caption per line, for all pairs) or .jsonl (a pair's id and its "
            f"candidates per line); the options of a published file are tracescribe.read(FILE).candidates"
        )
    lists: dict[str, Sequence[str]] = {}
    for line, record in read_jsonl(file):
        name, texts = record.get("id"), record.get("candidates")
        if (
            set(record) != {"id", "candidates"}
            or not isinstance(name, str)
            or not _is_list_of_texts(texts)
            or not texts
        ):
            raise DataFormatError(
                f'{file}:{line}: expected {{"id": "...", "candidates": ["...", ...]}}, not {shown(record)}'
            )
        if name in lists:
            raise DataFormatError(f"{file}:{line}: pair {shown(name)} has candidates on an earlier line too")
        lists[name] = texts
    if not lists:
        raise DataFormatError(f"{shown_path(path)} holds no candidates")
    found = _listed(list(lists.values()), list(lists))
    return Candidates(found.rows, found.lists, tuple(lists))


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)


def _listed(lists: Sequence[Any], names: Sequence[str] | None = None) -> Candidates:
    """Lists of texts, or of embeddings, by pair."""
    if not lists:
        raise DataFormatError("there are no candidates: the list is empty")
    labels = [f"candidates of pair {shown(name)}" for name in (range(len(lists)) if names is None else names)]
    if all(map(_is_list_of_texts, lists)):
        given = [_texts(texts, label) for texts, label in zip(lists, labels, strict=True)]
        rows, index = distinct([text for texts in given for text in texts])
        return Candidates(tuple(rows), tuple(np.split(index, np.cumsum(list(map(len, given)))[:-1])))
    arrays = [_embeddings(rows, label) for rows, label in zip(lists, labels, strict=True)]
    widths = {array.shape[1] for array in arrays}
    if len(widths) > 1:
        raise DataFormatError(f"candidate embeddings have different numbers of dimensions: {sorted(widths)}")
    ends = np.cumsum(list(map(len, arrays)))
    return Candidates(np.concatenate(arrays), tuple(np.split(np.arange(ends[-1]), ends[:-1])))


def _texts(texts: Sequence[Any], what: str) -> tuple[str, ...]:
    """The distinct texts: one that is given twice is one candidate."""
    if not texts:
        raise DataFormatError(f"{what}: there are none")
    bad = next((text for text in texts if not isinstance(text, str) or not text.strip()), None)
    if bad is not None or None in texts:
        raise DataFormatError(f"{what}: {shown(bad)} is no caption")
    return tuple(dict.fromkeys(texts))


def _embeddings(value: Any, what: str = "candidates") -> np.ndarray:
    """[n, embed], finite and not 0, of any length."""
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    try:
        rows = np.asarray(value)
        if rows.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise DataFormatError(f"{what}: expected texts, or embeddings [n, embed], not {shown(value)}") from None
    if rows.ndim != 2 or not len(rows):
        raise DataFormatError(f"{what}: embeddings must be an array [n, embed], not of shape {list(rows.shape)}")
    normalise_rows(rows, what)
    return rows
