"""Training batches from captions and contrast sets, with every image embedded once, before training."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import DataFormatError
from ...io.quoting import shown
from ...patching.torch_state import neutral_state
from ...tracer.pairs.pairs import Text
from .config import Files
from .counterparts import Counterparts
from .image_cache import ImageCache
from .more import More
from .packing import token_table
from .sampling import Sampler, Share

FIELDS = {"negated": "negated", "originals": "original", "negations": "negation", "negatives": "false"}
"""What a loss needs, and the field of TrainingData and of Batch that holds it of the captions."""
HARD, NOISE = 2, 3  # streams of random numbers, beside those of captions (0) and contrast sets (1)

if TYPE_CHECKING:
    from ...benchmark import CaptionRecord, ClaimRecord
    from ...benchmark.records import Split
    from ...patching import DualEncoder


@dataclass(frozen=True, eq=False)
class ContrastSets:
    """Contrast sets with their images' embeddings; claims by index into the token table."""

    claims: Int[Tensor, "set claim"]
    image: Float[Tensor, "set embed"]
    label: Int[Tensor, " set"]
    present: Bool[Tensor, "set claim"]
    weight: Float[Tensor, " set"] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's input: caption and contrast-set texts by index into the token table, and their image embeddings.

    Where they were asked for: hard: sets that are counterparts of those of the batch
    (:class:`.counterparts.Counterparts`); noise: a permutation of three times the captions; negated, original,
    negation, false, caption_weight, claim_weight: as in TrainingData.
    """

    caption: Int[Tensor, " n"]
    caption_image: Float[Tensor, "n embed"]
    claims: Int[Tensor, "set claim"]
    claim_image: Float[Tensor, "set embed"]
    label: Int[Tensor, " set"]
    present: Bool[Tensor, "set claim"]
    hard: ContrastSets | None = None
    noise: Int[Tensor, " three_n"] | None = None
    negated: Bool[Tensor, " n"] | None = None
    original: Int[Tensor, " n"] | None = None
    negation: Int[Tensor, " n"] | None = None
    false: Int[Tensor, "n k"] | None = None
    caption_weight: Float[Tensor, " n"] | None = None
    claim_weight: Float[Tensor, " set"] | None = None

    @property
    def sets(self) -> ContrastSets:
        """The contrast sets of the batch."""
        return ContrastSets(self.claims, self.claim_image, self.label, self.present, self.claim_weight)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Captions and contrast sets as token ids, beside cached image embeddings.

    Each distinct text is tokenised once and each distinct image embedded once; records refer to them by index. A batch
    is a handful of lookups in these tables, so that no loader of torch's with workers would make it faster.

    Some losses need more of the captions, which :func:`training_data` reads on demand: negated: whether a caption
    includes a negation; original: the text of a caption without its negations; negation: a true negated claim about its
    image; false: captions that are false of it; -1 where there is none.

    caption_weight, claim_weight: how much each record counts in a loss; None where all count alike.
    """

    tokens: Int[Tensor, "text pos"]  # the ids that have to be run (`TextTower.rows`), padded to the longest text
    lengths: Int[Tensor, " text"]
    images: Float[Tensor, "image embed"]  # L2-normalised; on the CPU, mapped from the disk, where they are cached there
    caption: Int[Tensor, " n"]
    caption_image: Int[Tensor, " n"]
    claims: Int[Tensor, "set claim"]  # padded with text 0 where not present
    claim_image: Int[Tensor, " set"]
    label: Int[Tensor, " set"]
    present: Bool[Tensor, "set claim"]
    caption_shares: tuple[Share, ...] = ()  # which captions are of which source; () is one source
    claim_shares: tuple[Share, ...] = ()
    negated: Bool[Tensor, " n"] | None = None
    original: Int[Tensor, " n"] | None = None
    negation: Int[Tensor, " n"] | None = None
    false: Int[Tensor, "n k"] | None = None
    caption_weight: Float[Tensor, " n"] | None = None
    claim_weight: Float[Tensor, " set"] | None = None

    def batches(
        self, batch_size: int, steps: int, seed: int, *, skip: int = 0, needs: Collection[str] = ()
    ) -> Iterator[Batch]:
        """``steps`` batches of ``batch_size`` captions and as many contrast sets, by seeded shuffles without gaps.

        The sequence depends on the data, the sizes and the seed only, so that runs which differ in weighting see the
        same batches. skip: how many batches of it come before the first that is wanted. needs: what a loss reads
        besides captions and claims; what is random in it is drawn by seed and number of the batch.
        """
        captions = Sampler(self.caption_shares or [Share(0, len(self.caption))], seed, 0)
        sets = Sampler(self.claim_shares or [Share(0, len(self.label))], seed, 1)
        for sampler in (captions, sets):
            for _ in range(skip):
                sampler.take(batch_size)
        device = self.label.device
        for number in range(skip, skip + steps):
            chosen, drawn = (torch.from_numpy(sampler.take(batch_size)).to(device) for sampler in (captions, sets))
            yield Batch(
                self.caption[chosen],
                self._of_images(self.caption_image[chosen]),
                self.claims[drawn],
                self._of_images(self.claim_image[drawn]),
                self.label[drawn],
                self.present[drawn],
                caption_weight=None if self.caption_weight is None else self.caption_weight[chosen],
                claim_weight=None if self.claim_weight is None else self.claim_weight[drawn],
                **self._more(needs, chosen, drawn, seed, number),
            )

    def _more(
        self, needs: Collection[str], captions: Int[Tensor, " n"], sets: Int[Tensor, " n"], seed: int, number: int
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "hard_images" in needs:
            found["hard"] = self._counterparts_of(sets, [seed, HARD, number])
        if "noise" in needs:
            noise = np.random.default_rng([seed, NOISE, number]).permutation(3 * len(captions))
            found["noise"] = torch.from_numpy(noise).to(captions.device)
        for need, name in FIELDS.items():
            values = getattr(self, name)
            if need in needs and values is not None:
                found[name] = values[captions]
        return found

    @cached_property
    def counterparts(self) -> Counterparts:
        """Of each contrast set those in which a false claim of it is true."""
        return Counterparts(*(part.cpu().numpy() for part in (self.claims, self.label, self.present)))

    def _counterparts_of(self, sets: Int[Tensor, " n"], seed: list[int]) -> ContrastSets:
        found = torch.from_numpy(self.counterparts.draw(sets.cpu().numpy(), np.random.default_rng(seed)))
        found = found.to(self.label.device)
        images = self._of_images(self.claim_image[found])
        weight = None if self.claim_weight is None else self.claim_weight[found]
        return ContrastSets(self.claims[found], images, self.label[found], self.present[found], weight)

    def _of_images(self, wanted: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
        return self.images[wanted.to(self.images.device)].to(wanted.device)


@neutral_state()
def training_data(
    model: DualEncoder,
    captions: Files | str | Iterable[CaptionRecord],
    claims: Files | str | Iterable[ClaimRecord],
    *,
    split: Split | None = "train",
    image_embeddings: Mapping[str, Any] | None = None,
    image_cache: str | Path | None = None,
    batch_size: int = 256,
    images: str | Path | None = None,
    outside_images: bool = False,
    needs: Collection[str] = (),
) -> TrainingData:
    """Read captions and contrast sets, tokenise their texts and embed their images once.

    Files are read record by record: what stays in memory is one row of numbers for each record and distinct text.

    captions, claims: JSONL files (images by path relative to the file), ``{file: weight}``, or records. An image may
        also be an embedding or a ``ts.Text``: a text as the target, embedded by the model as it is now.
    split: of files, the records of this split and those of no split; None takes all. Given records are all taken.
    images: the folder that image paths of files are relative to; by default that of each file. outside_images: accept
        image paths of files that are absolute or lead out of that folder.
    image_embeddings: path to embedding, where images were embedded already (``benchmark.embed_images``).
    image_cache: a folder that keeps the embeddings of image files; see :class:`.image_cache.ImageCache`.
    needs: what losses will read of the captions besides (``config.loss.needs``): "negated", "originals", "negations",
        "negatives".

    Raises DataFormatError naming file and line, ContextOverflowError for a text over the context, OutputError when the
    cache cannot be written.
    """
    from ...benchmark.records import stream_captions, stream_claims

    of: dict[str, Any] = {"split": split, "images": images, "outside_images": outside_images}
    texts, pictures, more = _Index(), _Index(), More(needs)
    caption, caption_image, caption_weight = array("q"), array("q"), array("d")

    def add_caption(record: Any) -> None:
        caption.append(texts.add(record.caption, record.caption))
        caption_image.append(pictures.add(_image_key(record), record.image))
        caption_weight.append(record.weight)
        more.add_caption(record)

    claim_texts, claim_counts, claim_image, label = array("q"), array("q"), array("q"), array("q")
    claim_weight = array("d")

    def add_claims(record: Any) -> None:
        claim_texts.extend(texts.add(text, text) for text in record.claims)
        claim_counts.append(len(record.claims))
        claim_image.append(pictures.add(_image_key(record), record.image))
        label.append(record.label)
        claim_weight.append(record.weight)
        more.add_claims(record, claim_image[-1])

    caption_shares = _add_all(_sources(captions, lambda path: stream_captions(path, **of)), add_caption)
    claim_shares = _add_all(_sources(claims, lambda path: stream_claims(path, **of)), add_claims)
    if not caption or not claim_counts:
        raise DataFormatError(f"there are no {'contrast sets' if caption else 'captions'} to train on")

    # after all others, so that these have the numbers that they have without them
    besides = more.numbers(caption, caption_image, texts.add)
    tokens, lengths = token_table(model.text, texts.values)
    table, rows = _embed(model, pictures.values, image_embeddings or {}, batch_size, image_cache)
    claim_table, present = _padded(claim_texts, claim_counts)
    if len({*caption_weight, *claim_weight}) > 1:
        weights = {"caption_weight": caption_weight, "claim_weight": claim_weight}
        besides |= {name: np.array(values).astype(np.float32) for name, values in weights.items()}

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(model.text.device)

    return TrainingData(
        tokens=tokens,
        lengths=lengths,
        images=table,
        caption=on_device(np.array(caption)),
        caption_image=on_device(rows[np.array(caption_image)]),
        claims=on_device(claim_table),
        claim_image=on_device(rows[np.array(claim_image)]),
        label=on_device(np.array(label)),
        present=on_device(present),
        caption_shares=caption_shares,
        claim_shares=claim_shares,
        **{name: on_device(values) for name, values in besides.items()},
    )


def _sources(given: Any, read: Callable[[Path], Iterable[Any]]) -> list[tuple[Iterable[Any], float]]:
    if isinstance(given, str | Path):
        return [(read(Path(given)), 1.0)]
    if isinstance(given, Mapping):
        return [(read(Path(path)), float(weight)) for path, weight in given.items()]
    return [(given or [], 1.0)]


def _add_all(sources: list[tuple[Iterable[Any], float]], add: Callable[[Any], None]) -> tuple[Share, ...]:
    """Add every record; which of them are of which source, () where there is one source."""
    shares, count = [], 0
    for records, weight in sources:
        start = count
        for record in records:
            add(record)
            count += 1
        shares.append(Share(start, count, weight))
    return tuple(shares) if len(shares) > 1 else ()


def _padded(flat: array[int], counts: array[int]) -> tuple[Int[np.ndarray, "set claim"], Bool[np.ndarray, "set claim"]]:
    sizes = np.array(counts)
    present = np.arange(sizes.max()) < sizes[:, None]
    table = np.zeros(present.shape, dtype=np.int64)
    table[present] = np.array(flat)
    return table, present


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


def _is_file(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _image_key(record: CaptionRecord | ClaimRecord) -> Any:
    image = record.image
    if image is None:
        raise DataFormatError(
            f'the record {shown(record.id)} has no image: give a path, an embedding or a text, {{"text": "..."}}'
        )
    if isinstance(image, Text):
        return image
    return str(image) if _is_file(image) else id(image)


def _embed(
    model: DualEncoder, images: Sequence[Any], known: Mapping[str, Any], batch_size: int, cache: str | Path | None
) -> tuple[Float[Tensor, "row embed"], Int[np.ndarray, " image"]]:
    """Unit embeddings, and the row of each image; a vector (also one in ``known``) is taken as the embedding."""
    if cache is not None and not known and all(map(_is_file, images)):
        rows, index = ImageCache(cache, model).embed([os.fspath(image) for image in images])
        return torch.from_numpy(rows), index
    width, device = model.embed_dim, model.text.device
    given = [known.get(str(image), image) if _is_file(image) else image for image in images]
    out = torch.empty(len(images), width, device=device, dtype=torch.promote_types(model.text.dtype, torch.float32))
    files, targets = [], []
    for i, image in enumerate(given):
        if isinstance(image, Text):
            targets.append(i)
        elif getattr(image, "ndim", None) == 1:
            vector = torch.as_tensor(image)
            if vector.shape != (width,):
                raise DataFormatError(f"an image embedding has {len(vector)} values, but the model's have {width}")
            out[i] = F.normalize(vector.to(out), dim=-1)
        else:
            files.append(i)
    if files:
        wanted = [images[i] for i in files]
        if cache is not None and all(map(_is_file, wanted)):
            rows, index = ImageCache(cache, model).embed([os.fspath(image) for image in wanted])
            out[files] = torch.from_numpy(rows[index]).to(out)
        else:
            out[files] = model.encode_images(wanted, batch_size).to(out)
    if targets:
        out[targets] = model.encode_texts([given[i].text for i in targets]).to(out)
    return out, np.arange(len(images))
