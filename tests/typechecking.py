"""Run-time checks of the shapes of arrays in the package under test, by jaxtyping and beartype."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # PEP 484: where a float is asked for, an int will do


@_check  # here, so that beartype loads all of its modules now: it cannot once nnsight has put a method on `object`
def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its arrays' annotations checked at every call.

    Other arguments are not: what users hand to the package is refused by it in a sentence, which is tested too.
    Functions whose annotations mean nothing at run time stay as they are: names that are imported for type checkers
    only (``if TYPE_CHECKING:``), and ``Self`` outside a class.
    """
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        arrays = {name: hint for name, hint in hints.items() if "jaxtyping." in repr(hint)}
        if not arrays or not isinstance(function, types.FunctionType):
            return function
        copy = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, arrays
        return functools.wraps(function)(_check(copy))
    except (NameError, AttributeError, BeartypeDecorHintException):
        return function
