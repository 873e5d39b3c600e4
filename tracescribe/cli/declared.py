"""Flags that follow from declared options: their names, defaults, help and allowed values are spelled there only."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import OptionError, TraceError
from ..validation import Choice, FloatType, Nothing, Number, Text, Texts, Whole, Wholes, check_option

if TYPE_CHECKING:
    from ..tracer.run.options import Declared

__all__ = ["declared_flags", "flag_name"]

GIB = 2**30
IN_GIB = Number(0.01, 2**20)
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def declared_flags(
    kind: type[Declared], leave_out: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator of a command: in the place of its parameter ``options`` it gets a flag per field of ``kind``.

    The command is called with one ``kind`` as ``options``, made and checked before anything else. Options in bytes are
    given in GiB.

    leave_out: fields without a flag; they keep their default.

    Raises:
        OptionError: when the command is called with a value that is not allowed; names the flag and quotes the value.
    """
    declared = [each for each in fields(kind) if each.name not in leave_out]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "options":
                parameters.extend(map(_parameter, declared))
            else:
                parameters.append(
                    parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
                )

        @functools.wraps(command)
        def called(**given: Any) -> None:
            values = {each.name: _read(each, given.pop(each.name)) for each in declared}
            command(**given, options=kind(**values))

        # what typer reads: of the function, not of what it wraps
        del called.__wrapped__
        called.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        return called

    return decorate


def flag_name(option: str) -> str:
    """The flag of an option.

    >>> flag_name("batch_size")
    '--batch-size'
    """
    return "--" + option.replace("_", "-")


def _in_bytes(each: Field[Any]) -> bool:
    return bool(each.metadata["help"].startswith("Bytes "))


def _parameter(each: Field[Any]) -> inspect.Parameter:
    default: Any = each.default
    text = each.metadata["help"]
    if isinstance(default, bool):
        kind: Any = bool
        flag = typer.Option(flag_name(each.name), help=text)
    else:
        if _in_bytes(each):
            default, text = default / GIB, f"GiB{text.removeprefix('Bytes')}"
        kind = str | None
        if default is not None:
            default = f"{default:g}" if isinstance(default, float) else _spelled(default)
        flag = typer.Option(flag_name(each.name), help=text, metavar=_metavar(each), show_default=default is not None)
    return inspect.Parameter(
        each.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, flag]
    )


def _metavar(each: Field[Any]) -> str:
    """What may be given, as a person reads it in the help.

    >>> from tracescribe.tracer.run.options import TraceOptions
    >>> [_metavar(each) for each in fields(TraceOptions) if each.name in ("align", "batch_size", "positions")]
    ['INTEGER|auto', 'TEXT|INTEGER|INTEGER,INTEGER,...', 'none|auto']
    """
    if _in_bytes(each):
        return "NUMBER"
    words: list[str] = []
    for kind in each.metadata["allowed"]:
        if isinstance(kind, Choice):
            words.extend(kind.words)
        elif isinstance(kind, FloatType):
            words.extend(FloatType.names)
        elif isinstance(kind, Wholes):
            words.append("INTEGER,INTEGER,...")
        elif isinstance(kind, Texts):
            words.append("TEXT,TEXT,...")
        elif hasattr(kind, "metavar"):
            words.append(kind.metavar)
        elif not isinstance(kind, Nothing):
            words.append({Whole: "INTEGER", Number: "NUMBER", Text: "TEXT"}.get(type(kind), "DIR"))
    return "|".join(words)


def _read(each: Field[Any], given: Any) -> Any:
    if given is None or isinstance(given, bool):
        return given
    allowed = each.metadata["allowed"]
    texts = any(isinstance(kind, Texts) for kind in allowed)
    value = tuple(part.strip() for part in given.split(",")) if texts else _value(given)
    if isinstance(value, int) and any(isinstance(kind, Wholes) for kind in allowed):
        value = value if any(isinstance(kind, Whole) for kind in allowed) else (value,)
    try:
        if _in_bytes(each):
            return int(check_option(flag_name(each.name), value, [IN_GIB]) * GIB)
        return check_option(flag_name(each.name), value, [kind for kind in allowed if not isinstance(kind, Nothing)])
    except TraceError as error:
        raise OptionError(str(error)) from None


def _spelled(default: Any) -> str:
    """A default as it would be given as a flag."""
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _value(text: str) -> Any:
    """What a text stands for: a number, several, or itself. Digits of other scripts are no digits here.

    >>> _value("3,-1"), _value("3"), _value("1e-4"), _value("nan"), _value("²")
    ((3, -1), 3, 0.0001, 'nan', '²')
    """
    parts = [part.strip() for part in text.split(",")]
    if all(map(_NUMBER.fullmatch, parts)):
        return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))
    return float(text) if _DECIMAL.fullmatch(text) else text
