"""Transformers behind sentence encoders, small and random, of the real class: encoders and decoders, three poolings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tracescribe.patching.adapters.sentence_encoder import SentenceEncoder
from zoo.building import BERT, CONTEXT, LAYERS, VOCABULARY, WIDTH, shaken
from zoo.entry import Entry, Place, Reading, Sites
from zoo.tokens import WordTokenizer

DECODER_SITES = Sites(Place("self_attn"), Place("post_attention_layernorm", "in"), Place("mlp"))
ALBERT_SITES = Sites(
    Place("attention.dense"),
    Place("attention"),
    Place("ffn_output"),
    norms=("attention.LayerNorm", "full_layer_layer_norm"),
)
DISTILBERT_SITES = Sites(
    Place("attention"), Place("sa_layer_norm"), Place("ffn"), norms=("sa_layer_norm", "output_layer_norm")
)
DECODER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
DECODER |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
ALBERT = BERT | {"embedding_size": 12}
DISTILBERT = {"dim": WIDTH, "hidden_dim": 64, "n_layers": LAYERS, "n_heads": 2, "vocab_size": VOCABULARY}
DISTILBERT |= {"max_position_embeddings": CONTEXT, "pad_token_id": 0}


def _states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return model.transformer(input_ids=ids, attention_mask=mask).last_hidden_state


def last(model: Any, ids: Tensor) -> Tensor:
    """The last token's state of texts in their own length."""
    return _states(model, ids, torch.ones_like(ids))[:, -1]


def mean_of_all(model: Any, ids: Tensor) -> Tensor:
    """The mean over the tokens of texts in their own length."""
    return _states(model, ids, torch.ones_like(ids)).mean(dim=1)


def mean(model: Any, ids: Tensor) -> Tensor:
    """The mean over the tokens that are no padding."""
    mask = (ids != 0).long()
    return (_states(model, ids, mask) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


# the token that ends a text also pads
LAST = Reading(
    "causal, last",
    last,
    lambda model: model.transformer.layers,
    DECODER_SITES,
    partial(WordTokenizer, pad_id=63, sot_id=None, eot_id=63),
    own_length=True,
)
MEAN = Reading(
    "bidirectional, mean",
    mean,
    lambda model: model.transformer.transformer.layer,
    DISTILBERT_SITES,
    partial(WordTokenizer, sot_id=61, eot_id=62),
)


def _albert_blocks(model: Any) -> list[nn.Module]:
    """The block of each layer, in the order in which they run."""
    groups, n_layers = model.transformer.encoder.albert_layer_groups, model.transformer.config.num_hidden_layers
    return [block for at in range(n_layers) for block in groups[at * len(groups) // n_layers].albert_layers]


def sentence(kind: str, pooling: Any, /, **sizes: Any) -> Callable[[int], nn.Module]:
    """Build a sentence encoder over ``{kind}Model`` of ``{kind}Config``."""

    def build(seed: int) -> nn.Module:
        import transformers

        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(**sizes)
        return shaken(SentenceEncoder(getattr(transformers, f"{kind}Model")(config), pooling), seed)

    return build


def sentence_entries() -> list[Entry]:
    """One entry a class, and further ones where a configuration changes what a block attends to or which block runs."""
    albert = replace(MEAN, blocks=_albert_blocks, sites=ALBERT_SITES)
    windows = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
    table: list[tuple[str, Reading, Callable[[int], nn.Module], str]] = [
        ("Qwen2Model", LAST, sentence("Qwen2", "lasttoken", **DECODER), "any Qwen2"),
        ("Qwen2Model, windows", LAST, sentence("Qwen2", "lasttoken", **DECODER, **windows), "any Qwen2 with windows"),
        ("Qwen3Model", LAST, sentence("Qwen3", "lasttoken", **DECODER, head_dim=16), "Qwen/Qwen3-Embedding-0.6B"),
        (
            "MistralModel",
            LAST,
            sentence("Mistral", "lasttoken", **DECODER, sliding_window=4),
            "intfloat/e5-mistral-7b-instruct",
        ),
        ("LlamaModel", LAST, sentence("Llama", "lasttoken", **DECODER, attention_bias=True), "any Llama"),
        (
            "LlamaModel, mean",
            replace(LAST, kind="causal, mean", encode=mean_of_all),
            sentence("Llama", "mean", **DECODER),
            "any Llama",
        ),
        ("AlbertModel", albert, sentence("Albert", "mean", **ALBERT), "nreimers/albert-small-v2"),
        (
            "AlbertModel, groups",
            albert,
            sentence("Albert", "mean", **ALBERT | {"num_hidden_layers": 4}, num_hidden_groups=2),
            "any ALBERT of several groups",
        ),
        (
            "DistilBertModel",
            MEAN,
            sentence("DistilBert", "mean", **DISTILBERT),
            "sentence-transformers/distiluse-base-multilingual-cased-v1",
        ),
    ]
    return [Entry(f"sentence:{name}", "sentence", reading, build, origin) for name, reading, build, origin in table]
