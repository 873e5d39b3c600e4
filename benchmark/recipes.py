"""Known numbers and how to get them: for each a model, a published file, the value, its source and a tolerance."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..arguments import explains_arguments
from ..errors import DataFormatError, OptionError
from ..io.quoting import shown
from ..tracer import read_valse
from .evaluation import Evaluation, evaluate
from .readers import Dataset, read
from .readers.aro import LEFT_OUT_OF_MEAN
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
        of it, in percent ("task/subset/macro": the mean over all values of at least 25 items; "task/subset/macro of
        relations": over those that ARO's own mean takes); those of a counted file
        are "items" (in the file), "kept" (by the publisher's rule) and "equal length" (of VALSE's existence items,
        reworded, those of equally many CLIP tokens).
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
        checkpoint = " --pretrained CHECKPOINT" if self.model is not None and self.weights is None else ""
        return f"tracescribe reproduce {self.name} --file {self.file}{scored}{checkpoint}"


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


MACRO, LEAST_OF_MACRO = "macro", 25
RELATIONS = "macro of relations"
_GELU = (
    "given by --pretrained; the published code computes GELU with it (open_clip's ViT-B-32), although it was trained "
    "from OpenAI's weights, which have QuickGELU"
)
_CHECKPOINTS = {
    "negclip": "NegCLIP's published checkpoint negclip.pth (Yuksekgonul et al., ICLR 2023)",
    "conclip": "the checkpoint conclip_b32_openclip_version.pt, as NegBench distributes it,",
    "negfull": "NegBench's checkpoint NegCLIP_CC12M_NegFull (finetuned_checkpoint.pt)",
}
MODELS: Mapping[str, dict[str, Any]] = {
    "clip": {"model": "open_clip:ViT-B-32-quickgelu", "weights": "openai"},
    **{name: {"model": "open_clip:ViT-B-32", "note": f"{what} is {_GELU}"} for name, what in _CHECKPOINTS.items()},
}


def _scored(name: str, file: str, source: str, expected: Mapping[str, float], **more: Any) -> Recipe:
    kind = "negbench-mcq" if "mcq" in file else "negbench-retrieval"
    return Recipe(name, file, kind, source, expected, **{"tolerance": SCORE_TOLERANCE, **more})


COCO_MCQ, VOC_MCQ = "COCO_val_mcq_llama3.1_rephrased.csv", "VOC2007_mcq_llama3.1_rephrased.csv"
COCO_RETRIEVAL = "COCO_val_retrieval.csv"
COCO_NEGATED = "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv"
_NEGBENCH = "NegBench (Alhamoud et al., CVPR 2025, arXiv 2501.09425)"
_CORRECTED = f"{_NEGBENCH}, the repository's corrected results (results/mcq/*.csv), with normalised embeddings"
_TABLE = f"{_NEGBENCH}, COCO: R@5, R-Neg@5 and MCQ of pretrained and fine-tuned models"


def _negbench() -> list[Recipe]:
    found = []
    for model, values in TOTALS.items():
        for (part, file), value in zip(MCQ_FILES.items(), values, strict=True):
            found.append(_scored(f"{model}-{part}-mcq", file, _CORRECTED, {"claims": value}, **MODELS[model]))
    for (model, part), by_template in TEMPLATES.items():
        kinds = zip(("positive", "negative", "hybrid"), by_template, strict=True)
        expected = {f"claims/attribute/{kind}": value for kind, value in kinds}
        name = f"{model}-{part}-mcq-by-type"
        found.append(_scored(name, MCQ_FILES[part], _CORRECTED, expected, **MODELS[model]))
    measures = (
        ("coco-retrieval", COCO_RETRIEVAL, "text_to_image_r5"),
        ("coco-negated-retrieval", COCO_NEGATED, "text_to_image_r5"),
        ("coco-mcq-table", COCO_MCQ, "claims"),
    )
    for model, row in TABLE.items():
        for (part, file, measure), value in zip(measures, row, strict=True):
            found.append(_scored(f"{model}-{part}", file, _TABLE, {measure: value}, **MODELS[model]))
    return found


MCQ_FILES = {"coco": COCO_MCQ, "voc": VOC_MCQ}
TOTALS = {"clip": (39.3, 38.7), "negclip": (28.68, 30.49), "conclip": (23.88, 38.12), "negfull": (56.24, 59.65)}
"""Multiple choice on COCO and on VOC."""
TEMPLATES = {
    ("clip", "coco"): (69.14, 6.84, 39.31),
    ("clip", "voc"): (82.55, 3.35, 58.98),
    ("negclip", "coco"): (51.62, 16.15, 17.15),
    ("negclip", "voc"): (75.37, 5.70, 40.35),
    ("conclip", "coco"): (14.42, 33.53, 24.45),
    ("conclip", "voc"): (24.63, 22.96, 56.69),
}
"""Multiple choice whose right answer is positive, negative, hybrid."""
TABLE = {"clip": (54.8, 48.0, 39.2), "negclip": (68.7, 64.4, 28.6)}
"""R@5, R-Neg@5 and multiple choice on COCO."""
SUGARCREPE = {
    "replace_obj": (90.92, 92.68),
    "replace_att": (80.08, 85.91),
    "replace_rel": (69.20, 76.46),
    "swap_obj": (61.38, 75.20),
    "swap_att": (63.96, None),
    "add_obj": (77.20, None),
    "add_att": (68.79, None),
}
"""By file: CLIP ViT-B/32 and NegCLIP, as far as they are published."""


def _compositional() -> list[Recipe]:
    """SugarCrepe by file, and the values of ARO that are published with all that decides them."""
    source = (
        "SugarCrepe (Hsieh et al., NeurIPS 2023), Table 5 by file, as its authors give it in their repository's issue 3"
    )
    found = []
    for part, values in SUGARCREPE.items():
        for (model, row), value in zip((("clip", "OpenAI"), ("negclip", "NegCLIP FT")), values, strict=True):
            more: dict[str, Any] = MODELS[model]
            if value is not None:
                name, file, about = f"{model}-sugarcrepe-{part}", f"{part}.json", f"{source}, row {row!r}"
                expected = {"pairs": value}
                found.append(Recipe(name, file, "sugarcrepe", about, expected, tolerance=SCORE_TOLERANCE, **more))
    found.append(
        Recipe(
            "negclip-aro-attribution",
            "visual_genome_attribution.json",
            "aro",
            "ARO (Yuksekgonul et al., ICLR 2023), Table 6: 0.71, the mean over pairs of attributes of 25 or more items",
            {f"pairs/template/{MACRO}": 71.0},
            tolerance=SCORE_TOLERANCE + 0.5,  # it is published in two digits
            **MODELS["negclip"],
        )
    )
    for model, value in (("clip", 59.0), ("negclip", 81.0)):
        source = f"ARO, Table 6: {value / 100:.2f}, the mean over relations without those that its notebook leaves out"
        found.append(
            Recipe(
                f"{model}-aro-relation",
                "visual_genome_relation.json",
                "aro",
                source,
                {f"pairs/template/{RELATIONS}": value},
                tolerance=SCORE_TOLERANCE + 0.5,
                **MODELS[model],
            )
        )
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
    for part, items in {"relation": 23_937, "attribution": 28_748}.items():
        source = (
            f"ARO (Yuksekgonul et al., ICLR 2023): test cases of VG-{part.title()}, those that its mean leaves out too"
        )
        found.append(Recipe(f"aro-{part}", f"visual_genome_{part}.json", "aro", source, {"items": items}))
    source = "CC-Neg (Singh et al., WACV 2025): 228,246 images with true and negated captions"
    found.append(Recipe("cc-neg", "ccneg_preprocessed.pt", "cc-neg", source, {"items": 228_246}))
    return found


RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (*_negbench(), *_compositional(), *_counts())}
"""All recipes by name."""


def recipe_named(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        OptionError: there is none of that name.

    >>> recipe_named("clip-coco-mcq").expected
    {'claims': 39.3}
    """
    if name not in RECIPES:
        near = get_close_matches(name[:100], RECIPES, n=5, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise OptionError(
            f"no recipe is named {shown(name)}; {hint}`tracescribe reproduce` lists all {len(RECIPES)} of them"
        )
    return RECIPES[name]


@explains_arguments
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


def _measure(scores: Evaluation, measure: str, file: str) -> float:
    task, *subset = measure.split("/")
    found = scores.tasks.get(task)
    if found is None:
        raise DataFormatError(f"{file!r} asks nothing of the task {task}")
    if not subset:
        return float(found.accuracy.value)
    name, value = subset
    by = found.by.get(name, {})
    if value in (MACRO, RELATIONS):
        counts = Counter(scores.items[task].labels.get(name, ()))
        if value == RELATIONS:
            parts = [part for relation, part in by.items() if relation not in LEFT_OUT_OF_MEAN]
        else:
            parts = [part for one, part in by.items() if counts[one] >= LEAST_OF_MACRO]
        if not parts:
            which = "that ARO's mean takes" if value == RELATIONS else f"of {LEAST_OF_MACRO} items or more"
            raise DataFormatError(f"{file!r} has no {name} {which}")
        return sum(parts) / len(parts)
    if value not in by:
        raise DataFormatError(f"{file!r} has no item whose {name} is {value!r}")
    return float(by[value])
