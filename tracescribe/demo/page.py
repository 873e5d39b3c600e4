"""The demo's report page: what was found, what helped, and what did not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .verdicts import COLUMNS, LEGEND, compare, directions, gap_with_noise, sentences, table_rows

if TYPE_CHECKING:
    from ..tracer import CausalTrace
    from ..viz import Report, Section
    from .result import DemoResult


def curves(result: DemoResult) -> dict[str, CausalTrace]:
    """The profiles that belong beside each other: negation, its control, and negation after training."""
    return {"negation": result.trace, "side and severity swaps": result.control, "negation, trained": result.after}


def demo_page(result: DemoResult) -> Report:
    """The page for `tracescribe.viz.report`."""
    from .. import __version__
    from ..viz import Report

    verdicts = sentences(result)
    plan = result.plan
    trained = {name: [run.scores for run in result.of(name)] for name in ("uniform", "NAST")}
    peak = f"layer {plan.order[0]} of {plan.n_blocks}"
    facts = [
        ("negation gap before", gap_with_noise([result.before])),
        ("after uniform training", gap_with_noise(trained["uniform"])),
        ("CTE-weighted against uniform training", compare(trained["NAST"], trained["uniform"]).short),
        ("peak of CTE", f"{peak}, uncertain" if plan.warnings else peak),
    ]
    return Report(
        title="Trace, prescribe, fine-tune, trace again",
        lead=" ".join((verdicts[0], verdicts[1], verdicts[3])),
        sections=[_films(result), _trace(result), _plan(result), _training(result, verdicts), _again(result)],
        facts=facts,
        footer=(
            f"tracescribe {__version__}, demo, seed {result.seed}: {result.sizes.films} films, {result.sizes.steps} "
            f"steps, {result.sizes.seeds} seeds a way of training, {result.seconds:.0f} s. {result.trace.summary()}"
        ),
    )


def _films(result: DemoResult) -> Section:
    from ..viz import Picture, Section

    says = "; ".join(f"({number}) {film.caption.rstrip('.')}" for number, film in enumerate(result.films, start=1))
    return Section(
        "A miniature that overlooks “no”",
        text=[
            "The miniature is a CLIP of 8 text layers, trained from scratch on procedural chest films whose captions "
            "seldom say “no”. It reads findings well and negation hardly at all, as large models do. Nothing here is a "
            "radiograph of a person.",
        ],
        images=[Picture([film.png for film in result.films], caption=f"Phantom films and their captions: {says}")],
    )


def _trace(result: DemoResult) -> Section:
    from .. import viz

    sides = {f"the {which} caption says “no”": trace for which, trace in directions(result).items()}
    first = {"negation": result.trace, "side and severity swaps": result.control}
    return viz.Section(
        "Where the difference is carried",
        text=[
            "Each cell puts one hidden state of the foil (layer, token) into the run of the correct caption. 1: this "
            "state alone decides the whole difference between the two captions; 0: it changes nothing. "
            + result.trace.summary()
        ],
        notes=[
            viz.Note(
                "Layer 0 and the last layer sum to 1 by construction, and any differing token leaves such a path: only "
                "what exceeds the control swaps is about negation.",
                kind="caution",
            )
        ],
        figures=[
            viz.Plot(viz.heatmap(result.trace), caption="CTE by layer and token role, pairs of “severe X” and “no X”."),
            viz.Plot(viz.profile(first), caption="The same by layer, beside swaps of side and severity as control."),
            viz.Plot(viz.profile(sides), caption="The two directions apart: which caption is the negated one."),
        ],
    )


def _plan(result: DemoResult) -> Section:
    from .. import viz

    plan = result.plan
    rows = [
        [
            index + 1,
            float(alpha),
            "" if plan.ci is None else f"{plan.ci[index, 0]:.2f} … {plan.ci[index, 1]:.2f}",
            float(plan.multipliers[index]),
        ]
        for index, alpha in enumerate(plan.alpha)
    ]
    return viz.Section(
        "From CTE to layer weights",
        text=["alpha is CTE summed over tokens, stretched to 0…1 over the blocks; the weights are alpha to the beta."],
        tables=[viz.Table(["block", "alpha", "95 % interval", f"alpha^{plan.beta:g}"], rows)],
        notes=[viz.Note(line, kind="caution") for line in plan.warnings],
        code=['plan = ts.load_plan("plan.json")\noptimizer = AdamW(plan.param_groups(model.source, lr=1e-4))'],
    )


def _training(result: DemoResult, verdicts: list[str]) -> Section:
    from .. import viz

    return viz.Section(
        "Fine-tuning, with its controls",
        text=verdicts[:7],
        tables=[viz.Table(list(COLUMNS), table_rows(result), caption=LEGEND, highlight=[2])],
        notes=[
            "All runs see the same batches in the same order and start from the same adapters; weights have mean 1, so "
            "that they differ from uniform training in where the change goes and not in how much of it there is."
        ],
    )


def _again(result: DemoResult) -> Section:
    from .. import viz

    both = {"before": result.trace, "after CTE-weighted training": result.after}
    return viz.Section(
        "Traced again",
        text=[sentences(result)[-1]],
        figures=[viz.Plot(viz.profile(both), caption="The negation pairs before and after training.")],
        code=["tracescribe demo --out demo"],
    )
