"""Known cells: those of a map that are the base or the donor run by construction, so that they need no pass."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..sites import Sweep
from ..towers.tower import Tower
from .clean_cache import Run

RUN, BASE, DONOR = 0, 1, 2


def known_cells(
    tower: Tower,
    sweep: Sweep,
    base: Run,
    donor: Run,
    member: Bool[Tensor, "batch column pos"],
    sources: Int[Tensor, "batch pos"] | None = None,
    *,
    given: bool = False,
    partial: bool = False,
) -> Int[Tensor, "batch layer column"]:
    """BASE or DONOR for cells whose patched embedding is that run's by construction; RUN for all others.

    Layer 0 of the residual stream differs only where the embedded tokens do, so a patch elsewhere changes nothing, and
    one of all differing positions gives the donor run. In a causal tower the states before the first difference are
    equal, and no position after the pooled one reaches it. Replacing every residual state that differs and can still
    be read gives the donor run at any layer. Where one position is read out, the last block's queries, outputs and
    states matter at that position only.

    member: which positions each column replaces. sources: for each base position the donor's position whose states
        stand there, for texts of different lengths; None where both runs have the same positions. given: the states
        that go in are no run's, so that no cell is the donor's, and only what cannot reach the readout is the base's.
        partial: only some directions of the states are replaced, so that no cell is the donor's either.

    >>> import torch
    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> from tracescribe.patching.resume.clean_run import run_clean
    >>> base, donor = (run_clean(text, text.collate([ids])) for ids in text.rows(["no opacity", "severe opacity"]))
    >>> each = torch.eye(5, dtype=torch.bool)[None]
    >>> known_cells(text, Sweep(), base, donor, each)[0, [0, 1, 8]]  # [SOT] no|severe op acity [EOT]; 2 donor
    tensor([[1, 2, 1, 1, 1],
            [1, 0, 0, 0, 0],
            [1, 1, 1, 1, 2]])
    """
    site, n_blocks = sweep.site, tower.n_layers
    differs = (base.resid[0] != donor.resid[0]).any(dim=-1)  # (batch, pos)
    whole = not (given or partial)
    if given:
        differs = torch.ones_like(differs)
    reached = torch.ones_like(differs)
    if tower.causal:
        elsewhere = False if sources is None else sources != torch.arange(differs.shape[1], device=differs.device)
        reached = (differs | elsewhere).cumsum(dim=1) > 0
        if base.pooled is not None:
            reached[:, base.pooled + 1 :] = False
    batch, n_columns, _ = member.shape
    known = torch.full((batch, site.n_layers(n_blocks), n_columns), RUN, device=member.device)
    only_last = tower.readout_layers == (n_blocks,)
    pooled = None if base.pooled is None or not only_last else member[:, :, base.pooled]  # (batch, column)
    if site.residual is not None and only_last:
        if sources is None and whole:
            known[(member | ~reached[:, None]).all(dim=-1)[:, None].expand_as(known)] = DONOR
        for at in range(known.shape[1]):
            states = [layer + site.first_layer + site.residual for layer in sweep.layers(at, n_blocks)]
            if states == [0]:
                known[:, at][~(member & differs[:, None]).any(dim=-1)] = BASE
                if sources is None and whole:
                    known[:, at][(member | ~differs[:, None]).all(dim=-1)] = DONOR
            if n_blocks in states and pooled is not None:
                known[:, at][pooled] = DONOR if base.pooled == donor.pooled and whole else RUN
                if len(states) == 1:
                    known[:, at][~pooled] = BASE
    elif site.of_queries and sweep.window == 1 and pooled is not None:
        known[:, -1][~pooled] = BASE
    known[~(member & reached[:, None]).any(dim=-1)[:, None].expand_as(known)] = BASE
    return known
