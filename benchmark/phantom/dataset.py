"""Writes a phantom data set: films as PNG; pairs, claims, multiple choice, captions, labels as JSONL; a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import explains_arguments
from ...io.folders import check_folder, write_folder
from ...io.places import refusing
from ...validation import Whole, check_option
from ..builders.unfinished import Unfinished
from . import questions
from .drawing import SIZE, draw, to_uint8
from .facts import CONDITIONS, SEVERITIES, Facts, hidden, sample_facts

GENERATOR = "tracescribe.phantom/1"
"""Version of everything that decides a data set's bytes; it changes when films or texts of a seed change."""
FILES = ("pairs.jsonl", "claims.jsonl", "mcq.jsonl", "captions.jsonl", "facts.jsonl")
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}
EVERY = 1000  # films between two savings
_KEEP = 0.6  # probability that a patient's next film keeps a condition's state
_STREAM = 1_000_003  # larger than any film number of pretraining, so that no data set repeats a training film


@dataclass(frozen=True)
class Study:
    """One film of one patient with everything that is true of it."""

    index: int
    patient: int
    split: str
    facts: Facts
    seed: tuple[int, ...]
    patient_seed: tuple[int, ...]

    @property
    def id(self) -> str:
        return _film(self.index)

    @property
    def group(self) -> str:
        return f"patient{self.patient:05d}"

    @property
    def image(self) -> str:
        """Path of the film relative to the data set's folder."""
        return _image(self.index)


def _film(index: int) -> str:
    return f"film{index:05d}"


def _image(index: int) -> str:
    return f"images/{_film(index)}.png"


def studies(n: int, seed: int) -> list[Study]:
    """The first n films of a seed: patients with one to three films each, split by patient.

    A patient's films share the anatomy, and findings tend to persist, so that films of one group are correlated as
    real ones are.
    """
    return list(islice(_studies(seed), n))


def _studies(seed: int) -> Iterator[Study]:
    rng = np.random.default_rng([seed, _STREAM])
    i = 0
    for patient in count():
        split = str(rng.choice(list(SPLITS), p=list(SPLITS.values())))
        facts: Facts | None = None
        for _ in range(int(rng.integers(1, 4))):
            facts = _follow_up(facts, rng)
            yield Study(i, patient, split, facts, (seed, _STREAM, i), (seed, _STREAM + 1, patient))
            i += 1


def _follow_up(before: Facts | None, rng: np.random.Generator) -> Facts:
    if before is None:
        return sample_facts(rng)
    while True:
        fresh = sample_facts(rng)
        kept = [before if rng.random() < _KEEP else fresh for _ in CONDITIONS]
        findings = [source.get(name) for source, name in zip(kept, CONDITIONS, strict=True)]
        facts = Facts(tuple(f for f in findings if f is not None))
        if not hidden(facts):
            return facts


def records(study: Study, seed: int) -> dict[str, list[dict[str, Any]]]:
    """A film's lines of every JSONL file, by file name.

    pairs.jsonl leaves out the films of the test split: layer weights derived from a trace must not have seen them.
    """
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    rng = np.random.default_rng([seed, _STREAM + 2, study.index])
    where = {"image": study.image, "group": study.group}
    if study.split != "test":
        for k, pair in enumerate(questions.pairs(study.facts, rng)):
            out["pairs.jsonl"].append({"id": f"{study.id}-p{k}", **pair, **where})
    for k, claims in enumerate(questions.claim_sets(study.facts, rng)):
        out["claims.jsonl"].append({"id": f"{study.id}-c{k}", **claims, **where, "split": study.split})
    item = questions.multiple_choice(study.facts, rng)
    if item is not None:
        ids = {"subject_id": study.group, "study_id": study.id}
        out["mcq.jsonl"].append({**ids, **item, **where, "split": study.split})
    words = questions.caption(study.facts, rng)
    out["captions.jsonl"].append({"id": study.id, **words, **where, "split": study.split})
    out["facts.jsonl"].append({"id": study.id, **where, "split": study.split, "facts": _labels(study.facts)})
    return out


def _labels(facts: Facts) -> dict[str, dict[str, Any]]:
    """Every condition as `tracescribe.benchmark.records.Fact` has it: what `tracescribe build` makes data sets from."""
    labels: dict[str, dict[str, Any]] = {name: {"state": "absent"} for name in facts.absent}
    for name in facts.present:
        finding = facts.get(name)
        assert finding is not None
        labels[name] = {"state": "present"}
        if finding.side is not None:
            labels[name]["location"] = [finding.side, *([] if finding.zone is None else [f"{finding.zone} zone"])]
        if finding.severity is not None:
            labels[name]["severity"] = 1 + SEVERITIES.index(finding.severity)
    return labels


@explains_arguments
def build_phantom(
    folder: str | os.PathLike[str],
    n: int = 1000,
    seed: int = 0,
    *,
    size: int = SIZE,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a data set of n films into a new folder; the same arguments give the same bytes.

    The folder appears when everything is written, or not at all. A build that is stopped leaves ``FOLDER.part``, where
    the same call goes on.

    Args:
        folder: must not exist, or be empty, or hold an earlier data set of this kind and nothing else (``overwrite``).
        size: film size in pixels; the miniature reads 64, people like 256 better.
        overwrite: replace an earlier data set.
        progress: called with the number of films drawn so far.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
        TraceError: n < 1, a size that is none from 16 to 4,096, or seed < 0.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     sorted(p.name for p in build_phantom(Path(parent) / "set", n=2).iterdir())
    ['captions.jsonl', 'claims.jsonl', 'facts.jsonl', 'images', 'manifest.json', 'mcq.jsonl', 'pairs.jsonl']
    """
    n, seed = (check_option(name, value, (Whole(least),)) for name, value, least in (("n", n, 1), ("seed", seed, 0)))
    size = check_option("size", size, (Whole(16, 4096),))
    check_phantom(folder, overwrite=overwrite)
    facts: dict[str, Any] = {"n": n, "seed": seed, "size": size}
    with Unfinished(folder, {"builder": GENERATOR, **facts}) as unfinished:
        counts = _write(unfinished, n, seed, size, progress)
        # not flushed file by file: thousands of films are made again faster than a disk confirms them
        with write_folder(folder, GENERATOR, overwrite=overwrite, facts=facts, sync=False) as work:
            for name in ("images", *FILES):
                unfinished.hand_over(name, work)
            facts["counts"] = counts
    return Path(folder)


def check_phantom(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder, if a data set can be written there; raises OutputError otherwise."""
    return check_folder(folder, GENERATOR, overwrite=overwrite)


def _write(
    unfinished: Unfinished, n: int, seed: int, size: int, progress: Callable[[int], None] | None
) -> dict[str, int]:
    """Write films and records, from where they were left; the number of records by file."""
    folder = unfinished.folder
    saved = unfinished.files.get("films")
    if saved is None or _digest(folder, saved["films"]) != saved["sha256"]:  # a film was lost with the system
        shutil.rmtree(folder / "images", ignore_errors=True)
        saved = {"films": 0, "sha256": "", "bytes": dict.fromkeys(FILES, 0), "records": dict.fromkeys(FILES, 0)}
    (folder / "images").mkdir(exist_ok=True)
    counts, digest = dict(saved["records"]), saved["sha256"]
    with ExitStack() as stack:
        files = {name: stack.enter_context(unfinished.open(name, size)) for name, size in saved["bytes"].items()}
        for study in islice(_studies(seed), saved["films"], n):
            film = _png(to_uint8(draw(study.facts, study.seed, size=size, patient=study.patient_seed)))
            with refusing(folder, "the folder "):
                (folder / study.image).write_bytes(film)
            digest = _chained(digest, film)
            for name, rows in records(study, seed).items():
                files[name].write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
                counts[name] += len(rows)
            done = study.index + 1
            if progress is not None:
                progress(done)
            if done % EVERY == 0 and done < n:
                for out in files.values():
                    out.flush()
                    os.fsync(out.fileno())
                written = {name: out.tell() for name, out in files.items()}
                unfinished.keep("films", written, films=done, sha256=digest, records=counts)
    return counts


def _digest(folder: Path, films: int) -> str | None:
    """What `_chained` gives for so many films on the disk; None where one is missing."""
    digest = ""
    for number in range(films):
        try:
            digest = _chained(digest, (folder / _image(number)).read_bytes())
        except OSError:
            return None
    return digest


def _chained(digest: str, film: bytes) -> str:
    return hashlib.sha256(digest.encode() + film).hexdigest()


def _png(film: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # No metadata and a fixed compression level: the bytes depend on the pixels alone.
    Image.fromarray(film).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
