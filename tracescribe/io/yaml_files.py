"""Reads YAML: plain values only, in which no key is given twice and nothing is an alias."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataFormatError
from .quoting import shown
from .reading import read_text

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["parse_yaml", "read_yaml", "read_yaml_as"]

M = TypeVar("M", bound="BaseModel")


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; see :func:`parse_yaml`.

    Raises DataFormatError naming the file when it cannot be read or is no such YAML.
    """
    return parse_yaml(read_text(path), f"{path}: not YAML")


def read_yaml_as(
    kind: type[M],
    path: str | Path,
    what: str,
    fields: str,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
) -> M:
    """A YAML file as a model of pydantic.

    what: how an error calls it as a whole. fields: what it should hold, for a file that holds no fields.
    change: applied to the fields before they are checked.

    Raises DataFormatError naming the file, the field and what was expected.
    """
    from pydantic import ValidationError

    content = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: expected fields such as {fields}, not {shown(content)}")
    try:
        return kind.model_validate(change(content))
    except ValidationError as problem:
        found = problem.errors()[0]
        where = ".".join(map(str, found["loc"])) or what
        message = found["msg"].removeprefix("Value error, ")
        raise DataFormatError(f"{path}: field {shown(where)}: {message}") from problem


def parse_yaml(text: str, problem: str) -> Any:
    """What a YAML text holds. Aliases are refused: with them ten lines can be gigabytes.

    problem: what an error begins with.

    Raises DataFormatError for anything else.

    >>> parse_yaml("a: [1, b]", "not YAML")
    {'a': [1, 'b']}
    >>> parse_yaml("a: 1\\na: 2", "not YAML")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: not YAML: a key is given twice (line 1 and below)
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        found = yaml.SafeLoader.construct_mapping(loader, node, deep=True)
        if len(found) < len(node.value):
            raise yaml.YAMLError(f"a key is given twice (line {node.start_mark.line + 1} and below)")
        return found

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise yaml.YAMLError("aliases (*name) are not used here: write the value out")
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataFormatError(f"{problem}: {' '.join(str(error).split())[:300]}") from error
