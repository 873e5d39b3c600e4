"""Builds that are killed at random moments, again and again: at the end the same bytes, and before it nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_builders import films
from test_unfinished import bytes_of

KILLS = 4
# What a user's script does, with savings that are closer together. It says when it begins: imports take longest.
SCRIPT = """
import sys
from tracescribe.benchmark import builders
from tracescribe.benchmark.phantom import build_phantom, dataset
kind, labels, target = sys.argv[1:]
builders.folder.EVERY, dataset.EVERY = 40, 10
print("begins", flush=True)
if kind == "phantom":
    build_phantom(target, n=60, size=128)
elif kind == "pairs":
    builders.write_pairs(labels, target, lambda text: len(text.split()))
else:
    getattr(builders, "build_" + kind)(labels, target)
"""


def start(kind: str, labels: Path, target: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, kind, str(labels), str(target)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "begins\n"
    return child


def finish(child: subprocess.Popen[str], within: float | None = None) -> bool:
    """Whether the build finished in that time; it is killed otherwise."""
    try:
        _, errors = child.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        child.kill()  # SIGKILL
        child.communicate()
        return False
    assert child.returncode == 0, errors
    return True


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mednega", "contextual", "pairs", "phantom"])
def test_a_build_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path, kind: str) -> None:
    labels = tmp_path / "facts.jsonl"
    lines = [record.model_dump(mode="json") | {"image": None} for record in films(600, seed=5)]
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, target = tmp_path / "whole", tmp_path / "killed"
    if kind == "pairs":
        whole, target = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    child = start(kind, labels, whole)
    begun = time.monotonic()
    assert finish(child)
    longest, expected = time.monotonic() - begun, bytes_of(whole)
    rng = np.random.default_rng(0)
    kills, went_on = 0, 0
    while True:
        went_on += Path(f"{target}.part", "state.json").exists()
        if finish(start(kind, labels, target), float(rng.uniform(0, longest)) if kills < KILLS else None):
            assert bytes_of(target) == expected
            if kills >= KILLS:
                break
            longest /= 2  # it ran faster than the one that was timed
            (target.unlink if target.is_file() else lambda: shutil.rmtree(target))()
            continue
        kills += 1
        if target.exists():  # killed after its last step
            assert bytes_of(target) == expected
            (target.unlink if target.is_file() else lambda: shutil.rmtree(target))()
    assert went_on
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([labels.name, whole.name, target.name])
