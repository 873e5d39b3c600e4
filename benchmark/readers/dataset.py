"""`read`: a published file as records, with what was left out and which images are missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...arguments import explains_arguments
from ...errors import DataFormatError
from ...io.quoting import shown, shown_path
from ...tracer import Pair
from ...warn import warn_user
from ..records import CaptionRecord, ClaimRecord, FactsRecord, McqRecord, RetrievalRecord, WinogroundRecord
from .images import ImageFolder
from .registry import LeftOut, Reader, reader_for
from .source import Source

__all__ = ["Dataset", "each_once", "read"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Dataset:
    """The records of one file.

    format: the reader's name. left_out: how many records were left out, by reason. missing_images: paths that records
    give and that are not in the image folder; such records have ``image=None``.
    """

    path: str
    format: str
    records: Sequence[Any]
    left_out: dict[str, int]
    missing_images: tuple[str, ...]

    def of(self, kind: type[T]) -> list[T]:
        """The records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]

    @property
    def pairs(self) -> list[Pair]:
        """Caption pairs: those of the file, and each contrast set's true claim with each of its wrong ones."""
        found = self.of(Pair)
        for record in self.of(ClaimRecord):
            for name, claim in _wrong(record).items():
                found.append(
                    Pair(
                        correct=record.correct,
                        foil=claim,
                        image=record.image,
                        id=name,
                        group=record.group,
                        attribute=record.attribute,
                    )
                )
        return found

    @property
    def candidates(self) -> dict[str, list[str]]:
        """The claims of each contrast set, by the ids of its pairs in :attr:`pairs`.

        As ``candidates=`` of :func:`tracescribe.trace` they give the rank, or the probability, of the right option.
        """
        return {name: list(record.claims) for record in self.of(ClaimRecord) for name in _wrong(record)}

    @property
    def claims(self) -> list[ClaimRecord]:
        """Contrast sets and multiple choice of one wording."""
        return self.of(ClaimRecord)

    @property
    def mcq(self) -> list[McqRecord]:
        """Multiple choice in both wordings (MedNega-CXR)."""
        return self.of(McqRecord)

    @property
    def captions(self) -> list[CaptionRecord]:
        return self.of(CaptionRecord)

    @property
    def retrieval(self) -> list[RetrievalRecord]:
        """Images with all their captions."""
        return self.of(RetrievalRecord)

    @property
    def winoground(self) -> list[WinogroundRecord]:
        return self.of(WinogroundRecord)

    @property
    def facts(self) -> list[FactsRecord]:
        """What is known of each image: labels by condition."""
        return self.of(FactsRecord)

    def __len__(self) -> int:
        return len(self.records)

    def summary(self) -> str:
        """What was read, as one line per fact."""
        kinds = Counter(type(record).__name__ for record in self.records)
        lines = [f"{self.path} ({self.format}): " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())]
        lines += [f"left out: {count} ({why})" for why, count in self.left_out.items()]
        if self.missing_images:
            without = sum(getattr(record, "image", "") is None for record in self.records)
            lines.append(
                f"images missing: {len(self.missing_images)} files, {without} records without an image; the first is "
                f"{shown_path(self.missing_images[0])}"
            )
        return "\n".join(lines)


@explains_arguments
def read(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    format: str | None = None,
    strict: bool = False,
) -> Dataset:
    """A file of the field, exactly as published, as records.

    The format is recognised by content; :func:`tracescribe.benchmark.readers.formats` lists all.

    Args:
        images: the folder that image paths are looked for in; by default that of the file. Paths of another machine
            are found by their end.
        format: the format's name, for a file that several readers recognise or none.
        strict: an image that is not there is an error instead of a record without an image.

    Raises:
        DataFormatError: the file is of no known format, or a record is not as its format says (names file, record and
            field); with ``strict``, an image is missing.

    >>> import json, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "add_att.json")
    ...     item = {"filename": "1.jpg", "caption": "a red car", "negative_caption": "a blue car"}
    ...     _ = path.write_text(json.dumps({"0": item}))
    ...     data = read(path)
    >>> data.format, data.pairs[0].foil, data.missing_images
    ('sugarcrepe', 'a blue car', ('1.jpg',))
    """
    source = Source(path)
    reader = reader_for(source, format)
    folder = ImageFolder(Path(path).parent if images is None else images)
    left_out: Counter[str] = Counter()
    records: list[Any] = []
    for item in iterate(source, reader, folder):
        if isinstance(item, LeftOut):
            left_out[item.why] += 1
        else:
            records.append(item)
        if strict and folder.missing:
            raise DataFormatError(
                f"{path}: the image {shown_path(next(iter(folder.missing)))} is not in {str(folder.root)!r}"
            )
    records = each_once(records, left_out, path)
    if not records:
        why = "; ".join(f"{count} left out ({reason})" for reason, count in left_out.items()) or "it is empty"
        raise DataFormatError(f"{path}: holds no records: {why}")
    return Dataset(str(path), reader.name, records, dict(left_out), tuple(folder.missing))


def iterate(source: Source, reader: Reader, folder: ImageFolder) -> Iterator[Any]:
    """Records one after another, those left out among them (as `LeftOut`)."""
    if source.is_one_record:
        warn_user(f"{source.path} holds one JSON object, which is read as one record of the format {reader.name}")
    yield from reader.records(source, folder)


def _wrong(record: ClaimRecord) -> dict[str, str]:
    """The wrong claims of a contrast set, by the ids of their pairs."""
    return {f"{record.id}-{number}": claim for number, claim in enumerate(record.claims) if number != record.label}


def each_once(records: Sequence[Any], left_out: Counter[str], path: str | os.PathLike[str]) -> list[Any]:
    """The records without those that are given again, word for word; they are counted.

    Raises:
        DataFormatError: different records have one id.
    """
    seen: dict[Any, Any] = {}
    kept = []
    for record in records:
        name = _words(record) if isinstance(record, McqRecord) else getattr(record, "id", None)
        key = (type(record), name)
        if name is not None and seen.setdefault(key, record) is not record and seen[key] == record:
            left_out["given twice, word for word"] += 1
        else:
            kept.append(record)
    counts = Counter((type(record), record.id) for record in kept if getattr(record, "id", None) is not None)
    twice = next((name for (_, name), count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataFormatError(f"{path}: the id {shown(twice)} is given to more than one record")
    return kept


def _words(record: McqRecord) -> tuple[str, ...]:
    """What names a question, which has no id: its study and its words."""
    return (record.study_id, record.question, *record.negated, *record.affirmative, record.correct_answer)
