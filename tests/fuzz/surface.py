"""The public surface, and what of it is no target of targets.py: each name in one group that says why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import tracescribe as ts
import tracescribe.atlas

PACKAGES = (ts, ts.tracer, ts.patching, ts.finetune, ts.viz, ts.benchmark, tracescribe.atlas)

MADE_BY_US = """atlas.Atlas benchmark.Comparison benchmark.Dataset benchmark.Evaluation benchmark.Interval
benchmark.Recipe benchmark.Reproduction benchmark.Shortcut benchmark.TaskScore finetune.Attachment
finetune.BlockGradients finetune.PlanFile finetune.RankAgreement finetune.Stability finetune.StudyResult
finetune.TrainResult finetune.UpdateShare patching.Alignment patching.FirstOrder patching.HeadEdgeEmbeddings
patching.HookPoint
patching.ImageEncoder patching.ImageTower patching.JointEmbeddings patching.NeuronAttribution patching.PatchedBatch
patching.PatchedEmbeddings patching.TextTokenizer patching.TextTower patching.Tower patching.TowerSpec tracer.Circuit
tracer.Excess tracer.Faithfulness tracer.HeadEdges tracer.KnockOut tracer.LayerProfile tracer.NegatorAttention
tracer.Neurons tracer.Scores tracer.TraceComparison viz.PaperFigure"""
"""Results and parts of models, which users are given and do not make."""

NO_INPUT = """benchmark.formats finetune.plan_schema finetune.ScaleInvariantOptimizerWarning patching.Adapter
patching.Direction patching.PatchPath patching.PositionPolicy patching.register tracer.Text tracer.TokenKind
tracer.TraceError tracer.TraceInterrupted tracer.TraceWarning tracer.register_metric viz.FigureError viz.Note
viz.Picture viz.Plot viz.Report viz.Section viz.published_maps"""
"""Types, errors, warnings, texts of a page; functions without arguments; the places where plugins are registered."""

OF_TENSORS = """finetune.SpaceVLM finetune.attach_lora finetune.block_gradients finetune.claim_loss finetune.clip_loss
finetune.effective_weights finetune.merged_copy finetune.nast_loss finetune.spacevlm finetune.split_negations
finetune.update_share patching.AttributionEngine patching.Column patching.DirectEngine patching.GivenStates
patching.HeadEdgeEngine patching.ImageCrop patching.JointEngine patching.KnockOutEngine patching.PatchingEngine
patching.Site patching.Sweep patching.align_rows patching.attention_patterns patching.each_position
patching.lora_targets patching.site_named patching.text_blocks patching.verify"""
"""Parts for programmers, of modules and tensors; a wrong type is Python's or torch's TypeError there."""

GROUPS = [set(group.split()) for group in (MADE_BY_US, NO_INPUT, OF_TENSORS)]


def public() -> Iterator[set[str]]:
    """The names under which each public function and class is exported, by package."""
    names: dict[int, set[str]] = {}
    for package in PACKAGES:
        for name in package.__all__:
            found: Any = getattr(package, name)
            if callable(found) and not inspect.ismodule(found):
                names.setdefault(id(found), set()).add(f"{package.__name__.rpartition('.')[2]}.{name}")
    yield from names.values()
