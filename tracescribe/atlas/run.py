"""Makes an atlas: one file per model and set, made once; an atlas that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import explains_arguments
from ..devices import check_device
from ..errors import DataFormatError, DegenerateTraceError, TracescribeError
from ..io.quoting import shown
from ..io.records import open_folder, write_record
from ..tracer import CausalTrace, load_trace
from .config import AtlasConfig, ModelSpec
from .sets import PairSet, read_set

if TYPE_CHECKING:
    from ..patching import DualEncoder

__all__ = ["FORMAT", "KINDS", "LEFT_OUT", "RECORD", "Task", "run_atlas", "tasks"]

FORMAT = "tracescribe.atlas/1"
RECORD, LEFT_OUT = "atlas.json", "left_out.json"
KINDS = ("traces", "heads")
Notify = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """One trace of the atlas. kind: "traces", of tokens, or "heads"."""

    model: str
    set: str
    kind: str

    def path(self, folder: Path) -> Path:
        """Its file, without the ending: ``.safetensors``, or ``.json`` where there is no trace and it says why."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.model}--{self.set}")
        digest = hashlib.sha256(f"{self.model}\0{self.set}".encode()).hexdigest()[:8]
        return folder / self.kind / f"{readable[:80]}-{digest}"

    def trace_file(self, folder: Path) -> Path:
        """Where its trace is."""
        return self.path(folder).with_name(f"{self.path(folder).name}.safetensors")

    def reason_file(self, folder: Path) -> Path:
        """Where it says why it has no trace."""
        return self.path(folder).with_name(f"{self.path(folder).name}.json")

    def is_done(self, folder: Path) -> bool:
        """Whether one of the two is there."""
        return self.trace_file(folder).exists() or self.reason_file(folder).exists()


def tasks(config: AtlasConfig) -> Iterator[Task]:
    """All traces of an atlas, model by model."""
    for model in config.models:
        for kind in KINDS if config.heads else KINDS[:1]:
            for name in config.sets:
                yield Task(model, name, kind)


@explains_arguments
def run_atlas(
    config: AtlasConfig,
    folder: str | Path,
    *,
    keep_going: bool = False,
    notify: Notify = lambda what, done, total: None,
) -> Path:
    """Trace every set by every model; returns the folder, which :func:`read_atlas` reads.

    Each trace is one file, with a checksum, and is not made again; a model whose traces are all there is not loaded.
    Models and sets may be added to an atlas that exists. The same atlas gives the same bytes, however often it was
    stopped.

    keep_going: name a model that cannot be loaded or traced, and go on with the others; it has no numbers.
    notify: called with what is being done, and how many traces are done of how many.

    Raises:
        DataFormatError: a file of a set is missing or broken, or gives no targets.
        OutputError: the folder holds something else, or an atlas with other settings; or it cannot be written.
        TracescribeError: of a model that cannot be loaded or traced, without ``keep_going``; what is done stays.
    """
    folder, every = Path(folder), list(tasks(config))
    notify("reading the sets", 0, len(every))
    sets = {
        name: read_set(name, spec, config.n_pairs if spec.n_pairs is None else spec.n_pairs, config.seed)
        for name, spec in config.sets.items()
    }
    open_folder(folder, RECORD, _record(config, sets), what="atlas", fixed=_fixed)
    for kind in KINDS if config.heads else KINDS[:1]:
        (folder / kind).mkdir(exist_ok=True)
    done = sum(task.is_done(folder) for task in every)
    left_out: dict[str, str] = {}
    for name, spec in config.models.items():
        missing = [task for task in every if task.model == name and not task.is_done(folder)]
        if not missing:
            continue
        notify(f"loading {name}", done, len(every))
        try:
            model = _load(name, spec)
            _check_same(name, model, folder, every)
            for task in missing:
                notify(f"{name}, {task.set}", done, len(every))
                _make(task, model, sets[task.set], config, folder)
                done += 1
        except TracescribeError as problem:
            if not keep_going:
                raise
            left_out[name] = str(problem)
    write_record(folder / LEFT_OUT, {"format": FORMAT, "models": left_out})
    notify("done", done, len(every))
    return folder


def _record(config: AtlasConfig, sets: dict[str, PairSet]) -> dict[str, Any]:
    """What the folder says of itself, as JSON has it."""
    told = {name: {"sha256": each.sha256, "n_pairs": len(each.pairs)} for name, each in sets.items()}
    return {"format": FORMAT, "config": config.model_dump(mode="json"), "sets": told}


def _fixed(content: dict[str, Any]) -> dict[str, Any]:
    """The settings that traces which exist depend on; models and sets may be added, and statistics change."""
    config = content["config"]
    fixed = {"format": content["format"], "trace": config["trace"], "seed": config["seed"]}
    for name, spec in config["models"].items():
        fixed[f"models.{name}"] = [spec["model"], spec["pretrained"], spec["dtype"]]
    return fixed | {f"pairs of the set {name!r}": told["sha256"] for name, told in content["sets"].items()}


def _load(name: str, spec: ModelSpec) -> DualEncoder:
    from ..patching import load

    try:
        check_device(spec.device)
        return load(
            spec.model,
            pretrained=spec.pretrained,
            device=spec.device,
            dtype=spec.torch_dtype,
            trust_remote_code=spec.trust_remote_code,
        )
    except TracescribeError as problem:
        raise type(problem)(f"the model {shown(name)}: {problem}") from problem


def _check_same(name: str, model: DualEncoder, folder: Path, every: list[Task]) -> None:
    """The weights must be those of the model's traces that are there."""
    for task in every:
        if task.model == name and task.trace_file(folder).exists():
            found = load_trace(task.trace_file(folder)).provenance.get("weights_sha256")
            if found != model.text.fingerprint():
                raise DataFormatError(
                    f"the model {shown(name)} has other weights than when {task.trace_file(folder)} was made: give it "
                    f"another name in the atlas, or delete its files"
                )
            return


def _make(task: Task, model: DualEncoder, pairs: PairSet, config: AtlasConfig, folder: Path) -> None:
    """Trace, and write the trace, or why there is none."""
    from ..tracer.run.trace import run_trace

    options = config.options(heads=task.kind == "heads")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say of the pairs stands in the table
        kept, left_out = pairs.for_model(model, options)
        told = {"model": task.model, "set": task.set, "n_pairs": len(pairs.pairs), "left_out": left_out}
        if not kept:
            reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
            return write_record(
                task.reason_file(folder), {"why": f"none of the pairs can be traced: {reasons}", **told}
            )
        try:
            trace = run_trace(model, kept, options, progress=False)
        except DegenerateTraceError as problem:
            return write_record(task.reason_file(folder), {"why": str(problem), **told})
    return _lasting(trace, told).save(task.trace_file(folder))


def _lasting(trace: CausalTrace, told: dict[str, Any]) -> CausalTrace:
    """The trace without the time at which it was made, so that an atlas has the same bytes each time."""
    provenance = {name: value for name, value in trace.provenance.items() if name != "created"}
    return replace(trace, provenance={**provenance, "atlas": told})
