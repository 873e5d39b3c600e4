"""Prepares a trace from checked pairs and options: columns, shards, and the keys of the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from ...io.provenance import creation_time
from ..pairs.batch import PairBatch, as_pairs, make_batch
from ..pairs.pairs import Pair
from .cache import Shard, Store
from .cache_keys import pair_keys
from .columns import select_columns, with_queries
from .options import TraceOptions
from .replacements import Replacement, replacement
from .shards import Shards

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["PreparedTrace", "prepare"]


@dataclass(frozen=True, eq=False)
class PreparedTrace:
    """Pairs that can be traced, divided into shards; nothing has been run yet.

    names: of the columns, where they are not simply the tokens. dtype: the precision of the passes.
    """

    batch: PairBatch
    names: tuple[str, ...] | None
    dtype: str
    shards: Shards
    replacement: Replacement

    @property
    def inside(self) -> Bool[np.ndarray, "pair column"]:
        """Which columns each pair has."""
        if self.names is None:
            return self.batch.inside
        return np.ones((len(self.batch.ids), len(self.names)), dtype=bool)

    @property
    def n_columns(self) -> list[int]:
        """How many columns each patched pair has."""
        drawn = self.replacement.drawn
        return [len(columns) for columns in self.shards.prepared.columns[:: 1 if drawn is None else drawn.each]]

    def finished(self, advance: Callable[[int], None] | None = None) -> Iterator[tuple[list[int], Shard]]:
        """The patched pairs of every shard with their embeddings; see :meth:`Shards.finished`."""
        drawn = self.replacement.drawn
        for runs, shard in self.shards.finished(advance):
            if drawn is None:
                yield runs, shard
            else:
                yield from drawn.averaged(runs, shard)


def prepare(model: DualEncoder, pairs: Sequence[Pair], options: TraceOptions) -> PreparedTrace:
    """Check pairs against the model and the options, and divide them into shards.

    Raises:
        As :func:`tracescribe.trace` before anything is run.
    """
    import torch

    from ...patching import DirectEngine, KnockOutEngine, PatchingEngine, Sweep, site_named

    creation_time()  # it may be refused
    dtype = options.torch_dtype
    sweep = Sweep(site_named(options.site), options.window)
    batch = make_batch(
        model.text,
        as_pairs(pairs),
        direction=options.direction,
        align=options.align,
        position_policy=options.position_policy,
    )
    columns, names = select_columns(model.text, batch, sweep.site, options.positions, options.heads)
    store = None if options.cache is None else Store(options.cache)
    if options.method == "direct":
        engine: PatchingEngine = DirectEngine(model.text, through_mlps=options.through_mlps, dtype=dtype)
    elif options.replace == "cut":
        engine, columns = KnockOutEngine(model.text, dtype=dtype), with_queries(columns, batch, options.queries)
    else:
        engine = PatchingEngine(model.text, dtype=dtype)
    instead = replacement(engine, model.text, batch, options)
    base, donor = batch.base, batch.donor
    if instead.drawn is not None:
        each = instead.drawn.each
        base = [row for row in base for _ in range(each)]
        columns = [of_pair for of_pair in columns for _ in range(each)]
        donor = [row for rows in instead.drawn.donors for row in rows]
    prepared = engine.prepare(
        base,
        donor,
        sweep=sweep,
        columns=columns,
        given=instead.given,
        directions=None if options.directions is None else torch.from_numpy(np.array(options.directions)),
        alignments=batch.alignments,
        path=options.path,
        batch_size=options.batch_size,
        memory=options.memory // 2,
    )
    precision = str(dtype or model.text.dtype).removeprefix("torch.")
    keys = [] if store is None else pair_keys(model.text, prepared, options.computation, precision)
    return PreparedTrace(batch, names, precision, Shards(engine, prepared, keys, store, options.seed), instead)
