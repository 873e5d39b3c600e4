"""`reproduce`: published numbers measured again. On small files and a random model they differ, and that is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run, refused
from PIL import Image

from tracescribe.benchmark import RECIPES, reproduce
from tracescribe.benchmark.readers import formats
from tracescribe.benchmark.recipes import SCORE_TOLERANCE, Reproduction, recipe_named
from tracescribe.errors import DataFormatError, OptionError

pytestmark = pytest.mark.filterwarnings("default:the phantom miniature does not know")
EXCERPT = Path(__file__).parents[1] / "data" / "valse_existence_excerpt.json"


def mcq(folder: Path, n: int = 8) -> Path:
    rng = np.random.default_rng(0)
    rows = ["image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template"]
    kinds = ("positive", "negative", "hybrid")
    for number in range(n):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{number}.png")
        options = [
            f"the film shows {what} {number}" for what in ("an effusion", "no effusion", "a nodule", "no nodule")
        ]
        rows.append(f"/data/coco/{number}.png,0,{','.join(options)},{kinds[number % 3]}")
    path = folder / "COCO_val_mcq_llama3.1_rephrased.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_every_recipe_states_what_is_needed_to_check_it() -> None:
    assert len(RECIPES) >= 16
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.format in formats()
        assert recipe.source
        assert recipe.expected
        assert recipe.command.startswith(f"tracescribe reproduce {name} --file {recipe.file}")
        scores_a_model = recipe.model is not None
        two_digits = recipe.format == "aro"
        assert recipe.tolerance == (SCORE_TOLERANCE + 0.5 * two_digits if scores_a_model else 0)
        assert ("--images" in recipe.command) == scores_a_model
        if scores_a_model and recipe.weights is None:
            assert recipe.note


def test_published_values_are_these() -> None:
    expected = {name: dict(recipe.expected) for name, recipe in RECIPES.items()}
    assert expected["clip-coco-mcq"] == {"claims": 39.3}
    assert expected["clip-voc-mcq"] == {"claims": 38.7}
    assert list(expected["clip-coco-mcq-by-type"].values()) == [69.14, 6.84, 39.31]
    assert expected["negclip-coco-negated-retrieval"] == {"text_to_image_r5": 64.4}
    assert expected["negclip-coco-mcq"] == {"claims": 28.68}
    assert expected["conclip-voc-mcq"] == {"claims": 38.12}
    assert expected["clip-sugarcrepe-replace_obj"] == {"pairs": 90.92}
    assert expected["negclip-aro-attribution"] == {"pairs/template/macro": 71.0}
    assert expected["clip-aro-relation"] == {"pairs/template/macro of relations": 59.0}
    assert (expected["aro-relation"], expected["aro-attribution"]) == ({"items": 23_937}, {"items": 28_748})
    assert expected["cc-neg"] == {"items": 228_246}
    assert expected["valse-existence"] == {"items": 534, "kept": 505, "equal length": 490}


@pytest.mark.parametrize(("part", "items"), [("replace_obj", 1652), ("add_att", 692)])
def test_sugarcrepes_published_scores_are_whole_numbers_of_its_items(part: str, items: int) -> None:
    """A score of another file, or of another release of it, would not be one."""
    for model in ("clip", "negclip"):
        recipe = RECIPES.get(f"{model}-sugarcrepe-{part}")
        if recipe is not None:
            right = recipe.expected["pairs"] / 100 * items
            assert abs(right - round(right)) <= 0.005 / 100 * items  # published with two decimals


def test_checkpoints_that_were_published_with_gelu_are_scored_with_gelu() -> None:
    """NegCLIP and what came after it: open_clip's ViT-B-32 with a file as weights, in the published code."""
    for name, recipe in RECIPES.items():
        if recipe.model is not None:
            quick = recipe.model == "open_clip:ViT-B-32-quickgelu"
            assert quick == name.startswith("clip-") == (recipe.weights == "openai"), name
            assert quick or "GELU" in recipe.note


def test_the_macro_mean_is_over_values_of_25_items(tmp_path: Path) -> None:
    """ARO's attribution: the mean of the pairs of attributes; those of fewer than 25 items are left out."""
    wanted = {"red_big": (30, 1.0), "old_wet": (25, 0.2), "hot_new": (24, 0.0)}  # items, and how many are right
    items, right = [], []
    for attributes, (n, share) in wanted.items():
        for number in range(n):
            Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / f"{len(items)}.png")
            items.append(
                {
                    "image_id": len(items),
                    "image_path": f"{len(items)}.png",
                    "true_caption": f"true {len(items)}",
                    "false_caption": f"false {len(items)}",
                    "attributes": attributes.split("_"),
                    "bbox_x": 0,
                    "bbox_y": 0,
                    "bbox_w": 2,
                    "bbox_h": 2,
                }
            )
            right.append(number < share * n)
    path = tmp_path / "visual_genome_attribution.json"
    path.write_text(json.dumps(items))

    class Aware:
        def encode_images(self, images: Any) -> np.ndarray:
            return np.eye(len(items), dtype=np.float32)[[int(Path(box.image).stem) for box in images]]

        def encode_texts(self, texts: Any) -> np.ndarray:
            rows = np.zeros((len(texts), len(items)), dtype=np.float32)
            for row, text in zip(rows, texts, strict=True):
                kind, number = text.split()
                row[int(number)] = float((kind == "true") == right[int(number)])
            return rows

    relations = [
        {**{name: value for name, value in item.items() if name != "attributes"}, "relation_name": relation}
        for item, relation in zip(items, ["on"] * 30 + ["near"] * 25 + ["wearing"] * 24, strict=True)
    ]
    path.write_text(json.dumps(relations))
    found = reproduce(RECIPES["clip-aro-relation"], path, load=Aware)
    assert found.measured["pairs/template/macro of relations"] == pytest.approx((100 + 0) / 2)  # "near" is left out
    path.write_text(json.dumps(relations[30:55]))
    with pytest.raises(DataFormatError, match="has no template that ARO's mean takes"):
        reproduce(RECIPES["clip-aro-relation"], path, load=Aware)
    path.write_text(json.dumps(items))
    found = reproduce(RECIPES["negclip-aro-attribution"], path, load=Aware)
    assert found.measured["pairs/template/macro"] == pytest.approx((100 + 20) / 2)
    few = replace(RECIPES["negclip-aro-attribution"], expected={"pairs/attribute/nothing": 1})
    with pytest.raises(DataFormatError, match=r"no item whose attribute is 'nothing'"):
        reproduce(few, path, load=Aware)
    few = replace(few, expected={"pairs/polarity/macro": 1})
    with pytest.raises(DataFormatError, match="has no polarity of 25 items or more"):
        reproduce(few, path, load=Aware)


@pytest.mark.parametrize(
    ("measured", "within"), [(39.3, True), (38.8, True), (39.8, True), (38.79, False), (40.0, False)]
)
def test_the_tolerance_counts_on_both_sides(measured: float, within: bool) -> None:
    assert Reproduction(RECIPES["clip-coco-mcq"], "m", {"claims": measured}, {}).within is within


class Knowing:
    """A model that gives every image the vector of the option that it calls right."""

    def __init__(self, right: int) -> None:
        self.right = right

    def encode_images(self, images: Any) -> np.ndarray:
        return np.eye(64, dtype=np.float32)[[int(Path(image).stem) for image in images]]

    def encode_texts(self, texts: Any) -> np.ndarray:
        rows = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            wanted = ("an effusion", "no effusion", "a nodule", "no nodule")[self.right]
            row[int(text.rsplit(" ", 1)[1])] = float(wanted in text)
        return rows


def test_measures_are_those_of_the_evaluation_and_of_its_parts(tmp_path: Path) -> None:
    recipe = replace(RECIPES["clip-coco-mcq-by-type"], expected={"claims": 100, "claims/attribute/negative": 100})
    right = reproduce(recipe, mcq(tmp_path), load=lambda: Knowing(0))
    assert (right.measured, right.within) == ({"claims": 100.0, "claims/attribute/negative": 100.0}, True)
    wrong = reproduce(recipe, mcq(tmp_path), load=lambda: Knowing(1))
    assert (wrong.measured, wrong.within) == ({"claims": 0.0, "claims/attribute/negative": 0.0}, False)
    with pytest.raises(DataFormatError, match="has no item whose attribute is 'double'"):
        reproduce(replace(recipe, expected={"claims/attribute/double": 1}), mcq(tmp_path), load=lambda: Knowing(1))
    with pytest.raises(DataFormatError, match="asks nothing of the task text_to_image_r5"):
        reproduce(replace(recipe, expected={"text_to_image_r5": 1}), mcq(tmp_path), load=lambda: Knowing(1))
    with pytest.raises(OptionError, match="scores a model"):
        reproduce(recipe, mcq(tmp_path))


def test_the_command_says_measured_expected_and_the_verdict(run: Run, tmp_path: Path) -> None:
    path = mcq(tmp_path)
    done = run("reproduce", "clip-coco-mcq", "--file", path, "--model", "phantom")
    assert done.code == 1, done.err  # another model on eight drawn images: not CLIP's number
    assert "39.3" in done.out
    assert "not reproduced: clip-coco-mcq, model: phantom" in done.out
    document = json.loads(run("reproduce", "clip-coco-mcq", "--file", path, "--model", "phantom", "--json").out)
    [row] = document["measures"]
    assert row["expected"] == 39.3
    assert abs(row["measured"] - 39.3) > document["tolerance"] == 0.5
    assert (row["within"], document["within"]) == (False, False)


def test_counts_need_no_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    short = run("reproduce", "valse-existence", "--file", EXCERPT)
    assert short.code == 1
    assert "534" in short.out
    items = json.loads(EXCERPT.read_text(encoding="utf-8"))
    kept = [item for item in items.values() if item["mturk"]["caption"] >= 2]
    assert 0 < len(kept) <= len(items)
    changed = replace(RECIPES["valse-existence"], expected={"items": len(items), "kept": len(kept)})
    found = reproduce(changed, EXCERPT)
    assert found.within
    assert sum(found.left_out.values()) == len(items) - len(kept)


def test_without_a_name_all_are_listed(run: Run) -> None:
    done = run("reproduce")
    assert done.code == 0
    for recipe in RECIPES.values():  # in one piece each, also where there is no terminal
        assert f" {recipe.name} " in done.out and f" {recipe.file} " in done.out
    assert {one["name"] for one in run("reproduce", "--json").document["recipes"]} == set(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("clip-coco",), ("no recipe is named 'clip-coco'", "clip-coco-mcq")),
        (("clip-coco-mcq",), ("needs your copy of COCO_val_mcq", "--file")),
        (("clip-coco-mcq", "--file", "{mcq}", "--images", "{empty}", "--model", "phantom"), ("is not in",)),
        (("negclip-coco-mcq-table", "--file", "{mcq}"), ("needs a checkpoint", "NegCLIP", "--pretrained")),
        (("clip-coco-mcq", "--file", "{valse}", "--images", "{empty}", "--model", "phantom"), ("is not in",)),
        (("sugarcrepe-add_att", "--file", "{valse}"), ("is of the format valse", "sugarcrepe")),
        (("valse-existence", "--file", "{valse}", "--model", "phantom"), ("needs no model",)),
        (("clip-coco-mcq", "--file", "{tmp}/none.csv"), ("none.csv",)),
    ],
)
def test_bad_input_is_a_sentence(run: Run, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    places = {"mcq": mcq(tmp_path), "empty": tmp_path / "empty", "valse": EXCERPT, "tmp": tmp_path}
    refused(run("reproduce", *(argument.format(**places) for argument in arguments)), *words)


def test_a_name_is_quoted_shortened() -> None:
    with pytest.raises(OptionError) as refusal:
        recipe_named("x" * 5000)
    assert len(str(refusal.value)) < 1000
