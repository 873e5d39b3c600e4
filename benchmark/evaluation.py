"""Evaluates a dual encoder on multiple choice, claims, caption pairs and retrieval, with shortcuts beside scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from ..arguments import explains_arguments
from ..errors import DataFormatError
from ..io.quoting import shown_path
from ..tracer.results.read_only import ReadOnlyArrays
from ..validation import Whole, bootstrap_options, check_option
from .metrics import Interval, clustered_interval, mcnemar, paired_difference
from .records import (
    CaptionRecord,
    RetrievalRecord,
    Split,
    WinogroundRecord,
)
from .retrieval import POOLED, pool_items, pools_for, retrieval_items
from .scoring import Encoder, Images, Texts, scores_of
from .shortcuts import SHORTCUTS, other_images, shortcuts
from .sources import Source, has_image, images_of, load_records, named
from .tasks import Embed, Items, both_captions, questions_of, winoground_items

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluation", "Shortcut", "TaskScore", "evaluate", "text_preservation"]


@dataclass(frozen=True)
class Shortcut:
    """What a scorer without the image, with another image, or without the model gets on the same items (percent).

    A model whose score is not clearly above these has not read the image, or has learnt the options' statistics.
    """

    affirmative: float | None
    negated: float | None
    claims: float | None


@dataclass(frozen=True)
class TaskScore:
    """One task in percent. by: accuracy by the values of each subset; shortcuts: what needs no image, by name."""

    n: int
    accuracy: Interval
    chance: float
    by: Mapping[str, Mapping[str, float]]
    shortcuts: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Evaluation(ReadOnlyArrays):
    """Scores in percent, gaps in percentage points; None where no items exist.

    Intervals resample groups, and sets of options where few are asked of many groups.

    affirmative, negated: accuracy on the same items, options and order, worded without and with negation.
    gap: affirmative minus negated. both_right: items right in both wordings.
    retrieval: affirmative image → text R@1 among texts that are false of the image; images of which no text is false
        are left out. retrieval_pool: texts of a query, the right one included; of the smallest query where they differ.
    preservation: mean cosine of negation-free captions with a previous evaluation's.
    tasks: every task by name (mcq_affirmative, mcq_negated, claims, pairs, winoground_*, image_to_text_r1, ...).
    items: the hits of every item of every task, for tables and for `tracescribe.benchmark.compare`.
    without_image: records that were left out since their image is missing. missing_images: the paths of such images, of
        all splits, where the records were read from a published file or with ``images``.
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
    tasks: Mapping[str, TaskScore]
    without_image: int
    missing_images: tuple[str, ...]
    seed: int
    items: Mapping[str, Items] = field(repr=False)
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
        """Everything but the embeddings and the items, as JSON-able values."""
        skip = ("caption_texts", "caption_embeddings", "baselines", "items", "tasks")
        out = {name: _plain(value) for name, value in vars(self).items() if name not in skip}
        tasks = {
            name: {**{k: _plain(v) for k, v in vars(task).items()}, "by": {k: dict(v) for k, v in task.by.items()}}
            for name, task in self.tasks.items()
        }
        return {**out, "baselines": {name: asdict(value) for name, value in self.baselines.items()}, "tasks": tasks}

    def items_frame(self) -> pd.DataFrame:
        """One row per item and task: task, id, group, hit, chance, margin, and the columns of every subset."""
        from .items import items_frame

        return items_frame(self)

    def save_items(self, path: str | os.PathLike[str]) -> Path:
        """Write `items_frame` to a ``.csv`` or ``.parquet`` file, which `compare` reads."""
        from .items import save_items

        return save_items(self, path)

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
        for name, task in self.tasks.items():
            if name in ("mcq_affirmative", "mcq_negated", "claims"):
                continue
            parts = {k: v for values in task.by.values() if len(values) > 1 for k, v in values.items()}
            detail = f" ({', '.join(f'{k} {v:.1f}' for k, v in parts.items())})" if 0 < len(parts) <= 12 else ""
            lines.append(f"{name} ({task.n} items, chance {task.chance:.1f}): {task.accuracy}{detail}")
            if task.shortcuts:
                lines.append("  " + ", ".join(f"{k} {v:.1f}" for k, v in task.shortcuts.items()))
        if self.retrieval is not None:
            lines.append(f"affirmative R@1 of {self.retrieval_pool}: {self.retrieval}")
        if self.preservation is not None:
            lines.append(f"cos(before, after) on negation-free captions: {self.preservation:.3f}")
        for name, shortcut in self.baselines.items():
            scores = ", ".join(f"{k} {v:.1f}" for k, v in asdict(shortcut).items() if v is not None)
            if scores:
                lines.append(f"  {name}: {scores}")
        if self.without_image:
            first = f" (the first: {shown_path(self.missing_images[0])})" if self.missing_images else ""
            lines.append(f"left out: {self.without_image} records whose image is missing{first}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        scores = ", ".join(f"{name} {task.accuracy}" for name, task in self.tasks.items())
        gap = "" if self.gap is None else f"; gap {self.gap} pp"
        return f"Evaluation({len(self.tasks)} task{'s' * (len(self.tasks) != 1)}: {scores}{gap})"

    def _repr_html_(self) -> str:
        from ..cards import card, table

        names = sorted({name for task in self.tasks.values() for name in task.shortcuts})
        rows = [
            [name, f"{task.n:,}", task.accuracy, f"{task.chance:.1f}"]
            + [f"{task.shortcuts[short]:.1f}" if short in task.shortcuts else "–" for short in names]
            for name, task in self.tasks.items()
        ]
        p = "" if self.mcnemar_p is None else f" (McNemar p = {self.mcnemar_p:.2g}; both right {self.both_right:.1f} %)"
        facts = [
            ("gap", None if self.gap is None else f"{self.gap} pp, affirmative − negated{p}"),
            ("kept", None if self.preservation is None else f"cos(before, after) = {self.preservation:.3f}"),
            ("left out", f"{self.without_image:,} records without an image" if self.without_image else None),
        ]
        scores = table(["task (percent)", "items", "accuracy [interval]", "chance", *names], rows)
        return card("Evaluation", f"{len(self.tasks)} tasks, {self.n_groups:,} groups", facts, scores)


@explains_arguments
def evaluate(
    model: Encoder,
    source: Source,
    *,
    images: str | os.PathLike[str] | None = None,
    strict: bool = False,
    split: Split | None = "test",
    seed: int = 0,
    n_boot: int = 1000,
    ci: float = 0.95,
    pool: int = 32,
    image_embeddings: Mapping[str, Any] | None = None,
    before: Evaluation | None = None,
    outside_images: bool = False,
) -> Evaluation:
    """Score a model on multiple choice, claim sets, caption pairs, Winoground items and retrieval.

    Args:
        source: a folder with mcq.jsonl, claims.jsonl, captions.jsonl (any of them), one such file, a published file
            that `tracescribe.read` knows, what it returned, or records.
        images: the folder in which a published file's images are; by default that of the file.
        strict: a missing image of a published file is an error; otherwise its record is left out, and counted.
        split: which split of files to take; None takes all. Records are taken as they are.
        pool: number of texts of a retrieval query, the right one included; fewer where too few are false of the image.
        image_embeddings: vectors by image path as `embed_images` returns them, so that a frozen image tower runs once.
        before: an evaluation of the same items whose negation-free captions are compared with this model's.
        outside_images: accept image paths of files that are absolute or lead out of the file's folder.

    Raises:
        DataFormatError: a record is malformed, an image has no embedding, or the model gives something else than one
            vector of one length per text and image; names what and where.
        ValueError: ``pool`` is below 2.
        NonFiniteError: the model returns NaN or infinity.
    """
    options = bootstrap_options(n_boot, seed, ci)
    pool = check_option("pool", pool, (Whole(2),))
    everything = load_records(source, split=split, images=images, strict=strict, outside_images=outside_images)
    records = [record for record in named(everything) if has_image(record)]
    if strict and len(records) < len(everything):
        first = next(record for record in everything if not has_image(record))
        raise DataFormatError(
            f"{len(everything) - len(records)} of {len(everything)} records have no image, the first is "
            f"{_name(first)}; without strict they are left out and counted"
        )
    if not records:
        what = "the list of records is empty" if not everything else f"none of {len(everything)} records has its image"
        if everything.missing_images:
            what += f"; {shown_path(everything.missing_images[0])} is not in the folder of images (images=, --images)"
        raise DataFormatError(f"there is nothing to evaluate: {what}")
    questions = questions_of(records)
    captions = [record for record in records if isinstance(record, CaptionRecord)]
    winoground = [record for record in records if isinstance(record, WinogroundRecord)]
    retrieval_sets = [record for record in records if isinstance(record, RetrievalRecord)]
    pictures = Images(model, [image for record in records for image in images_of(record)], image_embeddings)
    texts = Texts(
        model,
        [text for asked in questions for options in asked.options for text in options]
        + [text for record in winoground for text in record.captions]
        + [text for record in retrieval_sets for text in record.captions]
        + _affirmative(captions)
        + [record.caption for record in captions if record.states is not None and record.affirmative is not None],
    )
    texts.check_width(pictures)
    mean = pictures.mean() if len(pictures) > 1 else None  # the mean of one image is that image, which is not blind
    items: dict[str, Items] = {}
    blind: dict[str, dict[str, float]] = {}
    for asked in questions:
        vectors = pictures(asked.images)
        items[asked.task] = asked.scored(scores_of(asked, vectors, texts))
        blind[asked.task] = shortcuts(asked, vectors, mean, lambda q, v: scores_of(q, v, texts), seed)
    both = both_captions(items["pairs"]) if "pairs" in items else None
    items |= {both.task: both} if both is not None else {}

    pools = pools_for(captions, pool, seed)

    def ranked(images: Embed) -> dict[str, Items]:
        scored = winoground_items(winoground, images, texts) if winoground else []
        scored += retrieval_items(retrieval_sets, images, texts) if retrieval_sets else []
        scored += pool_items(pools, images, texts)
        return {found.task: found for found in scored}

    found = ranked(pictures)
    items |= found
    if found:
        asked_of = [*winoground, *retrieval_sets, *captions]
        for name, other in other_images(asked_of, pictures, mean, seed).items():
            for task, scored in ranked(other).items():
                blind.setdefault(task, {})[name] = 100 * float(scored.hits.mean())
    if not items and not captions:
        kinds = ", ".join(sorted({type(record).__name__ for record in records}))
        raise DataFormatError(
            f"there is nothing to evaluate: {kinds} ask no question of an image; build questions from labels first "
            "(tracescribe build)"
        )
    fine, bad, claims = (items.get(name) for name in ("mcq_affirmative", "mcq_negated", "claims"))
    caption_texts = tuple(_affirmative(captions))
    embeddings = texts(list(caption_texts))
    tasks = {name: _task_score(found, blind.get(name, {}), options) for name, found in items.items()}
    paired = fine is not None and bad is not None
    return Evaluation(
        n_mcq=0 if fine is None else len(fine),
        n_claims=0 if claims is None else len(claims),
        n_groups=len({group for found in items.values() for group in found.groups} | {r.group for r in captions}),
        affirmative=tasks["mcq_affirmative"].accuracy if fine is not None else None,
        negated=tasks["mcq_negated"].accuracy if bad is not None else None,
        gap=paired_difference(fine.hits, bad.hits, fine.groups, texts=fine.texts, **options)  # type: ignore[union-attr]
        if paired
        else None,
        both_right=100 * float(np.mean(fine.hits * bad.hits)) if paired else None,  # type: ignore[union-attr]
        mcnemar_p=mcnemar(fine.hits, bad.hits) if paired else None,  # type: ignore[union-attr]
        negated_by_count={int(k): v for k, v in tasks["mcq_negated"].by["negations"].items()}
        if bad is not None
        else {},
        claims=tasks["claims"].accuracy if claims is not None else None,
        claims_by_attribute=_by(tasks, "claims", "attribute"),
        claims_by_polarity=_by(tasks, "claims", "polarity"),
        retrieval=tasks[POOLED].accuracy if POOLED in tasks else None,
        retrieval_pool=round(1 / float(items[POOLED].chance.max())) if POOLED in items else None,
        preservation=None if before is None else _preserved(before, caption_texts, embeddings),
        baselines=_baselines(blind),
        tasks=tasks,
        without_image=len(everything) - len(records),
        missing_images=everything.missing_images,
        seed=seed,
        items=items,
        caption_texts=caption_texts,
        caption_embeddings=embeddings,
    )


@explains_arguments
def text_preservation(
    before: Float[np.ndarray, "text embed"], after: Float[np.ndarray, "text embed"]
) -> Float[np.ndarray, "text"]:
    """Cosine of each text's embedding before and after a change of the model.

    Raises:
        DataFormatError: the two are not embeddings of the same texts by models of one width.
    """
    if np.ndim(before) != 2 or np.shape(before) != np.shape(after):
        raise DataFormatError(
            f"embeddings before and after must have one shape [text, embed], not {np.shape(before)} and "
            f"{np.shape(after)}"
        )
    product = np.sum(before * after, axis=1)
    return np.asarray(product / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)))


def _name(record: Any) -> str:
    return repr(getattr(record, "id", None) or getattr(record, "study_id", None))


def _task_score(items: Items, blind: Mapping[str, float], options: dict[str, Any]) -> TaskScore:
    return TaskScore(
        n=len(items),
        accuracy=clustered_interval(items.hits, items.groups, texts=items.texts, **options),
        chance=100 * float(items.chance.mean()),
        by={name: _means(items.hits, labels) for name, labels in items.labels.items()},
        shortcuts=blind,
    )


def _by(tasks: Mapping[str, TaskScore], task: str, subset: str) -> Mapping[str, float]:
    return tasks[task].by[subset] if task in tasks else {}


def _baselines(blind: Mapping[str, Mapping[str, float]]) -> dict[str, Shortcut]:
    tasks = {"affirmative": "mcq_affirmative", "negated": "mcq_negated", "claims": "claims"}
    return {
        name: Shortcut(**{column: blind.get(task, {}).get(name) for column, task in tasks.items()})
        for name in SHORTCUTS
    }


def _preserved(before: Evaluation, texts: tuple[str, ...], after: Float[np.ndarray, "caption embed"]) -> float | None:
    if before.caption_texts != texts:
        raise DataFormatError("before= is an evaluation of other captions; evaluate both models on one source")
    if not texts:
        return None
    return float(text_preservation(before.caption_embeddings, after).mean())


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
