"""The protocols of adapters: what they provide for a dual encoder, its text encoder and its image encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.block import Block
from ..towers.image_tower import ImageTower
from ..towers.layers import TokenEmbedding
from ..towers.spec import Pooling, TowerSpec
from ..towers.text_tower import TextTower
from ..towers.tokenizers import TextTokenizer, adapt_tokenizer
from .weights import linear, stateless

Pooled = tuple[Pooling, list[nn.Module]]


class ImageReading(NamedTuple):
    """What an adapter makes of a source model's image encoder.

    stages: where layers 0..L show in a source model: modules, and whether to read their input (else their output).
    """

    tower: ImageTower
    stages: Callable[[Any], list[tuple[nn.Module, bool]]]


@dataclass(frozen=True)
class Adapter:
    """How one family of source models is read. Every function takes the unwrapped source model.

    sequence_first: the source's blocks hold their states as [pos, batch, d]. own_length: padding changes what the
    source model says of a text, so that ``encode_text`` must be given each text in its own length.
    """

    name: str
    matches: Callable[[Any], bool]
    build_tower: Callable[[Any, Any], TextTower]  # (source, tokenizer)
    blocks: Callable[[Any], list[nn.Module]]  # the source's own text blocks 1..L
    block_linears: Callable[[Any], str]  # regex of the linear layers below one block
    embedding_stage: Callable[[Any], tuple[nn.Module, bool]]  # where layer 0 shows: (module, read its input?)
    encode_text: Callable[[Any, Int[Tensor, "n context"]], Float[Tensor, "n embed"]]
    encode_image: Callable[[Any, Float[Tensor, "n 3 h w"]], Float[Tensor, "n embed"]]
    logit_scale: Callable[[Any], float | None]  # None: the source has none
    sequence_first: bool = False
    own_length: bool = False
    # (source, grid or None for the tower's own); None where no image encoder of the family is read
    build_image_tower: Callable[[Any, int | None], ImageReading] | None = None


def padding_mask(encoder: Any, ids: Int[Tensor, "n context"]) -> Int[Tensor, "n context"]:
    """1 where a token is no padding, by the encoder's own configuration."""
    pad = encoder.config.pad_token_id
    if pad is None:
        raise UnsupportedTowerError(
            f"the configuration of the text encoder ({type(encoder).__name__}) has no pad_token_id: set it to the "
            f"tokenizer's"
        )
    return (ids != pad).long()


def pooler_of(encoder: Any) -> Any:
    """The encoder's own pooler.

    Raises:
        UnsupportedTowerError: the encoder was built without one.
    """
    pooler = getattr(encoder, "pooler", None)
    if pooler is None:
        raise UnsupportedTowerError(
            f"the text encoder ({type(encoder).__name__}) has no pooler, but it is read through one"
        )
    return pooler


def bert_pooled(encoder: Any) -> Pooled:
    """BERT's pooler: the first token through a linear layer and an activation.

    Raises:
        UnsupportedTowerError: the encoder was built without one.
    """
    pooler = pooler_of(encoder)
    return "first", [linear(pooler.dense), stateless(pooler.activation)]


@dataclass(frozen=True)
class EncoderReader:
    """One kind of text encoder.

    build: (encoder, tokenizer, pooling, head) -> tower; ``head`` is what follows the pooled row. blocks: dotted name of
    the list of blocks, or a function that lists them as they run, where one runs several times. block_linears: regex of
    the linear layers below one block. embedding_stage: (dotted name of the module where layer 0 shows, read its
    input?). pooled: how the encoder's own ``pooler_output`` comes about: the row, and the modules behind it. mask: the
    attention mask that the source is called with; None for none.
    """

    name: str
    matches: Callable[[Any], bool]
    build: Callable[[Any, Any, Pooling, list[nn.Module]], TextTower]
    blocks: str | Callable[[Any], list[nn.Module]]
    block_linears: str
    embedding_stage: tuple[str, bool]
    pooled: Callable[[Any], Pooled] = bert_pooled
    mask: Callable[[Any, Int[Tensor, "n context"]], Tensor | None] = padding_mask

    def blocks_of(self, encoder: Any) -> list[nn.Module]:
        """The encoder's own blocks 1..L."""
        return list(encoder.get_submodule(self.blocks)) if isinstance(self.blocks, str) else self.blocks(encoder)

    def tower(self, encoder: Any, tokenizer: Any, pooling: Pooling, head: list[nn.Module]) -> TextTower:
        """The tower over ``encoder``.

        Raises:
            UnsupportedTowerError: the tokenizer pads with another id than the one that the source model hides.
        """
        tower = self.build(encoder, tokenizer, pooling, head)
        if tower.spec.padding == "mask":
            check_padding(encoder.config.pad_token_id, tower.tokenizer)
        return tower


def check_padding(hidden: int | None, tokenizer: TextTokenizer) -> None:
    """Make sure that the tokenizer pads with the id that the source model hides.

    A tokenizer that does not pad takes the model's id.

    Raises:
        UnsupportedTowerError: it pads with another one.
    """
    if hidden is not None and not getattr(tokenizer, "pad_known", True):
        tokenizer.pad_id = hidden
    if hidden != tokenizer.pad_id:
        raise UnsupportedTowerError(
            f"the model hides padding by id {hidden}, but the tokenizer pads with {tokenizer.pad_id}: this tokenizer "
            f"does not belong to this model"
        )


def context_of(tokenizer: Any, limit: int | None) -> int:
    """The context of a tower: the tokenizer's, within the positions that the encoder has (None: any number)."""
    asked = getattr(tokenizer, "context_length", None)
    if limit is None:
        return int(asked or 512)
    return min(limit, int(asked or limit))


def masked_tower(
    tokenizer: Any,
    places: int | None,
    embedding: TokenEmbedding,
    blocks: list[Block],
    pooling: Pooling,
    head: list[nn.Module],
    *,
    ln_final: nn.Module | None = None,
    **readout: Any,
) -> TextTower:
    """A tower whose tokens see each other and no padding: BERT and its relatives.

    places: how many tokens there are positions for; None: any number. head: what follows the pooled row. readout:
    further fields of its TowerSpec.
    """
    context = context_of(tokenizer, places)
    return TextTower(
        spec=TowerSpec(causal=False, pooling=pooling, padding="mask", context_length=context, **readout),
        tokenizer=adapt_tokenizer(tokenizer, context),
        embedding=embedding,
        blocks=blocks,
        ln_final=ln_final,
        projection=nn.Sequential(*head),
    )
