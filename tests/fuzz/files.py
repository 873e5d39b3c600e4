"""A valid file of every kind that is read, what reads it, and how many inputs of it are tried."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import (
    synthetic_head_edges,
    synthetic_knock_out,
    synthetic_negator_attention,
    synthetic_neurons,
    synthetic_trace,
)
from dicoms import dicom
from hypothesis import strategies as st
from PIL import Image
from published import CAPTION, CLAIM, MCQ, PAIR, PUBLISHED, VALSE

import tracescribe as ts
from fuzz.guard import check_message
from fuzz.odd import as_json, damaged, mutated, values, words
from tracescribe.benchmark import read_captions, read_claims, read_items, read_mcq
from tracescribe.errors import TracescribeError
from tracescribe.finetune import load_plan, read_config
from tracescribe.finetune.study.config import read_study
from tracescribe.io.folders import read_folder
from tracescribe.io.tensors import CHECKSUM, TensorFile, read_tensors, write_tensors
from tracescribe.patching.loading.checkpoints import read_checkpoint
from tracescribe.patching.loading.images import read_image
from tracescribe.tracer import (
    TraceComparison,
    load_circuit,
    load_comparison,
    load_head_edges,
    load_knock_out,
    load_negator_attention,
    load_neurons,
)
from tracescribe.tracer.results.cells import MapCells

CONFIG_YAML = b"""model: phantom
data: {captions: c.jsonl, claims: d.jsonl, split: train}
optim: {lr: 0.003, batch_size: 8, optimizer: adamw}
schedule: {steps: 20, warmup: 2}
"""
STUDY_YAML = b"""data: data
arms: [uniform, permuted]
rates: [0.001, 0.003]
seeds: 2
train: {steps: 2, rank: 2}
"""


@dataclass(frozen=True)
class Kind:
    """One kind of file: its name, a valid content, its reader, and the inputs that are drawn.

    quick: how many inputs the quick tests draw. slowdown: how many times fewer of it the slow test draws, because it
    takes long to read.
    """

    name: str
    content: bytes
    read: Callable[[Path], Any]
    inputs: st.SearchStrategy[bytes]
    quick: int = 24
    slowdown: int = 1


def of_json(name: str, document: Any, read: Callable[[Path], Any], quick: int = 24) -> Kind:
    content = as_json(document)
    drawn = mutated(document).map(as_json)
    return Kind(name, content, read, st.one_of(drawn, drawn, damaged(content), drawn.flatmap(damaged)), quick)


def of_lines(name: str, records: list[Any], read: Callable[[Path], Any], quick: int = 24) -> Kind:
    def lines(records: Any) -> bytes:
        return b"".join(as_json(record) + b"\n" for record in (records if isinstance(records, list) else [records]))

    drawn = mutated(records).map(lines)
    content = lines(records)
    return Kind(name, content, read, st.one_of(drawn, drawn, damaged(content), drawn.flatmap(damaged)), quick)


def of_bytes(name: str, content: bytes, read: Callable[[Path], Any], quick: int = 24, slowdown: int = 1) -> Kind:
    return Kind(name, content, read, damaged(content), quick, slowdown)


def published(format: str) -> Kind:
    """A file of a published format, read by `tracescribe.read`; once by its content, once by the format's name."""
    name, value = PUBLISHED[format]

    def read(path: Path) -> None:
        try:
            ts.read(path)
        finally:
            ts.read(path, format=format)

    if name.endswith(".jsonl"):
        return of_lines(name, value, read, 20)
    if name.endswith(".json"):
        return of_json(name, value, read, 20)
    if name.endswith(".pt"):
        drawn = st.one_of(mutated(value).map(saved), damaged(saved(value)))
        return Kind(name, saved(value), read, drawn, 20)
    text = value.encode()
    if name.endswith(".gz"):
        drawn = st.one_of(damaged(text).map(partial(gzip.compress, mtime=0)), damaged(gzip.compress(text, mtime=0)))
        return Kind(name, gzip.compress(text, mtime=0), read, drawn, 20)
    return of_bytes(name, text, read, 20)


def saved(value: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def picture(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, format, **options)
    return buffer.getvalue()


FILM = hashlib.sha256(picture("PNG")).hexdigest()


@cache
def a_trace() -> ts.CausalTrace:
    return synthetic_trace(4, 3, with_embeddings=True, embed_dim=4)


@cache
def a_plan() -> ts.Prescription:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ts.prescribe(synthetic_trace(12, 3), seed=0)


def a_comparison() -> TraceComparison:
    return ts.compare(synthetic_trace(4, 3), synthetic_trace(4, 3, seed=1), n_boot=10)


def a_circuit() -> ts.Circuit:
    numbers = np.array([0.5, 0.9])
    return ts.Circuit(np.array([1, 2]), ("no", "[end]"), numbers, numbers, numbers, 12, "greedy", 0.9, 1.0, 3, 4)


@cache
def a_faithfulness() -> ts.Faithfulness:
    cells = MapCells(np.array([1, 1, 2]), np.array([0, 1, 0]), np.array([0.5, 0.2, 0.1]), ("no", "[end]"))
    curves = np.random.default_rng(0).random((3, 4, 5))
    orders = np.array([[0, 1, 2], [0, 1, 2], [2, 0, 1]])
    names, numbers = ("effect", "magnitude", "random 0"), np.arange(5)
    return ts.Faithfulness(cells, names, orders, np.arange(4), curves, 1 - curves, np.ones(5), numbers, numbers)


@cache
def written(name: str) -> bytes:
    """What the package itself writes: a trace, a plan, weights."""
    import tempfile

    from safetensors.torch import save

    if name == "weights.safetensors":
        return save({"weight": torch.ones(3), "logit_scale": torch.ones(())})
    if name == "archive.pt":
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
        return buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        makers: dict[str, Callable[[], Any]] = {
            "trace": a_trace,
            "comparison": a_comparison,
            "circuit": a_circuit,
            "faithfulness": a_faithfulness,
            "neurons": synthetic_neurons,
            "edges": synthetic_head_edges,
            "cut": synthetic_knock_out,
            "attending": synthetic_negator_attention,
        }
        makers.get(name.partition(".")[0], a_plan)().save(f"{folder}/{name}")
        return Path(folder, name).read_bytes()


def of_sealed(name: str, use: Callable[[Path], Any], quick: int = 24) -> Kind:
    """Results whose checksum fits whatever they hold, so that what they hold is looked at; some are damaged."""
    file = _tensor_file(name)
    entries = {key: _parsed(value) for key, value in file.metadata.items() if key != CHECKSUM}
    drawn = st.builds(_resealed, mutated(entries), _arrays(dict(file.tensors)))
    return Kind(name, written(name), use, st.one_of(drawn, drawn, drawn, damaged(written(name))), quick, 2)


def sealed_record(content: Any) -> bytes:
    """A JSON file with a checksum that fits what it holds, if it holds fields."""
    if not isinstance(content, dict):
        return as_json(content)
    rest = {name: value for name, value in content.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return as_json({**rest, "sha256": digest})


@cache
def _tensor_file(name: str) -> TensorFile:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(written(name))
        found = read_tensors(Path(folder, name))
        return TensorFile(found.metadata, {key: np.array(array) for key, array in found.tensors.items()})


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@st.composite
def _arrays(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of which up to two are left out, cut, of another type or shape, or hold other numbers."""
    arrays = dict(arrays)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        what = draw(st.sampled_from(["leave out", "number", "number", "type", "cut", "shape", "rename"]))
        array = arrays.pop(name)
        if what == "leave out":
            continue
        if what == "number" and array.size:
            array = array.copy()
            number = draw(st.one_of(st.floats(-2, 2), st.sampled_from([np.nan, np.inf, 1e30]), st.integers(-128, 127)))
            with np.errstate(all="ignore"):
                array.flat[draw(st.integers(0, array.size - 1))] = np.asarray(number).astype(array.dtype)
        elif what == "type":
            with np.errstate(all="ignore"):
                array = array.astype(draw(st.sampled_from(["f8", "f4", "f2", "i8", "i1", "u1", "?"])))
        elif what == "cut" and array.ndim:
            array = array[: draw(st.integers(0, len(array)))]
        elif what == "shape":
            array = array.reshape(draw(st.sampled_from([(-1,), (1, *array.shape), array.shape[::-1]])))
        arrays[draw(words) if what == "rename" else name] = array
    return arrays


def _resealed(metadata: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    write_tensors(buffer, arrays, texts)
    return buffer.getvalue()


@cache
def kinds() -> dict[str, Kind]:
    """Every kind of file, by a name for the test."""
    plan = {key: value for key, value in json.loads(written("plan.json")).items() if key != "sha256"}
    config = {"model": "phantom", "steps": 3, "captions": "c.jsonl", "lr": 0.1, "plan": plan, "weighting": "update"}
    trace = written("trace.safetensors")
    read_both = partial(_each, (ts.load_trace, read_tensors))
    items = "task,id,group,hit,chance,margin\nclaims,1,p,1.0,0.5,0.1\nclaims,2,q,0.0,0.5,-0.1\n"
    found = {
        "pairs.jsonl": of_lines("pairs.jsonl", [PAIR, {**PAIR, "id": "2", "image": [0.5, 1.0]}], ts.read_pairs, 100),
        "pairs.csv": of_bytes("pairs.csv", b"id,correct,foil\n1,no edema,mild edema\n", ts.read_pairs, 60),
        "claims.jsonl": of_lines("claims.jsonl", [CLAIM], read_claims, 60),
        "captions.jsonl": of_lines("captions.jsonl", [CAPTION], read_captions, 60),
        "mcq.jsonl": of_lines("mcq.jsonl", [MCQ], read_mcq, 60),
        "valse.json": of_json("existence.json", {"a": VALSE}, ts.tracer.read_valse, 40),
        "items.csv": of_bytes("items.csv", items.encode(), _compare, 30, 4),
        "config.json": of_json("config.json", config, read_config, 80),
        "config.yaml": of_bytes("config.yaml", CONFIG_YAML, read_config, 60),
        "study.yaml": of_bytes("study.yaml", STUDY_YAML, read_study, 60),
        "plan.json": of_json("plan.json", json.loads(written("plan.json")), load_plan, 30),
        "plan.json without checksum": of_json("plan.json", plan, load_plan, 80),
        "trace.safetensors": of_bytes("trace.safetensors", trace, read_both, 60),
        "trace.safetensors with a checksum that fits": of_sealed("trace.safetensors", _use_trace, 80),
        "comparison.safetensors": of_bytes(
            "comparison.safetensors", written("comparison.safetensors"), load_comparison, 40
        ),
        **{f"{name} with a checksum that fits": of_sealed(name, use, 40) for name, use in FINER.items()},
        "comparison.safetensors with a checksum that fits": of_sealed("comparison.safetensors", _use_comparison),
        "faithfulness.safetensors": of_bytes(
            "faithfulness.safetensors", written("faithfulness.safetensors"), ts.load_faithfulness, 40
        ),
        "faithfulness.safetensors with a checksum that fits": of_sealed("faithfulness.safetensors", _use_curves),
        "circuit.json": of_json("circuit.json", json.loads(written("circuit.json")), load_circuit, 30),
        "circuit.json with a checksum that fits": Kind(
            "circuit.json",
            written("circuit.json"),
            _use_circuit,
            mutated(json.loads(written("circuit.json"))).map(sealed_record),
            40,
        ),
        "weights.pt": of_bytes("weights.pt", saved({"weight": torch.ones(3)}), read_checkpoint, 40),
        "weights.pt of other things": Kind(
            "weights.pt", saved({"w": torch.ones(1)}), read_checkpoint, values.filter(_saveable).map(saved), 20
        ),
        "weights.safetensors": of_bytes("weights.safetensors", written("weights.safetensors"), read_checkpoint, 40),
        "archive.pt": of_bytes("archive.pt", written("archive.pt"), read_checkpoint, 40),
        "image.png": of_bytes("image.png", picture("PNG"), read_image, 40),
        "image.jpg": of_bytes("image.jpg", picture("JPEG"), read_image, 40),
        "image.tiff": of_bytes("image.tiff", picture("TIFF"), read_image, 40),
        "image.bmp": of_bytes("image.bmp", picture("BMP"), read_image, 20),
        "image.gif": of_bytes("image.gif", picture("GIF"), read_image, 20),
        "image.webp": of_bytes("image.webp", picture("WEBP"), read_image, 20),
        "image.ppm": of_bytes("image.ppm", picture("PPM"), read_image, 20),
        "image.tga": of_bytes("image.tga", picture("TGA"), read_image, 20),
        "image.avif": of_bytes("image.avif", picture("AVIF"), read_image, 20),
        "image.jp2": of_bytes("image.jp2", picture("JPEG2000"), read_image, 20),
        "film.dcm": of_bytes("film.dcm", dicom(), read_image, 60),
        "manifest.json": of_json("manifest.json", {"format": "f/1", "sha256": {"film.png": FILM}}, _read_manifest, 30),
    }
    return found | {f"{name}, published": published(name) for name in PUBLISHED}


def _each(readers: tuple[Callable[[Path], Any], ...], path: Path) -> None:
    """Every one of the readers, although the first fails."""
    *others, last = readers
    for read in others:
        try:
            read(path)
        except TracescribeError as error:
            check_message(str(error))
    last(path)


def _compare(path: Path) -> None:
    read_items(path)
    other = path.with_name("other.csv")  # one file given twice is refused
    shutil.copyfile(path, other)
    try:
        ts.benchmark.compare(path, other, names=("before", "after"), n_boot=10)
    finally:
        other.unlink()


def _use_comparison(path: Path) -> None:
    comparison = load_comparison(path)
    comparison.summary()
    comparison.to_frame()


def _use_curves(path: Path) -> None:
    curves = ts.load_faithfulness(path)
    curves.summary()
    curves.to_frame(n_boot=2)


def _use_circuit(path: Path) -> None:
    circuit = load_circuit(path)
    circuit.to_frame()
    circuit.by_layer()
    repr(circuit)


def _use_trace(path: Path) -> None:
    """A trace that loads can be worked with."""
    trace = ts.load_trace(path)
    trace.summary()
    trace.map(segment="all").per_layer()


def _use_neurons(path: Path) -> None:
    found = load_neurons(path)
    found.summary()
    found.to_frame(n_boot=10)
    found.map()


def _use_edges(path: Path) -> None:
    found = load_head_edges(path)
    found.summary()
    found.to_frame(n_boot=10)
    found.by_layer()


def _use_cut(path: Path) -> None:
    found = load_knock_out(path)
    found.summary()
    found.to_frame()


def _use_attending(path: Path) -> None:
    found = load_negator_attention(path)
    found.summary()
    found.to_frame()
    found.map()
    found.interval(n_boot=10)


FINER: dict[str, Callable[[Path], Any]] = {
    "neurons.safetensors": _use_neurons,
    "edges.safetensors": _use_edges,
    "cut.safetensors": _use_cut,
    "attending.safetensors": _use_attending,
}


def _read_manifest(path: Path) -> None:
    read_folder(path.parent, "f/1")


def _saveable(value: Any) -> bool:
    try:
        saved(value)
    except Exception:
        return False
    return True
