"""LoRA on the text tower: exact targets, modes, effective weights, merged copies."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from bounds import TRAINED

from tracescribe.errors import DataFormatError, PrescriptionError
from tracescribe.finetune import (
    Prescription,
    ScaleInvariantOptimizerWarning,
    attach_lora,
    effective_weights,
    load_lora,
    lora_config,
    merged_copy,
    update_share,
)
from tracescribe.patching import text_blocks

PLAN = Prescription(np.array([0.25, 1.0, 0.0]))
# min-max of the published per-layer sums of CLIP ViT-B/32 (Quantmeyer et al. 2024, foil/correct), blocks 1..12
PUBLISHED = np.array([0.715, 1, 0.885, 0.983, 0.308, 0.337, 0.151, 0, 0.073, 0.199, 0.426, 0.933])


def adapters(module) -> dict[str, int]:
    """Rank of each adapted layer by name."""
    return {
        name.removesuffix(".lora_A.default"): layer.weight.shape[0]
        for name, layer in module.named_modules()
        if name.endswith(".lora_A.default")
    }


def factors(module) -> list[set[float]]:
    """The factors lora_alpha / r of each text block's adapters."""
    return [
        {layer.scaling["default"] for layer in block.modules() if hasattr(layer, "scaling")}
        for block in text_blocks(module)
    ]


def test_only_text_blocks_are_adapted(make_model):
    adapted = attach_lora(make_model(layers=3), lora_config(make_model(layers=3), r=2))
    found = adapters(adapted)
    per_block = {"open_clip": 4, "transformers": 6}
    kind = "transformers" if any("self_attn" in name for name in found) else "open_clip"
    assert len(found) == 3 * per_block[kind]
    assert not any("vis" in name for name in found)
    trainable = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".lora_" in name for name in trainable)


def test_adapters_change_the_text_and_nothing_else(make_model, encode, make_ids, randomise_adapters):
    module = make_model(layers=3)
    ids = make_ids()
    with torch.no_grad():
        before = encode(module, ids)
        adapted = attach_lora(module, lora_config(module, r=2))
        torch.testing.assert_close(encode(adapted, ids), before)  # B starts at zero
        randomise_adapters(adapted)
        assert (encode(adapted, ids) - before).abs().max() > 1e-3


def test_effective_weights_and_merged_copy_compute_what_peft_computes(make_model, encode, make_ids, randomise_adapters):
    base = make_model(layers=3)
    adapted = attach_lora(copy.deepcopy(base), lora_config(base, r=2))
    randomise_adapters(adapted)
    ids = make_ids()
    with torch.no_grad():
        expected = encode(adapted, ids)
        merged = merged_copy(adapted)
        by_hand = copy.deepcopy(base)
        missing = by_hand.load_state_dict(effective_weights(adapted), strict=False)
        assert not missing.unexpected_keys
        # peft adds s B A in another order of summation: a few units in the last place of float32
        torch.testing.assert_close(encode(merged, ids), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encode(by_hand, ids), expected, rtol=1e-5, atol=1e-5)
    assert not any(".lora_" in name for name, _ in merged.named_parameters())
    assert adapters(adapted)  # merging worked on a copy


def test_attention_adapters_leave_nothing_behind(make_clip, encode, make_ids, randomise_adapters):
    base = make_clip(layers=3)
    adapted = attach_lora(copy.deepcopy(base), lora_config(base, r=2))
    randomise_adapters(adapted)
    name = "transformer.resblocks.1.attn.out_proj"
    inner = adapted.get_base_model().transformer.resblocks[1].attn.base_layer.out_proj
    ids = make_ids()
    for _ in range(3):
        encode(adapted, ids)
    # each forward pass merges and unmerges: the frozen weight moves by rounding only
    torch.testing.assert_close(inner.get_base_layer().weight, base.get_submodule(name).weight, rtol=0, atol=1e-6)


def test_out_proj_adapters_learn(make_clip, encode, make_ids, randomise_adapters):
    """The gradient peft's forward pass gives the adapters is that of the weights it computes with."""
    base = make_clip(layers=2)
    adapted = attach_lora(copy.deepcopy(base), lora_config(base, r=2)).double()
    randomise_adapters(adapted)
    ids = make_ids()
    parameter = adapted.get_base_model().transformer.resblocks[0].attn.base_layer.out_proj.lora_B["default"].weight
    encode(adapted, ids).square().sum().backward()
    step = 1e-5
    with torch.no_grad():
        parameter[0, 0] += step
        above = encode(adapted, ids).square().sum()
        parameter[0, 0] -= 2 * step
        below = encode(adapted, ids).square().sum()
    assert parameter.grad[0, 0].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


def test_saved_adapters_come_back(make_model, tmp_path, encode, make_ids, randomise_adapters):
    base = make_model(layers=2)
    adapted = attach_lora(copy.deepcopy(base), lora_config(base, r=2))
    randomise_adapters(adapted)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    again = load_lora(copy.deepcopy(base), tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(encode(again, make_ids()), encode(adapted, make_ids()), rtol=0, atol=1e-6)
    with pytest.raises(DataFormatError, match="no adapters"):
        load_lora(base, tmp_path)


def test_effective_weights_have_gradients_to_the_adapters(make_clip, randomise_adapters):
    module = make_clip(layers=2)
    adapted = attach_lora(module, lora_config(module, r=2))
    randomise_adapters(adapted)
    sum(weight.square().sum() for weight in effective_weights(adapted).values()).backward()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_plain_module_is_its_own_effective_weights(make_model):
    module = make_model(layers=2)
    weights = effective_weights(module)
    assert all(weights[name] is parameter for name, parameter in module.named_parameters())
    copied = merged_copy(module)
    assert copied is not module
    assert all(torch.equal(weights[name], value) for name, value in copied.named_parameters())


# -- modes ----------------------------------------------------------------------------------------------------------


def test_scale_mode(make_model):
    module = make_model(layers=3)
    adapted = attach_lora(module, PLAN.lora_config(module, mode="scale", r=4, lora_alpha=8))
    assert factors(adapted) == [{0.5}, {2.0}, set()]  # block 3 has multiplier 0 and no adapter
    assert set(adapters(adapted).values()) == {4}


def test_rank_mode_keeps_the_factor(make_model):
    module = make_model(layers=3)
    adapted = attach_lora(module, PLAN.lora_config(module, mode="rank", r=8))
    assert factors(adapted) == [{2.0}, {2.0}, set()]
    ranks = [{rank for name, rank in adapters(adapted).items() if f"s.{block}." in name} for block in range(3)]
    assert ranks == [{2}, {8}, set()]


def test_mask_mode(make_model):
    module = make_model(layers=3)
    adapted = attach_lora(module, PLAN.lora_config(module, mode="mask", r=8))
    assert factors(adapted) == [set(), {2.0}, set()]
    lower = make_model(layers=3)
    lower = attach_lora(lower, PLAN.lora_config(lower, mode="mask", r=8, threshold=0.2))
    assert factors(lower) == [{2.0}, {2.0}, set()]


def test_a_plan_without_mode_adapts_every_block_alike(make_model):
    module = make_model(layers=3)
    assert factors(attach_lora(module, PLAN.lora_config(module, r=4))) == [{2.0}] * 3


def test_tenth_block_is_not_taken_for_the_first(make_clip):
    plan = Prescription(np.linspace(0.1, 1, 11))
    module = make_clip(layers=11)
    adapted = attach_lora(module, plan.lora_config(module, mode="scale", r=2, lora_alpha=2))
    np.testing.assert_allclose([next(iter(block)) for block in factors(adapted)], plan.multipliers)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "ranks"}, "'ranks'.*scale, rank, mask"),
        ({"r": 0}, "at least 1, not 0"),
        ({"r": 2.5}, "at least 1, not 2.5"),
        ({"mode": "mask", "threshold": 2.0}, "no block has a multiplier of at least 2"),
    ],
)
def test_bad_options(make_clip, options, sentence):
    with pytest.raises(PrescriptionError, match=sentence):
        PLAN.lora_config(make_clip(layers=3), **options)


def test_a_mode_needs_a_plan_that_fits(make_clip):
    with pytest.raises(PrescriptionError, match="needs a plan"):
        lora_config(make_clip(layers=3), mode="scale")
    with pytest.raises(PrescriptionError, match=r"3 blocks.*has 2"):
        PLAN.lora_config(make_clip(layers=2), mode="scale")


def test_a_configuration_that_reaches_the_vision_tower_is_refused(make_clip):
    from peft import LoraConfig

    with pytest.raises(PrescriptionError, match=r"outside the text blocks, such as .*visual"):
        attach_lora(make_clip(layers=2), LoraConfig(target_modules=["c_fc"]))


# -- where the update goes ------------------------------------------------------------------------------------------


def test_what_reaches_the_layers_under_adamw(make_clip):
    """Share of the update in the three blocks of highest CTE, LoRA r=4 on 12 blocks, published alpha.

    Measured elsewhere on a toy (AdamW): unscaled .24, gradient scaling .26, per-layer rates .49, LoRA scale .45. The
    order and the equality of rates and scaled steps are the property; the shares depend on the model.
    """
    plan = Prescription(PUBLISHED)
    base = make_clip(layers=12).double()  # rounding would grow from step to step: see bounds.TRAINED
    target = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).double()
    target = torch.nn.functional.normalize(target, dim=-1)
    ids = torch.zeros(16, 12, dtype=torch.long)
    ids[:, 0], ids[:, 1], ids[:, 2] = 62, torch.arange(1, 17), 63

    def train(how: str) -> float:
        module = copy.deepcopy(base)
        torch.manual_seed(0)
        mode = "scale" if how == "scale" else None
        adapted = attach_lora(module, plan.lora_config(module, mode=mode, r=4))
        trainable = [p for p in adapted.parameters() if p.requires_grad]
        groups = plan.param_groups(adapted, lr=3e-3) if how == "rates" else trainable
        optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.0)
        if how in ("update", "gradient"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ScaleInvariantOptimizerWarning)
                plan.attach(adapted, optimizer, mode=how)
        for _ in range(5):
            optimizer.zero_grad()
            text = torch.nn.functional.normalize(adapted.get_base_model().encode_text(ids), dim=-1)
            torch.nn.functional.cross_entropy(20 * text @ target.T, torch.arange(16)).backward()
            optimizer.step()
        return update_share(base, adapted, plan).top(3)

    share = {how: train(how) for how in ("uniform", "gradient", "rates", "update", "scale")}
    assert share["gradient"] < share["uniform"] + 0.05  # cancelled (but for the layer frozen by alpha = 0)
    assert share["rates"] > share["uniform"] + 0.1
    assert share["scale"] > share["uniform"] + 0.1
    assert share["update"] == pytest.approx(share["rates"], abs=TRAINED)  # the same without weight decay
    assert 0.2 < share["uniform"] < 0.35  # three of twelve blocks
