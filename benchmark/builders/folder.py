"""Writes built data sets: records streamed to JSON lines, a datasheet, a manifest; completely or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ...arguments import explains_arguments
from ...errors import DataFormatError
from ...io.atomic import write_atomically
from ...io.folders import check_folder, write_folder
from ...validation import Nothing, Whole, check_option
from ..readers.dataset import iterate
from ..readers.images import ImageFolder
from ..readers.registry import LeftOut, reader_for
from ..readers.source import Source
from ..records import FactsRecord
from .contextual import caption_items, contextual_items
from .mednega import PER_STUDY, mednega_items
from .pairs import pair_items
from .rewriting import Rewriter

__all__ = ["build_contextual", "build_mednega", "read_facts", "write_pairs"]

MEDNEGA, CONTEXTUAL = "tracescribe.mednega/1", "tracescribe.contextual/1"
Progress = Callable[[int], None]


def read_facts(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    report: dict[str, int] | None = None,
) -> Iterator[FactsRecord]:
    """Labels of a published file, one record after another; what is left out is counted in ``report``.

    Raises:
        DataFormatError: the file holds no labels, or a record is not as its format says.
    """
    source = Source(path)
    reader = reader_for(source, format)
    folder = ImageFolder(Path(path).parent if images is None else images)
    counts = report if report is not None else {}
    for item in iterate(source, reader, folder):
        if isinstance(item, LeftOut):
            counts[item.why] = counts.get(item.why, 0) + 1
        elif isinstance(item, FactsRecord):
            yield item
        else:
            raise DataFormatError(
                f"{path} ({reader.name}) holds {type(item).__name__}, no labels by condition: build from CheXpert, "
                f"MIMIC-CXR-JPG, CAD-Chest, TAIX-Ray, Open-i or tracescribe's facts"
            )


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
        limit: the most items; whole blocks of four.
        rewriter: rewords the statements; equal bytes then also need its cache.
        progress: called with the number of items written so far.

    Raises:
        DataFormatError: the file holds no labels, or no item can be made of them.
        RewriterError: the rewriter's endpoint refuses or is down.
        OutputError: the folder holds something else, or cannot be written.
    """
    check_folder(folder, MEDNEGA, overwrite=overwrite)
    report: dict[str, int] = {}
    records = read_facts(labels, images, format=format, report=report)
    items = mednega_items(records, seed=seed, per_study=per_study, report=report, reword=rewriter)
    root = Path(labels).parent if images is None else Path(images)
    title = "Multiple choice about chest radiographs, with and without negation (the form of MedNega-CXR)"
    files = {"mcq.jsonl": _first(items, limit)}
    return _build(folder, MEDNEGA, files, labels, root, seed, report, title, overwrite, progress, rewriter)


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
    report: dict[str, int] = {}
    claims = contextual_items(read_facts(labels, images, format=format, report=report), seed=seed, report=report)
    captions = caption_items(read_facts(labels, images, format=format), seed=seed)
    files = {"claims.jsonl": _first(claims, limit), "captions.jsonl": _first(captions, limit)}
    title = "Contrast sets of claims about existence, severity and side, and captions with explicit negation"
    root = Path(labels).parent if images is None else Path(images)
    return _build(folder, CONTEXTUAL, files, labels, root, seed, report, title, overwrite, progress)


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
) -> dict[str, int]:
    """Tracing pairs of equally many tokens (.jsonl) from labels; their number ("pairs"), and what was left out and why.

    Raises:
        DataFormatError: the file holds no labels, or no pair can be made of them.
        OutputError: the file cannot be written.
    """
    report: dict[str, int] = {}
    records = read_facts(labels, images, format=format, report=report)
    root = Path(labels).parent if images is None else Path(images)
    written = 0
    with write_atomically(path) as out:
        for item in _first(pair_items(records, count_tokens, seed=seed, report=report), limit):
            out.write(json.dumps(_relative(item, root), ensure_ascii=False) + "\n")
            written += 1
        if not written:
            raise DataFormatError(f"no pair can be made of {str(labels)!r} ({report or 'it is empty'})")
    return {"pairs": written, **report}


def _first(items: Iterable[dict[str, Any]], limit: int | None) -> Iterator[dict[str, Any]]:
    """At most ``limit`` items, in whole blocks of four."""
    check_option("limit", limit, (Nothing(), Whole(4)))
    return islice(items, None if limit is None else limit // 4 * 4)


def _build(
    folder: str | os.PathLike[str],
    name: str,
    files: Mapping[str, Iterable[dict[str, Any]]],
    labels: str | os.PathLike[str],
    root: Path,
    seed: int,
    report: dict[str, int],
    title: str,
    overwrite: bool,
    progress: Progress | None,
    rewriter: Rewriter | None = None,
) -> Path:
    facts: dict[str, Any] = {"source": Path(labels).name, "seed": seed}
    counts: dict[str, Counter[str]] = {}
    done = 0
    with write_folder(folder, name, overwrite=overwrite, facts=facts) as work:
        for file, items in files.items():
            counts[file] = Counter()
            with (work / file).open("w", encoding="utf-8", newline="\n") as out:
                for item in items:
                    out.write(json.dumps(_relative(item, root), ensure_ascii=False) + "\n")
                    counts[file].update(_kinds(item))
                    done += 1
                    if progress is not None and done % 1000 == 0:
                        progress(done)
        if not all(count["records"] for count in counts.values()):
            empty = next(file for file, count in counts.items() if not count["records"])
            why = "; ".join(f"{why}: {count}" for why, count in report.items()) or "it is empty"
            raise DataFormatError(f"nothing for {empty} can be made of {str(labels)!r} ({why})")
        facts |= {"counts": {file: dict(sorted(count.items())) for file, count in counts.items()}, "left_out": report}
        if rewriter is not None:
            facts["rewriter"] = {"model": rewriter.model, **rewriter.counts}
        (work / "DATASHEET.md").write_text(_datasheet(title, facts), encoding="utf-8")
    return Path(folder)


def _relative(item: dict[str, Any], root: Path) -> dict[str, Any]:
    """Images by their path in the folder of images, which every machine has elsewhere."""
    image = item.get("image")
    return item if image is None else {**item, "image": Path(image).relative_to(root).as_posix()}


def _kinds(item: Mapping[str, Any]) -> Iterator[str]:
    yield "records"
    yield f"split {item['split']}"
    if item.get("image") is None:
        yield "without image"
    for key in ("attribute", "polarity"):
        if key in item:
            yield f"{key} {item[key]}"


def _datasheet(title: str, facts: Mapping[str, Any]) -> str:
    """What a user of the data set has to know (after Gebru et al. 2021, arXiv 1803.09010)."""
    lines = [
        f"# {title}",
        "",
        f"Made by tracescribe from the labels in `{facts['source']}` with seed {facts['seed']}. It holds no report "
        "text and no image: images are named by their path in the source's folder (`--images` says where that is), and "
        "each user needs the source's own licence for them.",
        "",
        "## Contents",
        "",
        "| file | what | records |",
        "|---|---|---:|",
    ]
    for file, counts in facts["counts"].items():
        lines += [f"| {file} | {kind} | {count} |" for kind, count in counts.items()]
    lines += ["", "## Left out, and why", ""]
    lines += [f"- {why}: {count}" for why, count in facts["left_out"].items()] or ["- nothing"]
    lines += [
        "",
        "## How it was made, and what follows",
        "",
        "- Only conditions labelled as certainly present or certainly absent are mentioned. Labels that were extracted "
        "from reports by rules or models have errors, and so have these statements.",
        "- Each set of options is asked of as many images as it has options, each with another right one, in the same "
        "words: text without the image scores at chance.",
        "- All images of a patient are in one split: the source's own, where it has one.",
        f"- Sentences come from templates{_reworded(facts)}. They test negation, severity and side, not the language "
        "of real reports.",
        "- It is made for research on models. It is no means of diagnosis.",
        "",
    ]
    return "\n".join(lines)


def _reworded(facts: Mapping[str, Any]) -> str:
    if "rewriter" not in facts:
        return ""
    counts = dict(facts["rewriter"])
    model = counts.pop("model")
    return (
        f", reworded by the model {model} where a parser found the same facts ("
        + ", ".join(f"{what}: {count}" for what, count in counts.items())
        + ")"
    )
