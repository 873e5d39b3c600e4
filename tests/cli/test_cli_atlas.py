"""`atlas`: from a file of models and files of pairs to a folder, a table and a document."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import Run, refused

PAIRS = "\n".join(
    f'{{"correct": "There is no {thing}.", "foil": "There is severe {thing}.", "id": "{thing}"}}'
    for thing in ("edema", "effusion", "nodule")
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text("models: {one: phantom}\ntrace: {positions: all, site: attn}\nn_boot: 100\n")
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    return tmp_path


def test_a_table_a_figure_and_a_document(run: Run, files: Path) -> None:
    words = ("atlas", files / "models.yaml", files / "pairs.jsonl", "-o", files / "out", "--target", "difference")
    done = run(*words, "--table", "markdown", "--out", files / "table.csv")
    assert (done.code, done.err) == (0, "")
    assert "| one | pairs | 3 of 3 |" in done.out and "one on pairs: the interval rests on 3 clusters" in done.out
    assert pd.read_csv(files / "table.csv").loc[0, "n_pairs"] == 3
    document = run(*words, "--json").document
    assert document["rows"][0]["model"] == "one" and document["agreements"] == []
    assert {"atlas.pdf", "atlas.png", "atlas.html", "table.csv"} <= set(document["files"])
    assert all((files / "out" / name).is_file() for name in document["files"])


def test_refusals_write_nothing(run: Run, files: Path) -> None:
    models, pairs = files / "models.yaml", files / "pairs.jsonl"
    before = sorted(files.rglob("*"))
    refused(run("atlas", models, pairs, "-o", files / "out"), "3 of 3 pairs have no image", "target: difference")
    refused(run("atlas", models, "-o", files / "out"), "field 'sets'")
    refused(run("atlas", models, pairs, "-o", files / "out", "--out", pairs), "must end in .csv")
    refused(run("atlas", models, pairs, "-o", files / "out", "--target", "a {photo}"), "{photo} is no caption")
    assert sorted(files.rglob("*")) == before


def test_a_broken_model_is_left_out_with_keep_going_only(run: Run, files: Path) -> None:
    (files / "two.yaml").write_text("models: {bad: phantm, one: phantom}\ntrace: {positions: all}\nn_boot: 100\n")
    words = ("atlas", files / "two.yaml", files / "pairs.jsonl", "-o", files / "out", "--target", "correct")
    refused(run(*words), "the model 'bad': unknown model 'phantm'")
    done = run(*words, "--keep-going")
    assert done.code == 0 and "bad on pairs: the model 'bad': unknown model 'phantm'" in done.out
