"""`build mednega --rewriter`: what it says before it starts, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused

from tracescribe.benchmark.builders import rewriting
from tracescribe.benchmark.readers.chexpert import CONDITIONS


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rewriting, "ATTEMPTS", 1)  # the waits between attempts have a test of their own
    rng = np.random.default_rng(0)
    rows = ["subject_id,study_id," + ",".join(CONDITIONS)]
    for study in range(200):
        values = rng.choice(["1.0", "0.0"], size=len(CONDITIONS))
        rows.append(f"{10_000_000 + study},{study},{','.join(values)}")
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_it_says_what_it_sends_and_a_dead_endpoint_is_a_sentence(run: Run, labels: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    options = ("--rewriter", url, "--rewriter-model", "m", "--rewriter-rate", 1000)
    done = run("build", "mednega", labels, "-o", tmp_path / "set", *options)
    refused(done, "gives no usable reply", "ConnectError", "run the same command again to go on")
    said, _, _ = done.err.partition("tracescribe: ")
    assert "sends statements made from labels" in said
    assert "to 127.0.0.1, model m; no patient or study number, no path, no image and no report text" in said
    assert not (tmp_path / "set").exists()
    assert (tmp_path / "set.rewrites.sqlite").is_file()


def test_a_folder_that_holds_something_else_is_found_before_the_cache_is_made(
    run: Run, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("mine")
    options = ("--rewriter", "http://127.0.0.1:9/v1", "--rewriter-model", "m")
    refused(run("build", "mednega", labels, "-o", tmp_path / "set", *options), "set")
    assert {path.name for path in tmp_path.iterdir()} == {labels.name, "set"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rewriter", "http://127.0.0.1:9/v1"), ("--rewriter-model",)),
        (("--rewriter-model", "m"), ("--rewriter only",)),
        (("--rewriter", "localhost:8000", "--rewriter-model", "m"), ("is no address", "TRACESCRIBE_REWRITER_KEY")),
        (
            ("--rewriter", "http://127.0.0.1:9", "--rewriter-model", "m", "--rewriter-cache", "/no/such/c"),
            ("cannot write",),
        ),
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(
    run: Run, labels: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(run("build", "mednega", labels, "-o", tmp_path / "set", *options), *words)
    assert [path.name for path in tmp_path.iterdir()] == [labels.name]
