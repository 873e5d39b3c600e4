"""Nothing but our own errors, in few words and little time, whatever is read or asked for.

Valid files are damaged and options drawn at odd values. ``TRACESCRIBE_FUZZ`` multiplies the number of inputs; the slow
test runs this file with 50 times as many.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark import read_captions, read_claims, read_items, read_mcq
from tracescribe.cli import main
from tracescribe.errors import TracescribeError
from tracescribe.finetune import load_plan
from tracescribe.io.folders import read_folder
from tracescribe.io.tensors import read_tensors
from tracescribe.patching.loading.checkpoints import read_checkpoint
from tracescribe.patching.loading.images import read_image

TIMES = int(os.environ.get("TRACESCRIBE_FUZZ", "1"))
LONGEST = 5.0  # seconds of processor time
ODD = [
    *("", " ", "²", "nan", "inf", "-inf", "1e400", "9" * 5000, "x" * 300, "\0", "\ud800", "..", ".", "/", "/dev/null"),
    *("each", "all", "none", "auto", "0", "-1", "1.5", "true", "null", "[]", "{}", "--help", "negated->affirmative"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**64, -(2**64), 0.5, 1.5, -0.0, 1e400, -1e400, float("nan"), 1e-320),
    *(np.int64(1), np.float32(0.5), np.array([1, 2]), np.array(["a"]), [], [0], [1.5], (1, 2), {}, {"a": 1}, set()),
    *(b"", b"x", object(), Path("nowhere"), lambda: 1, 1j, range(3), [None], [[1]], "resid", "exact", *ODD),
]


def attempt(call: Callable[[], Any]) -> None:
    """Run it; only our own errors, short ones, and no long wait."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except TracescribeError as error:
        assert 0 < len(str(error)) < 2000, str(error)[:300]
    assert time.process_time() - start < LONGEST


def examples(number: int) -> Callable[[Any], Any]:
    return settings(max_examples=number * TIMES, deadline=None, derandomize=TIMES == 1, database=None)


# files ---------------------------------------------------------------------------------------------------------------

PAIR = {"correct": "no edema", "foil": "mild edema", "id": "1", "image": "film.png", "negation": "correct"}
CLAIM = {"id": "1", "group": "p", "image": "film.png", "claims": ["a", "b"], "label": 0, "attribute": "side"}
CAPTION = {"id": "1", "group": "p", "image": "film.png", "caption": "no edema", "states": {"edema": "absent"}}
MCQ = {
    "subject_id": 1,
    "study_id": 2,
    "question": "Which?",
    "correct_answer": "A",
    "image": "film.png",
    "group": "p",
    **{f"binary_raw_choice_{i}": {"edema": i % 2, "x": i // 3} for i in range(1, 5)},
    **{f"{kind}_mcq_choice_{i}": f"{kind} {i}" for kind in ("negation", "affirmative") for i in range(1, 5)},
}


@cache
def folder() -> Path:
    """One folder with a valid file of every kind."""
    import tempfile

    import torch

    root = Path(tempfile.mkdtemp(prefix="fuzz"))
    Image.new("L", (8, 8)).save(root / "film.png")
    for name, record in (("pairs", PAIR), ("claims", CLAIM), ("captions", CAPTION), ("mcq", MCQ)):
        (root / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    (root / "pairs.csv").write_text("id,correct,foil\n1,no edema,mild edema\n")
    (root / "mcq.csv").write_text("image_path,correct_answer,caption_0,caption_1\n1.jpg,0,a,b\n")
    (root / "sugar.json").write_text('{"0": {"filename": "1.jpg", "caption": "a", "negative_caption": "b"}}')
    (root / "aro.json").write_text('[{"image_id": 2, "true_caption": "x", "false_caption": "y", "attributes": []}]')
    (root / "items.csv").write_text("task,id,group,hit,chance,margin\nclaims,1,p,1.0,0.5,0.1\n")
    (root / "config.json").write_text('{"model": "phantom", "steps": 3}')
    torch.save({"weight": torch.ones(3), "logit_scale": torch.ones(())}, root / "weights.pt")
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3)}, root / "weights.safetensors")
    rng = np.random.default_rng(0)
    pairs = [
        ts.Pair(correct="There is no opacity.", foil="There is severe opacity.", image=rng.normal(size=64), id=str(i))
        for i in range(3)
    ]
    trace = ts.trace(ts.load("phantom"), pairs, floor=0, progress=False)
    trace.save(root / "trace.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ts.prescribe(trace.map(segment="all"), ci=None).save(root / "plan.json")
    return root


READERS: dict[str, Callable[[Path], Any]] = {
    "pairs.jsonl": ts.read_pairs,
    "pairs.csv": ts.read_pairs,
    "claims.jsonl": read_claims,
    "captions.jsonl": read_captions,
    "mcq.jsonl": read_mcq,
    "mcq.csv": ts.read,
    "sugar.json": ts.read,
    "aro.json": ts.read,
    "items.csv": read_items,
    "config.json": ts.finetune.read_config,
    "weights.pt": read_checkpoint,
    "weights.safetensors": read_checkpoint,
    "trace.safetensors": ts.load_trace,
    "plan.json": load_plan,
    "film.png": read_image,
}
TOKENS = [
    b"\0",
    b"\xff",
    b'"',
    b"[",
    b"{" * 100,
    b"[" * 2000,
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"\xed\xa0\x80",
    b"\n",
    b",",
]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with bits flipped, pieces cut out, doubled or replaced by odd tokens; or the content as it is."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        length = draw(st.integers(0, 40))
        what = draw(st.sampled_from(["flip", "cut", "double", "token", "end"]))
        if what == "flip" and raw:
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del raw[at : at + length]
        elif what == "double":
            raw[at:at] = raw[at : at + length]
        elif what == "token":
            raw[at : at + length] = draw(st.sampled_from(TOKENS))
        else:
            del raw[at:]
    return bytes(raw)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    """100 inputs per kind of file."""
    content = (folder() / name).read_bytes()
    Image.new("L", (8, 8)).save(tmp_path / "film.png")
    read = READERS[name]

    @examples(100)
    @given(damaged(content))
    def run(raw: bytes) -> None:
        path = tmp_path / f"damaged-{name}"
        path.write_bytes(raw)
        attempt(lambda: read(path))
        assert path.read_bytes() == raw  # readers change nothing

    attempt(lambda: read(folder() / name))
    run()


@pytest.mark.parametrize("read", [read_tensors, lambda path: read_folder(path, "tracescribe.run/2"), ts.load_trace])
def test_damaged_tensor_files_and_folders(read: Callable[[Path], Any], tmp_path: Path) -> None:
    content = (folder() / "trace.safetensors").read_bytes()

    @examples(30)
    @given(damaged(content))
    def run(raw: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(raw[:2000])
        (tmp_path / "a.safetensors").write_bytes(raw)
        attempt(lambda: read(tmp_path))
        attempt(lambda: read(tmp_path / "a.safetensors"))

    run()


# options -------------------------------------------------------------------------------------------------------------

ANY = st.sampled_from(VALUES)


def assert_only_our_errors(call: Callable[..., Any], names: list[str], number: int) -> None:
    @examples(number)
    @given(st.dictionaries(st.sampled_from(names), ANY, max_size=3))
    def run(drawn: dict[str, Any]) -> None:
        attempt(lambda: call(**drawn))

    run()


def test_options_of_tracing() -> None:
    from tracescribe.tracer.run.options import ImageTraceOptions, TraceOptions

    for kind in (TraceOptions, ImageTraceOptions):
        names = list(kind.__dataclass_fields__)

        assert_only_our_errors(kind, names, 100)


def test_arguments_of_prescribe() -> None:
    options = ["beta", "aggregate", "normalize", "layers", "ci", "seed"]
    source = np.array([1.0, 0.4, 0.9, 0.2, 1.0])

    @examples(150)
    @given(st.one_of(st.just(source), ANY), st.dictionaries(st.sampled_from(options), ANY, max_size=2))
    def run(given_source: Any, drawn: dict[str, Any]) -> None:
        attempt(lambda: ts.prescribe(given_source, **drawn))

    run()


def test_training_configurations() -> None:
    names = list(ts.finetune.TrainConfig.model_fields)

    @examples(100)
    @given(st.dictionaries(st.sampled_from(names), ANY, max_size=3))
    def run(drawn: dict[str, Any]) -> None:
        raw = json.dumps(drawn, default=str)
        path = folder() / "drawn.json"
        path.write_text(raw.encode("utf-8", "replace").decode())
        attempt(lambda: ts.finetune.read_config(path))

    run()


def test_images_of_any_kind() -> None:
    @examples(60)
    @given(ANY)
    def run(value: Any) -> None:
        attempt(lambda: read_image(value))

    run()


# commands ------------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, list[str]] = {
    "trace": [
        "--memory",
        "--positions",
        "--heads",
        "--window",
        "--floor",
        "--seed",
        "--batch-size",
        "--site",
        "--steps",
    ],
    "plot": ["--pair", "--width", "--kind", "--align", "-o"],
    "prescribe": ["--beta", "--aggregate", "--layers", "--seed", "-o"],
    "compare": ["--table", "--seed", "-o"],
    "evaluate": ["--split", "--items", "--images", "--seed", "--run"],
    "build": ["-n", "--seed", "--size", "--limit", "-o"],
    "finetune": ["--steps", "--rank", "--lr", "--seed", "--plan", "-o"],
}
WORDS = ["phantom", "mednega", "nowhere", "hf:nowhere/nothing", *ODD]


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands with odd arguments end with a code that they document, and write nothing beside what they were told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = {path.name: path.read_bytes() for path in folder().iterdir()}
    files = [
        str(folder() / name) for name in ("pairs.jsonl", "trace.safetensors", "items.csv", "film.png", "plan.json")
    ]

    @examples(120)
    @given(
        st.sampled_from(list(COMMANDS)),
        st.lists(st.sampled_from([*WORDS, *files]), max_size=3),
        st.data(),
    )
    def run(command: str, words: list[str], data: st.DataObject) -> None:
        options: list[str] = []
        for _ in range(data.draw(st.integers(1, 2))):
            options += [data.draw(st.sampled_from(COMMANDS[command])), data.draw(st.sampled_from(ODD))]
        if command == "evaluate" and "phantom" in words:  # a whole evaluation; tests of the command line run some
            words = [word for word in words if word != "phantom"]
        start = time.process_time()
        with pytest.raises(SystemExit) as leaving:
            main([command, *words, *options])
        said = capsys.readouterr()
        assert leaving.value.code in (0, 1, 2, None)
        assert "Traceback" not in said.err
        assert all(len(line) < 3000 for line in said.err.splitlines())
        assert time.process_time() - start < 3 * LONGEST  # the first imports of a command are in it

    run()
    after = {path.name: path.read_bytes() for path in folder().iterdir() if path.name in before}
    assert after == before


@pytest.mark.slow
def test_fifty_times_as_many() -> None:
    """About 100,000 inputs."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        str(Path(__file__)),
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command, env={**os.environ, "TRACESCRIBE_FUZZ": "50"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
