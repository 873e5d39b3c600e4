"""Runs the demo: trace, look, prescribe, fine-tune with controls, score, trace again."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.folders import MANIFEST, check_folder, write_folder
from ..threads import threads
from .arms import ARMS, Task, run_arms, schedule
from .result import DemoResult, Film, Sizes

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer import CausalTrace

FORMAT = "tracescribe.demo/1"
DECIMALS = 4  # of the plan's weights: training that differs in the seventh differs by points in the end

Notify = Callable[[str, int, int], None]


def check_demo_folder(out: str | Path, *, overwrite: bool = False) -> Path:
    """The folder, if a demo can be written there; raises OutputError otherwise."""
    return check_folder(out, FORMAT, overwrite=overwrite)


def run_demo(
    out: str | Path,
    *,
    sizes: Sizes | None = None,
    seed: int = 0,
    overwrite: bool = False,
    processes: int = 1,
    notify: Notify = lambda what, done, total: None,
) -> DemoResult:
    """Run everything and write the folder ``out``: figures, trace, plan, scores, a report page and a manifest.

    Training films and test films are of different patients; the trace sees no test film. The folder appears with
    everything in it, or not at all.

    overwrite: replace an earlier demo, if the folder holds nothing else.
    processes: how many fine-tuning runs go on at once, each on one thread in a process of its own. With several, a
        script that calls this must do so under ``if __name__ == "__main__"``, as for any use of multiprocessing.
    notify: called with what is being done, how much of it is done, and how much there is.

    Raises OutputError when ``out`` holds something else or cannot be written.
    """
    from ..benchmark import embed_images, evaluate
    from ..benchmark.phantom import build_phantom
    from ..finetune import load_run, prescribe
    from ..finetune.training.data import training_data
    from ..patching import load
    from ..tracer import read_pairs

    started = time.perf_counter()
    sizes = sizes or Sizes()
    facts = {"seed": seed, "sizes": vars(sizes)}
    with (
        write_folder(out, FORMAT, overwrite=overwrite, facts=facts) as folder,
        tempfile.TemporaryDirectory() as scratch,
        threads(1),
    ):
        notify("loading the miniature", 0, 1)
        model = load("phantom")
        data = build_phantom(
            Path(scratch) / "data", sizes.films, seed, progress=lambda done: notify("drawing films", done, sizes.films)
        )

        pairs = read_pairs(data / "pairs.jsonl")
        negation = [pair for pair in pairs if pair.attribute == "existence"]
        swaps = [pair for pair in pairs if pair.attribute in ("severity", "location")]
        trace = _trace(model, negation, "tracing negation", notify)
        control = _trace(model, swaps, "tracing a control: severity and side swaps", notify)
        plan = prescribe(trace, seed=seed)
        plan = replace(plan, alpha=plan.alpha.round(DECIMALS))

        notify("scoring the untrained model", 0, 1)
        images = embed_images(model, data, split="test")
        before = evaluate(model, data, seed=seed, image_embeddings=images)
        batches = training_data(model, data / "captions.jsonl", data / "claims.jsonl", split="train")
        kept = Path(scratch) / "run"
        task = Task(ARMS[0], seed, plan, batches, sizes.steps, data, seed, images, before)
        tasks = [
            replace(task, arm=arm, run_seed=run_seed, keep=kept if (arm.name, run_seed) == ("NAST", seed) else None)
            for arm, run_seed in schedule(sizes.seeds, seed)
        ]
        runs = run_arms(tasks, processes, lambda done: notify("fine-tuning", done, len(tasks)))
        after = _trace(load_run(model, kept), negation, "tracing again", notify)

        notify("drawing", 0, 1)
        result = DemoResult(
            before=before,
            runs=tuple(runs),
            plan=plan,
            trace=trace,
            control=control,
            after=after,
            negated=tuple(str(pair.negation) for pair in negation),
            films=_films(Path(scratch) / "films", seed),
            sizes=sizes,
            seed=seed,
            seconds=time.perf_counter() - started,
            files=(),
        )
        files = _write(result, folder)
        notify("drawing", 1, 1)
    return replace(result, seconds=time.perf_counter() - started, files=files)


def _trace(model: DualEncoder, pairs: list[Any], what: str, notify: Notify) -> CausalTrace:
    from ..tracer import trace

    return trace(model, pairs, progress=lambda done, total: notify(what, done, total), keep_embeddings=False)


def _films(folder: Path, seed: int, n: int = 4) -> tuple[Film, ...]:
    """The first films of the demo's data set, drawn large enough for people."""
    from ..benchmark import read_captions
    from ..benchmark.phantom import build_phantom

    build_phantom(folder, n, seed, size=256)
    return tuple(
        Film(Path(record.image).read_bytes(), record.caption) for record in read_captions(folder / "captions.jsonl")
    )


def _write(result: DemoResult, folder: Path) -> tuple[str, ...]:
    """Every file of the demo; returns their names."""
    from .. import viz
    from .page import curves, demo_page
    from .verdicts import scores_as_dict

    trace = result.trace
    trace.save(folder / "trace.safetensors")
    result.control.save(folder / "control.safetensors")
    result.after.save(folder / "after.safetensors")
    result.plan.save(folder / "plan.json")
    viz.save_html(viz.heatmap(trace), folder / "heatmap.html")
    viz.export(trace, folder / "heatmap.pdf", width="column")
    viz.export(trace, folder / "heatmap.png", width="page")
    viz.export(curves(result), folder / "profile.pdf", width="column")
    viz.export(curves(result), folder / "profile.png", width="page")
    viz.report(folder / "report.html", demo_page(result))
    scores = {"format": FORMAT, "seconds": result.seconds, **scores_as_dict(result)}
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return (*sorted(path.name for path in folder.iterdir()), MANIFEST)
