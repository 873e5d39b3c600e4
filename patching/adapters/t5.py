"""The encoder of T5 and mT5: pre-norm with RMS norms, biases by distance that all blocks share, unscaled attention."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ..towers.block import MLP, Attention, Block
from ..towers.layers import SplitQKV, TokenEmbedding
from ..towers.relative_positions import DistanceBias
from ..towers.spec import Pooling
from ..towers.text_tower import TextTower
from .base import EncoderReader, masked_tower
from .weights import linear, rms_norm, stateless, table
from .wrappers import kinds


def _build(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    first = encoder.block[0].layer[0].SelfAttention  # its biases serve all blocks
    bucket = partial(
        first._relative_position_bucket,
        bidirectional=True,
        num_buckets=first.relative_attention_num_buckets,
        max_distance=first.relative_attention_max_distance,
    )
    bias = DistanceBias(table(first.relative_attention_bias), bucket)
    embedding = TokenEmbedding(table(encoder.embed_tokens), None)
    blocks, ln_final = [_block(block, bias) for block in encoder.block], rms_norm(encoder.final_layer_norm)
    return masked_tower(tokenizer, None, embedding, blocks, pooling, head, ln_final=ln_final)


def _block(block: Any, bias: DistanceBias) -> Block:
    attention, feed_forward = block.layer[0], block.layer[1]
    inner = attention.SelfAttention
    return Block(
        ln_1=rms_norm(attention.layer_norm),
        attn=Attention(
            SplitQKV(linear(inner.q), linear(inner.k), linear(inner.v)),
            linear(inner.o),
            inner.n_heads,
            relative=bias,
            scale=1.0,
        ),
        ln_2=rms_norm(feed_forward.layer_norm),
        mlp=_mlp(feed_forward.DenseReluDense),
    )


def _mlp(dense: Any) -> MLP:
    activation, down = stateless(dense.act), linear(dense.wo)
    if hasattr(dense, "wi"):
        return MLP(linear(dense.wi), activation, down)
    return MLP(linear(dense.wi_1), activation, down, gate=linear(dense.wi_0))


READERS = (
    EncoderReader(
        name="t5",
        matches=lambda encoder: bool(kinds(encoder) & {"transformers.T5Stack", "transformers.MT5Stack"}),
        build=_build,
        blocks="block",
        block_linears=r"layer\.0\.SelfAttention\.(q|k|v|o)|layer\.1\.DenseReluDense\.(wi|wi_0|wi_1|wo)",
        embedding_stage=("block.0", True),
    ),
)
