"""A build that was stopped goes on where it was, to the same bytes; refused input leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_builders import films

from tracescribe.benchmark.builders import build_contextual, build_mednega, folder
from tracescribe.errors import DataFormatError, OutputError

N = 480


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels as tracescribe writes them."""
    path = tmp_path_factory.mktemp("labels") / "facts.jsonl"
    lines = [record.model_dump(mode="json") | {"image": None} for record in films(N, seed=5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "EVERY", 100)


class Stop(BaseException):
    """As Ctrl-C does: no error that anything catches."""


def bytes_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def stopping_at(n: int) -> Callable[..., Any]:
    """read_facts that stops the process' work before the n-th record."""
    original = folder.read_facts

    def read(*args: Any, start: int = 0, **options: Any) -> Any:
        for number, record in enumerate(original(*args, start=start, **options), start):
            if number == n:
                raise Stop
            yield record

    return read


@pytest.mark.parametrize("build", [build_mednega, build_contextual])
def test_a_stopped_build_goes_on_to_the_same_bytes(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[..., Path]
) -> None:
    expected = bytes_of(build(labels, tmp_path / "whole"))
    part = tmp_path / "stopped.part"
    for n in (130, 390):  # stopped twice
        with monkeypatch.context() as patch:
            patch.setattr(folder, "read_facts", stopping_at(n))
            with pytest.raises(Stop):
                build(labels, tmp_path / "stopped")
        assert not (tmp_path / "stopped").exists()
        state = json.loads((part / "state.json").read_text())
        assert state["files"][next(iter(state["files"]))]["position"] == n // 100 * 100
    starts = []
    original = folder.read_facts

    def read(*args: Any, start: int = 0, **options: Any) -> Any:
        starts.append(start)
        return original(*args, start=start, **options)

    monkeypatch.setattr(folder, "read_facts", read)
    assert bytes_of(build(labels, tmp_path / "stopped")) == expected
    assert starts[0] == 300
    assert not part.exists()


def test_other_arguments_or_other_labels_start_afresh(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", stopping_at(250))
        with pytest.raises(Stop):
            build_mednega(labels, tmp_path / "set", seed=1)
    other = tmp_path / "facts.jsonl"
    other.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    expected = bytes_of(build_mednega(other, tmp_path / "afresh", seed=1))
    assert bytes_of(build_mednega(other, tmp_path / "set", seed=1)) == expected
    assert not (tmp_path / "set.part").exists()


def test_open_i_gives_claims_about_severity_and_side_and_says_what_was_inferred(tmp_path: Path) -> None:
    """What is absent comes from normal reports; existence of two conditions in one report can then not be asked."""
    rng = np.random.default_rng(0)
    terms = ["Pleural Effusion/{}/{}", "Pulmonary Atelectasis/{}/{}", "Opacity/lung/{}/{}"]
    rows = ["uid,MeSH,Problems"]
    for number in range(300):
        filled = rng.choice(terms).format(
            rng.choice(["left", "right", "bilateral"]), rng.choice(["mild", "moderate", "severe"])
        )
        rows.append(f"{number},{'normal' if number % 4 == 0 else filled},x")
    path = tmp_path / "indiana_reports.csv"
    path.write_text("\n".join(rows) + "\n")
    made = build_contextual(path, tmp_path / "set")
    claims = [json.loads(line) for line in (made / "claims.jsonl").read_text().splitlines()]
    assert {claim["attribute"] for claim in claims} == {"severity", "side"}
    assert {claim["polarity"] for claim in claims} == {"affirmative", "negated"}
    for claim in claims:  # a negated claim is true of normal reports only
        normal = int(claim["provenance"]["source"]) % 4 == 0
        assert (claim["polarity"] == "negated") == normal
    sheet = (made / "DATASHEET.md").read_text()
    assert "What is absent is inferred" in sheet and "format open-i" in sheet and "Captions are not balanced" in sheet
    with pytest.raises(DataFormatError, match=r"nothing for mcq\.jsonl can be made"):
        build_mednega(path, tmp_path / "mednega")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["indiana_reports.csv", "set"]


def test_refused_input_leaves_nothing(tmp_path: Path, labels: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(labels.read_text() + '{"id": 3}\n')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataFormatError, match=r"bad.jsonl:481: field"):
        build_mednega(bad, tmp_path / "new" / "set")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, labels: Path) -> None:
    (tmp_path / "set.part").mkdir()
    (tmp_path / "set.part" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"set.part.* holds something else: move it away"):
        build_mednega(labels, tmp_path / "set")
    assert (tmp_path / "set.part" / "mine.txt").read_text() == "x"


def test_a_full_disk_is_a_sentence_and_what_was_saved_is_kept(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            build_mednega(labels, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert (tmp_path / "set.part" / "state.json").exists()
    expected = bytes_of(build_mednega(labels, tmp_path / "whole"))
    assert bytes_of(build_mednega(labels, tmp_path / "set")) == expected
