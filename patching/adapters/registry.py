"""The list of families: which adapter reads which source model. Others add theirs as entry points."""

from __future__ import annotations

import re
import threading
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from ...arguments import explains_arguments
from ...errors import TraceWarning, UnsupportedTowerError
from ...warn import warn_user
from ..towers.text_tower import TextTower
from .base import Adapter
from .wrappers import inner_source, peft_root, unwrapped

GROUP = "tracescribe.towers"


_ADAPTERS: dict[str, Adapter] = {}
_LOCK = threading.RLock()  # reentrant: a plugin's module may call register
_loaded = False


@explains_arguments
def register(adapter: Adapter) -> None:
    """Add a family.

    Raises:
        ValueError: an adapter of that name is registered already.
    """
    with _LOCK:
        _register_this_package()
        if adapter.name in _ADAPTERS:
            raise ValueError(f"a tower adapter named {adapter.name!r} is registered already: give yours another name")
        _ADAPTERS[adapter.name] = adapter


def _load_adapters() -> None:
    """Adapters of this package and of others, once in a process, whichever thread comes first.

    Each entry point of ``tracescribe.towers`` is an :class:`Adapter`. One that fails is named in a warning, left out,
    and not tried again.
    """
    global _loaded
    with _LOCK:
        if _loaded:
            return
        _register_this_package()
        _loaded = True
        failed = []
        for entry in entry_points(group=GROUP):
            try:
                found = entry.load()
                if not isinstance(found, Adapter):
                    raise TypeError(f"it is a {type(found).__name__}, not an Adapter")
                register(found)
            except Exception as error:  # the code of others may raise anything
                failed.append(f"{entry.name!r} ({entry.value}; {type(error).__name__}: {error})")
    if failed:
        warn_user(
            f"tower adapters of other packages are left out, for they cannot be registered: {', '.join(failed)}",
            TraceWarning,
        )


def _register_this_package() -> None:
    from . import open_clip, open_clip_hf, open_clip_modern, transformers_dual
    from .conch import ADAPTER as conch
    from .cxr_bert import ADAPTER as cxr_bert
    from .gloria import ADAPTER as gloria
    from .medclip import ADAPTER as medclip
    from .openai_clip import ADAPTER as openai_clip
    from .sentence_encoder import ADAPTER as sentence_encoder
    from .sentence_transformers import ADAPTER as sentence_transformers

    families = [family.ADAPTER for family in (open_clip, open_clip_hf, open_clip_modern, transformers_dual)]
    for adapter in (*families, openai_clip, conch, cxr_bert, medclip, gloria, sentence_encoder, sentence_transformers):
        _ADAPTERS.setdefault(adapter.name, adapter)


def adapter_for(module: Any) -> tuple[Adapter, nn.Module]:
    """The adapter that reads ``module``, and the source model inside it (see :func:`.wrappers.inner_source`).

    Raises:
        UnsupportedTowerError: none does; the message names what was found.
    """
    _load_adapters()
    source = inner_source(module)
    for adapter in tuple(_ADAPTERS.values()):
        if adapter.matches(source):
            return adapter, source
    children = ", ".join(f"{name}: {type(child).__name__}" for name, child in source.named_children()) or "nothing"
    raise UnsupportedTowerError(
        f"no adapter reads the text encoder of a {type(source).__module__}.{type(source).__name__} (it holds "
        f"{children}); adapters here: {', '.join(_ADAPTERS)}; docs/add_a_tower.md says how to add one"
    )


def text_blocks(module: Any) -> list[nn.Module]:
    """The text tower's transformer blocks 1..L inside a source model, wrapped or not, or inside our tower.

    ``module`` may be a :class:`DualEncoder`, and compiled, parallel or peft-wrapped; the blocks are the modules of the
    source model themselves.

    Raises:
        UnsupportedTowerError: no adapter understands the model.
    """
    inside = unwrapped(module)
    if isinstance(inside, TextTower):
        return list(inside.blocks)
    adapter, source = adapter_for(inside)
    return adapter.blocks(source)


def lora_targets(module: Any) -> str:
    """A regex for peft's ``target_modules``: every linear layer of the text blocks, none of the vision tower.

    Names are those below ``module``; where it is a peft model or a :class:`DualEncoder`, below the source inside.

    Raises:
        UnsupportedTowerError: no adapter understands the model.
    """
    adapter, source = adapter_for(module)
    blocks = adapter.blocks(source)
    names = {id(block): name for name, block in peft_root(module).named_modules()}
    lists = dict.fromkeys(re.escape(names[id(block)].rpartition(".")[0]) for block in blocks)  # ALBERT has several
    prefix = next(iter(lists)) if len(lists) == 1 else f"({'|'.join(lists)})"
    # a block that is compiled or sharded by itself has its layers one name further down
    inner = next((rf"{name}\." for name, child in blocks[0].named_children() if child is unwrapped(blocks[0])), "")
    return rf"{prefix}\.\d+\.{inner}({adapter.block_linears(source)})"
