"""Hits of every item, as a table and as a file that `compare` reads."""

from __future__ import annotations

import csv
import json
import os
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..arguments import explains_arguments
from ..errors import DataFormatError, NonFiniteError
from ..io.atomic import write_atomically
from ..io.quoting import shown, shown_path
from ..io.reading import MAX_TEXT, open_regular
from ..io.spreadsheets import unguarded
from ..io.tables import write_csv
from .metrics import expected_hits

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation import Evaluation

__all__ = ["FIXED", "OPTIONS", "items_frame", "read_items", "save_items"]

FIXED = ("task", "id", "group", "hit", "chance", "margin")
"""The columns that every row has."""
ROUNDED = 1e-6  # of a hit such as 1/3 in a file
NUMBERS = ("hit", "chance", "margin", "gold")
OPTIONS = ("gold", "scores", "options", "candidates")
"""Columns of tasks in which an option is chosen, and of retrieval; all further columns are subsets."""


def items_frame(evaluation: Evaluation) -> pd.DataFrame:
    """One row per item and task: the columns `FIXED`, `OPTIONS`, then a column per subset.

    gold: number of the right option. scores: the cosine of every option, as a JSON list. options: a number per set of
    options, which intervals resample where few are asked of many groups. All are empty for retrieval, which alone has
    candidates: a name of the set that the query ranks.
    """
    import pandas as pd

    parts = []
    for items in evaluation.items.values():
        columns: dict[str, Any] = {
            "task": items.task,
            "id": items.ids,
            "group": items.groups,
            "hit": items.hits,
            "chance": items.chance,
            "margin": items.margin,
        }
        if items.scores:
            columns |= {"scores": [json.dumps(scores) for scores in items.scores]}
            columns |= {"gold": np.array(items.gold)} if items.gold else {}
        if items.texts is not None:
            columns["options"] = pd.factorize(np.array(items.texts, dtype=object))[0]
        if items.candidates:
            columns["candidates"] = items.candidates
        parts.append(pd.DataFrame({**columns, **items.labels}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(FIXED))


def save_items(evaluation: Evaluation, path: str | os.PathLike[str]) -> Path:
    """Write `items_frame` to a ``.csv`` or ``.parquet`` file.

    Raises:
        DataFormatError: another kind of file is asked for.
        OutputError: the file cannot be written.
    """
    target, frame = Path(path), items_frame(evaluation)
    if target.suffix not in (".csv", ".parquet"):
        raise DataFormatError(f"{str(path)!r}: items are written to a .csv or .parquet file")
    if target.suffix == ".csv":
        write_csv(frame, target)
        return target
    with write_atomically(target, binary=True) as handle:
        frame.to_parquet(handle, index=False)
    return target


@explains_arguments
def read_items(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Items that `save_items` wrote.

    Raises:
        DataFormatError: the file cannot be read, lacks a column or a cell, or has hits outside 0..1, or other ones than
            follow from the scores beside them.
    """
    import pandas as pd

    with open_regular(path, MAX_TEXT) as file:
        try:
            frame = pd.read_parquet(file) if Path(path).suffix == ".parquet" else _read_csv(file)
        except Exception as error:  # parsers of tables raise what they like
            raise DataFormatError(f"{shown_path(path)}: cannot be read as items: {str(error)[:200]}") from None
    missing = [name for name in FIXED if name not in frame]
    if missing:
        raise DataFormatError(f"{str(path)!r}: no column {missing[0]!r}; items are what `evaluate --items` writes")
    hits = pd.to_numeric(frame["hit"], errors="coerce")
    if not hits.between(0, 1).all():
        raise DataFormatError(f"{str(path)!r}: column 'hit' must hold numbers from 0 to 1")
    frame = frame.assign(hit=hits)
    _check_scores(frame, path)
    return frame


def _read_csv(file: IO[bytes]) -> pd.DataFrame:
    """Texts as they are: "NA" is the name of an item or a subset, and 1 is no 1.0; a row that was cut is refused."""
    import pandas as pd

    with TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = [[unguarded(cell) for cell in row] for row in csv.reader(text, strict=True) if row]
    if not rows:
        raise ValueError("the file is empty")
    names = rows.pop(0)
    if len(set(names)) < len(names):
        raise ValueError("a column is given twice")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells for {len(names)} columns")
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    numbers = [name for name in NUMBERS if name in frame]
    frame[numbers] = frame[numbers].apply(pd.to_numeric, errors="coerce")
    texts = frame.columns.difference([*FIXED, *NUMBERS])
    frame[texts] = frame[texts].replace("", None)
    return frame


def _check_scores(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Refuse a hit that does not follow from the scores and the right option that stand beside it."""
    if not {"scores", "gold"} <= set(frame):
        return
    asked = frame[frame["scores"].notna() & frame["gold"].notna()]
    for task, name, hit, gold, text in asked[["task", "id", "hit", "gold", "scores"]].itertuples(index=False):
        where = f"{shown_path(path)}: item {shown(str(name))} of {task}"
        try:
            scores = np.array([json.loads(text)], dtype=np.float64)
            found = float(expected_hits(scores, np.array([int(gold)]))[0])
        except (ValueError, TypeError, IndexError, OverflowError, RecursionError, NonFiniteError):
            raise DataFormatError(
                f"{where}: columns 'scores' and 'gold' must hold a list of numbers and the number of one of them"
            ) from None
        if not abs(found - hit) < ROUNDED:
            raise DataFormatError(f"{where}: hit {hit:g}, but {found:g} follows from its scores; was the file edited?")
