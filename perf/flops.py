"""How much arithmetic an exact trace takes: the number that a measured time is held against.

One multiply-add is two operations. With d the width and m the width of the MLP, a block costs one row

    qkv 2·3d² + attention's output 2·d² + MLP 2·2dm  =  2·(4d² + 2dm)  =  2·12d² at m = 4d

and attention itself 4d for every (query, key) it multiplies out. Norms, activations and softmax are not counted.

Which rows have to be run, in a causal tower read at its last token? A patch at (l, p) leaves layers 0..l and every
position before p as they were. So a cell (l, p) needs blocks l+1..L, and in each the n - p rows from p on; of the last
block it needs the keys and values of those rows, but queries, output and MLP of the pooled row only. Cells before the
first differing token, cells of layer L, and cells of layer 0 where the tokens are equal or where they differ there
alone are the clean or the donor run by construction. The two unpatched runs of a pair come on top.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracescribe.patching import TextTower


def trace_flops(tower: TextTower, base: Sequence[int], donor: Sequence[int]) -> int:
    """Floating-point operations of the exact trace of one pair of trimmed token rows (causal tower, read at the end).

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> round(trace_flops(text, base, donor) / 1e6)
    46
    """
    n, n_blocks, d = len(base), tower.n_layers, tower.d_model
    m, embed = tower.blocks[0].mlp.up.weight.shape[0], tower.readout(tower.embedding.positions[:1]).shape[-1]
    row, key_value_row, pooled_row = 2 * (4 * d * d + 2 * d * m), 2 * 2 * d * d, 2 * (2 * d * d + 2 * d * m)
    attention, readout = 4 * d, 2 * d * embed
    differing = [p for p in range(n) if base[p] != donor[p]]

    total = 2 * (n_blocks * n * (row + attention * n) + readout)  # clean and donor
    for p in range(differing[0], n):
        rows = n - p
        cells = 1 if p in differing and len(differing) > 1 else 0  # of layer 0
        for block in range(1, n_blocks + 1):
            if block > 1:
                cells += 1  # the cell (block - 1, p) joins
            if block < n_blocks:
                total += cells * rows * (row + attention * n)
            else:
                total += cells * (rows * key_value_row + pooled_row + attention * n)
        total += cells * readout
    return total


def published_passes(tower: TextTower, n_tokens: int) -> int:
    """Passes of the whole model that the published algorithm makes for one pair: the donor's, and one a cell."""
    return 1 + (tower.n_layers + 1) * n_tokens
