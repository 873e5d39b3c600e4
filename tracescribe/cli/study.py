"""`study`: compares ways of training, every one tuned alike, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..io.tables import write_csv
from .common import Json, announce, check_output, show


def study(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            help="A YAML file: data, arms, rates, seeds (docs/study.md).",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The study's folder; one that was stopped goes on where it was.")
    ],
    processes: Annotated[int, typer.Option(min=1, max=256, help="Runs at once, each on one thread.")] = 1,
    table: Annotated[Literal["text", "markdown", "latex", "csv"], typer.Option(help="Form of the table.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Also every number of the table: .csv.", show_default=False)] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Also a figure of what arms gained and kept: .pdf, .svg, .png, .eps.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Train and score several arms (uniform, weighted by a trace, rivals, controls) at several rates and seeds.

    Example:  tracescribe study study.yaml -o studies/phantom --processes 2 --table markdown
    """
    if out is not None:
        check_output(out, (".csv",), inputs=[file])
    if figure is not None:
        check_output(figure, (".pdf", ".svg", ".png", ".eps"), inputs=[file])
    from ..finetune.study.config import read_study
    from ..io.records import check_record_folder

    check_record_folder(output, "study.json", what="study")
    config = read_study(file)
    announce(json)
    from ..finetune.study.analysis import read_study_result
    from ..finetune.study.runs import run_study

    run_study(config, output, processes=processes, progress=not json)
    result = read_study_result(output)
    numbers = result.table()
    if out is not None:
        write_csv(numbers, out)
    if figure is not None:
        from ..viz import export

        export(result.figure(), figure)
    rows = numbers.astype(object).where(numbers.notna(), None).to_dict(orient="records")
    show(
        json,
        {"output": output, "base": dict(result.base), "arms": rows},
        f"{result.as_text(table)}\n\n{result.as_text(table, of='update')}",
    )
