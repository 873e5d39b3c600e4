"""The clean cache: texts of a batch run together as they run apart, with shared rows computed once."""

from __future__ import annotations

import pytest
import torch
from models import open_clip_model, siglip_model, transformers_model, word_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from zoo import entries

import tracescribe as ts
from tracescribe.patching import site_named
from tracescribe.patching.resume.clean_cache import CleanCache
from tracescribe.patching.resume.clean_run import run_clean
from tracescribe.patching.resume.resumed_pass import ResumedPass, resume

# causal towers of every kind of readout, mask and block, and towers in which nothing is shared
NAMES = ("open_clip:coca_ViT-B-32", "open_clip:xlm-roberta-base-ViT-B-32", "transformers:Aimv2Model", "medical:conch")
SOURCES = {
    "open_clip": open_clip_model,
    "transformers": transformers_model,
    "SigLIP": siglip_model,
} | {entry.name: (lambda entry=entry: entry.build(0)) for entry in entries() if entry.name in NAMES}
TEXTS = (
    ["there is no edema in here", "there are two of it now"],
    ["there is some edema in here", "there are no of it now"],
    ["there is no edema", "no edema is there", "there is no edema"],
    ["there are no of it now"],  # all of whose rows are there already
)


@torch.no_grad()
def run(tower: ts.TextTower, batches: list[torch.Tensor]) -> CleanCache:
    cache = CleanCache.over(tower, [(batch, None) for batch in batches])
    reads_one = tower.spec.reads_one
    site, n_blocks = site_named("resid"), tower.n_layers
    patched = resume(tower, ResumedPass(cache, [], site=site, n_blocks=n_blocks, reads_one=reads_one, keep=True))
    assert not len(patched)
    return cache


@pytest.mark.parametrize("name", SOURCES)
def test_together_is_as_apart(name: str) -> None:
    source = SOURCES[name]()
    known = {entry.name: entry.tokenizer for entry in entries()}
    tower = ts.wrap(source, tokenizer=known.get(name) or word_tokenizer(source)).text
    batches = [tower.collate(tower.rows(texts)) for texts in TEXTS]
    cache = run(tower, batches)
    assert len(cache.qkv) == tower.n_layers
    for found, rows in zip(cache.runs, batches, strict=True):
        with torch.no_grad():
            apart = run_clean(tower, rows)
        assert found.pooled == apart.pooled and len(found.resid) == len(apart.resid)
        # scores read directions; embeddings are 3 to 30 long, and several threads sum in another order
        directions = [torch.nn.functional.normalize(run.embedding, dim=-1) for run in (found, apart)]
        torch.testing.assert_close(*directions, atol=1e-6, rtol=0)
        for ours, theirs in zip(found.resid, apart.resid, strict=True):
            torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=1e-5)


def test_a_row_is_run_for_every_different_beginning() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=word_tokenizer(open_clip_model())).text
    batches = [tower.rows(texts) for texts in TEXTS]
    cache = CleanCache.over(tower, [(tower.collate(rows), None) for rows in batches])
    texts = [tuple(text) for rows in batches for text in rows]
    assert cache.n_rows == len({text[: at + 1] for text in texts for at in range(len(text))})
    assert len(cache.resid[0]) == cache.n_rows < sum(map(len, texts))
    assert cache.n_texts == len(texts) and not len(cache.runs[3].new)
    assert len(cache.runs[2].new) == 6  # no edema is there [EOT]; an [EOT] of "there is no edema"


def test_tokens_at_other_places_are_other_rows() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=word_tokenizer(open_clip_model())).text
    rows = tower.collate(tower.rows(["a b c"]))
    moved = torch.tensor([[0, 1, 3, 4, 5]])
    cache = CleanCache.over(tower, [(rows, None), (rows, moved)])
    assert cache.runs[1].new.tolist() == [2, 3, 4]
    torch.testing.assert_close(cache.runs[1].resid[0], tower.embed(rows, moved), atol=0, rtol=0)


def test_nothing_is_shared_where_rows_see_what_comes_after_them() -> None:
    tower = ts.wrap(siglip_model(), tokenizer=word_tokenizer(siglip_model())).text
    assert not tower.causal
    rows = tower.collate(tower.rows(["a b c", "a b c"]))
    assert CleanCache.over(tower, [(rows, None)]).n_rows == rows.numel()


def test_operations_are_those_of_the_rows() -> None:
    tower = ts.wrap(open_clip_model(), tokenizer=word_tokenizer(open_clip_model())).text

    def operations(*texts: str) -> int:
        with FlopCounterMode(display=False) as counter:
            run(tower, [tower.collate(tower.rows([text])) for text in texts])
        return counter.get_total_flops()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower.readout(torch.zeros(1, tower.d_model))
    readout, rows, shared = counter.get_total_flops(), 8, 5  # [SOT] a b c d are equal
    alone, both = operations("a b c d e f"), operations("a b c d e f", "a b c d x f")
    assert (both - 2 * readout) * rows == (alone - readout) * (2 * rows - shared)
