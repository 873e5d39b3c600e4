"""open_clip 4's modern text towers (``moderntext-*``), by a replica: what is read, what is refused, its tokenizer."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from open_clip.model import convert_weights_to_lp
from torch import nn
from zoo.open_clip_variants import modern_text
from zoo.tokens import WordTokenizer

import tracescribe as ts
from tracescribe.errors import UnsupportedTowerError
from tracescribe.patching import PatchingEngine, Sweep, site_named
from tracescribe.patching.adapters.registry import lora_targets
from tracescribe.patching.towers.spec import TOLERANCE

PAD, EOS, SOT, CONTEXT = 58, 57, 59, 12
TEXTS = ["there is no edema", "no", "there is severe edema in the left lung"]
WORDS = WordTokenizer(pad_id=PAD, sot_id=SOT, eot_id=EOS)


class TikToken:
    """As open_clip 4's: rows of the context, or lists; its start, end and padding ids cannot be decoded."""

    pad_token_id, eot_token_id, bos_token_id = PAD, EOS, SOT

    def __call__(self, texts: list[str], context_length: int | None = None, pad: bool = True) -> Any:
        rows = [WORDS.encode(text)[: context_length or CONTEXT] for text in texts]
        return WORDS.rows(texts, context_length or CONTEXT) if pad else [torch.tensor(row) for row in rows]

    def decode(self, tokens: list[int]) -> str:
        if tokens[0] >= EOS:
            raise KeyError(f"Invalid token for decoding: {tokens[0]}")
        return f" {WORDS.strings(tokens)[0]}"


def gated(**options: Any) -> nn.Module:
    return modern_text(0, attn_gated=True, **options)


@pytest.mark.parametrize("pad", [True, False])
def test_its_tokenizer_is_read_with_and_without_padding(pad: bool) -> None:
    tokenizer = TikToken()
    text = ts.wrap(gated(), tokenizer=lambda texts: tokenizer(texts, pad=pad) if not pad else tokenizer(texts)).text
    expected = ts.wrap(gated(), tokenizer=WORDS).text
    assert [text.token_ids(one) for one in TEXTS] == [WORDS.encode(one) for one in TEXTS]
    assert torch.equal(text.encode(TEXTS), expected.encode(TEXTS))


def test_ids_that_cannot_be_decoded_have_names() -> None:
    text = ts.wrap(gated(), tokenizer=TikToken()).text
    assert text.token_strings(text.token_ids("no edema")) == ["[SOT]", "no", "edema", "[EOT]"]


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pool", ["argmax", "mean", "map"])
def test_padded_rows_say_what_the_source_says_of_them(attention: str, pool: str) -> None:
    source = gated(attention_mode=attention, pool_type=pool, qk_norm=True)
    tower = ts.wrap(source, tokenizer=WORDS).text
    with torch.no_grad():
        expected = source.encode_text(tower.tokenize(TEXTS))
        whole = tower(tower.tokenize(TEXTS))  # rows of the context, with padding
    assert tower.spec.padding == ("trim" if (attention, pool) == ("causal", "argmax") else "mask")
    scale = expected.abs().max()
    assert (whole - expected).abs().max() <= TOLERANCE[torch.float32] * scale
    expected = nn.functional.normalize(expected, dim=-1)
    assert (tower.encode(TEXTS) - expected).abs().max() <= TOLERANCE[torch.float32]  # each in its own length


@pytest.mark.parametrize("site", ["resid", "resid_mid", "attn", "mlp", "z", "q", "k", "v"])
def test_gated_attention_resumes_as_it_runs(site: str) -> None:
    """A resumed pass has keys of rows that it does not compute, and the gate reads only those that it does."""
    tower = ts.wrap(gated(qk_norm=True, pool_type="eos"), tokenizer=WORDS).text
    engine = PatchingEngine(tower)
    base, donor = tower.rows(["there is no edema in here", "there is some mass in here"])
    by_path = [
        engine.patch([base], [donor], sweep=Sweep(site_named(site)), path=path).patched
        for path in ("resume", "generic")
    ]
    assert (by_path[0] - by_path[1]).abs().max() <= TOLERANCE[torch.float32]
    assert (by_path[0] - by_path[0][:, :1, :1]).norm(dim=-1).max() > 1e-2  # the patches do something


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reg_tokens": 2}, "register tokens"),
        ({"value_residual": True}, "value residuals"),
        ({"pad_id": None, "attention_mode": "bidirectional"}, "bidirectional attention without pad_id"),
        ({"pad_id": None, "pool_type": "mean"}, "pooling over all tokens without pad_id"),
    ],
)
def test_what_is_not_read_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedTowerError, match=f"modern text tower with {named}"):
        ts.wrap(modern_text(0, **options), tokenizer=WORDS)


def test_a_tokenizer_that_pads_otherwise_is_refused_where_padding_is_hidden() -> None:
    other = WordTokenizer(pad_id=3, sot_id=SOT, eot_id=EOS)
    with pytest.raises(UnsupportedTowerError, match="hides padding by id 58, but the tokenizer pads with 3"):
        ts.wrap(gated(attention_mode="bidirectional"), tokenizer=other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_its_low_precision_says_what_the_source_says(dtype: torch.dtype) -> None:
    """Weights of linear layers are converted; embeddings, norms and the query that pools stay in float32."""
    source = gated(pool_type="map", norm_placement="sandwich", attention_mode="bidirectional")
    convert_weights_to_lp(source, dtype)
    tower = ts.wrap(source, tokenizer=WORDS).text
    assert tower.dtype == dtype
    with torch.no_grad():
        expected = nn.functional.normalize(source.encode_text(tower.tokenize(TEXTS)).float(), dim=-1)
    assert (tower.encode(TEXTS) - expected).abs().max() <= TOLERANCE[dtype]


def test_a_changed_gate_is_followed() -> None:
    source = gated(output_tokens=True)  # as in CoCa: the source returns its tokens too
    model = ts.wrap(source, tokenizer=WORDS)
    before = model.encode_texts(TEXTS)
    source.text.blocks[1].attn.gate = nn.Linear(32, 32)
    with torch.no_grad():
        expected = nn.functional.normalize(source.encode_text(model.text.tokenize(TEXTS))[0], dim=-1)
    assert (model.encode_texts(TEXTS) - expected).abs().max() <= TOLERANCE[torch.float32]
    assert (before - expected).abs().max() > 1e-2


@pytest.mark.parametrize("mlp", ["swiglu", "relu2"])
def test_adapters_go_to_every_linear_layer_of_the_blocks_and_to_no_other(mlp: str) -> None:
    source = gated(mlp_type=mlp, pool_type="map")
    targets = lora_targets(source)
    named = {name for name, layer in source.named_modules() if isinstance(layer, nn.Linear)}
    inside = {name for name in named if name.startswith("text.blocks.")}
    assert {name for name in named if re.fullmatch(targets, name)} == inside
    assert len(inside) == 5 * len(source.text.blocks)


def test_it_is_a_transformer_lens_model_and_a_trace() -> None:
    model = ts.wrap(gated(qk_norm=True), tokenizer=TikToken())
    tower = model.text
    ids = torch.tensor([tower.token_ids(TEXTS[0])])
    with torch.no_grad():
        lens, cache = tower.to_transformer_lens().run_with_cache(ids)
        expected = tower(ids)
    assert (lens - expected).abs().max() <= TOLERANCE[torch.float32] * expected.abs().max()
    written = cache["blocks.1.attn.hook_result"].sum(dim=-2)  # heads, behind the gate; there is no bias
    assert (written - cache["blocks.1.hook_attn_out"]).abs().max() <= 1e-5 * written.abs().max()
    pair = ts.Pair(correct=TEXTS[0], foil="there is some edema", image=model.encode_texts(TEXTS)[2])
    trace = ts.trace(model, [pair], floor=0)
    assert trace.cte.shape == (1, 4, 6)
    # with one differing token, causal and read at [EOT]: 0 before it, 1 at layer 0 and in the last layer at [EOT]
    assert trace.cte[0, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert trace.cte[0, -1].tolist() == [0, 0, 0, 0, 0, 1]
