"""Open-i (Indiana University chest X-rays): reports with MeSH terms such as ``Pleural Effusion/bilateral/small``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ..records import Fact, FactsRecord
from . import fields
from .cad_chest import SEVERITIES
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source


def _matches(source: Source) -> bool:
    return source.kind == "table" and {"uid", "MeSH"} <= source.fields


def _records(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """One record per report. MeSH terms are findings that are present: nothing says which others are absent.

    Images are listed in a table of their own (``indiana_projections.csv``); a report is its own cluster, since no
    patient is named.
    """
    projections = _frontal_images(source)
    for where, row in source.records():
        name = fields.name(row, "uid", where)
        terms = [term.strip() for term in (row.get("MeSH") or "").split(";") if term.strip()]
        facts = {}
        for term in terms:
            condition, *qualifiers = [part.strip() for part in term.split("/")]
            if condition.lower() in ("normal", "no indexing"):
                continue
            levels: set[Literal[1, 2, 3]] = {SEVERITIES[word] for word in qualifiers if word in SEVERITIES}
            facts[condition] = Fact(
                state="present",
                location=tuple(word for word in qualifiers if word not in SEVERITIES),
                severity=levels.pop() if len(levels) == 1 else None,
            )
        if not facts:
            yield LeftOut(where, "the report names no finding")
            continue
        image = projections.get(name)
        with fields.checked(where):
            yield FactsRecord(id=name, image=folder.find(image) if image else None, group=name, facts=facts)


def _frontal_images(source: Source) -> dict[str, str]:
    """The first frontal image of each report, from the table beside the reports, if it is there."""
    from ...io.tables import read_table

    path = source.path.parent / "indiana_projections.csv"
    found: dict[str, str] = {}
    for line, row in read_table(path) if path.is_file() else ():
        if row.get("projection", "").lower() == "frontal":
            found.setdefault(fields.name(row, "uid", f"{path}:{line}"), row.get("filename", ""))
    return found


READERS = (Reader("open-i", "Open-i / IU X-ray: findings by MeSH term", _matches, _records),)
