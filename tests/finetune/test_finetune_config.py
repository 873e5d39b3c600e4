"""Configuration files: what is read, what is refused in one sentence, and that what is written is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracescribe.errors import DataFormatError
from tracescribe.finetune import TrainConfig, read_config
from tracescribe.finetune.training.config_files import ELSEWHERE, SECTIONS, as_yaml

EVERYTHING = """
seed: 3
model: {name: phantom, device: cpu}
data:
  captions: {a.jsonl: 3, sub/b.jsonl: 1}
  claims: claims.jsonl
  split: null
  image_cache: cache
plan: {file: plan.json, weighting: update}
lora: {rank: 8}
optim: {lr: 1e-3, lambda: 0.25, precision: bf16, clip_norm: 1, repeats: positives}
schedule: {kind: cosine, steps: 20, warmup: 2}
eval: {data: films, every: 5, select: balanced, patience: 3, retrace: pairs.jsonl}
output: {checkpoint_every: 5, trackers: [tensorboard]}
"""


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_sections_of_a_file_are_the_options_of_python(tmp_path):
    config = read_config(write(tmp_path, EVERYTHING), ["lora.rank=2", "seed=7"])
    assert config.captions == {tmp_path / "a.jsonl": 3, tmp_path / "sub" / "b.jsonl": 1}
    assert (config.claims, config.plan) == (tmp_path / "claims.jsonl", tmp_path / "plan.json")
    assert (config.image_cache, config.retrace) == (tmp_path / "cache", tmp_path / "pairs.jsonl")
    assert (config.lr, config.lambda_, config.schedule, config.split) == (1e-3, 0.25, "cosine", None)
    assert (config.rank, config.lora_alpha, config.seed) == (2, 4, 7)
    assert read_config(write(tmp_path, "model: phantom")).model == "phantom"


def test_every_option_has_one_place_in_a_file():
    fields = [field for keys in SECTIONS.values() for field in keys.values()]
    assert sorted(fields) == sorted(TrainConfig.model_fields)


def test_what_is_written_is_read_again(tmp_path):
    config = read_config(write(tmp_path, EVERYTHING))
    assert read_config(write(tmp_path, as_yaml(config), "again.yaml")) == config
    flat = json.dumps(config.model_dump(mode="json"))
    assert read_config(write(tmp_path, flat, "config.json")) == config


def test_every_name_from_elsewhere_stands_for_an_option():
    known = {f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys}
    assert set(ELSEWHERE.values()) <= known
    assert not {name.rpartition(".")[2] for name in known} & set(ELSEWHERE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim: {learning_rate: 1}", r"no option 'optim\.learning_rate'; did you mean 'optim\.lr'\?"),
        ("max_grad_norm: 1", r"no option 'max_grad_norm'; did you mean 'optim\.clip_norm'\?"),
        ("output: {report_to: wandb}", r"no option 'output\.report_to'; did you mean 'output\.trackers'\?"),
        ("optim: {lrr: 1}", r"no option 'optim\.lrr'; did you mean 'optim\.lr'\?"),
        ("optim: {steps: 1}", r"no option 'optim\.steps'; did you mean 'schedule\.steps'\?"),
        ("schedul: {steps: 1}", r"no option 'schedul'; did you mean 'schedule'"),
        ("optim: {lr: -1}", r"field 'optim\.lr': .*greater than 0"),
        ("optim: {lr: .nan}", r"optim\.lr.*finite|no JSON number"),
        ("schedule: {steps: many}", r"field 'schedule\.steps': .*integer"),
        ("schedule: {steps: true}", "steps is True"),
        ("eval: {select: claims}", "needs evaluations"),
        ("eval: {retrace: pairs.jsonl}", "retrace needs evaluations"),
        ("plan: {weighting: update}", "needs a plan"),
        ("data: {captions: {}}", "no file is named"),
        ("data: {captions: {a: -1}}", r"field 'data\.captions': .*greater than 0"),
        ("schedule: {steps: 1}\nschedule: {steps: 2}", "a key is given twice"),
        ("optim: &a {lr: 1}\nschedule: *a", "aliases"),
        ("optim: {lr: 1", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("- a\n- b", "expected sections"),
        ("just words", "expected sections"),
        ("? [1]\n: 2", "not YAML|no option"),
        ("1: 2", "no option '1'"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_the_key(tmp_path, text, said):
    with pytest.raises(DataFormatError, match=said) as caught:
        read_config(write(tmp_path, text))
    assert "run.yaml" in str(caught.value) and len(str(caught.value)) < 1200 + len(str(tmp_path))


def test_empty_sections_are_the_defaults(tmp_path):
    assert read_config(write(tmp_path, "optim:\nschedule: {}")) == TrainConfig()


def test_the_example_is_a_configuration_and_the_page_names_every_key():
    root = Path(__file__).parents[2]
    config = read_config(root / "examples" / "finetune.yaml")
    assert (config.schedule, config.select, config.checkpoint_every) == ("cosine", "balanced", 50)
    table = (root / "docs" / "finetuning.md").read_text(encoding="utf-8")
    for section, keys in SECTIONS.items():
        line = next(row for row in table.splitlines() if row.startswith(f"| `{section}` |" if section else "| (top) |"))
        assert not [key for key in keys if f"`{key}`" not in line]
