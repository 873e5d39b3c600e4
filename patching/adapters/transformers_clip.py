"""transformers' ``CLIPModel`` (OpenAI CLIP, PubMedCLIP, PLIP and every checkpoint of that class)."""

from __future__ import annotations

from typing import Any

from ..block import MLP, Attention, Block
from ..layers import SplitQKV, TokenEmbedding
from ..tokens import adapt_tokenizer
from ..tower import TextTower, TowerSpec
from .registry import Adapter
from .weights import kinds, layer_norm, linear, stateless


def _build_tower(source: Any, tokenizer: Any) -> TextTower:
    text = source.text_model
    config = text.config
    return TextTower(
        spec=TowerSpec(
            causal=True,
            # configs written before transformers' #24773 carry eos_token_id 2 and mean "the largest id"
            pooling="argmax" if text.eos_token_id == 2 else "eos",
            padding="trim",
            context_length=config.max_position_embeddings,
            eos_id=text.eos_token_id,
        ),
        tokenizer=adapt_tokenizer(tokenizer, config.max_position_embeddings),
        embedding=TokenEmbedding(text.embeddings.token_embedding.weight, text.embeddings.position_embedding.weight),
        blocks=[_block(layer, config.num_attention_heads) for layer in text.encoder.layers],
        ln_final=layer_norm(text.final_layer_norm),
        projection=linear(source.text_projection),
    )


def _block(layer: Any, n_heads: int) -> Block:
    attention = layer.self_attn
    return Block(
        ln_1=layer_norm(layer.layer_norm1),
        attn=Attention(
            SplitQKV(linear(attention.q_proj), linear(attention.k_proj), linear(attention.v_proj)),
            linear(attention.out_proj),
            n_heads,
        ),
        ln_2=layer_norm(layer.layer_norm2),
        mlp=MLP(linear(layer.mlp.fc1), stateless(layer.mlp.activation_fn), linear(layer.mlp.fc2)),
    )


def _features(output: Any) -> Any:
    """transformers 5 returns an output object from ``get_*_features``, version 4 the tensor itself."""
    return getattr(output, "pooler_output", output)


def _is_clip(source: Any) -> bool:
    return "transformers.CLIPModel" in kinds(source)


ADAPTER = Adapter(
    name="transformers_clip",
    matches=_is_clip,
    build_tower=_build_tower,
    blocks=lambda source: list(source.text_model.encoder.layers),
    block_linears=r"self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc1|mlp\.fc2",
    block_prefix=lambda source: "text_model.encoder.layers",
    embedding_stage=lambda source: (source.text_model.embeddings, False),
    encode_text=lambda source, ids: _features(source.get_text_features(input_ids=ids)),
    encode_image=lambda source, pixels: _features(source.get_image_features(pixel_values=pixels)),
    logit_scale=lambda source: float(source.logit_scale.detach().exp()),
)
