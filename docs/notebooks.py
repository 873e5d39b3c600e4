"""Writes examples/*.ipynb from the scripts beside them, with their outputs: ``make notebooks``.

A notebook holds of each output the form that every viewer shows, so that it stays small: a figure as a bitmap, a result
as its HTML. Names of arguments choose notebooks: ``python docs/notebooks.py 01``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
INTERACTIVE = "application/vnd.plotly.v1+json"


def main(chosen: list[str]) -> None:
    for script in sorted(EXAMPLES.glob("[0-9]*.py")):
        if not chosen or any(script.name.startswith(name) for name in chosen):
            notebook = executed(script)
            nbformat.write(notebook, script.with_suffix(".ipynb"))
            print(f"{script.stem}: {script.with_suffix('.ipynb').stat().st_size / 1000:.0f} kB")


def executed(script: Path) -> nbformat.NotebookNode:
    """The script as a notebook, run from top to bottom in its folder; raises where a cell does."""
    notebook = jupytext.read(script)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(script.parent)}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same notebook has the same bytes, but for its pictures
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := small(output)) is not None]
    notebook.metadata.pop("language_info", None)
    return notebook


def small(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output in one form; logged lines and progress are left out."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    if "image/png" in data:
        for form in (INTERACTIVE, "text/html"):
            data.pop(form, None)
    return output


if __name__ == "__main__":
    main(sys.argv[1:])
