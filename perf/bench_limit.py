"""How close a trace comes to the machine's limit, by length of the text and size of the tower: a table and a chart.

    python perf/bench_limit.py --out FOLDER/bench_limit.md    # the chart goes beside it

The limit is the operations that the engine has to run (`docs/speed.md`) at the rate of the tower's own block products,
measured in turn with the traces.
"""

from __future__ import annotations

from measuring import Timing, block_products, random_clip, write_section

# isort: split
import gc
import statistics
from dataclasses import dataclass
from functools import partial
from itertools import islice, permutations
from pathlib import Path
from typing import Any

from flops import trace_flops

from tracescribe.patching import PatchingEngine, TextTower

LENGTHS = (6, 10, 16, 24, 40, 77)
TOWERS = {  # the text towers of open_clip's models of these names
    "ViT-B/32": {"width": 512, "heads": 8, "layers": 12},
    "ViT-L/14": {"width": 768, "heads": 12, "layers": 12},
    "ViT-H/14": {"width": 1024, "heads": 16, "layers": 24},
    "ViT-bigG/14": {"width": 1280, "heads": 20, "layers": 32},
}
TINY = {"tiny": {"width": 64, "heads": 2, "layers": 2}, "tinier": {"width": 32, "heads": 2, "layers": 3}}
MOST_PAIRS = 16
LARGE, LARGER = 1024, 4  # towers of this width and more may take so many times the operations: each pair needs more
BLOCKS = 3  # whose weights, more than a cache holds, the rate is measured with
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito 2008: told apart by colour-blind readers
MARKERS = "osD^"


@dataclass
class Point:
    """What was traced at one length, and how long it took over the limit, turn by turn."""

    n_tokens: int
    pairs: int
    first_difference: int
    gflop: float
    over_limit: list[float]


def token_rows(
    engine: PatchingEngine, n_tokens: int, budget: float
) -> tuple[list[list[int]], list[list[int]], int, float]:
    """As many pairs (up to MOST_PAIRS), and in them as early a differing token, as ``budget`` operations allow.

    An early difference is what costs: every row from there on is run for every layer. So long texts of large towers
    differ late, as in a long report whose last finding is negated.
    """
    tower = engine.tower
    assert isinstance(tower, TextTower)
    sot, *_, eot = tower.token_ids("a")
    words = [tower.token_ids(word)[1] for word in ("no", "severe", "mild", "small", "large", "left")]
    filler = tower.token_ids("the")[1]

    def texts(at: int, count: int) -> tuple[list[list[int]], list[list[int]], float]:
        """Pairs, and the operations of the batches that the engine makes of them."""
        swaps = list(islice(permutations(words, 2), count))
        base, donor = (
            [[sot, *[filler] * (at - 1), swap[side], *[filler] * (n_tokens - at - 2), eot] for swap in swaps]
            for side in (0, 1)
        )
        shards = engine.prepare(base, donor).shards
        needed = [trace_flops(tower, *([side[i] for i in shard] for side in (base, donor))) for shard in shards]
        return base, donor, float(sum(needed))

    at = next((p for p in range(min(3, n_tokens - 2), n_tokens - 2) if texts(p, 1)[2] <= budget), n_tokens - 2)
    count = max((c for c in range(1, MOST_PAIRS + 1) if texts(at, c)[2] <= budget), default=1)
    base, donor, operations = texts(at, count)
    return base, donor, at, operations


def measure(*, quick: bool, repeats: int, gflop: int) -> dict[str, tuple[float, list[Point]]]:
    """For each tower, the rate of its block products (operations a second) and a point at each length."""
    found = {}
    for name, text in (TINY if quick else TOWERS).items():
        _, dual = random_clip(quick, **text)
        tower = dual.text
        engine = PatchingEngine(tower)
        products, operations = block_products(tower, 64 if quick else 1024, BLOCKS)
        rates, points = [], []
        for n_tokens in LENGTHS:
            budget = 1e7 if quick else gflop * 1e9 * (LARGER if tower.d_model >= LARGE else 1)
            base, donor, at, needed = token_rows(engine, n_tokens, budget)
            run: Any = partial(engine.patch, base, donor, checks=0)
            if n_tokens == LENGTHS[0]:
                run(), products()  # once before the clock
            over = []
            for _ in range(repeats):
                trace, rate = Timing(), Timing()
                rate.run(products)
                trace.run(run)
                rate.run(products)
                rates.append(operations / min(rate.cpu))
                over.append(trace.cpu[0] * rates[-1] / needed)
            points.append(Point(n_tokens, len(base), at, needed / 1e9, over))
        found[name] = statistics.median(rates), points
        del dual, tower, engine, products
        gc.collect()
    return found


def chart(found: dict[str, tuple[float, list[Point]]], path: Path) -> None:
    """Time over the limit against the number of tokens, one line a tower; bars span the turns."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"svg.hashsalt": "tracescribe", "svg.fonttype": "none", "font.size": 10}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for (name, (_, points)), color, marker in zip(found.items(), COLORS, MARKERS, strict=False):
            middle = [statistics.median(point.over_limit) for point in points]
            text = (TINY | TOWERS)[name]
            axes.errorbar(
                [point.n_tokens for point in points],
                middle,
                yerr=[
                    [m - min(p.over_limit) for m, p in zip(middle, points, strict=True)],
                    [max(p.over_limit) - m for m, p in zip(middle, points, strict=True)],
                ],
                color=color,
                marker=marker,
                markersize=5,
                linewidth=1.5,
                capsize=2,
                label=f"{name}: {text['layers']} layers, width {text['width']}",
            )
        beside = axes.get_yaxis_transform()  # right of the data, which come close to both lines
        axes.axhline(1, color="black", linewidth=1)
        axes.text(1.01, 1, "the limit", va="center", fontsize=9, transform=beside)
        axes.axhline(1.25, color="0.5", linewidth=0.8, linestyle="--")
        axes.text(1.01, 1.25, "80 % of\nthe rate", va="center", fontsize=9, color="0.35", transform=beside)
        axes.set_xscale("log")
        axes.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
        axes.minorticks_off()
        axes.set_ylim(bottom=0.9)
        axes.set_xlabel("tokens of the text")
        axes.set_ylabel("time over the limit")
        axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
        axes.set_ylim(top=axes.get_ylim()[1] * 1.15)  # room for the legend
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def section(quick: bool, out: Path | None, *, repeats: int, gflop: int) -> str:
    found = measure(quick=quick, repeats=1 if quick else repeats, gflop=gflop)
    picture = []
    if out is not None:
        chart(found, out / "limit.svg")
        picture = ["![Time over the limit, by tokens and tower](limit.svg)", ""]
    rows = [
        f"| {name} | {point.n_tokens} | {point.pairs} | {point.first_difference + 1} | {point.gflop:.3g} | "
        f"{statistics.median(point.over_limit):.2f} ({min(point.over_limit):.2f}–{max(point.over_limit):.2f}) | "
        f"{1 / statistics.median(point.over_limit):.0%} |"
        for name, (_, points) in found.items()
        for point in points
    ]
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, (rate, _) in found.items())
    return "\n".join(
        [
            "## Time over the limit, by length and tower",
            "",
            *picture,
            "Random towers, fp32, one thread, the engine without self-checks. The limit is the engine's "
            "operations (`docs/speed.md`) at the rate of the tower's block products at 1024 rows, measured around "
            f"every trace (GFLOP/s: {rates}). Each point traces as many pairs (up to {MOST_PAIRS}), with as early a "
            f"differing token, as {gflop} GFLOP allow ({LARGER * gflop} at widths from {LARGE} on). Median and range "
            "over the turns.",
            "",
            "| tower | tokens | pairs | differing token | GFLOP | time over the limit | share of the rate |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=2, gflop=200)


if __name__ == "__main__":
    main()
