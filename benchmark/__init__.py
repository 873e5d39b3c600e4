"""Data sets and evaluation: readers of published files, builders, phantom radiographs, scores and comparisons."""

from __future__ import annotations

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of package tracescribe")

from .comparison import Comparison, compare
from .evaluation import Evaluation, Shortcut, TaskScore, evaluate, text_preservation
from .items import read_items
from .metrics import Interval
from .readers import Dataset, formats, read
from .recipes import RECIPES, Recipe, Reproduction, reproduce
from .records import CaptionRecord, ClaimRecord, McqRecord, read_captions, read_claims, read_mcq
from .sources import embed_images, load_records

__all__ = [
    "RECIPES",
    "CaptionRecord",
    "ClaimRecord",
    "Comparison",
    "Dataset",
    "Evaluation",
    "Interval",
    "McqRecord",
    "Recipe",
    "Reproduction",
    "Shortcut",
    "TaskScore",
    "compare",
    "embed_images",
    "evaluate",
    "formats",
    "load_records",
    "read",
    "read_captions",
    "read_claims",
    "read_items",
    "read_mcq",
    "reproduce",
    "text_preservation",
]
