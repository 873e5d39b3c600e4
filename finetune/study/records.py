"""What a study may learn from: captions, contrast sets and pairs of the images that it trains on, and of no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...errors import DataFormatError
from ...tracer.pairs.pairs import Pair
from .config import StudyConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...benchmark import CaptionRecord, ClaimRecord
    from ...benchmark.records import Split
    from ...benchmark.sources import Loaded

CAPTIONS, CLAIMS, MCQ, PAIRS = "captions.jsonl", "claims.jsonl", "mcq.jsonl", "pairs.jsonl"
FILES = (CAPTIONS, CLAIMS, MCQ, PAIRS)


def training_images(config: StudyConfig) -> set[Any]:
    """The images of the captions of the split "train"; of ``config.train_images`` the first so many."""
    return _images_of(config, "train", "train_images", config.train_images)


def training_records(config: StudyConfig, images: set[Any]) -> tuple[Iterable[CaptionRecord], Iterable[ClaimRecord]]:
    """Captions and contrast sets of :func:`training_images`."""
    from ...benchmark.records import stream_captions, stream_claims

    return (
        (record for record in stream_captions(config.data / CAPTIONS, split="train") if _key(record.image) in images),
        (record for record in stream_claims(config.data / CLAIMS, split="train") if _key(record.image) in images),
    )


def training_pairs(config: StudyConfig, images: set[Any], attributes: tuple[str, ...]) -> list[Pair]:
    """At most ``config.n_pairs`` pairs of these attributes, spread evenly over the file.

    No image file among their images is one that the study does not train on: weights that were chosen by a trace of
    test images would have seen the test.
    """
    from ...tracer import read_pairs

    path = config.data / PAIRS
    pairs = [
        pair
        for pair in read_pairs(path)
        if pair.attribute in attributes
        and pair.split in (None, "train")
        and (_key(pair.image) in images or not isinstance(pair.image, str | os.PathLike))
    ]
    if len(pairs) < 2:
        raise DataFormatError(
            f"{path}: {len(pairs)} pairs of training images have the attribute {' or '.join(attributes)}"
        )
    return pairs[:: max(1, len(pairs) // config.n_pairs)][: config.n_pairs]


def scored_records(config: StudyConfig, split: Split) -> Loaded:
    """What is asked about the images of a split; of ``config.score_images`` about the first so many."""
    from ...benchmark import load_records
    from ...benchmark.sources import Loaded

    found = load_records(config.data, split=split)
    if config.score_images is None:
        return found
    images = _images_of(config, split, "score_images", config.score_images)
    return Loaded([record for record in found if _key(record.image) in images], found.missing_images, found.left_out)


def _images_of(config: StudyConfig, split: Split, option: str, most: int | None) -> set[Any]:
    from ...benchmark.records import stream_captions

    path = config.data / CAPTIONS
    images = list(dict.fromkeys(_key(record.image) for record in stream_captions(path, split=split)))
    if most is not None and len(images) < most:
        raise DataFormatError(f"{option} is {most}, but {path} has {len(images)} images of the split {split!r}")
    return set(images[:most])


def _key(image: Any) -> Any:
    """A file by its place; a text as it is."""
    return os.path.realpath(image) if isinstance(image, str | os.PathLike) else image
