"""Open-i (Indiana University chest X-rays): reports with MeSH terms such as ``Pleural Effusion/bilateral/small``.

A term is a finding that is present. A report that its coders called ``normal`` has no finding (Demner-Fushman et al.
2016): of each of `ABSENT_IF_NORMAL` it says that it is absent. Of other reports nothing says what is absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ..records import Fact, FactsRecord
from . import fields
from .cad_chest import SEVERITIES
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

ABSENT_IF_NORMAL = (
    "Cardiomegaly",
    "Consolidation",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "Pulmonary Atelectasis",
    "Pulmonary Congestion",
    "Pulmonary Edema",
    "Opacity",
    "Nodule",
)
"""MeSH terms of Open-i that the builders' lexicon knows, devices and bones excepted: a normal chest may have those."""

NEEDS = ("uid", "MeSH")


def _matches(source: Source) -> bool:
    return source.kind in ("table", "reports") and source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[FactsRecord | LeftOut]:
    """One record per report; terms that name one finding twice ("left", then "right") are one fact.

    Images are listed in a table of their own (``indiana_projections.csv``), which says which of them is frontal; the
    XML does not, so that without the table only the image of a report that has one is taken. A report is its own
    cluster, since no patient is named.
    """
    projections = _frontal_images(source)
    for where, row in source.records():
        name = fields.name(row, "uid", where)
        terms = [term.strip() for term in fields.text_or(row, "MeSH", where, "").split(";") if term.strip()]
        facts = _facts(terms)
        if [term.lower() for term in terms] == ["normal"]:
            facts = dict.fromkeys(ABSENT_IF_NORMAL, Fact(state="absent"))
        if not facts:
            yield LeftOut(where, "the report names no finding")
            continue
        listed = row.get("images") or []  # of the XML, without ending
        image = projections.get(name) or (f"{listed[0]}.png" if len(listed) == 1 else None)
        with fields.checked(where):
            yield FactsRecord(id=name, image=folder.find(image) if image else None, group=name, facts=facts)


def _facts(terms: Sequence[str]) -> dict[str, Fact]:
    """What the terms of a report say, by condition; "borderline" leaves a condition uncertain."""
    qualifiers: dict[str, list[list[str]]] = {}
    for term in terms:
        condition, *words = [part.strip() for part in term.split("/")]
        if condition.lower() not in ("normal", "no indexing", ""):
            qualifiers.setdefault(condition, []).append([word.lower() for word in words])
    facts = {}
    for condition, mentions in qualifiers.items():
        levels = {_severity(words) for words in mentions}
        words = [word for mention in mentions for word in mention]
        facts[condition] = Fact(
            state="uncertain" if all("borderline" in mention for mention in mentions) else "present",
            location=tuple(dict.fromkeys(word for word in words if word not in (*SEVERITIES, "borderline"))),
            severity=levels.pop() if len(levels) == 1 else None,  # else one of its places has another, or none
        )
    return facts


def _severity(words: Sequence[str]) -> Literal[1, 2, 3] | None:
    levels: set[Literal[1, 2, 3]] = {SEVERITIES[word] for word in words if word in SEVERITIES}
    return levels.pop() if len(levels) == 1 else None


def _frontal_images(source: Source) -> dict[str, str]:
    """The first frontal image of each report, from the table beside the reports, if it is there."""
    from ...io.tables import read_table

    path = source.path.parent / "indiana_projections.csv"
    found: dict[str, str] = {}
    for line, row in read_table(path) if path.is_file() else ():
        if row.get("projection", "").lower() == "frontal":
            found.setdefault(fields.name(row, "uid", f"{path}:{line}"), row.get("filename", ""))
    return found


READERS = (Reader("open-i", "Open-i / IU X-ray: findings by MeSH term", _matches, _records, NEEDS),)
