"""`export` with a damaged run writes nothing, and never replaces what it reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run, refused
from fuzz.guard import snapshot

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tracescribe.benchmark.phantom import build_phantom
    from tracescribe.finetune import TrainConfig, train

    place = tmp_path_factory.mktemp("export")
    data = build_phantom(place / "data", 12, 0)
    files = {"captions": data / "captions.jsonl", "claims": data / "claims.jsonl"}
    return train(TrainConfig(steps=1, batch_size=2, rank=1, **files), progress=False).save(place / "run")


def flipped(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def listing(change: Callable[[dict[str, str]], object]) -> Damage:
    """A manifest that lists other files."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["sha256"])
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


ADAPTER = "adapter/adapter_model.safetensors"
SECRET = hashlib.sha256(b"secret").hexdigest()
FILES = (ADAPTER, "adapter/adapter_config.json", "config.json", "result.json", "log.csv", "manifest.json")
DAMAGES: dict[str, Damage] = {
    **{f"a flipped bit of {name}": flipped(name) for name in FILES},
    **{f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in FILES},
    **{f"an empty {name}": lambda folder, name=name: (folder / name).write_bytes(b"") for name in FILES},
    "a file outside": listing(lambda files: files.update({"../secret": SECRET})),
    "an absolute file": listing(lambda files: files.update({"/etc/hostname": SECRET})),
    "a lone surrogate": listing(lambda files: files.update({"\ud800": SECRET})),
    "a file of 3,000 characters": listing(lambda files: files.update({"x" * 3000: SECRET})),
    "no file listed": listing(lambda files: files.clear()),
    "the adapter is not listed": listing(lambda files: files.pop(ADAPTER)),
    "a pipe": pipe,
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_run_is_not_exported(run: Run, tmp_path: Path, run_folder: Path, what: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    shutil.copytree(run_folder, tmp_path / "run")
    DAMAGES[what](tmp_path / "run")
    before = snapshot(tmp_path)
    done = run("export", tmp_path / "run", "-o", tmp_path / "out")
    refused(done)
    assert snapshot(tmp_path) == before and len(done.err) < 1000


def test_an_export_does_not_replace_the_run_or_the_model_that_it_reads(
    run: Run, tmp_path: Path, run_folder: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    refused(run("export", tmp_path / "run", "-o", tmp_path / "run", "--overwrite"), "not an earlier result")
    # an earlier export, from which another run started
    assert run("export", tmp_path / "run", "-o", tmp_path / "base").code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config |= {"model": "open_clip:ViT-B-32", "pretrained": str(tmp_path / "base" / "model.safetensors")}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    before = snapshot(tmp_path)
    for model in (config["model"], f"hf:{tmp_path / 'base'}", f"open_clip:local-dir:{tmp_path / 'base'}"):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"model": model}))
        done = run("export", tmp_path / "run", "-o", tmp_path / "base", "--overwrite")
        refused(done, "base", "is read, and would be lost")
    unchanged = {path: state for path, state in snapshot(tmp_path).items() if not path.endswith("config.json")}
    assert unchanged == {path: state for path, state in before.items() if not path.endswith("config.json")}
