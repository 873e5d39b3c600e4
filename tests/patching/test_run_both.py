"""Base and donor run together as they run apart, with the donor's shared rows run once."""

from __future__ import annotations

import pytest
import torch
from models import open_clip_model, siglip_model, transformers_model, word_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from zoo import entries

import tracescribe as ts

# causal towers of every kind of readout, mask and block, and towers in which nothing is shared
NAMES = ("open_clip:coca_ViT-B-32", "open_clip:xlm-roberta-base-ViT-B-32", "transformers:Aimv2Model", "medical:conch")
SOURCES = {
    "open_clip": open_clip_model,
    "transformers": transformers_model,
    "SigLIP": siglip_model,
} | {entry.name: (lambda entry=entry: entry.build(0)) for entry in entries() if entry.name in NAMES}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("keep", [None, "attn.hook_z", "hook_mlp_out"])
def test_together_is_as_apart(name: str, keep: str | None) -> None:
    source = SOURCES[name]()
    known = {entry.name: entry.tokenizer for entry in entries()}
    tower = ts.wrap(source, tokenizer=known.get(name) or word_tokenizer(source)).text
    texts = [
        ("there is no edema in here", "there is some edema in here"),
        ("there are two of it now", "there are no of it now"),
    ]
    base, donor = (tower.collate(tower.rows(side)) for side in zip(*texts, strict=True))
    with torch.no_grad():
        together = tower.run_both(base, donor, keep)
        for found, rows in zip(together, (base, donor), strict=True):
            apart = tower.run_clean(rows, keep)
            assert found.pooled == apart.pooled and len(found.site) == len(apart.site)
            torch.testing.assert_close(found.embedding, apart.embedding, atol=2e-6, rtol=1e-5)
            for ours, theirs in zip((*found.resid, *found.site), (*apart.resid, *apart.site), strict=True):
                torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=1e-5)
            for ours, theirs in zip(found.kv, apart.kv, strict=True):
                torch.testing.assert_close(tuple(ours), tuple(theirs), atol=5e-6, rtol=1e-5)


def test_rows_before_the_first_difference_are_run_once() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=word_tokenizer(open_clip_model())).text
    base, donor = (tower.collate(tower.rows([text])) for text in ("a b c d e f", "a b c d x f"))

    def operations(rows: torch.Tensor, others: torch.Tensor) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            tower.run_both(rows, others)
        return counter.get_total_flops()

    whole, late = operations(base, tower.collate(tower.rows(["g b c d e f"]))), operations(base, donor)
    readout = 2 * operations_of_readout(tower)
    rows, shared = 8, 5  # [SOT] a b c d are equal; one row less is shared where only [SOT] is
    assert (late - readout) * (2 * rows - 1) == (whole - readout) * (2 * rows - shared)


def operations_of_readout(tower: ts.TextTower) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower.readout(torch.zeros(1, tower.d_model))
    return counter.get_total_flops()
