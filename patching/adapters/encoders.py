"""Text encoders that sit inside dual encoders of several libraries: how each kind is taken apart, in one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.text_tower import TextTower
from ..towers.tower import Pooling
from .weights import linear, stateless

Pooled = tuple[Pooling, list[nn.Module]]


def padding_mask(encoder: Any, ids: Int[Tensor, "n context"]) -> Int[Tensor, "n context"]:
    """1 where a token is no padding, by the encoder's own configuration."""
    pad = encoder.config.pad_token_id
    if pad is None:
        raise UnsupportedTowerError(
            f"the configuration of the text encoder ({type(encoder).__name__}) has no pad_token_id: set it to the "
            f"tokenizer's"
        )
    return (ids != pad).long()


def bert_pooled(encoder: Any) -> Pooled:
    """BERT's pooler: the first token through a linear layer and an activation.

    Raises:
        UnsupportedTowerError: the encoder was built without one.
    """
    pooler = getattr(encoder, "pooler", None)
    if pooler is None:
        raise UnsupportedTowerError(
            f"the text encoder ({type(encoder).__name__}) has no pooler, but it is read through one"
        )
    return "first", [linear(pooler.dense), stateless(pooler.activation)]


@dataclass(frozen=True)
class EncoderReader:
    """One kind of text encoder.

    build: (encoder, tokenizer, pooling, head) -> tower; ``head`` is what follows the pooled row. blocks: dotted name of
    the list of blocks. block_linears: regex of the linear layers below one block. embedding_stage: (dotted name of the
    module where layer 0 shows, read its input?). pooled: how the encoder's own ``pooler_output`` comes about: the row,
    and the modules behind it. mask: the attention mask that the source is called with; None for none.
    """

    name: str
    matches: Callable[[Any], bool]
    build: Callable[[Any, Any, Pooling, list[nn.Module]], TextTower]
    blocks: str
    block_linears: str
    embedding_stage: tuple[str, bool]
    pooled: Callable[[Any], Pooled] = bert_pooled
    mask: Callable[[Any, Int[Tensor, "n context"]], Tensor | None] = padding_mask

    def tower(self, encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
        """The tower over ``encoder``.

        Raises:
            UnsupportedTowerError: the tokenizer pads with another id than the one that the source model hides.
        """
        tower = self.build(encoder, tokenizer, pooling, head)
        hidden, padded = encoder.config.pad_token_id, tower.tokenizer.pad_id
        if tower.spec.padding == "mask" and hidden != padded:
            raise UnsupportedTowerError(
                f"the model hides padding by id {hidden}, but the tokenizer pads with {padded}: this tokenizer does "
                f"not belong to this model"
            )
        return tower


def _readers() -> tuple[EncoderReader, ...]:
    from . import aimv2, bert, clip_text, flava, m2m100, modernbert, mpnet, t5

    families = (clip_text, aimv2, bert, flava, mpnet, modernbert, m2m100, t5)
    return tuple(reader for family in families for reader in family.READERS)


def reader_for(encoder: Any) -> EncoderReader:
    """The reader of a text encoder.

    Raises:
        UnsupportedTowerError: there is none; names what was found.
    """
    for reader in _readers():
        if reader.matches(encoder):
            return reader
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in encoder.named_children())
    raise UnsupportedTowerError(
        f"the text encoder is a {type(encoder).__name__} ({children}), which no reader here takes apart; readers: "
        f"{', '.join(reader.name for reader in _readers())}; docs/add_a_tower.md says how to add one"
    )


def context_of(tokenizer: Any, limit: int | None) -> int:
    """The context of a tower: the tokenizer's, within the positions that the encoder has (None: any number)."""
    asked = getattr(tokenizer, "context_length", None)
    if limit is None:
        return int(asked or 512)
    return min(limit, int(asked or limit))
