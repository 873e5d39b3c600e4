"""What the zoo says of a source model: how to build it, how it reads a text, and where its blocks' sites are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.tokens import WordTokenizer


@dataclass(frozen=True)
class Place:
    """The input or output of a submodule, named by its path below a block; the path "" is the block itself."""

    path: str = ""
    side: Literal["in", "out"] = "out"


@dataclass(frozen=True)
class Sites:
    """Where a block shows what attention adds, the state between, and what the MLP adds.

    ``norms``: for a post-norm block, the two layer norms that follow the additions; none for a pre-norm block.
    """

    attn: Place
    mid: Place
    mlp: Place
    norms: tuple[str, str] | None = None

    def at(self, site: str) -> Place:
        """The place of ``in`` and ``resid`` (the block's input and output), ``attn``, ``mid`` or ``mlp``."""
        ends = {"in": Place(side="in"), "resid": Place()}
        return ends[site] if site in ends else getattr(self, site)


@dataclass(frozen=True)
class Reading:
    """How one family of source models reads a text.

    ``encode``: the model's own text encoder on padded ids, before L2-normalisation. ``readout``: the hidden states
    that the embedding reads, -1 the last. ``own_length``: texts are encoded without padding, each in its own length,
    because padding would change what they mean. ``time_axis``: of a block's states.
    """

    kind: str
    encode: Callable[[Any, Tensor], Tensor]
    blocks: Callable[[Any], Sequence[nn.Module]]
    sites: Sites
    tokenizer: Callable[[], WordTokenizer]
    context_length: int = 12
    readout: tuple[int, ...] = (-1,)
    own_length: bool = False
    time_axis: int = 1

    def embed(self, model: nn.Module, ids: Tensor) -> Tensor:
        """The model's own embeddings, L2-normalised: [text, embed]."""
        with torch.no_grad():
            return nn.functional.normalize(self.encode(model, ids), dim=-1)

    def first_read(self, model: nn.Module) -> int:
        """The first hidden state that the embedding reads; 0 is the embedding output."""
        states = len(self.blocks(model)) + 1
        return min(layer % states for layer in self.readout)


@dataclass(frozen=True)
class Entry:
    """One source model of the zoo. ``origin``: the real one's configuration, class or hub id."""

    name: str
    group: Literal["open_clip", "transformers", "medical", "sentence"]
    reading: Reading
    build: Callable[[int], nn.Module]
    origin: str = ""

    @cached_property
    def tokenizer(self) -> WordTokenizer:
        return self.reading.tokenizer()

    def ids(self, *texts: str) -> Tensor:
        """Token ids [text, context] as the source model expects them."""
        return self.tokenizer.rows(texts, None if self.reading.own_length else self.reading.context_length)
