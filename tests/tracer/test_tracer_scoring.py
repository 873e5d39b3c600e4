"""Scores of cells: as exact as float32 can say, however many images, and whatever is scored along with them."""

from __future__ import annotations

import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.errors import TraceError
from tracescribe.tracer.pairs.unit_rows import normalise_rows
from tracescribe.tracer.results.scoring import MANY, PairScores, TextMap

UNIT = 2.0**-24  # what rounding to float32 moves a number by, at most, as a share of it
EMBED = 512


def text_map(rng: np.random.Generator, distance: float, n_layers: int = 4, n_columns: int = 5) -> TextMap:
    """Cells about this far from the correct caption; the first is the correct caption's run, the last the foil's."""
    correct = normalise_rows(rng.normal(size=(1, EMBED)))[0]

    def near(*shape: int) -> np.ndarray:
        steps = rng.normal(size=(int(np.prod(shape)), EMBED)) / np.sqrt(EMBED)
        return normalise_rows(correct + distance * steps).reshape(*shape, EMBED)

    foil, cells = near(1)[0], near(n_layers, n_columns)
    cells[0, 0], cells[-1, -1] = correct, foil
    return TextMap.of(correct, foil, cells, np.ones(n_columns, dtype=bool))


def scored(one: TextMap, images: np.ndarray) -> PairScores:
    n = len(images)
    scores = PairScores(images, np.arange(n), np.zeros(n, dtype=np.int64), 4, 5)
    scores.fill({0: one})
    return scores


@pytest.mark.parametrize("n_images", [MANY - 1, MANY, 3 * MANY + 7])
@pytest.mark.parametrize("kind", ["any", "orthogonal to the captions", "along a cell's difference"])
@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.3, 10.0])
def test_scores_are_the_exact_cosines_but_for_rounding_and_a_share_of_the_difference(
    distance: float, kind: str, n_images: int
) -> None:
    rng = np.random.default_rng(0)
    one = text_map(rng, distance)
    rows = one.rows.astype(np.float64)
    images = rng.normal(size=(n_images, EMBED))
    if kind == "orthogonal to the captions":
        basis = np.linalg.qr(rows[[0, one.foil]].T)[0]
        images -= images @ basis @ basis.T
    elif kind == "along a cell's difference":  # the sums' terms have one sign: the most that rounding can add up to
        images = (rows - rows[0])[1 + np.arange(n_images) % (len(rows) - 1)]
    single = normalise_rows(images)
    exact = single.astype(np.float64) @ rows.T
    found = scored(one, single)
    # One rounding of the result, and from MANY images on that of a float32 sum of EMBED products (see TextMap).
    allowed = UNIT * np.abs(exact) + 1e-15
    if n_images >= MANY:
        allowed = allowed + np.sqrt(EMBED) * UNIT * np.linalg.norm(rows - rows[0], axis=1)
    assert (np.abs(found.patched.reshape(n_images, -1) - exact[:, one.place]) <= allowed[:, one.place]).all()
    assert (np.abs(found.correct - exact[:, 0]) <= UNIT * np.abs(exact[:, 0]) + 1e-15).all()


def test_the_float32_sum_is_a_small_share_of_what_it_sums_for_images_of_any_direction() -> None:
    rng = np.random.default_rng(1)
    one, images = text_map(rng, 0.3), normalise_rows(rng.normal(size=(2000, EMBED)))
    exact = images.astype(np.float64) @ one.rows.T.astype(np.float64)
    far = scored(one, images).patched.reshape(2000, -1) - exact[:, one.place]
    # random signs: u/sqrt(3) a step, of partial sums that grow to |t - c||x|/sqrt(n), makes 0.4 u |t - c|; twice that
    assert np.sqrt(np.mean(far**2)) < 0.8 * UNIT * 0.3 + UNIT * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("n_images", [1, MANY, 700])
def test_a_cell_that_is_the_clean_or_the_foil_run_has_its_very_score(n_images: int) -> None:
    rng = np.random.default_rng(2)
    scores = scored(text_map(rng, 0.3), normalise_rows(rng.normal(size=(n_images, EMBED))))
    np.testing.assert_array_equal(scores.patched[:, 0, 0], scores.correct)
    np.testing.assert_array_equal(scores.patched[:, -1, -1], scores.foil)


@pytest.mark.parametrize("n_images", [3, MANY + 300])
def test_scores_do_not_depend_on_what_is_scored_along_or_on_the_order_of_text_pairs(n_images: int) -> None:
    rng = np.random.default_rng(3)
    maps = {text: text_map(rng, 0.3) for text in range(3)}
    images = normalise_rows(rng.normal(size=(n_images, EMBED)))
    pairs = np.arange(3 * n_images)
    apart = PairScores(images, pairs % n_images, pairs // n_images, 4, 5)
    for text, one in maps.items():
        apart.fill({text: one})
    together = PairScores(images, pairs % n_images, pairs // n_images, 4, 5)
    together.fill(maps)
    mixed = PairScores(images, pairs // 3, pairs % 3, 4, 5)
    mixed.fill(maps)
    for name in ("correct", "foil", "patched"):
        np.testing.assert_array_equal(getattr(together, name), getattr(apart, name))
        by_text = getattr(mixed, name).reshape(n_images, 3, *getattr(mixed, name).shape[1:]).swapaxes(0, 1)
        np.testing.assert_array_equal(by_text.reshape(getattr(apart, name).shape), getattr(apart, name))


def test_rounding_an_image_to_float32_moves_no_cosine_by_more_than_a_normalise_rows() -> None:
    rng = np.random.default_rng(4)
    raw, texts = rng.normal(size=(300, EMBED)), normalise_rows(rng.normal(size=(50, EMBED))).astype(np.float64)
    exact = raw / np.linalg.norm(raw, axis=1, keepdims=True) @ texts.T
    # |dx| <= u |x|, and both are of length 1
    assert np.abs(normalise_rows(raw).astype(np.float64) @ texts.T - exact).max() <= UNIT


def test_images_of_any_length_and_type_are_scaled_alike() -> None:
    raw = np.random.default_rng(5).integers(-9, 9, size=(600, 16)) + 0.5
    expected = normalise_rows(raw)
    assert expected.dtype == np.float32
    for other in (
        raw.astype(np.float32),
        raw * 2.0**200,
        raw.astype(np.float16),
        (2 * raw).astype(np.int64),
        raw.tolist(),
    ):
        np.testing.assert_array_equal(normalise_rows(other), expected)


# every text pair with every image -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_images", [5, MANY + 44])
@pytest.mark.parametrize("vary_length", [False, True])
def test_every_text_pair_with_every_image_is_the_images_given_again_for_each(n_images: int, vary_length: bool) -> None:
    trace = synthetic_trace(n_pairs=8, n_texts=4, with_embeddings=True, vary_length=vary_length).select([6, 1, 3, 5])
    images = np.random.default_rng(0).normal(size=(n_images, 16))
    every = trace.rescore(images, text_pair="each")
    texts = np.unique(trace.text_pair)
    again = trace.rescore(np.tile(images, (len(texts), 1)), text_pair=np.repeat(texts, n_images))
    for name in ("correct", "foil", "patched"):
        np.testing.assert_array_equal(getattr(every.scores, name), getattr(again.scores, name))
    for name in ("kinds", "differs", "text_pair"):
        np.testing.assert_array_equal(getattr(every, name), getattr(again, name))
    assert every.tokens == again.tokens
    assert every.foil_tokens == again.foil_tokens
    assert len(set(every.ids)) == every.n_pairs == len(texts) * n_images
    first = [trace.ids[list(trace.text_pair).index(text)] for text in texts]
    assert every.ids[n_images - 1 :: n_images] == tuple(f"{name}/{n_images - 1}" for name in first)
    # an image is one cluster, whichever text pairs it judges
    assert every.groups == tuple(str(i) for i in range(n_images)) * len(texts)
    assert [len(set(np.array(again.groups)[i::n_images])) for i in range(n_images)] == [1] * n_images


def test_an_image_that_is_given_twice_is_one_cluster() -> None:
    trace = synthetic_trace(n_pairs=4, with_embeddings=True)
    images = np.random.default_rng(0).normal(size=(3, 16))[[0, 1, 0, 2]]
    assert trace.rescore(images, text_pair=[0, 1, 2, 3]).groups == ("pair0/0", "pair1/1", "pair0/0", "pair3/3")
    assert trace.rescore(images, text_pair="each").groups[:4] == ("0", "1", "0", "3")
    assert trace.rescore(images).groups == trace.groups
    own = tuple("abcd")
    assert trace.rescore(images, text_pair=[0, 1, 2, 3], groups=own).groups == own
    images[2, -1] += 1e-3  # equal but for the last number
    assert len(set(trace.rescore(images, text_pair=[0, 1, 2, 3]).groups)) == 4


def test_other_words_for_each_are_refused() -> None:
    with pytest.raises(TraceError, match="'every'"):
        synthetic_trace(with_embeddings=True).rescore(np.ones((2, 16)), text_pair="every")


def test_a_trace_of_all_pairs_is_the_rescored_trace_of_one_image() -> None:
    phantom = ts.load("phantom")
    texts = [(f"There is no {noun}.", f"There is severe {noun}.") for noun in ("opacity", "effusion", "nodule")]
    images = np.random.default_rng(0).normal(size=(MANY + 50, phantom.embed_dim)).astype(np.float32)
    pairs = [ts.Pair(correct=correct, foil=foil, image=image) for correct, foil in texts for image in images]
    once = [ts.Pair(correct=correct, foil=foil, image=images[0]) for correct, foil in texts]
    every = ts.trace(phantom, once, progress=False, floor=0.0).rescore(images, text_pair="each")
    # in any order of the pairs: each text pair sees its images in the same order
    for order in (np.arange(len(pairs)), np.arange(len(pairs)).reshape(3, -1).T.reshape(-1)):
        whole = ts.trace(phantom, [pairs[i] for i in order], progress=False, floor=0.0)
        np.testing.assert_array_equal(whole.scores.patched, every.scores.patched[order])
        np.testing.assert_array_equal(whole.scores.correct, every.scores.correct[order])
        np.testing.assert_array_equal(whole.scores.foil, every.scores.foil[order])
