"""Every way to apply a plan under every optimiser: exact, or warned of, as the table in docs/finetuning.md says."""

from __future__ import annotations

import copy
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm.optim
import torch
from models import open_clip_hf_model, open_clip_model, siglip_model, transformers_model
from optimizers import AdamWScheduleFree
from transformers.optimization import Adafactor as TransformersAdafactor

from tracescribe.errors import PrescriptionError, PrescriptionWarning
from tracescribe.finetune import Prescription, attach_lora, effective_weights, update_share
from tracescribe.finetune.apply.adapters import lora_deltas, lora_factors
from tracescribe.patching import text_blocks

ALPHA = np.array([0.3, 1.0, 0.6])
PLAN = Prescription(ALPHA)
LR = 1e-4
DOCS = Path(__file__).parents[2] / "docs" / "finetuning.md"

# Steps in float64 on gradients that do not depend on the parameters: what is left is eps (Adam divides by
# |g| + 1e-8), and optimisers that scale a step by the norm of the parameters, which has moved by 1e-4 of itself.
EXACT = 1e-3


def torch_(name: str, **options):
    return lambda parameters: getattr(torch.optim, name)(parameters, lr=LR, **options)


def timm_(name: str):
    return lambda parameters: timm.optim.create_optimizer_v2(parameters, opt=name, lr=LR, weight_decay=0.0)


# by the row of the table
OPTIMIZERS: dict[str, list[Callable]] = {
    "torch AdamW": [
        torch_("AdamW", weight_decay=0.0, foreach=False),
        torch_("AdamW", weight_decay=0.0, foreach=True),
        torch_("AdamW", weight_decay=0.0, fused=True),
    ],
    "torch SGD, with momentum": [torch_("SGD", momentum=0.9), torch_("SGD", momentum=0.9, nesterov=True, fused=True)],
    "timm Lion": [timm_("lion")],
    "torch Adafactor": [torch_("Adafactor")],
    "transformers Adafactor, `relative_step=False`": [
        lambda parameters: TransformersAdafactor(parameters, lr=LR, relative_step=False, scale_parameter=False)
    ],
    "transformers Adafactor, `relative_step=True`": [lambda parameters: TransformersAdafactor(parameters)],
    "torch Muon (matrices only)": [torch_("Muon", weight_decay=0.0)],
    "timm Muon": [timm_("muon")],
    "timm LAMB": [timm_("lamb")],
    "timm MADGRAD": [timm_("madgrad")],
    "schedule-free": [lambda parameters: AdamWScheduleFree(parameters, lr=LR)],
}
MATRICES_ONLY = ("torch Muon (matrices only)",)
CASES = [(row, number) for row, made in OPTIMIZERS.items() for number in range(len(made))]
MODES = ("param_groups", "update", "gradient")


@cache
def base() -> torch.nn.Module:
    return open_clip_model(layers=3).double()


def blocks(module):
    return [list(block.parameters()) for block in text_blocks(module)]


def trained(module, row: str):
    return [p for block in blocks(module) for p in block if p.ndim == 2 or row not in MATRICES_ONLY]


def moved(module):
    with torch.no_grad():
        pairs = zip(blocks(base()), blocks(module), strict=True)
        return np.array([sum(float((b - a).norm()) for a, b in zip(x, y, strict=True)) for x, y in pairs])


def after_steps(module, optimizer, parameters, steps: int = 2):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p * torch.randn(p.shape, generator=generator, dtype=p.dtype)).sum() for p in parameters).backward()
        optimizer.step()
    return moved(module)


def uniform(make, row: str = "") -> np.ndarray:
    module = copy.deepcopy(base())
    parameters = trained(module, row)
    return after_steps(module, make(parameters), parameters)


def realised(make, mode: str, row: str = "") -> np.ndarray:
    """How far each block moves under the plan."""
    module = copy.deepcopy(base())
    parameters = trained(module, row)
    if mode == "param_groups":
        kept = set(map(id, parameters))
        groups = PLAN.param_groups(module, lr=LR)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) in kept]
        return after_steps(module, make(groups), parameters)
    optimizer = make(parameters)
    PLAN.attach(module, optimizer, mode=mode)
    return after_steps(module, optimizer, parameters)


def table() -> dict[str, dict[str, str]]:
    """The table of the documentation: by optimiser, what each mode does."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    start = next(i for i, row in enumerate(rows) if row[0] == "optimiser")
    head = [cell.replace("`", "") for cell in rows[start]]
    found = {}
    for row in rows[start + 2 :]:
        if len(row) != len(head):
            break
        found[row[0]] = dict(zip(head[1:], row[1:], strict=True))
    return found


def test_the_table_has_a_row_for_each_optimiser_tried():
    assert list(table()) == list(OPTIMIZERS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("row", "number"), CASES)
def test_a_mode_does_what_the_table_says(row, number, mode):
    make, said = OPTIMIZERS[row][number], table()[row][mode]
    if said == "refused":
        with pytest.raises(PrescriptionError, match=r"use plan\.param_groups"):
            realised(make, mode, row)
        return
    free = uniform(make, row)
    if said == "exact":
        with warnings.catch_warnings():
            warnings.simplefilter("error", PrescriptionWarning)
            np.testing.assert_allclose(realised(make, mode, row) / free, ALPHA, atol=EXACT)
        return
    with pytest.warns(PrescriptionWarning):
        ratio = realised(make, mode, row) / free
    expected = {"warns: no effect": 1, "warns: alpha^(2/3)": ALPHA ** (2 / 3), "warns: alpha^(1/3)": ALPHA ** (1 / 3)}
    if said in expected:
        # MADGRAD adds eps = 1e-6 to a rate of 1e-4: 2/3 * .01 / .3 of the lowest block's ratio
        np.testing.assert_allclose(ratio, expected[said], rtol=0.025)
    else:
        assert said == "warns: fades"  # the ratio drifts from the plan step by step
        assert np.abs(ratio - ALPHA).max() > 5 * EXACT


@pytest.mark.parametrize(("row", "number"), CASES)
def test_lora_scale_does_what_the_table_says(row, number):
    """The factor multiplies what the adapters add, and their gradient, which some optimisers do not feel."""
    power = {"alpha": 1, "alpha^(4/3)": 4 / 3, "alpha^2": 2}[table()[row]["LoRA scale"]]
    sizes = []
    for mode in ("scale", None):
        module = copy.deepcopy(base())
        adapted = attach_lora(module, PLAN.lora_config(module, mode=mode, r=2), seed=0)
        b = [parameter for name, parameter in adapted.named_parameters() if ".lora_B." in name]
        sum(weight.sum() for weight in effective_weights(adapted).values()).backward()
        OPTIMIZERS[row][number](b).step()
        sizes.append(update_share(base(), adapted).size)
    # Muon computes the direction of its step in bfloat16
    np.testing.assert_allclose(sizes[0] / sizes[1], ALPHA**power, atol=2**-7 if "Muon" in row else EXACT)


# -- optimisers that nobody has thought of ---------------------------------------------------------------------------


def every_optimizer() -> dict[str, Callable]:
    """One of each class of torch and timm that runs on a CPU by ``loss.backward(); optimizer.step()``."""
    made = {}
    for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop"):
        made[name] = torch_(name)
    for name in timm.optim.list_optimizers():
        kind = timm.optim.get_optimizer_info(name).opt_class
        # apex and bitsandbytes need CUDA, AdaHessian a second backward pass, Kron a compiler
        if (
            not isinstance(kind, str)
            and kind.__module__.startswith("timm")
            and kind.__name__ not in ("Adahessian", "Kron")
        ):
            made.setdefault(f"timm {kind.__name__}", timm_(name))
    return made


@pytest.mark.parametrize("name", every_optimizer())
def test_every_optimiser_of_torch_and_timm_is_exact_or_warned_of(name):
    make = every_optimizer()[name]
    free = uniform(make)
    for mode in MODES:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ratio = realised(make, mode) / free
        said = [str(warning.message) for warning in caught if issubclass(warning.category, PrescriptionWarning)]
        assert said or np.abs(ratio - ALPHA).max() < EXACT, (mode, ratio)
        if mode == "update" and "MADGRAD" not in name:
            assert not said


def test_adafactor_bounds_its_rates_by_the_step():
    """torch's Adafactor takes min(lr, 1 / sqrt(step)): late in a long run every block has the same rate."""
    module = copy.deepcopy(base())
    optimizer = torch.optim.Adafactor(PLAN.param_groups(module, lr=0.5))
    parameters = trained(module, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after_steps(module, optimizer, parameters, steps=4)  # 1 / sqrt(4) = .5
    with pytest.warns(PrescriptionWarning, match=r"bounds its rate by 1 / sqrt\(step\), which block 2's 0\.5 exceeds"):
        after_steps(module, optimizer, parameters, steps=1)


# -- groups --------------------------------------------------------------------------------------------------------


def test_biases_norms_and_the_logit_scale_decay_only_on_request():
    module = copy.deepcopy(base())
    groups = PLAN.param_groups(module, lr=LR, others=LR / 10, no_decay=True, weight_decay=0.1)
    assert [(group["layer"], group["weight_decay"]) for group in groups] == [
        (layer, decay) for layer in (1, 2, 3, None) for decay in (0.1, 0.0)
    ]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, module.parameters()))
    for group in groups:
        assert all((p.ndim < 2) == (group["weight_decay"] == 0) for p in group["params"])
    named = dict(module.named_parameters())
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    for name in ("logit_scale", "ln_final.weight", "transformer.resblocks.0.attn.in_proj_bias"):
        assert id(named[name]) in free
    assert id(named["token_embedding.weight"]) not in free
    start = {name: parameter.detach().clone() for name, parameter in named.items()}
    optimizer = torch.optim.AdamW(groups)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # decay alone
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in named.items():
        decay = 0 if id(parameter) in free else 0.1 * rate[id(parameter)]
        torch.testing.assert_close(parameter.detach(), (1 - decay) * start[name], rtol=1e-12, atol=0)


def beit(optimizer, step):
    """What BEiT's and MAE's training loops do at every step."""
    for group in optimizer.param_groups:
        group["lr"] = LR * (1 - step / 10) * group["lr_scale"]


def timms(optimizer, step):
    from timm.scheduler import CosineLRScheduler

    if step == 0:
        optimizer.schedule = CosineLRScheduler(optimizer, t_initial=10, lr_min=LR / 10, warmup_t=2, t_in_epochs=False)
    optimizer.schedule.step_update(step)


@pytest.mark.filterwarnings("error::tracescribe.errors.PrescriptionWarning")
@pytest.mark.parametrize("schedule", [beit, timms])
def test_layer_decay_schedulers_read_lr_scale(schedule):
    found = []
    for plan in (PLAN, PLAN.uniform()):
        module = copy.deepcopy(base())
        optimizer = torch.optim.AdamW(plan.param_groups(module, lr=LR, others=LR / 2, lr_scale=True), weight_decay=0.0)
        assert [group["lr_scale"] for group in optimizer.param_groups] == [*plan.multipliers, 0.5]
        assert {group["lr"] for group in optimizer.param_groups} == {LR}
        rates = []
        for step in range(4):
            schedule(optimizer, step)
            after_steps(module, optimizer, trained(module, ""), steps=1)
            rates.append([group["lr"] for group in optimizer.param_groups])
        found.append(moved(module))
        np.testing.assert_allclose(np.array(rates)[:, -1], np.array(rates)[:, 1] / 2)
    np.testing.assert_allclose(found[0] / found[1], ALPHA, atol=EXACT)


def test_an_lr_scale_that_nobody_reads_is_said():
    module = copy.deepcopy(base())
    optimizer = torch.optim.AdamW(PLAN.param_groups(module, lr=LR, lr_scale=True))
    with pytest.warns(PrescriptionWarning, match="No scheduler has multiplied by the groups' lr_scale"):
        after_steps(module, optimizer, trained(module, ""), steps=1)


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf")])
def test_a_rate_is_a_positive_number(lr):
    with pytest.raises(PrescriptionError, match="lr must be a positive number, not"):
        PLAN.param_groups(base(), lr=lr)


# -- LoRA and its relatives ------------------------------------------------------------------------------------------


FAMILIES = {
    "open_clip, fused attention": open_clip_model,
    "open_clip over BERT": open_clip_hf_model,
    "transformers CLIP": transformers_model,
    "transformers SigLIP": siglip_model,
}


def adapters_after_a_step(module, plan: Prescription, mode: str | None):
    """Each adapted weight's A, B and factor after a step of AdamW on random gradients of the weights themselves."""
    adapted = attach_lora(module, plan.lora_config(module, mode=mode, r=4, lora_alpha=8, threshold=0.6), seed=0)
    loss = torch.zeros(())
    for name, delta in lora_deltas(adapted).items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        loss = loss + (delta * torch.randn(delta.shape, generator=generator, dtype=delta.dtype)).sum()
    loss.backward()
    torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=LR, weight_decay=0.0).step()
    return {name: adapter for name, (adapter,) in lora_factors(adapted).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_modes_on_every_kind_of_attention(family):
    plan = Prescription(np.array([0.5, 1.0, 0.0]))
    source = FAMILIES[family](layers=3).double()
    names = {id(parameter): name for name, parameter in source.named_parameters()}
    block_of = {names[id(p)]: layer for layer, block in enumerate(blocks(source)) for p in block}
    found = {mode: adapters_after_a_step(copy.deepcopy(source), plan, mode) for mode in (None, "scale", "rank", "mask")}
    uniform_ = found[None]
    assert {block_of[name] for name in uniform_} == {0, 1, 2}
    linear = [n for n in block_of if block_of[n] == 0 and n.endswith(("weight",)) and source.get_parameter(n).ndim == 2]
    assert {name for name in uniform_ if block_of[name] == 0} == set(linear)

    @torch.no_grad()
    def change(adapter, rank: int | None = None):
        return adapter.scale * adapter.b[:, :rank] @ adapter.a[:rank]

    for mode, kept in (("scale", {0, 1}), ("rank", {0, 1}), ("mask", {1})):
        assert {block_of[name] for name in found[mode]} == kept, mode
        for name, adapter in found[mode].items():
            alpha = plan.multipliers[block_of[name]]
            rank = round(4 * alpha) if mode == "rank" else 4
            expected = change(uniform_[name], rank) * (alpha if mode == "scale" else 1.0)
            assert adapter.a.shape[0] == rank and bool(expected.any())
            # Adam's step is lr * g / (|g| + 1e-8): the factor's effect on eps
            torch.testing.assert_close(change(adapter), expected, rtol=0, atol=EXACT * float(expected.abs().max()))


def steps_of_ones(adapted, optimizer) -> list[dict[str, torch.Tensor]]:
    """By block, what a step on gradients of ones does to each trainable parameter."""
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    for parameter in adapted.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    inside = [set(map(id, block)) for block in blocks(adapted)]
    return [
        {n: before[n] - p.detach() for n, p in adapted.named_parameters() if id(p) in ids and p.requires_grad}
        for ids in inside
    ]


def test_lora_plus_keeps_its_ratio_under_a_plan():
    """LoRA+ trains B at a multiple of A's rate; a plan multiplies both (peft's own optimiser, attached to)."""
    from peft.optimizers import create_loraplus_optimizer

    module = copy.deepcopy(base())
    adapted = attach_lora(module, PLAN.lora_config(module, r=2), seed=0)
    options = {"lr": LR, "loraplus_lr_ratio": 16.0, "loraplus_weight_decay": 0.0, "weight_decay": 0.0}
    optimizer = create_loraplus_optimizer(adapted, torch.optim.AdamW, **options)
    PLAN.attach(adapted, optimizer)
    for alpha, steps in zip(ALPHA, steps_of_ones(adapted, optimizer), strict=True):
        assert {16 if ".lora_B." in name else 1 for name in steps} == {1, 16}
        for name, step in steps.items():
            expected = LR * alpha * (16 if ".lora_B." in name else 1)
            # a difference of numbers of order 1 in float64
            torch.testing.assert_close(step, torch.full_like(step, expected), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("mode", ["update", "param_groups"])
def test_dora_trains_its_magnitudes_by_the_plan_too(mode):
    mlp = r"transformer\.resblocks\.\d+\.mlp\.(c_fc|c_proj)"  # peft has no DoRA for fused attention
    module = copy.deepcopy(base())
    adapted = attach_lora(module, PLAN.lora_config(module, r=2, use_dora=True, target_modules=mlp))
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    groups = PLAN.param_groups(adapted, lr=LR) if mode == "param_groups" else parameters
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.0)
    if mode == "update":
        PLAN.attach(adapted, optimizer)
    for alpha, steps in zip(ALPHA, steps_of_ones(adapted, optimizer), strict=True):
        assert sum("magnitude" in name for name in steps) == 2 and len(steps) == 6
        for step in steps.values():
            torch.testing.assert_close(step, torch.full_like(step, LR * alpha), rtol=1e-6, atol=1e-14)


def test_rslora_scale_is_the_plan_times_its_own_factor():
    module = copy.deepcopy(base())
    adapted = attach_lora(module, PLAN.lora_config(module, mode="scale", r=4, lora_alpha=8, use_rslora=True))
    factors = [
        {layer.scaling["default"] for layer in block.modules() if hasattr(layer, "scaling")}
        for block in text_blocks(adapted)
    ]
    np.testing.assert_allclose([factor for (factor,) in factors], 8 / 4**0.5 * ALPHA)
