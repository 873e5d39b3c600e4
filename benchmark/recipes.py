"""Known numbers and how to get them: for each a model, a published file, the value, its source and a tolerance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataFormatError, OptionError
from ..io.quoting import shown
from ..tracer import read_valse
from .evaluation import evaluate
from .readers import Dataset, read
from .scoring import Encoder

__all__ = ["RECIPES", "Recipe", "Reproduction", "recipe_named", "reproduce"]

SCORE_TOLERANCE = 0.5
"""Percentage points. The same model on the same COCO file is published as 39.2 and as 39.3; libraries resize images
differently, which moves options of nearly equal score."""


@dataclass(frozen=True)
class Recipe:
    """One published result.

    model, weights: as `tracescribe.load` takes them; None where the numbers need no model (counts of records).
    file: the name of the published file. format: the reader that it must be read by. source: where the number stands.
    expected: by measure. Measures of a scored file are a task of `Evaluation.tasks`, or "task/subset/value" for a part
        of it, in percent; those of a counted file are "items" (in the file), "kept" (by the publisher's rule) and
        "equal length" (of VALSE's existence items, reworded, those of equally many CLIP tokens).
    tolerance: how far a measured value may lie from the expected one.
    note: what a user has to know.
    """

    name: str
    file: str
    format: str
    source: str
    expected: Mapping[str, float]
    model: str | None = None
    weights: str | None = None
    tolerance: float = 0.0
    note: str = ""

    @property
    def command(self) -> str:
        """The command that measures it."""
        scored = "" if self.model is None else " --images IMAGES"
        own = " --pretrained CHECKPOINT" if self.model is not None and self.weights is None else ""
        return f"tracescribe reproduce {self.name} --file {self.file}{scored}{own}"


@dataclass(frozen=True)
class Reproduction:
    """What came of a recipe: measured values beside the expected ones.

    left_out: records of the file that were not scored, by reason.
    """

    recipe: Recipe
    model: str | None
    measured: Mapping[str, float]
    left_out: Mapping[str, int]

    def is_within(self, measure: str) -> bool:
        """Whether one measure lies within the recipe's tolerance."""
        slack = 1e-9  # of decimal numbers in binary: 39.3 + .5 counts as within
        return abs(self.measured[measure] - self.recipe.expected[measure]) <= self.recipe.tolerance + slack

    @property
    def within(self) -> bool:
        """Whether every measure does."""
        return all(self.is_within(measure) for measure in self.recipe.expected)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: expected, measured and the verdict of each measure."""
        rows = [
            {"measure": name, "measured": self.measured[name], "expected": value, "within": self.is_within(name)}
            for name, value in self.recipe.expected.items()
        ]
        return {
            "recipe": self.recipe.name,
            "model": self.model,
            "source": self.recipe.source,
            "tolerance": self.recipe.tolerance,
            "measures": rows,
            "left_out": dict(self.left_out),
            "within": self.within,
        }


def _scored(name: str, file: str, source: str, expected: Mapping[str, float], **more: Any) -> Recipe:
    kind = "negbench-mcq" if "mcq" in file else "negbench-retrieval"
    model = "open_clip:ViT-B-32-quickgelu"
    return Recipe(name, file, kind, source, expected, model=model, tolerance=SCORE_TOLERANCE, **more)


COCO_MCQ, VOC_MCQ = "COCO_val_mcq_llama3.1_rephrased.csv", "VOC2007_mcq_llama3.1_rephrased.csv"
COCO_RETRIEVAL = "COCO_val_retrieval.csv"
COCO_NEGATED = "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv"
_NEGBENCH = "NegBench (Alhamoud et al., CVPR 2025, arXiv 2501.09425)"
_CORRECTED = f"{_NEGBENCH}, the repository's results with normalised embeddings"
_TABLE = f"{_NEGBENCH}, COCO: R@5, R-Neg@5 and MCQ of pretrained and fine-tuned models"
_NEGCLIP = "NegCLIP's published checkpoint (Yuksekgonul et al., ICLR 2023) is given by --pretrained"


def _negbench() -> list[Recipe]:
    found = [
        _scored("clip-coco-mcq", COCO_MCQ, _CORRECTED, {"claims": 39.3}, weights="openai"),
        _scored("clip-voc-mcq", VOC_MCQ, _CORRECTED, {"claims": 38.7}, weights="openai"),
    ]
    by_type = {"positive": 69.1, "negative": 6.8, "hybrid": 39.3}
    expected = {f"claims/attribute/{name}": value for name, value in by_type.items()}
    found.append(
        _scored("clip-coco-mcq-by-type", COCO_MCQ, f"{_NEGBENCH}, MCQ by template", expected, weights="openai")
    )
    rows: dict[str, tuple[tuple[float, float, float], dict[str, str]]] = {
        "clip": ((54.8, 48.0, 39.2), {"weights": "openai"}),
        "negclip": ((68.7, 64.4, 28.6), {"note": _NEGCLIP}),
    }
    for model, (values, more) in rows.items():
        parts = (
            ("coco-retrieval", COCO_RETRIEVAL, "text_to_image_r5"),
            ("coco-negated-retrieval", COCO_NEGATED, "text_to_image_r5"),
            ("coco-mcq-table", COCO_MCQ, "claims"),
        )
        found += [
            _scored(f"{model}-{part}", file, _TABLE, {measure: value}, **more)
            for (part, file, measure), value in zip(parts, values, strict=True)
        ]
    return found


def _counts() -> list[Recipe]:
    valse = "VALSE (Parcalabescu et al., ACL 2022), the published files; kept: at least 2 of 3 annotators agree"
    pieces = {
        "counting-small-quant": (1000, 900),
        "foil-it": (1000, 943),
        "plurals": (1000, 851),
        "relations": (614, 535),
    }
    found = [
        Recipe(
            "valse-existence",
            "existence.json",
            "valse",
            f"{valse}; Quantmeyer et al. 2024 (arXiv 2407.10488) for the reworded 490",
            {"items": 534, "kept": 505, "equal length": 490},
        )
    ]
    for name, (items, kept) in pieces.items():
        found.append(Recipe(f"valse-{name}", f"{name}.json", "valse", valse, {"items": items, "kept": kept}))
    for name, items in {"add_att": 692, "replace_obj": 1652}.items():
        source = "SugarCrepe (Hsieh et al., NeurIPS 2023), the published files"
        found.append(
            Recipe(f"sugarcrepe-{name}", f"{name}.json", "sugarcrepe", source, {"items": items, "kept": items})
        )
    return found


RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (*_negbench(), *_counts())}
"""All recipes by name."""


def recipe_named(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        OptionError: there is none of that name.

    >>> recipe_named("clip-coco-mcq").expected
    {'claims': 39.3}
    """
    if name not in RECIPES:
        raise OptionError(f"no recipe is named {shown(name)}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def reproduce(
    recipe: Recipe,
    file: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    load: Callable[[], Encoder] | None = None,
    model: str | None = None,
) -> Reproduction:
    """Measure what a recipe says on a user's copy of its file.

    Args:
        images: the folder of the images; by default that of the file. None of them may be missing.
        load: gives the model, once the file is found to be right; needed where the recipe scores one.
        model: what the model is called in the result.

    Raises:
        DataFormatError: the file is of another format, an image is missing, or a measure cannot be taken of the file.
        OptionError: the recipe scores a model, and none is given.
    """
    data = read(file, images=images, strict=recipe.model is not None)
    if data.format != recipe.format:
        raise DataFormatError(
            f"{str(file)!r} is of the format {data.format}, and the recipe {recipe.name} is about {recipe.file} "
            f"({recipe.format})"
        )
    if recipe.model is None:
        return Reproduction(recipe, None, _counted(data, Path(file), recipe), data.left_out)
    if load is None:
        raise OptionError(f"the recipe {recipe.name} scores a model; give load=")
    scores = evaluate(load(), data, strict=True, split=None, n_boot=20)  # of the interval nothing is used
    measured = {measure: _measure(scores, measure, str(file)) for measure in recipe.expected}
    return Reproduction(recipe, model or recipe.model, measured, data.left_out)


def _counted(data: Dataset, file: Path, recipe: Recipe) -> dict[str, float]:
    found: dict[str, float] = {"items": len(data) + sum(data.left_out.values()), "kept": len(data)}
    if "equal length" in recipe.expected:
        found["equal length"] = len(read_valse(file, count_tokens=_clip_tokens()))
    return {measure: found[measure] for measure in recipe.expected}


def _clip_tokens() -> Callable[[str], int]:
    """The length of a text by CLIP's byte-pair tokenizer, which open_clip ships with its vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return lambda text: len(tokenizer.encode(text))


def _measure(scores: Any, measure: str, file: str) -> float:
    task, *subset = measure.split("/")
    found = scores.tasks.get(task)
    if found is None:
        raise DataFormatError(f"{file!r} asks nothing of the task {task}")
    if not subset:
        return float(found.accuracy.value)
    name, value = subset
    if value not in found.by.get(name, {}):
        raise DataFormatError(f"{file!r} has no item whose {name} is {value!r}")
    return float(found.by[name][value])
