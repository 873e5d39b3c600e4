"""A build that was stopped goes on where it was, to the same bytes; refused input leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_builders import films

from tracescribe.benchmark.builders import build_contextual, build_mednega, folder, write_pairs
from tracescribe.benchmark.phantom import build_phantom, dataset
from tracescribe.benchmark.readers.chexpert import CONDITIONS
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
    monkeypatch.setattr(dataset, "EVERY", 10)
    monkeypatch.setattr(folder.os, "fsync", lambda descriptor: None)  # only a power failure would show the difference


class Stop(BaseException):
    """As Ctrl-C does: no error that anything catches."""


def bytes_of(place: Path) -> dict[str, bytes]:
    """A folder's files by path, or the one file."""
    if place.is_file():
        return {"": place.read_bytes()}
    found = sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}


def build_pairs(labels: Path, place: Path, words_of: str = "", **options: Any) -> Path:
    """Pairs for a tokenizer of words, in which the words ``words_of`` are two tokens each."""
    write_pairs(labels, place, lambda text: sum(1 + (word in words_of.split()) for word in text.split()), **options)
    return place


def stopping_at(n: int) -> Callable[..., Any]:
    """read_facts that stops the process' work before the n-th record."""
    original = folder.read_facts

    def read(*args: Any, start: int = 0, **options: Any) -> Any:
        for number, record in enumerate(original(*args, start=start, **options), start):
            if number == n:
                raise Stop
            yield record

    return read


@pytest.mark.parametrize("build", [build_mednega, build_contextual, build_pairs])
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


@pytest.mark.parametrize("size", [None, 0, 50])
def test_a_file_that_lost_bytes_starts_afresh(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", stopping_at(250))
        with pytest.raises(Stop):
            build_pairs(labels, tmp_path / "pairs.jsonl")
    made = tmp_path / "pairs.jsonl.part" / "pairs.jsonl"
    made.unlink() if size is None else made.write_bytes(made.read_bytes()[:size])
    assert bytes_of(build_pairs(labels, tmp_path / "pairs.jsonl")) == bytes_of(build_pairs(labels, tmp_path / "whole"))


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


def test_another_split_file_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tables beside the labels say is part of what a set is made of."""
    rng = np.random.default_rng(0)
    values = [",".join(row) for row in rng.choice(["1.0", "0.0", ""], (300, len(CONDITIONS)))]
    rows = [f"{50_000_000 + n},{10_000_000 + n // 3}" for n in range(300)]
    lines = (f"{row},{labels}\n" for row, labels in zip(rows, values, strict=True))
    (tmp_path / "labels.csv").write_text(f"study_id,subject_id,{','.join(CONDITIONS)}\n" + "".join(lines))
    split = tmp_path / "mimic-cxr-2.0.0-split.csv"
    split.write_text("study_id,subject_id,split\n" + "".join(f"{row},train\n" for row in rows))
    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", stopping_at(250))
        with pytest.raises(Stop):
            build_pairs(tmp_path / "labels.csv", tmp_path / "pairs.jsonl")
    split.write_text(split.read_text().replace("train", "validate"))
    build_pairs(tmp_path / "labels.csv", tmp_path / "pairs.jsonl")
    made = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {pair["split"] for pair in made} == {"val"}


def test_ctrl_c_says_from_where_the_same_build_goes_on(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = folder.read_facts

    def read(*args: Any, **options: Any) -> Any:
        for number, record in enumerate(original(*args, **options)):
            if number == 250:
                raise KeyboardInterrupt
            yield record

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", read)
        with pytest.raises(KeyboardInterrupt, match=r"^stopped; the same build goes on from '.*set.part'$"):
            build_mednega(labels, tmp_path / "set")
    assert bytes_of(build_mednega(labels, tmp_path / "set")) == bytes_of(build_mednega(labels, tmp_path / "other"))


def test_pairs_of_another_tokenizer_start_afresh_and_what_no_wording_fits_is_counted_on(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(text: str) -> int:
        return sum(1 + (word in "severe mild") for word in text.rstrip(".").split())

    report = write_pairs(labels, tmp_path / "whole.jsonl", count)
    unmatched = {why: n for why, n in report.items() if "no wording has as many tokens" in why}
    assert len(unmatched) == len({why.partition(":")[0] for why in unmatched}) > 3
    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", stopping_at(250))
        with pytest.raises(Stop):
            write_pairs(labels, tmp_path / "pairs.jsonl", count)
    assert (
        json.loads((tmp_path / "pairs.jsonl.part" / "state.json").read_text())["files"]["pairs.jsonl"]["position"]
        == 200
    )
    assert write_pairs(labels, tmp_path / "pairs.jsonl", count) == report
    assert bytes_of(tmp_path / "pairs.jsonl") == bytes_of(tmp_path / "whole.jsonl")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_facts", stopping_at(250))
        with pytest.raises(Stop):
            write_pairs(labels, tmp_path / "other.jsonl", count)
    build_pairs(labels, tmp_path / "other.jsonl")  # a tokenizer to which "severe" is one token
    assert bytes_of(tmp_path / "other.jsonl") == bytes_of(build_pairs(labels, tmp_path / "words.jsonl"))
    assert not list(tmp_path.glob("*.part"))


def test_a_stopped_phantom_goes_on_to_the_same_bytes_and_a_film_that_is_lost_starts_it_afresh(tmp_path: Path) -> None:
    expected = bytes_of(build_phantom(tmp_path / "whole", n=35, seed=2))
    drawn: list[int] = []

    def stop_at(n: int) -> Callable[[int], None]:
        def progress(done: int) -> None:
            drawn.append(done)
            if done == n:
                raise Stop

        return progress

    for lost in (None, "film00003.png", "mcq.jsonl"):
        target = tmp_path / f"lost {lost}"
        with pytest.raises(Stop):
            build_phantom(target, n=35, seed=2, progress=stop_at(26))
        part = tmp_path / f"lost {lost}.part"
        assert json.loads((part / "state.json").read_text())["files"]["films"]["films"] == 20
        if lost is not None:
            next(part.rglob(lost)).write_bytes(b"")  # as after a power failure
        drawn.clear()
        assert bytes_of(build_phantom(target, n=35, seed=2, progress=stop_at(99))) == expected
        assert drawn[0] == (21 if lost is None else 1)
        assert not part.exists()


def test_what_a_killed_build_left_of_its_folder_is_no_obstacle(tmp_path: Path, labels: Path) -> None:
    """Killed before anything was saved, or while the folder was removed: the state goes last."""
    expected = bytes_of(build_mednega(labels, tmp_path / "whole"))
    (tmp_path / "set.part").mkdir()
    (tmp_path / "set.part" / ".tracescribe-0123456789abcdef.tmp").write_text('{"format":')
    assert bytes_of(build_mednega(labels, tmp_path / "set")) == expected
    (tmp_path / "again.part").mkdir()
    (tmp_path / "again.part" / "state.json").write_text(
        json.dumps({"format": "tracescribe.unfinished/1", "made_from": {}, "files": {}})
    )
    assert bytes_of(build_mednega(labels, tmp_path / "again")) == expected
    assert not list(tmp_path.glob("*.part"))


def test_a_finished_result_does_not_change_when_the_build_that_was_killed_after_it_goes_on(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Result and unfinished build share their bytes on the disk until the build's folder is removed."""
    from tracescribe.benchmark.builders.unfinished import Unfinished

    with monkeypatch.context() as patch:
        patch.setattr(folder, "EVERY", 460)  # one saving, and too few items for a second one
        patch.setattr(Unfinished, "_remove", lambda self: None)  # as if killed here
        made = build_mednega(labels, tmp_path / "set", per_study=1)
        expected = bytes_of(made)
        assert (made / "mcq.jsonl").stat().st_nlink == 2
        patch.setattr(folder, "read_facts", stopping_at(470))
        with pytest.raises(Stop):
            build_mednega(labels, made, per_study=1, overwrite=True)
        assert bytes_of(made) == expected


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
