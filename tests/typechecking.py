"""Run-time checks of shapes and types in the package under test, by jaxtyping and beartype."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # PEP 484: where a float is asked for, an int will do


@_check  # here, so that beartype loads all of its modules now: it cannot once nnsight has put a method on `object`
def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its annotations checked at every call.

    Functions whose annotations mean nothing at run time stay as they are: names that are imported for type checkers
    only (``if TYPE_CHECKING:``), and ``Self`` outside a class.
    """
    try:
        typing.get_type_hints(function, include_extras=True)
        return _check(function)
    except (NameError, AttributeError, BeartypeDecorHintException):
        return function
