"""Checks of options and arguments, shared by all folders: allowed values are declared once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .errors import TraceError, TracescribeError
from .io.json_lines import shown

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Allowed",
    "Choice",
    "Directions",
    "Flag",
    "FloatType",
    "Folder",
    "Nothing",
    "Number",
    "Text",
    "Texts",
    "Whole",
    "Wholes",
    "bootstrap_options",
    "check_choice",
    "check_option",
    "generator",
]

LARGEST = 2**63 - 1  # what 64 bits hold
MAX_DRAWS = 100_000  # of a bootstrap: the bounds of an interval move by less than its third digit from there on


class Allowed(Protocol):
    """One kind of value that an option may have; ``str()`` of it says which."""

    def read(self, value: Any) -> Any:
        """The value in its one form; raises ValueError or TypeError where it is of another kind."""


@dataclass(frozen=True)
class Choice:
    """One of a few words.

    >>> print(Choice(("auto",)), "or", Choice(("role", "position")))
    'auto' or one of 'role', 'position'
    """

    words: tuple[str, ...]

    def read(self, value: Any) -> str:
        """The word."""
        if isinstance(value, str) and value in self.words:
            return value
        raise ValueError

    def __str__(self) -> str:
        return f"{'one of ' if len(self.words) > 1 else ''}{', '.join(map(repr, self.words))}"


@dataclass(frozen=True)
class Whole:
    """A whole number in a range; numpy's are taken, True and 1.0 are not."""

    least: int = 0
    most: int = LARGEST

    def read(self, value: Any) -> int:
        """The number as a Python integer."""
        number = _whole(value)
        if self.least <= number <= self.most:
            return number
        raise ValueError

    def __str__(self) -> str:
        return f"a whole number {_range(self.least, self.most)}".rstrip()


@dataclass(frozen=True)
class Wholes:
    """Several whole numbers, at least one: a list, a tuple, a range or an array."""

    each: Whole = Whole()

    def read(self, value: Any) -> tuple[int, ...]:
        """The numbers as a tuple of Python integers."""
        if isinstance(value, (str, bytes)) or not (isinstance(value, (Sequence, range)) or hasattr(value, "tolist")):
            raise TypeError
        given = value.tolist() if hasattr(value, "tolist") else value
        numbers = tuple(self.each.read(one) for one in given)
        if not numbers:
            raise ValueError
        return numbers

    def __str__(self) -> str:
        return f"a list of whole numbers {_range(self.each.least, self.each.most)}".rstrip()


@dataclass(frozen=True)
class Number:
    """A finite number in a range; numpy's are taken, True is not."""

    least: float = 0.0
    most: float = math.inf

    def read(self, value: Any) -> float:
        """The number as a Python float."""
        if isinstance(value, (bool, str, bytes)) or type(value).__name__ == "bool_":
            raise TypeError
        number = float(value)
        if math.isfinite(number) and self.least <= number <= self.most:
            return number
        raise ValueError

    def __str__(self) -> str:
        return f"a finite number {_range(self.least, self.most)}"


@dataclass(frozen=True)
class Flag:
    """True or False; numpy's are taken, 1 and "yes" are not."""

    def read(self, value: Any) -> bool:
        """The truth as a Python bool."""
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            return bool(value)
        raise TypeError

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Nothing:
    """None."""

    def read(self, value: Any) -> None:
        """None."""
        if value is not None:
            raise TypeError

    def __str__(self) -> str:
        return "None"


@dataclass(frozen=True)
class Text:
    """A text that is not empty. what: what it names."""

    what: str = "a text"

    def read(self, value: Any) -> str:
        """The text."""
        if isinstance(value, str) and value.strip():
            return value
        raise TypeError

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Texts:
    """Several texts, at least one: a list or a tuple. each: what they are. any_order: a set will do, and is sorted."""

    each: str = "texts"
    any_order: bool = False

    def read(self, value: Any) -> tuple[str, ...]:
        """The texts as a tuple."""
        if self.any_order and isinstance(value, Set):
            value = sorted(value)
        if isinstance(value, (str, bytes)) or not (isinstance(value, Sequence) or hasattr(value, "tolist")):
            raise TypeError
        texts = tuple(value)
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError
        return tuple(map(str, texts))

    def __str__(self) -> str:
        return f"a list of {self.each}"


@dataclass(frozen=True)
class Directions:
    """Directions of a space as the rows of a matrix: a nested list, an array or a tensor of finite numbers."""

    def read(self, value: Any) -> tuple[tuple[float, ...], ...]:
        """The rows as tuples of Python floats, none of them 0."""
        rows = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(rows, (str, bytes)) or not isinstance(rows, Sequence) or not rows:
            raise TypeError
        read = tuple(tuple(Number(-math.inf).read(number) for number in row) for row in rows)
        if not read[0] or len({len(row) for row in read}) > 1 or not all(any(row) for row in read):
            raise ValueError
        return read

    def __str__(self) -> str:
        return "a matrix of finite numbers with a direction per row"


@dataclass(frozen=True)
class Folder:
    """The path of a folder, which need not exist."""

    def read(self, value: Any) -> str:
        """The path as a text."""
        path = os.fspath(value)
        if isinstance(path, str) and path and b"\0" not in os.fsencode(path):  # raises ValueError at a lone surrogate
            return path
        raise ValueError

    def __str__(self) -> str:
        return "the path of a folder"


@dataclass(frozen=True)
class FloatType:
    """A floating-point type of torch, or its name."""

    names: ClassVar = ("float16", "bfloat16", "float32", "float64")

    def read(self, value: Any) -> str:
        """The type's name."""
        name = value if isinstance(value, str) else str(value).removeprefix("torch.")
        if name in self.names:
            return name
        raise ValueError

    def __str__(self) -> str:
        return "a torch type or its name: float16, bfloat16, float32 or float64"


def check_option(name: str, value: Any, allowed: Sequence[Allowed]) -> Any:
    """``value`` in its one form, as the first kind of ``allowed`` reads it.

    Raises:
        TraceError: no kind reads it; the message quotes it and says what is allowed.

    >>> check_option("batch_size", 4, (Whole(1), Choice(("auto",))))
    4
    >>> check_option("batch_size", 0, (Whole(1), Choice(("auto",))))
    Traceback (most recent call last):
    tracescribe.errors.TraceError: batch_size must be a whole number >= 1 or 'auto', not 0
    """
    for kind in allowed:
        try:
            return kind.read(value)
        except TracescribeError:  # a kind that says more than which kinds there are
            raise
        except (TypeError, ValueError, OverflowError, NotImplementedError):  # the last: a tensor without values
            continue
    if len(allowed) == 1 and isinstance(allowed[0], Choice):
        return check_choice(name, value, allowed[0].words)
    *kinds, last = map(str, allowed)
    expected = f"{', '.join(kinds)} or {last}" if kinds else last
    limit = " (at most 2**63 - 1)" if isinstance(value, int) and value > LARGEST else ""
    raise TraceError(f"{name} must be {expected}{limit}, not {shown(value)}")


def generator(seed: Any) -> np.random.Generator:
    """A generator of random numbers.

    Raises:
        TraceError: ``seed`` is no whole number >= 0.

    >>> generator(-1)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: seed must be a whole number >= 0, not -1
    """
    import numpy as np

    return np.random.default_rng(check_option("seed", seed, (Whole(0),)))


def bootstrap_options(n_boot: Any, seed: Any, ci: Any) -> dict[str, Any]:
    """Checked options of an interval by bootstrap, by name.

    Raises:
        TraceError: ``n_boot`` is no number of draws up to `MAX_DRAWS`, ``seed`` none >= 0, ``ci`` no share below 1.

    >>> bootstrap_options(1000, 0, 95)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: ci must be between 0 and 1, such as 0.95, not 95
    """
    if not is_share(ci):
        raise TraceError(f"ci must be between 0 and 1, such as 0.95, not {shown(ci)}")
    return {
        "n_boot": check_option("n_boot", n_boot, (Whole(1, MAX_DRAWS),)),
        "seed": check_option("seed", seed, (Whole(0),)),
        "ci": ci,
    }


def check_choice(option: str, value: object, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``.

    Raises:
        TraceError: it is not; the message quotes it and lists the choices.

    >>> check_choice("align", "rows", ("role", "position"))
    Traceback (most recent call last):
    tracescribe.errors.TraceError: unknown align 'rows'; choose one of: role, position
    """
    allowed = tuple(choices)
    if isinstance(value, str) and value in allowed:
        return value
    raise TraceError(f"unknown {option} {shown(value)}; choose one of: {', '.join(allowed)}")


def is_share(value: object) -> bool:
    """Whether a value is a number between 0 and 1, both excluded, as the width of an interval is.

    >>> is_share(0.95), is_share(1), is_share("0.95"), is_share([0.95])
    (True, False, False, False)
    """
    try:
        return 0 < Number(0, 1).read(value) < 1
    except (TypeError, ValueError, OverflowError):
        return False


def is_whole(value: object, least: int = 0, most: int = LARGEST) -> bool:
    """Whether a value is a whole number in a range, as a seed and a number of draws are; numpy's are, as in `Whole`.

    What is one is made a Python integer (``int``) before it is used: it may be an array of one number.

    >>> is_whole(3), is_whole(True), is_whole(1.0)
    (True, False, False)
    """
    try:
        Whole(least, most).read(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is a finite number in a range; numpy's are, as in `Number`.

    >>> is_number(0.5), is_number(True), is_number(2, most=1), is_number(10**400)
    (True, False, False, False)
    """
    try:
        Number(least, most).read(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def is_positive(value: object) -> bool:
    """Whether a value is a finite number above 0.

    >>> is_positive(1e-300), is_positive(0), is_positive(2**64)
    (True, False, True)
    """
    return is_number(value) and float(value) > 0  # type: ignore[arg-type]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") or not hasattr(value, "__index__"):
        raise TypeError
    return int(value.__index__())


def _range(least: float, most: float) -> str:
    if most in (LARGEST, math.inf):
        return "" if least <= -LARGEST else f">= {least}"
    return f"from {least} to {most}"
