"""Records and options whose fields are checked when they are made: what is wrong with one is a sentence."""

from __future__ import annotations

import difflib
import functools
import inspect
import operator
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ValidationError

from .errors import ArgumentError, DataFormatError, TracescribeError
from .io.quoting import shown

__all__ = ["Checked", "problem_of"]

_FEW = 20  # names that are listed; of more, only the nearest is named


class Checked(BaseModel):
    """A pydantic model that raises an error of ours, however it is made.

    _error: of what class it is.

    >>> class Film(Checked):
    ...     side: int
    >>> Film(side="left")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: field 'side': Input should be a valid integer, ... not 'left'
    >>> Film(sde=1)
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: field 'side': it is missing
    """

    _error: ClassVar[type[TracescribeError]] = DataFormatError

    def __init__(self, /, *positional: Any, **fields: Any) -> None:
        """Raises DataFormatError (or the class's `_error`) naming the field and what it may be."""
        if positional:
            name, first = type(self).__name__, next(iter(type(self).model_fields))
            raise ArgumentError(f"{name} takes its fields by name, such as {name}({first}=...)")
        with self._in_our_words():
            super().__init__(**fields)

    # As of pydantic.RootModel, whose constructor differs too: fields inside fields are checked without it, so that
    # an error names the whole path to a field. The signature that users see is made of the fields.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
    __init__.__signature__ = inspect.signature(BaseModel.__init__)  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """The signature that users see names types, without the functions that check them."""
        made = inspect.signature(cls)
        parameters = [each.replace(annotation=_type(each.annotation)) for each in made.parameters.values()]
        cls.__signature__ = made.replace(parameters=parameters)

    def __dir__(self) -> list[str]:
        """Without pydantic's deprecated methods, among which completion would hide the fields."""
        known = vars(BaseModel)
        old = {name for name, made in known.items() if hasattr(getattr(made, "__func__", made), "__deprecated__")}
        return [name for name in super().__dir__() if name not in old]

    @classmethod
    def model_validate(cls, *given: Any, **options: Any) -> Self:
        """As pydantic's, with our error."""
        with cls._in_our_words():
            return super().model_validate(*given, **options)

    @classmethod
    def model_validate_json(cls, *given: Any, **options: Any) -> Self:
        """As pydantic's, with our error."""
        with cls._in_our_words():
            return super().model_validate_json(*given, **options)

    @classmethod
    @contextmanager
    def _in_our_words(cls) -> Iterator[None]:
        try:
            yield
        except ValidationError as problem:
            raise cls._error(problem_of(problem, tuple(cls.model_fields))) from problem


def _type(hint: Any) -> Any:
    """A type without what is said of it beside."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return _type(inside[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_type, inside))
    if typing.get_origin(hint) in (list, tuple, dict, set):
        return typing.get_origin(hint)[tuple(map(_type, inside))]
    return hint


def problem_of(error: ValidationError, known: Sequence[str] = ()) -> str:
    """The first thing that is wrong, as a sentence that names the field and quotes what was found.

    known: the names of the fields.
    """
    found = error.errors()[0]
    about = found["msg"].removeprefix("Value error, ")
    field = ".".join(map(str, found["loc"]))
    if not field:
        return about
    if found["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"known are {', '.join(known)}" if len(known) <= _FEW else f"did you mean {near[0]!r}?" if near else ""
        return f"unknown field {shown(field)}{hint and '; '}{hint}"
    if found["type"] == "missing":
        return f"field {shown(field)}: it is missing"
    given = shown(found["input"])
    if found["type"] == "value_error":  # in words of ours, which may quote it already
        return f"field {shown(field)}: {about}" + ("" if given in about else f" ({given})")
    hint = "; give None where there is no value" if given == "nan" else ""  # as pandas has it
    return f"field {shown(field)}: {about}, not {given}{hint}"
