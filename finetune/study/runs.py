"""Runs a study: one file per run, made once; a study that was stopped goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import explains_arguments
from ...errors import ArgumentError, DataFormatError, NonFiniteError, OutputError
from ...io.folders import file_hash
from ...io.quoting import shown, shown_path
from ...io.reading import is_file
from ...io.records import open_folder, read_record, write_record
from ...processes import run_beside
from ...progress import bars
from ...threads import threads
from ...validation import Whole, check_option
from ..apply.update_share import update_share
from ..prescription.io import load_plan
from ..training.config import TrainConfig
from ..training.data import TrainingData, training_data
from ..training.export import interpolate
from ..training.loop import train
from ..training.validation import BALANCED, summary
from .config import StudyConfig
from .records import FILES, scored_records, training_images, training_records
from .sources import Sources

if TYPE_CHECKING:
    from ...benchmark import Evaluation
    from ...benchmark.records import Split
    from ...benchmark.sources import Loaded
    from ...patching import DualEncoder
    from ..prescription.plan import Prescription

FORMAT = "tracescribe.study/1"
SPLITS: tuple[Split, ...] = ("val", "test")  # on which rates are chosen, and scores are those
DECIMALS = 4  # of the plans' weights: training that differs in the seventh may differ by points in the end


@dataclass(frozen=True, order=True)
class Run:
    """One training run of an arm."""

    arm: str
    rate: float
    seed: int

    @property
    def file(self) -> str:
        return f"{self.arm}-{self.rate:g}-{self.seed}.json"


@dataclass(frozen=True)
class Task:
    """What a process needs for one run.

    final: at the chosen rate; its scores on the test split are wanted, at its end and on the way there.
    """

    run: Run
    config: StudyConfig
    folder: Path
    final: bool


@explains_arguments
def run_study(
    config: StudyConfig,
    folder: str | Path,
    *,
    processes: int = 1,
    notify: Callable[[str, int, int], None] = lambda what, done, total: None,
    progress: bool = True,
) -> Path:
    """Train and score every arm; returns the folder, with ``study.json``, ``plans/`` and one file per run.

    Every arm is trained at every rate with ``tuning_seeds`` seeds; the rate that is best on validation is then run with
    the other seeds. Files that exist are not made again. processes: runs at once, each on one thread.
    notify: called with what is done, and with finished and all of its runs. progress: show a bar on a terminal or in a
    notebook.

    Raises OutputError when the folder holds another study or cannot be written, DataFormatError for missing data.
    """
    check_option("processes", processes, (Whole(1, 256),))
    if not callable(notify):
        raise ArgumentError(f"run_study: the argument notify must be a function, not {shown(notify)}")
    with bars(progress) as drawn:
        bar = drawn.add("study", 1)

        def tell(what: str, done: int, total: int) -> None:
            bar.to(done, total, note=what)
            notify(what, done, total)

        return _run_all(config, Path(folder), processes, tell)


def _run_all(config: StudyConfig, folder: Path, processes: int, notify: Callable[[str, int, int], None]) -> Path:
    for name in FILES:
        if not is_file(config.data / name):
            missing = shown_path(config.data / name)
            raise DataFormatError(f"{missing} is missing; `tracescribe build phantom` makes such a folder")
    record = {"format": FORMAT, "config": config.model_dump(mode="json")}
    open_folder(folder, "study.json", record, what="study", fixed=_fixed)
    (folder / "runs").mkdir(exist_ok=True)
    notify("preparing", 0, 1)
    plans = folder / "plans"
    plans.mkdir(exist_ok=True)
    _prepare.cache_clear()  # the files of an earlier study may have changed since
    prepared = _Prepared.of(config)
    _same_inputs(prepared, folder)
    sources = Sources(config, prepared.model, prepared.data, prepared.trained_on)
    for name, arm in config.arms.items():
        for seed in range(config.seeds) if arm.by in ("random", "permuted") else (0,):
            path = plans / f"{name}-{seed}.json"
            if not path.exists():
                plan = sources.plan(arm, seed)
                if plan is not None:
                    _rounded(plan).save(path)
    base: dict[str, Any] = {split: {**_told(before), "preservation": 1.0} for split, before in prepared.before.items()}
    write_record(folder / "base.json", base)

    tuning = [Run(a, rate, seed) for seed in range(config.tuning_seeds) for a in config.arms for rate in config.rates]
    tuning = tuning if len(config.rates) > 1 else []  # of one rate there is nothing to choose
    _do(config, folder, tuning, processes, notify, "tuning rates", final=False)
    chosen = best_rates(config, folder)
    final = [Run(a, chosen[a], seed) for seed in range(config.seeds) for a in config.arms]
    _do(config, folder, final, processes, notify, "training", final=True)
    return folder


def best_rates(config: StudyConfig, folder: Path) -> dict[str, float]:
    """The rate of each arm that is best on validation, over the tuning seeds; of one rate that one."""
    if len(config.rates) == 1:
        return dict.fromkeys(config.arms, config.rates[0])
    best = {}
    for arm in config.arms:
        means = {
            rate: float(
                np.mean(
                    [
                        select_score(read_record(folder / "runs" / Run(arm, rate, seed).file)["val"], config.select)
                        for seed in range(config.tuning_seeds)
                    ]
                )
            )
            for rate in config.rates
        }
        best[arm] = max(means, key=lambda rate: means[rate])
    return best


def select_score(scores: dict[str, float], select: str) -> float:
    """What rates are chosen by; a run that diverged scores least."""
    if scores.get("diverged"):
        return -1.0
    names = BALANCED if select == "balanced" else (select,)
    return float(np.mean([scores[name] for name in names]))


def _fixed(record: dict[str, Any]) -> dict[str, Any]:
    """The settings that runs which exist depend on: arms, seeds and rates may be added, an arm may not be changed.

    What an older version did not know has its default.
    """
    config = StudyConfig.model_validate(record["config"]).model_dump(mode="json")
    free = ("arms", "seeds", "rates", "tuning_seeds", "select", "data")
    arms = {f"arms.{name}": options for name, options in config["arms"].items()}
    return {**{name: value for name, value in config.items() if name not in free}, **arms}


def _same_inputs(prepared: _Prepared, folder: Path) -> None:
    """The weights and data that runs in the folder were made from, by content: data may be moved, not changed."""
    data = {name: file_hash(prepared.config.data / name) for name in FILES}
    inputs = {"weights_sha256": prepared.model.text.fingerprint(), "data_sha256": data}
    path = folder / "inputs.json"
    if not path.exists():
        return write_record(path, inputs)
    found = read_record(path)
    other = [name for name in data if found["data_sha256"].get(name) != data[name]]
    if other or found["weights_sha256"] != inputs["weights_sha256"]:
        what = f"another {prepared.config.data / other[0]}" if other else f"other weights of {prepared.config.model!r}"
        raise OutputError(f"{folder} holds a study that was begun with {what}; choose another folder")
    return None


def _do(
    config: StudyConfig,
    folder: Path,
    runs: Sequence[Run],
    processes: int,
    notify: Callable[[str, int, int], None],
    what: str,
    *,
    final: bool,
) -> None:
    missing = [run for run in runs if not _done(folder / "runs" / run.file, final)]
    done = len(runs) - len(missing)
    notify(what, done, len(runs))
    for number, _ in enumerate(
        run_beside(_run, [Task(run, config, folder, final) for run in missing], processes), start=done + 1
    ):
        notify(what, number, len(runs))


def _done(path: Path, final: bool) -> bool:
    return path.exists() and (not final or "interpolation" in read_record(path))


def _run(task: Task) -> None:
    """Train and score one run, and write its file."""
    prepared = _Prepared.of(task.config)
    run, arm = task.run, task.config.arms[task.run.arm]
    plan = _plan_of(task)
    config = TrainConfig(
        **{
            **arm.training(task.config.train),
            "lr": run.rate,
            "seed": run.seed,
            "split": None,
            "plan": plan,
            "weighting": arm.weighting,
            "lora_mode": arm.lora_mode,
            "budget": "none",  # the plan has its budget already
        }
    )
    started = time.perf_counter()
    with threads(1):
        try:
            result = train(config, prepared.model, data=prepared.data, progress=False)
        except NonFiniteError as problem:
            return write_record(task.folder / "runs" / run.file, {**asdict(run), **_diverged(str(problem))})
        traced = task.folder / "plans" / "nast-0.json"
        share = update_share(prepared.model.source, result.source, load_plan(traced) if traced.exists() else None)
        scores = _scores(prepared, result.model, splits=("val", "test") if task.final else ("val",))
        steps: dict[str, Any] = {}
        if task.final:
            for weight in task.config.interpolation:
                between = interpolate(prepared.model, result.model, weight)
                steps[f"{weight:g}"] = _scores(prepared, between, splits=("test",))["test"]
            steps["1"] = scores["test"]
    content = {
        **asdict(run),
        **scores,
        "loss": [float(result.history.loss[0]), float(result.history.loss[-10:].mean())],
        "update": {
            "size": share.size.tolist(),
            "effective_layers": share.effective_layers,
            **(
                {}
                if share.order is None
                else {"top3_cte": share.top(3), "top5_cte": share.top(min(5, len(share.size)))}
            ),
            "top3_size": share.top(3, by="size"),
        },
        "seconds": time.perf_counter() - started,
        **({"interpolation": steps} if task.final else {}),
    }
    return write_record(task.folder / "runs" / run.file, content)


def _diverged(why: str) -> dict[str, Any]:
    worst = {"diverged": True, **dict.fromkeys(BALANCED, 0.0)}
    return {"val": worst, "test": worst, "diverged": why, "interpolation": {}}


def _plan_of(task: Task) -> Prescription | None:
    plans = task.folder / "plans"
    for seed in (task.run.seed, 0):
        path = plans / f"{task.run.arm}-{seed}.json"
        if path.exists():
            return load_plan(path)
    return None


def _rounded(plan: Prescription) -> Prescription:
    from dataclasses import replace

    return replace(plan, alpha=plan.alpha.round(DECIMALS), ci=None)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The model, the training data with their images, and the scored records and images, once per process and study."""

    config: StudyConfig
    model: DualEncoder
    data: TrainingData
    trained_on: set[Any]
    scored: dict[Split, Loaded]
    images: dict[Split, Any]
    before: dict[Split, Evaluation]

    @classmethod
    def of(cls, config: StudyConfig) -> _Prepared:
        return _prepare(config.model_dump_json())


@lru_cache(maxsize=1)
def _prepare(config_json: str) -> _Prepared:
    from ...benchmark import embed_images, evaluate
    from ...patching import load

    config = StudyConfig.model_validate_json(config_json)
    model = load(config.model)
    needs = {name for arm in config.arms.values() for name in TrainConfig(**arm.training(config.train)).loss.needs}
    trained_on = training_images(config)
    data = training_data(model, *training_records(config, trained_on), needs=needs)
    scored = {split: scored_records(config, split) for split in SPLITS}
    images = {split: embed_images(model, records) for split, records in scored.items()}
    before = {
        split: evaluate(model, records, image_embeddings=images[split], n_boot=2) for split, records in scored.items()
    }
    return _Prepared(config, model, data, trained_on, scored, images, before)


def _scores(prepared: _Prepared, model: DualEncoder, splits: Sequence[Split]) -> dict[str, Any]:
    from ...benchmark import evaluate

    found: dict[str, Any] = {}
    for split in splits:
        result = evaluate(
            model,
            prepared.scored[split],
            image_embeddings=prepared.images[split],
            before=prepared.before[split],
            n_boot=2,
        )
        found[split] = _told(result)
    return found


def _told(evaluation: Evaluation) -> dict[str, Any]:
    """The scores that are written."""
    rest = {"both_right": evaluation.both_right, "claims_by_polarity": dict(evaluation.claims_by_polarity)}
    return {**summary(evaluation), **rest}
