"""Attention patterns of clean runs, as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import SiteError
from ..resume.clean_run import run_clean
from ..torch_state import neutral_state
from ..towers.block import Block
from ..towers.tower import Tower

ROWS = 64  # inputs of one pass; a pattern is small beside the weights


def attention_patterns(
    tower: Tower, rows: Sequence[Any]
) -> Iterator[tuple[list[int], Float[Tensor, "batch layer head query key"]]]:
    """The softmaxed attention of every block and head, for batches of inputs of one shape, with the inputs' numbers.

    rows: as :meth:`PatchingEngine.patch` takes them. Every query's row sums to 1; it is 0 where it may not attend.

    Raises:
        SiteError: the tower's blocks are not taken apart.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> [(numbers, patterns)] = attention_patterns(text, text.rows(["There is no opacity."]))
    >>> numbers, list(patterns.shape), bool(torch.allclose(patterns.sum(dim=-1), torch.ones(1)))
    ([0], [1, 8, 4, 8, 8], True)
    """
    if tower.opaque:
        raise SiteError(
            f"this tower's blocks ({type(tower.blocks[0]).__name__}) are not taken apart, so that their attention "
            f"patterns cannot be read"
        )
    buckets: dict[tuple[int, int | None], list[int]] = {}
    with neutral_state():
        twin = tower.twin()
        for block in twin.blocks:
            assert isinstance(block, Block)
            block.attn.explicit = True
        for i, row in enumerate(rows):
            buckets.setdefault(twin.shape_of(row), []).append(i)
    for members in buckets.values():
        for at in range(0, len(members), ROWS):
            chosen = members[at : at + ROWS]
            with neutral_state(twin):
                run = run_clean(twin, twin.collate([rows[i] for i in chosen]), "attn.hook_pattern")
                patterns = torch.stack(list(run.site), dim=1)
            yield chosen, patterns
