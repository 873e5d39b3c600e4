"""The notebooks and the gallery: each is what its script gives, small, and runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import tracescribe as ts

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))
GALLERY = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
MACHINE = re.compile(r"/(tmp|home|root|Users)/|site-packages")


def cells_of_script(path: Path) -> list[tuple[str, str]]:
    jupytext = pytest.importorskip("jupytext")
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_scripts_and_notebooks_are_paired_and_listed() -> None:
    assert len(SCRIPTS) >= 6
    assert {path.stem for path in SCRIPTS} == {path.stem for path in EXAMPLES.glob("*.ipynb")}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(path.stem in listed for path in SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_with_small_outputs(path: Path) -> None:
    """``make notebooks`` writes it again after the script changed."""
    file = path.with_suffix(".ipynb")
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells_of_script(path)
    assert file.stat().st_size < 900_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, in order
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    for output in outputs:
        forms = output.get("data", {})
        assert "application/vnd.plotly.v1+json" not in forms and "<script" not in str(forms.get("text/html", ""))
        assert not MACHINE.search(str(output.get("text", "")) + str(forms.get("text/plain", "")))
    text = "\n".join(cell.source for cell in notebook.cells)
    assert re.search(r"\*\*(With (a real model|real (data|ones))|Your own data|With your own traces)", text)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    """In a kernel of its own, as a reader runs it."""
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    client(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GALLERY, flags=re.DOTALL)


def test_the_gallery_shows_every_function_that_draws_and_its_pictures_are_small() -> None:
    shown = "\n".join(blocks())
    for name in ("panels", "profile", "heatmap", "alpha_bars", "pareto", "curves", "overlay", "draw", "published_maps"):
        assert f"{name}(" in shown and hasattr(ts.viz, name), name
    pictures = [ROOT / "docs" / path for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", GALLERY)]
    assert len(pictures) == len(blocks()) - 1 and set(pictures) == set((ROOT / "docs/img/gallery").iterdir())
    assert all(0 < path.stat().st_size < 150_000 for path in pictures)
    first = blocks()[1].strip().splitlines()
    assert len(first) == 3 and "published_maps" in first[0]  # the published figure, in three lines


@pytest.mark.slow
def test_the_code_of_the_gallery_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a machine without the fonts of some scripts says so
        for number, code in enumerate(blocks()):
            names.pop("figure", None)
            exec(compile(code, "docs/gallery.md", "exec"), names)  # the page is ours
            assert number == 0 or names["figure"] is not None
