"""The targets of pairs as unit vectors: images, precomputed embeddings and target texts, each encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import DataFormatError, NonFiniteError
from .pairs import Pair, Text
from .scoring import normalise_rows, side_by_side

if TYPE_CHECKING:
    from ..patching import DualEncoder

__all__ = ["Targets", "encode_targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """Distinct unit-length targets, and which of them each pair is judged by: images that pairs share are kept once."""

    rows: Float[np.ndarray, "target embed"]
    index: Int[np.ndarray, "pair"]

    def of(self, pairs: Int[np.ndarray, "chosen"] | slice) -> Float[np.ndarray, "chosen embed"]:
        """The targets of some pairs; without a copy where they lie side by side."""
        return self.rows[side_by_side(self.index[pairs])]

    def sha256(self) -> bytes:
        """A hash of the pairs' targets in order, whether or not they are kept once."""
        single = self.rows.astype(np.float32)
        digests = np.frombuffer(b"".join(hashlib.sha256(row.data).digest() for row in single), "V32")
        return hashlib.sha256(digests[self.index].tobytes()).digest()


def encode_targets(model: DualEncoder, pairs: Sequence[Pair], ids: Sequence[str]) -> Targets:
    """The unit-length target of every pair: its image, its precomputed embedding or its target text, each encoded once.

    Raises:
        DataFormatError: a pair has no image, or an image or embedding that cannot be used; names the pair.
        NonFiniteError: an embedding holds NaN or infinity, or is 0; names the pair.
    """
    width = model.embed_dim
    index: list[int] = []
    users: list[int] = []  # the first pair of each target
    kinds: dict[str, list[tuple[int, Any]]] = {"text": [], "row": [], "image": []}  # (number of the target, the target)
    seen: dict[int, int] = {}  # by the object: the pairs keep theirs alive
    places: dict[tuple[str, str], int] = {}  # by what it names
    for i, pair in enumerate(pairs):
        target = pair.image
        known = seen.get(id(target))
        if known is None:
            kind, name = _kind(target, ids[i])
            known = len(users) if name is None else places.setdefault((kind, name), len(users))
            if known == len(users):
                users.append(i)
                kinds[kind].append((known, _embedding(target, width, ids[i]) if kind == "row" else target))
            seen[id(target)] = known
        index.append(known)
    rows = np.empty((len(users), width))
    if kinds["row"]:
        numbers, raw = zip(*kinds["row"], strict=True)
        rows[list(numbers)] = _unit_rows(np.stack(raw, dtype=np.float64), [ids[users[number]] for number in numbers])
    if kinds["text"]:
        numbers, texts = zip(*kinds["text"], strict=True)
        rows[list(numbers)] = model.encode_texts([text.text for text in texts]).double().cpu().numpy()
    if kinds["image"]:
        numbers, images = zip(*kinds["image"], strict=True)
        rows[list(numbers)] = _encode_images(model, images, [ids[users[number]] for number in numbers])
    return Targets(rows, np.array(index, dtype=np.int64))


def _kind(target: Any, name: str) -> tuple[str, str | None]:
    """What a target is, and what makes another object the same target."""
    if target is None:
        raise DataFormatError(
            f"pair {name!r} has no image: give a path, a PIL image, a precomputed embedding or ts.Text('...')"
        )
    if isinstance(target, Text):
        return "text", target.text
    if getattr(target, "ndim", None) == 1 or isinstance(target, (list, tuple)):
        return "row", None
    return "image", str(target) if isinstance(target, (str, Path)) else None


def _embedding(target: Any, width: int, name: str) -> np.ndarray:
    row = target.detach().float().cpu().numpy() if hasattr(target, "detach") else np.asarray(target)
    if row.shape != (width,):
        raise DataFormatError(
            f"pair {name!r} has an image embedding of shape {list(row.shape)}, but the model's are [{width}]"
        )
    return row


def _unit_rows(raw: Float[np.ndarray, "row embed"], users: Sequence[str]) -> Float[np.ndarray, "row embed"]:
    try:
        return normalise_rows(raw)
    except NonFiniteError:
        for row, name in zip(raw, users, strict=True):
            normalise_rows(row[None], f"the image embedding of pair {name!r}")
        raise


def _encode_images(model: DualEncoder, images: Sequence[Any], users: Sequence[str]) -> np.ndarray:
    try:
        return model.encode_images(images).double().cpu().numpy()
    except DataFormatError as error:
        guilty = next((user for user, image in zip(users, images, strict=True) if repr(str(image)) in str(error)), None)
        raise DataFormatError(f"pair {guilty!r}: {error}" if guilty else str(error)) from None
