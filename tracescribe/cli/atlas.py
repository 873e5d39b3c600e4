"""`atlas`: traces many models over the same pairs, and puts their layer profiles on one axis of relative depth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..io.tables import write_csv
from .common import Json, announce, check_output, progress_bar, show


def atlas(
    models: Annotated[
        Path,
        typer.Argument(
            metavar="MODELS",
            help="A YAML file: models, and optionally sets and options (docs/atlas.md).",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    pairs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PAIRS]...",
            help="Files of pairs beside the sets of MODELS: .jsonl, .csv, or a data file as published.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The atlas's folder; one that was stopped goes on where it was.")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help="Of PAIRS: image (in the file), difference (from the foil's embedding to the correct caption's), "
            "correct, or a text with {correct} or {foil}.",
            show_default=False,
        ),
    ] = None,
    n_pairs: Annotated[
        int | None, typer.Option(min=1, help="At most so many pairs per set.", show_default=False)
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Trace every head as well.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Name a model that cannot be loaded or traced, and go on without it.")
    ] = False,
    table: Annotated[Literal["text", "markdown", "latex", "csv"], typer.Option(help="Form of the table.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Also every number of the table: .csv.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Trace every set of pairs by every model: one table, one figure, and one file per model and set.

    Example:  tracescribe atlas models.yaml pairs.jsonl -o atlas --table markdown
    """
    if out is not None:
        check_output(out, (".csv",), inputs=[models, *(pairs or ())])
    from ..io.records import check_record_folder

    check_record_folder(output, "atlas.json", what="atlas")
    announce(json)
    from ..atlas import read_atlas, read_atlas_config, run_atlas

    config = read_atlas_config(models, pairs, target=target, n_pairs=n_pairs, heads=heads or None)
    with progress_bar(json, "atlas", 1) as bar:
        run_atlas(
            config, output, keep_going=keep_going, notify=lambda what, done, total: bar.to(done, total, note=what)
        )
    found = read_atlas(output)
    written = found.write(output)
    if out is not None:
        write_csv(found.table(), out)
    rows = found.table().astype(object)
    document = {
        "output": output,
        "files": written,
        "rows": rows.where(rows.notna(), None).to_dict(orient="records"),
        "agreements": found.agreements().to_dict(orient="records"),
    }
    show(json, document, found.as_text(table), *found.doubts(), f"saved {output}")
