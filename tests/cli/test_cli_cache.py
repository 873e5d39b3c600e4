"""`tracescribe trace --cache`: a stopped run says how far it came, goes on, and a second one is free."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tracescribe as ts
from tracescribe.cli import main
from tracescribe.patching import PatchingEngine


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"correct": f"There is no {x}.", "foil": f"There is severe {x}.", "image": {"text": "The lungs are clear."}}
        for x in ("opacity", "effusion", "edema", "nodule", "pneumothorax")
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def run(pairs: Path, *options: object) -> int:
    out = pairs.with_name("trace.safetensors")
    with pytest.raises(SystemExit) as leaving:
        main(["trace", "phantom", str(pairs), "-o", str(out), *map(str, options), "--json"])
    return int(leaving.value.code or 0)


def test_a_stopped_command_goes_on_where_it_was_stopped(
    pairs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, out = pairs.with_name("cache"), pairs.with_name("trace.safetensors")
    original, calls = PatchingEngine.run, []

    def stopped_at_the_third(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(PatchingEngine, "run", stopped_at_the_third)
        assert run(pairs, "--cache", cache, "--batch-size", 1) == 130
    said = capsys.readouterr().err
    assert "2 of 5 text pairs were traced" in said and "run again with the same cache" in said
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(PatchingEngine, "run", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
        assert run(pairs, "--cache", cache, "--batch-size", 1) == 0
        assert len(calls) == 3 + 3
        out.rename(out.with_name("first.safetensors"))
        assert run(pairs, "--cache", cache, "--batch-size", 1) == 0
        assert len(calls) == 3 + 3
    first, second = (ts.load_trace(out.with_name(name)) for name in ("first.safetensors", "trace.safetensors"))
    assert first.scores.patched.tobytes() == second.scores.patched.tobytes()


def test_a_file_as_the_cache_is_refused(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pairs, "--cache", pairs) == 2
    assert "a folder is needed" in capsys.readouterr().err


def test_several_processes_need_a_cache(
    pairs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager

    from tracescribe.tracer.run import workers as sharing

    @contextmanager
    def two(device):
        yield sharing.Team(0, 2, device)

    monkeypatch.setattr(sharing, "team", two)
    assert run(pairs) == 2
    assert "2 processes share a trace through a folder: give --cache DIR" in capsys.readouterr().err
