"""Balance: each set of options is asked about as many images as it has options, each with another right answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ..records import FactsRecord, Split

__all__ = ["Block", "Blocks", "Study", "count_one", "rng_of", "split_of"]

T = TypeVar("T")


class Study(NamedTuple):
    """What a block keeps of an image: its name, its patient, its file and its split."""

    name: str
    group: str
    image: Any
    split: Split


@dataclass(frozen=True)
class Block(Generic[T]):
    """One set of options with an image for each: of ``members[i]``, option i is true."""

    key: Hashable
    members: tuple[T, ...]


class Blocks(Generic[T]):
    """Collects images by the set of options that could be asked of them, until every option has one.

    Text alone cannot tell the right option of a complete block: each option is right exactly once, in the same words.
    What stays incomplete is never asked.

    most_waiting: images kept per option of a set; a common finding that waits for a rare one would fill the memory.

    >>> blocks = Blocks(most_waiting=2)
    >>> blocks.add("effusion?", 0, 2, "film 1"), blocks.add("effusion?", 0, 2, "film 2")
    (None, None)
    >>> blocks.add("effusion?", 1, 2, "film 3").members
    ('film 1', 'film 3')
    """

    def __init__(self, most_waiting: int = 4) -> None:
        self._most = most_waiting
        self._waiting: dict[Hashable, list[list[T]]] = {}
        self.completed = 0  # blocks

    def state(self) -> dict[str, Any]:
        """All that is known so far, as JSON can hold it."""
        return {"completed": self.completed, "waiting": [[key, waiting] for key, waiting in self._waiting.items()]}

    def restore(self, state: Mapping[str, Any], member: Callable[..., T]) -> None:
        """Go on from a `state`; ``member`` makes a member of the list that JSON makes of it."""
        self.completed = int(state["completed"])
        self._waiting = {
            _frozen(key): [[member(*one) for one in images] for images in waiting] for key, waiting in state["waiting"]
        }

    def missing(self, key: Hashable, option: int, n_options: int) -> int | None:
        """How many options would still lack an image if this one were added; None where it cannot be kept."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return n_options - 1
        if len(waiting[option]) >= self._most:
            return None
        return sum(not images for number, images in enumerate(waiting) if number != option)

    def add(self, key: Hashable, option: int, n_options: int, member: T) -> Block[T] | None:
        """Add an image of which ``option`` is true; the block that it completes, if it does."""
        waiting = self._waiting.setdefault(key, [[] for _ in range(n_options)])
        waiting[option].append(member)
        if all(waiting):
            self.completed += 1
            return Block(key, tuple(images.pop(0) for images in waiting))
        return None

    def waits(self, key: Hashable, option: int) -> bool:
        """Whether an image of which ``option`` is true waits for the rest of its block."""
        return bool(key in self._waiting and self._waiting[key][option])

    @property
    def n_waiting(self) -> int:
        """Images that wait for the rest of their block."""
        return sum(len(images) for waiting in self._waiting.values() for images in waiting)


def _frozen(value: Any) -> Any:
    """Lists as tuples, however deep: a key that went through JSON."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def rng_of(seed: int, *names: Hashable) -> np.random.Generator:
    """A generator that depends on the seed and on names only, not on what was drawn before."""
    import hashlib

    digest = hashlib.sha256(repr((int(seed), names)).encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


SHARES: Sequence[tuple[Split, float]] = (("train", 0.8), ("val", 0.1), ("test", 0.1))


def split_of(record: FactsRecord, seed: int) -> Split:
    """The record's own split, or one drawn for its patient: all records of a patient are in one split."""
    return _drawn_split(seed, record.group) if record.split is None else record.split


@functools.lru_cache(maxsize=64)  # the studies of a patient follow each other
def _drawn_split(seed: int, group: str) -> Split:
    draw = rng_of(seed, "split", group).random()
    for name, share in SHARES:
        if draw < share:
            return name
        draw -= share
    return SHARES[-1][0]


def count_one(counts: dict[str, int], why: str) -> None:
    """Count one more that was left out for a reason."""
    counts[why] = counts.get(why, 0) + 1
