"""Training batches from captions and contrast sets, with every image embedded once, before training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import DataFormatError
from ...patching.torch_state import neutral_state

if TYPE_CHECKING:
    from ...benchmark import CaptionRecord, ClaimRecord
    from ...benchmark.records import Split
    from ...patching import DualEncoder


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input: caption and contrast-set texts by index into the token table, and their image embeddings."""

    caption: Int[Tensor, " n"]
    caption_image: Float[Tensor, "n embed"]
    claims: Int[Tensor, "set claim"]
    claim_image: Float[Tensor, "set embed"]
    label: Int[Tensor, " set"]
    present: Bool[Tensor, "set claim"]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Captions and contrast sets as token ids, beside cached image embeddings.

    Each distinct text is tokenised once and each distinct image embedded once; records refer to them by index.
    """

    tokens: Int[Tensor, "text pos"]  # the ids that have to be run (`TextTower.rows`), padded to the longest text
    lengths: Int[Tensor, " text"]
    images: Float[Tensor, "image embed"]  # L2-normalised
    caption: Int[Tensor, " n"]
    caption_image: Int[Tensor, " n"]
    claims: Int[Tensor, "set claim"]  # padded with text 0 where not present
    claim_image: Int[Tensor, " set"]
    label: Int[Tensor, " set"]
    present: Bool[Tensor, "set claim"]

    def batches(self, batch_size: int, steps: int, seed: int, *, skip: int = 0) -> Iterator[Batch]:
        """``steps`` batches of ``batch_size`` captions and as many contrast sets, by seeded shuffles without gaps.

        The sequence depends on the data, the sizes and the seed only, so that runs which differ in weighting see the
        same batches. skip: how many batches of it come before the first that is wanted.
        """
        captions = _endless(len(self.caption), np.random.default_rng([seed, 0]), skip * batch_size)
        sets = _endless(len(self.label), np.random.default_rng([seed, 1]), skip * batch_size)
        device = self.images.device
        for _ in range(steps):
            chosen = torch.tensor([next(captions) for _ in range(batch_size)], device=device)
            drawn = torch.tensor([next(sets) for _ in range(batch_size)], device=device)
            yield Batch(
                self.caption[chosen],
                self.images[self.caption_image[chosen]],
                self.claims[drawn],
                self.images[self.claim_image[drawn]],
                self.label[drawn],
                self.present[drawn],
            )


@neutral_state()
def training_data(
    model: DualEncoder,
    captions: str | Path | Iterable[CaptionRecord],
    claims: str | Path | Iterable[ClaimRecord],
    *,
    split: Split | None = "train",
    image_embeddings: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    outside_images: bool = False,
) -> TrainingData:
    """Read captions and contrast sets, tokenise their texts and embed their images once.

    captions, claims: JSONL files (images by path relative to the file) or records.
    split: of files, the records of this split and those of no split; None takes all. Given records are all taken.
    outside_images: accept image paths of files that are absolute or lead out of the file's folder.
    image_embeddings: path to embedding, where images were embedded already (``benchmark.embed_images``).

    Raises DataFormatError naming file and line, ContextOverflowError for a text over the context.
    """
    from ...benchmark import read_captions, read_claims

    of: dict[str, Any] = {"split": split, "outside_images": outside_images}
    caption_records = read_captions(captions, **of) if isinstance(captions, str | Path) else list(captions)
    claim_records = read_claims(claims, **of) if isinstance(claims, str | Path) else list(claims)
    if not caption_records or not claim_records:
        what = "contrast sets" if caption_records else "captions"
        raise DataFormatError(f"there are no {what} to train on")

    texts, images = _Index(), _Index()
    caption = [texts.add(record.caption, record.caption) for record in caption_records]
    caption_image = [images.add(_image_key(record.image), record.image) for record in caption_records]
    claim_image = [images.add(_image_key(record.image), record.image) for record in claim_records]
    widest = max(len(record.claims) for record in claim_records)
    claim_table = np.zeros((len(claim_records), widest), dtype=np.int64)
    present = np.zeros((len(claim_records), widest), dtype=bool)
    for row, record in enumerate(claim_records):
        claim_table[row, : len(record.claims)] = [texts.add(text, text) for text in record.claims]
        present[row, : len(record.claims)] = True

    device = model.text.device
    rows = model.text.rows(texts.values)
    longest, pad = max(map(len, rows)), model.text.tokenizer.pad_id
    return TrainingData(
        tokens=torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device),
        lengths=torch.tensor([len(row) for row in rows], device=device),
        images=_embed(model, images.values, image_embeddings or {}, batch_size),
        caption=torch.tensor(caption, device=device),
        caption_image=torch.tensor(caption_image, device=device),
        claims=torch.from_numpy(claim_table).to(device),
        claim_image=torch.tensor(claim_image, device=device),
        label=torch.tensor([record.label for record in claim_records], device=device),
        present=torch.from_numpy(present).to(device),
    )


class _Index:
    """Distinct values in order of appearance."""

    def __init__(self) -> None:
        self.places: dict[Any, int] = {}
        self.values: list[Any] = []

    def add(self, key: Any, value: Any) -> int:
        place = self.places.setdefault(key, len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place


def _image_key(image: Any) -> Any:
    return str(image) if isinstance(image, str | os.PathLike) else id(image)


def _embed(
    model: DualEncoder, images: Sequence[Any], known: Mapping[str, Any], batch_size: int
) -> Float[Tensor, "image embed"]:
    """Unit embeddings; an image that is a vector already (or in ``known``) is taken as its embedding."""
    width, device = model.embed_dim, model.text.device
    given = {
        i: known.get(str(image)) if isinstance(image, str | os.PathLike) else image for i, image in enumerate(images)
    }
    vectors = {i: torch.as_tensor(vector) for i, vector in given.items() if getattr(vector, "ndim", None) == 1}
    files = [i for i in range(len(images)) if i not in vectors]
    out = torch.empty(len(images), width, device=device, dtype=torch.promote_types(model.text.dtype, torch.float32))
    if files:
        out[files] = model.encode_images([images[i] for i in files], batch_size).to(out)
    for i, vector in vectors.items():
        if vector.shape != (width,):
            raise DataFormatError(f"an image embedding has {len(vector)} values, but the model's have {width}")
        out[i] = F.normalize(vector.to(out), dim=-1)
    return out


def _endless(count: int, generator: np.random.Generator, skip: int) -> Iterator[int]:
    """Shuffles of 0..count-1, one after the other, from number ``skip`` on."""
    for _ in range(skip // count):
        generator.permutation(count)
    at = skip % count
    while True:
        yield from generator.permutation(count)[at:].tolist()
        at = 0
