"""Low-rank layers and packed texts compute what the plain layers and the plain pass compute, with less work."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import (
    WordTokenizer,
    in_double,
    open_clip_hf_model,
    open_clip_model,
    siglip_model,
    transformers_model,
    word_tokenizer,
)
from torch.nn.functional import linear

import tracescribe as ts
from tracescribe.errors import PrescriptionError, TowerMismatchError
from tracescribe.finetune.apply.adapters import lora_factors
from tracescribe.finetune.apply.lora import attach_lora, lora_config
from tracescribe.finetune.training.adapted import AdaptedText
from tracescribe.finetune.training.lowrank import AdaptedQKV, LowRank, adapted_linear, install
from tracescribe.finetune.training.packing import PackedTexts, plan_buckets
from tracescribe.patching.towers.tower import normalise

TEXTS = ("no edema .", "there is no effusion .", "edema", "all is clear .", "there is some effusion and no edema .")
TOWERS = {
    "causal, trimmed": lambda: open_clip_model(layers=3),
    "causal, split q k v": lambda: transformers_model(layers=3),
    "padding masked": lambda: open_clip_hf_model(layers=3),
    "padding attended to": lambda: siglip_model(layers=3),
    "a token appended": lambda: open_clip_model(layers=3, custom=True, embed_cls=True),
    "mean of all positions": lambda: open_clip_hf_model(layers=3, pooler="mean_pooler"),
}


@pytest.fixture(params=TOWERS)
def model(request) -> ts.DualEncoder:
    source = TOWERS[request.param]()
    return ts.wrap(source, tokenizer=word_tokenizer(source))


def adapted(model: ts.DualEncoder, randomise, *, only: str = "") -> AdaptedText:
    """The model with random adapters; ``only``: a pattern of the names of blocks that are trained."""

    def adapt(source):
        settings = lora_config(source, r=2)
        if only:
            settings.target_modules = rf"(?=.*({only}))(?:{settings.target_modules})"
        return attach_lora(source, settings)

    encoder = AdaptedText(model, adapt, seed=0)
    randomise(encoder.source)
    return encoder


def table(tower) -> tuple[torch.Tensor, torch.Tensor]:
    rows = tower.rows(TEXTS)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tower.tokenizer.pad_id] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([len(row) for row in rows])


def one_by_one(encoder, ids, lengths, wanted) -> torch.Tensor:
    """Every text by itself, through the tower's own pass."""
    return torch.cat([encoder(ids[[text], : lengths[text]]) for text in wanted])


def gradients(encoder, embeddings) -> list[torch.Tensor]:
    target = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
    trained = [parameter for parameter in encoder.source.parameters() if parameter.requires_grad]
    return torch.autograd.grad((embeddings * target).sum(), trained)


# -- low-rank layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_low_rank_is_the_merged_weight_and_its_gradients(count):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = random(2, 3, 5).requires_grad_(), random(4, 5), random(4)
    adapters = [
        LowRank(random(2, 5).requires_grad_(), random(4, 2).requires_grad_(), 0.5 * (i + 1)) for i in range(count)
    ]
    leaves = [x, *(part for adapter in adapters for part in (adapter.a, adapter.b))]
    merged = linear(x, weight + sum(adapter.scale * adapter.b @ adapter.a for adapter in adapters), bias)
    ours = adapted_linear(x, weight, bias, adapters)
    torch.testing.assert_close(ours, merged)  # in double precision: exact but for the order of summation
    target = random(2, 3, 4)
    for mine, theirs in zip(
        torch.autograd.grad((ours * target).sum(), leaves),
        torch.autograd.grad((merged * target).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_queries_of_some_rows_are_those_of_all_rows():
    torch.manual_seed(0)
    layer = ts.patching.towers.layers.FusedQKV(torch.randn(12, 4), torch.randn(12))
    layer.__class__, layer.adapters = AdaptedQKV, [LowRank(torch.randn(2, 4), torch.randn(12, 2), 0.5)]
    x, rows = torch.randn(6, 4), torch.tensor([5, 0])
    q, k, v = layer(x)
    some_q, all_k, all_v = layer(x, rows)
    torch.testing.assert_close((some_q, all_k, all_v), (q[rows], k, v))


def test_adapters_of_a_half_precision_tower_keep_their_own_precision():
    x, weight = torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    adapter = LowRank(torch.ones(1, 4, requires_grad=True), torch.ones(3, 1, requires_grad=True), 2.0)
    y = adapted_linear(x, weight, None, [adapter])
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert (y == 12).all()  # 4 + 2 * 4
    assert adapter.a.grad is not None and adapter.a.grad.dtype == torch.float32


def test_a_layer_that_cannot_be_adapted_is_named(make_clip):
    tower = ts.wrap(make_clip(), tokenizer=WordTokenizer()).text
    with pytest.raises(PrescriptionError, match=r"projection\.weight belongs to a Project"):
        install(tower, {"projection.weight": [LowRank(torch.ones(1, 32), torch.ones(16, 1), 1.0)]})


def test_factors_share_pefts_parameters(make_clip):
    source = make_clip(layers=2)
    source = attach_lora(source, lora_config(source, r=2))
    held = {id(parameter) for parameter in source.parameters() if parameter.requires_grad}
    factors = [adapter for found in lora_factors(source).values() for adapter in found]
    assert {id(part) for adapter in factors for part in (adapter.a, adapter.b)} == held


# -- packed texts ---------------------------------------------------------------------------------------------------


def test_packed_texts_are_the_texts_one_by_one(model, randomise_adapters):
    encoder = adapted(in_double(model), randomise_adapters)
    ids, lengths = table(encoder.tower)
    wanted = torch.tensor([4, 0, 2, 3, 1])
    ours, expected = normalise(encoder.packed(ids, lengths)(wanted)), one_by_one(encoder, ids, lengths, wanted)
    assert_same(encoder, ours, expected)


def assert_same(encoder: AdaptedText, ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Embeddings and gradients are equal up to the order of summation in float64: about 1e-15 of the largest."""
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients(encoder, ours), gradients(encoder, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10 * float(theirs.abs().max()))


@pytest.mark.parametrize("budget", [0, 2 * 11 * 32 * 8, 1 << 20], ids=["nothing is kept", "two texts are", "all are"])
def test_frozen_blocks_below_the_lowest_trained_one(model, randomise_adapters, budget):
    encoder = adapted(in_double(model), randomise_adapters, only=r"\.2\.")
    assert encoder.frozen == 2
    ids, lengths = table(encoder.tower)
    packed = PackedTexts(encoder.tower, ids, lengths, frozen=2, budget=budget)
    for wanted in (torch.tensor([4, 0]), torch.tensor([0, 1, 4, 2]), torch.tensor([3, 2, 1, 0])):
        ours = ts.patching.towers.tower.normalise(packed(wanted))
        expected = one_by_one(encoder, ids, lengths, wanted)
        assert_same(encoder, ours, expected)


def test_blocks_that_are_not_taken_apart_are_adapted_too(randomise_adapters):
    model = ts.wrap(open_clip_model(layers=3, custom=True, qk_norm=True), tokenizer=WordTokenizer())
    encoder = adapted(model, randomise_adapters, only=r"mlp\.")  # peft has no layer for such attention
    ids, lengths = table(encoder.tower)
    wanted = torch.tensor([4, 0, 2])
    ours, expected = normalise(encoder.packed(ids, lengths)(wanted)), one_by_one(encoder, ids, lengths, wanted)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    source = encoder.source.get_base_model()  # the reference is peft's own forward pass
    padded = torch.nn.functional.pad(ids[wanted], (0, 12 - ids.shape[1]))
    torch.testing.assert_close(
        ours, torch.nn.functional.normalize(source.encode_text(padded), dim=-1), rtol=0, atol=2e-6
    )


def test_a_frozen_block_runs_every_text_once(make_clip, randomise_adapters):
    encoder = adapted(ts.wrap(make_clip(), tokenizer=WordTokenizer()), randomise_adapters, only=r"resblocks\.2\.")
    ids, lengths = table(encoder.tower)
    packed = PackedTexts(encoder.tower, ids, lengths, frozen=encoder.frozen)
    texts: list[int] = []
    for block in encoder.tower.blocks[:2]:
        block.hook_resid_pre.register_forward_hook(lambda module, args, output: texts.append(len(output)))
    for wanted in ([0, 1, 2], [1, 2], [0, 3, 1], [3, 4], [4, 0, 1, 2, 3]):
        packed(torch.tensor(wanted))
    # the shortest text (2) and a longest one (4) ran at the check, before the hooks; three more: once in each block
    assert sum(texts) == 2 * 3


def test_a_tower_whose_own_pass_differs_is_refused(make_clip, randomise_adapters, monkeypatch):
    encoder = adapted(ts.wrap(make_clip(), tokenizer=WordTokenizer()), randomise_adapters)
    readout = encoder.tower.readout
    monkeypatch.setattr(type(encoder.tower), "forward", lambda self, ids: 1.01 * readout(self.embedding.tokens[:1]))
    with pytest.raises(TowerMismatchError, match="differs from the text tower's own pass"):
        encoder.packed(*table(encoder.tower))


# -- buckets --------------------------------------------------------------------------------------------------------


def rows_of(buckets, lengths, overhead) -> int:
    return sum(len(bucket) * max(lengths[i] for i in bucket) + overhead for bucket in buckets)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=9), st.integers(0, 12))
def test_buckets_are_the_cheapest_split_by_length(lengths, overhead):
    buckets = plan_buckets(lengths, overhead)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    assert all(lengths[a] <= lengths[b] for bucket in buckets for a, b in pairwise(bucket))
    if overhead == 0:
        assert all(len({lengths[i] for i in bucket}) == 1 for bucket in buckets)
    order = sorted(lengths)
    splits = [
        [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        for chosen in range(2 ** (len(order) - 1))
        if (cuts := [i + 1 for i in range(len(order) - 1) if chosen >> i & 1]) is not None
    ]
    cheapest = min(sum(len(order[part]) * order[part][-1] + overhead for part in split) for split in splits)
    assert rows_of(buckets, lengths, overhead) == cheapest
