"""`compare`: compares models on the same items, or two saved traces."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import OptionError
from ..io.tables import write_csv
from .common import Json, Seed, check_output, show, working

DRAWN = (".pdf", ".svg", ".png")
OF_TRACES = (".safetensors", ".html")


def compare(
    items: Annotated[
        list[Path],
        typer.Argument(
            metavar="ITEMS...",
            help="Files that `evaluate --items` wrote, or two traces that `trace` saved; the baseline first.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    table: Annotated[
        Literal["text", "markdown", "latex", "csv"], typer.Option(help="Form of the table of accuracies.")
    ] = "text",
    layout: Annotated[
        Literal["tasks", "negation", "affirmative", "gap"],
        typer.Option(help="Columns: every task, or the paper's tables of negation, of affirmation, of the gap."),
    ] = "tasks",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Also every difference: .csv; or a plot (of traces, their difference map): .pdf, ...; of traces also "
            "the comparison itself: .safetensors; or a page: .html.",
        ),
    ] = None,
    pairing: Annotated[
        Literal["auto", "id", "order", "none"],
        typer.Option(
            help="Traces: pair what is the same item; all of equal id and group, whatever their wording and target; "
            "by place; or never."
        ),
    ] = "auto",
    segment: Annotated[
        Literal["correct", "ambiguous", "incorrect", "all"] | None,
        typer.Option(
            help="Traces: which pairs enter; those that both models get right by default.", show_default=False
        ),
    ] = None,
    align: Annotated[
        Literal["role", "quantmeyer", "position"], typer.Option(help="Traces: what a row of the map is.")
    ] = "role",
    aggregate: Annotated[
        Literal["sum", "max", "mean", "std", "differing", "pooled", "std_from_differing"],
        typer.Option(help="Traces: how a layer's tokens become one number."),
    ] = "sum",
    reduce: Annotated[
        Literal["ratio_of_means", "mean_of_ratios", "median"], typer.Option(help="Traces: how pairs are combined.")
    ] = "ratio_of_means",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare models on the items that all were scored on: paired differences, intervals, McNemar's test, q values.

    Of two traces: differences of maps, profiles and layer weights, with intervals, q values and rank agreement.

    Example:  tracescribe compare clip.csv nast.csv --table latex -o differences.pdf
    """
    if out is not None:
        check_output(out, (".csv", *DRAWN, *OF_TRACES), inputs=items)
    from ..io.tensors import is_tensor_file

    traces = [is_tensor_file(path) for path in items]
    if any(traces):
        if not all(traces) or len(traces) != 2:
            raise OptionError(f"compare takes two traces, or files of items: {sum(traces)} of {len(items)} are traces")
        if table != "text" or layout != "tasks":
            option = f"--layout {layout}" if table == "text" else f"--table {table}"
            raise OptionError(f"{option} is of items: a comparison of traces is written with -o differences.csv")
        options = {"pairing": pairing, "segment": segment, "align": align, "aggregate": aggregate, "reduce": reduce}
        _compare_traces(items[0], items[1], out, json, seed=seed, **options)
        return
    if out is not None and out.suffix.lower() in OF_TRACES:
        raise OptionError(f"--out {str(out)!r} is of traces: a comparison of items is written as .csv or drawn")
    if pairing != "auto":
        raise OptionError(f"--pairing {pairing} is of traces: items are paired by their task and id")
    defaults = {"segment": (segment, None), "align": (align, "role"), "aggregate": (aggregate, "sum")}
    for name, (value, default) in {**defaults, "reduce": (reduce, "ratio_of_means")}.items():
        if value != default:
            raise OptionError(f"--{name} {value} is of traces: items have no map")
    from ..benchmark import compare as compare_models

    with working(json, f"comparing {len(items)} models"):
        found = compare_models(*items, seed=seed)
        plain = table == "text" and layout == "tasks"
        text = found.summary() if plain else found.table(table, layout)  # before anything is written
        if out is not None and out.suffix == ".csv":
            write_csv(found.to_frame(), out)
        elif out is not None:
            found.plot(out)
    if found.unpaired and not plain:  # a table has no line for it, and its reader must know
        typer.echo(f"{found.unpaired} items were not scored by every model and are left out", err=True)
    document = {"models": found.models, "unpaired": found.unpaired, "gaps": [asdict(gap) for gap in found.gaps]}
    show(json, document | {"differences": _records(found)}, text)


def _compare_traces(first: Path, second: Path, out: Path | None, json: bool, **options: Any) -> None:
    from ..tracer import compare as compare_traces

    with working(json, "comparing 2 traces"):
        found = compare_traces(first, second, **options)
        if out is not None and out.suffix.lower() == ".csv":
            write_csv(found.to_frame(), out)
        elif out is not None:
            {".safetensors": found.save, ".html": found.report}.get(out.suffix.lower(), found.export)(out)
    agreement = {name: getattr(found, name).rank_agreement for name in ("cells", "profile", "alpha")}
    document = {
        "names": found.names,
        "paired": found.paired,
        "matching": found.matching,
        "n_pairs": found.n_pairs,
        "interpolated": found.interpolated,
        "rank_agreement": agreement,
        "differences": _records(found),
    }
    show(json, document, found.summary(), *([] if out is None else [f"saved {out}"]))


def _records(found: Any) -> list[dict[str, Any]]:
    rows = found.to_frame().astype(object)
    return list(rows.where(rows.notna(), None).to_dict(orient="records"))
