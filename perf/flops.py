"""Counts the arithmetic of an exact trace, which a measured time is compared with.

One multiply-add is two operations. With d the width and m the width of the MLP, one row (the state of one token) costs,
per block,

    qkv 2·3d² + attention's output 2·d² + MLP 2·2dm  =  2·(4d² + 2dm)  =  2·12d² at m = 4d

and attention itself 4d for every (query, key) it multiplies out. Norms, activations and softmax are not counted.

`trace_flops` is what the engine runs, `least_flops` what no exact trace can do without; docs/speed.md derives both.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracescribe.patching import TextTower

Rows = Sequence[Sequence[int]]


def trace_flops(tower: TextTower, base: Rows, donor: Rows) -> int:
    """Operations that the engine runs for a batch of pairs of trimmed token rows (causal tower, read at the end).

    What :func:`least_flops` counts; and the last block of the clean rows, of which an embedding needs keys, values
    and the pooled row only (the engine's self-checks read the others); and attention of clean rows that are known
    already, where another text of their length has a new row as early.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> round(trace_flops(text, [base], [donor]) / 1e6)
    42
    """
    n_blocks = tower.n_layers
    total = 0
    for texts, new in _clean_rows(base, donor):
        cost, n = _Costs(tower, len(texts[0])), len(texts[0])
        asked = len(texts) * (n - min((at for of_text in new for at in of_text), default=n))
        total += n_blocks * (sum(map(len, new)) * (cost.row - cost.attention) + asked * cost.attention)
        total += len(texts) * cost.readout
    return total + sum(_patched(tower, *pair) for pair in zip(base, donor, strict=True))


def least_flops(tower: TextTower, base: Rows, donor: Rows) -> int:
    """Operations without which no exact trace of these pairs is possible (derived in docs/speed.md).

    Clean rows: one for each different beginning of a text; of the last block keys, values and the pooled row. A
    patch at (l, p) leaves layers 0..l and every position before p as they were, so that its cell needs blocks l+1..L,
    and in each the n - p rows from p on; of the last block the keys and values of those rows, but queries, output and
    MLP of the pooled row only. Queries, keys and values of the first of these blocks are those of the clean runs.
    At the first differing token the patched row itself goes on as in the donor's run. Cells before the first differing
    token, cells of layer L, and cells of layer 0 where the tokens are equal or where they differ there alone are the
    base's or the donor's run by construction.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> round(least_flops(text, [base], [donor]) / trace_flops(text, [base], [donor]), 2)
    0.98
    """
    total = 0
    for texts, new in _clean_rows(base, donor):
        cost, n = _Costs(tower, len(texts[0])), len(texts[0])
        rows = sum(map(len, new))
        total += (tower.n_layers - 1) * rows * cost.row + rows * cost.key_value
        total += sum(n - 1 in of_text for of_text in new) * cost.pooled + len(texts) * cost.readout
    return total + sum(_patched(tower, *pair) for pair in zip(base, donor, strict=True))


def published_passes(tower: TextTower, n_tokens: int) -> int:
    """Passes of the model that the published algorithm makes for one pair: the donor's, and one per cell."""
    return 1 + (tower.n_layers + 1) * n_tokens


def _patched(tower: TextTower, base: Sequence[int], donor: Sequence[int]) -> int:
    """Operations of the patched rows of one pair."""
    cost, n, n_blocks = _Costs(tower, len(base)), len(base), tower.n_layers
    differing = [p for p in range(n) if base[p] != donor[p]]
    total = 0
    for p in range(differing[0], n):
        rows = n - p - (p == differing[0])
        if not rows:  # the pooled token itself is the first that differs: every cell is the donor's run
            continue
        for layer in range(0 if p in differing and len(differing) > 1 else 1, n_blocks):
            if layer + 1 < n_blocks:
                total += rows * (cost.row - cost.query - cost.key_value)
                total += (n_blocks - layer - 2) * rows * cost.row + rows * cost.key_value + cost.pooled
            else:
                total += cost.pooled - cost.query
            total += cost.readout
    return total


def _clean_rows(base: Rows, donor: Rows) -> list[tuple[Rows, list[list[int]]]]:
    """Both sides of the pairs of each length, with the positions of each text whose row is in no text before it."""
    seen: set[tuple[int, ...]] = set()
    found = []
    for length in sorted(set(map(len, base))):  # the engine's order
        for side in (base, donor):
            texts = [text for text in side if len(text) == length]
            new = []
            for text in texts:
                beginnings = {at: tuple(text[: at + 1]) for at in range(length)}
                new.append([at for at, beginning in beginnings.items() if beginning not in seen])
                seen.update(beginnings.values())
            found.append((texts, new))
    return found


class _Costs:
    """Operations of one row that attends to ``n`` keys: a complete block, and its parts."""

    def __init__(self, tower: TextTower, n: int) -> None:
        d = tower.d_model
        m, embed = tower.blocks[0].mlp.up.weight.shape[0], tower.readout(tower.embedding.positions[:1]).shape[-1]
        self.query, self.key_value, self.attention = 2 * d * d, 4 * d * d, 4 * d * n
        self.pooled = self.query + self.attention + 2 * d * d + 4 * d * m  # query, attention, its output, MLP
        self.row = self.key_value + self.pooled
        self.readout = 2 * d * embed
