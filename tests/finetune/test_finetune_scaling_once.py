"""Multiplied once, and held: attached twice, schedulers, optimisers with copies, precision, sharding, wrappers."""

from __future__ import annotations

import copy
import logging
import warnings

import numpy as np
import pytest
import torch
from optimizers import AdamWScheduleFree
from torch.distributed.fsdp import fully_shard

import tracescribe as ts
from tracescribe.errors import PrescriptionError, PrescriptionWarning
from tracescribe.finetune import Prescription, ScaleInvariantOptimizerWarning, attach_lora
from tracescribe.patching import text_blocks

ALPHA = np.array([0.3, 1.0, 0.0])
PLAN = Prescription(ALPHA)


def blocks(module):
    return [list(block.parameters()) for block in text_blocks(module)]


def step(module, optimizer, seed=0):
    """One step on random gradients that do not depend on the parameters."""
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    total = 0
    for parameter in module.parameters():
        direction = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.requires_grad:
            total = total + (parameter * direction).sum()
    total.backward()
    optimizer.step()


def moved(before, after):
    """How far each block moved."""
    with torch.no_grad():
        pairs = zip(blocks(before), blocks(after), strict=True)
        return np.array(
            [float(torch.cat([(b - a).flatten() for a, b in zip(x, y, strict=True)]).norm()) for x, y in pairs]
        )


def ratio(base, attach, make_optimizer, steps=1):
    """The movement of each block under the plan as a share of ordinary training's."""
    scaled, free = copy.deepcopy(base), copy.deepcopy(base)
    optimizers = attach(scaled), make_optimizer(free.parameters())
    for seed in range(steps):
        for module, optimizer in zip((scaled, free), optimizers, strict=True):
            step(module, optimizer, seed)
    return moved(base, scaled) / moved(base, free)


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=0.1, **options)


# -- every optimiser of torch ---------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "AdamW plain": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False, fused=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=1e-2, t0=0),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_realised_ratio_is_the_multiplier(make_clip, name):
    base = make_clip(layers=3)
    handles = []

    def attach(module):
        optimizer = OPTIMIZERS[name](module.parameters())
        handles.append(PLAN.attach(module, optimizer))
        return optimizer

    # float32 rounds p + step, step >= 1e-3 of p or so: 1e-7 / 1e-3 relative
    np.testing.assert_allclose(ratio(base, attach, OPTIMIZERS[name]), ALPHA, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(handles[0].realised(), ALPHA, atol=1e-3)


def test_muon_is_scaled(make_clip):
    def matrices(module):
        return [parameter for block in blocks(module) for parameter in block if parameter.ndim == 2]

    base = make_clip(layers=3)
    scaled, free = copy.deepcopy(base), copy.deepcopy(base)
    for module in (scaled, free):
        optimizer = torch.optim.Muon(matrices(module), lr=1e-2)
        if module is scaled:
            PLAN.attach(module, optimizer)
        step(module, optimizer)
    np.testing.assert_allclose(moved(base, scaled) / moved(base, free), ALPHA, atol=1e-3)


# -- multiplied once ------------------------------------------------------------------------------------------------


def test_param_groups_and_attach_on_one_optimiser_are_refused(make_clip):
    module = make_clip(layers=3)
    optimizer = torch.optim.AdamW(PLAN.param_groups(module, lr=1e-3))
    for mode in ("update", "gradient"):
        with pytest.raises(PrescriptionError, match="either param_groups or attach, not both"):
            PLAN.attach(module, optimizer, mode=mode)


def test_param_groups_of_parameters_with_scaled_gradients_are_refused(make_clip):
    module = make_clip(layers=3)
    handle = PLAN.attach(module, sgd(module.parameters()), mode="gradient")
    with pytest.raises(PrescriptionError, match="scaled already"):
        PLAN.param_groups(module, lr=1e-3)
    handle.remove()
    assert PLAN.param_groups(module, lr=1e-3)


@pytest.mark.parametrize("mode", ["update", "gradient"])
@pytest.mark.parametrize("again", ["same optimiser", "new optimiser"])
def test_a_cell_that_is_run_twice_multiplies_once(make_clip, mode, again, caplog):
    base = make_clip(layers=3)

    def attach(module):
        optimizer = sgd(module.parameters())
        first = PLAN.attach(module, optimizer, mode=mode)
        optimizer = optimizer if again == "same optimiser" else sgd(module.parameters())
        PLAN.attach(module, optimizer, mode=mode)
        first.remove()  # of what is replaced already: does nothing
        return optimizer

    np.testing.assert_allclose(ratio(base, attach, sgd), ALPHA, atol=1e-3)
    if mode == "gradient" or again == "same optimiser":
        assert "attached here before; it is replaced" in caplog.text


@pytest.mark.parametrize("modes", [("update", "update"), ("gradient", "update"), ("gradient", "gradient")])
def test_plans_of_two_models_in_one_optimiser_both_hold(make_clip, modes, caplog):
    pair = torch.nn.ModuleList([make_clip(layers=3), make_clip(layers=3)])
    start, free = copy.deepcopy(pair), copy.deepcopy(pair)
    plans = PLAN, Prescription(ALPHA[::-1].copy())
    optimizer = sgd(pair.parameters())
    handles = [plan.attach(m, optimizer, mode, others=0) for plan, m, mode in zip(plans, pair, modes, strict=True)]
    step(pair, optimizer)
    step(free, sgd(free.parameters()))
    for plan, before, scaled, whole in zip(plans, start, pair, free, strict=True):
        np.testing.assert_allclose(moved(before, scaled) / moved(before, whole), plan.alpha, atol=1e-5)
    assert "it is replaced" not in caplog.text
    handles[0] = PLAN.attach(pair[0], optimizer, modes[0], others=0)
    assert "it is replaced" in caplog.text
    step(pair, optimizer, seed=1)
    if modes[1] == "update":
        np.testing.assert_allclose(handles[1].realised(), plans[1].alpha, atol=1e-5)


def test_a_trainer_that_is_interrupted_and_started_again(make_clip):
    base = make_clip(layers=3)

    def attach(module):
        optimizer = sgd(module.parameters())
        for mode in ("gradient", "update"):
            callback = PLAN.callback(mode, module)
            for _ in range(2):  # on_train_end never comes
                callback.on_train_begin(None, None, None, model=module, optimizer=optimizer)
        return optimizer

    np.testing.assert_allclose(ratio(base, attach, sgd), ALPHA, atol=1e-3)


def test_adapters_that_carry_the_multipliers_are_not_scaled_again(make_clip):
    plan = Prescription(np.array([0.3, 1.0, 0.0]))
    module = make_clip(layers=3)
    adapted = attach_lora(module, plan.lora_config(module, mode="scale", r=2))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
    with pytest.raises(PrescriptionError, match="carry this plan's multipliers already"):
        plan.attach(adapted, optimizer)
    with pytest.raises(PrescriptionError, match="carry this plan's multipliers already"):
        plan.param_groups(adapted, lr=1e-3)
    other = make_clip(layers=3)
    other = attach_lora(other, plan.lora_config(other, mode="rank", r=4))
    assert plan.param_groups(other, lr=1e-3)  # rank and rate are two things


@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_an_optimiser_from_before_the_adapters_is_refused(make_clip, mode):
    """It holds the weights that LoRA has frozen, so that nothing would be trained."""
    module = make_clip(layers=3)
    optimizer = sgd(module.parameters())
    adapted = attach_lora(module, PLAN.lora_config(module, r=2))
    with pytest.raises(PrescriptionError, match=r"holds none of the 24 trainable .*; build it after them"):
        PLAN.attach(adapted, optimizer, mode=mode)
    PLAN.attach(adapted, sgd([p for p in adapted.parameters() if p.requires_grad]), mode=mode)


@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_a_group_that_is_added_after_the_plan_is_said_once(make_clip, mode):
    module = make_clip(layers=3)
    optimizer = sgd(blocks(module)[0])
    PLAN.attach(module, optimizer, mode=mode)
    step(module, optimizer)
    optimizer.add_param_group({"params": blocks(module)[2]})
    with pytest.warns(PrescriptionWarning, match="a parameter group was added to the optimiser after the plan"):
        step(module, optimizer)
    before = copy.deepcopy(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrescriptionWarning)
        PLAN.attach(module, optimizer, mode=mode)  # now of both
        step(module, optimizer)
    assert moved(before, module)[2] == 0


# -- parameters outside the text blocks -----------------------------------------------------------------------------


def test_nothing_outside_the_blocks_moves_by_default(make_clip):
    module = make_clip(layers=3)
    before = copy.deepcopy(module)
    step(module, torch.optim.AdamW(PLAN.param_groups(module, lr=1e-2)))
    inside = {id(parameter) for block in blocks(module) for parameter in block}
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), module.parameters(), strict=True)]
    assert changed == [id(p) in inside and id(p) not in set(map(id, blocks(module)[2])) for p in module.parameters()]


def test_their_rate_is_said(make_clip):
    groups = PLAN.param_groups(make_clip(layers=3), lr=1e-2, others=1e-5)
    assert (groups[-1]["layer"], groups[-1]["lr"]) == (None, 1e-5)
    with pytest.raises(PrescriptionError, match="others must be a learning rate of at least 0 or None, not -1"):
        PLAN.param_groups(make_clip(layers=3), lr=1e-2, others=-1)


@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_attach_holds_them_still_and_says_so(make_clip, mode, caplog):
    before = make_clip(layers=3)
    for others in ({}, {"others": None}, {"others": 0}):
        module = copy.deepcopy(before)
        optimizer = sgd(module.parameters(), weight_decay=0.1)
        PLAN.attach(module, optimizer, mode=mode, **others)
        step(module, optimizer)
        inside = {id(parameter) for block in text_blocks(module) for parameter in block.parameters()}
        for (name, parameter), old in zip(module.named_parameters(), before.parameters(), strict=True):
            assert id(parameter) in inside or torch.equal(parameter, old), name
        assert not torch.equal(text_blocks(module)[0].attn.in_proj_weight, text_blocks(before)[0].attn.in_proj_weight)
        n = sum(id(parameter) not in inside for parameter in module.parameters())
        said = f"{n} of the optimiser's tensors" in caplog.text and "are held still; others=1" in caplog.text
        assert said == (others != {"others": 0})
        caplog.clear()


@pytest.mark.parametrize("mode", ["update", "gradient"])
@pytest.mark.parametrize("others", [1, 0.5])
def test_attach_scales_them_by_what_is_said(make_clip, mode, others, caplog):
    base = make_clip(layers=3).double()
    free, scaled = copy.deepcopy(base), copy.deepcopy(base)
    optimizer = sgd(scaled.parameters())
    PLAN.attach(scaled, optimizer, mode=mode, others=others)
    assert not caplog.text
    step(scaled, optimizer)
    step(free, sgd(free.parameters()))
    for name in ("visual.conv1.weight", "token_embedding.weight", "logit_scale"):
        (start, ours, theirs) = (module.get_parameter(name).detach() for module in (base, scaled, free))
        torch.testing.assert_close(ours - start, others * (theirs - start), rtol=1e-4, atol=1e-8)
    with pytest.raises(PrescriptionError, match="others must be a finite multiplier"):
        PLAN.attach(scaled, optimizer, others=float("nan"))


# -- schedulers -----------------------------------------------------------------------------------------------------


def one_rate(optimizer):
    """What open_clip's training does at every step (open_clip_train.scheduler.assign_learning_rate)."""
    for group in optimizer.param_groups:
        group["lr"] = 1e-3


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1e-3, total_steps=10),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10, eta_min=1e-4),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=1e-3, cycle_momentum=False),
        lambda o: type("OpenClip", (), {"step": lambda self: one_rate(o)})(),
    ],
    ids=["OneCycle", "cosine with eta_min", "cyclic", "open_clip"],
)
def test_a_scheduler_that_undoes_the_rates_is_said_once(make_clip, schedule):
    module = make_clip(layers=3)
    optimizer = torch.optim.AdamW(PLAN.param_groups(module, lr=1e-3))
    scheduler = schedule(optimizer)
    with pytest.warns(
        PrescriptionWarning, match=r"rates are off the plan: block \d has .* use one that multiplies"
    ) as seen:
        for seed in range(3):
            step(module, optimizer, seed)
            scheduler.step()
    assert len(seen) == 1


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda done: min(1.0, done / 3)),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=10),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=[g["lr"] + 1e-30 for g in o.param_groups], total_steps=10
        ),
    ],
    ids=["warm-up", "cosine", "exponential", "OneCycle with a list"],
)
@pytest.mark.filterwarnings("error::tracescribe.errors.PrescriptionWarning")
def test_schedulers_that_multiply_are_fine(make_clip, schedule):
    module = make_clip(layers=3)
    optimizer = torch.optim.AdamW(PLAN.param_groups(module, lr=1e-3))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    scheduler = schedule(optimizer)
    for seed in range(9):
        step(module, optimizer, seed)
        scheduler.step()


# -- optimisers that wrap, or keep copies ---------------------------------------------------------------------------


def test_a_checkpoint_that_brings_the_rates_of_another_plan_is_said_once(make_clip):
    module = make_clip(layers=3)
    first = torch.optim.AdamW(PLAN.param_groups(module, lr=1e-2))
    step(module, first)
    second = torch.optim.AdamW(Prescription(ALPHA[::-1].copy()).param_groups(module, lr=1e-2))
    second.load_state_dict(first.state_dict())
    with pytest.warns(
        PrescriptionWarning, match=r"block 1 has multiplier 0.3 where the plan says 0: a checkpoint brings"
    ):
        step(module, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(module, second)
        again = torch.optim.AdamW(PLAN.param_groups(module, lr=1e-2))
        again.load_state_dict(first.state_dict())
        step(module, again)


def test_schedule_free_is_refused_and_works_by_groups(make_clip):
    module = make_clip(layers=3)
    with pytest.raises(PrescriptionError, match=r"second copy of the weights.*plan\.param_groups"):
        PLAN.attach(module, AdamWScheduleFree(module.parameters()))
    found = ratio(
        make_clip(layers=3),
        lambda m: AdamWScheduleFree(PLAN.param_groups(m, lr=0.1)),
        AdamWScheduleFree,
        steps=3,
    )
    np.testing.assert_allclose(found, ALPHA, atol=1e-3)


def test_an_unknown_optimiser_that_keeps_the_weights_is_said(make_clip):
    module = make_clip(layers=3)
    optimizer = type("MasterWeights", (AdamWScheduleFree,), {})(module.parameters(), lr=1e-3)
    PLAN.attach(module, optimizer)
    with pytest.warns(PrescriptionWarning, match=r"MasterWeights keeps a copy of the weights \('z'\)"):
        step(module, optimizer)


def test_timms_lookahead_is_scaled(make_clip):
    from timm.optim import Lookahead

    base = make_clip(layers=3)

    def make(parameters):
        return Lookahead(sgd(parameters), k=2)

    def attach(module):
        optimizer = make(module.parameters())
        PLAN.attach(module, optimizer)
        return optimizer

    np.testing.assert_allclose(ratio(base, attach, make, steps=5), ALPHA, atol=1e-3)


# -- precision, decay, sharding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplier", [0.6, 0.1, 1.7])
def test_bfloat16_keeps_what_is_rounded_off(make_clip, multiplier):
    """Steps of one unit in the last place: .6 of it rounds to the full unit, .1 of it to nothing."""
    plan = Prescription(np.array([multiplier, 1.0, multiplier]))
    module = make_clip(layers=3).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    plan.attach(module, optimizer)
    before = copy.deepcopy(module)
    for _ in range(40):
        optimizer.zero_grad()
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, -(2.0**-7))
        optimizer.step()
    share = moved(before, module)
    # 40 units of 2^-7; what is kept for later is at most one unit
    np.testing.assert_allclose(share[[0, 2]] / share[1], multiplier, atol=1 / 40 + 1e-6)


def test_bfloat16_follows_whoever_else_writes(make_clip):
    module = make_clip(layers=3).to(torch.bfloat16)
    optimizer = sgd(module.parameters())
    PLAN.attach(module, optimizer)
    step(module, optimizer)
    with torch.no_grad():
        blocks(module)[0][0].fill_(3.0)
    step(module, optimizer)
    assert float(blocks(module)[0][0].detach().float().mean()) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("mode", ["update", "gradient"])
def test_weight_decay_moves_no_frozen_block(make_clip, mode):
    base = make_clip(layers=3)

    def attach(module):
        optimizer = sgd(module.parameters(), weight_decay=0.5, momentum=0.9)
        PLAN.attach(module, optimizer, mode=mode)
        return optimizer

    assert ratio(base, attach, sgd, steps=3)[2] == 0


def test_an_outside_writer_is_reported(make_clip):
    module = make_clip(layers=3)
    optimizer = sgd(module.parameters())
    handle = PLAN.attach(module, optimizer)
    with pytest.raises(PrescriptionError, match="no step was seen yet"):
        handle.realised()
    before = copy.deepcopy(blocks(module)[0])
    step(module, optimizer)
    np.testing.assert_allclose(handle.realised(), ALPHA, atol=1e-4)
    with torch.no_grad():  # somebody puts the full step back
        for parameter, old in zip(blocks(module)[0], before, strict=True):
            parameter.copy_(old + (parameter - old) / 0.3)
    with pytest.warns(PrescriptionWarning, match=r"block 1 took 1 of the optimiser's step where the plan says 0\.3"):
        assert handle.realised()[0] == pytest.approx(1, abs=1e-3)


def test_what_gradient_mode_realises_is_not_known(make_clip):
    module = make_clip(layers=3)
    handle = PLAN.attach(module, sgd(module.parameters()), mode="gradient")
    with pytest.raises(PrescriptionError, match="compare two runs with update_share"):
        handle.realised()


@pytest.fixture
def one_process(tmp_path):
    """A process group of one process, over a file."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_parameters_are_scaled(make_clip, one_process):
    base = make_clip(layers=3)
    module = copy.deepcopy(base)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for block in text_blocks(module):
        fully_shard(block, mesh=mesh)
    module.logit_scale.requires_grad_(False)  # FSDP2 takes no scalars
    fully_shard(module, mesh=mesh, ignored_params={module.logit_scale})
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    handle = PLAN.attach(module, optimizer)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    np.testing.assert_allclose(handle.realised(), ALPHA, atol=1e-3)
    for block, old, alpha in zip(blocks(module), blocks(base), ALPHA, strict=True):
        change = (block[0].full_tensor() - old[0]).detach().abs().mean()
        assert float(change) == pytest.approx(1e-2 * alpha, rel=0.05)


@pytest.mark.parametrize("wrap", ["DDP", "DataParallel", "compile", "DualEncoder"])
def test_wrapped_modules(make_clip, one_process, wrap):
    base = make_clip(layers=3)
    wrapped = {
        "DDP": torch.nn.parallel.DistributedDataParallel,
        "DataParallel": torch.nn.DataParallel,
        "compile": torch.compile,
        "DualEncoder": lambda module: type("DualEncoder", (), {"__module__": "tracescribe", "source": module})(),
    }[wrap](base)
    groups = PLAN.param_groups(wrapped, lr=1.0)
    assert [group["lr"] for group in groups] == [0.3, 1.0, 0.0]
    assert PLAN.attach(wrapped, sgd(base.parameters())).parameters == {1: 12, 2: 12, 3: 12}
    assert PLAN.lora_config(wrapped, mode="mask").target_modules == PLAN.lora_config(base, mode="mask").target_modules


def test_a_dual_encoder_is_taken_for_its_source(caplog):
    model = ts.load("phantom")
    plan = Prescription(np.linspace(0.2, 1, model.text.n_layers))
    groups = plan.param_groups(model, lr=1.0)
    assert [id(p) for group in groups for p in group["params"]] == [
        id(p) for block in text_blocks(model.source) for p in block.parameters()
    ]
    config = plan.lora_config(model, mode="rank", r=4)
    adapted = attach_lora(copy.deepcopy(model.source), config)
    assert any(p.requires_grad for p in adapted.parameters())


# -- plans of other weights -----------------------------------------------------------------------------------------


def test_a_plan_of_other_weights_is_said(caplog):
    model = ts.load("phantom")
    trace = {"model": "phantom", "weights_sha256": model.text.fingerprint()}
    alpha = np.linspace(0.2, 1, model.text.n_layers)
    fits = Prescription(alpha, provenance={"trace": trace})
    other = Prescription(alpha, provenance={"trace": {**trace, "weights_sha256": "0" * 64}})
    source = copy.deepcopy(model.source)
    adapted = attach_lora(copy.deepcopy(source), fits.lora_config(source))
    optimizer = sgd([p for p in adapted.parameters() if p.requires_grad])

    def uses(plan):
        yield lambda: plan.param_groups(model, lr=1.0)
        yield lambda: plan.param_groups(source, lr=1.0)
        yield lambda: plan.param_groups(adapted, lr=1.0)
        yield lambda: plan.attach(adapted, optimizer)
        yield lambda: plan.lora_config(source, mode="mask")

    with caplog.at_level(logging.WARNING):
        for use in uses(fits):
            use()
            assert "other text weights" not in caplog.text
        for use in uses(other):
            caplog.clear()
            use()
            assert "other text weights than those that are trained now" in caplog.text


def test_gradient_mode_still_warns(make_clip):
    module = make_clip(layers=3)
    with pytest.warns(ScaleInvariantOptimizerWarning):
        PLAN.attach(module, torch.optim.AdamW(module.parameters()), mode="gradient")


def test_what_is_warned_of_is_not_logged_too(make_clip, caplog):
    """A notebook shows both."""
    module = make_clip()
    with pytest.warns(ScaleInvariantOptimizerWarning):
        PLAN.attach(module, torch.optim.AdamW(module.parameters()), mode="gradient")
    assert "gradient scaling" not in caplog.text
