"""The encoder of T5 and mT5: relative position biases inside the attention, so that its blocks run as a whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..block import OpaqueBlock
from ..hooks import share
from ..layers import TokenEmbedding
from ..text_tower import TextTower
from ..tokens import adapt_tokenizer
from ..tower import Pooling, TowerSpec
from .encoders import EncoderReader, context_of
from .weights import kinds


def t5_tower(encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
    """A tower over a T5 encoder, read through ``head``; every block is opaque."""
    context = context_of(tokenizer, None)
    biases = encoder.block[0].layer[0].SelfAttention  # the first block's biases serve all of them

    def run(parts: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        from transformers.masking_utils import create_bidirectional_mask

        block, first = parts
        attended = None if mask is None else mask[:, 0, 0].long()
        allowed = create_bidirectional_mask(config=encoder.config, inputs_embeds=x, attention_mask=attended)
        bias = first.compute_bias(x.shape[1], x.shape[1]).to(x.dtype)
        output = block(x, attention_mask=allowed, position_bias=bias)
        return output[0]

    return TextTower(
        spec=TowerSpec(causal=False, pooling=pooling, padding="mask", context_length=context),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=TokenEmbedding(encoder.embed_tokens.weight, None),
        blocks=[OpaqueBlock(nn.ModuleList([block, biases]), run) for block in encoder.block],
        ln_final=share(encoder.final_layer_norm),
        projection=nn.Sequential(*head),
    )


READER = EncoderReader(
    name="t5",
    matches=lambda encoder: bool(kinds(encoder) & {"transformers.T5Stack", "transformers.MT5Stack"}),
    build=t5_tower,
    blocks="block",
    block_linears=r"layer\.0\.SelfAttention\.(q|k|v|o)|layer\.1\.DenseReluDense\.(wi|wi_0|wi_1|wo)",
    embedding_stage=("block.0", True),
)
