"""Atlases, studies, training, exports and recipes, each with valid arguments that are little work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

import tracescribe as ts
from fuzz.options import Target, keywords, model
from tracescribe import atlas
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.benchmark.phantom import build_phantom
from tracescribe.finetune import StudyConfig, TrainConfig
from tracescribe.finetune.training.data import TrainingData, training_data

TEXTS = ["there is edema .", "there is no edema ."]
PAIR = '{"correct": "There is no edema.", "foil": "There is severe edema.", "image": {"text": "Clear lungs."}}\n'


@cache
def some_data() -> TrainingData:
    """Captions and contrast sets of four images, embedded."""
    captions = [
        CaptionRecord(id=str(i), image=x, caption=TEXTS[i % 2], group=str(i)) for i, x in enumerate(torch.eye(16)[:4])
    ]
    claims = [
        ClaimRecord(id=each.id, image=each.image, claims=TEXTS, label=i % 2, attribute="existence", group=str(i))
        for i, each in enumerate(captions)
    ]
    return training_data(model(), captions, claims)


def an_atlas() -> atlas.AtlasConfig:
    return atlas.AtlasConfig(
        models={"one": "phantom"}, sets={"a": "pairs.jsonl"}, trace={"positions": "all", "floor": 0.0}, n_boot=100
    )


def a_study() -> StudyConfig:
    small = {"steps": 1, "batch_size": 2, "rank": 1}
    return StudyConfig(data="data", arms=["uniform"], rates=(1e-3,), seeds=1, tuning_seeds=1, n_pairs=4, train=small)


def with_pairs(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text(PAIR)


def with_films(folder: Path) -> None:
    build_phantom(folder / "data", 12, 0)


def with_counts(folder: Path) -> None:
    (folder / "existence.json").write_text("{}")


def works() -> dict[str, Target]:
    """What writes folders, or reads them."""
    recipe = ts.benchmark.RECIPES["valse-existence"]
    small: Callable[..., Target] = partial(Target, quick=20, slowdown=4)
    return {
        "atlas.AtlasConfig": Target(
            atlas.AtlasConfig,
            {"models": {"one": "phantom"}, "sets": {"a": "pairs.jsonl"}},
            tuple(atlas.AtlasConfig.model_fields),
            quick=40,
        ),
        "atlas.ModelSpec": Target(atlas.ModelSpec, {"model": "phantom"}, tuple(atlas.ModelSpec.model_fields)),
        "atlas.SetSpec": Target(atlas.SetSpec, {"file": "pairs.jsonl"}, tuple(atlas.SetSpec.model_fields)),
        "atlas.run_atlas": small(
            atlas.run_atlas,
            {"config": an_atlas(), "folder": "out"},
            ("keep_going", "notify"),
            writes=True,
            prepare=with_pairs,
        ),
        "finetune.run_study": small(
            ts.finetune.run_study,
            {"config": a_study(), "folder": "out", "progress": False},
            keywords(ts.finetune.run_study),
            writes=True,
            quick=12,
            slowdown=10,
            prepare=with_films,
        ),
        "finetune.train": small(
            ts.finetune.train,
            {"config": TrainConfig(steps=1, batch_size=2, rank=1), "model": model(), "data": some_data()},
            keywords(ts.finetune.train),
            writes=True,  # checkpoints=
        ),
        "finetune.export": small(
            ts.finetune.export, {"model": model(), "folder": "out"}, ("kind", "overwrite"), writes=True
        ),
        "benchmark.reproduce": Target(
            ts.benchmark.reproduce,
            {"recipe": replace(recipe, expected={"items": 1}), "file": "existence.json"},
            keywords(ts.benchmark.reproduce),
            quick=30,
            prepare=with_counts,
        ),
    }


def readers() -> dict[str, Target]:
    """What reads one file or folder, with anything in place of its path."""
    functions = {
        "atlas.read_atlas": atlas.read_atlas,
        "atlas.read_atlas_config": atlas.read_atlas_config,
        "benchmark.read_captions": ts.benchmark.read_captions,
        "benchmark.read_claims": ts.benchmark.read_claims,
        "benchmark.read_items": ts.benchmark.read_items,
        "benchmark.read_mcq": ts.benchmark.read_mcq,
        "finetune.load_plan": ts.load_plan,
        "finetune.read_config": ts.finetune.read_config,
        "finetune.read_study": ts.finetune.read_study,
        "finetune.read_study_result": ts.finetune.read_study_result,
        "tracer.load_circuit": ts.tracer.load_circuit,
        "tracer.load_comparison": ts.tracer.load_comparison,
        "tracer.load_faithfulness": ts.load_faithfulness,
        "tracer.load_head_edges": ts.tracer.load_head_edges,
        "tracer.load_knock_out": ts.tracer.load_knock_out,
        "tracer.load_negator_attention": ts.tracer.load_negator_attention,
        "tracer.load_neurons": ts.tracer.load_neurons,
        "tracer.load_trace": ts.load_trace,
        "tracer.read_pairs": ts.read_pairs,
        "tracer.read_valse": ts.tracer.read_valse,
    }
    paths = {"path": "nothing", "folder": "nothing", "source": "nothing"}
    found = {}
    for name, call in functions.items():
        taken = keywords(call)
        found[name] = Target(call, {taken[0]: paths[taken[0]]}, taken[1:], quick=12)
    module = ts.finetune.load_run, ts.finetune.load_lora
    found["finetune.load_run"] = Target(module[0], {"model": model(), "folder": "nothing"}, quick=12)
    found["finetune.load_lora"] = Target(module[1], {"module": model().source, "folder": "nothing"}, quick=12)
    return found
