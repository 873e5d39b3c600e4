"""Writes a phantom data set: films as PNG, pairs, claim sets, multiple choice and captions as JSONL, a manifest."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...arguments import explains_arguments
from ...errors import OptionError
from ...io.folders import check_folder, write_folder
from . import questions
from .drawing import SIZE, draw, to_uint8
from .facts import CONDITIONS, Facts, hidden, sample_facts

GENERATOR = "tracescribe.phantom/1"
"""Version of everything that decides a data set's bytes; it changes when films or texts of a seed change."""
FILES = ("pairs.jsonl", "claims.jsonl", "mcq.jsonl", "captions.jsonl")
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}
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
        return f"film{self.index:05d}"

    @property
    def group(self) -> str:
        return f"patient{self.patient:05d}"

    @property
    def image(self) -> str:
        """Path of the film relative to the data set's folder."""
        return f"images/{self.id}.png"


def studies(n: int, seed: int) -> list[Study]:
    """The first n films of a seed: patients with one to three films each, split by patient.

    A patient's films share the anatomy, and findings tend to persist, so that films of one group are correlated as
    real ones are.
    """
    rng = np.random.default_rng([seed, _STREAM])
    out: list[Study] = []
    patient = -1
    while len(out) < n:
        patient += 1
        split = str(rng.choice(list(SPLITS), p=list(SPLITS.values())))
        facts: Facts | None = None
        for _ in range(int(rng.integers(1, 4))):
            facts = _follow_up(facts, rng)
            i = len(out)
            out.append(Study(i, patient, split, facts, (seed, _STREAM, i), (seed, _STREAM + 1, patient)))
    return out[:n]


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


def records(found: list[Study], seed: int) -> dict[str, list[dict[str, Any]]]:
    """The lines of every JSONL file, by file name.

    pairs.jsonl leaves out the films of the test split: layer weights derived from a trace must not have seen them.
    """
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    for study in found:
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
    return out


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

    The folder appears when everything is written, or not at all.

    Args:
        folder: must not exist, or be empty, or hold an earlier data set of this kind and nothing else (``overwrite``).
        size: film size in pixels; the miniature reads 64, people like 256 better.
        overwrite: replace an earlier data set.
        progress: called with the number of films drawn so far.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
        OptionError: n < 1, size < 16 or seed < 0.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     sorted(p.name for p in build_phantom(Path(parent) / "set", n=2).iterdir())
    ['captions.jsonl', 'claims.jsonl', 'images', 'manifest.json', 'mcq.jsonl', 'pairs.jsonl']
    """
    if n < 1:
        raise OptionError(f"a data set needs at least one film, got n={n}")
    if size < 16:
        raise OptionError(f"a film needs at least 16 pixels per side, got size={size}")
    if seed < 0:
        raise OptionError(f"a seed is at least 0, got seed={seed}")
    facts: dict[str, Any] = {"n": n, "seed": seed, "size": size}
    # not flushed file by file: thousands of films are made again faster than a disk confirms them
    with write_folder(folder, GENERATOR, overwrite=overwrite, facts=facts, sync=False) as work:
        facts["counts"] = _write(work, n, seed, size, progress)
    return Path(folder)


def check_phantom(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The folder, if a data set can be written there; raises OutputError otherwise."""
    return check_folder(folder, GENERATOR, overwrite=overwrite)


def _write(folder: Path, n: int, seed: int, size: int, progress: Callable[[int], None] | None) -> dict[str, int]:
    """Write films and records; the number of records by file."""
    found = studies(n, seed)
    (folder / "images").mkdir()
    for study in found:
        film = to_uint8(draw(study.facts, study.seed, size=size, patient=study.patient_seed))
        (folder / study.image).write_bytes(_png(film))
        if progress is not None:
            progress(study.index + 1)
    lines = records(found, seed)
    for name, rows in lines.items():
        (folder / name).write_bytes("".join(_json_lines(rows)).encode())
    return {name: len(rows) for name, rows in lines.items()}


def _json_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _png(film: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    # No metadata and a fixed compression level: the bytes depend on the pixels alone.
    Image.fromarray(film).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
