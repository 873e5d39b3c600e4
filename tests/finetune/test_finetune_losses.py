"""Losses against their formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tracescribe.finetune import claim_loss, clip_loss, nast_loss
from tracescribe.finetune.losses import multi_positive_clip_loss


def unit(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


@given(st.integers(0, 1000), st.integers(1, 8), st.floats(1, 100))
def test_clip_loss_is_symmetric_infonce(seed, n, scale):
    images, texts = unit(n, 5, seed=seed), unit(n, 5, seed=seed + 1)
    logits = scale * (images @ texts.T).numpy()
    by_image = np.mean([np.log(np.exp(logits[i] - logits[i, i]).sum()) for i in range(n)])
    by_text = np.mean([np.log(np.exp(logits[:, i] - logits[i, i]).sum()) for i in range(n)])
    assert clip_loss(images, texts, scale).item() == pytest.approx((by_image + by_text) / 2, abs=1e-9)
    assert clip_loss(texts, images, scale).item() == pytest.approx(clip_loss(images, texts, scale).item(), abs=1e-9)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 5))
def test_claim_loss_is_the_papers_formula_with_its_minus_sign(seed, sets, claims):
    images, texts = unit(sets, 4, seed=seed), unit(sets, claims, 4, seed=seed + 1)
    label = torch.arange(sets) % claims
    logits = 7.0 * np.einsum("se,sce->sc", images.numpy(), texts.numpy())
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(softmax[np.arange(sets), label.numpy()]).mean()
    assert claim_loss(images, texts, label, 7.0).item() == pytest.approx(expected, abs=1e-9)


def test_absent_claims_do_not_count():
    images, texts = unit(3, 4), unit(3, 5, 4, seed=1)
    label = torch.tensor([0, 1, 2])
    present = torch.zeros(3, 5, dtype=torch.bool)
    present[:, :3] = True
    padded = claim_loss(images, texts, label, 10.0, present)
    assert padded.item() == pytest.approx(claim_loss(images, texts[:, :3], label, 10.0).item(), abs=1e-12)


def test_a_blind_scorer_pays_log_of_the_number_of_claims():
    same = unit(1, 4).expand(6, 4, 4)
    assert claim_loss(unit(6, 4, seed=2), same, torch.zeros(6, dtype=torch.long), 50.0).item() == pytest.approx(
        np.log(4)
    )


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_mix(lambda_, clip, claim):
    mixed = nast_loss(torch.tensor(clip, dtype=torch.float64), torch.tensor(claim, dtype=torch.float64), lambda_)
    assert mixed.item() == pytest.approx(lambda_ * clip + (1 - lambda_) * claim, abs=1e-12)


@given(st.integers(0, 1000), st.integers(2, 7), st.integers(1, 4))
def test_repeated_captions_are_no_negatives(seed, n, kinds):
    """Every right answer against the wrong ones alone, their mean by row, in both directions, written out."""
    images, kind = unit(n, 5, seed=seed), torch.arange(n) % kinds
    texts = unit(kinds, 5, seed=seed + 1)[kind]
    logits = 7.0 * (images @ texts.T).numpy()

    def by_row(scores):
        found = []
        for i, row in enumerate(scores):
            wrong = np.exp(row[kind.numpy() != int(kind[i])]).sum()
            found.append(np.mean([np.log(np.exp(one) + wrong) - one for one in row[kind.numpy() == int(kind[i])]]))
        return np.mean(found)

    found = multi_positive_clip_loss(images, texts, 7.0, kind).item()
    assert found == pytest.approx((by_row(logits) + by_row(logits.T)) / 2, abs=1e-9)
    ordinary = clip_loss(images, texts, 7.0).item()
    assert multi_positive_clip_loss(images, texts, 7.0, torch.arange(n)).item() == pytest.approx(ordinary, abs=1e-9)
    if kinds < n:  # some caption repeats: without its copies among the negatives the loss is lower
        assert found < ordinary - 1e-6
