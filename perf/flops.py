"""How much arithmetic an exact trace takes: the number that a measured time is held against.

One multiply-add is two operations. With d the width and m the width of the MLP, a block costs one row

    qkv 2·3d² + attention's output 2·d² + MLP 2·2dm  =  2·(4d² + 2dm)  =  2·12d² at m = 4d

and attention itself 4d for every (query, key) it multiplies out. Norms, activations and softmax are not counted.

`trace_flops` is what the engine runs, `least_flops` what no exact trace can do without; docs/speed.md derives both.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracescribe.patching import TextTower


def trace_flops(tower: TextTower, base: Sequence[int], donor: Sequence[int]) -> int:
    """Operations that the engine runs for one pair of trimmed token rows (causal tower, read at the end).

    A patch at (l, p) leaves layers 0..l and every position before p as they were. So a cell (l, p) needs blocks l+1..L,
    and in each the n - p rows from p on; of the last block it needs the keys and values of those rows, but queries,
    output and MLP of the pooled row only. Cells before the first differing token, cells of layer L, and cells of layer
    0 where the tokens are equal or where they differ there alone are the base's or the donor's run by construction.
    The two unpatched runs of a pair come on top; the donor's rows before the first difference are the base's (in a
    batch: before the first difference of any of its pairs).

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> round(trace_flops(text, base, donor) / 1e6)
    47
    """
    cost, n, n_blocks = _Costs(tower, len(base)), len(base), tower.n_layers
    differing = [p for p in range(n) if base[p] != donor[p]]

    # the base's run, and the donor's from the first difference on
    total = n_blocks * (n + n - differing[0]) * cost.row + 2 * cost.readout
    for p in range(differing[0], n):
        rows = n - p
        cells = 1 if p in differing and len(differing) > 1 else 0  # of layer 0
        for block in range(1, n_blocks + 1):
            if block > 1:
                cells += 1  # the cell (block - 1, p) joins
            if block < n_blocks:
                total += cells * rows * cost.row
            else:
                total += cells * (rows * cost.key_value + cost.pooled)
        total += cells * cost.readout
    return total


def least_flops(tower: TextTower, base: Sequence[int], donor: Sequence[int]) -> int:
    """Operations without which no exact trace of this pair is possible, hook points or not (derived in docs/speed.md).

    What :func:`trace_flops` counts and this does not: the last block of the unpatched runs but for keys, values and the
    pooled row; queries, keys and values of a patch's first block, which are the base's and, at the patched row, the
    donor's; and the patched row itself at the first differing token, which goes on as in the donor's run.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> round(least_flops(text, base, donor) / trace_flops(text, base, donor), 2)
    0.88
    """
    cost, n, n_blocks = _Costs(tower, len(base)), len(base), tower.n_layers
    differing = [p for p in range(n) if base[p] != donor[p]]
    first = differing[0]

    def whole_run(rows: int) -> int:
        """An unpatched run of the last ``rows`` positions."""
        return (n_blocks - 1) * rows * cost.row + rows * cost.key_value + cost.pooled + cost.readout

    total = whole_run(n) + whole_run(n - first)
    for p in range(first, n):
        rows = n - p - (p == first)
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


def published_passes(tower: TextTower, n_tokens: int) -> int:
    """Passes of the whole model that the published algorithm makes for one pair: the donor's, and one a cell."""
    return 1 + (tower.n_layers + 1) * n_tokens


class _Costs:
    """Operations of one row that attends to ``n`` keys: a whole block, and its parts."""

    def __init__(self, tower: TextTower, n: int) -> None:
        d = tower.d_model
        m, embed = tower.blocks[0].mlp.up.weight.shape[0], tower.readout(tower.embedding.positions[:1]).shape[-1]
        self.query, self.key_value = 2 * d * d, 4 * d * d
        self.pooled = self.query + 4 * d * n + 2 * d * d + 4 * d * m  # query, attention, its output, MLP
        self.row = self.key_value + self.pooled
        self.readout = 2 * d * embed
