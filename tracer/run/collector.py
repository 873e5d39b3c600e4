"""What a trace keeps of the units of its text pairs as they are finished: scores at once, embeddings if they fit."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from ...errors import OutputError, TraceWarning
from ..pairs.targets import Targets
from ..results.causal_trace import Scores
from ..results.scoring import PairScores, TextMap
from .cache import Shard, Store

__all__ = ["Collector", "Keep"]

Keep = bool | Literal["auto"]


class Collector:
    """Scores of every pair, filled unit by unit; patched embeddings in memory, in a file of the cache, or not at all.

    text_pair: the text pair of each pair. n_columns: how many columns each text pair has. noising: for each text pair,
    whether the foil's states go into the correct caption's run. budget: bytes of embeddings that "auto" may keep.
    """

    def __init__(
        self,
        targets: Targets,
        text_pair: Int[np.ndarray, "pair"],
        n_columns: Sequence[int],
        noising: Bool[np.ndarray, "text_pair"],
        keep: Keep,
        budget: int,
        store: Store | None,
    ) -> None:
        self._targets, self._text_pair, self._n_columns, self._noising = targets, text_pair, n_columns, noising
        self._keep, self._budget, self._store = keep, budget, store
        self._scores: PairScores | None = None
        self._kept: dict[str, np.ndarray] = {}
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, unit: Sequence[int], shard: Shard) -> None:
        """Score the pairs of a finished unit and keep its embeddings.

        Raises:
            OutputError: the disk is full.
        """
        if self._scores is None:
            self._allocate(shard.patched.shape[1], shard.patched.shape[3])
            assert self._scores is not None
        noising = self._noising[list(unit)][:, None]
        correct = np.where(noising, shard.base, shard.donor)
        foil = np.where(noising, shard.donor, shard.base)
        columns = np.arange(max(self._n_columns))
        maps = {}
        for row, text in enumerate(unit):
            n = self._n_columns[text]
            cells = shard.patched[row, :, :n]
            maps[text] = TextMap.of(correct[row], foil[row], cells, columns < n)
            self._keep_embeddings(text, cells)
        self._scores.fill(maps)
        if self._kept:
            self._kept["correct_embeddings"][list(unit)] = correct
            self._kept["foil_embeddings"][list(unit)] = foil

    @property
    def scores(self) -> Scores:
        """Of every pair, once all units are there."""
        assert self._scores is not None
        return Scores(correct=self._scores.correct, foil=self._scores.foil, patched=self._scores.patched)

    def embeddings(self) -> dict[str, np.ndarray | None]:
        """The embeddings of all text pairs by their names in a CausalTrace; None where they were not kept."""
        if self._file is not None:
            self._file.flush()
            # the file has no name: it goes when nothing maps it any more
            self._kept["embeddings"] = np.memmap(self._file, dtype=np.float32, mode="r", shape=self._shape)
            self._file.close()
            self._file = None
        return {name: self._kept.get(name) for name in ("embeddings", "correct_embeddings", "foil_embeddings")}

    def _allocate(self, n_layers: int, embed: int) -> None:
        n_texts, widest = len(self._n_columns), max(self._n_columns)
        self._scores = PairScores(self._targets.rows, self._targets.index, self._text_pair, n_layers, widest)
        self._shape = (n_texts, n_layers, widest, embed)
        size = 4 * int(np.prod(self._shape))
        keep: Any = self._keep
        if keep == "auto" and size <= self._budget:
            keep = True
        if keep == "auto" and self._store is None:
            warnings.warn(
                f"the patched embeddings of {n_texts} text pairs would take {size / 2**30:.1f} GiB, more than the "
                f"{self._budget / 2**30:.1f} GiB that memory= leaves them, and are not kept, so that rescore() will "
                f"not work: give cache=, or keep_embeddings=True (in memory), or keep_embeddings=False (silently)",
                TraceWarning,
                stacklevel=4,
            )
            keep = False
        if not keep:
            return
        if keep == "auto" and self._store is not None:
            self._file = tempfile.TemporaryFile(dir=self._store.folder)  # noqa: SIM115 (lives as long as the trace)
        else:
            self._kept["embeddings"] = np.full(self._shape, np.nan, dtype=np.float32)
        for name in ("correct_embeddings", "foil_embeddings"):
            self._kept[name] = np.empty((n_texts, embed), dtype=np.float32)

    def _keep_embeddings(self, text: int, cells: Float32[np.ndarray, "layer column embed"]) -> None:
        n = cells.shape[1]
        if self._file is None:
            if self._kept:
                self._kept["embeddings"][text, :, :n] = cells
            return
        row = np.full(self._shape[1:], np.nan, dtype=np.float32)
        row[:, :n] = cells
        try:
            self._file.seek(text * row.nbytes)
            self._file.write(row.data)
        except OSError as error:
            raise OutputError(f"cannot keep the embeddings in the cache folder: {error.strerror or error}") from error
