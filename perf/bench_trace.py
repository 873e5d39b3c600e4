"""Time of our exact trace against other ways of tracing, and against the machine, in one run on one thread.

    python perf/bench_trace.py            # ViT-B/32, random weights; minutes
    python perf/bench_trace.py --quick    # a tiny tower, seconds: does the benchmark itself work?

Every way must return the same score maps within 2e-5 before a time of it is reported.
"""

from __future__ import annotations

from measuring import (
    CORRECT,
    FOIL,
    Timing,
    block_products,
    products_of,
    random_clip,
    spread,
    square_product,
    write_section,
)

# isort: split
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import least_flops, published_passes, trace_flops
from peers import LensPeer, NnsightPeers, PyvenePeer, published

import tracescribe as ts
from tracescribe.patching import PatchingEngine

TOLERANCE = 2e-5  # on a cosine; the ways differ in order of summation only, which gives about 1e-7
SEVERITIES = ("severe", "mild", "moderate", "small")  # the set uses the first; pairs of one length use all
CONDITIONS = (  # 7 to 10 tokens in either caption
    *("pneumonia", "consolidation", "fracture", "mass", "fibrosis", "congestion", "infection"),
    *("edema", "effusion", "opacity", "rib fracture"),
    *("emphysema", "nodule", "lung lesion"),
    *("pneumothorax", "pleural effusion"),
)
THE_SET, ONE_LENGTH, ONE = "the set", "pairs of one length", "one pair"
AS_IT_COMES, TRIMMED, TOGETHER = "full context", "trimmed", "trimmed, pairs together"
# The table's text says what each peer is given; "full context" is what its user has to run.
PEERS = ("published algorithm", "nnsight, a trace a patch", "nnsight, batched + skip", "TransformerLens", "pyvene")


@dataclass
class Way:
    """One way to trace some pairs."""

    pairs: Sequence[ts.Pair]
    run: Callable[[], Any]  # a CausalTrace, or S[pair, layer, token]
    turns: int


@dataclass
class Results:
    """Everything a run measured; times in seconds."""

    times: dict[tuple[str, str], Timing]  # by way and how it was run
    per_call: dict[tuple[str, str], int]  # pairs that one call of a way traces
    worst: dict[tuple[str, str], float]  # largest |S - ours| by peer
    spread: float  # max - min of S over a pair's cells: what that difference is to be compared with
    flops: dict[str, float]  # operations of a call, by set
    least: dict[str, float]  # and those without which it cannot be exact
    rates: dict[str, list[float]]  # operations a second
    products: dict[str, Timing]  # the engine's own matrix products alone, by set
    passes: dict[str, int]  # of the published algorithm: for the one pair, for a pair of the set on average


def measure(*, quick: bool = False, repeats: int = 5, slow: int = 2, conditions: int = 16) -> Results:
    """Trace the template pairs by every way in turn; the slowest ways run in ``slow`` turns only.

    Raises:
        AssertionError: a peer's map differs from ours, or the maps are too flat to tell.
    """
    model, dual = random_clip(quick)
    tower, pixels = dual.text, torch.randn(1, 3, *((32, 32) if quick else (224, 224)))
    image = dual.encode_images(pixels)[0]

    def pairs_of(chosen: Sequence[str], severities: Sequence[str]) -> list[ts.Pair]:
        return [
            ts.Pair(correct=CORRECT.format(c), foil=FOIL.format(s, c), image=image) for s in severities for c in chosen
        ]

    n = len(tower.token_ids(CORRECT.format(CONDITIONS[0])))  # tokens of the pairs that every way traces
    as_long = [c for c in CONDITIONS[:conditions] if len(tower.token_ids(CORRECT.format(c))) == n]
    sets = {
        THE_SET: pairs_of(CONDITIONS[:conditions], SEVERITIES[:1]),
        ONE_LENGTH: pairs_of(as_long, SEVERITIES),
        ONE: pairs_of(CONDITIONS[:1], SEVERITIES[:1]),
    }
    rows = {name: (tower.rows([p.correct for p in ps]), tower.rows([p.foil for p in ps])) for name, ps in sets.items()}
    engine, nnsight = PatchingEngine(tower), NnsightPeers(tower)
    ours = {name: partial(engine.patch, *rows[name], checks=0) for name in sets}
    ways: dict[tuple[str, str], Way] = {}
    for name, members in sets.items():
        ways["ours: ts.trace", name] = Way(
            members, partial(ts.trace, dual, members, progress=False, floor=0.0), repeats
        )
        ways["ours: engine, no self-checks", name] = Way(members, ours[name], repeats)
    peers: dict[str, Callable[..., Any]] = {PEERS[1]: nnsight.one_trace_per_patch, PEERS[2]: nnsight.batched_skip}
    peers[PEERS[3]] = LensPeer(tower)
    if PyvenePeer.available:
        peers[PEERS[4]] = PyvenePeer(tower)
    for name, peer in peers.items():
        for how in (AS_IT_COMES, TRIMMED, TOGETHER):
            members = sets[ONE_LENGTH if how == TOGETHER else ONE]
            encode = tower.tokenize if how == AS_IT_COMES else lambda texts: torch.tensor(tower.rows(texts))
            base, donor = encode([p.correct for p in members]), encode([p.foil for p in members])
            run = partial(peer, base, donor, image.expand(len(members), -1), n)
            ways[name, how] = Way(members, run, repeats if how == TRIMMED else slow)
    padded = tower.tokenize([sets[ONE][0].correct]), tower.tokenize([sets[ONE][0].foil])
    ways[PEERS[0], AS_IT_COMES] = Way(sets[ONE], partial(published, model, pixels, *padded, n), 1)

    expected = ts.trace(dual, sets[ONE_LENGTH], progress=False, floor=0.0).scores.patched
    s_range = float((expected.max(axis=(1, 2)) - expected.min(axis=(1, 2))).min())
    assert s_range > 50 * TOLERANCE, f"a score map is flat ({s_range:.1e}): agreement would mean nothing"
    products = {name: products_of(function) for name, function in ours.items()}
    machine = {
        "blocks": block_products(tower, 64 if quick else 1024),
        "square": square_product(128 if quick else 2048),
    }
    results = Results(
        times={name: Timing() for name in ways},
        per_call={name: len(way.pairs) for name, way in ways.items()},
        worst={},
        spread=s_range,
        flops={name: float(trace_flops(tower, *rows[name])) for name in sets},
        least={name: float(least_flops(tower, *rows[name])) for name in sets},
        rates={name: [] for name in machine},
        products={name: Timing() for name in sets},
        passes={name: round(float(np.mean([published_passes(tower, len(b)) for b in rows[name][0]]))) for name in sets},
    )
    for turn in range(repeats):
        for key, way in ways.items():
            if turn >= way.turns:
                continue
            found = results.times[key].run(way.run)
            found = found.scores.patched[..., :n] if isinstance(found, ts.CausalTrace) else found
            if isinstance(found, np.ndarray) and way.pairs is not sets[THE_SET]:
                worst = float(np.abs(found - expected[: len(found)]).max())
                results.worst[key] = max(results.worst.get(key, 0.0), worst)
                assert worst <= TOLERANCE, f"{', '.join(key)} differs from ours by {worst:.1e}"
        for name, run in products.items():
            results.products[name].run(run)
        for name, (run, operations) in machine.items():
            timing = Timing()
            for _ in range(3):
                timing.run(run)
            results.rates[name].append(operations / min(timing.cpu))
    return results


# the section ----------------------------------------------------------------------------------------------------------


def report(results: Results) -> str:
    """The results as Markdown."""
    times, per_call = results.times, results.per_call

    def over(peer: tuple[str, str], size: str) -> str:
        """Peer over ours, seconds a pair, turn by turn; a peer that ran in fewer turns, against our median."""
        key = "ours: ts.trace", size
        ours = [seconds / per_call[key] for seconds in times[key].cpu]
        theirs = [seconds / per_call[peer] for seconds in times[peer].cpu]
        if len(theirs) < len(ours):
            ours = [statistics.median(ours)] * len(theirs)
        return f"{statistics.median(a / b for a, b in zip(theirs, ours, strict=True)):.3g}×"

    rows = []
    for key, timing in times.items():
        cpu, size = [seconds / per_call[key] for seconds in timing.cpu], per_call[key]
        ratios = ("–", "–") if key[0].startswith("ours") else (over(key, ONE_LENGTH), over(key, ONE))
        worst = f"{results.worst[key]:.0e}" if key in results.worst else "–"
        rows.append(f"| {key[0]} | {key[1]} | {size} | {spread(cpu)} | {' | '.join(ratios)} | {worst} |")
    rate = {name: statistics.median(values) for name, values in results.rates.items()}
    limits = []
    for name, operations in results.flops.items():
        for way in ("ours: engine, no self-checks", "ours: ts.trace"):
            cpu = times[way, name].cpu
            products = statistics.median(
                products / everything for products, everything in zip(results.products[name].cpu, cpu, strict=True)
            )
            achieved = operations / statistics.median(cpu)
            limits.append(
                f"| {way} | {name} | {operations / per_call[way, name] / 1e9:.3g} | {achieved / 1e9:.3g} | "
                f"**{achieved / rate['blocks']:.0%}** | {achieved / rate['square']:.0%} | {products:.0%} | "
                f"{results.least[name] / operations:.0%} |"
            )
    a_pass = statistics.median(times[PEERS[0], AS_IT_COMES].cpu) / results.passes[ONE]
    published_seconds = a_pass * results.passes[THE_SET]
    ours = statistics.median(times["ours: ts.trace", THE_SET].cpu) / per_call["ours: ts.trace", THE_SET]
    return "\n".join(
        [
            "## Against peers",
            "",
            "A randomly initialised open_clip ViT-B/32, fp32, one thread; the image embedding is given to all but the "
            f'published algorithm. The set is {per_call["ours: ts.trace", THE_SET]} pairs "{CORRECT.format("X")}" / '
            f'"{FOIL.format("severe", "X")}" of 7 to 10 tokens; the {per_call["ours: ts.trace", ONE_LENGTH]} pairs of '
            f"one length are those of 7, with the foils {', '.join(SEVERITIES)}; the one pair is the first of them. "
            "Every peer returns our score maps within the difference shown "
            f"(S spans at least {results.spread:.3f} over a pair's cells). Seconds are CPU seconds a pair: median and "
            "range over the turns. `ts.trace` is the user's call, with self-checks and the hash of the weights.",
            "",
            f"What each peer is given: *{AS_IT_COMES}* is a peer around the model's text transformer, which takes 77 "
            f"tokens; *{TRIMMED}* gives it our tower, which runs the caption's own tokens; *{TOGETHER}* also gives it "
            "all pairs of one length as one batch. nnsight with skip runs no block before the patch. TransformerLens "
            "is `generic_activation_patch` on `model.text.to_transformer_lens()`, with fused attention. pyvene "
            "is `VanillaIntervention`, one pass a layer, a position a row, the donor's activations collected once"
            + ("." if (PEERS[4], TRIMMED) in times else " (not installed in this run: `pip install -e '.[perf]'`)."),
            "",
            "| way | run on | pairs a call | s a pair | over `ts.trace`, pairs together | over `ts.trace`, that pair "
            "alone | max difference in S |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"The published algorithm costs {a_pass:.2f} s a pass whatever the caption; over the set it would take "
            f"{results.passes[THE_SET]} passes, {published_seconds:.0f} s a pair "
            f"(derived, not run): **{published_seconds / ours:.0f}×** ours.",
            "",
            "## Against the limit",
            "",
            "Operations are those that the engine runs (derived in `docs/speed.md`), without self-checks."
            " The machine's rates in the same run: the four products of every block at "
            f"1024 rows, **{rate['blocks'] / 1e9:.0f} GFLOP/s** (what the shares in bold are of); a 2048³ product, "
            f"{rate['square'] / 1e9:.0f} GFLOP/s. Own products alone: the time that the engine's matrix products take "
            "when nothing else runs, over the whole time; what is missing to 100 % is norms, activations, attention, "
            "copies, hooks and Python. Demanded: the share of these operations without which no trace is exact.",
            "",
            "| way | pairs | GFLOP a pair | GFLOP/s | of the blocks' rate | of the square rate | own products alone "
            "| demanded |",
            "|---|---|---|---|---|---|---|---|",
            *limits,
            "",
        ]
    )


def section(quick: bool, out: Path | None, *, repeats: int, slow: int, conditions: int) -> str:
    return report(measure(quick=quick, repeats=2 if quick else repeats, slow=slow, conditions=conditions))


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=5, slow=2, conditions=len(CONDITIONS))


if __name__ == "__main__":
    main()
