"""Results of arrays, texts and facts as safetensors files: a checksum over all bytes, no pickle, versioned."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import OutputError, TracescribeError
from ...io.atomic import write_atomically
from ...io.json_lines import parse_json
from ...io.quoting import shown_path
from ...io.tensors import pack_texts, reading_result, unpack_texts, write_tensors

__all__ = ["ArrayFile", "Facts"]

R = TypeVar("R")


class Facts(BaseModel):
    """What of a result is neither an array nor a tuple of texts; a file holds these fields and no other."""

    model_config = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class ArrayFile:
    """How a kind of result is stored.

    format: name and version. arrays: names of its arrays and the types of their numbers. texts: names of its tuples of
        texts. facts: all else, which the file's metadata hold as JSON. optional: arrays that may be None.
    """

    format: str
    arrays: Mapping[str, Any]
    texts: tuple[str, ...]
    facts: type[Facts]
    optional: tuple[str, ...] = ()

    def write(self, path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
        """Write the values so that :meth:`read` gives them back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``, or a fact is not what JSON holds and a reader accepts.
        """
        name = shown_path(path)
        given = {key: values[key] for key in self.arrays if values[key] is not None or key not in self.optional}
        tensors = {key: np.asarray(value, dtype=self.arrays[key]) for key, value in given.items()}
        for key in self.texts:
            tensors |= pack_texts(key, values[key])
        try:
            # ASCII only: a lone surrogate, which some tokenizers produce, survives as an escape and not as UTF-8
            facts = json.dumps({key: values[key] for key in self.facts.model_fields})
            self._facts(facts, name)
        except (TypeError, ValueError, RecursionError, TracescribeError) as error:
            raise OutputError(f"cannot write {name}: what it says of itself is not JSON: {error}") from error
        with write_atomically(path, binary=True) as handle:
            write_tensors(handle, tensors, {"format": self.format, "facts": facts})

    def read(self, path: str | os.PathLike[str], make: Callable[[dict[str, Any]], R]) -> R:
        """What ``make`` makes of the values of a file.

        Raises:
            DataFormatError: no such file; it was cut short or changed, or holds something else.
        """
        with reading_result(path, self.format) as file:
            values = self._facts(file.metadata["facts"], shown_path(path))
            values |= {key: unpack_texts(key, file.tensors) for key in self.texts}
            for key, dtype in self.arrays.items():
                if key in self.optional and key not in file.tensors:
                    values[key] = None
                    continue
                values[key] = np.array(file.tensors[key])  # a copy: the file may change
                if values[key].dtype != dtype:
                    raise TypeError(f"{key!r} holds {values[key].dtype.name} numbers")
            return make(values)

    def _facts(self, text: str, name: str) -> dict[str, Any]:
        try:
            return self.facts.model_validate(parse_json(text, name, lone_surrogates=True)).model_dump()
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "its facts"
            raise ValueError(f"{where}: {error.errors()[0]['msg']}") from error
