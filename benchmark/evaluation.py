"""Evaluates a dual encoder on multiple choice, claim sets and retrieval, with the shortcuts beside every score."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from ..errors import DataFormatError
from ..io.json_lines import read_jsonl
from ..tracer.results.statistics import cluster_index
from .metrics import (
    Interval,
    clustered_interval,
    inconsistent,
    mcnemar,
    paired_difference,
    retrieval_hits,
    shuffled_across_groups,
)
from .records import (
    CaptionRecord,
    ClaimRecord,
    McqRecord,
    Record,
    Split,
    read_captions,
    read_claims,
    read_mcq,
)
from .scoring import Choice, Encoder, Images, Texts, as_array

__all__ = ["Evaluation", "Shortcut", "embed_images", "evaluate", "load_records", "text_preservation"]

Source = str | os.PathLike[str] | Sequence[Record]


@dataclass(frozen=True)
class Shortcut:
    """What a scorer without the image, with another image, or without the model gets on the same items (percent).

    A model whose score is not clearly above these has not read the image, or has learnt the options' statistics.
    """

    affirmative: float | None
    negated: float | None
    claims: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores in percent, gaps in percentage points, intervals from resampling groups; None where no items exist.

    affirmative, negated: accuracy on the same items, options and order, worded without and with negation.
    gap: affirmative minus negated. both_right: items right in both wordings.
    retrieval: affirmative image → text R@1 among texts that are false of the image; images of which no text is false
        are left out. retrieval_pool: texts of a query, the right one included; of the smallest query where they differ.
    preservation: mean cosine of negation-free captions with a previous evaluation's.
    """

    n_mcq: int
    n_claims: int
    n_groups: int
    affirmative: Interval | None
    negated: Interval | None
    gap: Interval | None
    both_right: float | None
    mcnemar_p: float | None
    negated_by_count: Mapping[int, float]
    claims: Interval | None
    claims_by_attribute: Mapping[str, float]
    claims_by_polarity: Mapping[str, float]
    retrieval: Interval | None
    retrieval_pool: int | None
    preservation: float | None
    baselines: Mapping[str, Shortcut]
    seed: int
    caption_texts: tuple[str, ...] = field(repr=False)
    caption_embeddings: Float32[np.ndarray, "caption embed"] = field(repr=False)

    @property
    def affirmative_accuracy(self) -> float | None:
        """Percent of items right in the negation-free wording."""
        return None if self.affirmative is None else self.affirmative.value

    @property
    def negated_accuracy(self) -> float | None:
        """Percent of items right in the wording with negation."""
        return None if self.negated is None else self.negated.value

    @property
    def claim_accuracy(self) -> float | None:
        """Percent of claim sets whose true claim scores highest."""
        return None if self.claims is None else self.claims.value

    @property
    def retrieval_r1(self) -> float | None:
        """Affirmative image → text R@1 in percent."""
        return None if self.retrieval is None else self.retrieval.value

    def to_dict(self) -> dict[str, Any]:
        """Everything but the embeddings, as JSON-able values."""
        skip = ("caption_texts", "caption_embeddings", "baselines")
        out = {name: _plain(value) for name, value in vars(self).items() if name not in skip}
        return {**out, "baselines": {name: asdict(value) for name, value in self.baselines.items()}}

    def summary(self) -> str:
        """The scores as a few lines for people."""
        lines = []
        if self.gap is not None:
            lines.append(
                f"MCQ ({self.n_mcq} items): affirmative {self.affirmative}, negated {self.negated}, gap {self.gap} pp, "
                f"both right {self.both_right:.1f}, McNemar p = {self.mcnemar_p:.2g}"
            )
        if self.claims is not None:
            parts = {**self.claims_by_attribute, **self.claims_by_polarity}
            detail = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
            lines.append(f"claims ({self.n_claims} sets): {self.claims} ({detail})")
        if self.retrieval is not None:
            lines.append(f"affirmative R@1 of {self.retrieval_pool}: {self.retrieval}")
        if self.preservation is not None:
            lines.append(f"cos(before, after) on negation-free captions: {self.preservation:.3f}")
        for name, shortcut in self.baselines.items():
            scores = ", ".join(f"{k} {v:.1f}" for k, v in asdict(shortcut).items() if v is not None)
            lines.append(f"  {name}: {scores}")
        return "\n".join(lines)


def evaluate(
    model: Encoder,
    source: Source,
    *,
    split: Split | None = "test",
    seed: int = 0,
    n_boot: int = 1000,
    ci: float = 0.95,
    pool: int = 32,
    image_embeddings: Mapping[str, Any] | None = None,
    before: Evaluation | None = None,
) -> Evaluation:
    """Score a model on multiple choice, claim sets and captions.

    Args:
        source: a folder with mcq.jsonl, claims.jsonl, captions.jsonl (any of them), one such file, or records.
        split: which split of files to take; None takes all. Records are taken as they are.
        pool: number of texts of a retrieval query, the right one included; fewer where too few are false of the image.
        image_embeddings: vectors by image path as `embed_images` returns them, so that a frozen image tower runs once.
        before: an evaluation of the same items whose negation-free captions are compared with this model's.

    Raises:
        DataFormatError: a record is malformed, or an image has no embedding; names what and where.
        ValueError: ``pool`` is below 2.
        NonFiniteError: the model returns NaN or infinity.
    """
    mcq, claim_sets, captions = _sorted(load_records(source, split=split))
    images = Images(model, [*mcq, *claim_sets, *captions], image_embeddings)
    items = [(r, [*r.affirmative, *r.negated]) for r in mcq]
    texts = Texts(
        model, [t for _, ts in items for t in ts] + [t for r in claim_sets for t in r.claims] + _affirmative(captions)
    )
    options: dict[str, Any] = {"n_boot": n_boot, "seed": seed, "ci": ci}
    groups = [r.group for r in (*mcq, *claim_sets, *captions)]
    affirmed = Choice([r.affirmative for r in mcq], np.array([r.label for r in mcq], dtype=np.int64), mcq)
    negated = Choice([r.negated for r in mcq], affirmed.gold, mcq)
    claims = Choice([r.claims for r in claim_sets], np.array([r.label for r in claim_sets], dtype=np.int64), claim_sets)
    choices = {"affirmative": affirmed, "negated": negated, "claims": claims}
    hits = {name: choice.hits(images, texts) for name, choice in choices.items()}
    mcq_groups, claim_groups = [r.group for r in mcq], [r.group for r in claim_sets]
    fine, bad = hits["affirmative"], hits["negated"]
    counts = np.array([r.n_negations for r in mcq])
    retrieval, smallest = _retrieval(captions, images, texts, pool, options)
    caption_texts = tuple(_affirmative(captions))
    embeddings = texts(list(caption_texts))
    return Evaluation(
        n_mcq=len(mcq),
        n_claims=len(claim_sets),
        n_groups=len(set(groups)),
        affirmative=clustered_interval(fine, mcq_groups, **options) if mcq else None,
        negated=clustered_interval(bad, mcq_groups, **options) if mcq else None,
        gap=paired_difference(fine, bad, mcq_groups, **options) if mcq else None,
        both_right=100 * float(np.mean(fine * bad)) if mcq else None,
        mcnemar_p=mcnemar(fine, bad) if mcq else None,
        negated_by_count={int(k): 100 * float(bad[counts == k].mean()) for k in np.unique(counts)} if mcq else {},
        claims=clustered_interval(hits["claims"], claim_groups, **options) if claim_sets else None,
        claims_by_attribute=_means(hits["claims"], [r.attribute for r in claim_sets]),
        claims_by_polarity=_means(hits["claims"], [r.polarity for r in claim_sets]),
        retrieval=retrieval,
        retrieval_pool=smallest,
        preservation=None if before is None else _preserved(before, caption_texts, embeddings),
        baselines=_baselines(choices, images, texts, seed),
        seed=seed,
        caption_texts=caption_texts,
        caption_embeddings=embeddings,
    )


def load_records(source: Source, *, split: Split | None = "test") -> list[Record]:
    """The records that `evaluate` would score, of a folder, a file or a list.

    Raises:
        DataFormatError: no such files, or a malformed record.
    """
    if not isinstance(source, str | os.PathLike):
        return list(source)
    readers: dict[str, Callable[..., Sequence[Record]]]
    readers = {"mcq.jsonl": read_mcq, "claims.jsonl": read_claims, "captions.jsonl": read_captions}
    path = Path(source)
    if path.is_dir():
        found: list[Record] = []
        for name, reader in readers.items():
            if (path / name).is_file():
                found += reader(path / name, split=split)
        if not found:
            raise DataFormatError(f"{path}: a folder to evaluate on holds {', '.join(readers)}, or some of them")
        return found
    first = next(read_jsonl(path), (1, {}))[1]
    kind = "mcq.jsonl" if "correct_answer" in first else "claims.jsonl" if "claims" in first else "captions.jsonl"
    return list(readers[kind](path, split=split))


def embed_images(model: Encoder, source: Source, *, split: Split | None = None) -> dict[str, np.ndarray]:
    """Every image of a source, encoded once: path → Float32[embed]. Give it to `evaluate(image_embeddings=)`."""
    paths = list(dict.fromkeys(str(r.image) for r in load_records(source, split=split)))
    return dict(zip(paths, as_array(model.encode_images(paths), "image"), strict=True))


def text_preservation(
    before: Float[np.ndarray, "text embed"], after: Float[np.ndarray, "text embed"]
) -> Float[np.ndarray, "text"]:
    """Cosine of each text's embedding before and after a change of the model."""
    product = np.sum(before * after, axis=1)
    return np.asarray(product / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)))


def _baselines(choices: Mapping[str, Choice], images: Images, texts: Texts, seed: int) -> dict[str, Shortcut]:
    blind: dict[str, float | None] = {}
    other: dict[str, float | None] = {}
    count: dict[str, float | None] = {}
    for name, choice in choices.items():
        if not choice.records:
            blind[name] = other[name] = count[name] = None
            continue
        own = images(choice.records)
        index, _ = cluster_index([r.group for r in choice.records])
        partner = shuffled_across_groups([r.group for r in choice.records], seed)
        others = index[partner] != index  # no other group is left for some items where one group has more than half
        swapped = choice.hits(images, texts, own[partner])[others]
        other[name] = 100 * float(swapped.mean()) if swapped.size else None
        # The mean of one image is that image, which is not blind.
        mean = choice.hits(images, texts, np.tile(images.mean(), (len(own), 1))) if len(images) > 1 else None
        blind[name] = None if mean is None else 100 * float(mean.mean())
        # Most negators or fewest, whichever is better: an upper bound of what counting them can get.
        count[name] = 100 * max(float(choice.by_negators(sign).mean()) for sign in (1, -1))
    return {"image_blind": Shortcut(**blind), "shuffled_image": Shortcut(**other), "negator_count": Shortcut(**count)}


def _retrieval(
    captions: list[CaptionRecord], images: Images, texts: Texts, pool: int, options: dict[str, Any]
) -> tuple[Interval | None, int | None]:
    """R@1 and the number of texts of the smallest query; (None, None) where no image has a text that is false of it."""
    usable = [r for r in captions if r.affirmative is not None and r.states is not None and r.facts is not None]
    if not usable:
        return None, None
    similarity = images(usable) @ texts([str(r.affirmative) for r in usable]).T
    wrong: Bool[np.ndarray, "image text"] = inconsistent(
        [r.states or {} for r in usable], [r.facts or {} for r in usable]
    )
    hits, sizes = retrieval_hits(similarity, wrong, pool=pool, seed=options["seed"])
    asked = np.flatnonzero(sizes > 1)
    if not asked.size:
        return None, None
    groups = [usable[i].group for i in asked]
    return clustered_interval(hits[asked], groups, **options), int(sizes[asked].min())


def _preserved(before: Evaluation, texts: tuple[str, ...], after: Float[np.ndarray, "caption embed"]) -> float | None:
    if before.caption_texts != texts:
        raise DataFormatError("before= is an evaluation of other captions; evaluate both models on one source")
    if not texts:
        return None
    return float(text_preservation(before.caption_embeddings, after).mean())


def _sorted(records: Sequence[Record]) -> tuple[list[McqRecord], list[ClaimRecord], list[CaptionRecord]]:
    if not records:
        raise DataFormatError("there is nothing to evaluate: the list of records is empty")
    mcq = [r for r in records if isinstance(r, McqRecord)]
    claims = [r for r in records if isinstance(r, ClaimRecord)]
    return mcq, claims, [r for r in records if isinstance(r, CaptionRecord)]


def _affirmative(captions: Sequence[CaptionRecord]) -> list[str]:
    return [r.affirmative for r in captions if r.affirmative is not None]


def _means(hits: Float[np.ndarray, "item"], labels: Sequence[str | None]) -> dict[str, float]:
    names = sorted({label for label in labels if label is not None})
    where = np.array([str(label) for label in labels])
    return {name: 100 * float(hits[where == name].mean()) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return {name: number if np.isfinite(number) else None for name, number in asdict(value).items()}
    return dict(value) if isinstance(value, Mapping) else value
