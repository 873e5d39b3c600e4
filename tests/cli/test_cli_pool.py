"""`trace --replace mean|resample --pool FILE`: captions of a text file or a pairs file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from commands import Run, refused

import tracescribe as ts

PAIR = {"correct": "There is no effusion.", "foil": "There is severe effusion.", "image": {"text": "Clear lungs."}}
POOL = ["There is mild edema.", "There is severe opacity."]  # as many tokens as the pair has


def test_a_pool_is_a_text_file_or_a_pairs_file(run: Run, tmp_path: Path) -> None:
    pairs, text, other = (tmp_path / name for name in ("pairs.jsonl", "pool.txt", "pool.jsonl"))
    pairs.write_text(json.dumps(PAIR))
    text.write_text("\n".join(["", *POOL, POOL[0], ""]))
    other.write_text(json.dumps({"correct": POOL[0], "foil": POOL[1]}))
    found = []
    for pool in (text, other):
        out = tmp_path / f"{pool.suffix}.safetensors"
        done = run("trace", "phantom", pairs, "-o", out, "--replace", "mean", "--pool", pool)
        assert done.code == 0 and "replaced by mean ablation (the pool's 2 captions)" in " ".join(done.out.split())
        found.append(ts.load_trace(out))
    assert np.array_equal(found[0].scores.patched, found[1].scores.patched)
    expected = ts.trace(ts.load("phantom"), [{**PAIR, "image": ts.Text("Clear lungs.")}], replace="mean", pool=POOL,
                        progress=False)  # fmt: skip
    np.testing.assert_allclose(found[0].scores.patched, expected.scores.patched, atol=1e-6)


def test_a_pool_that_cannot_be_used_is_refused(run: Run, tmp_path: Path) -> None:
    pairs, empty = tmp_path / "pairs.jsonl", tmp_path / "empty.txt"
    pairs.write_text(json.dumps(PAIR))
    empty.write_text(" \n")
    command = ("trace", "phantom", pairs, "-o", tmp_path / "t.safetensors")
    refused(run(*command, "--replace", "mean", "--pool", empty), "holds no captions")
    refused(run(*command, "--pool", empty), "no meaning with --replace foil")
    refused(run(*command, "--replace", "mean", "--pool", tmp_path / "none.txt"), "none.txt")
    refused(run(*command, "--replace", "resample"), "no captions of as many tokens")
    assert not (tmp_path / "t.safetensors").exists()
