"""Folders that are read as a whole, of which one file is damaged: runs, adapters, caches, models."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from models import transformers_model

import tracescribe as ts
from fuzz.files import sealed_record
from fuzz.odd import as_json, damaged, mutated
from fuzz.options import model, pairs, trainable
from fuzz.works import a_study, an_atlas, some_data, with_films, with_pairs
from tracescribe.atlas import read_atlas, run_atlas
from tracescribe.finetune import TrainConfig, load_lora, load_run, read_study_result, run_study, train
from tracescribe.tracer.run.cache import Shard, Store


@dataclass(frozen=True)
class Kind:
    """One kind of folder: how it is made, how it is read, and which of its files are damaged.

    seal: makes the folder's checksums fit again after a file was changed; None where it has none.
    """

    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    quick: int = 20
    slowdown: int = 4
    seal: Callable[[Path], None] | None = None

    def inputs(self, folder: Path) -> st.SearchStrategy[tuple[str, bytes]]:
        """A file's name, and what it holds in place of what was written."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return st.one_of([st.tuples(st.just(str(path.relative_to(folder))), _of(path)) for path in files])


def _of(path: Path) -> st.SearchStrategy[bytes]:
    content = path.read_bytes()
    if path.suffix != ".json" or len(content) > 20_000:
        return damaged(content)
    return st.one_of(mutated(json.loads(content)).map(as_json), damaged(content))


def make_run(folder: Path) -> None:
    train(TrainConfig(steps=1, batch_size=2, rank=1), model(), data=some_data()).save(folder)


STOPPED = TrainConfig(steps=2, batch_size=2, rank=1, checkpoint_every=1)


def make_checkpoint(folder: Path) -> None:
    train(STOPPED, model(), data=some_data(), checkpoints=folder, progress=False)


def resume(folder: Path) -> None:
    """Nothing is left to do, so that nothing is written."""
    train(STOPPED, model(), data=some_data(), checkpoints=folder, resume=True, progress=False)


def seal_run(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["sha256"]}
    path.write_text(json.dumps({**manifest, "sha256": files}))


def make_cache(folder: Path) -> None:
    Store(folder).write(["a", "b"], _shard())


@cache
def _shard() -> Shard:
    rows = np.eye(2, dtype=np.float32)
    return Shard(rows, rows, np.ones((2, 3, 4, 2), np.float32))


def read_cache(folder: Path) -> None:
    """What is read is what was written, or nothing."""
    for keys in (["a", "b"], ["b"]):
        found = Store(folder).read(keys)
        rows = slice(2 - len(keys), 2)
        assert found is None or np.array_equal(found.patched, _shard().patched[rows])


def trace_with_cache(folder: Path) -> None:
    """A damaged cache is said, and changes no number."""
    trace = ts.trace(model(), pairs(), cache=folder, floor=0, progress=False)
    np.testing.assert_array_equal(trace.scores.patched, _without_cache())


@cache
def _without_cache() -> np.ndarray:
    return ts.trace(model(), pairs(), floor=0, progress=False).scores.patched


def make_model(folder: Path) -> None:
    from transformers import BertTokenizer

    transformers_model().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "edema", "."]))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)


def read_lora(folder: Path) -> None:
    load_lora(deepcopy(trainable()), folder)


def make_adapter(folder: Path) -> None:
    make_run(folder.with_name("run"))
    shutil.copytree(folder.with_name("run") / "adapter", folder)
    shutil.rmtree(folder.with_name("run"))


def make_atlas(folder: Path) -> None:
    with contextlib.chdir(folder.parent):
        with_pairs(folder.parent)
        run_atlas(an_atlas(), folder)


def use_atlas(folder: Path) -> None:
    """An atlas that is read can be shown."""
    atlas = read_atlas(folder)
    atlas.summary()
    atlas.agreements()


def make_study(folder: Path) -> None:
    films = folder.with_name("films")
    films.mkdir()
    with_films(films)
    with contextlib.chdir(films):
        run_study(a_study(), folder, progress=False)


def use_study(folder: Path) -> None:
    """A study that is read can be shown."""
    result = read_study_result(folder)
    result.table()
    result.as_text()


def seal_records(folder: Path) -> None:
    """Every JSON file says the checksum of what it holds."""
    for path in folder.rglob("*.json"):
        with contextlib.suppress(ValueError, RecursionError):
            path.write_bytes(sealed_record(json.loads(path.read_bytes())))


KINDS: dict[str, Kind] = {
    "run": Kind(make_run, lambda folder: load_run(model(), folder), slowdown=2),
    "run with checksums that fit": Kind(make_run, lambda folder: load_run(model(), folder), 40, seal=seal_run),
    "checkpoint": Kind(make_checkpoint, resume, 8, 20),
    "checkpoint with checksums that fit": Kind(make_checkpoint, resume, 16, 20, seal_run),
    "adapter": Kind(make_adapter, read_lora, 40),
    "cache": Kind(make_cache, read_cache, 60, 1),
    "cache of a trace": Kind(lambda folder: ts.trace(model(), pairs(), cache=folder, progress=False), trace_with_cache),
    "atlas": Kind(make_atlas, use_atlas),
    "atlas with checksums that fit": Kind(make_atlas, use_atlas, 40, seal=seal_records),
    "study": Kind(make_study, use_study),
    "study with checksums that fit": Kind(make_study, use_study, 60, seal=seal_records),
    "hf: folder": Kind(make_model, lambda folder: ts.load(f"hf:{folder}"), 15, 6),
}
