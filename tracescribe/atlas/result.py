"""An atlas that was made: its traces, the profiles on one axis of depth, the table, and how alike the models are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arguments import explains_arguments
from ..errors import DataFormatError, DegenerateTraceError
from ..io.quoting import shown_path
from ..io.reading import is_file
from ..io.records import read_record
from ..tracer import CausalTrace, LayerProfile, TraceMap, load_trace
from .config import AtlasConfig
from .doubts import doubts
from .numbers import Agreement, Peak, Share, agreement, counted, peak_of, top_share
from .run import FORMAT, LEFT_OUT, RECORD, Task, tasks

if TYPE_CHECKING:
    import pandas as pd

    from ..viz import PaperFigure, Report

__all__ = ["Atlas", "Entry", "read_atlas"]

_HEADS = 5  # of a model and set that the table of heads lists


@dataclass(frozen=True, eq=False)
class Entry:
    """One model on one set. why: why there are no numbers; then all else is None."""

    model: str
    set: str
    trace: CausalTrace | None = None
    profile: LayerProfile | None = None
    peak: Peak | None = None
    top: Share | None = None
    why: str = ""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Traces of many models over the same sets; from :func:`read_atlas`.

    traces, heads: by (model, set). absent: why a model has no trace of a set. n_pairs: of each set.
    """

    config: AtlasConfig
    traces: Mapping[tuple[str, str], CausalTrace]
    heads: Mapping[tuple[str, str], CausalTrace] = field(default_factory=dict)
    absent: Mapping[tuple[str, str], str] = field(default_factory=dict)
    n_pairs: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every model on every set, set by set."""
        return tuple(self._entry(model, name) for name in self.config.sets for model in self.config.models)

    def profiles(self, name: str) -> dict[str, LayerProfile]:
        """The profiles of a set, by model; without models that have none.

        Raises:
            DataFormatError: no such set.
        """
        if name not in self.config.sets:
            raise DataFormatError(f"the atlas has no set {name!r}; it has {', '.join(self.config.sets)}")
        return {each.model: each.profile for each in self.entries if each.set == name and each.profile is not None}

    def table(self) -> pd.DataFrame:
        """One row per model and set.

        n_pairs: that enter; n_set: of the set. peak_layer, peak_depth: where CTE is largest among the layers that are
        compared (of the residual stream 1..L-1), and that over the number of blocks L; peak_lo, peak_hi: between which
        depths ``ci`` of the bootstrap's draws have it; peak_share: of draws that have it at this layer; not_told_from:
        layers whose CTE the draws do not tell from it. top3_share, top3_lo, top3_hi: share of the positive CTE in the
        three largest layers; top3_even: if all had the same. agreement: mean rank correlation with the other models'
        profiles. warnings: in words.
        """
        import pandas as pd

        means = self._mean_agreements()
        table = pd.DataFrame([self._row(each, means.get((each.model, each.set))) for each in self.entries])
        return table.astype({"n_layers": "Int64", "peak_layer": "Int64"})

    def agreements(self) -> pd.DataFrame:
        """One row per set and two models, over the pairs that enter from both.

        rank: Spearman's correlation of the profiles at the depths of the shallower one's layers; lo, hi: between which
        values ``ci`` of the draws are. Noise lowers a correlation, so that ``rank`` may lie at the upper end.
        peak_difference: depth of the second's peak less the first's, with the same of its draws.
        """
        import pandas as pd

        columns = ("set", "first", "second", "n_pairs", "n_depths", "rank", "lo", "hi")
        rows = [
            (name, *models, one.n_pairs, one.n_depths, one.rank, one.lo, one.hi, one.peaks, one.peaks_lo, one.peaks_hi)
            for (name, *models), one in self._agreements.items()
        ]
        return pd.DataFrame(rows, columns=[*columns, "peak_difference", "peak_lo", "peak_hi"])

    def head_maps(self) -> dict[tuple[str, str], TraceMap]:
        """CTE by layer and head with intervals, by (model, set)."""
        maps = {}
        for key, trace in self.heads.items():
            try:
                maps[key] = trace.map(
                    reduce=self.config.reduce,
                    segment=self.config.segment,
                    ci=self.config.ci,
                    n_boot=self.config.n_boot,
                    seed=self.config.seed,
                )
            except DegenerateTraceError:
                continue
        return maps

    def head_table(self) -> pd.DataFrame:
        """The heads of the largest CTE, five per model and set, with intervals that do not know of their choice."""
        import pandas as pd

        rows = []
        for (model, name), cells in self.head_maps().items():
            order = np.argsort(-np.nan_to_num(cells.values, nan=-np.inf), axis=None, kind="stable")[:_HEADS]
            for at, column in zip(*np.unravel_index(order, cells.values.shape), strict=True):
                layer = int(cells.layers[at])
                bounds = [np.nan if side is None else float(side[at, column]) for side in (cells.lo, cells.hi)]
                depth = layer / int(cells.layers[-1])
                rows.append((model, name, layer, depth, cells.rows[column], float(cells.values[at, column]), *bounds))
        return pd.DataFrame(rows, columns=["model", "set", "layer", "depth", "head", "cte", "lo", "hi"])

    def as_text(self, format: Literal["text", "markdown", "latex", "csv"] = "text") -> str:
        """The table for people; the warnings follow it in ``summary()``."""
        from .page import text_table

        return text_table(self, format)

    def doubts(self) -> list[str]:
        """What to know before the table is believed, line by line."""
        return [f"{each.model} on {each.set}: {line}" for each in self.entries for line in self.warnings(each)]

    def summary(self) -> str:
        """The table, and what to doubt of it."""
        return "\n".join([self.as_text(), *self.doubts()])

    def write(self, folder: str | Path) -> list[str]:
        """Write the tables (.csv), the figures (.pdf, .png) and the page (.html) into the atlas's folder; their names.

        Raises:
            OutputError: nothing can be written there.
        """
        from .page import write

        return write(self, Path(folder))

    def warnings(self, entry: Entry) -> list[str]:
        """What to know before the numbers of a model on a set are believed."""
        if entry.trace is None or entry.profile is None:
            return [entry.why]
        return doubts(entry.trace, entry.profile, entry.peak, self.config)

    def figure(self) -> PaperFigure:
        """Profiles over relative depth with their intervals, a panel per set; ``ts.viz.export`` writes it.

        Raises:
            FigureError: no model has a profile.
        """
        from .page import figure

        return figure(self)

    def head_figure(self) -> PaperFigure:
        """The head maps of all models and sets, on one scale and by relative depth; ``ts.viz.export`` writes it.

        Raises:
            FigureError: heads were not traced, or none has a value.
        """
        from .page import head_figure

        return head_figure(self)

    def page(self) -> Report:
        """The page for :func:`tracescribe.viz.report`."""
        from .page import page

        return page(self)

    def __repr__(self) -> str:
        return f"Atlas({len(self.config.models)} models, {len(self.config.sets)} sets, {len(self.traces)} traces)"

    def _repr_html_(self) -> str:
        from .page import html

        return html(self)

    @cached_property
    def _agreements(self) -> dict[tuple[str, str, str], Agreement]:
        found = {}
        for name in self.config.sets:
            there = [each for each in self.entries if each.set == name and each.trace is not None and each.profile]
            for one, two in combinations(there, 2):
                if one.trace is not None and two.trace is not None:
                    alike = agreement(one.trace, two.trace, self.config)
                    if alike is not None:
                        found[name, one.model, two.model] = alike
        return found

    def _mean_agreements(self) -> dict[tuple[str, str], float]:
        """Mean rank correlation of each model with the others, by (model, set)."""
        ranks: dict[tuple[str, str], list[float]] = {}
        for (name, *models), one in self._agreements.items():
            if one.rank is not None:
                for model in models:
                    ranks.setdefault((model, name), []).append(one.rank)
        return {key: float(np.mean(values)) for key, values in ranks.items()}

    def _entry(self, model: str, name: str) -> Entry:
        trace = self.traces.get((model, name))
        if trace is None:
            return Entry(model, name, why=self.absent.get((model, name), "not traced yet"))
        try:
            profile = trace.per_layer(
                aggregate=self.config.aggregate,
                ci=self.config.ci,
                n_boot=self.config.n_boot,
                seed=self.config.seed,
                reduce=self.config.reduce,
                segment=self.config.segment,
            )
        except DegenerateTraceError as problem:
            return Entry(model, name, why=str(problem))
        counts = counted(trace)
        peak = peak_of(profile, counts, trace.n_layers, self.config.ci)
        return Entry(model, name, trace, profile, peak, top_share(profile, counts, self.config.ci))

    def _row(self, each: Entry, agrees: float | None) -> dict[str, Any]:
        peak, top, nan = each.peak, each.top, float("nan")
        return {
            "model": each.model,
            "set": each.set,
            "n_pairs": 0 if each.profile is None else each.profile.n_pairs,
            "n_set": self.n_pairs.get(each.set, 0),
            "n_layers": None if each.trace is None else each.trace.n_layers,
            "peak_layer": None if peak is None else peak.layer,
            "peak_depth": nan if peak is None else peak.depth,
            "peak_lo": nan if peak is None else peak.lo,
            "peak_hi": nan if peak is None else peak.hi,
            "peak_share": nan if peak is None else peak.share,
            "not_told_from": "" if peak is None else " ".join(map(str, peak.alike)),
            "top3_share": nan if top is None else top.value,
            "top3_lo": nan if top is None else top.lo,
            "top3_hi": nan if top is None else top.hi,
            "top3_even": nan if top is None else top.even,
            "agreement": nan if agrees is None else agrees,
            "warnings": "; ".join(self.warnings(each)),
        }


@explains_arguments
def read_atlas(folder: str | Path) -> Atlas:
    """An atlas that :func:`run_atlas` made, as far as it is made.

    Raises:
        DataFormatError: the folder holds no atlas, or a file of it was changed or damaged; delete that file, and it is
            made again.

    >>> read_atlas("no/such/folder")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: 'no/such/folder' holds no atlas (no atlas.json)
    """
    folder = Path(folder)
    if not is_file(folder / RECORD):
        raise DataFormatError(f"{shown_path(folder)} holds no atlas (no {RECORD})")
    content = read_record(folder / RECORD)
    if content.get("format") != FORMAT:
        raise DataFormatError(f"{folder} has format {content.get('format')!r}, expected {FORMAT!r}")
    try:
        config = AtlasConfig.model_validate(content["config"])
        n_pairs = {name: int(told["n_pairs"]) for name, told in content["sets"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataFormatError(f"{folder / RECORD} is no record of an atlas: {problem}") from problem
    failed = read_record(folder / LEFT_OUT).get("models", {}) if is_file(folder / LEFT_OUT) else {}
    found: dict[str, dict[tuple[str, str], CausalTrace]] = {"traces": {}, "heads": {}}
    absent = {}
    for task in tasks(config):
        key = (task.model, task.set)
        if task.trace_file(folder).exists():
            found[task.kind][key] = _trace_of(task, folder)
        elif task.kind == "traces":
            if task.reason_file(folder).exists():
                absent[key] = str(read_record(task.reason_file(folder)).get("why"))
            elif task.model in failed:
                absent[key] = str(failed[task.model])
    return Atlas(config, found["traces"], found["heads"], absent, n_pairs)


def _trace_of(task: Task, folder: Path) -> CausalTrace:
    path = task.trace_file(folder)
    try:
        trace = load_trace(path)
    except DataFormatError as problem:
        raise DataFormatError(f"{problem} (delete it, and it is made again)") from problem
    told = trace.provenance.get("atlas", {})
    if (told.get("model"), told.get("set")) != (task.model, task.set):
        raise DataFormatError(f"{path} is not the trace of {task.model} on {task.set}: delete it, and it is made again")
    return trace
