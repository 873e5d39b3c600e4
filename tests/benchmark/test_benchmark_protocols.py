"""Each protocol beside its published rule, restated here in plain loops; what knows nothing gets chance in all of them.

The published rules break ties by position (argmax, topk) or count them as wrong. Ours is their mean over all orders of
what ties, so that it equals them where nothing ties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tracescribe.benchmark import CaptionRecord, ClaimRecord, McqRecord, evaluate
from tracescribe.benchmark.readers import read
from tracescribe.benchmark.records import RetrievalRecord, WinogroundRecord
from tracescribe.errors import DataFormatError, NonFiniteError
from tracescribe.tracer import Pair

ROUNDS = [0, 1, 4]  # decimals of a score; 0 and 1 make many ties


class Table:
    """A model that scores images against texts by a table: images are unit vectors, texts its columns."""

    def __init__(self, images: Sequence[str], texts: Sequence[str], score: np.ndarray) -> None:
        self.images, self.texts, self.score = list(images), list(texts), score

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return np.eye(len(self.images))[[self.images.index(str(image)) for image in images]]

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.score[:, [self.texts.index(text) for text in texts]].T

    def of(self, image: Any, text: str) -> float:
        return float(np.float32(self.score[self.images.index(str(image)), self.texts.index(text)]))


def table(seed: int, decimals: int, images: Sequence[str], texts: Sequence[str]) -> Table:
    score = np.random.default_rng(seed).uniform(-1, 1, (len(images), len(texts)))
    return Table(images, texts, np.round(score, decimals))


def mean_over_orders(n: int, rule: Callable[[Sequence[int]], float]) -> float:
    """A rule that breaks ties by position, in every order of what it is given."""
    found = [rule(order) for order in permutations(range(n))]
    return sum(found) / len(found)


def argmax(scores: Sequence[float]) -> int:
    best = 0
    for place, score in enumerate(scores):
        if score > scores[best]:
            best = place
    return best


# NegBench: multiple choice by template, binary questions, R@k and R-Neg@k -----------------------------------------


@pytest.mark.parametrize("decimals", ROUNDS)
@pytest.mark.parametrize("n_options", [2, 4])
def test_negbenchs_multiple_choice(n_options: int, decimals: int) -> None:
    """benchmarks/src/evaluation/mcq.py: argmax over the options of normalised features, in all and by template."""
    n, kinds = 60, ("positive", "negative", "hybrid")
    texts = [f"{item}-{option}" for item in range(n) for option in range(n_options)]
    model = table(1, decimals, [str(i) for i in range(n)], texts)
    records = [
        ClaimRecord(
            id=str(i),
            image=str(i),
            group=str(i),
            claims=[f"{i}-{option}" for option in range(n_options)],
            label=i % n_options,
            attribute=kinds[i % 3],
        )
        for i in range(n)
    ]
    right: dict[str, list[float]] = {kind: [] for kind in kinds}
    for record in records:
        scores = [model.of(record.image, claim) for claim in record.claims]

        def rule(order: Sequence[int], scores: list[float] = scores, label: int = record.label) -> float:
            return float(order[argmax([scores[option] for option in order])] == label)

        right[record.attribute].append(mean_over_orders(n_options, rule))
    found = evaluate(model, records, n_boot=20).tasks["claims"]
    assert found.accuracy.value == pytest.approx(100 * np.mean([hit for hits in right.values() for hit in hits]))
    assert found.by["attribute"] == pytest.approx({kind: 100 * np.mean(hits) for kind, hits in right.items()})


def recall_at_k(scores: np.ndarray, positive: np.ndarray, k: int) -> list[bool]:
    """clip_benchmark's rule, which NegBench uses: whether one of the first k of each row is a right one."""
    return [
        any(positive[row, at] for at in sorted(range(scores.shape[1]), key=lambda c: -scores[row, c])[:k])
        for row in range(len(scores))
    ]


@pytest.mark.parametrize("decimals", ROUNDS)
def test_negbenchs_recall_at_five_and_at_one_in_both_directions(decimals: int) -> None:
    """benchmarks/src/evaluation/retrieval.py: R-Neg@5 is image retrieval recall@5 of the captions with negation."""
    images = [str(i) for i in range(12)]
    owner = [i for i in range(12) for _ in range(1 + i % 3)]
    texts = [f"no {number}" for number in range(len(owner))]
    model = table(2, decimals, images, texts)
    records = [
        RetrievalRecord(
            id=i, image=i, group=i, captions=tuple(t for t, o in zip(texts, owner, strict=True) if str(o) == i)
        )
        for i in images
    ]
    scores = np.array([[model.of(image, text) for image in images] for text in texts])
    positive = np.array([[str(o) == image for image in images] for o in owner])
    found = evaluate(model, records, n_boot=20)
    rng = np.random.default_rng(0)
    for k in (1, 5):
        # the mean over orders of what ties, by jitter that changes no other order (scores differ by 1e-4 or more)
        orders = 1 if decimals == 4 and len(set(scores.ravel().tolist())) == scores.size else 400
        hits: dict[str, list[float]] = {"text_to_image": [], "image_to_text": []}
        for _ in range(orders):
            jittered = scores + rng.uniform(0, 1e-5, scores.shape)
            hits["text_to_image"].append(float(np.mean(recall_at_k(jittered, positive, k))))
            hits["image_to_text"].append(float(np.mean(recall_at_k(jittered.T, positive.T, k))))
        for direction, values in hits.items():
            error = 4 * np.std(values) / np.sqrt(orders)  # of the mean over the jittered orders
            task = found.tasks[f"{direction}_r{k}"]
            assert abs(task.accuracy.value / 100 - np.mean(values)) <= error + 1e-9, (direction, k)


# SugarCrepe, VALSE, ARO: pairwise accuracy ---------------------------------------------------------------------


@pytest.mark.parametrize("decimals", ROUNDS)
def test_pairwise_accuracy_of_sugarcrepe_and_valse(decimals: int) -> None:
    """sugar-crepe's main_eval.py and VALSE's pairwise accuracy: the caption scores higher than the foil."""
    n = 200
    texts = [f"{i}{kind}" for i in range(n) for kind in ("+", "-")]
    model = table(3, decimals, [str(i) for i in range(n)], texts)
    records = [Pair(correct=f"{i}+", foil=f"{i}-", image=str(i), id=str(i), group=str(i)) for i in range(n)]
    strict = lenient = 0
    for i in range(n):
        strict += model.of(i, f"{i}+") > model.of(i, f"{i}-")
        lenient += model.of(i, f"{i}+") >= model.of(i, f"{i}-")
    found = evaluate(model, records, n_boot=20).tasks["pairs"].accuracy.value
    assert found == pytest.approx(100 * (strict + lenient) / 2 / n)
    if decimals == 4:
        assert strict == lenient


@pytest.mark.parametrize("decimals", ROUNDS)
def test_sugarcrepe_plus_plus_asks_for_both_captions(tmp_path: Path, decimals: int) -> None:
    """scpp's ITT: P1 and P2 both score higher than N, the mean over all orders of scores that tie."""
    n = 90
    model = table(
        5, decimals, [str(i) for i in range(n)], [f"{kind} {i}" for i in range(n) for kind in ("p", "q", "n")]
    )
    lines = [
        {"id": i, "filename": f"{i}.jpg", "caption": f"p {i}", "caption2": f"q {i}", "negative_caption": f"n {i}"}
        for i in range(n)
    ]
    (tmp_path / "swap_object.json").write_text(json.dumps(lines))
    records = [
        pair.model_copy(update={"image": pair.group.removesuffix(".jpg")})
        for pair in read(tmp_path / "swap_object.json").pairs
    ]
    expected = 0.0
    for i in range(n):
        scores = [model.of(i, f"{kind} {i}") for kind in ("p", "q", "n")]

        def rule(order: Sequence[int], scores: list[float] = scores) -> float:
            p, q, negative = ((score, rank) for score, rank in zip(scores, order, strict=True))
            return float(p > negative and q > negative)

        expected += mean_over_orders(3, rule)
    tasks = evaluate(model, records, n_boot=20).tasks
    assert tasks["pairs_both_captions"].accuracy.value == pytest.approx(100 * expected / n)
    assert tasks["pairs_both_captions"].chance == pytest.approx(100 / 3)
    assert tasks["pairs_both_captions"].n == n and tasks["pairs"].n == 2 * n
    assert "pairs_both_captions" not in evaluate(model, records[::2], n_boot=20).tasks


# Winoground ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", ROUNDS)
def test_winogrounds_text_image_and_group_score(decimals: int) -> None:
    """Thrush et al. 2022, equations 1 to 3, and the mean over all orders of scores that tie."""
    n = 300
    images = [f"{i}{k}" for i in range(n) for k in "ab"]
    texts = [f"{i}{k}" for i in range(n) for k in "cd"]
    model = table(4, decimals, images, texts)
    records = [WinogroundRecord(id=str(i), images=(f"{i}a", f"{i}b"), captions=(f"{i}c", f"{i}d")) for i in range(n)]
    expected = np.zeros(3)
    for i in range(n):
        s = {(c, k): model.of(f"{i}{k}", f"{i}{c}") for c in "cd" for k in "ab"}

        def rule(order: Sequence[int], s: dict[tuple[str, str], float] = s) -> np.ndarray:
            rank = dict(zip(s, order, strict=True))

            def higher(one: tuple[str, str], other: tuple[str, str]) -> bool:
                return (s[one], rank[one]) > (s[other], rank[other])

            text = higher(("c", "a"), ("d", "a")) and higher(("d", "b"), ("c", "b"))
            image = higher(("c", "a"), ("c", "b")) and higher(("d", "b"), ("d", "a"))
            return np.array([text, image, text and image], dtype=float)

        expected += sum(rule(order) for order in permutations(range(4))) / 24
    found = evaluate(model, records, n_boot=20).tasks
    values = [found[f"winoground_{name}"].accuracy.value for name in ("text", "image", "group")]
    assert values == pytest.approx(100 * expected / n)
    assert [found[f"winoground_{name}"].chance for name in ("text", "image", "group")] == pytest.approx(
        [25, 25, 50 / 3]
    )


# Every protocol: a constant, a NaN and a shuffled scorer ---------------------------------------------------------

N = 400
STATES = {1: "present", 0: "absent"}


def mcq_record(i: int) -> McqRecord:
    return McqRecord(
        subject_id=str(i),
        study_id=str(i),
        question="Which?",
        image=f"{i}a",
        group=f"p{i // 2}",
        correct_answer="A",  # always: a scorer that takes the first option would be right everywhere
        **{f"binary_raw_choice_{k}": {"edema": int(k != 2), "pneumonia": int(k > 2)} for k in range(1, 5)},
        **{f"{kind}_mcq_choice_{k}": f"{kind} {i} {k}" for kind in ("negation", "affirmative") for k in range(1, 5)},
    )


PROTOCOLS: dict[str, Callable[[int], Any]] = {
    "multiple choice": mcq_record,
    "claims": lambda i: ClaimRecord(
        id=str(i), image=f"{i}a", group=f"p{i // 2}", claims=[f"{i} {k}" for k in range(3)], label=0, attribute="side"
    ),
    "pairs": lambda i: Pair(correct=f"yes {i}", foil=f"no {i}", image=f"{i}a", id=str(i), group=f"p{i // 2}"),
    "captions with hard negatives": lambda i: CaptionRecord(
        id=str(i), image=f"{i}a", group=f"p{i // 2}", caption=f"c {i}", neg_captions=(f"n {i}", f"m {i}", f"c {i}")
    ),
    "winoground": lambda i: WinogroundRecord(id=str(i), images=(f"{i}a", f"{i}b"), captions=(f"{i} one", f"{i} two")),
    "retrieval": lambda i: RetrievalRecord(id=str(i), image=f"{i}a", group=f"p{i}", captions=(f"r {i}", f"s {i}")),
    "retrieval in pools": lambda i: CaptionRecord(
        id=str(i),
        image=f"{i}a",
        group=f"p{i}",
        caption=f"c {i}",
        affirmative=f"a {i}",
        states={"edema": STATES[i % 2]},
        facts={"edema": STATES[i % 2]},
    ),
}


class Knowing:
    """Nothing: every embedding by ``rows``, which is given how many are wanted."""

    def __init__(self, rows: Callable[[int], np.ndarray]) -> None:
        self.rows = rows

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return self.rows(len(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.rows(len(texts))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_constant_scorer_gets_exactly_chance(protocol: str) -> None:
    records = [PROTOCOLS[protocol](i) for i in range(40)]
    found = evaluate(Knowing(lambda n: np.full((n, 3), 0.5)), records, n_boot=20)
    assert found.tasks
    for name, task in found.tasks.items():
        assert 0 < task.chance < 100
        assert task.accuracy.value == pytest.approx(task.chance), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_scorer_of_nan_is_an_error(protocol: str, value: float) -> None:
    records = [PROTOCOLS[protocol](i) for i in range(4)]
    with pytest.raises(NonFiniteError, match="NaN"):
        evaluate(Knowing(lambda n: np.full((n, 3), value)), records, n_boot=20)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_scorer_of_noise_gets_chance_and_has_its_shortcuts_beside_it(protocol: str) -> None:
    """Random directions; groups are pairs of items at most, so that the items' spread bounds the error."""
    rng = np.random.default_rng(0)
    records = [PROTOCOLS[protocol](i) for i in range(N)]
    found = evaluate(Knowing(lambda n: rng.normal(size=(n, 64))), records, n_boot=20)
    for name, task in found.tasks.items():
        chance = task.chance / 100
        # five standard errors of a mean of 0/1 items; texts that many images share make hits of retrieval depend on
        # each other, by a factor of two at most here
        error = 100 * 2 * 5 * np.sqrt(chance * (1 - chance) / task.n)
        assert abs(task.accuracy.value - task.chance) < error, name
        assert {"image_blind", "shuffled_image"} <= set(task.shortcuts), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_scorer_in_float16_ties_where_it_cannot_tell(protocol: str) -> None:
    """Half precision makes two texts the same vector: they tie, and count as such, in whatever order they stand."""
    records = [PROTOCOLS[protocol](i) for i in range(40)]
    rng = np.random.default_rng(0)

    def rows(n: int) -> np.ndarray:
        near = np.ones((n, 8)) + 1e-5 * rng.normal(size=(n, 8))  # less than half a step of float16 at .35
        return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float16)

    found = evaluate(Knowing(rows), records, n_boot=20)
    assert len(np.unique(rows(100))) == 1
    for name, task in found.tasks.items():
        assert task.accuracy.value == pytest.approx(task.chance), name


BROKEN_MODELS: dict[str, tuple[Callable[[int], Any], str]] = {
    "a row too few": (lambda n: np.ones((n - 1, 3)), r"have the shape \(\d+, 3\), and \d+ vectors are needed"),
    "one vector": (lambda n: np.ones(3), r"have the shape \(3,\)"),
    "no numbers": (lambda n: [["a"] * 3] * n, "are no table of numbers"),
    "rows of several lengths": (lambda n: [[1.0] * (1 + i % 2) for i in range(n)], "are no table of numbers"),
    "nothing": (lambda n: None, "returned no .* embeddings"),
    "empty vectors": (lambda n: np.ones((n, 0)), r"have the shape \(\d+, 0\)"),
}


@pytest.mark.parametrize("fault", BROKEN_MODELS)
@pytest.mark.parametrize("which", ["image", "text"])
def test_a_model_that_returns_something_else_than_vectors_is_named(which: str, fault: str) -> None:
    rows, message = BROKEN_MODELS[fault]
    model = Knowing(lambda n: np.ones((n, 3)))
    setattr(model, f"encode_{which}s", lambda given: rows(len(given)))
    with pytest.raises(DataFormatError, match=f"the model.*{which} embeddings") as error:
        evaluate(model, [PROTOCOLS["claims"](i) for i in range(4)], n_boot=20)
    assert re.search(message, str(error.value))


def test_embeddings_of_texts_and_images_must_have_one_length() -> None:
    model = Knowing(lambda n: np.ones((n, 3)))
    model.encode_texts = lambda texts: np.ones((len(texts), 4))  # type: ignore[method-assign]
    for protocol in PROTOCOLS:
        with pytest.raises(DataFormatError, match="image embeddings have 3 numbers and its text embeddings 4"):
            evaluate(model, [PROTOCOLS[protocol](i) for i in range(4)], n_boot=20)


def test_pools_hold_only_what_is_false_of_the_image() -> None:
    """A perfect reader of "edema or not" is right in every pool, and at chance in the complete set."""
    records = [PROTOCOLS["retrieval in pools"](i) for i in range(40)]

    class Reader:
        def encode_images(self, images: Sequence[Any]) -> np.ndarray:
            return np.array([(1.0, 0.0) if int(str(image)[:-1]) % 2 else (0.0, 1.0) for image in images])

        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([(1.0, 0.0) if int(text.split()[1]) % 2 else (0.0, 1.0) for text in texts])

    found = evaluate(Reader(), records, n_boot=20, pool=8)
    names = [
        f"{a}_r{k}_{b}" for a, k, b in product(("image_to_text", "text_to_image"), (1, 5), ("captions", "affirmative"))
    ]
    assert sorted(found.tasks) == sorted(names)
    assert all(task.accuracy.value == 100 for task in found.tasks.values())
    assert found.tasks["image_to_text_r5_captions"].chance == pytest.approx(100 * 5 / 8)
    assert (found.retrieval_r1, found.retrieval_pool) == (100, 8)


def test_labels_alone_ask_nothing() -> None:
    from tracescribe.benchmark.records import Fact, FactsRecord

    record = FactsRecord(id="1", group="p", image="a", facts={"edema": Fact(state="present")})
    with pytest.raises(
        DataFormatError, match=r"FactsRecord ask no question of an image; build questions .*tracescribe build"
    ):
        evaluate(Knowing(lambda n: np.ones((n, 2))), [record])


def test_scores_by_condition_say_whether_it_is_there() -> None:
    records = [mcq_record(i) for i in range(4)]
    found = evaluate(Knowing(lambda n: np.ones((n, 2))), records, n_boot=20).tasks["mcq_negated"].by
    assert found["condition edema"] == {"present": 25.0}
    assert found["condition pneumonia"] == {"absent": 25.0}
