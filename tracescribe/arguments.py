"""Arguments of a wrong type are named in a sentence, whatever a function does with them first."""

from __future__ import annotations

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .errors import ArgumentError, TracescribeError
from .io.quoting import shown

__all__ = ["explains_arguments"]

_LIBRARIES = {"np": "numpy", "nn": "torch.nn", "torch": "torch"}  # as modules import them
C = TypeVar("C", bound=Callable[..., Any])
_SCALARS = (int, float, bool, str, bytes)
_PROBLEMS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError, RecursionError)


def explains_arguments(function: C) -> C:
    """A decorator of a function or class: if it fails, and an argument is not of its declared type, that is said.

    Only switches (``bool``) are checked before the call: any value is true or false, so that ``overwrite="no"`` would
    replace a result. All else that works although its type is another one (duck typing) goes on to work. An error of
    this package passes unchanged; so does any other where all arguments are as declared, which is then a fault of ours.

    Raises:
        ArgumentError: names the argument, its declared type and what was given.

    >>> @explains_arguments
    ... def half(number: float) -> float:
    ...     return number / 2
    >>> half("3")
    Traceback (most recent call last):
    tracescribe.errors.ArgumentError: half: the argument number must be of type float, not '3'
    >>> @explains_arguments
    ... def save(path: str, *, overwrite: bool = False) -> None: ...
    >>> save("a.json", overwrite="no")
    Traceback (most recent call last):
    tracescribe.errors.ArgumentError: save: the argument overwrite must be True or False, not 'no'
    """
    if inspect.isclass(function):
        setattr(function, "__init__", _explained(function.__init__, function.__name__))  # noqa: B010
        return function
    return typing.cast("C", _explained(function, function.__name__))


def _explained(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    switches = {  # and where each is given without its name, if it can be
        each.name: at if each.kind is each.POSITIONAL_OR_KEYWORD else None
        for at, each in enumerate(parameters)
        if each.annotation in ("bool", bool)
    }

    @functools.wraps(function)
    def called(*positional: Any, **named: Any) -> Any:
        for switch, at in switches.items():
            by_place = False if at is None or at >= len(positional) else positional[at]
            given = named.get(switch, by_place)
            if not isinstance(given, bool) and type(given).__name__ not in ("bool", "bool_"):
                raise ArgumentError(f"{name}: the argument {switch} must be True or False, not {shown(given)}")
        try:
            return function(*positional, **named)
        except TracescribeError:
            raise
        except _PROBLEMS as problem:
            wrong = _wrong(function, positional, named)
            if wrong is None:
                raise
            raise ArgumentError(f"{name}: {wrong}") from problem

    return called


def _wrong(function: Callable[..., Any], positional: tuple[Any, ...], named: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments, if they do not fit the function's signature."""
    signature = inspect.signature(function)
    try:
        given = signature.bind(*positional, **named).arguments
    except TypeError as error:
        return str(error)
    for name, value in given.items():
        parameter = signature.parameters[name]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not _fits(value, parameter.annotation, getattr(inspect.unwrap(function), "__globals__", {})):
            stated = (
                parameter.annotation
                if isinstance(parameter.annotation, str)
                else inspect.formatannotation(parameter.annotation)
            )
            return f"the argument {name} must be of type {stated}, not {shown(value)}"
    return None


class _Names(dict[str, Any]):
    """The names of a module, and those that modules import for type checkers only: the package's public ones, torch."""

    def __missing__(self, name: str) -> Any:
        if name in _LIBRARIES:
            return importlib.import_module(_LIBRARIES[name])
        for part in ("", ".patching", ".tracer", ".finetune", ".benchmark", ".viz"):
            found = getattr(importlib.import_module(f"tracescribe{part}"), name, None)
            if found is not None:
                return found
        raise KeyError(name)


def _fits(value: Any, annotation: Any, names: Mapping[str, Any]) -> bool:
    """Whether a value is of a type; of one that cannot be known at run time, True."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if annotation is inspect.Parameter.empty:
        return True
    try:
        hint = eval(annotation, {}, _Names(names)) if isinstance(annotation, str) else annotation  # of our own source
    except Exception:  # a name that only type checkers import
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, each, names) for each in typing.get_args(hint))
    try:
        if inspect.isclass(hint) and typing.get_origin(hint) is None and hint not in (*_SCALARS, Any):
            return isinstance(value, hint)
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except Exception:  # a type that nothing can be compared with at run time
        return True
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    try:
        adapter.validate_python(plain)
    except ValidationError:
        return False
    except Exception:  # of the value's own methods
        return True
    return True
