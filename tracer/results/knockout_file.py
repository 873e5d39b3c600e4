"""Saves and loads knock-outs of attention: the traces of all rows of queries in one file."""

from __future__ import annotations

import json
import os
from typing import cast

import numpy as np

from ...arguments import explains_arguments
from ...errors import OutputError, TracescribeError
from ...io.atomic import write_atomically
from ...io.json_lines import parse_json
from ...io.quoting import shown_path
from ...io.tensors import pack_texts, reading_result, unpack_texts, write_tensors
from ..choices import RowKind
from .knockout import KnockOut
from .storage import as_tensors, of_tensors, texts_of

__all__ = ["load_knock_out", "save_knock_out"]

FORMAT = "tracescribe.knock_out/1"


def save_knock_out(found: KnockOut, path: str | os.PathLike[str]) -> None:
    """See :meth:`KnockOut.save`."""
    tensors, told = pack_texts("queries", found.queries), []
    try:
        for number, trace in enumerate(found.traces.values()):
            arrays, metadata = as_tensors(trace)
            tensors |= {f"{number}.{key}": array for key, array in arrays.items()}
            told.append(metadata)
    except (TypeError, ValueError, RecursionError, TracescribeError) as error:
        raise OutputError(f"cannot write {shown_path(path)}: a trace is not JSON and scores: {error}") from error
    with write_atomically(path, binary=True) as handle:
        write_tensors(handle, tensors, {"format": FORMAT, "align": found.align, "traces": json.dumps(told)})


@explains_arguments
def load_knock_out(path: str | os.PathLike[str]) -> KnockOut:
    """Read a file of :meth:`KnockOut.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_knock_out("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """
    name = shown_path(path)
    with reading_result(path, FORMAT) as file:
        queries = unpack_texts("queries", file.tensors)
        told = parse_json(file.metadata["traces"], name)
        if not isinstance(told, list) or len(told) != len(queries) or len(set(queries)) != len(queries):
            raise ValueError("it does not hold one trace for each row of queries")
        traces = {}
        for number, (query, metadata) in enumerate(zip(queries, told, strict=True)):
            start = f"{number}."
            tensors = {
                key.removeprefix(start): np.array(array)  # a copy: the file may change
                for key, array in file.tensors.items()
                if key.startswith(start)
            }
            traces[query] = of_tensors(tensors, texts_of(tensors), metadata, name)
        return KnockOut(traces, cast("RowKind", file.metadata["align"]))
