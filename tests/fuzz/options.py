"""Public functions and options objects, each with valid arguments, in place of which odd ones are drawn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import (
    synthetic_head_edges,
    synthetic_knock_out,
    synthetic_negator_attention,
    synthetic_neurons,
    synthetic_trace,
)
from hypothesis import strategies as st
from models import WordTokenizer, counterfactual_pixels, open_clip_image_model, open_clip_model
from published import CAPTION, CLAIM, MCQ, PUBLISHED

import tracescribe as ts
from fuzz.files import a_circuit, a_comparison, a_faithfulness, a_plan, a_trace, picture, saved
from fuzz.odd import as_json, values
from tracescribe.benchmark.builders import build_contextual, build_mednega, write_pairs
from tracescribe.benchmark.builders.rewriting import Rewriter
from tracescribe.benchmark.phantom import build_phantom
from tracescribe.finetune import StudyConfig, TrainConfig
from tracescribe.tracer.run.options import ImageTraceOptions, TraceOptions


@dataclass(frozen=True)
class Target:
    """A call with valid arguments by name, and further names that may be given.

    fixed: arguments that are never replaced, because no input of a user is meant by them. writes: whether the call may
    write files when it succeeds. prepare: puts further files into the folder. quick, slowdown: as of `fuzz.files.Kind`.
    """

    call: Callable[..., Any]
    valid: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    writes: bool = False
    quick: int = 20
    slowdown: int = 1
    prepare: Callable[[Path], Any] = lambda folder: None

    @property
    def inputs(self) -> st.SearchStrategy[dict[str, Any]]:
        """One to three arguments with any value."""
        names = sorted({*self.valid, *self.names} - set(self.fixed))
        return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=3)

    def run(self, drawn: Mapping[str, Any]) -> None:
        """The call with the drawn arguments in place of valid ones; positional where the function has them so."""
        given = {**self.valid, **drawn}
        positional = [given.pop(name) for name in self._positional if name in given]
        self.call(*positional, **given)

    @property
    def _positional(self) -> list[str]:
        parameters = inspect.signature(self.call).parameters.values()
        return [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]


def keywords(call: Callable[..., Any], *without: str) -> tuple[str, ...]:
    """The names of a function's arguments."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters.values()
    return tuple(each.name for each in parameters if each.kind in kinds and each.name not in (*without, "self"))


@cache
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer())


@cache
def image_model() -> ts.DualEncoder:
    return ts.wrap(open_clip_image_model(), tokenizer=WordTokenizer())


@cache
def pairs() -> list[ts.Pair]:
    image = np.linspace(-1, 1, 16)
    texts = [("there is no edema .", "there is mild edema ."), ("no mass .", "a mass .")]
    return [ts.Pair(correct=one, foil=other, image=image) for one, other in texts]


@cache
def image_pairs() -> list[ts.ImagePair]:
    image, other = counterfactual_pixels(1, (32, 32), (8, 8), [(0, 1)])
    return [ts.ImagePair(image=image, counterfactual=other, caption="there is no edema .")]


@cache
def image_trace() -> ts.CausalTrace:
    return ts.trace_images(image_model(), image_pairs(), floor=1e-7, progress=False)


def trainable() -> torch.nn.Module:
    return open_clip_model(layers=3)


def sgd(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def attach(*, optimizer: Any = None, **given: Any) -> None:
    module = trainable()
    a_plan().attach(module, sgd(module) if optimizer is None else optimizer, **given).remove()


class Stub:
    """An encoder of nothing: texts and images become vectors by their lengths."""

    name = "stub"

    def encode_texts(self, texts: Any) -> np.ndarray:
        return self._rows([len(text) for text in texts])

    def encode_images(self, images: Any) -> np.ndarray:
        return self._rows([len(str(image)) for image in images])

    @staticmethod
    def _rows(seeds: list[int]) -> np.ndarray:
        rows = np.array([np.random.default_rng(seed).normal(size=8) for seed in seeds]).reshape(-1, 8)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def prepare(folder: Path) -> None:
    """The files that the valid arguments name, in the folder in which they are tried."""
    for name in ("captions", "claims", "mcq"):
        record = {"captions": CAPTION, "claims": CLAIM, "mcq": MCQ}[name]
        (folder / f"{name}.jsonl").write_bytes(as_json(record) + b"\n")
    (folder / "film.png").write_bytes(picture("PNG"))
    (folder / "labels.csv").write_text(str(PUBLISHED["chexpert"][1]))
    (folder / "weights.pt").write_bytes(saved({"weight": torch.ones(3)}))
    rows = "".join(f"claims,{i},p{i % 3},{i % 2}.0,0.5,0.1\n" for i in range(12))
    for name in ("before.csv", "after.csv"):
        (folder / name).write_text("task,id,group,hit,chance,margin\n" + rows)


def heat(**given: Any) -> Any:
    return ts.viz.heatmap(given.pop("source", a_trace()), **given)


def records() -> dict[str, Target]:
    """Constructors of records."""
    kinds = ts.benchmark
    found: dict[str, tuple[Any, dict[str, Any]]] = {
        "tracer.Pair": (ts.Pair, {"correct": "no edema", "foil": "mild edema"}),
        "tracer.ImagePair": (ts.ImagePair, {"image": "a.png", "counterfactual": "b.png", "caption": "no edema"}),
        "benchmark.ClaimRecord": (kinds.ClaimRecord, CLAIM),
        "benchmark.CaptionRecord": (kinds.CaptionRecord, CAPTION),
        "benchmark.McqRecord": (kinds.McqRecord, MCQ),
    }
    return {name: Target(kind, given, tuple(kind.model_fields)) for name, (kind, given) in found.items()}


def layouts() -> dict[str, Target]:
    """Figures of several results."""
    viz, maps = ts.viz, {"a": a_trace().map(segment="all")}
    found: dict[str, tuple[Any, dict[str, Any]]] = {
        "viz.panels": (viz.panels, {"sources": maps}),
        "viz.alpha_bars": (viz.alpha_bars, {"plan": a_plan()}),
        "viz.pareto": (viz.pareto, {"points": {"a": (1, 2), "b": (2, 1)}, "x": "kept", "y": "gained"}),
        "viz.curves": (viz.curves, {"sources": {"a": ([0, 1], [0.0, 1.0])}, "x": "step", "y": "loss"}),
    }
    return {name: Target(call, given, keywords(call), quick=20, slowdown=2) for name, (call, given) in found.items()}


def pages() -> dict[str, Target]:
    """Pages of saved results."""
    results = {
        "circuit": a_circuit,
        "comparison": a_comparison,
        "faithfulness": a_faithfulness,
        "head_edges": synthetic_head_edges,
        "knock_out": synthetic_knock_out,
        "negator_attention": synthetic_negator_attention,
        "neurons": synthetic_neurons,
    }
    calls = {f"viz.{name}_page": (getattr(ts.viz, f"{name}_page"), make()) for name, make in results.items()}
    return {
        name: Target(call, {keywords(call)[0]: result}, keywords(call), quick=8, slowdown=8)
        for name, (call, result) in calls.items()
    }


def finer_cells() -> dict[str, Target]:
    """Neurons, edges between heads, knock-out."""
    calls = {"neurons": ts.neurons, "head_edges": ts.head_edges, "knock_out": ts.knock_out}
    given = {"model": model(), "pairs": pairs(), "progress": False, "floor": 0}
    fixed = ("model", "steps")  # thousands of gradients are no mistake, and take long
    return {
        f"tracescribe.{name}": Target(call, given, keywords(call), fixed=fixed, quick=30, slowdown=4)
        for name, call in calls.items()
    }


@cache
def functions() -> dict[str, Target]:
    """Functions and options objects, by a name for the test: the package's name and the function's."""
    small = partial(Target, quick=30, slowdown=4)
    trace, plan, bootstrap = a_trace(), a_plan(), {"n_boot": 10}
    figures = keywords(ts.viz.heatmap, "source", "pair")
    return {
        "tracer.run.options.TraceOptions": Target(
            TraceOptions, names=tuple(each.name for each in fields(TraceOptions))
        ),
        "tracer.run.options.ImageTraceOptions": Target(
            ImageTraceOptions, names=tuple(each.name for each in fields(ImageTraceOptions))
        ),
        "tracescribe.trace": small(
            ts.trace,
            {"model": model(), "pairs": pairs(), "progress": False, "floor": 0},
            keywords(ts.trace),
            fixed=("model",),
            writes=True,  # cache=
        ),
        "tracescribe.trace_images": small(
            ts.trace_images,
            {"model": image_model(), "pairs": image_pairs(), "progress": False},
            keywords(ts.trace_images),
            fixed=("model",),
        ),
        "tracescribe.negator_attention": small(
            ts.negator_attention,
            {"model": model(), "pairs": pairs(), "progress": False, **bootstrap},
            keywords(ts.negator_attention),
            fixed=("model",),
        ),
        "tracescribe.prescribe": Target(
            ts.prescribe, {"source": np.array([1.0, 0.4, 0.9, 0.2])}, keywords(ts.prescribe), quick=60
        ),
        "tracescribe.prescribe of a trace": small(
            ts.prescribe, {"source": synthetic_trace(12, 3)}, keywords(ts.prescribe), fixed=("source",)
        ),
        "finetune.Prescription": Target(ts.Prescription, {"alpha": np.array([0.5, 1.0])}, keywords(ts.Prescription)),
        "finetune.Prescription.with_budget": Target(plan.with_budget, names=("budget",)),
        "finetune.Prescription.permuted": Target(plan.permuted, {"seed": 0}),
        "finetune.Prescription.callback": Target(plan.callback, names=keywords(plan.callback)),
        "finetune.Prescription.save": Target(plan.save, {"path": "plan.json"}, writes=True),
        "finetune.param_groups": Target(
            plan.param_groups, {"module": trainable(), "lr": 0.1}, ("others", "weight_decay"), quick=30
        ),
        "finetune.attach": small(attach, names=("mode", "others", "optimizer", "module")),
        "finetune.lora_config": Target(
            ts.finetune.lora_config,
            {"module": trainable(), "plan": plan, "mode": "scale"},
            ("r", "lora_alpha", "threshold", "lora_dropout", "target_modules", "alpha_pattern", "use_rslora"),
            quick=40,
        ),
        "finetune.TrainConfig": Target(TrainConfig, names=tuple(TrainConfig.model_fields), quick=80),
        "tracer.CausalTrace.map": Target(trace.map, {"segment": "all"}, keywords(trace.map), quick=30),
        "tracer.CausalTrace.per_layer": Target(
            trace.per_layer, {"segment": "all", **bootstrap}, keywords(trace.per_layer), quick=30
        ),
        "tracer.CausalTrace.rescore": Target(
            trace.rescore, {"image_embeddings": np.eye(4)}, keywords(trace.rescore), quick=30
        ),
        "tracer.CausalTrace.select": Target(trace.select, names=keywords(trace.select), quick=30),
        "tracer.CausalTrace.split_half": Target(
            trace.split_half, {"segment": "all"}, keywords(trace.split_half, "n_splits"), quick=20, slowdown=4
        ),
        "tracer.CausalTrace.with_floor": Target(trace.with_floor, {"floor": 0.1}),
        "tracer.CausalTrace.control": Target(trace.control, {"other": trace}),
        "tracer.CausalTrace.save": Target(trace.save, {"path": "t.safetensors"}, writes=True),
        "tracer.TraceMap.row": Target(trace.map(segment="all").row, {"name": "[end]"}),
        "tracer.TraceMap.per_layer": Target(trace.map(segment="all").per_layer, {"aggregate": "sum"}),
        "tracer.TraceMap.locality": Target(trace.map(segment="all").locality, {"start": None}),
        "viz.heatmap": small(heat, {"segment": "all", **bootstrap}, ("source", "pair", *figures)),
        "viz.profile": small(ts.viz.profile, {"sources": trace, "segment": "all"}, keywords(ts.viz.profile)),
        "viz.export": small(
            ts.viz.export,
            {"source": trace, "path": "a.svg", "segment": "all", "ci": None},
            keywords(ts.viz.export),
            writes=True,
            quick=20,
            slowdown=10,
        ),
        "viz.overlay": small(
            ts.viz.overlay,
            {"trace": image_trace(), "image": np.zeros((32, 32), np.uint8)},
            keywords(ts.viz.overlay),
            fixed=("trace",),
            quick=20,
        ),
        "viz.export_overlay": small(
            ts.viz.export_overlay,
            {"trace": image_trace(), "image": np.zeros((32, 32), np.uint8), "path": "a.png"},
            keywords(ts.viz.export_overlay),
            fixed=("trace",),
            writes=True,
            quick=15,
            slowdown=10,
        ),
        "viz.save_html": small(
            ts.viz.save_html,
            {"figure": heat(segment="all", ci=None), "path": "a.html"},
            ("title",),
            writes=True,
            quick=15,
            slowdown=10,
        ),
        "viz.export_table": small(
            ts.viz.export_table,
            {"figure": heat(segment="all", ci=None), "path": "a.csv"},
            ("decimals",),
            writes=True,
        ),
        "viz.caption": Target(ts.viz.caption, {"figure": heat(segment="all", ci=None)}),
        "viz.report": small(
            ts.viz.report, {"path": "r.html", "page": ts.viz.Report("t")}, writes=True, quick=15, slowdown=10
        ),
        "viz.Table": Target(ts.viz.Table, {"columns": ["a"], "rows": [[1]]}),
        "benchmark.evaluate": small(
            ts.benchmark.evaluate,
            {"model": Stub(), "source": "claims.jsonl", "split": None, **bootstrap},
            keywords(ts.benchmark.evaluate),
            fixed=("model",),
        ),
        "benchmark.compare": small(
            lambda *, before, after, **given: ts.benchmark.compare(before, after, **given),
            {"before": "before.csv", "after": "after.csv", **bootstrap},
            ("names", "subsets", "seed", "ci"),
            quick=20,
            slowdown=8,
        ),
        "benchmark.read": Target(ts.read, {"path": "claims.jsonl"}, keywords(ts.read), quick=40),
        "benchmark.load_records": Target(
            ts.benchmark.load_records, {"source": "claims.jsonl"}, keywords(ts.benchmark.load_records), quick=40
        ),
        "benchmark.embed_images": Target(
            ts.benchmark.embed_images,
            {"model": Stub(), "source": "claims.jsonl"},
            keywords(ts.benchmark.embed_images),
            fixed=("model",),
        ),
        "benchmark.text_preservation": Target(
            ts.benchmark.text_preservation, {"before": np.eye(4), "after": np.eye(4)}
        ),
        "benchmark.build_phantom": small(
            build_phantom,
            {"folder": "data", "n": 1, "size": 16},
            ("seed", "overwrite"),
            fixed=("n",),
            writes=True,
            quick=20,
            slowdown=8,
        ),
        "benchmark.build_mednega": small(
            build_mednega, {"labels": "labels.csv", "folder": "out"}, keywords(build_mednega, "progress"), writes=True
        ),
        "benchmark.build_contextual": small(
            build_contextual,
            {"labels": "labels.csv", "folder": "out"},
            keywords(build_contextual, "progress"),
            writes=True,
        ),
        "benchmark.write_pairs": small(
            write_pairs,
            {"labels": "labels.csv", "path": "out.jsonl", "count_tokens": len},
            keywords(write_pairs),
            fixed=("count_tokens",),
            writes=True,
        ),
        "benchmark.Rewriter": small(
            lambda **given: Rewriter(**given).__exit__(None, None, None),
            {"url": "http://127.0.0.1:9/v1", "model": "m", "cache": "replies.sqlite"},
            keywords(Rewriter),
            writes=True,
        ),
        **records(),
        **layouts(),
        **pages(),
        **finer_cells(),
        "finetune.StudyConfig": Target(StudyConfig, {"data": "."}, tuple(StudyConfig.model_fields), quick=40),
        "finetune.interpolate": small(
            ts.finetune.interpolate, {"base": model(), "tuned": model(), "weight": 0.5}, fixed=("base", "tuned")
        ),
        "tracescribe.compare": small(
            ts.compare, {"first": trace, "second": trace, **bootstrap}, keywords(ts.compare), fixed=("first", "second")
        ),
        "patching.load": Target(
            ts.load, {"name": "nothing"}, keywords(ts.load, "trust_remote_code"), quick=40, slowdown=4
        ),
        "patching.wrap": small(
            ts.wrap, {"module": trainable(), "tokenizer": WordTokenizer()}, keywords(ts.wrap), quick=20, slowdown=8
        ),
        "patching.read_image": Target(ts.patching.read_image, {"given": "film.png"}, quick=60),
        "patching.open_image": Target(ts.patching.open_image, {"path": "film.png"}, quick=30),
        "patching.DualEncoder.encode_texts": small(model().encode_texts, {"texts": ["a b"]}),
        "patching.DualEncoder.encode_images": small(image_model().encode_images, {"images": ["film.png"]}),
    }
