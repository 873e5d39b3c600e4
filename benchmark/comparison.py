"""Two or more models on the same items: paired differences, their intervals, tests and tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import explains_arguments
from ..errors import DataFormatError
from ..io.atomic import write_atomically
from ..io.quoting import shown, shown_path
from ..io.reading import MAX_TEXT, open_regular
from ..validation import bootstrap_options
from .metrics import Interval, clustered_interval, mcnemar, paired_difference
from .tables import as_table

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation import Evaluation

__all__ = ["Comparison", "Difference", "compare", "items_frame", "read_items", "save_items"]

FIXED = ("task", "id", "group", "hit", "chance", "margin")
LEAST_ITEMS = 10  # a subset of fewer is not tested
ALL = "all items"


def items_frame(evaluation: Evaluation) -> pd.DataFrame:
    """One row per item and task: task, id, group, hit, chance, margin, then a column per subset."""
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
    with write_atomically(target, binary=True) as handle:
        if target.suffix == ".csv":
            frame.to_csv(handle, index=False, encoding="utf-8")
        else:
            frame.to_parquet(handle, index=False)
    return target


@explains_arguments
def read_items(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Items that `save_items` wrote.

    Raises:
        DataFormatError: the file cannot be read, lacks a column, or has hits outside 0..1.
    """
    import pandas as pd

    with open_regular(path, MAX_TEXT) as file:
        try:
            if Path(path).suffix == ".parquet":
                frame = pd.read_parquet(file)
            else:
                frame = pd.read_csv(file, dtype={"task": str, "id": str, "group": str}, keep_default_na=True)
        except Exception as error:  # parsers of tables raise what they like
            raise DataFormatError(f"{shown_path(path)}: cannot be read as items: {str(error)[:200]}") from None
    missing = [name for name in FIXED if name not in frame]
    if missing:
        raise DataFormatError(f"{str(path)!r}: no column {missing[0]!r}; items are what `evaluate --items` writes")
    hits = pd.to_numeric(frame["hit"], errors="coerce")
    if not hits.between(0, 1).all():
        raise DataFormatError(f"{str(path)!r}: column 'hit' must hold numbers from 0 to 1")
    return frame.assign(hit=hits)


@dataclass(frozen=True)
class Difference:
    """One model against the baseline on the items of one task, or of one value of a subset.

    accuracy: percent, of the model. difference: model minus baseline, percentage points, on the same items.
    p: McNemar's exact test. q: p after Benjamini and Hochberg's control of the false discovery rate over all tests of
    the comparison; None for the baseline itself.
    """

    task: str
    subset: str
    value: str
    model: str
    n: int
    accuracy: Interval
    difference: Interval | None
    p: float | None
    q: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences of models on the same items. unpaired: items that not every model was scored on, left out."""

    models: tuple[str, ...]
    differences: tuple[Difference, ...]
    unpaired: int

    def to_frame(self) -> pd.DataFrame:
        """One row per difference, with the bounds of its intervals."""
        import pandas as pd

        rows = []
        for found in self.differences:
            change = found.difference
            rows.append(
                {
                    "task": found.task,
                    "subset": found.subset,
                    "value": found.value,
                    "model": found.model,
                    "n": found.n,
                    "accuracy": found.accuracy.value,
                    "accuracy_lo": found.accuracy.lo,
                    "accuracy_hi": found.accuracy.hi,
                    "difference": None if change is None else change.value,
                    "difference_lo": None if change is None else change.lo,
                    "difference_hi": None if change is None else change.hi,
                    "p": found.p,
                    "q": found.q,
                }
            )
        return pd.DataFrame(rows)

    def table(self, format: Literal["text", "markdown", "latex", "csv"] = "text") -> str:
        """Models by task in percent, as in the paper's Table 1; with both wordings of multiple choice, their gap too.

        ``*`` marks a difference from the first model with q < 0.05.

        Raises:
            DataFormatError: another format is asked for.
        """
        tasks = list(dict.fromkeys(found.task for found in self.differences))
        gap = {"mcq_affirmative", "mcq_negated"} <= set(tasks)
        header = ["model", *tasks, *(["gap"] if gap else [])]
        rows = []
        for model in self.models:
            cells = {found.task: found for found in self.differences if found.model == model and found.subset == ALL}
            row = [model]
            for task in tasks:
                found = cells[task]
                row.append(f"{found.accuracy.value:.1f}{'*' if found.q is not None and found.q < 0.05 else ''}")
            if gap:
                row.append(f"{cells['mcq_affirmative'].accuracy.value - cells['mcq_negated'].accuracy.value:.1f}")
            rows.append(row)
        return as_table(header, rows, format)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Every difference with its interval as a figure.

        Raises:
            DataFormatError: the file is to be something else than .pdf, .svg or .png.
        """
        import matplotlib

        if Path(path).suffix not in (".pdf", ".svg", ".png"):
            raise DataFormatError(f"{str(path)!r}: a plot is written to a .pdf, .svg or .png file")

        shown = [found for found in self.differences if found.difference is not None]
        names = [f"{f.model}: {f.task}" + (f", {f.value}" if f.subset != ALL else f" ({f.n})") for f in shown]
        values = np.array([[f.difference.lo, f.difference.value, f.difference.hi] for f in shown if f.difference])
        with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "text.parse_math": False}):
            from matplotlib.figure import Figure

            figure = Figure(figsize=(6.75, 0.6 + 0.22 * len(shown)), layout="constrained")
            axes = figure.add_subplot()
            at = np.arange(len(shown))[::-1]
            axes.hlines(at, values[:, 0], values[:, 2], color="#4477aa")
            axes.plot(values[:, 1], at, "o", color="#4477aa", markersize=4)
            axes.axvline(0, color="0.4", linewidth=0.8)
            axes.set_yticks(at, names, fontsize=7)
            axes.set_xlabel(f"difference from {self.models[0]} (percentage points, 95 % interval)", fontsize=8)
            with write_atomically(path, binary=True) as handle:
                figure.savefig(handle, format=Path(path).suffix.lstrip("."))
        return Path(path)

    def summary(self) -> str:
        """The table, and the tests of whole tasks, as lines for people."""
        lines = [self.table("text")]
        for found in self.differences:
            if found.difference is not None and found.subset == ALL:
                tests = f"McNemar p = {found.p:.2g}, q = {found.q:.2g}"
                lines.append(f"{found.model}, {found.task}: {found.difference} pp on {found.n} items, {tests}")
        if self.unpaired:
            lines.append(f"{self.unpaired} items were not scored by every model and are left out")
        return "\n".join(lines)

    def __repr__(self) -> str:
        changes = ", ".join(
            f"{found.model} {found.task} {found.difference} pp{'*' if found.q is not None and found.q < 0.05 else ''}"
            for found in self.differences
            if found.difference is not None and found.subset == ALL
        )
        return f"Comparison(against {self.models[0]!r}: {changes})"

    def _repr_html_(self) -> str:
        from ..cards import card, table

        whole = [found for found in self.differences if found.difference is not None and found.subset == ALL]
        rows = [
            [
                f.model,
                f.task,
                f"{f.n:,}",
                f.accuracy,
                f.difference,
                *("–" if p is None else f"{p:.2g}" for p in (f.p, f.q)),
            ]
            for f in whole
        ]
        header = ["model", "task", "items", "accuracy (%)", f"− {self.models[0]} (pp)", "McNemar p", "q"]
        facts = [("left out", f"{self.unpaired:,} items that not every model was scored on" if self.unpaired else None)]
        about = f"{len(self.models)} models on the same items"
        return card("Comparison", about, facts, table(header, rows, left=2))


@explains_arguments
def compare(
    *evaluations: Evaluation | str | os.PathLike[str],
    names: Sequence[str] | None = None,
    subsets: bool = True,
    seed: int = 0,
    n_boot: int = 1000,
    ci: float = 0.95,
) -> Comparison:
    """Compare models on the items that all of them were scored on; the first is the baseline.

    Args:
        evaluations: evaluations, or files of items that `Evaluation.save_items` wrote.
        names: of the models; by default the files' names, or "model 1", ....
        subsets: also by attribute, template, polarity, ... (subsets of at least 10 items).

    Raises:
        DataFormatError: fewer than two models, names that do not fit, or no item in common.

    >>> from tracescribe.benchmark.metrics import Interval
    >>> compare("a.csv")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: a comparison needs two models or more, got 1
    """
    options = bootstrap_options(n_boot, seed, ci)
    if len(evaluations) < 2:
        raise DataFormatError(f"a comparison needs two models or more, got {len(evaluations)}")
    for one in evaluations:
        if not isinstance(one, str | os.PathLike) and not hasattr(one, "items"):
            raise DataFormatError(f"an evaluation, or the path of its items, is needed, not {shown(one)}")
    models = tuple(names) if names is not None else tuple(_names(evaluations))
    if len(models) != len(evaluations) or len(set(models)) != len(models):
        raise DataFormatError(f"{len(evaluations)} models need as many different names, got {shown(models)}")
    frames = [read_items(e) if isinstance(e, str | os.PathLike) else items_frame(e) for e in evaluations]
    indexed = [_indexed(frame, model) for frame, model in zip(frames, models, strict=True)]
    shared = indexed[0].index
    for frame in indexed[1:]:
        shared = shared.intersection(frame.index)
    if not len(shared):
        raise DataFormatError(f"{' and '.join(models)} have no item in common: evaluate them on one source")
    unpaired = len(set().union(*(frame.index for frame in indexed))) - len(shared)
    aligned = [frame.loc[shared] for frame in indexed]
    _same_groups(aligned, models)
    found = [row for part in _parts(aligned, subsets) for row in _compared(*part, models, options)]
    return Comparison(models, tuple(_with_q(found)), unpaired)


def _names(evaluations: Sequence[Any]) -> Iterator[str]:
    for number, one in enumerate(evaluations, start=1):
        yield Path(one).stem if isinstance(one, str | os.PathLike) else f"model {number}"


def _indexed(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    indexed = frame.astype({"task": str, "id": str, "group": str}).set_index(["task", "id"])
    if not indexed.index.is_unique:
        task, item = indexed.index[indexed.index.duplicated()][0]
        raise DataFormatError(f"{model}: item {item!r} of {task} is there twice")
    return indexed


def _same_groups(frames: Sequence[pd.DataFrame], models: Sequence[str]) -> None:
    for frame, model in zip(frames[1:], models[1:], strict=True):
        other = frames[0]["group"] != frame["group"]
        if other.any():
            task, item = frame.index[other.to_numpy().argmax()]
            raise DataFormatError(
                f"item {item!r} of {task} is of group {frames[0]['group'][task, item]!r} for {models[0]} and "
                f"{frame['group'][task, item]!r} for {model}: these are other items"
            )


def _parts(frames: Sequence[pd.DataFrame], subsets: bool) -> Iterator[tuple[str, str, str, Sequence[pd.DataFrame]]]:
    base = frames[0].index.get_level_values("task")
    for task in dict.fromkeys(base):
        of_task = [frame[base == task] for frame in frames]
        yield task, ALL, ALL, of_task
        for column in of_task[0].columns if subsets else ():
            values = of_task[0][column]
            if column in FIXED or values.nunique() < 2:
                continue
            for value in sorted(values.dropna().astype(str).unique()):
                chosen = (values.astype(str) == value).to_numpy()
                if chosen.sum() >= LEAST_ITEMS:
                    yield task, str(column), value, [frame[chosen] for frame in of_task]


def _compared(
    task: str,
    subset: str,
    value: str,
    frames: Sequence[pd.DataFrame],
    models: Sequence[str],
    options: Mapping[str, Any],
) -> Iterator[Difference]:
    groups = frames[0]["group"].tolist()
    base = frames[0]["hit"].to_numpy(dtype=np.float64)
    for number, (frame, model) in enumerate(zip(frames, models, strict=True)):
        hits = frame["hit"].to_numpy(dtype=np.float64)
        yield Difference(
            task=task,
            subset=subset,
            value=value,
            model=model,
            n=len(hits),
            accuracy=clustered_interval(hits, groups, **options),
            difference=paired_difference(hits, base, groups, **options) if number else None,
            p=mcnemar(hits, base) if number else None,
            q=None,
        )


def _with_q(found: Sequence[Difference]) -> Iterator[Difference]:
    """Benjamini and Hochberg's q of every test."""
    from dataclasses import replace

    from scipy.stats import false_discovery_control

    tested = [one.p for one in found if one.p is not None]
    adjusted = iter(false_discovery_control(tested) if tested else ())
    for one in found:
        yield one if one.p is None else replace(one, q=float(next(adjusted)))
