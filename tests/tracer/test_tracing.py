"""ts.trace end to end on small random models: inputs, invariants of CTE, bookkeeping and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from bounds import S_ERROR, assert_same_cte
from models import WordTokenizer, open_clip_model, patched_by_hooks
from PIL import Image

import tracescribe as ts
from tracescribe.errors import (
    ContextOverflowError,
    DataFormatError,
    DegenerateTraceError,
    IdenticalPairError,
    LengthMismatchError,
    NonFiniteError,
    SiteError,
)
from tracescribe.tracer.pairs.targets import encode_targets


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    preprocess = open_clip.image_transform(32, is_train=False)
    return ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), preprocess=preprocess, name="tiny")


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


CAPTIONS = {"correct": "there is no edema.", "foil": "there is some edema."}


def test_every_kind_of_target_gives_the_same_trace(model: ts.DualEncoder, films: list[Path], tmp_path: Path) -> None:
    embedding = model.encode_images([films[0]])[0]
    targets = [films[0], str(films[0]), Image.open(films[0]), embedding, embedding.numpy() * 7, embedding.tolist()]
    trace = ts.trace(model, [ts.Pair(**CAPTIONS, image=target) for target in targets])
    assert len(set(trace.text_pair)) == 1 and trace.embeddings.shape[0] == 1  # patched once
    assert_same_cte(trace.cte[:1], trace)
    (tmp_path / "pairs.jsonl").write_text(json.dumps(CAPTIONS | {"image": "0.png", "group": "p1"}) + "\n")
    (tmp_path / "pairs.csv").write_text("correct,foil,image\nthere is no edema.,there is some edema.,0.png\n")
    for name in ("pairs.jsonl", "pairs.csv"):
        from_file = ts.trace(model, ts.read_pairs(tmp_path / name))
        assert_same_cte(from_file.cte[0], trace, np.s_[0])


def test_given_embeddings_cost_no_pass_of_the_tower(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    width = model.encode_texts(["a clear lung"]).shape[1]
    passes: list[int] = []
    monkeypatch.setattr(ts.patching.TextTower, "embed", lambda *_: passes.append(1))
    assert model.embed_dim == width
    assert encode_targets(model, [np.ones(width), torch.ones(width)], ["a", "b"]).rows.shape == (2, width)
    assert passes == []


def test_targets_given_as_tensors_arrays_lists_texts_and_files_keep_their_order(
    model: ts.DualEncoder, films: list[Path]
) -> None:
    one, other = model.encode_images(films[:2])
    given = [
        one,
        ts.Text("a clear lung"),
        films[1],
        other.numpy(),
        one,
        one.tolist(),
        ts.Text("a clear lung"),
        other * 3,
    ]
    targets = encode_targets(model, given, [str(i) for i in range(len(given))])
    text = model.encode_texts(["a clear lung"])[0]
    expected = torch.stack([one, text, other, other, one, one, text, other]).numpy()
    # float32 embeddings, divided by their length once more
    np.testing.assert_allclose(targets.of_pairs, expected, atol=2e-7)
    assert len(targets.rows) == 6  # equal objects and equal texts once


def test_the_odd_embedding_among_tensors_is_named(model: ts.DualEncoder) -> None:
    width = model.embed_dim
    good = torch.ones(width)
    for odd, message in ((torch.ones(width + 1), "pair 'b' .* shape"), (good * 0, "pair 'b'")):
        with pytest.raises((DataFormatError, NonFiniteError), match=message):
            encode_targets(model, [good, odd, good], ["a", "b", "c"])
    with pytest.raises(DataFormatError, match=r"pair 'a' .* shape"):
        encode_targets(model, [torch.ones(width + 1)] * 2, ["a", "b"])


def test_a_text_as_the_target(model: ts.DualEncoder) -> None:
    target = model.encode_texts(["a clear lung"])[0]
    by_text = ts.trace(model, [ts.Pair(**CAPTIONS, image=ts.Text("a clear lung"))])
    by_embedding = ts.trace(model, [ts.Pair(**CAPTIONS, image=target)])
    np.testing.assert_allclose(by_text.scores.patched, by_embedding.scores.patched, atol=1e-7)


def test_scores_are_those_of_plain_hooks_on_the_source(model: ts.DualEncoder) -> None:
    image = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(3)), dim=0)
    for direction in ("foil->correct", "correct->foil"):
        trace = ts.trace(model, [ts.Pair(**CAPTIONS, image=image)], direction=direction)
        ids = model.text.tokenize([CAPTIONS["correct"], CAPTIONS["foil"]])[:, None]
        base, donor = ids if direction == "foil->correct" else ids.flip(0)
        for layer in trace.layers:
            for position in range(len(trace.tokens[0])):
                expected = patched_by_hooks(model.source, base, donor, int(layer), [position]) @ image
                assert trace.scores.patched[0, layer, position] == pytest.approx(float(expected), abs=S_ERROR)
        s_corr, s_foil = trace.scores.correct[0], trace.scores.foil[0]
        effect = s_corr - trace.scores.patched if direction == "foil->correct" else trace.scores.patched - s_foil
        assert_same_cte(effect / (s_corr - s_foil), trace)


def test_cte_is_exact_where_the_method_fixes_it(model: ts.DualEncoder) -> None:
    images = np.random.default_rng(0).normal(size=(40, 16))
    for direction in ("foil->correct", "correct->foil"):
        trace = ts.trace(model, [ts.Pair(**CAPTIONS, image=image) for image in images], direction=direction)
        cte = trace.cte[trace.valid]
        assert len(cte) > 30
        assert (cte[:, :, :2] == 0).all()  # [SOT], there: before the first difference
        at = trace.tokens[0].index("no")
        expected_0 = np.zeros(len(trace.tokens[0]))
        expected_0[at] = 1
        expected_last = np.zeros(len(trace.tokens[0]))
        expected_last[-1] = 1
        np.testing.assert_array_equal(cte[:, 0], np.broadcast_to(expected_0, cte[:, 0].shape))
        np.testing.assert_array_equal(cte[:, -1], np.broadcast_to(expected_last, cte[:, -1].shape))
        np.testing.assert_allclose(trace.per_layer(segment="all").value[[0, -1]], 1, rtol=1e-6)


def test_images_cost_no_forward_pass_and_rescoring_is_tracing_again(model: ts.DualEncoder) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 16))
    pairs = [
        ts.Pair(correct=f"there is no {x}.", foil=f"there is some {x}.", image=i)
        for x, i in zip("abcde", first, strict=True)
    ]
    trace = ts.trace(model, pairs)
    again = ts.trace(model, [pair.model_copy(update={"image": i}) for pair, i in zip(pairs, second, strict=True)])
    np.testing.assert_allclose(trace.rescore(second).scores.patched, again.scores.patched, atol=1e-7)
    assert trace.provenance["weights_sha256"] == again.provenance["weights_sha256"]
    assert trace.provenance["pairs_sha256"] != again.provenance["pairs_sha256"]


def test_provenance_knows_the_weights(model: ts.DualEncoder) -> None:
    other = ts.wrap(open_clip_model(), tokenizer=WordTokenizer())
    assert other.text.fingerprint() == model.text.fingerprint()
    with torch.no_grad():
        other.source.ln_final.bias.data[0] += 1e-3
    assert other.text.fingerprint() != model.text.fingerprint()


def test_progress_is_reported_in_text_pairs(model: ts.DualEncoder) -> None:
    image = np.random.default_rng(0).normal(size=16)
    pairs = [ts.Pair(correct=f"no {x}", foil=f"some {x}", image=image) for x in "abcdef"]
    seen: list[tuple[int, int]] = []
    ts.trace(model, pairs, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]


IMAGE = [1.0] * 16
BAD = {
    "unequal lengths": (
        {"correct": "there is no edema.", "foil": "there is edema.", "image": IMAGE},
        LengthMismatchError,
        r"have 7 and 6 \(align='auto' maps them\); they first differ at token 3: 'no' / 'edema'\n"
        r"  correct: \[SOT\] \| there .*\n  foil: ",
    ),
    "identical": (
        {"correct": "no  edema", "foil": "no edema", "image": IMAGE},
        IdenticalPairError,
        "'no  edema' and 'no edema' are the same 4 tokens",
    ),
    "too long": (
        {"correct": "a " * 11, "foil": "b " * 11, "image": IMAGE},
        ContextOverflowError,
        "13 tokens but the model's context holds 12",
    ),
    "no image": ({**CAPTIONS}, DataFormatError, "has no image"),
    "missing image": ({**CAPTIONS, "image": "gone.png"}, DataFormatError, r"pair '0': the image 'gone.png' does not"),
    "wrong width": ({**CAPTIONS, "image": [1.0] * 3}, DataFormatError, r"shape \[3\], but the model's are \[16\]"),
    "no foil": ({"correct": "no edema", "image": IMAGE}, DataFormatError, "pair 0: field 'foil': it is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs_are_refused_by_name(model: ts.DualEncoder, case: str) -> None:
    pair, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ts.trace(model, [pair])


def test_nothing_to_trace(model: ts.DualEncoder) -> None:
    with pytest.raises(DataFormatError, match="the list is empty"):
        ts.trace(model, [])
    with pytest.raises(DataFormatError, match="read_pairs"):
        ts.trace(model, "pairs.jsonl")
    correct, foil = model.encode_texts([CAPTIONS["correct"], CAPTIONS["foil"]])
    blind = torch.linalg.svd(torch.stack([correct, foil]))[2][-1]  # orthogonal to both captions
    with pytest.raises(DegenerateTraceError, match=r"none of the 1 pairs.*below the floor 0\.0001"):
        ts.trace(model, [ts.Pair(**CAPTIONS, image=blind)])
    with pytest.raises(SiteError, match=r"unknown site 'residual'.*resid, resid_pre"):
        ts.trace(model, [ts.Pair(**CAPTIONS, image=IMAGE)], site="residual")


def test_sixteen_bits_of_grey_are_the_same_film_as_eight(model: ts.DualEncoder, tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    wide.save(tmp_path / "sixteen.png")
    eight, sixteen, passed = model.encode_images([tmp_path / "eight.png", tmp_path / "sixteen.png", wide])
    assert torch.equal(eight, sixteen) and torch.equal(eight, passed)
    with pytest.raises(DataFormatError, match="32 bits a pixel"):
        model.encode_images([Image.fromarray(grey.astype(np.float32))])


def test_a_control_of_another_direction_or_model_is_refused(model: ts.DualEncoder) -> None:
    pair = ts.Pair(**CAPTIONS, image=IMAGE)
    trace = ts.trace(model, [pair], floor=0)
    with pytest.raises(ts.tracer.TraceError, match="differ in their direction"):
        trace.control(ts.trace(model, [pair], floor=0, direction="correct->foil"))
    with pytest.raises(ts.tracer.TraceError, match=r"differ in their window \(1 and 2\)"):
        trace.control(ts.trace(model, [pair], floor=0, window=2))
    other = ts.wrap(open_clip_model(seed=5), tokenizer=WordTokenizer(), name="other")
    with pytest.raises(ts.tracer.TraceError, match="differ in their model's weights"):
        trace.control(ts.trace(other, [pair], floor=0))
