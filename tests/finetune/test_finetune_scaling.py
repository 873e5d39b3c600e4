"""Realised updates: what the multipliers do to the parameters, under every way to apply them."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from models import open_clip_model, transformers_model

from tracescribe.errors import PrescriptionError, UnsupportedTowerError
from tracescribe.finetune import Prescription, ScaleInvariantOptimizerWarning, attach, update_share
from tracescribe.finetune.apply.update_share import _SPLIT
from tracescribe.patching import text_blocks

ALPHA = np.array([0.3, 1.0, 0.0])
PLAN = Prescription(ALPHA, beta=2.0)


def snapshot(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def block_of(module) -> dict[str, int]:
    """Block (1..L) of each parameter name; parameters outside the text blocks are absent."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(p)]: layer for layer, block in enumerate(text_blocks(module), 1) for p in block.parameters()}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters, **options):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, **options)


def step(module, optimizer, seed, closure=False):
    """One step on fixed random gradients of mixed sizes, in the way a training loop makes it."""
    generator = torch.Generator().manual_seed(seed)

    def backward():
        optimizer.zero_grad()
        directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]
        sum((p * d).sum() for p, d in zip(module.parameters(), directions, strict=True)).backward()
        return torch.zeros(())

    if closure:
        optimizer.step(backward)
    else:
        backward()
        optimizer.step()


def run(base, make_optimizer, prepare, steps=1, **options):
    """Updates by parameter name after some steps of training a copy of ``base``."""
    module = copy.deepcopy(base).double()  # so that rounding of p + update does not blur the ratio
    before = snapshot(module)
    optimizer = prepare(module, make_optimizer)
    for seed in range(steps):
        step(module, optimizer, seed, **options)
    return {name: parameter.detach() - before[name] for name, parameter in module.named_parameters()}


def plain(module, make_optimizer):
    return make_optimizer(module.parameters())


def by_groups(module, make_optimizer):
    lr = make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
    return make_optimizer(PLAN.param_groups(module, lr=lr, others=lr))


def attached(mode):
    def prepare(module, make_optimizer):
        optimizer = make_optimizer(module.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScaleInvariantOptimizerWarning)
            attach(PLAN, module, optimizer, mode, others=1)
        return optimizer

    return prepare


def assert_scaled(base, scaled, free, multipliers):
    layers = block_of(base)
    assert set(layers.values()) == {1, 2, 3}
    for name, update in scaled.items():
        expected = multipliers[layers[name] - 1] if name in layers else 1.0
        torch.testing.assert_close(update, expected * free[name], rtol=1e-5, atol=1e-12, msg=name)


# -- the ratio of updates is alpha ** beta --------------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [by_groups, attached("update")], ids=["param_groups", "update"])
@pytest.mark.parametrize("make_optimizer", [sgd, adamw], ids=["SGD", "AdamW"])
def test_updates_are_scaled_with_weight_decay(make_model, prepare, make_optimizer):
    base = make_model(layers=3)
    scaled, free = run(base, make_optimizer, prepare), run(base, make_optimizer, plain)
    assert_scaled(base, scaled, free, PLAN.multipliers)


def test_gradient_mode_scales_sgd(make_model):
    base = make_model(layers=3)
    scaled, free = run(base, sgd, attached("gradient"), steps=3), run(base, sgd, plain, steps=3)
    assert_scaled(base, scaled, free, PLAN.multipliers)


def test_adamw_cancels_gradient_mode(make_clip):
    """The trap at the heart of the method: under AdamW a layer with multiplier .09 learns as much as any other."""
    base = make_clip(layers=3)

    def no_decay(parameters):
        return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)

    scaled, free = run(base, no_decay, attached("gradient")), run(base, no_decay, plain)
    for name, layer in block_of(base).items():
        ratio = (scaled[name].norm() / free[name].norm()).item()
        assert ratio == pytest.approx(0.0 if layer == 3 else 1.0, abs=1e-5), name  # eps becomes eps / c: ~1e-7


@pytest.mark.parametrize(
    "make_optimizer",
    [
        sgd,
        adamw,
        lambda parameters: adamw(parameters, foreach=True),
        lambda parameters: adamw(parameters, amsgrad=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-2),
    ],
)
@pytest.mark.parametrize("closure", [False, True])
def test_update_mode_scales_every_step_of_a_run(make_clip, make_optimizer, closure):
    """Gradients here do not depend on the parameters: without decay all the steps add up to the scaled sum."""

    def undecayed(parameters):
        optimizer = make_optimizer(parameters)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    base = make_clip(layers=3)
    scaled = run(base, undecayed, attached("update"), steps=4, closure=closure)
    free = run(base, undecayed, plain, steps=4, closure=closure)
    assert_scaled(base, scaled, free, PLAN.multipliers)


def test_lbfgs_with_its_inner_steps(make_clip):
    base = make_clip(layers=3)

    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)

    scaled = run(base, lbfgs, attached("update"), closure=True)
    assert_scaled(base, scaled, run(base, lbfgs, plain, closure=True), PLAN.multipliers)


def test_optimizer_state_is_that_of_ordinary_training(make_clip):
    states = []
    for use in (plain, attached("update")):
        module = make_clip(layers=3).double()
        optimizer = use(module, adamw)
        step(module, optimizer, seed=0)
        states.append([state["exp_avg"] for state in optimizer.state_dict()["state"].values()])
    for ours, ordinary in zip(*states, strict=True):
        torch.testing.assert_close(ours, ordinary, rtol=0, atol=0)


def test_accumulated_gradients_are_scaled_once(make_clip):
    module = make_clip(layers=3).double()
    optimizer = sgd(module.parameters())
    attach(PLAN, module, optimizer, "gradient")
    for _ in range(3):
        sum(p.sum() for p in module.parameters()).backward()
    for name, layer in block_of(module).items():
        gradient = dict(module.named_parameters())[name].grad
        torch.testing.assert_close(gradient, torch.full_like(gradient, 3 * PLAN.multipliers[layer - 1]))


@pytest.mark.parametrize("prepare", [by_groups, attached("update")], ids=["param_groups", "update"])
def test_alpha_zero_freezes_bit_for_bit(make_clip, prepare):
    updates = run(make_clip(layers=3), adamw, prepare, steps=3)
    frozen = [update for name, update in updates.items() if ".resblocks.2." in name and "visual" not in name]
    assert frozen
    assert not any(update.any() for update in frozen)


def test_a_step_that_blows_up_leaves_frozen_layers_alone(make_clip):
    module = make_clip(layers=3)
    optimizer = sgd(module.parameters())
    attach(PLAN, module, optimizer)
    sum(p.sum() * float("nan") for p in module.parameters()).backward()
    optimizer.step()
    for block in text_blocks(module)[2:]:
        for parameter in block.parameters():
            assert torch.isfinite(parameter).all()
    assert not torch.isfinite(next(text_blocks(module)[0].parameters())).all()


# -- which parameters -----------------------------------------------------------------------------------------------


def test_groups_hold_every_trainable_parameter_once(make_model):
    module = make_model(layers=3)
    module.logit_scale.requires_grad_(False)
    groups = PLAN.param_groups(module, lr=1.0, others=1.0, weight_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    assert [group["layer"] for group in groups] == [1, 2, 3, None]
    np.testing.assert_allclose([group["lr"] for group in groups], [*PLAN.multipliers, 1])
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_the_vision_tower_is_never_tagged(make_model):
    """Its blocks have the same names: resblocks.0, encoder.layers.0."""
    module = make_model(layers=3)
    rest = {id(parameter) for parameter in PLAN.param_groups(module, lr=1.0, others=1.0)[-1]["params"]}
    vision = [p for name, p in module.named_parameters() if name.startswith(("visual.", "vision_model."))]
    assert len(vision) >= 20
    assert all(id(parameter) in rest for parameter in vision)


def test_removed_attachment_leaves_ordinary_training(make_clip):
    base = make_clip(layers=3)

    def prepare(module, make_optimizer):
        optimizer = make_optimizer(module.parameters())
        with attach(PLAN, module, optimizer) as handle, attach(PLAN, module, optimizer, "gradient"):
            assert handle.parameters == {1: 12, 2: 12, 3: 12}
        handle.remove()
        return optimizer

    with pytest.warns(ScaleInvariantOptimizerWarning):
        updates = run(base, adamw, prepare)
    for name, update in run(base, adamw, plain).items():
        torch.testing.assert_close(updates[name], update, rtol=0, atol=0)


# -- warnings and errors --------------------------------------------------------------------------------------------


class PagedAdamW8bit(torch.optim.SGD):
    """Stands for optimisers of other packages, known by name."""


class Lookahead:
    """A wrapper that keeps the real optimiser as ``.optimizer``."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


@pytest.mark.parametrize(
    "make_optimizer",
    [
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adagrad,
        torch.optim.Adadelta,
        torch.optim.Adafactor,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        PagedAdamW8bit,
        lambda parameters: Lookahead(torch.optim.AdamW(parameters)),
    ],
)
def test_gradient_mode_warns_under_scale_invariant_optimizers(make_clip, make_optimizer):
    module = make_clip(layers=3)
    optimizer = make_optimizer(module.parameters())
    with pytest.warns(ScaleInvariantOptimizerWarning, match=r"undoes gradient scaling.*mode='update'"):
        attach(PLAN, module, optimizer, "gradient")


@pytest.mark.parametrize("wrap", ["accelerate", "Lookahead"])
def test_wrapped_optimizers_are_scaled_inside(make_clip, wrap):
    from accelerate import Accelerator

    def wrapped(module, make_optimizer):
        optimizer = make_optimizer(module.parameters())
        outer = Accelerator(cpu=True).prepare(optimizer) if wrap == "accelerate" else Lookahead(optimizer)
        attach(PLAN, module, outer, others=1)
        return optimizer

    base = make_clip(layers=3)
    assert_scaled(base, run(base, adamw, wrapped), run(base, adamw, plain), PLAN.multipliers)


def test_an_optimizer_without_step_hooks(make_clip):
    module = make_clip(layers=3)

    class Own:
        param_groups = ({"params": list(module.parameters())},)

    with pytest.raises(PrescriptionError, match="Own has no step hooks"):
        attach(PLAN, module, Own())


@pytest.mark.parametrize(("optimizer", "mode"), [("SGD", "gradient"), ("ASGD", "gradient"), ("AdamW", "update")])
def test_no_warning_where_scaling_works(make_clip, optimizer, mode):
    module = make_clip(layers=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(PLAN, module, getattr(torch.optim, optimizer)(module.parameters()), mode)


def test_number_of_blocks_must_fit(make_model):
    with pytest.raises(PrescriptionError, match="3 blocks, but this module's text tower has 4"):
        PLAN.param_groups(make_model(layers=4), lr=1.0)


def test_transposed_map_is_named(make_clip):
    plan = Prescription(ALPHA, provenance={"shape": [4, 5]})
    with pytest.raises(PrescriptionError, match=r"has 4.*pass its transpose"):
        plan.param_groups(make_clip(layers=4), lr=1.0)


def test_optimizer_of_something_else(make_clip):
    module = make_clip(layers=3)
    optimizer = sgd(module.visual.parameters())
    with pytest.raises(PrescriptionError, match="none of the optimiser's parameters belongs to a text block"):
        attach(PLAN, module, optimizer)


def test_frozen_text_tower(make_clip):
    module = make_clip(layers=3)
    module.transformer.requires_grad_(False)
    with pytest.raises(PrescriptionError, match="attach LoRA first"):
        PLAN.param_groups(module, lr=1.0)


def test_shared_blocks(make_clip):
    module = make_clip(layers=3)
    module.transformer.resblocks[2] = module.transformer.resblocks[0]
    with pytest.raises(PrescriptionError, match="blocks 1 and 3 share a parameter"):
        PLAN.param_groups(module, lr=1.0)


def test_unknown_mode_and_module(make_clip):
    module = make_clip(layers=3)
    with pytest.raises(PrescriptionError, match=r"'both'.*update, gradient"):
        attach(PLAN, module, sgd(module.parameters()), "both")
    with pytest.raises(UnsupportedTowerError):
        PLAN.param_groups(torch.nn.Linear(2, 2), lr=1.0)


# -- shares of the update -------------------------------------------------------------------------------------------


def test_update_share_measures_the_change_of_each_block(make_model):
    before = make_model(layers=3)
    after = copy.deepcopy(before)
    with torch.no_grad():
        for block, size in zip(text_blocks(after), (0.0, 1.0, 3.0), strict=True):
            next(block.parameters()).flatten()[0] += size
        after.logit_scale += 7  # outside the blocks
    share = update_share(before, after, Prescription(ALPHA))
    np.testing.assert_allclose(share.size, [0, 1, 3], rtol=1e-6)
    np.testing.assert_allclose([share.top(1), share.top(1, by="size"), share.top(3)], [0.25, 0.75, 1])
    assert 1 < share.effective_layers < 2


def test_fused_and_split_projections_count_alike():
    """The same change of queries, keys and values, stored as one matrix by open_clip and as three by transformers."""
    generator = torch.Generator().manual_seed(0)
    change, bias = torch.randn(96, 32, generator=generator), torch.randn(96, generator=generator)
    fused, split = open_clip_model(layers=2), transformers_model(layers=2)
    fused_after, split_after = copy.deepcopy(fused), copy.deepcopy(split)
    with torch.no_grad():
        attention = text_blocks(fused_after)[1].attn
        attention.in_proj_weight += change
        attention.in_proj_bias += bias
        attention = text_blocks(split_after)[1].self_attn
        for part, weight, offset in zip("qkv", change.chunk(3), bias.chunk(3), strict=True):
            layer = getattr(attention, f"{part}_proj")
            layer.weight += weight
            layer.bias += offset
    sizes = update_share(fused, fused_after).size
    np.testing.assert_allclose(sizes, [0, float(change.norm() + bias.norm())], rtol=1e-5)
    np.testing.assert_allclose(update_share(split, split_after).size, sizes, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("self_attn.q_proj.weight", "self_attn.qkv.weight"),
        ("attention.self.query.bias", "attention.self.qkv.bias"),
        ("attention.attn.v.weight", "attention.attn.qkv.weight"),
        ("layer.0.SelfAttention.k.weight", "layer.0.SelfAttention.qkv.weight"),
        ("attention.k_lin.weight", "attention.qkv.weight"),
        ("attn.in_proj_weight", "attn.in_proj_weight"),
        ("self_attn.out_proj.weight", "self_attn.out_proj.weight"),
        ("mlp.key_value.weight", "mlp.key_value.weight"),
    ],
)
def test_what_counts_as_one_matrix(name, matrix):
    assert _SPLIT.sub("qkv", name) == matrix


def test_update_share_without_change_or_plan(make_clip):
    module = make_clip(layers=3)
    share = update_share(module, module)
    assert (share.share.sum(), share.effective_layers) == (0, 0)
    with pytest.raises(PrescriptionError, match="needs a plan"):
        share.top(1)
    with pytest.raises(PrescriptionError, match="different text blocks"):
        update_share(module, make_clip(layers=2))
