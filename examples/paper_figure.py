"""A figure for a paper from a saved trace: vector, fonts embedded, exactly one column (3.25 inches) wide.

python examples/paper_figure.py OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import tracescribe as ts


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = ts.load("phantom")
    pair = ts.Pair(
        correct="There is no opacity.",
        foil="There is severe opacity.",
        image=ts.Text("The lungs are clear."),  # a text as the target; an image file, PIL image or embedding as well
    )
    ts.trace(model, [pair]).save(folder / "trace.safetensors")

    trace = ts.load_trace(folder / "trace.safetensors")  # everything a reviewer may ask for is in the file
    for suffix in ("pdf", "svg"):
        ts.viz.export(trace, folder / f"figure.{suffix}", width="column")
    figure = trace.heatmap()
    ts.viz.export_table(figure, folder / "table.tex")  # the numbers of the figure; .md and .csv as well
    trace.to_frame().to_csv(folder / "cte.csv", index=False)  # every cell of every pair
    print(ts.viz.caption(figure))  # to start a caption from


if __name__ == "__main__":
    main(Path(sys.argv[1]))
