"""Evaluation tasks: each kind of record as items with a hit per item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..tracer import Pair
from ..tracer.results.read_only import ReadOnlyArrays
from .metrics import TIE, expected_hits, negator_count
from .records import CaptionRecord, ClaimRecord, McqRecord, WinogroundRecord

__all__ = ["Embed", "Items", "Questions", "both_captions", "questions_of", "winoground_items"]

Embed = Callable[[Sequence[Any]], Float[np.ndarray, "item embed"]]


@dataclass(frozen=True, eq=False)
class Items(ReadOnlyArrays):
    """One task's items.

    hits: 1 right, 0 wrong, a fraction where options tie. chance: what a scorer that knows nothing gets.
    margin: score of the right option minus that of the best other one (cosine); NaN for retrieval.
    scores: of every option, in the record's order (of Winoground, caption 0 with both images first); empty for
        retrieval. gold: the right option's number.
    labels: by subset name (attribute, template, ...) the value of each item, None where it has none. texts: equal where
        items choose from the same options; None where they rank. candidates: of retrieval, equal where a query ranks
        the same candidates; empty elsewhere.
    """

    task: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    hits: Float[np.ndarray, "item"]
    chance: Float[np.ndarray, "item"]
    margin: Float[np.ndarray, "item"]
    labels: Mapping[str, tuple[str | None, ...]]
    texts: tuple[str, ...] | None = None
    scores: tuple[tuple[float, ...], ...] = ()
    gold: tuple[int, ...] = ()
    candidates: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Questions:
    """Items of one task before they are scored: texts to choose from, given an image."""

    task: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    images: tuple[Any, ...]
    options: tuple[tuple[str, ...], ...]
    gold: Int[np.ndarray, "item"]
    labels: Mapping[str, tuple[str | None, ...]]

    def scored(self, scores: Float[np.ndarray, "item option"]) -> Items:
        """The items of these scores; options that an item lacks score -inf."""
        at = np.arange(len(self.ids))
        others = np.array(scores, dtype=np.float64)
        others[at, self.gold] = -np.inf
        return Items(
            task=self.task,
            ids=self.ids,
            groups=self.groups,
            hits=expected_hits(scores, self.gold),
            chance=np.array([1 / len(options) for options in self.options]),
            margin=np.asarray(scores, dtype=np.float64)[at, self.gold] - others.max(axis=1),
            labels=self.labels,
            texts=tuple("\n".join(sorted(options)) for options in self.options),
            scores=tuple(tuple(row[: len(o)].tolist()) for row, o in zip(scores, self.options, strict=True)),
            gold=tuple(self.gold.tolist()),
        )

    def padded(self, score: Callable[[int, Sequence[str]], Sequence[float]]) -> Float[np.ndarray, "item option"]:
        """Scores of every option by a function of the item's number and its options."""
        out = np.full((len(self.options), max(map(len, self.options))), -np.inf)
        for item, options in enumerate(self.options):
            out[item, : len(options)] = score(item, options)
        return out


def questions_of(records: Sequence[Any]) -> list[Questions]:
    """The tasks in which a text is chosen for an image.

    Both wordings of multiple choice, claim sets, caption pairs, and captions with hard negative ones.
    """
    mcq = [record for record in records if isinstance(record, McqRecord)]
    claims = [record for record in records if isinstance(record, ClaimRecord)]
    pairs = [record for record in records if isinstance(record, Pair)]
    found = []
    labels: dict[str, tuple[str | None, ...]]
    if mcq:
        labels = {"negations": tuple(str(record.n_negations) for record in mcq)}
        labels |= _by_condition([record.states[record.label] for record in mcq])
        for task, options in (("mcq_affirmative", "affirmative"), ("mcq_negated", "negated")):
            texts = [tuple(getattr(record, options)) for record in mcq]
            found.append(_questions(task, mcq, texts, [record.label for record in mcq], labels, _of_studies(mcq)))
    if claims:
        labels = {
            "attribute": tuple(record.attribute for record in claims),
            "polarity": tuple(record.polarity for record in claims),
            "negations": tuple(str(negator_count(record.correct)) for record in claims),
            **_by_condition([(record.provenance or {}).get("conditions") or {} for record in claims]),
        }
        texts = [tuple(record.claims) for record in claims]
        found.append(_questions("claims", claims, texts, [record.label for record in claims], labels, _ids(claims)))
    if pairs:
        labels = {
            "attribute": tuple(pair.attribute for pair in pairs),
            "template": tuple(pair.template for pair in pairs),
            "negation": tuple(pair.negation for pair in pairs),
        }
        texts = [(pair.correct, pair.foil) for pair in pairs]
        found.append(_questions("pairs", pairs, texts, [0] * len(pairs), labels, _ids(pairs)))
    hard = [record for record in records if isinstance(record, CaptionRecord) and _false_ones(record)]
    if hard:
        texts = [(record.caption, *_false_ones(record)) for record in hard]
        found.append(_questions("captions", hard, texts, [0] * len(hard), {}, _ids(hard)))
    return found


def _false_ones(record: CaptionRecord) -> list[str]:
    """A caption's hard negatives, each once."""
    return [text for text in dict.fromkeys(record.neg_captions) if text not in (record.caption, "")]


def _by_condition(stated: Sequence[Mapping[str, int]]) -> dict[str, tuple[str | None, ...]]:
    """A subset per condition: whether the right option says that it is present or absent; None where not named."""
    names = sorted({name for states in stated for name in states})
    words = {1: "present", 0: "absent", None: None}
    return {f"condition {name}": tuple(words[states.get(name)] for states in stated) for name in names}


def _of_studies(records: Sequence[McqRecord]) -> list[str]:
    """Names of questions, which have none in files: the study, and the question's number among those of the study.

    The same whatever other studies were left out, since their images are missing.
    """
    seen = Counter[str]()
    names = []
    for record in records:
        names.append(f"{record.study_id}#{seen[record.study_id]}")
        seen[record.study_id] += 1
    return names


def _ids(records: Sequence[Any]) -> list[str]:
    """Of records that all have one; see :func:`benchmark.sources.named`."""
    return [record.id for record in records]


def _questions(
    task: str,
    records: Sequence[Any],
    options: Sequence[tuple[str, ...]],
    gold: Sequence[int],
    labels: Mapping[str, tuple[str | None, ...]],
    ids: Sequence[str],
) -> Questions:
    return Questions(
        task=task,
        ids=tuple(ids),
        groups=tuple(one if record.group is None else record.group for one, record in zip(ids, records, strict=True)),
        images=tuple(record.image for record in records),
        options=tuple(options),
        gold=np.array(gold, dtype=np.int64),
        labels=labels,
    )


def winoground_items(records: Sequence[WinogroundRecord], images: Embed, texts: Embed) -> list[Items]:
    """Winoground's text, image and group scores (Thrush et al. 2022, section 4); chance 1/4, 1/4 and 1/6.

    text: each image prefers its own caption. image: each caption prefers its own image. group: both. Ties count in
    expectation, over a random order of equal scores; the published code counts a tie as no preference.
    """
    pictures = [images([record.images[i] for record in records]) for i in range(2)]
    captions = [texts([record.captions[i] for record in records]) for i in range(2)]
    score = np.array([[np.sum(c * p, axis=1) for p in pictures] for c in captions], dtype=np.float64)  # caption, image
    text = np.minimum(score[0, 0] - score[1, 0], score[1, 1] - score[0, 1])
    image = np.minimum(score[0, 0] - score[0, 1], score[1, 1] - score[1, 0])
    ahead = {"text": _ahead(score[0, 0] - score[1, 0]) * _ahead(score[1, 1] - score[0, 1])}
    ahead["image"] = _ahead(score[0, 0] - score[0, 1]) * _ahead(score[1, 1] - score[1, 0])
    off = ~np.eye(2, dtype=bool)
    ahead["group"] = np.array([_all_before(np.diag(one), one[off]) for one in np.moveaxis(score, 2, 0)])
    ids = tuple(record.id for record in records)
    scores = tuple(tuple(one.ravel().tolist()) for one in np.moveaxis(score, 2, 0))
    labels = {"tag": tuple(record.tag for record in records)}
    return [
        Items(f"winoground_{name}", ids, ids, ahead[name], np.full(len(ids), chance), margin, labels, scores=scores)
        for name, margin, chance in (
            ("text", text, 1 / 4),
            ("image", image, 1 / 4),
            ("group", np.minimum(text, image), 1 / 6),
        )
    ]


def _ahead(difference: Float[np.ndarray, "item"]) -> Float[np.ndarray, "item"]:
    """1 where the first of two scores is higher, 1/2 where they tie."""
    return (difference > TIE) + 0.5 * (np.abs(difference) <= TIE)


def both_captions(pairs: Items) -> Items | None:
    """SugarCrepe++'s score of images and texts (Dumpala et al. 2024, "ITT"), of the pairs that its reader makes.

    Both captions of an item score higher than its negative one; chance 1/3, ties in expectation. None where no item has
    two captions.
    """
    places: dict[str, dict[str, int]] = {"caption": {}, "caption2": {}}
    for at, (name, template) in enumerate(zip(pairs.ids, pairs.labels["template"], strict=True)):
        if template in places and name.endswith(f"-{template}"):
            places[template][name.removesuffix(f"-{template}")] = at
    names = tuple(name for name in places["caption"] if name in places["caption2"])
    if not names:
        return None
    first = [places["caption"][name] for name in names]
    score = np.array(
        [[*pairs.scores[one], pairs.scores[places["caption2"][n]][0]] for n, one in zip(names, first, strict=True)]
    )
    right, wrong = score[:, [0, 2]], score[:, 1]
    return Items(
        task="pairs_both_captions",
        ids=names,
        groups=tuple(pairs.groups[at] for at in first),
        hits=np.array([_all_before(one, other[None]) for one, other in zip(right, wrong, strict=True)]),
        chance=np.full(len(names), 1 / 3),
        margin=right.min(axis=1) - wrong,
        labels={"attribute": tuple(pairs.labels["attribute"][at] for at in first)},
    )


def _all_before(right: Float[np.ndarray, "right"], wrong: Float[np.ndarray, "wrong"]) -> float:
    """Probability that all the right scores precede all the wrong ones, in a random order of those that tie."""
    if right.min() - wrong.max() > TIE:
        return 1.0
    if wrong.max() - right.min() > TIE:
        return 0.0
    n_right, n_wrong = (right <= wrong.max() + TIE).sum(), (wrong >= right.min() - TIE).sum()
    return 1 / comb(int(n_right + n_wrong), int(n_right))
