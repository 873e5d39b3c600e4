"""Writes built data sets: records streamed to JSON lines, a datasheet, a manifest; completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...arguments import explains_arguments
from ...errors import DataFormatError
from ...io.atomic import ensure_writable, write_atomically
from ...io.folders import check_folder, file_hash, write_folder
from ...io.quoting import shown
from ...io.reading import is_file
from ...validation import Nothing, Whole, check_option
from ..readers.dataset import iterate
from ..readers.images import ImageFolder
from ..readers.registry import LeftOut, reader_for
from ..readers.source import Source
from ..readers.studies import tables_beside
from ..records import LETTERS, FactsRecord
from .balance import Blocks, Study, count_one
from .contextual import caption_items, contextual_items
from .datasheet import datasheet
from .mednega import PER_STUDY, mednega_items
from .pairs import pair_items, tokenizer_identity
from .rewriting import Rewriter
from .unfinished import EVERY, Unfinished

__all__ = ["build_contextual", "build_mednega", "read_facts", "write_pairs"]

Items = Iterator[dict[str, Any]]
Maker = Callable[[Iterator[FactsRecord], Blocks[Study], dict[str, int]], Items]
MEDNEGA, CONTEXTUAL, PAIRS = "tracescribe.mednega/1", "tracescribe.contextual/1", "tracescribe.pairs/1"
Progress = Callable[[int], None]


def read_facts(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    report: dict[str, int] | None = None,
    start: int = 0,
    passed: Callable[[int], None] | None = None,
) -> Iterator[FactsRecord]:
    """Labels of a published file, one record after another; what is left out is counted in ``report``.

    An image that is not in the folder keeps the path that it would have there. A study that is given twice, with the
    same labels, is taken once.

    Args:
        start: how many records of the file are passed over.
        passed: called with the number of records that are done, before the next one is given.

    Raises:
        DataFormatError: the file holds no labels, a record is not as its format says, or one study is given twice with
            different labels.
    """
    source = Source(path)
    reader = reader_for(source, format)
    folder = ImageFolder(Path(path).parent if images is None else images, keep_missing=True)
    counts = report if report is not None else {}
    seen: dict[int, int] = {}  # of a record's name and of what it says, the hashes: a file has millions
    for number, item in enumerate(iterate(source, reader, folder)):
        again = isinstance(item, FactsRecord) and _is_again(item, seen, path)
        if number < start:
            continue
        if passed is not None:
            passed(number)
        if isinstance(item, LeftOut) or again:
            why = item.why if isinstance(item, LeftOut) else "given twice, with the same labels"
            count_one(counts, why)
        elif isinstance(item, FactsRecord):
            yield item
        else:
            raise DataFormatError(
                f"{path} ({reader.name}) holds {type(item).__name__}, no labels by condition: build from CheXpert, "
                f"MIMIC-CXR-JPG, CAD-Chest, TAIX-Ray, Open-i or tracescribe's facts"
            )


def _is_again(record: FactsRecord, seen: dict[int, int], path: str | os.PathLike[str]) -> bool:
    """Whether the same was said of the same study before."""
    facts = ((name, fact.state, fact.location, fact.severity) for name, fact in record.facts.items())
    name, said = hash(record.id), hash((record.group, *facts))
    if name not in seen:
        seen[name] = said
        return False
    if seen[name] != said:
        raise DataFormatError(f"{path}: {shown(record.id)} is given twice, with different labels")
    return True


@explains_arguments
def build_mednega(
    labels: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    format: str | None = None,
    seed: int = 0,
    per_study: int = PER_STUDY,
    limit: int | None = None,
    rewriter: Rewriter | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Multiple choice (mcq.jsonl) from labels, in a new folder with a datasheet; equal arguments give equal bytes.

    Args:
        labels: a file of labels that `tracescribe.read` knows.
        images: the folder in which the labels' images are; by default that of the file.
        limit: the most items; complete blocks of four.
        rewriter: rewords the statements; equal bytes then also need its cache.
        progress: called with the number of items written so far.

    Raises:
        DataFormatError: the file holds no labels, or no item can be made of them.
        RewriterError: the rewriter's endpoint refuses or is down.
        OutputError: the folder holds something else, or cannot be written.
    """
    check_folder(folder, MEDNEGA, overwrite=overwrite)
    seed = check_option("seed", seed, (Whole(0),))
    per_study = check_option("per_study", per_study, (Whole(1, 64),))

    def items(records: Iterator[FactsRecord], blocks: Blocks[Study], report: dict[str, int]) -> Items:
        return mednega_items(records, seed=seed, per_study=per_study, report=report, blocks=blocks, reword=rewriter)

    title = "Multiple choice about chest radiographs, with and without negation (the form of MedNega-CXR)"
    source = _Labels(labels, images, format, seed, limit, {"per_study": per_study})
    return _build(folder, MEDNEGA, {"mcq.jsonl": items}, source, title, overwrite, progress, rewriter)


@explains_arguments
def build_contextual(
    labels: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    format: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Claim sets (claims.jsonl) and captions with a negation (captions.jsonl) from labels; see `build_mednega`."""
    check_folder(folder, CONTEXTUAL, overwrite=overwrite)
    seed = check_option("seed", seed, (Whole(0),))

    def claims(records: Iterator[FactsRecord], blocks: Blocks[Study], report: dict[str, int]) -> Items:
        return contextual_items(records, seed=seed, report=report, blocks=blocks)

    def captions(records: Iterator[FactsRecord], blocks: Blocks[Study], report: dict[str, int]) -> Items:
        return caption_items(records, seed=seed)

    title = "Contrast sets of claims about existence, severity and side, and captions with explicit negation"
    files = {"claims.jsonl": claims, "captions.jsonl": captions}
    source = _Labels(labels, images, format, seed, limit, {})
    return _build(folder, CONTEXTUAL, files, source, title, overwrite, progress)


@explains_arguments
def write_pairs(
    labels: str | os.PathLike[str],
    path: str | os.PathLike[str],
    count_tokens: Callable[[str], int],
    *,
    images: str | os.PathLike[str] | None = None,
    format: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    with_test: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Tracing pairs of equally many tokens (.jsonl) from labels; their number ("pairs"), and what was left out and why.

    Args:
        count_tokens: tokens of a text, special ones included.
        with_test: also pairs about images of the test split, which layer weights from a trace must not have seen.
        progress: called with the number of pairs written so far.

    Raises:
        DataFormatError: the file holds no labels, or no pair can be made of them.
        OutputError: the file cannot be written.
    """
    seed = check_option("seed", seed, (Whole(0),))
    ensure_writable(path)

    def items(records: Iterator[FactsRecord], blocks: Blocks[Study], report: dict[str, int]) -> Items:
        return pair_items(records, count_tokens, seed=seed, with_test=with_test, report=report)

    options = {"with_test": with_test, "tokenizer": tokenizer_identity(count_tokens)}
    source = _Labels(labels, images, format, seed, limit, options)
    with Unfinished(path, source.identity(PAIRS, None)) as unfinished:
        counts, report = _write(unfinished, "pairs.jsonl", items, source, progress, None)
        _check_some({"pairs": counts}, report, source)
        with write_atomically(path, binary=True) as out, (unfinished.folder / "pairs.jsonl").open("rb") as made:
            shutil.copyfileobj(made, out)
    return {"pairs": counts["records"], **report}


@dataclass(frozen=True)
class _Labels:
    """What a set is built from.

    Raises:
        OptionError: ``limit`` is no whole number of at least one block.
    """

    path: str | os.PathLike[str]
    images: str | os.PathLike[str] | None
    format: str | None
    seed: int
    limit: int | None
    more: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", check_option("limit", self.limit, (Nothing(), Whole(4))))

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""
        return Path(self.path).parent if self.images is None else Path(self.images)

    def identity(self, name: str, rewriter: Rewriter | None) -> dict[str, Any]:
        """What an unfinished build must have been made from to be gone on with."""
        options = {"format": self.format, "seed": self.seed, "limit": self.limit, **self.more}
        model = None if rewriter is None else rewriter.model
        labels = file_hash(Path(self.path)) if is_file(self.path) else None  # what is no file is refused by its reader
        tables = {str(table): file_hash(table) for table in tables_beside(Path(self.path), self.root) if is_file(table)}
        made_by = {"builder": name, "version": version("tracescribe"), "rewriter": model}
        return {**made_by, "labels": labels, "tables": tables, "images": str(self.root), **options}


def _build(
    folder: str | os.PathLike[str],
    name: str,
    files: Mapping[str, Maker],
    source: _Labels,
    title: str,
    overwrite: bool,
    progress: Progress | None,
    rewriter: Rewriter | None = None,
) -> Path:
    facts: dict[str, Any] = {"source": Path(source.path).name, "seed": source.seed}
    reports: dict[str, dict[str, int]] = {}
    counts: dict[str, Counter[str]] = {}
    with Unfinished(folder, source.identity(name, rewriter)) as unfinished:
        for file, make in files.items():
            counts[file], reports[file] = _write(unfinished, file, make, source, progress, rewriter)
        report = next(iter(reports.values()))  # all files are made of the same records
        _check_some(counts, report, source)
        made_from = source.identity(name, rewriter)
        facts |= {
            "version": made_from["version"],
            "labels_sha256": made_from["labels"],
            "labels_format": reader_for(Source(source.path), source.format).name,
        }
        facts |= {"counts": {file: dict(sorted(count.items())) for file, count in counts.items()}, "left_out": report}
        if rewriter is not None:
            facts["rewriter"] = {"model": rewriter.model, **rewriter.counts}
        with write_folder(folder, name, overwrite=overwrite, facts=facts) as work:
            for file in files:
                unfinished.hand_over(file, work)
            (work / "DATASHEET.md").write_text(datasheet(title, facts), encoding="utf-8")
    return Path(folder)


def _check_some(counts: Mapping[str, Mapping[str, int]], report: Mapping[str, int], source: _Labels) -> None:
    """Refuse labels of which some file would be empty; says what was left out."""
    empty = next((file for file, count in counts.items() if not count["records"]), None)
    if empty is not None:
        why = "; ".join(f"{why}: {count}" for why, count in report.items()) or "it is empty"
        raise DataFormatError(f"nothing for {empty} can be made of {str(source.path)!r} ({why})")


def _write(
    unfinished: Unfinished,
    file: str,
    make: Maker,
    source: _Labels,
    progress: Progress | None,
    rewriter: Rewriter | None,
) -> tuple[Counter[str], dict[str, int]]:
    """Write one file, from where it was left; counts of its records and of what was left out."""
    saved = unfinished.files.get(file, {"position": 0, "bytes": {file: 0}, "counts": {}, "report": {}, "done": False})
    counts, report, blocks = Counter[str](saved["counts"]), dict(saved["report"]), Blocks[Study]()
    if "blocks" in saved:
        blocks.restore(saved["blocks"], Study)
    if rewriter is not None:
        rewriter.counts.update(saved.get("rewriter", {}))
    if saved["done"]:
        return counts, report
    with unfinished.open(file, saved["bytes"][file]) as out:

        def keep(position: int, done: bool = False) -> None:
            out.flush()
            os.fsync(out.fileno())
            reworded = {} if rewriter is None else {"rewriter": rewriter.counts}
            known = {"position": position, "counts": counts, "report": report, "done": done, "blocks": blocks.state()}
            unfinished.keep(file, {file: out.tell()}, **known, **reworded)

        def passed(position: int) -> None:
            if position > saved["position"] and position % EVERY == 0:
                keep(position)

        records = read_facts(
            source.path,
            source.images,
            format=source.format,
            report=report,
            start=saved["position"],
            passed=passed,
        )
        left = None if source.limit is None else source.limit - counts["records"]
        for item in _complete(make(records, blocks, report), left):
            out.write(json.dumps(_relative(item, source.root), ensure_ascii=False).encode() + b"\n")
            counts.update(_kinds(item))
            if progress is not None and counts["records"] % 1000 == 0:
                progress(counts["records"])
        if counts["records"] >= EVERY:
            keep(saved["position"], done=True)
    return counts, report


def _complete(items: Items, most: int | None) -> Items:
    """Items up to a number of them, without the block that would exceed it: text tells the answers of a cut one."""
    written, last = 0, None
    for item in items:
        block = item["provenance"].get("block")
        size = 1 if block is None else len(item.get("claims", LETTERS))
        if most is not None and (block is None or block != last) and written + size > most:
            return
        yield item
        written, last = written + 1, block
        if written == most:
            return


def _relative(item: dict[str, Any], root: Path) -> dict[str, Any]:
    """Images by their path in the folder of images, which every machine has elsewhere."""
    image = item.get("image")
    return item if image is None else {**item, "image": Path(image).relative_to(root).as_posix()}


def _kinds(item: Mapping[str, Any]) -> Iterator[str]:
    yield "records"
    yield f"split {item['split']}"
    image = item.get("image")
    if image is None or not Path(image).is_file():
        yield "image missing"
    for key in ("attribute", "polarity"):
        if key in item:
            yield f"{key} {item[key]}"
