"""Runs the shards of a trace one after another, from the cache or by the engine; can be interrupted at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import TraceInterrupted
from .cache import Shard, Store

if TYPE_CHECKING:
    from ...patching import PatchingEngine
    from ...patching.engine.batching import Prepared
    from ...patching.engine.resumed import Watch

__all__ = ["Shards"]


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of a trace: fixed by its text pairs and options, whoever runs them and whatever is known already.

    keys: one per text pair, for the cache.
    watch: see :meth:`tracescribe.patching.PatchingEngine.run`.
    """

    engine: PatchingEngine
    prepared: Prepared
    keys: list[str]
    store: Store | None
    seed: int
    watch: Watch | None = None

    def n_texts(self, share: tuple[int, int] = (0, 1)) -> int:
        """How many text pairs a share holds."""
        return sum(map(len, self.prepared.shards[share[0] :: share[1]]))

    def finished(
        self, advance: Callable[[int], None] | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[list[int], Shard]]:
        """Every shard's text pairs with their embeddings, as they are read from the cache or run and stored there.

        advance: called with the number of finished text pairs after each shard.
        share: (i, n) for shards i, i + n, i + 2n, ...: what process i of n runs.

        Raises:
            TraceInterrupted: Ctrl-C; the shards that were finished are in the cache.
        """
        done = 0
        try:
            for number in range(share[0], len(self.prepared.shards), share[1]):
                texts = self.prepared.shards[number]
                yield texts, self._shard(number, texts)
                done += len(texts)
                if advance:
                    advance(done)
        except KeyboardInterrupt:
            raise TraceInterrupted(self._stopped(done, self.n_texts(share))) from None

    def _shard(self, number: int, texts: list[int]) -> Shard:
        keys = [self.keys[text] for text in texts] if self.store is not None else []
        known = None if self.store is None else self.store.read(keys)
        if known is not None:
            return known
        batch = self.engine.run(self.prepared, texts, seed=self.seed + number, watch=self.watch)
        assert batch.members == texts  # shards are sorted by shape, as buckets are
        shard = Shard(*(side.float().cpu().numpy() for side in (batch.base, batch.donor, batch.patched)))
        if self.store is not None:
            self.store.write(keys, shard)
        return shard

    def _stopped(self, done: int, total: int) -> str:
        finished = f"stopped: {done} of {total} text pairs were traced"
        if self.store is None:
            return f"{finished}, and nothing was kept; with cache=, a stopped run can be continued"
        return f"{finished} and are kept in {str(self.store.folder)!r}; run again with the same cache to continue"
