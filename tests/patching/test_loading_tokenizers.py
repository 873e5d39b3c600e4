"""Tokenizers and precisions as users have them: rows of any length, mappings, silent cuts; open_clip in fp16, bf16."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from models import (
    WordTokenizer,
    chinese_clip_model,
    open_clip_hf_model,
    open_clip_model,
    siglip_model,
    transformers_model,
)
from open_clip.model import CLIP, convert_weights_to_lp
from torch import nn
from zoo.building import EMBED, shaken
from zoo.open_clip_models import VISION

import tracescribe as ts
from tracescribe.errors import ContextOverflowError, DataFormatError, UnsupportedTowerError
from tracescribe.patching.towers.spec import TOLERANCE

TEXTS = ["there is no edema.", "no", "there is severe edema in the left lung."]
WORDS = WordTokenizer()


def ragged(texts: list[str]) -> list[list[int]]:
    return [WORDS.encode(text) for text in texts]


def mapping(texts: list[str]) -> dict[str, Any]:
    ids = WORDS.rows(texts, 12)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


TOKENIZERS: dict[str, Callable[[list[str]], Any]] = {
    "lists": ragged,
    "rows of the longest text": lambda texts: WORDS.rows(texts, None),
    "full width": lambda texts: WORDS.rows(texts, 12),
    "narrower than the context": lambda texts: WORDS.rows(texts, 11),
    "wider than the context": lambda texts: WORDS.rows(texts, 20),
    "numpy": lambda texts: WORDS.rows(texts, 12).numpy(),
    "mapping": mapping,
    "mapping of lists, no mask": lambda texts: {"input_ids": ragged(texts)},
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("make", [open_clip_model, open_clip_hf_model])
def test_rows_of_any_length_are_read(kind: str, make: Callable[[], nn.Module]) -> None:
    expected = ts.wrap(make(), tokenizer=WORDS).text
    text = ts.wrap(make(), tokenizer=TOKENIZERS[kind]).text
    assert [text.token_ids(one) for one in TEXTS] == [WORDS.encode(one) for one in TEXTS]
    assert torch.equal(text.encode(TEXTS), expected.encode(TEXTS))


def test_rows_without_padding_take_the_id_that_the_model_hides() -> None:
    """RoBERTa hides 1, and 0 is its start token: nothing may be taken for padding."""
    words = WordTokenizer(64, 1, sot_id=0, eot_id=0)
    source = open_clip_hf_model(text="Roberta")
    text = ts.wrap(source, tokenizer=lambda texts: [words.encode(text) for text in texts]).text
    assert text.tokenizer.pad_id == 1
    assert [text.token_ids(one) for one in TEXTS] == [words.encode(one) for one in TEXTS]
    assert torch.equal(text.encode(TEXTS), ts.wrap(source, tokenizer=words).text.encode(TEXTS))


def test_an_end_token_that_also_pads_is_kept() -> None:
    """As CLIP's tokenizer of transformers pads: 63 ends the text and fills the row."""
    padded = partial(WordTokenizer(pad_id=63, eot_id=63).rows, context_length=12)
    text = ts.wrap(open_clip_model(), tokenizer=padded).text
    ids = text.token_ids("no edema")
    assert len(ids) == 4
    assert ids[-1] == 63 != ids[-2]


CUTS: dict[str, Callable[[list[str]], Any]] = {
    "a full row": lambda texts: [ids[:12] for ids in WORDS.rows(texts, 40).tolist()],
    "shorter than the context": lambda texts: [row[:6] for row in ragged(texts)],
    "the first 20 characters": lambda texts: WORDS.rows([text[:20] for text in texts], 12),
    "the last tokens": lambda texts: [row[-6:] for row in ragged(texts)],
    "mapping": lambda texts: {name: rows[:, :6] for name, rows in mapping(texts).items()},
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_text_that_was_cut_is_refused(cut: str) -> None:
    text = ts.wrap(open_clip_model(), tokenizer=CUTS[cut]).text
    long = "there is severe edema in the left lung and none is seen in the right one"
    with pytest.raises(ContextOverflowError, match="may have cut 'there is severe"):
        text.token_ids(long)
    assert len(text.token_ids("no edema")) == 4


def test_a_tokenizer_that_refuses_long_texts_is_trusted() -> None:
    def strict(texts: list[str]) -> torch.Tensor:
        if any(len(WORDS.encode(text)) > 12 for text in texts):
            raise RuntimeError("too long for context length 12")
        return WORDS.rows(texts, 12)

    text = ts.wrap(open_clip_model(), tokenizer=strict).text
    assert len(text.token_ids("a b c d e f g h i j")) == 12  # a full row that was not cut
    with pytest.raises(ContextOverflowError, match=r"does not take 'a b c.*too long for context length 12"):
        text.token_ids("a b c d e f g h i j k")


def test_what_is_no_row_of_ids_is_said() -> None:
    with pytest.raises(UnsupportedTowerError, match=r"for 1 texts it gave a Tensor of shape \[12\]"):
        ts.wrap(open_clip_model(), tokenizer=lambda texts: torch.zeros(12).long())


def test_unknown_padding_is_refused_where_the_model_attends_to_it() -> None:
    source = open_clip_model(custom=True, no_causal_mask=True, pool_type="last")
    with pytest.raises(UnsupportedTowerError, match="pad_token_id"):
        ts.wrap(source, tokenizer=ragged)


def in_precision(precision: str) -> nn.Module:
    """A model as open_clip's factory makes it for ``precision``."""
    dtype = torch.float16 if precision.endswith("fp16") else torch.bfloat16
    text = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 3}
    torch.manual_seed(0)
    cast = None if precision.startswith("pure") else dtype
    model = shaken(CLIP(EMBED, vision_cfg=VISION, text_cfg=text, cast_dtype=cast), 0)
    if precision.startswith("pure"):
        return model.to(dtype)
    convert_weights_to_lp(model, dtype)
    return model


@pytest.mark.parametrize("precision", ["fp16", "bf16", "pure_fp16", "pure_bf16"])
def test_open_clips_low_precisions_say_what_the_source_says(precision: str) -> None:
    source = in_precision(precision)
    model = ts.wrap(source, tokenizer=WORDS)
    dtype = model.text.dtype
    assert dtype == (torch.float16 if precision.endswith("fp16") else torch.bfloat16)
    with torch.no_grad():
        expected = nn.functional.normalize(source.encode_text(model.text.tokenize(TEXTS)).float(), dim=-1)
    # the bound of this precision, of which three blocks use a part: orders of summation differ
    assert (model.encode_texts(TEXTS) - expected).abs().max() <= TOLERANCE[dtype]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = model.encode_images(pixels)
    assert (model.vision.encode(pixels) - images).abs().max() <= TOLERANCE[dtype]
    single = model.text.twin(torch.float32)
    assert single.dtype == torch.float32
    assert (single.encode(TEXTS) - expected).abs().max() <= TOLERANCE[dtype]
    trace = ts.trace(model, [ts.Pair(correct=TEXTS[0], foil="there is some edema.", image=images[0])], floor=0)
    assert trace.cte.shape[:2] == (1, 4)


def test_openais_own_model_in_mixed_half_precision_says_what_it_says() -> None:
    """As ``clip.load`` gives it on a GPU: embeddings and norms in single precision, all linear weights in half."""
    from zoo.replicas.openai_clip import CLIP as OpenAI
    from zoo.replicas.openai_clip import convert_weights

    torch.manual_seed(0)
    source = shaken(OpenAI(EMBED, 32, 1, 64, 16, 12, 64, 64, 1, 3), 0)
    convert_weights(source)
    assert source.positional_embedding.dtype == source.ln_final.weight.dtype == torch.float32
    assert source.text_projection.dtype == torch.float16
    model = ts.wrap(source, tokenizer=WORDS)
    assert model.text.dtype == torch.float16
    with torch.no_grad():
        expected = nn.functional.normalize(source.encode_text(model.text.tokenize(TEXTS)).float(), dim=-1)
    assert (model.encode_texts(TEXTS) - expected).abs().max() <= TOLERANCE[torch.float16]
    images = model.encode_images(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    pair = ts.Pair(correct=TEXTS[0], foil="there is some edema.", image=images[0])
    trace = ts.trace(model, [pair], dtype=torch.float32, floor=0)  # and traced in single precision
    assert trace.cte[0, -1, -1] == 1
    single = model.text.twin(torch.float32).encode(TEXTS)
    assert (single - expected).abs().max() <= TOLERANCE[torch.float16]


def test_a_limit_of_a_tokenizer_that_is_no_number_is_named() -> None:
    from tracescribe.patching.towers.tokenizers import TransformersTokenizer

    class Tokenizer:
        model_max_length = ""

    with pytest.raises(UnsupportedTowerError, match=r"model_max_length is '', which is no number.*tokenizer_config"):
        TransformersTokenizer(Tokenizer())


def clip_tokenizer(**options: Any) -> Any:
    """transformers' own, over the words of TEXTS; ``<|endoftext|>`` has the largest id but one."""
    from transformers import CLIPTokenizer

    words = ["there", "is", "no", "edema", ".", "severe", "in", "the", "left", "lung"]
    pieces = ["<unk>", *(f"{word}</w>" for word in words), *(f"#{i}" for i in range(50)), "<|startoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)} | {"<|endoftext|>": 62, "<|pad|>": 63}
    return CLIPTokenizer(vocab=vocab, merges=[], **{"unk_token": "<unk>", "pad_token": "<|endoftext|>"} | options)


def test_a_tokenizer_that_pads_on_the_left_is_refused() -> None:
    """transformers' default for Gemma's tokenizers, SigLIP 2's; its own calls would move every token."""
    source = transformers_model(eos_token_id=62)
    ts.wrap(source, tokenizer=clip_tokenizer())
    with pytest.raises(UnsupportedTowerError, match=r"pads on the left.*padding_side = 'right'"):
        ts.wrap(source, tokenizer=clip_tokenizer(padding_side="left"))


def test_a_function_that_pads_on_the_left_is_refused() -> None:
    left = clip_tokenizer(padding_side="left")
    with pytest.raises(UnsupportedTowerError, match=r"pads on the left"):
        ts.wrap(
            transformers_model(eos_token_id=62),
            tokenizer=lambda texts: left(texts, padding=True, return_tensors="pt"),
        )


def test_an_end_token_that_pads_to_the_longest_text_is_kept() -> None:
    """As transformers' CLIP tokenizer does in a function: a text alone has no padding, but its end."""
    source, tokenizer = transformers_model(eos_token_id=62), clip_tokenizer()
    expected = ts.wrap(source, tokenizer=tokenizer).text
    text = ts.wrap(
        source, tokenizer=lambda texts: tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
    ).text
    assert [text.token_ids(one) for one in ("", "no edema")] == [expected.token_ids(one) for one in ("", "no edema")]
    assert torch.equal(text.encode(["no edema", "no"]), expected.encode(["no edema", "no"]))


def test_padding_that_is_larger_than_the_end_token_is_refused_where_the_largest_id_is_read() -> None:
    largest, end = transformers_model(eos_token_id=2), transformers_model(eos_token_id=62)
    tokenizer = clip_tokenizer(pad_token="<|pad|>")
    assert tokenizer.pad_token_id > tokenizer.eos_token_id
    ts.wrap(end, tokenizer=tokenizer)
    ts.wrap(largest, tokenizer=clip_tokenizer())
    with pytest.raises(UnsupportedTowerError, match=r"padding changes what CLIPModel says.*pads with id 63"):
        ts.wrap(largest, tokenizer=tokenizer)


def test_a_text_that_holds_the_padding_token_is_refused_where_padding_is_hidden() -> None:
    """Whether the model reads it depends on the call: transformers' mask says yes, a mask made of ids says no."""
    words = WordTokenizer()
    words._words["[PAD]"] = words.pad_id
    model = ts.wrap(chinese_clip_model(), tokenizer=words)
    with pytest.raises(DataFormatError, match=r"'there is \[PAD\] edema' holds the padding token itself \(id 0\)"):
        model.encode_texts(["there is [PAD] edema"])
    pair = ts.Pair(correct="there is no edema", foil="there is [PAD] edema", image=[1.0] * EMBED)
    with pytest.raises(DataFormatError, match=r"pair '0': the text .* holds the padding token"):
        ts.trace(model, [pair], progress=False)
    causal = ts.wrap(open_clip_model(), tokenizer=words)  # whose mask does not know of padding
    assert causal.encode_texts(["there is [PAD] edema"]).shape == (1, EMBED)


def test_a_text_without_any_token_is_refused() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(sot_id=None, eot_id=None))
    with pytest.raises(DataFormatError, match=r"makes no token of the text ''"):
        model.encode_texts(["no", ""])


class SimpleTokenizer:
    """OpenAI's has neither open_clip's attributes nor a call."""

    def __init__(self, **ends: int) -> None:
        self.encoder = {"no</w>": 5} | {f"<|{name}|>": i for name, i in ends.items()}
        self.decoder = {i: piece for piece, i in self.encoder.items()}

    def encode(self, text: str) -> list[int]:
        return [5] * len(text.split())


def test_openais_own_tokenizer_is_read_by_its_vocabulary() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=SimpleTokenizer(startoftext=62, endoftext=63))
    assert model.text.token_ids("no no") == [62, 5, 5, 63]
    assert model.text.token_strings([62, 5, 63]) == ["[SOT]", "no", "[EOT]"]
    with pytest.raises(UnsupportedTowerError, match=r"neither the attribute sot_token_id nor the token <\|startoftext"):
        ts.wrap(open_clip_model(), tokenizer=SimpleTokenizer())


@pytest.mark.parametrize("masks", [True, False])
def test_a_mask_that_siglip_was_trained_without_is_said(masks: bool, caplog: pytest.LogCaptureFixture) -> None:
    names = ["input_ids", "attention_mask"] if masks else ["input_ids"]
    ts.wrap(siglip_model(), tokenizer=clip_tokenizer(model_input_names=names))
    assert ("trained to attend to padding" in caplog.text) == masks
