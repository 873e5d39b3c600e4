"""Collects the results of finished shards: scores at once, embeddings if they fit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from jaxtyping import Float32

from ...errors import OutputError, TraceWarning
from ...warn import warn_user
from ..pairs.batch import PairBatch
from ..pairs.targets import Targets
from ..results.causal_trace import Scores
from ..results.scorer import Scorer
from ..results.scoring import PairScores, TextMap, pairs_of
from .cache import Shard, Store
from .options import TraceOptions

__all__ = ["Collector"]


class Collector:
    """Scores of every pair, filled shard by shard; patched embeddings in memory, in a file of the cache, or not at all.

    n_columns: how many columns each patched pair has. Half of ``options.memory`` is for the embeddings that "auto"
    keeps.
    """

    def __init__(
        self,
        batch: PairBatch,
        targets: Targets,
        n_columns: Sequence[int],
        options: TraceOptions,
        store: Store | None,
        scorer: Scorer | None = None,
    ) -> None:
        self._scorer = scorer
        self._batch, self._targets, self._n_columns, self._store = batch, targets, n_columns, store
        self._keep, self._budget = options.keep_embeddings, options.memory // 2
        self._noising = batch.noising[batch.example_of_text]
        self._texts_of = pairs_of(batch.patched_pair[batch.example_of_text])  # the text pairs of each patched pair
        self._scores: PairScores | None = None
        self._kept: dict[str, np.ndarray] = {}
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, patched_pairs: Sequence[int], shard: Shard) -> None:
        """Score the pairs of a finished shard and keep its embeddings.

        Raises:
            OutputError: the disk is full.
        """
        if self._scores is None:
            self._allocate(shard.patched.shape[1], shard.patched.shape[3])
            assert self._scores is not None
        columns = np.arange(max(self._n_columns))
        numbers = np.arange(len(self._noising))
        maps = {}
        for row, patched in enumerate(patched_pairs):
            n = self._n_columns[patched]
            cells = shard.patched[row, :, :n]
            for text in numbers[self._texts_of[patched]].tolist():
                base, donor = shard.base[row], shard.donor[row]
                correct, foil = (base, donor) if self._noising[text] else (donor, base)
                maps[text] = TextMap.of(correct, foil, cells, columns < n)
                self._keep_embeddings(text, cells)
                if self._kept:
                    self._kept["correct_embeddings"][text], self._kept["foil_embeddings"][text] = correct, foil
        self._scores.fill(maps)

    @property
    def scores(self) -> Scores:
        """Of every pair, once all shards are there."""
        assert self._scores is not None
        return Scores(correct=self._scores.correct, foil=self._scores.foil, patched=self._scores.patched)

    def embeddings(self) -> dict[str, np.ndarray]:
        """The embeddings of all text pairs and targets by their names in a CausalTrace; nothing if not kept."""
        if self._file is not None:
            self._file.flush()
            # the file has no name: it goes when nothing maps it any more
            self._kept["embeddings"] = np.memmap(self._file, dtype=np.float32, mode="r", shape=self._shape)
            self._file.close()
            self._file = None
        targets = {"target_embeddings": self._targets.rows, "target": self._targets.index} if self._kept else {}
        return {**self._kept, **targets}

    def _allocate(self, n_layers: int, embed: int) -> None:
        n_texts, widest = len(self._noising), max(self._n_columns)
        self._scores = PairScores(
            self._targets.rows, self._targets.index, self._batch.text_pair, n_layers, widest, self._scorer
        )
        self._shape = (n_texts, n_layers, widest, embed)
        size = 4 * int(np.prod(self._shape))
        keep: Any = self._keep
        if keep == "auto" and size <= self._budget:
            keep = True
        if keep == "auto" and self._store is None:
            warn_user(
                f"the patched embeddings of {n_texts} text pairs would take {size / 2**30:.1f} GiB, more than the "
                f"{self._budget / 2**30:.1f} GiB that memory= leaves them, and are not kept, so that rescore() will "
                f"not work: give cache=, or keep_embeddings=True (in memory), or keep_embeddings=False (silently)",
                TraceWarning,
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
