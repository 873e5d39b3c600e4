"""Small pair files and an atlas of the miniature over them, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracescribe.atlas import AtlasConfig, run_atlas

THINGS = ("edema", "effusion", "opacity", "nodule", "pneumothorax", "cardiomegaly")


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pairs.jsonl with text targets, and VALSE and SugarCrepe files in their published form."""
    folder = tmp_path_factory.mktemp("atlas")
    lines = [
        {
            "correct": f"There is no {thing}.",
            "foil": f"There is severe {thing}.",
            "image": {"text": "The lungs are clear."},
            "id": thing,
        }
        for thing in THINGS
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    valse = {
        f"existence_{number}": {
            "caption": f"There is no {thing}." if number % 2 else f"There is {thing}.",
            "foil": f"There is {thing}." if number % 2 else f"There is no {thing}.",
            "image_file": f"{number}.jpg",
            "linguistic_phenomena": "existence",
            "provenance_of_foils": "zero_to_something" if number % 2 else "something_to_zero",
            "mturk": {"caption": 3 if number else 1, "foil": 0, "other": 0},
        }
        for number, thing in enumerate(THINGS)
    }
    (folder / "existence.json").write_text(json.dumps(valse))
    swaps = {
        str(number): {
            "filename": f"{number}.jpg",
            "caption": f"There is mild {thing}.",
            "negative_caption": f"There is {'very severe' if number == 0 else 'severe'} {thing}.",
        }
        for number, thing in enumerate(THINGS[:4])
    }
    (folder / "swap_att.json").write_text(json.dumps(swaps))
    return folder


@pytest.fixture(scope="session")
def config(places: Path) -> AtlasConfig:
    return AtlasConfig(
        models={"one": "phantom", "two": {"model": "phantom", "dtype": "float64"}},
        sets={
            "negation": {"file": places / "pairs.jsonl"},
            "severity": {"file": places / "swap_att.json", "target": "difference"},
        },
        trace={"floor": 0.0},
        heads=True,
        n_boot=200,
    )


@pytest.fixture(scope="session")
def folder(config: AtlasConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_atlas(config, tmp_path_factory.mktemp("made") / "atlas")
