"""Which formats can be read: one `Reader` per format, recognised by content; other packages may add theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ...errors import DataFormatError
from ...io.quoting import shown
from ...warn import warn_user
from .source import Source

if TYPE_CHECKING:
    from .images import ImageFolder

__all__ = ["LeftOut", "Reader", "formats", "reader_for", "register"]

GROUP = "tracescribe.readers"
_READERS: dict[str, Reader] = {}
_LOCK = threading.Lock()  # of the table
_LOADING = threading.Lock()
_loaded = False


@dataclass(frozen=True)
class Reader:
    """How one published format is read.

    name: what users write for ``format=``. holds: what a person reads about it. matches: whether a file is of this
        format, told by its kind and fields (never by its name alone). records: every record of a file. needs: fields
        that it must have, for the error about a file that has some of them.
    """

    name: str
    holds: str
    matches: Callable[[Source], bool]
    records: Callable[[Source, ImageFolder], Iterator[Any]]
    needs: Collection[str] = ()


@dataclass(frozen=True)
class LeftOut:
    """A record that its publisher's rule leaves out, or that says nothing. Readers yield it, and `read` counts it."""

    where: str
    why: str


def register(reader: Reader) -> Reader:
    """Add a format; entry points of the group ``tracescribe.readers`` are added by themselves.

    Raises:
        ValueError: the name is taken.
    """
    with _LOCK:
        if reader.name in _READERS:
            raise ValueError(f"a reader named {reader.name!r} is registered already")
        _READERS[reader.name] = reader
    return reader


def _readers() -> dict[str, Reader]:
    """All readers by name; those of this package and of others are registered at the first call."""
    global _loaded
    with _LOADING:
        if not _loaded:
            for family in _families():
                for reader in family.READERS:
                    register(reader)
            for entry in entry_points(group=GROUP):
                try:
                    register(entry.load())
                except Exception as error:  # of somebody else's package: the others still work
                    warn_user(f"the reader {entry.name!r} ({entry.value}) is left out: {error}")
            _loaded = True
    return _READERS


def _families() -> list[Any]:
    from . import (
        aro,
        cad_chest,
        cc_neg,
        chexpert,
        coco,
        karpathy,
        mednega,
        negbench,
        negclip,
        open_i,
        sugarcrepe,
        taix_ray,
        tracescribe_files,
        valse,
        winoground,
    )

    captions = [mednega, negbench, valse, sugarcrepe, aro, winoground, cc_neg, negclip, coco, karpathy]
    return [tracescribe_files, *captions, chexpert, cad_chest, taix_ray, open_i]


def formats() -> dict[str, str]:
    """Every format that can be read, with what it holds.

    >>> "valse" in formats()
    True
    """
    return {name: reader.holds for name, reader in _readers().items()}


def reader_for(source: Source, name: str | None = None) -> Reader:
    """The reader of that name, or the one that recognises the file.

    Raises:
        DataFormatError: there is none of that name, none recognises the file, or several do.
    """
    readers = _readers()
    if name is not None:
        if name not in readers:
            raise DataFormatError(f"unknown format {name!r}; choose one of: {', '.join(readers)}")
        if source.is_one_record and not readers[name].matches(source):
            source.take_for_items()
        return readers[name]
    found = [reader for reader in readers.values() if reader.matches(source)]
    if len(found) == 1:
        return found[0]
    fields = ", ".join(shown(name)[1:-1] for name in sorted(source.fields)[:12]) or f"a {type(source.first).__name__}"
    if found:
        raise DataFormatError(
            f"{source.path}: could be any of {', '.join(reader.name for reader in found)}; say which, format=..."
        )
    hint = _closest(source, readers.values()) or f"known are {', '.join(readers)}"
    raise DataFormatError(f"{source.path}: its first record ({fields}) is of no known format; {hint}")


def _closest(source: Source, readers: Iterable[Reader]) -> str:
    """What the format with most fields in common needs, and what its fields are called here; empty if none has two."""
    here = {_bare(name): name for name in source.fields}
    known = [(sum(_bare(name) in here for name in reader.needs), reader) for reader in readers]
    most, reader = max(reversed(known), key=lambda one: one[0])  # of equals the last: labels by study before by path
    if most < 2:
        return ""
    renamed = [
        f"{shown(here[_bare(name)])} as {name!r}"
        for name in reader.needs
        if name not in source.fields and _bare(name) in here
    ]
    absent = [repr(name) for name in reader.needs if _bare(name) not in here]
    says = [f"it writes {_some(renamed)}"] if renamed else []
    says += [f"it has {_some(absent)} too"] if absent else []
    return f"the closest is {reader.name}: {', and '.join(says) or 'its file is of another kind'}"


def _bare(name: str) -> str:
    """A name without what spellings differ in: case, spaces, underscores."""
    return "".join(filter(str.isalnum, name.casefold()))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
