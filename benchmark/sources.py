"""Loads what is to be evaluated: a folder, a file, a published data set or a list of records, and their images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import explains_arguments
from ..errors import DataFormatError
from ..io.json_lines import read_jsonl
from ..io.quoting import shown
from ..io.reading import is_file, is_folder
from ..tracer import Pair
from .readers import Dataset, read
from .readers.dataset import each_once
from .records import Record, Split, WinogroundRecord, read_captions, read_claims, read_mcq
from .scoring import Encoder, encoded

__all__ = ["Loaded", "Source", "embed_images", "has_image", "images_of", "load_records", "named"]

Source = str | os.PathLike[str] | Dataset | Sequence[Any]


class Loaded(list[Any]):
    """Records, the paths of images that their files name and that are not there, and what readers left out and why."""

    def __init__(
        self, records: Sequence[Any], missing_images: Sequence[str] = (), left_out: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(records)
        self.missing_images = tuple(dict.fromkeys(missing_images))
        self.left_out = dict(left_out or {})


@explains_arguments
def load_records(
    source: Source,
    *,
    split: Split | None = "test",
    images: str | os.PathLike[str] | None = None,
    strict: bool = False,
    outside_images: bool = False,
) -> Loaded:
    """The records that `evaluate` would score, of a folder, a file, a data set or a list; see there.

    Raises:
        DataFormatError: no such files, no record of the split, or a malformed record.
    """

    def _published(path: Path) -> Loaded:
        data = read(path, images=images, strict=strict)
        chosen = [record for record in data.records if split is None or getattr(record, "split", None) in (None, split)]
        return Loaded(chosen, data.missing_images, data.left_out)

    def _ours(path: Path, kind: str) -> Loaded:
        left_out = Counter[str]()
        records = readers[kind](path, split=split, outside_images=outside_images)
        return Loaded(each_once(records, left_out, path), (), left_out)

    def _some(found: Loaded) -> Loaded:
        if not found and split is not None:
            raise DataFormatError(
                f"{path}: holds no records of the split {split!r}; split=None (--split all) takes those of every split"
            )
        return found

    if isinstance(source, Loaded):
        return source
    if isinstance(source, Dataset):
        return Loaded(source.records, source.missing_images, source.left_out)
    if not isinstance(source, str | os.PathLike):
        given = list(source)
        for one in given:
            if not hasattr(one, "image") and not hasattr(one, "images"):
                raise DataFormatError(f"a list to evaluate holds records such as ClaimRecord, not {shown(one)}")
        return Loaded(given)
    readers: dict[str, Callable[..., Sequence[Record]]]
    readers = {"mcq.jsonl": read_mcq, "claims.jsonl": read_claims, "captions.jsonl": read_captions}
    path = Path(source)
    if is_folder(path):
        names = [name for name in readers if is_file(path / name)]
        if not names:
            raise DataFormatError(f"{path}: a folder to evaluate on holds {', '.join(readers)}, or some of them")
        found = Loaded(())
        for name in names:
            more = _ours(path / name, name) if images is None else _published(path / name)
            left_out = Counter(found.left_out) + Counter(more.left_out)
            found = Loaded([*found, *more], [*found.missing_images, *more.missing_images], left_out)
        return _some(found)
    if path.suffix == ".jsonl" and images is None:
        first = next(read_jsonl(path), (1, {}))[1]
        kinds = {"correct_answer": "mcq.jsonl", "claims": "claims.jsonl", "caption": "captions.jsonl"}
        kind = next((name for key, name in kinds.items() if key in first), None)
        if kind is not None:
            return _ours(path, kind)
    return _some(_published(path))


@explains_arguments
def embed_images(
    model: Encoder,
    source: Source,
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> dict[str, np.ndarray]:
    """Every image of a source, encoded once: path → Float32[embed]. Give it to `evaluate(image_embeddings=)`."""
    found = load_records(source, split=split, images=images, outside_images=outside_images)
    different = {str(image): image for record in found if has_image(record) for image in images_of(record)}
    return dict(zip(different, encoded(model, list(different.values())), strict=True))


def images_of(record: Any) -> tuple[Any, ...]:
    return record.images if isinstance(record, WinogroundRecord) else (record.image,)


def has_image(record: Any) -> bool:
    return all(image is not None for image in images_of(record))


def named(records: Sequence[Any]) -> Iterator[Any]:
    """The records; a pair without an id by its number among the pairs, whatever images of others are missing."""
    number = 0
    for record in records:
        if isinstance(record, Pair):
            yield record.model_copy(update={"id": str(number)}) if record.id is None else record
            number += 1
        else:
            yield record
