"""The long part of a trace: its units one after another, from the cache or by the engine, stoppable at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import TraceInterrupted
from .cache import Shard, Store

if TYPE_CHECKING:
    from ...patching import PatchingEngine
    from ...patching.engine.batching import Prepared

__all__ = ["ProgressCallback", "Units", "show_progress"]

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a run: fixed by its text pairs and options, whoever runs them and whatever is known already.

    keys: one per text pair, for the cache.
    """

    engine: PatchingEngine
    prepared: Prepared
    keys: list[str]
    store: Store | None
    seed: int

    def finished(
        self, advance: Callable[[int], None] | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[list[int], Shard]]:
        """Every unit with its embeddings, as it is read from the cache or run and stored there.

        advance: called with the number of finished text pairs after each unit.
        share: (i, n) for units i, i + n, i + 2n, ...: what process i of n runs.

        Raises:
            TraceInterrupted: Ctrl-C; the units that were finished are in the cache.
        """
        done = 0
        own = range(share[0], len(self.prepared.shards), share[1])
        total = sum(len(self.prepared.shards[number]) for number in own)
        try:
            for number in own:
                unit = self.prepared.shards[number]
                yield unit, self._one(number, unit)
                done += len(unit)
                if advance:
                    advance(done)
        except KeyboardInterrupt:
            raise TraceInterrupted(self._stopped(done, total)) from None

    def _keys(self, unit: list[int]) -> list[str]:
        return [self.keys[text] for text in unit]

    def _one(self, number: int, unit: list[int]) -> Shard:
        known = None if self.store is None else self.store.read(self._keys(unit))
        if known is not None:
            return known
        batch = self.engine.run(self.prepared, unit, seed=self.seed + number)
        assert batch.members == unit  # units are sorted by shape, as groups are
        shard = Shard(*(side.float().cpu().numpy() for side in (batch.base, batch.donor, batch.patched)))
        if self.store is not None:
            self.store.write(self._keys(unit), shard)
        return shard

    def _stopped(self, done: int, total: int) -> str:
        finished = f"stopped: {done} of {total} text pairs were traced"
        if self.store is None:
            return f"{finished}, and nothing was kept; with cache=, a stopped run can be continued"
        return f"{finished} and are kept in {str(self.store.folder)!r}; run again with the same cache to continue"


@contextmanager
def show_progress(
    progress: bool | ProgressCallback, total: int, unit: str = "text pairs"
) -> Iterator[Callable[[int], None] | None]:
    """What is called after each unit: the user's callback, a rich bar where there is a person, or nothing."""
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not progress or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("tracing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("tracing", total=total)
        yield lambda done: bar.update(task, completed=done)
