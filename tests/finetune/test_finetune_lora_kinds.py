"""Adapters of other people: what peft's own forward pass computes is what our weights and copies compute."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from models import transformers_model

from tracescribe.errors import DataFormatError, PrescriptionError
from tracescribe.finetune import (
    Prescription,
    attach_lora,
    effective_weights,
    load_lora,
    lora_config,
    merged_copy,
    update_share,
)
from tracescribe.finetune.apply import load, peft_attention
from tracescribe.finetune.apply.adapters import lora_factors

FUSED = r"transformer\.resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)"
MLP = r"transformer\.resblocks\.\d+\.mlp\.(c_fc|c_proj)"


def close(found, expected):
    # W x + s B A x against (W + s B A) x on unit-size states: a few units in the last place of float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def randomise(module, seed=0):
    """Random values for everything that is trainable: adapters that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


# -- one convention: that of stock peft -----------------------------------------------------------------------------


def test_our_adapters_mean_the_same_under_stock_peft(make_model, encode, make_ids, tmp_path):
    from peft import PeftModel

    base, ids = make_model(layers=2), make_ids()
    ours = randomise(attach_lora(copy.deepcopy(base), lora_config(base, r=2)))
    ours.save_pretrained(str(tmp_path), save_embedding_layers=False)
    stock = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    with torch.no_grad():
        assert (encode(ours, ids) - encode(base, ids)).abs().max() > 1e-2
        close(encode(stock, ids), encode(ours, ids))
        close(encode(merged_copy(ours), ids), encode(ours, ids))
        close(encode(stock.merge_and_unload(), ids), encode(ours, ids))


def test_stock_adapters_mean_the_same_here(make_model, encode, make_ids, tmp_path):
    from peft import get_peft_model

    base, ids = make_model(layers=2), make_ids()
    stock = randomise(get_peft_model(copy.deepcopy(base), lora_config(base, r=2)))
    stock.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours = load_lora(copy.deepcopy(base), tmp_path)
    by_hand = copy.deepcopy(base)
    by_hand.load_state_dict(effective_weights(stock), strict=False)
    with torch.no_grad():
        close(encode(ours, ids), encode(stock, ids))
        close(encode(by_hand, ids), encode(stock, ids))
        close(encode(merged_copy(ours), ids), encode(stock, ids))


def test_adapters_of_a_peft_that_counts_once_are_converted(make_clip, encode, make_ids, tmp_path, monkeypatch):
    """Where the installed peft counted once, a file of peft 0.21 would need twice its out_proj factors."""
    base = make_clip(layers=2)
    randomise(attach_lora(copy.deepcopy(base), lora_config(base, r=2))).save_pretrained(
        str(tmp_path), save_embedding_layers=False
    )
    same = load_lora(copy.deepcopy(base), tmp_path)
    monkeypatch.setattr(peft_attention, "out_proj_is_counted_twice", lambda: False)
    converted = load_lora(copy.deepcopy(base), tmp_path)
    for (name, ours), theirs in zip(same.named_parameters(), converted.parameters(), strict=True):
        factor = 2.0 if "out_proj.lora_B" in name else 1.0
        assert torch.equal(theirs, factor * ours), name


@pytest.mark.parametrize(
    ("here_twice", "saved_by", "factor"),
    [(True, "0.21.2", 1), (True, None, 1), (True, "0.15.0", 1), (False, "0.21.2", 2), (False, "0.30.0", 1)],
)
def test_the_factor_of_out_proj(monkeypatch, here_twice, saved_by, factor):
    monkeypatch.setattr(peft_attention, "out_proj_is_counted_twice", lambda: here_twice)
    assert peft_attention.out_proj_factor(saved_by) == factor


def test_adapters_of_a_newer_peft_are_refused_where_they_are_ambiguous(make_clip, tmp_path):
    base = make_clip(layers=2)
    attach_lora(copy.deepcopy(base), lora_config(base, r=2)).save_pretrained(str(tmp_path), save_embedding_layers=False)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "99.0.0"}))
    with pytest.raises(DataFormatError, match=r"saved by peft 99\.0\.0.*install the peft that saved them"):
        load_lora(base, tmp_path)


# -- other kinds of adapters ----------------------------------------------------------------------------------------


def kinds_of_adapters():
    import peft

    def with_peft(config):
        return lambda module: peft.get_peft_model(module, config)

    def both(module):
        adapted = peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=FUSED))
        adapted.add_adapter("other", peft.LoraConfig(r=3, target_modules=MLP))
        adapted.base_model.set_adapter(["default", "other"])
        return adapted

    def merged(module):
        adapted = peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=FUSED))
        randomise(adapted, 1).merge_adapter()
        return adapted

    def disabled(module):
        adapted = randomise(peft.get_peft_model(module, peft.LoraConfig(r=2, target_modules=FUSED)), 1)
        adapted.disable_adapter_layers()
        return adapted

    def injected(module):
        return peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=FUSED), module)

    lora = {"r": 2, "target_modules": FUSED}
    return {
        "rsLoRA": with_peft(peft.LoraConfig(**lora, use_rslora=True)),
        "DoRA": with_peft(peft.LoraConfig(r=2, target_modules=MLP, use_dora=True)),
        "lora_bias": with_peft(peft.LoraConfig(r=2, target_modules=MLP, lora_bias=True)),
        "trained biases": with_peft(peft.LoraConfig(**lora, bias="all")),
        "modules_to_save": with_peft(peft.LoraConfig(**lora, modules_to_save=["ln_final"])),
        "embedding": with_peft(peft.LoraConfig(r=2, target_modules=["token_embedding"])),
        "tokens": with_peft(peft.LoraConfig(**lora, trainable_token_indices={"token_embedding": [5, 7, 62]})),
        "LoKr": with_peft(peft.LoKrConfig(r=2, target_modules=MLP)),
        "LoHa": with_peft(peft.LoHaConfig(r=2, target_modules=MLP)),
        "IA3": with_peft(peft.IA3Config(target_modules=MLP, feedforward_modules=r".*c_proj")),
        "VeRA": with_peft(peft.VeraConfig(r=2, target_modules=r".*resblocks\.\d+\.mlp\.c_fc")),
        "two adapters": both,
        "merged": merged,
        "disabled": disabled,
        "injected": injected,
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, about what each kind cannot do elsewhere
@pytest.mark.parametrize("kind", list(kinds_of_adapters()))
def test_every_kind_is_read_as_it_computes(make_clip, encode, make_ids, kind):
    base, ids = make_clip(layers=2), make_ids()
    adapted = kinds_of_adapters()[kind](copy.deepcopy(base)).eval()
    if kind not in ("merged", "disabled"):
        randomise(adapted)
    by_hand = copy.deepcopy(base)
    with torch.no_grad():
        expected = encode(adapted, ids)
        assert ((expected - encode(base, ids)).abs().max() > 1e-3) == (kind != "disabled")
        by_hand.load_state_dict({name: value.detach() for name, value in effective_weights(adapted).items()})
        close(encode(by_hand, ids), expected)
        merged = merged_copy(adapted)
        close(encode(merged, ids), expected)
        close(encode(adapted, ids), expected)  # reading changed nothing
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in base.named_parameters()}
    sizes = update_share(base, adapted).size
    assert (sizes > 0).all() == (kind not in ("disabled", "embedding"))


def test_what_is_no_change_of_weights_is_refused_by_name():
    import peft

    config = peft.PromptTuningConfig(num_virtual_tokens=2, num_layers=2, token_dim=32, num_attention_heads=2)
    adapted = peft.PeftModel(transformers_model(layers=2).text_model, config)
    for read in (merged_copy, effective_weights, lora_factors):
        with pytest.raises(PrescriptionError, match="PROMPT_TUNING"):
            read(adapted)


def test_training_refuses_other_kinds_by_name(make_clip):
    import peft

    dora = peft.get_peft_model(make_clip(layers=2), peft.LoraConfig(r=2, target_modules=MLP, use_dora=True))
    with pytest.raises(PrescriptionError, match=r"DoraLinear of .*c_fc.*use plain LoRA"):
        lora_factors(dora)
    ia3 = peft.get_peft_model(make_clip(layers=2), peft.IA3Config(target_modules=MLP, feedforward_modules=MLP))
    with pytest.raises(PrescriptionError, match=r"ia3 \(Linear\) of"):
        lora_factors(ia3)


# -- files as an attacker or a bad disk writes them -----------------------------------------------------------------


@pytest.fixture
def saved(make_clip, tmp_path):
    """A folder with the adapters of a small model, and that model."""
    base = make_clip(layers=2)
    randomise(attach_lora(copy.deepcopy(base), lora_config(base, r=2))).save_pretrained(
        str(tmp_path), save_embedding_layers=False
    )
    return tmp_path, base


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"r": 10**11}, "'r' must be a rank of 1 to"),
        ({"r": "2"}, "'r' must be a rank"),
        ({"r": 0}, "'r' must be a rank"),
        ({"rank_pattern": {"attn": 10**11}}, r"'rank_pattern\.attn' must be a rank"),
        ({"rank_pattern": [1]}, "'rank_pattern' must be an object"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number"),
        ({"target_modules": r"(.*.*)*.*.*.*.*=transformer(.*.*)*x"}, "takes longer|matches no module"),
        ({"target_modules": r"(?:[\w.]|[\w.]{2})+[^\w.]"}, "takes longer"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": "nothing"}, "matches no module"),
        ({"alpha_pattern": {r"(?:[\w.]|[\w.]{2})+[^\w.]": 2}}, "takes longer"),
        ({"modules_to_save": [r"((\w+\.?)+)+!"]}, "'modules_to_save' must hold module names"),
        ({"modules_to_save": True}, "'modules_to_save' must hold module names, not 'True'"),
        ({"layers_pattern": {"h": 1}}, "'layers_pattern' must hold module names"),
        ({"peft_type": "NONSENSE"}, "not a configuration that peft reads"),
        ({"r": 3}, "do not fit the module"),
    ],
)
def test_a_configuration_that_would_hang_or_fill_memory(saved, change, sentence, monkeypatch):
    monkeypatch.setattr(load, "MATCH_SECONDS", 0.1)
    folder, base = saved
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataFormatError, match=sentence) as caught:
        load_lora(base, folder)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 10_000, '{"r": 1' + "0" * 5_000 + "}", "\xff"])
def test_a_configuration_that_is_none(saved, text):
    folder, base = saved
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataFormatError, match=r"adapter_config\.json"):
        load_lora(base, folder)


class Evil:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps(Evil()), pickle.dumps([1, 2])])
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.safetensors"])
def test_weights_that_are_none(saved, content, name, capsys):
    folder, base = saved
    (folder / "adapter_model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(DataFormatError, match="damaged"):
        load_lora(base, folder)
    assert "ran" not in capsys.readouterr().out


def test_weights_that_are_not_finite(saved):
    from safetensors.torch import load_file, save_file

    folder, base = saved
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(DataFormatError, match="holds NaN or infinity"):
        load_lora(base, folder)


def test_patterns_of_a_file_keep_their_meaning(make_clip, encode, make_ids, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base, ids = make_clip(layers=12), make_ids()
    config = LoraConfig(
        r=2,
        target_modules=r"(transformer|visual\.transformer)\.resblocks\.\d+\.mlp\.c_(fc|proj)",
        exclude_modules=r"transformer\.resblocks\.[35]\..*",
        rank_pattern={r"^transformer\.resblocks\.1\.mlp\.c_fc": 3, "c_proj": 4},
        alpha_pattern={r"resblocks\.1\d\.mlp\..*": 32},
    )
    stock = randomise(get_peft_model(copy.deepcopy(base), config))
    stock.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours = load_lora(copy.deepcopy(base), tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))

    def scalings(module):
        return {name: layer.scaling for name, layer in module.named_modules() if hasattr(layer, "scaling")}

    assert scalings(ours) == scalings(again) != {}
    with torch.no_grad():
        close(encode(ours, ids), encode(stock, ids))


# -- lora_config with the user's own options ------------------------------------------------------------------------

PLAN = Prescription(np.array([0.25, 1.0, 0.0]))


def scaling_by_name(module):
    return {
        name.removeprefix("base_model.model."): (layer.scaling["default"], layer.r["default"])
        for name, layer in module.named_modules()
        if "default" in getattr(layer, "scaling", {})
    }


@pytest.mark.parametrize("targets", [r".*\.mlp\.c_fc", ["c_fc"], ["mlp.c_fc"]])
def test_a_mode_acts_inside_the_given_targets(make_clip, targets):
    module = make_clip(layers=3)
    config = PLAN.lora_config(module, mode="scale", r=4, target_modules=targets)
    assert scaling_by_name(attach_lora(module, config)) == {
        "transformer.resblocks.0.mlp.c_fc": (0.5, 4),
        "transformer.resblocks.1.mlp.c_fc": (2.0, 4),
    }


def test_a_mode_multiplies_the_given_patterns(make_clip):
    module = make_clip(layers=3)
    given = {"alpha_pattern": {"c_fc": 40}, "rank_pattern": {"c_proj": 8}}
    scaled = scaling_by_name(attach_lora(module, PLAN.lora_config(module, mode="scale", r=4, **given)))
    assert scaled["transformer.resblocks.0.mlp.c_fc"] == (2.5, 4)  # 40 * .25 / 4
    assert scaled["transformer.resblocks.0.mlp.c_proj"] == (0.25, 8)  # 8 * .25 / 8
    assert scaled["transformer.resblocks.1.attn"] == (2.0, 4)
    ranked = make_clip(layers=3)
    ranked = scaling_by_name(attach_lora(ranked, PLAN.lora_config(ranked, mode="rank", r=4, **given)))
    assert ranked["transformer.resblocks.0.mlp.c_fc"] == (10.0, 1)
    assert ranked["transformer.resblocks.0.mlp.c_proj"] == (1.0, 2)


def test_a_pattern_that_is_no_regular_expression_is_said(make_clip):
    for name in ("alpha_pattern", "rank_pattern"):
        with pytest.raises(PrescriptionError, match=rf"{name}: '\+c_fc' is no regular expression \(nothing to repeat"):
            PLAN.lora_config(make_clip(layers=3), mode="scale", **{name: {"+c_fc": 4}})


def test_rank_mode_keeps_the_factor_of_rslora(make_clip):
    module = make_clip(layers=3)
    adapted = attach_lora(module, PLAN.lora_config(module, mode="rank", r=16, use_rslora=True))
    found = set(scaling_by_name(adapted).values())
    assert {rank for _, rank in found} == {4, 16}
    assert [factor for factor, _ in found] == pytest.approx([8.0, 8.0])  # 2 r / sqrt(r)


@pytest.mark.parametrize(("optimizer", "power"), [(torch.optim.SGD, 2), (torch.optim.Adam, 1)])
def test_scale_mode_is_squared_under_sgd(make_clip, optimizer, power):
    """The factor scales what the adapters add, and their gradient too: the docs say so."""
    base = make_clip(layers=2)
    plan = Prescription(np.array([0.25, 1.0]))
    sizes = []
    for mode in ("scale", None):
        adapted = attach_lora(copy.deepcopy(base), plan.lora_config(base, mode=mode, r=2), seed=0)
        trained = [parameter for name, parameter in adapted.named_parameters() if ".lora_B." in name]
        sum(weight.sum() for weight in effective_weights(adapted).values()).backward()
        optimizer(trained, lr=1e-3).step()
        sizes.append(update_share(base, adapted).size)
    np.testing.assert_allclose(sizes[0] / sizes[1], plan.alpha**power, rtol=1e-3)


@pytest.mark.parametrize("mode", ["scale", "rank", "mask"])
def test_arms_start_from_the_same_adapters(make_clip, mode):
    def start(which, seed=3):
        module = make_clip(layers=3)
        adapted = attach_lora(module, PLAN.lora_config(module, mode=which, r=8), seed=seed)
        return {name: value.detach() for name, value in adapted.named_parameters() if ".lora_A." in name}

    uniform, arm = start(None), start(mode)
    assert set(arm) < set(uniform)
    for name, value in arm.items():
        assert torch.equal(value, uniform[name][: len(value)]), name
        bound = value.shape[1] ** -0.5  # peft's: Kaiming uniform with a = sqrt(5)
        assert 0.8 * bound < value.abs().max() <= bound
    other = start(None, seed=4)
    assert not any(torch.equal(value, other[name]) for name, value in uniform.items())


def test_a_seed_needs_the_default_start(make_clip):
    module = make_clip(layers=2)
    with pytest.raises(PrescriptionError, match="init_lora_weights='gaussian'"):
        attach_lora(module, lora_config(module, init_lora_weights="gaussian"), seed=0)
