"""Time our training step against a plain open_clip + peft loop, in one run on one thread.

    python perf/bench_train.py            # the miniature and a random ViT-B/32; minutes
    python perf/bench_train.py --quick    # the miniature alone, seconds: does the benchmark itself work?

Both must show the same losses before a time is reported. The ways take turns. Seconds are CPU seconds of this process,
which other programs on the machine disturb least. The plain loop is what one writes by hand, and it is granted what is
easily had: decoded images in memory and texts tokenised once.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch and numpy read them

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measuring import Timing, random_clip
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tracescribe as ts
from tracescribe.benchmark import read_captions, read_claims
from tracescribe.benchmark.phantom.dataset import build_phantom
from tracescribe.finetune import TrainConfig, attach_lora, claim_loss, clip_loss, lora_config, nast_loss
from tracescribe.finetune.training.data import Batch, TrainingData, training_data

LOSS_TOLERANCE = 1e-3  # relative, over three steps; the ways differ in order of summation only
PLAIN, CACHED, OURS = "plain loop", "plain loop, images cached", "ours"
UPPER = ", adapters in the upper half of the blocks"


@dataclass(frozen=True)
class Size:
    """Captions in a batch (and as many contrast sets), and steps a turn."""

    batch: int
    plain_steps: int
    our_steps: int


MODELS = {"miniature": Size(32, 3, 25), "ViT-B/32": Size(8, 1, 9)}


# what is timed --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """A model with what either way trains it on."""

    name: str
    model: ts.DualEncoder
    data: TrainingData
    pixels: Tensor  # image i of data.images
    upper: ts.Prescription  # weights that leave adapters in the upper half of the blocks
    config: TrainConfig

    def batches(self, steps: int) -> list[Batch]:
        """The batches that our loop sees, with numbers of images in the place of their embeddings."""
        numbered = replace(self.data, images=torch.arange(len(self.data.images))[:, None])
        return list(numbered.batches(self.config.batch_size, steps, self.config.seed))


def build_case(name: str, films: int) -> Case:
    """The miniature on phantom films, or a random ViT-B/32 with random pixels and the same texts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        build_phantom(folder, films)
        captions, claims = read_captions(folder / "captions.jsonl"), read_claims(folder / "claims.jsonl")
        paths = list(dict.fromkeys(str(record.image) for record in [*captions, *claims]))
        if name == "miniature":
            model = ts.load("phantom")
            pixels = torch.stack([model.image.pixels(path) for path in paths])
        else:
            model = random_clip(quick=False)[1]
            pixels = torch.randn(len(paths), 3, 224, 224)
        known = dict(zip(paths, model.encode_images(pixels), strict=True))
        data = training_data(model, captions, claims, image_embeddings=known)
    n = model.text.n_layers
    upper = ts.finetune.Prescription((np.arange(n) >= n / 2).astype(float))
    return Case(name, model, data, pixels, upper, TrainConfig(batch_size=MODELS[name].batch, lr=1e-3))


class PlainLoop:
    """open_clip + peft + AdamW, every image and every text of a batch at every step."""

    def __init__(self, case: Case, *, cached: bool = False, upper: bool = False, exact: bool = False) -> None:
        """exact: the adapter of out_proj gets all of its gradient; peft's own layer passes on half of it."""
        self.case, self.cached, config = case, cached, case.config
        source = deepcopy(case.model.source).requires_grad_(False).eval()
        plan, mode = (case.upper, "mask") if upper else (None, None)
        settings = lora_config(source, plan, mode, r=config.rank, lora_alpha=config.lora_alpha)  # type: ignore[arg-type]
        adapted: nn.Module = attach_lora(source, settings, config.seed) if exact else get_peft_model(source, settings)
        self.clip = adapted.get_base_model()  # type: ignore[operator]
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
        context = case.model.text.context_length - case.data.tokens.shape[1]
        self.tokens = nn.functional.pad(case.data.tokens, (0, context), value=case.model.text.tokenizer.pad_id)

    def step(self, batch: Batch) -> float:
        unit, n = partial(nn.functional.normalize, dim=-1), len(batch.caption)
        chosen = torch.cat([batch.caption_image, batch.claim_image])[:, 0]
        images = (
            self.case.data.images[chosen] if self.cached else unit(self.clip.encode_image(self.case.pixels[chosen]))
        )
        texts = unit(self.clip.encode_text(self.tokens[torch.cat([batch.caption, batch.claims.flatten()])]))
        scale, claims = self.case.model.logit_scale, texts[n:].unflatten(0, batch.claims.shape)
        loss = nast_loss(
            clip_loss(images[:n], texts[:n], scale),
            claim_loss(images[n:], claims, batch.label, scale, batch.present),
            self.case.config.lambda_,
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def our_losses(case: Case, steps: int, timing: list[float] | None = None, upper: bool = False) -> list[float]:
    """Losses of our loop's first steps; ``timing`` gets the CPU seconds of each but the first."""
    ends: list[float] = []
    masked = {"plan": case.upper, "lora_mode": "mask", "budget": "none"} if upper else {}
    config = case.config.model_copy(update={"steps": steps, **masked})
    result = ts.finetune.train(
        config,
        case.model,
        data=case.data,
        callbacks=[lambda step: ends.append(time.process_time())],
        progress=False,
    )
    if timing is not None:
        timing += [end - start for start, end in pairwise(ends)]
    return result.history.loss.tolist()


def scaling_seconds(case: Case, repeats: int) -> dict[str, float]:
    """CPU seconds that each way to apply a plan adds to a step: to the optimiser's, or to the gradients'."""
    plan = ts.finetune.Prescription(np.linspace(0.5, 1.5, case.model.text.n_layers))

    def step(mode: str) -> Callable[[], None]:
        source = deepcopy(case.model.source)
        source = attach_lora(source, lora_config(source, r=case.config.rank))
        trained = [parameter for parameter in source.parameters() if parameter.requires_grad]
        groups = plan.param_groups(source, case.config.lr) if mode == "lr" else trained
        optimizer = torch.optim.AdamW(groups, lr=case.config.lr, fused=True)
        if mode in ("update", "gradient"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that AdamW cancels scaled gradients is known here
                plan.attach(source, optimizer, mode=mode)  # type: ignore[arg-type]
        ones = [torch.ones_like(parameter) for parameter in trained]

        def run() -> None:
            optimizer.zero_grad()
            torch.autograd.backward([parameter * 1 for parameter in trained], ones)
            optimizer.step()

        return run

    steps = {mode: step(mode) for mode in ("uniform", "lr", "update", "gradient")}
    times = {mode: Timing() for mode in steps}
    for _ in range(repeats):
        for mode, run in steps.items():
            times[mode].run(run)

    def added(mode: str) -> float:
        return statistics.median(a - b for a, b in zip(times[mode].cpu, times["uniform"].cpu, strict=True))

    return {mode: added(mode) for mode in steps if mode != "uniform"}


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, attention and convolutions that ``run`` makes."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# measuring ------------------------------------------------------------------------------------------------------------


@dataclass
class Results:
    """Seconds a step by way and turn; GFLOP and rows a step by way; largest relative difference of a loss."""

    case: Case
    seconds: dict[str, list[float]]
    gflop: dict[str, float]
    rows: dict[str, int]
    difference: float
    scaling: dict[str, float]
    memory: dict[str, float | None]


def measure(name: str, *, quick: bool, turns: int) -> Results:
    """Train by every way in turn.

    Raises:
        AssertionError: the ways show different losses.
    """
    torch.set_num_threads(1)
    case = build_case(name, 60 if quick else 120)
    checked, plain = case.batches(3), PlainLoop(case, exact=True)
    expected = np.array([plain.step(batch) for batch in checked])
    difference = float(np.abs(np.array(our_losses(case, 3)) / expected - 1).max())
    assert difference <= LOSS_TOLERANCE, f"our losses differ from the plain loop's by {difference:.1e}"

    texts = torch.cat([checked[1].caption, checked[1].claims.flatten()])
    rows = {
        PLAIN: len(texts) * case.model.text.context_length,
        OURS: int(case.data.lengths[texts.unique()].sum()),
    }
    gflop = {
        PLAIN: operations(lambda: plain.step(checked[1])) / 1e9,
        OURS: (operations(lambda: our_losses(case, 2)) - operations(lambda: our_losses(case, 1))) / 1e9,
    }
    loops = {
        PLAIN: PlainLoop(case),
        CACHED: PlainLoop(case, cached=True),
        PLAIN + UPPER: PlainLoop(case, upper=True),
    }
    size = MODELS[name]
    batches = case.batches(size.plain_steps * turns)
    seconds: dict[str, list[float]] = {way: [] for way in [*loops, OURS, OURS + UPPER]}
    for turn in range(turns):
        for way, loop in loops.items():
            timing = Timing()
            for batch in batches[size.plain_steps * turn : size.plain_steps * (turn + 1)]:
                timing.run(partial(loop.step, batch))
            seconds[way].append(min(timing.cpu))  # the figure that is kinder to the peer
        for way in (OURS, OURS + UPPER):
            found: list[float] = []
            our_losses(case, size.our_steps, found, upper=way.endswith(UPPER))
            seconds[way].append(statistics.median(found))
    memory = {way: None if quick else peak_memory(name, way) for way in (PLAIN, OURS)}
    return Results(case, seconds, gflop, rows, difference, scaling_seconds(case, 20 if quick else 200), memory)


def peak_memory(name: str, way: str) -> float | None:
    """MiB that two steps need above the loaded model and data, in a process of its own; None where Linux is not."""
    command = [sys.executable, __file__, "--memory", name, way]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(out[-1]) if out and out[-1] != "None" else None


def measure_memory(name: str, way: str) -> float | None:
    case = build_case(name, 60)
    loop = PlainLoop(case) if way == PLAIN else None
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def mebibytes(field: str) -> float:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1024

    reset.write_text("5")  # the peak starts again at what is held now
    before = mebibytes("VmRSS")
    if loop is not None:
        for batch in case.batches(2):
            loop.step(batch)
    else:
        our_losses(case, 2)
    return mebibytes("VmHWM") - before


# the report -----------------------------------------------------------------------------------------------------------


def report(results: list[Results]) -> str:
    """The results as a section of Markdown."""
    lines = [
        "## A training step against a plain loop",
        "",
        "LoRA (r = 4, every linear layer of the text blocks), AdamW, L_CLIP on n captions and L_claim on n sets of "
        "four claims about phantom films; texts repeat in a batch as they do in these data. The plain loop is "
        "open_clip + peft as one writes it by hand: it encodes every image and every text, in its full context, at "
        "every step; pixels and token ids are in memory. Seconds are CPU seconds a step, median and range over the "
        "turns; of a turn the plain loop's fastest step counts, and the median of ours. A ratio is the median of the "
        "turns' ratios, and (in brackets) their range. GFLOP are what torch counts in products, attention and "
        "convolutions.",
    ]
    for found in results:
        lines += ["", f"### {found.case.name}, n = {found.case.config.batch_size}", "", *_table(found)]
    return "\n".join([*lines, ""])


def _table(found: Results) -> list[str]:
    lines = ["| way | s a step | range | steps/s over the plain loop |", "|---|---|---|---|"]
    for way, seconds in found.seconds.items():
        peer = found.seconds[PLAIN + UPPER if way.endswith(UPPER) else PLAIN]
        ratios = [theirs / ours for theirs, ours in zip(peer, seconds, strict=True)]
        against = f"{statistics.median(ratios):.1f}× ({min(ratios):.1f}–{max(ratios):.1f})"
        lines.append(
            f"| {way} | {statistics.median(seconds):.3g} | {min(seconds):.3g}–{max(seconds):.3g} | "
            f"{'–' if peer is seconds else against} |"
        )
    ours = statistics.median(found.seconds[OURS])
    shares = ", ".join(f"`{mode}` {added / ours:.2%}" for mode, added in found.scaling.items())
    memory = {way: "not measured" if size is None else f"{size:.0f} MiB" for way, size in found.memory.items()}
    return [
        *lines,
        "",
        f"A step of the plain loop takes {found.gflop[PLAIN]:.3g} GFLOP over {found.rows[PLAIN]:,} token rows, of ours "
        f"{found.gflop[OURS]:.3g} GFLOP over {found.rows[OURS]:,} (distinct texts, no padding). "
        f"Peak memory above model and data: {memory[PLAIN]}, and {memory[OURS]} (which includes the copy of the model "
        "that training works on, its merged twin at the end, and their checks). "
        f"Losses of the first three steps agree within {max(found.difference, 1e-7):.0e} (relative; "
        "peft's doubled out_proj adapter counted once).",
        "",
        f"Layer-wise scaling adds to our step: {shares}.",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the miniature alone and few turns")
    parser.add_argument("--turns", type=int, default=3, help="turns of every way (default 3)")
    parser.add_argument("--out", type=Path, help="where the section is written")
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "WAY"), help="print one way's peak memory and stop")
    options = parser.parse_args(arguments)
    if options.memory:
        print(measure_memory(*options.memory))
        return
    names = ["miniature"] if options.quick else list(MODELS)
    results = [measure(name, quick=options.quick, turns=1 if options.quick else options.turns) for name in names]
    page = report(results)
    print(page)
    out = options.out
    if out is not None:
        out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
