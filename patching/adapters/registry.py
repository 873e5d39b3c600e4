"""The list of families: which adapter reads which source model. Others add theirs as entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UnsupportedTowerError
from ..towers.image_tower import ImageReading
from ..towers.text_tower import TextTower
from .weights import kinds, unwrap

GROUP = "tracescribe.towers"


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
    block_prefix: Callable[[Any], str]  # dotted name of the block list inside the source
    embedding_stage: Callable[[Any], tuple[nn.Module, bool]]  # where layer 0 shows: (module, read its input?)
    encode_text: Callable[[Any, Int[Tensor, "n context"]], Float[Tensor, "n embed"]]
    encode_image: Callable[[Any, Float[Tensor, "n 3 h w"]], Float[Tensor, "n embed"]]
    logit_scale: Callable[[Any], float]
    sequence_first: bool = False
    own_length: bool = False
    # (source, grid or None for the tower's own); None where no image encoder of the family is read
    build_image_tower: Callable[[Any, int | None], ImageReading] | None = None


_ADAPTERS: dict[str, Adapter] = {}


def register(adapter: Adapter) -> None:
    """Add a family.

    Raises:
        ValueError: an adapter of that name is registered already.
    """
    if adapter.name in _ADAPTERS:
        raise ValueError(f"a tower adapter named {adapter.name!r} is registered already: give yours another name")
    _ADAPTERS[adapter.name] = adapter


@cache
def _load_adapters() -> None:
    """Adapters of this package and of others: each entry point of ``tracescribe.towers`` is an :class:`Adapter`."""
    from . import open_clip, open_clip_hf, transformers_dual
    from .conch import ADAPTER as conch
    from .cxr_bert import ADAPTER as cxr_bert
    from .gloria import ADAPTER as gloria
    from .medclip import ADAPTER as medclip
    from .openai_clip import ADAPTER as openai_clip

    for family in (open_clip, open_clip_hf, transformers_dual):
        register(family.ADAPTER)
    for medical in (openai_clip, conch, cxr_bert, medclip, gloria):
        register(medical)
    for entry in entry_points(group=GROUP):
        register(entry.load())


def adapter_for(module: nn.Module) -> tuple[Adapter, nn.Module]:
    """The adapter that reads ``module``, and the source model inside any peft wrapper.

    Raises:
        UnsupportedTowerError: none does; the message names what was found.
    """
    _load_adapters()
    source = unwrap(module)
    for adapter in _ADAPTERS.values():
        if adapter.matches(source):
            return adapter, source
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in source.named_children()) or "nothing"
    raise UnsupportedTowerError(
        f"no adapter reads the text encoder of a {type(source).__module__}.{type(source).__name__} (it holds "
        f"{children}); adapters here: {', '.join(_ADAPTERS)}; docs/add_a_tower.md says how to add one"
    )


def text_blocks(module: nn.Module) -> list[nn.Module]:
    """The text tower's transformer blocks 1..L inside a source model, peft-wrapped or not, or inside our tower.

    Raises:
        UnsupportedTowerError: no adapter understands the model.
    """
    if isinstance(module, TextTower):
        return list(module.blocks)
    if "tracescribe.DualEncoder" in kinds(module):
        return text_blocks(module.source)  # type: ignore[arg-type]
    adapter, source = adapter_for(module)
    return adapter.blocks(source)


def lora_targets(module: nn.Module) -> str:
    """A regex for peft's ``target_modules``: every linear layer of the text blocks, none of the vision tower.

    Raises:
        UnsupportedTowerError: no adapter understands the model.
    """
    adapter, source = adapter_for(module)
    prefix = adapter.block_prefix(source).replace(".", r"\.")
    return rf"{prefix}\.\d+\.({adapter.block_linears(source)})"
