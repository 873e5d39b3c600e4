"""`compare`: tables in the paper's form, plots, and refusals that write nothing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import Run, refused
from itemfiles import items


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    groups = [str(i // 2) for i in range(40)]
    found = []
    for name, share in (("clip", 4), ("nast", 2)):
        hits = {"mcq_affirmative": [1.0] * 40, "mcq_negated": [float(i % share == 0) for i in range(40)]}
        found.append(str(items(tmp_path / f"{name}.csv", hits, groups)))
    return found


def test_tables_plots_and_json(run: Run, paths: list[str], tmp_path: Path) -> None:
    done = run("compare", *paths, "--table", "latex", "--layout", "gap", "-o", str(tmp_path / "all.csv"))
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert r"\toprule" in done.out and "both right" in done.out
    assert [line.split(" & ")[:3] for line in done.out.splitlines() if line.startswith(("clip", "nast"))] == [
        ["clip", "100.0", "25.0"],
        ["nast", "100.0", "50.0"],
    ]
    assert set(pd.read_csv(tmp_path / "all.csv")["model"]) == {"clip", "nast"}
    document = run("compare", *paths, "--json", "-o", str(tmp_path / "all.pdf")).document
    assert [gap["gap"]["value"] for gap in document["gaps"]] == [75.0, 50.0]
    assert (tmp_path / "all.pdf").read_bytes()[:4] == b"%PDF"


def test_a_table_of_some_of_the_items_says_so_beside_it(run: Run, paths: list[str]) -> None:
    lines = Path(paths[1]).read_text().splitlines(keepends=True)
    Path(paths[1]).write_text("".join(lines[:-3]))
    done = run("compare", *paths, "--table", "csv", "--layout", "tasks")
    assert "3 items were not scored by every model and are left out" in done.err
    assert "left out" not in done.out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--layout", "affirmative", "-o", "x.csv"], "image_to_text_r1_affirmative"),
        (["-o", "x.gif"], "x.gif"),
        (["--segment", "all"], "--segment all is of traces"),
        (["--reduce", "median"], "--reduce median is of traces"),
        (["-o", "no/such/folder/x.csv"], "folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    run: Run, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(run("compare", *paths, *more), words)
    assert sorted(tmp_path.rglob("*")) == before


def test_one_model_or_one_twice_or_another_file_is_refused(run: Run, paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "binary.parquet").write_bytes(b"PAR1 not really")
    refused(run("compare", paths[0]), "two models or more")
    refused(run("compare", paths[0], paths[0]), "is given twice")
    refused(run("compare", paths[0], str(tmp_path / "other.csv")), "no column 'task'")
    refused(run("compare", paths[0], str(tmp_path / "binary.parquet")), "cannot be read as items")
