"""`compare`: compares models on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import Json, Seed, check_output, show, working


def compare(
    items: Annotated[
        list[Path],
        typer.Argument(
            metavar="ITEMS...",
            help="Files that `evaluate --items` wrote, the baseline first.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    table: Annotated[
        Literal["text", "markdown", "latex", "csv"], typer.Option(help="Form of the table of accuracies.")
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also every difference, with subsets: .csv; or a plot: .pdf, .svg, .png."),
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare models on the items that all were scored on: paired differences, intervals, McNemar's test, q values.

    Example:  tracescribe compare clip.csv nast.csv --table latex -o differences.pdf
    """
    if out is not None:
        check_output(out, (".csv", ".pdf", ".svg", ".png"))
    from ..benchmark import compare as compare_models
    from ..io.atomic import write_atomically

    with working(json, f"comparing {len(items)} models"):
        found = compare_models(*items, seed=seed)
        if out is not None and out.suffix == ".csv":
            with write_atomically(out) as handle:
                found.to_frame().to_csv(handle, index=False)
        elif out is not None:
            found.plot(out)
    rows = found.to_frame().astype(object)
    document = {"models": found.models, "unpaired": found.unpaired, "differences": rows.where(rows.notna(), None)}
    document["differences"] = document["differences"].to_dict(orient="records")
    show(json, document, *([found.summary()] if table == "text" else [found.table(table)]))
