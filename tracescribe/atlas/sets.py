"""The pairs of an atlas's sets, and which of them a model can trace."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ContextOverflowError, DataFormatError, IdenticalPairError, LengthMismatchError
from ..io.quoting import shown
from ..tracer import Pair, Text
from .config import CORRECT, DIFFERENCE, IMAGE, PLACES, VALSE_EXISTENCE, SetSpec

if TYPE_CHECKING:
    from ..patching import DualEncoder
    from ..tracer.run.options import TraceOptions

__all__ = ["PairSet", "read_set"]

_WHY = {
    LengthMismatchError: "whose captions have different numbers of tokens",
    ContextOverflowError: "longer than the context",
    IdenticalPairError: "whose captions are the same tokens",
}


@dataclass(frozen=True, eq=False)
class PairSet:
    """The pairs of one set, the same for every model. sha256: of the captions, names and targets."""

    name: str
    spec: SetSpec
    pairs: tuple[Pair, ...]

    @property
    def sha256(self) -> str:
        told = [[pair.id, pair.group, pair.correct, pair.foil, _target_text(pair.image)] for pair in self.pairs]
        return hashlib.sha256(json.dumps([self.spec.target, told]).encode()).hexdigest()

    def for_model(self, model: DualEncoder, options: TraceOptions) -> tuple[list[Pair], dict[str, int]]:
        """The pairs that a model can trace, with their targets; and how many it cannot, by reason."""
        from ..tracer.pairs.batch import make_batch

        tower = model.text  # each use of it compares it with its source
        left_out: Counter[str] = Counter()
        kept: list[Pair] = []
        for pair in self.pairs:
            try:
                make_batch(tower, [pair], align=options.align)
                kept.append(pair)
            except tuple(_WHY) as problem:
                left_out[next(why for kind, why in _WHY.items() if isinstance(problem, kind))] += 1
        if self.spec.target == DIFFERENCE and kept:
            kept = _toward_correct(model, kept)
        return kept, dict(left_out)


def read_set(name: str, spec: SetSpec, n_pairs: int | None, seed: int) -> PairSet:
    """The pairs of a file, at most ``n_pairs`` of them.

    Every pair has an id and a group; those without are named by the set and their place, which is no other set's.

    Raises:
        DataFormatError: the file is missing or broken or holds no pairs, has none of the attribute, or gives no image
            where one is the target.
    """
    where = f"the set {shown(name)} ({spec.file})"
    pairs = _read(spec)
    if spec.attribute is not None:
        known = sorted({pair.attribute for pair in pairs if pair.attribute})
        pairs = [pair for pair in pairs if pair.attribute == spec.attribute]
        if not pairs:
            raise DataFormatError(f"{where} has no pair of the attribute {spec.attribute!r}; it has {shown(known)}")
    if not pairs:
        raise DataFormatError(f"{where} holds no pairs")
    named = [_named(pair, f"{name}/{number}") for number, pair in enumerate(pairs)]
    if n_pairs is not None and n_pairs < len(named):
        chosen = np.random.default_rng(seed).permutation(len(named))[:n_pairs]
        named = [named[at] for at in sorted(chosen.tolist())]
    if spec.target == IMAGE:
        without = [pair for pair in named if pair.image is None]
        if without:
            raise DataFormatError(
                f"{where}: {len(without)} of {len(named)} pairs have no image, the first is {shown(without[0].id)}; "
                f"give images: FOLDER, or target: {DIFFERENCE} to score captions against each other"
            )
    elif spec.target != DIFFERENCE:
        named = [pair.model_copy(update={"image": Text(_written(spec.target, pair))}) for pair in named]
    return PairSet(name, spec, tuple(named))


def _read(spec: SetSpec) -> list[Pair]:
    from ..benchmark import read
    from ..tracer import read_valse

    if spec.format == VALSE_EXISTENCE:
        pairs = read_valse(spec.file, images=spec.images)
        return pairs if spec.images is None else [_without_missing(pair) for pair in pairs]
    return read(spec.file, images=spec.images, format=spec.format).pairs


def _without_missing(pair: Pair) -> Pair:
    return pair if Path(pair.image).is_file() else pair.model_copy(update={"image": None})


def _named(pair: Pair, name: str) -> Pair:
    given = name if pair.id is None else pair.id
    return pair.model_copy(update={"id": given, "group": given if pair.group is None else pair.group})


def _written(target: str, pair: Pair) -> str:
    if target == CORRECT:
        return pair.correct
    return PLACES.sub(lambda place: getattr(pair, place[1]), target)


def _toward_correct(model: DualEncoder, pairs: list[Pair]) -> list[Pair]:
    """The direction from the foil's embedding to the correct caption's, as the target.

    Where a model embeds both alike there is none; the correct caption then stands for it, and no CTE is defined.
    """
    correct, foil = (
        model.encode_texts([getattr(pair, side) for pair in pairs]).double().cpu().numpy()
        for side in ("correct", "foil")
    )
    change = correct - foil
    nowhere = np.linalg.norm(change, axis=1) < 1e-9
    change[nowhere] = correct[nowhere]
    return [pair.model_copy(update={"image": row.astype(np.float32)}) for pair, row in zip(pairs, change, strict=True)]


def _target_text(image: Any) -> Any:
    """What a target is, as JSON has it: a text, a file's name, or an embedding's hash."""
    if image is None:
        return None
    if isinstance(image, Text):
        return ["text", image.text]
    if isinstance(image, str | Path):
        return ["path", Path(image).name]  # the folder may be another on another machine
    return ["embedding", hashlib.sha256(np.asarray(image, dtype="<f4").tobytes()).hexdigest()]
