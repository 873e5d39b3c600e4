"""NegBench's CSVs (Alhamoud et al. 2025): multiple choice of any number of options, and retrieval; images and videos.

The CheXpert files ask of two options, negation and affirmation control in a file each, without a template column.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import ClaimRecord, RetrievalRecord
from . import fields
from .chexpert import PATIENT
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

_OPTION = re.compile(r"caption_\d+")

MCQ = ("image_path", "correct_answer", "caption_0", "caption_1")


def _is_mcq(source: Source) -> bool:
    return source.kind == "table" and source.fields >= set(MCQ)


def _mcq(source: Source, folder: ImageFolder) -> Iterator[ClaimRecord | LeftOut]:
    """The attribute of a record is the template of its right answer: positive, negative or hybrid.

    The right answer is option 0 in every row of the COCO and VOC files: scores must not depend on the order of options
    (ties count in expectation).
    """
    options = sorted((name for name in source.fields if _OPTION.fullmatch(name)), key=lambda name: int(name[8:]))
    for number, (where, row) in enumerate(source.records()):
        path = fields.text(row, "image_path", where)
        label = fields.number(row, "correct_answer", where)
        claims = [fields.text(row, name, where) for name in options]
        if label is None or label not in range(len(claims)):
            raise DataFormatError(
                f"{where}: field 'correct_answer': expected the number of one of {len(claims)} options, not "
                f"{shown(row['correct_answer'])}"
            )
        if len(set(claims)) < len(claims):
            yield LeftOut(where, "two options are the same text")
            continue
        with fields.checked(where):
            yield ClaimRecord(
                id=str(number),
                image=folder.find(path),
                group=_group(path),
                claims=claims,
                label=int(label),
                attribute=fields.text_or(
                    row, "correct_answer_template", where, "binary" if len(claims) == 2 else "all"
                ),
            )


def _group(path: str) -> str:
    """The patient of a CheXpert image, else the image."""
    found = PATIENT.search(path)
    return path if found is None else found[1]


def _is_retrieval(source: Source) -> bool:
    return source.kind == "table" and "captions" in source.fields and bool(_path_column(source))


def _path_column(source: Source) -> str:
    """The column that names the image or video; empty where there is none."""
    return next((name for name in ("filepath", "video_path") if name in source.fields), "")


def _retrieval(source: Source, folder: ImageFolder) -> Iterator[RetrievalRecord]:
    column = _path_column(source) or "filepath"
    for number, (where, row) in enumerate(source.records()):
        path = fields.text(row, column, where)
        with fields.checked(where):
            yield RetrievalRecord(
                id=fields.name(row, "image_id", where) if row.get("image_id") else str(number),
                image=folder.find(path),
                group=path,
                captions=tuple(fields.text_list(row, "captions", where)),
                present=_objects(row, "positive", where),
                absent=_objects(row, "negative", where),
            )


def _objects(row: dict[str, Any], sign: str, where: str) -> tuple[str, ...]:
    """What an image holds, or does not: a list of objects (of none: ``['']``), or of videos a column per concept."""
    lists = [fields.text_list(row, name, where) for name in (f"{sign}_objects",) if name in row]
    concepts = [fields.text_or(row, name, where, "") for name in sorted(row) if name.startswith(f"{sign}_concept")]
    return tuple(name for name in (*itertools.chain(*lists), *concepts) if name)


READERS = (
    Reader("negbench-mcq", "NegBench: multiple choice by template", _is_mcq, _mcq, MCQ),
    Reader(
        "negbench-retrieval",
        "NegBench: images with their captions",
        _is_retrieval,
        _retrieval,
        ("filepath", "captions"),
    ),
)
