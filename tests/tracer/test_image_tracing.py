"""Traces of image pairs: CTE by its definition, regions, files, other captions, and pairs that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bounds import S_ERROR, assert_same_cte
from models import WordTokenizer, counterfactual_pixels, open_clip_image_model, siglip_model

import tracescribe as ts
from tracescribe.benchmark.phantom import counterfactual_pairs
from tracescribe.errors import DataFormatError, DegenerateTraceError, IdenticalPairError
from tracescribe.tracer import TraceError

CAPTIONS = ["there is no edema.", "a mass", "the left lung is small"]


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_image_model(), tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def pairs() -> list[ts.ImagePair]:
    """Three pairs of two image pairs: the last two share their images."""
    made = [counterfactual_pixels(seed, (32, 32), (8, 8), [(0, 1), (2, 2)]) for seed in (1, 2, 2)]
    return [
        ts.ImagePair(image=image, counterfactual=other, caption=caption, group=f"patient {i % 2}")
        for i, ((image, other), caption) in enumerate(zip(made, CAPTIONS, strict=True))
    ]


@pytest.fixture(scope="module")
def trace(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> ts.CausalTrace:
    return ts.trace_images(model, pairs, floor=1e-6, progress=False)


def test_scores_are_cosines_and_cte_is_their_ratio(
    model: ts.DualEncoder, pairs: list[ts.ImagePair], trace: ts.CausalTrace
) -> None:
    captions = model.encode_texts(CAPTIONS).double().numpy()
    for side, scores in (("image", trace.scores.correct), ("counterfactual", trace.scores.foil)):
        images = model.encode_images([getattr(pair, side) for pair in pairs]).double().numpy()
        np.testing.assert_allclose(scores, (images * captions).sum(axis=1), atol=2e-6)  # float32 encoders
    for layer, position in ((0, 2), (1, 0), (2, 11), (3, 0)):
        ours = trace.scores.correct.astype(float) - trace.scores.patched[:, layer, position]
        np.testing.assert_allclose(trace.cte[:, layer, position], ours / trace.denominator, rtol=1e-5, atol=1e-6)
    assert trace.columns is not None and trace.columns[:2] == ("class", "patch 0,0") and len(trace.columns) == 17
    assert trace.embeddings is not None and len(trace.embeddings) == 2  # patched once for two captions
    assert trace.text_pair.tolist() == [0, 1, 1]
    assert trace.groups == ("patient 0", "patient 1", "patient 0")


def test_what_is_exact_for_a_class_token_tower(trace: ts.CausalTrace) -> None:
    changed = np.zeros(17, dtype=bool)
    changed[[1 + 1, 1 + 2 * 4 + 2]] = True
    assert (trace.differs == changed).all()
    assert (trace.cte[:, 0, ~changed] == 0).all() and (np.abs(trace.cte[:, 0, changed]) > 0).all()
    assert (trace.cte[:, -1, 0] == 1).all() and (trace.cte[:, -1, 1:] == 0).all()


def test_sets_of_all_and_of_the_differing_patches_give_one(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> None:
    every = ts.trace_images(model, pairs, positions="all", floor=1e-6, progress=False)
    assert every.columns == ("all positions",) and (every.cte == 1).all()
    differing = ts.trace_images(model, pairs, positions="differing", floor=1e-6, progress=False)
    assert (differing.cte[:, 0] == 1).all() and (differing.cte[:, -1] == 0).all()  # only the class token is read


def test_squares_and_regions_replace_their_patches_together(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> None:
    squares = ts.trace_images(model, pairs, stride=3, floor=1e-6, progress=False)
    assert squares.columns == ("class", "patches 0-2,0-2", "patches 0-2,3-3", "patches 3-3,0-2", "patch 3,3")
    mask = np.zeros((4, 4), dtype=bool)
    mask[:3, :3] = True
    regions: dict[str, Any] = {"upper left": mask, "the same by number": [1, 2, 3, 5, 6, 7, 9, 10, 11]}
    named = ts.trace_images(model, pairs, positions=regions, floor=1e-6, progress=False)
    assert named.columns == tuple(regions)
    for column in (0, 1):
        np.testing.assert_array_equal(named.scores.patched[:, :, column], squares.scores.patched[:, :, 1])
    assert (squares.cte[:, 0, 1] == 1).all()  # both differing patches lie in it


def test_the_other_direction_restores_what_noising_takes(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> None:
    both = [
        ts.trace_images(model, pairs, direction=way, floor=1e-6, progress=False)  # type: ignore[arg-type]
        for way in ("counterfactual->image", "image->counterfactual")
    ]
    np.testing.assert_allclose(both[0].denominator, both[1].denominator, atol=1e-7)
    assert_same_cte(both[0].cte[:, -1, 0], both[1], np.s_[:, -1, 0])
    assert both[1].direction == "correct->foil" and np.abs(both[0].cte[:, 1] - both[1].cte[:, 1]).max() > 1e-4


def test_paths_agree(model: ts.DualEncoder, pairs: list[ts.ImagePair], trace: ts.CausalTrace) -> None:
    generic = ts.trace_images(model, pairs, path="generic", floor=1e-6, progress=False)
    assert (trace.provenance["path"], generic.provenance["path"]) == ("resume", "generic")
    np.testing.assert_allclose(trace.scores.patched, generic.scores.patched, atol=S_ERROR)


def test_a_pair_does_not_depend_on_the_others(
    model: ts.DualEncoder, pairs: list[ts.ImagePair], trace: ts.CausalTrace
) -> None:
    alone = ts.trace_images(model, pairs[1:2], floor=1e-6, progress=False)
    np.testing.assert_allclose(alone.scores.patched[0], trace.scores.patched[1], atol=2e-6)


def test_files_and_other_captions_need_no_pass(
    model: ts.DualEncoder, pairs: list[ts.ImagePair], trace: ts.CausalTrace, tmp_path: Path
) -> None:
    trace.save(tmp_path / "images.safetensors")
    again = ts.load_trace(tmp_path / "images.safetensors")
    assert again.provenance == trace.provenance and again.columns == trace.columns
    np.testing.assert_array_equal(again.cte, trace.cte)
    new = [pair.model_copy(update={"caption": "no nodule"}) for pair in pairs]
    expected = ts.trace_images(model, new, floor=1e-6, progress=False)
    rescored = again.rescore(model.encode_texts(["no nodule"] * 3))
    np.testing.assert_allclose(rescored.scores.patched, expected.scores.patched, atol=1e-6)
    assert again.per_layer(segment="all", ci=None).value.shape == (4,)
    assert set(again.to_frame()["column"]) == set(trace.columns or ())


def test_a_caption_may_be_an_embedding(model: ts.DualEncoder, pairs: list[ts.ImagePair], trace: ts.CausalTrace) -> None:
    rows = 3 * model.encode_texts(CAPTIONS)  # of any length
    given = [pair.model_copy(update={"caption": row}) for pair, row in zip(pairs, rows, strict=True)]
    np.testing.assert_allclose(
        ts.trace_images(model, given, floor=1e-6, progress=False).scores.patched, trace.scores.patched, atol=1e-6
    )
    with pytest.raises(
        DataFormatError, match=r"'0' has a caption embedding of shape \[3\], but the model's are \[16\]"
    ):
        ts.trace_images(model, [pairs[0].model_copy(update={"caption": [1.0, 2.0, 3.0]})], progress=False)


def test_a_tower_read_by_attention_pooling_sums_to_one_over_all_positions() -> None:
    siglip = ts.wrap(siglip_model(), tokenizer=WordTokenizer())
    image, other = counterfactual_pixels(1, (32, 32), (16, 16), [(0, 1)])
    embedding = torch.randn(32, generator=torch.Generator().manual_seed(0))
    pair = ts.ImagePair(image=image, counterfactual=other, caption=embedding)
    each = ts.trace_images(siglip, [pair], floor=0, progress=False)
    assert each.columns == ("patch 0,0", "patch 0,1", "patch 1,0", "patch 1,1")
    assert each.cte[0, 0].tolist() == [0, 1, 0, 0]
    assert (np.abs(each.cte[0, -1]) > 1e-4).all()  # every position of the last layer is read
    assert (ts.trace_images(siglip, [pair], positions="all", floor=0, progress=False).cte == 1).all()


def test_the_miniature_is_traced_from_files_by_stages(tmp_path: Path) -> None:
    made = counterfactual_pairs(2, seed=1)
    for i, pair in enumerate(made):
        pair.image.save(tmp_path / f"{i}.png")
        pair.counterfactual.save(tmp_path / f"{i}-other.png")
    from_files = [
        {"image": tmp_path / f"{i}.png", "counterfactual": tmp_path / f"{i}-other.png", "caption": pair.caption}
        for i, pair in enumerate(made)
    ]
    seen: list[tuple[int, int]] = []
    model = ts.load("phantom")
    trace = ts.trace_images(model, from_files, progress=lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    assert trace.provenance["path"] == "generic" and seen[-1] == (2, 2)
    np.testing.assert_array_equal(trace.cte, ts.trace_images(model, made, progress=False).cte)
    every = ts.trace_images(model, made, positions="all", progress=False)
    assert_same_cte(1, every)  # full passes, nothing filled in


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": "no/such.png"}, DataFormatError, r"image pair 'p': the image 'no/such.png' does not exist"),
        ({"counterfactual": torch.zeros(3, 16, 16)}, DataFormatError, r"image pair 'p': pixels of shape \[3, 16, 16\]"),
        ({"counterfactual": torch.zeros(3, 32, 32)}, IdenticalPairError, "image pair 'p'.*same pixels"),
        ({"caption": " "}, DataFormatError, "image pair 0.*caption is empty"),
        ({"foil": "x"}, DataFormatError, "image pair 0: unknown field"),
    ],
)
def test_bad_pairs_are_named(model: ts.DualEncoder, change: dict[str, Any], error: type, message: str) -> None:
    good = {"image": torch.zeros(3, 32, 32), "counterfactual": torch.ones(3, 32, 32), "caption": "a mass", "id": "p"}
    with pytest.raises(error, match=f"(?s){message}"):
        ts.trace_images(model, [good | change], progress=False)  # type: ignore[list-item]


def test_bad_options_are_refused(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> None:
    for options, message in (
        ({"stride": 0}, "stride must be a whole number"),
        ({"stride": 2, "positions": "all"}, "has no meaning without positions='each'"),
        ({"positions": "some"}, "unknown positions 'some'"),
        ({"positions": {}}, "names no region"),
        ({"positions": {"a": np.ones((3, 3), dtype=bool)}}, r"mask of shape \[3, 3\], not of the grid \[4, 4\]"),
        ({"positions": {"a": [17]}}, r"region 'a' holds \[17\]; positions are numbered 0 to 16"),
        ({"positions": {"a": [0.5]}}, "boolean mask over the grid or position numbers"),
        ({"direction": "foil->correct"}, "unknown direction"),
    ):
        with pytest.raises(TraceError, match=message):
            ts.trace_images(model, pairs, progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(DataFormatError, match="no image pairs"):
        ts.trace_images(model, [], progress=False)
    with pytest.raises(DegenerateTraceError, match=r"none of the 3 image pairs.*below the floor 2"):
        ts.trace_images(model, pairs, floor=2.0, progress=False)


def test_pixels_in_half_precision_are_traced_as_their_values(model: ts.DualEncoder, pairs: list[ts.ImagePair]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        given = {
            half: [
                ts.ImagePair(
                    image=each.image.to(dtype).to(used),
                    counterfactual=each.counterfactual.to(dtype).to(used),
                    caption=each.caption,
                )
                for each in pairs
            ]
            for half, used in ((True, dtype), (False, torch.float32))
        }
        found, expected = (ts.trace_images(model, given[half], floor=1e-6, progress=False) for half in (True, False))
        np.testing.assert_array_equal(found.scores.patched, expected.scores.patched)
