"""Runs the texts of a batch through the tower: only positions that are needed, and frozen blocks only once.

Numbers are those of one padded pass: in a linear layer rows do not see each other, so that texts of different lengths
share it without padding; attention runs in buckets of similar length; the last block computes the row that is read out.
Below the lowest block that is trained, states never change: they are computed without gradients and kept by text.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import ContextOverflowError, TowerMismatchError
from ...patching import TextTower
from ...patching.towers.block import Attention, Block

# What one more bucket costs in rows: its share of calls, against rows of padding (one thread, widths 64 to 512).
BUCKET_ROWS = 24
PREFIX_BYTES = 1 << 28  # memory for kept states: 256 MiB hold 10,000 texts of 12 tokens at width 512
TOLERANCE = 1e-5  # on unit embeddings in single precision; summation orders differ by about 2e-7


@dataclass(frozen=True, eq=False)
class Bucket:
    """Texts that attend side by side, padded to the longest of them."""

    texts: list[int]  # in the table
    ids: Int[Tensor, "n m"]
    mask: Bool[Tensor, "*n m m"] | None
    pooled: Int[Tensor, " n"] | None  # None where the readout is over all positions

    @property
    def shape(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def rows_read(self, start: int) -> Int[Tensor, " n"]:
        """Flat numbers of the rows that are read out, where the bucket's first row has the number ``start``."""
        assert self.pooled is not None
        n, m = self.shape
        return torch.arange(start, start + n * m, m, device=self.pooled.device) + self.pooled

    @property
    def first_read(self) -> int:
        """The position that is read out of the first text."""
        assert self.pooled is not None
        return int(self.pooled[0])

    def pooled_mask(self) -> Bool[Tensor, "n *heads one m"] | None:
        """What the row that is read out may attend to."""
        assert self.pooled is not None
        if self.mask is None or self.mask.shape[-2] == 1:  # of keys, the same for every query
            return self.mask
        if self.mask.ndim == 2:  # of queries and keys, the same for every text
            return self.mask[self.pooled][:, None, None]
        return self.mask[torch.arange(len(self.pooled)), :, self.pooled][:, :, None]


class PackedTexts:
    """A table of texts on a tower: numbers of texts in, embeddings out, differentiable in what is trained.

    tower: the text tower, adapters installed. ids, lengths: the texts, padded, and how many of their positions matter.
    frozen: how many of the lowest blocks training cannot change. budget: bytes for the states that enter the next one;
    texts beyond it are computed again at every call.

    Raises TowerMismatchError when the tower's own pass gives other embeddings.
    """

    def __init__(
        self,
        tower: TextTower,
        ids: Int[Tensor, "text pos"],
        lengths: Int[Tensor, " text"],
        *,
        frozen: int = 0,
        budget: int = PREFIX_BYTES,
    ) -> None:
        self.tower, self.ids, self.lengths = tower, ids, lengths.tolist()
        # blocks that are not taken apart, and readouts of more than one row, take the tower's own pass, by bucket
        self._whole = not tower.resumable or tower.pooling == "mean"
        self.frozen = frozen = 0 if self._whole else frozen
        # a row read at its last position, or to which padding matters, must not be padded; nor may the rows that are
        # read stand at several positions where attention knows them
        fixed = tower.pooling == "last" or (tower.pooling in ("eos", "argmax") and not tower.movable)
        self._bucket_rows = 0 if fixed or tower.spec.padding in ("attend", "own") else BUCKET_ROWS
        longest = max(self.lengths)
        capacity = min(len(ids), budget // (longest * tower.d_model * tower.dtype.itemsize)) if frozen else 0
        self._kept = torch.zeros(capacity, longest, tower.d_model, dtype=tower.dtype, device=ids.device)
        self._slots: dict[int, int] = {}
        self._check()

    def __call__(self, wanted: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
        """Embeddings of the texts numbered ``wanted``, not normalised."""
        texts = wanted.tolist()
        plan = plan_buckets([self.lengths[text] for text in texts], self._bucket_rows)
        buckets = [self._bucket([texts[i] for i in place]) for place in plan]
        embeddings = torch.cat([self.tower(bucket.ids) for bucket in buckets]) if self._whole else self._pass(buckets)
        order = torch.tensor([i for place in plan for i in place], device=embeddings.device)
        return embeddings[order.argsort()]

    def state(self) -> dict[str, Tensor]:
        """The kept states. Computed again in other company they might differ in the last bit."""
        held = len(self._slots)
        return {"kept": self._kept[:held], "texts": torch.tensor([*self._slots], dtype=torch.long)} if held else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave, of the same texts."""
        texts = state["texts"].tolist() if state else []
        self._slots = {text: slot for slot, text in enumerate(texts)}
        if texts:
            self._kept[: len(texts)] = state["kept"].to(self._kept)

    def _bucket(self, texts: list[int]) -> Bucket:
        ids = self.ids[texts, : self.lengths[texts[-1]]].long()  # the last is the longest
        return Bucket(texts, ids, self.tower.attention_mask(ids), self.tower.pooled_positions(ids))

    def _pass(self, buckets: Sequence[Bucket]) -> Float[Tensor, "n embed"]:
        sizes = [n * m for n, m in (bucket.shape for bucket in buckets)]
        pooled = torch.cat([bucket.rows_read(sum(sizes[:i])) for i, bucket in enumerate(buckets)])

        def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            last = len(q) < len(k)  # the last block: one query for each text
            queries = [bucket.shape[0] for bucket in buckets] if last else sizes
            out = []
            for bucket, *rows in zip(buckets, q.split(queries), k.split(sizes), v.split(sizes), strict=True):
                own_q, own_k, own_v = (part.unflatten(0, (bucket.shape[0], -1)) for part in rows)
                mask = bucket.pooled_mask() if last else bucket.mask
                first = bucket.first_read if last and attention.relative is not None else 0
                out.append(attention.mix(own_q, own_k, own_v, mask, first).flatten(0, 1))
            return torch.cat(out)

        x = torch.cat([self._enter(bucket).flatten(0, 1) for bucket in buckets])  # [rows, d_model]
        for number, block in enumerate(self.tower.blocks[self.frozen :], start=self.frozen + 1):
            assert isinstance(block, Block)  # the tower is resumable
            x = block.body(block.hook_resid_pre(x), attend, pooled if number == self.tower.n_layers else None)
        return self.tower.readout(x)

    def _enter(self, bucket: Bucket) -> Float[Tensor, "n m d_model"]:
        """The states that enter the lowest trained block."""
        if not self.frozen:
            return self.tower.embed(bucket.ids)
        (n, m), slots = bucket.shape, self._slots
        new = [i for i, text in enumerate(bucket.texts) if text not in slots]
        old = [i for i, text in enumerate(bucket.texts) if text in slots]
        out = self._kept.new_empty(n, m, self._kept.shape[-1])
        out[old] = self._kept[[slots[bucket.texts[i]] for i in old], :m]
        if new:
            out[new] = states = self._run_frozen(bucket, new)
            # the first texts stay: to drop the oldest would lose every text of a shuffled epoch before it comes again
            keep = new[: len(self._kept) - len(slots)]
            at = len(slots)
            slots.update({bucket.texts[i]: at + k for k, i in enumerate(keep)})
            self._kept[at : at + len(keep), :m] = states[: len(keep)]
        return out

    @torch.no_grad()
    def _run_frozen(self, bucket: Bucket, rows: list[int]) -> Float[Tensor, "n m d_model"]:
        x = self.tower.embed(bucket.ids[rows])
        mask = bucket.mask if bucket.mask is None or bucket.mask.ndim == 2 else bucket.mask[rows]
        for block in self.tower.blocks[: self.frozen]:
            x = block(x, mask)
        return x

    @torch.no_grad()
    def _check(self) -> None:
        """The shortest and the longest text by this way and by the tower's own pass."""
        by_length = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        texts = [by_length[0], by_length[-1]]
        ours = self(torch.tensor(texts))
        for text, found in zip(texts, ours, strict=True):
            expected = self.tower(self.ids[[text], : self.lengths[text]].long())[0]
            difference = float((found - expected).norm() / expected.norm())
            if self.tower.dtype in (torch.float32, torch.float64) and difference > TOLERANCE:
                raise TowerMismatchError(
                    f"packed texts give an embedding that differs from the text tower's own pass by {difference:.1e} "
                    f"(relative; tolerance {TOLERANCE:.0e}): this kind of tower cannot be trained yet; please report it"
                )


def token_table(tower: TextTower, texts: Sequence[str]) -> tuple[Int[Tensor, "text pos"], Int[Tensor, " text"]]:
    """Ids (padded to the longest) and lengths of texts, read one by one: a million lists would take gigabytes.

    Raises ContextOverflowError, which says how many texts are longer than the context.
    """
    flat, lengths = array("i"), torch.empty(len(texts), dtype=torch.long)
    first, too_long = None, 0
    for number, text in enumerate(texts):
        try:
            (row,) = tower.rows([text])
        except ContextOverflowError as problem:
            first, too_long = first or problem, too_long + 1
            continue
        flat.extend(row)
        lengths[number] = len(row)
    if first is not None:
        many = f"{too_long:,} of {len(texts):,} different texts are too long; of the first of them: "
        raise ContextOverflowError(f"{many if too_long > 1 else ''}{first}") from first
    ids = torch.full((len(texts), int(lengths.max())), tower.tokenizer.pad_id, dtype=torch.int32)
    read = torch.frombuffer(flat, dtype=torch.int32)
    for rows, counts in zip(ids.split(1 << 16), lengths.split(1 << 16), strict=True):  # their places are large too
        here, read = read.split([int(counts.sum()), len(read) - int(counts.sum())])
        rows[torch.arange(rows.shape[1]) < counts[:, None]] = here
    return ids.to(tower.device), lengths.to(tower.device)


def plan_buckets(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Split texts into buckets, each padded to its longest, so that rows + ``overhead`` a bucket are fewest.

    Returns positions in ``lengths``, in each bucket by increasing length. ``overhead=0`` never pads.

    >>> plan_buckets([9, 30, 10, 28], overhead=8)
    [[0, 2], [3, 1]]
    >>> plan_buckets([9, 30, 10, 28], overhead=0)
    [[0], [2], [3], [1]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or lengths[order[i]] < lengths[order[i + 1]]]
    starts = [0, *ends[:-1]]
    fewest, came_from = [0], [0]  # for the texts before each end: rows, and where the last bucket starts
    for j, end in enumerate(ends, start=1):
        width = lengths[order[end - 1]]
        rows = [fewest[i] + (end - starts[i]) * width + overhead for i in range(j)]
        # of equals the shortest last bucket: with no overhead equal lengths alone share one
        best = min(range(j), key=lambda i: (rows[i], -i))
        fewest.append(rows[best])
        came_from.append(best)
    buckets, j = [], len(ends)
    while j:
        buckets.append(order[starts[came_from[j]] : ends[j - 1]])
        j = came_from[j]
    return buckets[::-1]
