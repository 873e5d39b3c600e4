"""Retrieval in both directions: over a complete set, and in pools of texts that are false of the image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .metrics import TIE, inconsistent
from .records import CaptionRecord, RetrievalRecord
from .tasks import Embed, Items

__all__ = ["POOLED", "Pools", "pool_items", "pools_for", "pools_of", "retrieval_items"]

POOLED = "image_to_text_r1_affirmative"
"""The task of `pool_items` that says how well what is shown is still found: R@1 of the right one among false texts."""


def retrieval_items(
    records: Sequence[RetrievalRecord], images: Embed, texts: Embed, ranks: Sequence[int] = (1, 5)
) -> list[Items]:
    """R@k over the complete set, image to text (any of the image's captions) and text to image; ties in expectation.

    On NegBench's negated file, ``text_to_image_r5`` is its R-Neg@5 (Alhamoud et al. 2025).
    """
    captions = [caption for record in records for caption in record.captions]
    owner = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    score = np.asarray(images([record.image for record in records]), dtype=np.float64) @ texts(captions).T
    ids, groups = [record.id for record in records], [record.group for record in records]
    by_caption = [f"{ids[i]}-{number}" for number, i in enumerate(owner)]
    all_texts, all_images = [_named(by_caption)] * len(ids), [_named(ids)] * len(by_caption)
    found = []
    for k in ranks:
        hits = np.array([in_first(row, owner == i, k) for i, row in enumerate(score)])
        chance = np.array([in_first(np.zeros(len(captions)), owner == i, k) for i in range(len(ids))])
        found.append(_items(f"image_to_text_r{k}", ids, groups, hits, chance, all_texts))
        at = np.arange(len(records))
        hits = np.array([in_first(row, at == i, k) for i, row in zip(owner, score.T, strict=True)])
        chance = np.full(len(hits), min(1.0, k / len(records)))
        found.append(_items(f"text_to_image_r{k}", by_caption, [groups[i] for i in owner], hits, chance, all_images))
    return found


@dataclass(frozen=True)
class Pools:
    """What each query of the pooled retrieval ranks: its own partner and texts that are false of the image.

    records: captions with an affirmative wording, states and facts. of: by direction, for each record the numbers of
        its candidates, its own first. names: of these sets of candidates.
    """

    records: Sequence[CaptionRecord]
    of: Mapping[str, Sequence[Int[np.ndarray, "candidate"]]]
    names: Mapping[str, Sequence[str]]


def pools_for(records: Sequence[CaptionRecord], pool: int = 32, seed: int = 0) -> Pools:
    """Up to ``pool`` - 1 texts that are false of the image, or images of which the text is false, beside its partner.

    In an ordinary pool many texts are true of an image, and R@1 has a low logical ceiling.
    """
    usable = [r for r in records if r.affirmative is not None and r.states is not None and r.facts is not None]
    wrong = inconsistent([r.states or {} for r in usable], [r.facts or {} for r in usable])
    excluded = {"image_to_text": wrong, "text_to_image": wrong.T}
    of = {direction: pools_of(false, pool, seed) for direction, false in excluded.items()}
    ids = [record.id for record in usable]
    names = {way: [_named([ids[j] for j in candidates]) for candidates in pools] for way, pools in of.items()}
    return Pools(usable, of, names)


def pool_items(pools: Pools, images: Embed, texts: Embed, ranks: Sequence[int] = (1, 5)) -> list[Items]:
    """R@k in both directions, of captions as written and of their affirmative wording, in mutually inconsistent pools.

    Queries whose pool has k candidates or fewer are left out of R@k.
    """
    asked_of = pools.records
    if not asked_of:
        return []
    pictures = np.asarray(images([r.image for r in asked_of]), dtype=np.float64)
    wordings = {"captions": [r.caption for r in asked_of], "affirmative": [str(r.affirmative) for r in asked_of]}
    found = []
    for direction, candidates in pools.of.items():
        for wording, captions in wordings.items():
            score = pictures @ texts(captions).T
            score = score if direction == "image_to_text" else score.T
            for k in ranks:
                asked = [i for i, among in enumerate(candidates) if len(among) > k]
                if asked:
                    hits = np.array([_own_in_first(score[i, candidates[i]], k) for i in asked])
                    chance = np.array([k / len(candidates[i]) for i in asked])
                    ids, groups = [asked_of[i].id for i in asked], [asked_of[i].group for i in asked]
                    names = [pools.names[direction][i] for i in asked]
                    found.append(_items(f"{direction}_r{k}_{wording}", ids, groups, hits, chance, names))
    return found


def pools_of(wrong: Bool[np.ndarray, "query candidate"], pool: int, seed: int) -> list[Int[np.ndarray, "candidate"]]:
    """The candidates of each query: its own (the diagonal) first, then ``pool`` - 1 wrong ones, or all there are."""
    if pool < 2:
        raise ValueError(f"a retrieval pool holds at least 2 texts, not {pool!r}")
    rng = np.random.default_rng(seed)
    at = np.arange(len(wrong))
    return [
        np.concatenate([[i], rng.permutation(np.flatnonzero(row & (at != i)))[: pool - 1]])
        for i, row in enumerate(wrong)
    ]


def in_first(scores: Float[np.ndarray, "candidate"], right: Bool[np.ndarray, "candidate"], k: int) -> float:
    """Probability that a right candidate is among the first k, in a random order of those that tie."""
    best = scores[right].max()
    before = int((scores > best + TIE).sum())
    tied = np.abs(scores - best) <= TIE
    places, n_tied, n_right = k - before, int(tied.sum()), int((tied & right).sum())
    if places <= 0:
        return 0.0
    missed = 1.0
    for taken in range(min(places, n_tied)):  # none of the places goes to a right one
        missed *= max(0, n_tied - n_right - taken) / (n_tied - taken)
    return 1 - missed


def _own_in_first(scores: Float[np.ndarray, "candidate"], k: int) -> float:
    """:func:`in_first` of a pool, whose first candidate is the right one."""
    return in_first(scores, np.arange(len(scores)) == 0, k)


def _items(
    task: str,
    ids: Sequence[str],
    groups: Sequence[str],
    hits: Float[np.ndarray, "item"],
    chance: Float[np.ndarray, "item"],
    candidates: Sequence[str],
) -> Items:
    margin = np.full(len(ids), np.nan)
    return Items(task, tuple(ids), tuple(groups), hits, chance, margin, {}, candidates=tuple(candidates))


def _named(ids: Sequence[str]) -> str:
    """A short name of a set of candidates, in whatever order."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()[:16]
