"""The shipped miniature scores what its card says, and its training command is deterministic."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tracescribe as ts
from tracescribe.benchmark.phantom import Facts, Finding, draw, miniature, pretraining, scorecard
from tracescribe.benchmark.phantom.captions import Wording, blinding_report
from tracescribe.benchmark.phantom.tokenizer import UnknownTokenWarning
from tracescribe.errors import DataFormatError, NonFiniteError, UnknownModelError

SHORT = pretraining.Recipe(n_images=64, steps=3, batch=16, warmup=1)

# Between seeds of training and of the test films; the card states the scores of two seeds.
AFFIRMATIVE_TOLERANCE = 3.0
GAP_TOLERANCE = 15.0


@pytest.fixture(scope="module")
def card() -> scorecard.Scorecard:
    # Other patients than the card's (seed 100), and fewer of them.
    return scorecard.score_miniature(ts.load("phantom"), n=400, seed=2024, n_boot=100)


def test_the_miniature_reads_films_and_is_blind_to_negation(card: scorecard.Scorecard) -> None:
    scores = card.evaluation
    assert scores.affirmative_accuracy >= 90
    assert scores.gap.value >= 40
    assert scores.mcnemar_p < 1e-6
    assert scores.claims_by_polarity["affirmative"] > scores.claims_by_polarity["negated"]


def test_its_scores_come_from_the_film(card: scorecard.Scorecard) -> None:
    for name in ("image_blind", "shuffled_image", "negator_count"):
        assert card.evaluation.baselines[name].affirmative < 45
    assert card.evaluation.retrieval_r1 > 10 * 100 / 32


def test_severity_and_side_are_seen(card: scorecard.Scorecard) -> None:
    for kind in ("severity", "location", "condition"):
        assert card.pairs[kind].right > 80
        assert card.pairs[kind].size > 0.05


def test_the_shipped_files_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    assert miniature.WEIGHTS.stat().st_size <= 3_000_000
    with safe_open(str(miniature.WEIGHTS), framework="np") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        recipe = json.loads(file.metadata()["recipe"])
    assert kinds <= {"F16", "I64"}
    # What the command trains is what is shipped.
    assert pretraining.Recipe(**{**recipe, "betas": tuple(recipe["betas"])}) == pretraining.Recipe()


def test_a_large_film_reads_like_the_small_one() -> None:
    from PIL import Image

    from tracescribe.benchmark.phantom import Finding, to_uint8

    facts = Facts((Finding("effusion", side="left", severity="severe"),))
    model = ts.load("phantom")
    films = [Image.fromarray(to_uint8(draw(facts, 7, size=size))) for size in (64, 256)]
    healthy = Image.fromarray(to_uint8(draw(Facts(), 7)))
    small, large, other = model.encode_images([*films, healthy])
    assert small @ large > 0.8 > small @ other


def test_token_strings_are_readable() -> None:
    tower = ts.load("phantom").text
    assert tower.token_strings(tower.tokenize(["no pacemaker"])[0])[:3] == [
        "[SOT]",
        "no",
        "pace·",
    ]  # "pacemaker" goes on
    with warnings.catch_warnings(), pytest.raises(UnknownTokenWarning, match="giraffe"):
        warnings.simplefilter("error", UnknownTokenWarning)
        tower.tokenize(["a giraffe"])


def test_training_is_deterministic_and_leaves_the_callers_random_state_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    losses: list[list[float]] = [[], []]
    runs = [
        pretraining.train_miniature(SHORT, on_step=lambda _, loss, k=k: losses[k].append(loss))[0].state_dict()  # type: ignore[misc]
        for k in range(2)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert losses[0] == losses[1] and len(losses[0]) == SHORT.steps
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()
    other, _ = pretraining.train_miniature(pretraining.Recipe(**{**vars(SHORT), "seed": 1}))
    assert not torch.equal(runs[0]["text_projection"], other.state_dict()["text_projection"])


def test_trimmed_text_encoding_is_the_models_own() -> None:
    source = miniature.load_source()
    tokens = source.tokenizer(["pacemaker", "There is severe left pleural effusion."])
    with torch.no_grad():
        difference = pretraining.encode_text(source.module, tokens) - source.module.encode_text(tokens)
    assert difference.abs().max() < 1e-5  # the same sums over other block sizes, in float32


def test_its_own_network_is_open_clips() -> None:
    """The shipped weights were trained in open_clip's classes, and are read without importing open_clip."""
    source = miniature.load_source()
    theirs = pretraining.untrained(source.tokenizer.vocab_size).eval()
    theirs.load_state_dict(source.module.state_dict())  # strict: the same names
    tokens = source.tokenizer(["pacemaker", "There is no pleural effusion.", "There is severe left pleural effusion."])
    pixels = miniature.normalise(np.stack([draw(Facts(), (3, i)) for i in range(3)]))
    with torch.no_grad():
        assert torch.equal(source.module.encode_text(tokens), theirs.encode_text(tokens))  # the same operations
        images, expected = source.module.encode_image(pixels), theirs.encode_image(pixels)
        # attention pooling computes one query where open_clip computes all: other block sizes in float32
        assert (images - expected).abs().max() <= 1e-5 * expected.abs().max()
        for one, other in zip(source.module(pixels, tokens), theirs(pixels, tokens), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_films_of_training_and_of_data_sets_are_different_patients() -> None:
    from tracescribe.benchmark.phantom.dataset import studies

    trained, _ = pretraining.films(3, 0)
    assert len(trained) == 3
    data = [draw(Facts(), s.seed, patient=s.patient_seed) for s in studies(3, 0)]
    assert all(np.abs(draw(Facts(), (0, i)) - film).mean() > 0.01 for i in range(3) for film in data)


def test_saved_weights_load_and_broken_ones_say_so(tmp_path: Path) -> None:
    model, tokenizer = pretraining.train_miniature(SHORT)
    path = pretraining.save(model, tokenizer, tmp_path, SHORT)
    loaded = miniature.load_source(weights=path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], value.half().float())
    assert not loaded.module.training
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataFormatError, match=r"miniature\.safetensors"):
        miniature.load_source(weights=path)
    with torch.no_grad():
        model.text_projection[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="text_projection"):
        pretraining.save(model, tokenizer, tmp_path / "nan", SHORT)
    assert not (tmp_path / "nan").exists()


def test_the_training_command_writes_a_loadable_folder(tmp_path: Path) -> None:
    out = tmp_path / "new"
    assert pretraining.main(["--out", str(out), "--steps", "1", "--images", "96"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["miniature.safetensors", "vocabulary.json"]
    assert miniature.load_source(weights=out / "miniature.safetensors").tokenizer.vocab_size == (
        miniature.load_source().tokenizer.vocab_size
    )


def test_another_miniature_has_its_own_depth_and_loads_by_its_folder(tmp_path: Path) -> None:
    recipe = replace(SHORT, seed=1, layers=3, no_change=0.0, negation=1.0)
    model, tokenizer = pretraining.train_miniature(recipe)
    pretraining.save(model, tokenizer, tmp_path / "three", recipe)
    encoder = ts.load(f"phantom:{tmp_path / 'three'}", dtype=torch.float64)
    assert (encoder.name, encoder.text.n_layers) == ("phantom:three", 3)
    assert next(encoder.source.parameters()).dtype == torch.float64
    tokens = tokenizer(["There is no pneumothorax."])
    with torch.no_grad():
        expected = model.half().double().encode_text(tokens)
        assert torch.allclose(encoder.source.encode_text(tokens), expected, rtol=0, atol=1e-12)
    with pytest.raises(UnknownModelError, match=r"vocabulary\.json"):
        ts.load(f"phantom:{tmp_path / 'none'}")


def test_the_wording_decides_how_reports_say_no() -> None:
    facts = Facts((Finding("effusion", side="left", severity="severe"),))
    never, always = Wording(no_change=0.0, negation=0.0), Wording(no_change=1.0, negation=1.0)
    told = {w: [blinding_report(facts, np.random.default_rng(i), w) for i in range(200)] for w in (never, always)}
    assert not any(" no " in f" {text.lower()}" for text in told[never])
    assert all(" no " in f" {text.lower()}" for text in told[always])
    assert any("no pneumothorax" in text.lower() for text in told[always])


@pytest.mark.slow
def test_retraining_reproduces_the_shipped_scores() -> None:
    """The whole recipe again (6 to 20 minutes): the same scores within the tolerance that the model card states."""
    model, tokenizer = pretraining.train_miniature()
    again = ts.wrap(model, tokenizer=tokenizer, preprocess=miniature.Preprocess(), name="again")
    new = scorecard.score_miniature(again, n=1000, n_boot=10).evaluation
    old = scorecard.score_miniature(ts.load("phantom"), n=1000, n_boot=10).evaluation
    assert new.affirmative_accuracy == pytest.approx(old.affirmative_accuracy, abs=AFFIRMATIVE_TOLERANCE)
    assert new.gap.value == pytest.approx(old.gap.value, abs=GAP_TOLERANCE)
    assert new.affirmative_accuracy >= 90 and new.gap.value >= 40
