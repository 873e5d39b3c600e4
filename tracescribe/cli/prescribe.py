"""`prescribe`: computes layer weights from a trace."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .common import Json, Seed, announce, check_output, show, table, working

if TYPE_CHECKING:
    from rich.table import Table

    from ..finetune import Prescription


def prescribe(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE",
            help="A saved trace, or a circuit (.json).",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the plan goes: a .json file.")],
    beta: Annotated[float, typer.Option(help="Exponent of alpha; 0 trains uniformly.")] = 1.0,
    aggregate: Annotated[
        Literal["sum", "max", "mean", "std", "differing", "pooled", "std_from_differing"],
        typer.Option(help="How a layer's tokens become one number."),
    ] = "sum",
    normalize: Annotated[
        Literal["minmax", "max", "mean", "softmax", "rank", "floor", "none"],
        typer.Option(help="How CTE becomes alpha."),
    ] = "minmax",
    layers: Annotated[
        Literal["blocks", "inner"],
        typer.Option(help="inner leaves the last block's value, fixed by construction, out."),
    ] = "blocks",
    by: Annotated[
        Literal["trace", "front", "decay", "random", "uniform", "permuted", "inverse"],
        typer.Option(help="What the blocks are chosen by: the trace, or a rival or control for as many blocks."),
    ] = "trace",
    k: Annotated[int | None, typer.Option("--k", min=1, help="Blocks that train, with --by front or random.")] = None,
    decay: Annotated[float | None, typer.Option(help="Rate of a block over the next one's, with --by decay.")] = None,
    budget: Annotated[
        Literal["none", "mean"], typer.Option(help="mean scales the multipliers to mean 1, as uniform training has.")
    ] = "none",
    ci: Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the interval of alpha.")] = 0.95,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Turn a trace into per-layer training weights (alpha ** beta), with the doubts that go with them.

    Example:  tracescribe prescribe trace.safetensors -o plan.json --beta 2
    """
    check_output(output, (".json",), inputs=[trace])
    announce(json)
    from ..finetune import prescribe as make_plan
    from ..finetune.prescription.plan import check_beta
    from ..finetune.prescription.selectors import check_by
    from ..tracer import load_circuit, load_trace

    check_beta(beta)
    check_by(by, k, decay)
    with working(json, f"reading {trace}"):
        plan = make_plan(
            (load_circuit if trace.suffix.lower() == ".json" else load_trace)(trace),
            by=by,
            beta=beta,
            aggregate=aggregate,
            normalize=normalize,
            layers=layers,
            budget=budget,
            ci=ci,
            seed=seed,
            k=k,
            decay=decay,
        )
        plan.save(output)
    document = {
        "output": output,
        "alpha": plan.alpha,
        "beta": plan.beta,
        "multipliers": plan.multipliers,
        "ci": plan.ci,
        "stability": None if plan.stability is None else asdict(plan.stability),
        "agreement": None if plan.agreement is None else asdict(plan.agreement),
        "warnings": plan.warnings,
    }
    show(json, document, plan_table(plan), *(f"note: {line}" for line in plan.warnings), f"saved {output}")


def plan_table(plan: Prescription) -> Table:
    """The plan as a table: alpha with its interval, and the multiplier with a bar."""
    rows = []
    for index, alpha in enumerate(plan.alpha):
        spread = "" if plan.ci is None else f"{plan.ci[index, 0]:.2f} … {plan.ci[index, 1]:.2f}"
        multiplier = float(plan.multipliers[index])
        bar = "█" * round(24 * multiplier / max(float(plan.multipliers.max()), 1e-12))
        rows.append([str(index + 1), f"{alpha:.3f}", spread, f"{multiplier:.3f}", bar])
    drawn = table(["block", "alpha", "CI", f"alpha^{plan.beta:g}", ""], rows)
    drawn.columns[-1].justify = "left"
    return drawn
