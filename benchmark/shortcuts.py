"""Shortcut baselines: what scorers without the image reach on the same items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from ..tracer.results.statistics import cluster_index
from .metrics import expected_hits, negator_count, shuffled_across_groups
from .scoring import Images
from .sources import images_of
from .tasks import Embed, Questions

__all__ = ["SHORTCUTS", "other_images", "shortcuts"]

# scores of every option against one vector per item
Scorer = Callable[[Questions, Float[np.ndarray, "item embed"]], Float[np.ndarray, "item option"]]
SHORTCUTS = ("image_blind", "shuffled_image", "negator_count", "length", "bag_of_words")


def shortcuts(
    questions: Questions,
    images: Float[np.ndarray, "item embed"],
    mean_image: Float[np.ndarray, "embed"] | None,
    scores: Scorer,
    seed: int,
) -> dict[str, float]:
    """Accuracy in percent of each shortcut; one that cannot be computed is left out.

    image_blind: the mean image instead of the item's. shuffled_image: the image of another group.
    negator_count, length: most or fewest negators or characters, whichever is right more often: the most that can get.
    bag_of_words: naive Bayes on the options' words, trained on other groups than it is asked about.
    """
    found: dict[str, float] = {}
    if mean_image is not None:
        found["image_blind"] = _percent(questions, scores(questions, np.tile(mean_image, (len(images), 1))))
    index, n_groups = cluster_index(questions.groups)
    partner = shuffled_across_groups(questions.groups, seed)
    others = index[partner] != index  # no other group is left for some items where one group has more than half
    if others.any():
        found["shuffled_image"] = _percent(questions, scores(questions, images[partner]), others)
    for name, count in (("negator_count", negator_count), ("length", len)):
        values = questions.padded(lambda _, options, count=count: [float(count(text)) for text in options])  # type: ignore[misc]
        fewest = np.where(np.isfinite(values), -values, -np.inf)
        found[name] = max(_percent(questions, values), _percent(questions, fewest))
    if n_groups > 1:
        found["bag_of_words"] = _percent(questions, _bag_of_words(questions, index % 2))
    return found


def other_images(
    records: Sequence[Any], pictures: Images, mean: Float32[np.ndarray, "embed"] | None, seed: int
) -> dict[str, Embed]:
    """For retrieval, images to rank by that are not the record's: the mean of all, and one of another group."""
    others: dict[str, Embed] = {}
    if mean is not None:
        others["image_blind"] = lambda images: np.tile(mean, (len(images), 1))
    groups = {str(image): str(getattr(r, "group", r.id)) for r in records for image in images_of(r)}
    names = list(groups)
    partner = shuffled_across_groups(list(groups.values()), seed)
    if len(set(groups.values())) > 1:
        given = {str(image): image for record in records for image in images_of(record)}
        swapped = {name: given[names[other]] for name, other in zip(names, partner, strict=True)}
        others["shuffled_image"] = lambda images: pictures([swapped[str(image)] for image in images])
    return others


def _percent(
    questions: Questions, scores: Float[np.ndarray, "item option"], chosen: np.ndarray | slice = slice(None)
) -> float:
    return 100 * float(expected_hits(scores, questions.gold)[chosen].mean())


def _bag_of_words(questions: Questions, half: np.ndarray) -> Float[np.ndarray, "item option"]:
    """Log odds of the options' words, of each half of the groups as learnt from the other half."""
    words = [[text.lower().split() for text in options] for options in questions.options]
    scores = [np.zeros(0)] * len(words)
    for tested in (0, 1):
        right, wrong = Counter[str](), Counter[str]()
        for item in np.flatnonzero(half != tested):
            for number, option in enumerate(words[item]):
                (right if number == questions.gold[item] else wrong).update(option)
        n_right, n_wrong = (sum(count.values()) + 1 for count in (right, wrong))
        odds = {w: np.log((right[w] + 1) / n_right) - np.log((wrong[w] + 1) / n_wrong) for w in right | wrong}
        for item in np.flatnonzero(half == tested):
            scores[item] = np.array([sum(odds.get(word, 0.0) for word in option) for option in words[item]])
    return questions.padded(lambda item, _: scores[item].tolist())
