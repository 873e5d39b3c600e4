"""Text encoders that sit inside dual encoders of several libraries: how each kind is taken apart, in one list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...errors import UnsupportedTowerError
from ..text_tower import TextTower
from ..tower import Pooling


@dataclass(frozen=True)
class EncoderReader:
    """One kind of text encoder.

    build: (encoder, tokenizer, pooling, head) -> tower; ``head`` is what follows the pooled row. blocks: dotted name of
    the list of blocks. embedding_stage: (dotted name of the module where layer 0 shows, read its input?).
    """

    name: str
    matches: Callable[[Any], bool]
    build: Callable[[Any, Any, Pooling, list[nn.Module]], TextTower]
    blocks: str
    block_linears: str
    embedding_stage: tuple[str, bool]


def _readers() -> tuple[EncoderReader, ...]:
    from . import bert, m2m100, t5

    return bert.READER, m2m100.READER, t5.READER


def reads(encoder: Any) -> bool:
    """Whether some reader understands ``encoder``."""
    return any(reader.matches(encoder) for reader in _readers())


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
        f"{', '.join(reader.name for reader in _readers())}; docs/towers.md says how to add one"
    )


def context_of(tokenizer: Any, limit: int | None) -> int:
    """The context of a tower: the tokenizer's, within the positions that the encoder has (None: any number)."""
    asked = getattr(tokenizer, "context_length", None)
    if limit is None:
        return int(asked or 512)
    return min(limit, int(asked or limit))
