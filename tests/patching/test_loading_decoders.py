"""Decoders and ALBERT as sentence encoders: embeddings of the package itself, heads that share keys, shared blocks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from zoo.building import shaken
from zoo.hooks import put_hook
from zoo.sentence_models import ALBERT, DECODER, sentence
from zoo.tokens import WordTokenizer

import tracescribe as ts
from tracescribe.errors import DataFormatError, LengthMismatchError, PrescriptionError, UnsupportedTowerError
from tracescribe.patching import Column, PatchingEngine, Sweep, site_named
from tracescribe.patching.towers.spec import TOLERANCE

# transformers reads every Qwen2 by its own tokenizer, which finds the letters of these words alone
WORDS = ("<unk>", "</s>", "<s>", "there", "is", "no", "an", "large", "edema", "nodule", ".", "the", "lungs", "clear")
WORDS += (*"abcdefghijklmnopqrstuvwxyz", "Ġ")
TEXTS = ["there is no large edema in the left lung .", "no nodule", "the lungs is clear", "there"]
SIZES = DECODER | {"vocab_size": len(WORDS), "max_position_embeddings": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("Qwen2", {}),
    "Qwen2, windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "Qwen2, bidirectional": (
        "Qwen2",
        {"is_causal": False, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "Qwen3": ("Qwen3", {"head_dim": 16}),
    "Qwen3, windows": ("Qwen3", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 2}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Mistral, windows": ("Mistral", {"sliding_window": 3}),
    "Llama": ("Llama", {"mlp_bias": True}),
    "Llama 3": (
        "Llama",
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
    ),
}  # fmt: skip
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers"
)
PAIR = ts.Pair(correct="there is no large edema .", foil="there is an large edema .", image=ts.Text("lungs clear"))


def decoder(kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    return shaken(getattr(transformers, f"{kind}Model")(config), 0).to(dtype)


def folder(
    place: Path,
    model: Any,
    *,
    pooling: str = "lasttoken",
    side: str = "left",
    end: bool = True,
    pad: str = "</s>",
    prompt: str | None = None,
) -> Path:
    """A folder as the hub has it; end: whether the tokenizer ends every text with "</s>"; pad: the token that pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    rules = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        rules.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rules, unk_token="<unk>", eos_token="</s>", pad_token=pad, padding_side=side,
        model_max_length=48,
    )  # fmt: skip
    place.mkdir()
    tokenizer.save_pretrained(place)
    model.save_pretrained(place)
    kinds = ("Transformer", "Pooling", "Normalize")
    listed = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (place / "modules.json").write_text(json.dumps(listed))
    (place / "1_Pooling").mkdir()
    settings = {"word_embedding_dimension": 32, "include_prompt": True, f"pooling_mode_{pooling}": True}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    prompts = {} if prompt is None else {"prompts": {"query": prompt}, "default_prompt_name": "query"}
    (place / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return place


def package_model(place: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(place), device="cpu")


def source_of(model: ts.DualEncoder, ids: list[int]) -> torch.Tensor:
    """The unit-length embedding by the source's own passes: the last token's state, text by text."""
    with torch.no_grad():
        row = model.source.transformer(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return row / row.norm()


@needs_package
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", KINDS)
def test_embeddings_are_those_of_the_package_on_a_padded_batch(tmp_path: Path, name: str, side: str) -> None:
    """The package pads the batch, with the token that ends every text; the tower pads nothing."""
    kind, options = KINDS[name]
    place = folder(tmp_path / "model", decoder(kind, **options), side=side)
    package = package_model(place)
    expected = package.encode(TEXTS, normalize_embeddings=True)
    for model in (ts.load(f"st:{place}"), ts.wrap(package, tokenizer=package.tokenizer)):
        text = model.text
        assert (text.pooling, text.spec.padding, text.context_length) == ("last", "own", 48)
        assert text.causal == options.get("is_causal", True)
        np.testing.assert_allclose(text.encode(TEXTS), expected, atol=2e-6)  # float32 in another order
        assert max(model.verify().values()) < 1e-5


@needs_package
@pytest.mark.parametrize("end", [True, False], ids=["with end token", "without"])
@pytest.mark.parametrize("pad", ["</s>", "<unk>", "no"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean_tokens"])
def test_no_token_is_taken_for_padding(tmp_path: Path, pooling: str, pad: str, end: bool) -> None:
    """Whatever token pads: the end of a text, an unknown word, or a word of the texts."""
    place = folder(tmp_path / "model", decoder("Qwen3"), pooling=pooling, pad=pad, end=end, prompt="an nodule no ")
    package = package_model(place)
    texts = [*TEXTS, "edema unheard", "no no"]
    expected = package.encode(texts, normalize_embeddings=True)
    for model in (ts.load(f"st:{place}"), ts.wrap(package, tokenizer=package.tokenizer)):
        np.testing.assert_allclose(model.text.encode(texts), expected, atol=2e-6)


@needs_package
def test_half_precision_keeps_the_positions_frequencies(tmp_path: Path) -> None:
    """A cast of the whole model would round them, and texts would lose their order at a few hundred tokens."""
    place = folder(tmp_path / "model", decoder("Llama", torch.bfloat16))
    for model in (ts.load(f"st:{place}"), ts.load(f"st:{place}", dtype="bfloat16")):
        assert model.text.dtype == torch.bfloat16
        exact = 1 / 1e4 ** (torch.arange(0, 8, 2) / 8)
        assert model.source.transformer.rotary_emb.inv_freq.dtype == torch.float32
        for block in model.text.blocks:
            assert list(block.attn.relative.frequencies) == exact.tolist()
        expected = package_model(place).encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True).float()
        assert float((model.text.encode(TEXTS) - expected).abs().max()) <= TOLERANCE[torch.bfloat16]
    wide = ts.load(f"st:{place}", dtype="float32").text.encode(TEXTS)
    assert float((model.text.encode(TEXTS) - wide).abs().max()) <= TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("name", KINDS)
def test_every_site_equals_plain_hooks_on_the_source_model(tmp_path: Path, name: str) -> None:
    kind, options = KINDS[name]
    model = ts.load(f"st:{folder(tmp_path / 'model', decoder(kind, **options))}")
    base, donor = (model.text.token_ids(text) for text in (PAIR.correct, PAIR.foil))
    inputs = {"z": "self_attn.o_proj", "neurons": "mlp.down_proj"}
    places = {site: f"self_attn.{site}_proj" for site in "qkv"} | {"resid": "", "attn": "self_attn", "mlp": "mlp"}
    for site, path in {**places, **inputs}.items():
        for engine_path in ("resume", "generic"):
            found = PatchingEngine(model.text).patch([base], [donor], sweep=Sweep(site_named(site)), path=engine_path)
            first = site_named(site).first_layer
            at = [ours != theirs for ours, theirs in zip(base, donor, strict=True)].index(True)
            for layer, position in ((1, at), (1, at + 1), (2, at + 2), (3, at + 3), (3, len(base) - 1)):
                module = model.source.transformer.layers[layer - 1].get_submodule(path)
                expected = hooked(model, module, "in" if site in inputs else "out", base, donor, position)
                # float32 in another order
                assert float((found.patched[0, layer - first, position] - expected).abs().max()) < 2e-6, (site, layer)


def hooked(
    model: ts.DualEncoder,
    module: nn.Module,
    side: str,
    base: list[int],
    donor: list[int],
    position: int,
    channels: slice = slice(None),
) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = put_hook(module, side, lambda state: (kept.append(state.clone()), state)[1])
    source_of(model, donor)
    handle.remove()

    def put(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[:, position, channels] = kept[0][:, position, channels]
        return state

    handle = put_hook(module, side, put)
    try:
        return source_of(model, base)
    finally:
        handle.remove()


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_a_heads_own_copy_of_shared_keys_is_that_of_a_model_that_shares_none(site: str) -> None:
    """The same model with as many heads of keys as of queries, whose weights repeat, is patched by plain hooks."""
    tokenizer = WordTokenizer(len(WORDS), pad_id=1, sot_id=None, eot_id=1)
    grouped = ts.wrap(sentence("Qwen3", "lasttoken", **SIZES, head_dim=16)(0), tokenizer=tokenizer)
    apart = ts.wrap(
        sentence("Qwen3", "lasttoken", **SIZES | {"num_key_value_heads": 4}, head_dim=16)(0), tokenizer=tokenizer
    )
    state = grouped.source.state_dict()
    for name in [name for name in state if "k_proj" in name or "v_proj" in name]:
        state[name] = state[name].unflatten(0, (2, 16)).repeat_interleave(2, dim=0).flatten(0, 1)
    apart.source.load_state_dict(state)
    base, donor = (grouped.text.token_ids(text) for text in ("there is no edema .", "there is some edema ."))
    for head in range(4):
        columns = [[Column((position,), head) for position in range(len(base))]]
        found = [
            PatchingEngine(grouped.text)
            .patch([base], [donor], sweep=Sweep(site_named(site)), columns=columns, path=path)
            .patched[0]
            for path in ("resume", "generic")
        ]
        for layer, position in ((1, 2), (2, 3), (3, 5)):
            part = "o" if site == "z" else site
            module = apart.source.transformer.layers[layer - 1].get_submodule(f"self_attn.{part}_proj")
            channels = slice(head * 16, (head + 1) * 16)
            expected = hooked(apart, module, "in" if site == "z" else "out", base, donor, position, channels)
            for cells in found:  # float32 in another order
                assert float((cells[layer - 1, position] - expected).abs().max()) < 2e-6, (head, layer)


def test_a_window_that_the_class_does_not_read_is_none(tmp_path: Path) -> None:
    """Llama's attention reaches back to the first token, whatever its configuration holds besides."""
    model = ts.load(f"st:{folder(tmp_path / 'model', decoder('Llama', sliding_window=2))}")
    ids = model.text.token_ids(TEXTS[0])
    assert float((model.text.encode(TEXTS[:1])[0] - source_of(model, ids)).abs().max()) < 2e-6
    assert all(block.attn.relative.window is None for block in model.text.blocks)


def test_positions_that_depend_on_other_texts_are_refused_by_name(tmp_path: Path) -> None:
    growing = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    place = folder(tmp_path / "model", decoder("Llama", rope_parameters=growing))
    with pytest.raises(UnsupportedTowerError, match="LlamaModel with rotary positions of type 'dynamic' is not"):
        ts.load(f"st:{place}")


def test_texts_that_cannot_be_run_are_said_to_be(tmp_path: Path) -> None:
    model = ts.load(f"st:{folder(tmp_path / 'model', decoder('Llama'), end=False)}")
    with pytest.raises(DataFormatError, match="makes no token of the text ''"):
        model.text.encode([""])
    with pytest.raises(LengthMismatchError, match=r"have 2, 1 tokens, and this model's texts are never padded"):
        model.text.tokenize(["no nodule", "no"])
    assert model.text.tokenize(["no nodule", "no edema"]).tolist() == [[5, 9], [5, 8]]
    assert model.text.tokenize([]).shape[0] == 0


@pytest.mark.parametrize("pooling", ["lasttoken", "mean_tokens"])
def test_a_decoder_is_traced_and_seen_by_transformer_lens(tmp_path: Path, pooling: str) -> None:
    model = ts.load(f"st:{folder(tmp_path / 'model', decoder('Qwen3', head_dim=8), pooling=pooling)}")
    trace = ts.trace(model, [PAIR], floor=0, progress=False)
    assert (np.abs(trace.cte[0][:, :2]) < 1e-6).all()  # before the first difference
    assert trace.cte[0, 0, 2] == pytest.approx(1, abs=1e-5)
    if pooling == "lasttoken":
        np.testing.assert_allclose(trace.cte[0, -1], [0] * 6 + [1], atol=1e-5)
    whole = ts.trace(model, [PAIR], positions="all", floor=0, progress=False)
    np.testing.assert_allclose(whole.cte, 1, atol=1e-5)
    tower, ids = model.text, model.text.tokenize([PAIR.correct])
    lens = tower.to_transformer_lens()
    out, cache = lens.run_with_cache(ids)
    torch.testing.assert_close(out, tower(ids), atol=1e-5, rtol=1e-5)
    attention = lens.blocks[1].attn
    assert attention.W_K.shape == attention.W_Q.shape == (4, 32, 8)
    keys = torch.einsum("bpd,hdc->bphc", lens.blocks[1].ln_1(cache["blocks.1.hook_resid_pre"]), attention.W_K)
    torch.testing.assert_close(keys, cache["blocks.1.attn.hook_k"], atol=1e-5, rtol=1e-5)


def test_packed_texts_of_a_decoder_are_never_padded(tmp_path: Path) -> None:
    from tracescribe.finetune.training.packing import PackedTexts, token_table

    for pooling in ("mean_tokens", "lasttoken", "cls_token"):
        tower = ts.load(f"st:{folder(tmp_path / pooling, decoder('Llama'), pooling=pooling)}").text
        packed = PackedTexts(tower, *token_table(tower, TEXTS))
        found = nn.functional.normalize(packed(torch.arange(len(TEXTS))), dim=-1)
        torch.testing.assert_close(found, tower.encode(TEXTS), atol=2e-6, rtol=0)


@pytest.mark.parametrize("groups", [1, 3])
def test_albert_refuses_weights_by_layer_and_takes_adapters_for_all(groups: int) -> None:
    import peft

    tokens = WordTokenizer(64, sot_id=61, eot_id=62)
    source = sentence("Albert", "mean", **ALBERT | {"num_hidden_layers": 6}, num_hidden_groups=groups)(0)
    model = ts.wrap(source, tokenizer=tokens)
    assert (model.text.n_layers, model.text.d_model, model.text.embedding.tokens.shape[1]) == (6, 32, 12)
    assert len(set(ts.patching.text_blocks(source))) == groups
    plan = ts.prescribe(np.arange(7.0))
    for use in (
        lambda: plan.param_groups(source, lr=1e-3),
        lambda: plan.lora_config(source, mode="rank"),
        lambda: ts.finetune.update_share(source, source, plan),
        lambda: ts.finetune.block_gradients(source, lambda batch: None, [0]),
    ):
        with pytest.raises(PrescriptionError, match="blocks 1 and 2 share a parameter"):
            use()
    config = peft.LoraConfig(r=2, target_modules=ts.patching.lora_targets(source), init_lora_weights=False)
    before, adapted = model.text.encode(TEXTS), peft.get_peft_model(source, config)
    assert sum(".lora_A." in name for name, _ in adapted.named_parameters()) == 6 * groups
    assert float((ts.wrap(adapted, tokenizer=tokens).text.encode(TEXTS) - before).abs().max()) > 1e-3
