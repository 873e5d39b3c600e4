"""The list of text encoders that sit inside dual encoders of several libraries: which reader takes each apart."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedTowerError
from .base import EncoderReader


def _readers() -> tuple[EncoderReader, ...]:
    from . import aimv2, albert, bert, clip_text, decoders, distilbert, flava, m2m100, modernbert, mpnet, t5

    families = (clip_text, aimv2, bert, albert, distilbert, flava, mpnet, modernbert, m2m100, t5, decoders)
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
