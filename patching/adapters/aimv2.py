"""AIMv2's text transformer: pre-norm with RMS norms and gated MLPs, causal, read at the end token.

transformers 5 calls it without a mask where nothing is padded (``create_causal_mask`` leaves that to a flag that the
attention does not heed), and then every token sees the whole text: the embedding of a caption would depend on whether a
longer one stands beside it. The tower is the causal one, which every padded batch gets, and so is the call it is
verified against.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..towers.block import MLP, Block
from ..towers.layers import TokenEmbedding
from ..towers.spec import Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import adapt_tokenizer
from .base import EncoderReader
from .weights import attention, linear, rms_norm, stateless, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    embeddings, context = encoder.embeddings, encoder.config.max_position_embeddings
    return TextTower(
        spec=TowerSpec(
            causal=True,
            pooling=pooling,
            padding="trim",
            context_length=context,
            eos_id=encoder.eos_token_id,
        ),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(table(embeddings.token_embedding), table(embeddings.position_embedding)),
        blocks=[_block(layer) for layer in encoder.encoder.layers],
        ln_final=rms_norm(encoder.rms_norm, single=True),
        projection=nn.Sequential(*head),
    )


def _causal_mask(encoder: Any, ids: Int[Tensor, "n context"]) -> Float[Tensor, "n 1 context context"]:
    """What is added to the scores: written out, a mask is passed on as it is."""
    dtype, length = encoder.embeddings.token_embedding.weight.dtype, ids.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
    mask = torch.zeros(length, length, dtype=dtype, device=ids.device).masked_fill(later, torch.finfo(dtype).min)
    return mask.expand(len(ids), 1, -1, -1)


def _block(layer: Any) -> Block:
    ffn = layer.ffn
    return Block(
        ln_1=rms_norm(layer.rms_norm1, single=True),
        attn=attention(layer.attention),
        ln_2=rms_norm(layer.rms_norm2, single=True),
        mlp=MLP(linear(ffn.up_proj), stateless(ffn.act_fn), linear(ffn.down_proj), gate=linear(ffn.gate_proj)),
    )


READERS = (
    EncoderReader(
        name="aimv2",
        matches=lambda encoder: "transformers.Aimv2TextModel" in kinds(encoder),
        build=_build,
        blocks="encoder.layers",
        block_linears=r"attention\.(q_proj|k_proj|v_proj|out_proj)|ffn\.(gate_proj|up_proj|down_proj)",
        embedding_stage=("embeddings", False),
        pooled=lambda encoder: ("eos", []),
        mask=_causal_mask,
    ),
)
