"""Two or more models on the same items: paired differences, their intervals, tests and tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ..arguments import explains_arguments
from ..errors import DataFormatError
from ..io.atomic import write_atomically
from ..io.quoting import shown, shown_path
from ..validation import bootstrap_options
from .items import FIXED, OPTIONS, items_frame, read_items
from .layouts import ALL, Layout, layout_rows
from .matching import by_item, of_same_candidates, refuse_other_items
from .metrics import Interval, mcnemar, paired_difference, paired_intervals
from .tables import as_table

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation import Evaluation

__all__ = ["Comparison", "Difference", "Gap", "compare"]

LEAST_ITEMS = 10  # a subset of fewer is not tested


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


@dataclass(frozen=True)
class Gap:
    """One model's accuracy in both wordings of multiple choice, percent, and their difference on the same items.

    gap: affirmative minus negated. p: McNemar's exact test between the wordings. difference: the gap minus the first
    model's, on the same items; None for the first.
    """

    model: str
    affirmative: float
    negated: float
    gap: Interval
    both_right: float
    p: float
    difference: Interval | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences of models on the same items. unpaired: items that not every model was scored on, left out.

    gaps: of each model, where multiple choice was scored in both wordings.
    """

    models: tuple[str, ...]
    differences: tuple[Difference, ...]
    unpaired: int
    gaps: tuple[Gap, ...] = ()

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

    def table(self, format: Literal["text", "markdown", "latex", "csv"] = "text", layout: Layout = "tasks") -> str:
        """Models in percent; ``*`` marks a difference from the first model with q < 0.05.

        Args:
            layout: "tasks", every task; or the form of the paper's tables: "negation" (Table 1: R@1 and R@5 of captions
                with negation among texts that are false of the image, claim accuracy), "affirmative" (the same of what
                is affirmed), "gap" (Table 3: both wordings, their paired difference with its interval, right in both).

        Raises:
            DataFormatError: another format or layout is asked for, or nothing of the layout was scored.
        """
        return as_table(*layout_rows(self, layout), format)

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
                items = f"{found.n} item{'s' * (found.n != 1)}"
                lines.append(f"{found.model}, {found.task}: {found.difference} pp on {items}, {tests}")
        for gap in self.gaps:
            change = "" if gap.difference is None else f", {gap.difference} against {self.models[0]}"
            lines.append(f"{gap.model}: gap {gap.gap} pp{change}, both right {gap.both_right:.1f}")
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
        names: of the models; by default the files' names (with their folders, where these tell them apart), or
            "model 1", ....
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
        if not isinstance(one, str | os.PathLike) and not isinstance(getattr(one, "items", None), Mapping):
            raise DataFormatError(f"an evaluation, or the path of its items, is needed, not {shown(one)}")
    _refuse_one_file_twice(evaluations)
    models = tuple(names) if names is not None else tuple(_names(evaluations))
    if len(models) != len(evaluations) or len(set(models)) != len(models):
        raise DataFormatError(f"{len(evaluations)} models need as many different names, got {shown(models)}")
    frames = [read_items(e) if isinstance(e, str | os.PathLike) else items_frame(e) for e in evaluations]
    indexed = [by_item(frame, model) for frame, model in zip(frames, models, strict=True)]
    shared = indexed[0].index
    for frame in indexed[1:]:
        shared = shared.intersection(frame.index)
    alike = of_same_candidates([frame.loc[shared] for frame in indexed])
    if len(shared) and not alike.any():
        raise DataFormatError(
            f"{' and '.join(models)} rank other candidates for every query, so that R@k differs whatever they do: "
            "evaluate them on the same images, with one seed and one pool size"
        )
    shared = shared[alike]
    if not len(shared):
        raise DataFormatError(f"{' and '.join(models)} have no item in common: evaluate them on one source")
    unpaired = len(set().union(*(frame.index for frame in indexed))) - len(shared)
    aligned = [frame.loc[shared] for frame in indexed]
    refuse_other_items(aligned, models)
    found = [row for part in _parts(aligned, subsets) for row in _compared(*part, models, options)]
    return Comparison(models, tuple(_with_q(found)), unpaired, tuple(_gaps(aligned, models, options)))


def _refuse_one_file_twice(evaluations: Sequence[Any]) -> None:
    paths = [Path(one).resolve() for one in evaluations if isinstance(one, str | os.PathLike)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise DataFormatError(f"{shown_path(twice)} is given twice; each model has a file of its own")


def _names(evaluations: Sequence[Any]) -> list[str]:
    """Files by their name, or by as much of their path as tells them apart ("clip/items", "nast/items").

    The ending is a part of the name only where it alone differs ("items.csv", "items.parquet").
    """
    paths = {n: Path(e).absolute() for n, e in enumerate(evaluations) if hasattr(e, "__fspath__") or isinstance(e, str)}
    if len({path.with_suffix("") for path in paths.values()}) == len(paths):
        paths = {number: path.with_suffix("") for number, path in paths.items()}
    found: dict[int, str] = {}
    for length in range(1, 1 + max((len(path.parts) for path in paths.values()), default=0)):
        found = {number: Path(*path.parts[-length:]).as_posix() for number, path in paths.items()}
        if len(set(found.values())) == len(found):
            break
    return [found.get(number, f"model {number + 1}") for number in range(len(evaluations))]


def _subsets(frames: Sequence[pd.DataFrame]) -> dict[str, pd.Series[Any]]:
    """The label of every item by subset: what the models' files agree on, and what only some of them know."""
    found: dict[str, pd.Series[Any]] = {}
    for frame in frames:
        for column in frame.columns.difference([*FIXED, *OPTIONS], sort=False):
            labels = frame[column].astype(object)
            found[str(column)] = found[str(column)].combine_first(labels) if column in found else labels
    return found


def _parts(frames: Sequence[pd.DataFrame], subsets: bool) -> Iterator[tuple[str, str, str, Sequence[pd.DataFrame]]]:
    labels = _subsets(frames) if subsets else {}
    base = frames[0].index.get_level_values("task")
    for task in dict.fromkeys(base):
        of_task = [frame[base == task] for frame in frames]
        yield task, ALL, ALL, of_task
        for column, label in labels.items():
            values = label[base == task]
            if values.nunique() < 2:
                continue
            for value in sorted(values.dropna().astype(str).unique()):
                chosen = (values.astype(str) == value).to_numpy()
                if chosen.sum() >= LEAST_ITEMS:
                    yield task, column, value, [frame[chosen] for frame in of_task]


def _compared(
    task: str,
    subset: str,
    value: str,
    frames: Sequence[pd.DataFrame],
    models: Sequence[str],
    options: Mapping[str, Any],
) -> Iterator[Difference]:
    groups, texts = frames[0]["group"].tolist(), _option_sets(frames[0])
    hits = np.stack([frame["hit"].to_numpy(dtype=np.float64) for frame in frames], axis=1)
    accuracies, differences = paired_intervals(hits, groups, texts=texts, **options)
    for number, (model, accuracy, change) in enumerate(zip(models, accuracies, [None, *differences], strict=True)):
        yield Difference(
            task=task,
            subset=subset,
            value=value,
            model=model,
            n=len(hits),
            accuracy=accuracy,
            difference=change,
            p=mcnemar(hits[:, number], hits[:, 0]) if number else None,
            q=None,
        )


def _gaps(frames: Sequence[pd.DataFrame], models: Sequence[str], options: Mapping[str, Any]) -> Iterator[Gap]:
    """The gap of each model on the items that are there in both wordings."""
    wordings = ("mcq_affirmative", "mcq_negated")
    if not set(wordings) <= set(frames[0].index.get_level_values("task")):
        return
    ids = frames[0].loc[wordings[0]].index.intersection(frames[0].loc[wordings[1]].index)
    if not len(ids):
        return
    asked = frames[0].loc[wordings[0]].loc[ids]
    groups, options = asked["group"].tolist(), {**options, "texts": _option_sets(asked)}
    first = None
    for frame, model in zip(frames, models, strict=True):
        fine, bad = (frame.loc[wording].loc[ids, "hit"].to_numpy(dtype=np.float64) for wording in wordings)
        first = fine - bad if first is None else first
        yield Gap(
            model=model,
            affirmative=100 * float(fine.mean()),
            negated=100 * float(bad.mean()),
            gap=paired_difference(fine, bad, groups, **options),
            both_right=100 * float((fine * bad).mean()),
            p=mcnemar(fine, bad),
            difference=None if model == models[0] else _between(fine - bad, first, groups, options),
        )


def _option_sets(frame: pd.DataFrame) -> list[str] | None:
    """Which items choose from the same options, where the file says it of all."""
    if "options" not in frame or frame["options"].isna().any():
        return None
    return [str(one) for one in frame["options"]]


def _between(
    gaps: Float[np.ndarray, "item"], base: Float[np.ndarray, "item"], groups: Sequence[str], options: Mapping[str, Any]
) -> Interval:
    """The difference of two gaps: each lies between -1 and 1, so that half of it is what `paired_difference` bounds."""
    return paired_difference(gaps / 2, base / 2, groups, scale=200.0, **options)


def _with_q(found: Sequence[Difference]) -> Iterator[Difference]:
    """Benjamini and Hochberg's q of every test."""
    from dataclasses import replace

    from scipy.stats import false_discovery_control

    tested = [one.p for one in found if one.p is not None]
    adjusted = iter(false_discovery_control(tested) if tested else ())
    for one in found:
        yield one if one.p is None else replace(one, q=float(next(adjusted)))
