"""Rival selectors and normalisers: hand-computed values, agreement with plain gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.errors import NonFiniteError, PrescriptionError, TracescribeError

PROFILE = np.array([1.0, 0.8, 1.0, 0.6, 0.7])  # layers 0..4: blocks .8, 1, .6, .7


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("minmax", [0.5, 1, 0, 0.25]),
        ("max", [0.8, 1, 0.6, 0.7]),
        ("mean", [0.8 / 0.775, 1 / 0.775, 0.6 / 0.775, 0.7 / 0.775]),
        ("rank", [2 / 3, 1, 0, 1 / 3]),
        ("floor", [0.55, 1, 0.1, 0.325]),
        ("none", [0.8, 1, 0.6, 0.7]),
    ],
)
def test_normalisers_give_the_hand_computed_alpha(normalize, expected):
    np.testing.assert_allclose(ts.prescribe(PROFILE, normalize=normalize).alpha, expected, atol=1e-12)


def test_softmax_has_the_proportions_of_the_softmax_of_standardised_values():
    from scipy.special import softmax
    from scipy.stats import zscore

    alpha = ts.prescribe(PROFILE, normalize="softmax").alpha
    np.testing.assert_allclose(alpha / alpha.sum(), softmax(zscore(PROFILE[1:])), atol=1e-12)
    assert alpha.max() == 1


@pytest.mark.parametrize("normalize", ["mean", "softmax", "rank", "floor"])
def test_draws_are_normalised_as_the_estimate_is(normalize):
    trace = synthetic_trace(n_pairs=40, share_inverted=0)
    profile = trace.per_layer()
    plan = ts.prescribe(profile, normalize=normalize)
    alphas = np.array([ts.prescribe(draw, normalize=normalize).alpha for draw in profile.replicates[:200]])
    expected = np.quantile(alphas, [0.025, 0.975], axis=0).T
    bounds = ts.prescribe(
        ts.LayerProfile.from_replicates(
            profile.value, profile.replicates[:200], aggregate="sum", ci=0.95, n_pairs=40, n_groups=40
        ),
        normalize=normalize,
    ).ci
    np.testing.assert_allclose(bounds, expected, atol=1e-12)
    assert plan.provenance["normalize"] == normalize


def test_fixed_selectors():
    assert ts.prescribe(5, by="front", k=2).alpha.tolist() == [1, 1, 0, 0, 0]
    np.testing.assert_allclose(ts.prescribe(3, by="decay", decay=0.5).alpha, [0.25, 0.5, 1])
    drawn = ts.prescribe(12, by="random", k=3, seed=4)
    assert drawn.alpha.sum() == 3
    assert set(drawn.alpha) == {0, 1}
    np.testing.assert_array_equal(drawn.alpha, ts.prescribe(12, by="random", k=3, seed=4).alpha)
    assert any((ts.prescribe(12, by="random", k=3, seed=seed).alpha != drawn.alpha).any() for seed in range(5))
    assert ts.prescribe(5, by="front", k=2, budget="mean").multipliers.mean() == pytest.approx(1)
    assert ts.prescribe(5, by="front", k=2).provenance == {"by": "front", "k": 2}


def test_the_number_of_blocks_comes_from_a_model_a_trace_or_a_plan(make_clip):
    clip = make_clip()
    n_blocks = len(clip.transformer.resblocks)
    trace = synthetic_trace()
    assert ts.prescribe(clip, by="uniform").alpha.tolist() == [1.0] * n_blocks
    plan = ts.prescribe(trace, by="front", k=1)
    assert plan.n_blocks == trace.n_layers
    assert plan.provenance["trace"] == trace.provenance
    assert ts.prescribe(plan, by="decay", decay=0.9).n_blocks == plan.n_blocks


def test_controls_are_those_of_the_traced_plan():
    trace = synthetic_trace(share_inverted=0)
    plan = ts.prescribe(trace, budget="mean")
    for by, control in (("permuted", plan.permuted(3)), ("inverse", plan.inverse())):
        found = ts.prescribe(trace, by=by, budget="mean", seed=3)
        np.testing.assert_array_equal(found.multipliers, control.multipliers)
        np.testing.assert_array_equal(ts.prescribe(plan, by=by, seed=3).multipliers, control.multipliers)


def _loss(module):
    def loss(ids):
        from models import source_encoder

        return source_encoder(module, ids).square().mul(torch.arange(1.0, 1 + module.text_projection.shape[1])).sum()

    return loss


def test_block_gradients_are_those_of_backward_and_leave_the_module_as_it_was(make_clip, make_ids):
    clip = make_clip().eval()
    clip.requires_grad_(False)
    batches = [make_ids(seed=0), make_ids(seed=1), make_ids(seed=2)]
    measured = ts.finetune.block_gradients(clip, _loss(clip), batches, max_batches=2)
    assert not any(p.requires_grad for p in clip.parameters())
    assert all(p.grad is None for p in clip.parameters())
    assert measured.relative.shape == (2, len(clip.transformer.resblocks))

    clip.requires_grad_(True)
    for number, ids in enumerate(batches[:2]):
        clip.zero_grad()
        _loss(clip)(ids).backward()
        for block, layer in enumerate(clip.transformer.resblocks):
            gradient = torch.cat([p.grad.flatten() for p in layer.parameters()]).double()
            weight = torch.cat([p.detach().flatten() for p in layer.parameters()]).double()
            np.testing.assert_allclose(measured.relative[number, block], gradient.norm() / weight.norm(), rtol=1e-5)
            np.testing.assert_allclose(measured.fisher[number, block], gradient.square().mean(), rtol=1e-5)


def test_gradient_and_fisher_plans(make_clip, make_ids):
    clip = make_clip().eval()
    measured = ts.finetune.block_gradients(clip, _loss(clip), [make_ids(seed=s) for s in range(4)])
    plan = ts.prescribe(measured, by="gradient")
    mean = measured.relative.mean(axis=0)
    np.testing.assert_allclose(plan.alpha, mean / mean.max())  # Auto-RGN: lr * RGN / max
    assert plan.ci.shape == (len(mean), 2)
    assert (plan.ci[:, 0] <= plan.alpha + 1e-12).all()
    fisher = measured.fisher.mean(axis=0)
    np.testing.assert_allclose(ts.prescribe(measured, by="fisher").alpha, fisher / fisher.max())
    assert ts.prescribe(measured, by="gradient", ci=None).ci is None


def test_weight_change_plans_follow_the_size_of_the_update():
    share = ts.finetune.UpdateShare(np.array([3.0, 1.0, 2.0]))
    np.testing.assert_allclose(ts.prescribe(share, by="weight_change").alpha, [1, 1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        (4, {"by": "fronts"}, "fronts.*trace, gradient, fisher"),
        (4, {"by": "front"}, "needs k"),
        (4, {"by": "front", "k": 5}, "k is 5.*4 blocks"),
        (4, {"by": "front", "k": 0}, "k must be"),
        (4, {"by": "front", "k": True}, "k must be"),
        (4, {"by": "decay", "decay": 0.0}, "decay must be"),
        (4, {"by": "decay", "decay": float("nan")}, "decay must be"),
        (4, {"by": "decay", "decay": "0.5"}, "decay must be"),
        (4, {"by": "decay", "k": 2}, "k=2 is used by the selectors front, random"),
        (4, {"k": 2}, "k=2 is used by"),
        (1, {"by": "uniform"}, "number of text blocks"),
        ("model", {"by": "uniform"}, "number of text blocks"),
        (True, {"by": "uniform"}, "number of text blocks"),
        (PROFILE, {"by": "gradient"}, "block_gradients"),
        (PROFILE, {"by": "weight_change"}, "update_share"),
        (4, {"by": "uniform", "budget": "total"}, "unknown budget"),
        (ts.finetune.UpdateShare(np.zeros(3)), {"by": "weight_change"}, "change of the weights is 0 at every block"),
    ],
)
def test_refusals_say_what_to_do(source, options, sentence):
    with pytest.raises(PrescriptionError, match=sentence):
        ts.prescribe(source, **options)


def test_gradients_refuse_losses_that_tell_nothing(make_clip, make_ids):
    clip = make_clip().eval()
    measure = ts.finetune.block_gradients
    with pytest.raises(PrescriptionError, match="no batch"):
        measure(clip, _loss(clip), [])
    with pytest.raises(PrescriptionError, match="scalar"):
        measure(clip, lambda ids: 1.0, [make_ids()])
    with pytest.raises(PrescriptionError, match="does not depend"):
        measure(clip, lambda ids: clip.logit_scale * 1, [make_ids()])
    with pytest.raises(NonFiniteError, match="batch 1"):
        measure(clip, lambda ids: _loss(clip)(ids) * float("nan"), [make_ids()])
    with pytest.raises(PrescriptionError, match="max_batches"):
        measure(clip, _loss(clip), [make_ids()], max_batches=0)
    assert all(p.requires_grad for p in clip.parameters())


# -- aggregates of certain tokens ----------------------------------------------------------------------------------


def test_aggregates_of_certain_tokens_agree_with_their_definitions():
    trace = synthetic_trace(n_pairs=5, share_inverted=0, vary_length=True)
    cte, d = trace.cte.astype(np.float64), trace.denominator
    ends = [len(tokens) - 1 for tokens in trace.tokens]
    own = {
        "differing": [cte[i][:, trace.differs[i]].sum(axis=1) for i in range(5)],
        "pooled": [cte[i][:, end] for i, end in enumerate(ends)],
        "std_from_differing": [
            cte[i][:, trace.differs[i].argmax() : end + 1].std(axis=1) for i, end in enumerate(ends)
        ],
    }
    for aggregate, values in own.items():
        expected = (np.asarray(values) * d[:, None]).sum(axis=0) / d.sum()
        np.testing.assert_allclose(trace.per_layer(aggregate).value, expected, atol=1e-5)


def test_aggregates_of_certain_tokens_need_the_trace():
    trace = synthetic_trace(share_inverted=0)
    for source in (trace.map(), PROFILE):
        with pytest.raises(PrescriptionError, match="needs the trace itself"):
            ts.prescribe(source, aggregate="differing")
    with pytest.raises(TracescribeError, match="sum, max, mean, std"):
        trace.per_layer("differing", align="role")
    plan = ts.prescribe(trace, aggregate="differing", layers="inner")
    assert plan.provenance["aggregate"] == "differing"
