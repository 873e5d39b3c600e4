"""What replaces a state where it is not the other caption's: zeros, means over a pool, or captions drawn from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from ...errors import TraceError
from ...io.quoting import shown
from ..pairs.batch import PairBatch
from .cache import Shard
from .options import TraceOptions

if TYPE_CHECKING:
    from ...patching import GivenStates, PatchingEngine, TextTower

__all__ = ["Drawn", "Replacement", "replacement"]

Row = list[int]


@dataclass(eq=False)
class Drawn:
    """Captions drawn from a pool: each pair is patched once per donor, and the embeddings are averaged.

    S is a scalar product with the embedding, so that the score of the mean embedding is the mean score.

    donors: by patched pair. other: the unit embedding of the caption that is not patched, by patched pair, which is no
    donor here.
    """

    donors: list[list[Row]]
    other: Float32[np.ndarray, "patched_pair embed"]
    _sums: dict[int, tuple[int, Shard]] = field(default_factory=dict)

    @property
    def each(self) -> int:
        """Donors per pair."""
        return len(self.donors[0])

    def averaged(self, runs: Sequence[int], shard: Shard) -> Iterator[tuple[list[int], Shard]]:
        """The patched pairs that a shard of runs completes, run number ``pair * each + donor``."""
        for row, number in enumerate(runs):
            pair = number // self.each
            one = Shard(shard.base[row : row + 1], self.other[pair : pair + 1], shard.patched[row : row + 1])
            count, total = self._sums.pop(pair, (0, None))
            mean = one.patched / self.each if total is None else total.patched + one.patched / self.each
            if count + 1 < self.each:
                self._sums[pair] = count + 1, Shard(one.base, one.donor, mean)
            else:
                yield [pair], Shard(one.base, one.donor, mean)


@dataclass(frozen=True, eq=False)
class Replacement:
    """What a trace replaces states by; neither is set where it is the other caption's states.

    recorded: what the provenance says of the pool.
    """

    given: GivenStates | None = None
    drawn: Drawn | None = None
    recorded: dict[str, Any] = field(default_factory=dict)


def replacement(engine: PatchingEngine, tower: TextTower, batch: PairBatch, options: TraceOptions) -> Replacement:
    """The replacement that the options ask for.

    Raises:
        TraceError: a pair whose text has no counterpart in the pool; quotes it.
        ContextOverflowError: a caption of the pool is longer than the context.
    """
    from ...patching import GivenStates

    told: dict[str, Any] = {}
    if options.directions is not None:
        numbers = np.array(options.directions, dtype="<f8")
        told["directions"] = {"count": len(numbers), "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}
    if options.replace in ("foil", "cut"):
        return Replacement(recorded=told)
    if options.replace == "zero":
        return Replacement(GivenStates(), recorded=told)
    texts = options.pool
    if texts is None:
        texts = tuple(dict.fromkeys(caption for both in batch.captions for caption in both))
    rows = tower.rows(texts)
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    recorded = {**told, "pool": {"captions": len(rows), "sha256": digest}}
    shapes = {tower.shape_of(row) for row in rows}
    if options.replace == "mean":
        for number, base in enumerate(batch.base):
            if tower.shape_of(base) not in shapes:
                raise TraceError(f"{_counterparts(batch, number, 0)}: give a pool that has some")
        return Replacement(GivenStates(rows), recorded=recorded)
    donors = [_draw(tower, batch, number, rows, options) for number in range(len(batch.base))]
    other = engine.encode(batch.donor).float().cpu().numpy()
    return Replacement(drawn=Drawn(donors, other), recorded=recorded)


def _draw(tower: TextTower, batch: PairBatch, number: int, pool: Sequence[Row], options: TraceOptions) -> list[Row]:
    """Different rows of the pair's shape, the same ones whatever else is traced; none is the pair's own."""
    base, shape = batch.base[number], tower.shape_of(batch.base[number])
    both = (tuple(base), tuple(batch.donor[number]))
    fit = [row for row in dict.fromkeys(map(tuple, pool)) if row not in both and tower.shape_of(row) == shape]
    if len(fit) < options.donors:
        raise TraceError(
            f"{_counterparts(batch, number, len(fit))} beside its own two, for donors={options.donors}: give a larger "
            f"pool, or fewer donors"
        )
    words = np.frombuffer(hashlib.sha256(json.dumps(both).encode()).digest(), dtype=np.uint32)
    chosen = np.random.default_rng([options.seed, *words.tolist()]).permutation(len(fit))[: options.donors]
    return [list(fit[at]) for at in sorted(chosen.tolist())]


def _counterparts(batch: PairBatch, number: int, found: int) -> str:
    pair = int(batch.example_of_patched[number])
    what = batch.pairs[pair].correct if batch.noising[pair] else batch.pairs[pair].foil
    return (
        f"pair {batch.ids[pair]!r}: the pool has {found or 'no'} caption{'s' * (found != 1)} of as many tokens "
        f"({len(batch.base[number])}) as {shown(what)}"
    )
