"""The targets of pairs as unit vectors: images, precomputed embeddings and target texts, each encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int

from ...errors import DataFormatError, NonFiniteError
from .indexing import distinct, side_by_side
from .pairs import Text
from .unit_rows import normalise_rows

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["Targets", "encode_targets"]


@dataclass(frozen=True, eq=False)
class Targets:
    """Distinct unit-length targets, and which of them each pair is judged by: images that pairs share are kept once."""

    rows: Float32[np.ndarray, "target embed"]
    index: Int[np.ndarray, "pair"]

    @property
    def of_pairs(self) -> Float32[np.ndarray, "pair embed"]:
        """The target of every pair; without a copy where no two share one."""
        return self.rows[side_by_side(self.index)]

    def sha256(self) -> bytes:
        """A hash of the pairs' targets in order, whether or not they are kept once."""
        digests = np.frombuffer(b"".join([hashlib.sha256(row).digest() for row in self.rows]), "V32")
        return hashlib.sha256(digests[self.index].tobytes()).digest()


def encode_targets(model: DualEncoder, images: Sequence[Any], ids: Sequence[str]) -> Targets:
    """The unit-length target of every pair: its image, its precomputed embedding or its target text, each encoded once.

    Raises:
        DataFormatError: a pair has no image, or an image or embedding that cannot be used; names the pair.
        NonFiniteError: an embedding holds NaN or infinity, or is 0; names the pair.
    """
    first, object_of = _objects(images)
    users: list[int] = []  # the first pair of each target
    kinds: dict[str, list[tuple[int, Any]]] = {"text": [], "row": [], "image": []}  # (number of the target, the target)
    places: dict[tuple[str, str], int] = {}  # by what it names
    number_of: list[int] = []  # by object
    for i in first:
        target = images[i]
        kind, name = ("row", None) if getattr(target, "ndim", None) == 1 else _kind(target, ids[i])
        number = len(users) if name is None else places.setdefault((kind, name), len(users))
        if number == len(users):
            users.append(i)
            kinds[kind].append((number, target))
        number_of.append(number)
    encoded = []
    for kind, members in kinds.items():
        if members:
            numbers = [number for number, _ in members]
            found = _encoders[kind](
                model, [target for _, target in members], [ids[users[number]] for number in numbers]
            )
            encoded.append((numbers, found))
    rows = encoded[0][1]
    if len(encoded) > 1:
        rows = np.empty((len(users), rows.shape[1]), dtype=np.float32)
        for numbers, found in encoded:
            rows[numbers] = found
    return Targets(rows, np.array(number_of, dtype=np.int64)[object_of])


def _objects(images: Sequence[Any]) -> tuple[list[int], Int[np.ndarray, "pair"]]:
    """The first pair of each distinct object, in order, and which object each pair has."""
    _, index = distinct(map(id, images))  # they are alive, so that no two share an id
    return np.unique(index, return_index=True)[1].tolist(), index


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
    if getattr(target, "is_meta", False):
        raise DataFormatError(
            f"pair {name!r} has an image embedding on the meta device, which holds no values: make it under another "
            f"default device"
        )
    row = target.detach().float().cpu().numpy() if hasattr(target, "detach") else np.asarray(target)
    if row.shape != (width,):
        raise DataFormatError(
            f"pair {name!r} has an image embedding of shape {list(row.shape)}, but the model's are [{width}]"
        )
    return row


def _unit_rows(model: DualEncoder, targets: list[Any], users: Sequence[str]) -> Float32[np.ndarray, "row embed"]:
    width = model.embed_dim
    raw = _stacked(targets, width)
    if raw is None:
        raw = np.stack([_embedding(target, width, name) for target, name in zip(targets, users, strict=True)])
    try:
        return normalise_rows(raw)
    except NonFiniteError:
        for row, name in zip(raw, users, strict=True):
            normalise_rows(row[None], f"the image embedding of pair {name!r}")
        raise


def _stacked(targets: list[Any], width: int) -> np.ndarray | None:
    """Tensors of one kind and of this width at once: ten thousand are ten thousand conversions otherwise."""
    import torch

    if set(map(type, targets)) != {torch.Tensor} or targets[0].shape != (width,):
        return None
    rows = np.empty((len(targets), width), dtype=np.float32)
    try:
        with torch.no_grad():
            torch.stack(targets, out=torch.from_numpy(rows))
    except RuntimeError:  # one of another width, or on another device
        return None
    return rows


def _encode_texts(model: DualEncoder, texts: Sequence[Text], users: Sequence[str]) -> np.ndarray:
    return model.encode_texts([text.text for text in texts]).float().cpu().numpy()


def _encode_images(model: DualEncoder, images: Sequence[Any], users: Sequence[str]) -> np.ndarray:
    try:
        return model.encode_images(images).float().cpu().numpy()
    except DataFormatError as error:
        guilty = next((user for user, image in zip(users, images, strict=True) if repr(str(image)) in str(error)), None)
        raise DataFormatError(f"pair {guilty!r}: {error}" if guilty else str(error)) from None


_encoders = {"row": _unit_rows, "text": _encode_texts, "image": _encode_images}
