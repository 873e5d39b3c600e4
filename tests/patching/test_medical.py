"""The medical towers: what MedCLIP's readout does to a trace, peft under every kind of block, what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from zoo import entries

import tracescribe as ts
from tracescribe.errors import UnsupportedTowerError

TEXTS = ("there is no edema.", "there is severe edema.")
ZOO = {entry.name.removeprefix("medical:"): entry for entry in entries() if entry.group == "medical"}
ENTRIES = {entry.name: entry for entry in entries()}


def wrapped(name: str, source: nn.Module | None = None) -> ts.patching.DualEncoder:
    entry = ZOO[name]
    return ts.wrap(entry.build(0) if source is None else source, tokenizer=entry.tokenizer)


def traced(model: ts.patching.DualEncoder) -> ts.CausalTrace:
    image = torch.randn(model.embed_dim, generator=torch.Generator().manual_seed(0))
    pairs = [ts.Pair(correct=TEXTS[0], foil=TEXTS[1], image=image)]
    return ts.trace(model, pairs, floor=0, progress=False)


@pytest.fixture(scope="module")
def medclip_trace() -> ts.CausalTrace:
    entry = ZOO["medclip"]
    # a tokenizer of its own: ids of words, and with them the sign of S, would depend on what other tests read before
    return traced(ts.wrap(entry.build(0), tokenizer=entry.reading.tokenizer()))


def test_a_trace_of_medclip_says_what_its_readout_reads(medclip_trace: ts.CausalTrace) -> None:
    assert medclip_trace.provenance["tower"]["readout_layers"] == [1, 2, 4]
    assert medclip_trace.provenance["path"] == "generic"
    assert "averages the states of layers 1, 2, 4" in medclip_trace.summary()
    with pytest.warns(ts.tracer.TraceWarning, match="prefers the foil in every valid pair"):  # random weights
        plan = ts.prescribe(medclip_trace, ci=None)
    assert "averages the states of layers 1, 2, 4" in plan.warnings[0]
    assert not any("by construction" in line for line in plan.warnings)  # the last layer's value is not forced
    for name in ("gloria", "chexzero"):
        assert ("averages the states" in traced(wrapped(name)).summary()) == (name == "gloria")


def test_all_tokens_of_a_layer_carry_the_foil_up_to_the_first_layer_read() -> None:
    model = wrapped("medclip")
    base, donor = model.text.rows(TEXTS)
    every = [[ts.patching.Column(tuple(range(len(base))))]]
    found = ts.patching.PatchingEngine(model.text).patch([base], [donor], columns=every)
    distance = (found.patched[0, :, 0] - found.donor[0]).norm(dim=-1)
    assert distance[:2].max() < 1e-5  # float32: both sides sum the same numbers in other orders
    # a patch of layer 2 reaches two of the three read states, one of layer 3 or 4 the last alone
    assert 1e-2 < distance[2] < distance[3]
    assert abs(distance[4] - distance[3]) < 1e-5


def test_medclip_is_compared_text_by_text_because_its_source_averages_padding() -> None:
    entry, source = ZOO["medclip"], ZOO["medclip"].build(0)
    model = wrapped("medclip", source)
    assert model.verified["embedding"] < 1e-6
    together = model.encode_texts(["no", TEXTS[1]])
    torch.testing.assert_close(together[:1], entry.reading.embed(source, entry.ids("no")), atol=1e-6, rtol=0)
    padded = entry.reading.embed(source, nn.functional.pad(entry.ids("no"), (0, 5)))
    assert (together[:1] - padded).norm() > 1e-2


def test_conchs_longest_text_leaves_one_place_for_cls() -> None:
    model, entry = wrapped("conch"), ZOO["conch"]
    assert model.text.context_length == entry.reading.context_length - 1
    full = " ".join("abcdefghi")  # nine words, start and end
    with torch.no_grad():
        expected = entry.reading.embed(model.source, entry.ids(full, "a b"))
    torch.testing.assert_close(model.encode_texts([full, "a b"]), expected, atol=1e-6, rtol=0)
    assert model.text.token_strings(model.text.rows(["a b"])[0])[-1] == "[CLS]"
    with pytest.raises(ts.errors.ContextOverflowError, match="12 tokens but the model's context holds 11"):
        model.encode_texts([full + " j"])


# opaque blocks (T5's, and one with norms of queries and keys), BERT, CoCa, fused and split attention
ADAPTED = [
    *("open_clip:mt5-base-ViT-B-32", "open_clip variant: blocks with norms of queries and keys"),
    *("open_clip:coca_ViT-B-32", "medical:biomedclip", "medical:plip"),
    *("medical:bmc-clip", "medical:medsiglip"),
    *("medical:chexzero", "medical:conch", "medical:biovil-t", "medical:medclip", "medical:gloria"),
]


@pytest.mark.parametrize("name", ADAPTED)
def test_a_fine_tuned_model_is_traced_with_its_adapters_and_not_changed(name: str) -> None:
    import peft

    entry = ENTRIES[name]
    source = entry.build(0)
    plain = ts.wrap(copy.deepcopy(source), tokenizer=entry.tokenizer).encode_texts(TEXTS)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=ts.patching.lora_targets(source), lora_dropout=0.5)
    tuned = peft.get_peft_model(source, config)
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in tuned.named_parameters():
        if "lora_" in parameter_name:
            parameter.data.normal_(std=0.3, generator=generator)
    tuned.train()
    before = copy.deepcopy(tuned.state_dict())
    model = ts.wrap(tuned, tokenizer=entry.tokenizer)
    assert (model.encode_texts(TEXTS) - plain).norm(dim=-1).min() > 1e-2, "the adapters were not active"
    assert np.isfinite(traced(model).cte[0, 0]).any()
    after = tuned.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(module.training for module in tuned.modules())
    merged = copy.deepcopy(tuned).eval().merge_and_unload()
    with torch.no_grad():
        expected = entry.reading.embed(merged, entry.ids(*TEXTS))
    # float32; merging adds the product of the adapters' matrices to the weight before, not after, the sum over inputs
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=5e-6, rtol=0)


def test_what_the_adapters_do_not_read_is_refused_with_the_reason() -> None:
    source = ZOO["gloria"].build(0)
    source.text_encoder.agg_tokens = False
    with pytest.raises(UnsupportedTowerError, match="agg_tokens=False"):
        wrapped("gloria", source)
    source = ZOO["biovil-t"].build(0)
    with pytest.raises(UnsupportedTowerError, match="encodes no images"):
        wrapped("biovil-t", source).encode_images(torch.zeros(1, 3, 32, 32))
    source.cls_projection_head.transform_act_fn = torch.relu
    with pytest.raises(UnsupportedTowerError, match="relu"):
        wrapped("biovil-t", source)
    source = ZOO["chexzero"].build(0)
    source.text_projection.data = source.text_projection.data.half()
    with pytest.raises(UnsupportedTowerError, match=r"float16.*model\.float\(\)"):
        wrapped("chexzero", source)
    source = ZOO["chexzero"].build(0).half()  # its norms want weights in float32
    with pytest.raises(
        UnsupportedTowerError, match=r"CLIP cannot encode a text itself.*RuntimeError.*2, 12\] token ids"
    ):
        wrapped("chexzero", source)
