"""Reads YAML: plain values only, in which no key is given twice and nothing is an alias."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataFormatError
from .json_lines import MAX_DEPTH
from .quoting import shown
from .reading import read_text

if TYPE_CHECKING:
    from ..checked import Checked

__all__ = ["parse_yaml", "read_yaml", "read_yaml_as"]

M = TypeVar("M", bound="Checked")

MAX_BYTES = 1 << 17  # of a file that people write; a megabyte takes the parser ten seconds
LARGEST = 10**20  # as of the integers of JSON files


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; see :func:`parse_yaml`.

    Raises DataFormatError naming the file when it cannot be read or is no such YAML.
    """
    return parse_yaml(read_text(path, MAX_BYTES), f"{path}: not YAML")


def read_yaml_as(
    kind: type[M],
    path: str | Path,
    fields: str,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
) -> M:
    """A YAML file as an options object.

    fields: what it should hold, for a file that holds no fields.
    change: applied to the fields before they are checked.

    Raises DataFormatError naming the file, the field and what was expected.
    """
    content = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise DataFormatError(f"{path}: expected fields such as {fields}, not {shown(content)}")
    try:
        return kind.model_validate(change(content))
    except DataFormatError as problem:
        raise DataFormatError(f"{path}: {problem}") from problem


def parse_yaml(text: str, problem: str) -> Any:
    """What a YAML text holds. Aliases are refused: with them ten lines can be gigabytes; so is deep nesting.

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

    def integer(loader: Any, node: Any) -> int:
        found: int = yaml.SafeLoader.construct_yaml_int(loader, node)
        if abs(found) >= LARGEST:  # 59:59:... in base 60 is no mistake to YAML, and has thousands of digits
            raise yaml.YAMLError(f"an integer is too large (line {node.start_mark.line + 1})")
        return found

    Loader.add_constructor("tag:yaml.org,2002:int", integer)
    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        _check(text)
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataFormatError(f"{problem}: {' '.join(str(error).split())[:300]}") from error


def _check(text: str) -> None:
    """Look at the tokens one by one: building what is nested takes time that grows with the square of the depth."""
    import yaml

    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise yaml.YAMLError("aliases (*name) are not used here: write the value out")
        name = type(token).__name__
        depth += name.endswith(("SequenceStartToken", "MappingStartToken"))
        depth -= name.endswith(("SequenceEndToken", "MappingEndToken", "BlockEndToken"))
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"lists and mappings are nested deeper than {MAX_DEPTH} levels")
