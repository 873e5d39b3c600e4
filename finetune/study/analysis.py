"""What a study found: one table of arms, tests against uniform training, and scores at equal preservation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ...arguments import explains_arguments
from ...cards import card, table
from ...errors import DataFormatError, TracescribeError
from ...io.quoting import shown, shown_path
from ...io.reading import is_file
from ...io.records import read_record
from ...validation import is_number
from .config import StudyConfig
from .runs import Run, best_rates

if TYPE_CHECKING:
    import pandas as pd

    from ...benchmark.metrics import Interval
    from ...viz import PaperFigure

SCORES = ("claims", "negated", "affirmative", "gap", "both_right", "r1", "r5", "preservation")
KEPT = ("affirmative", "r1")  # what training for negation may lose
ALLOWED_LOSS = 2.0  # percentage points of it, at which arms are compared
COLLAPSE = 10.0  # points of affirmative accuracy below the base: a small gap then means nothing


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Scores of every finished run at each arm's chosen rate.

    runs: one row per arm and seed: arm, rate, seed, the scores on the test split in percent (preservation: cosine),
        ``update_*`` and ``diverged``. base: the untrained model's scores.
    curves: one row per arm, seed and share of the way from the base weights to the tuned ones (0 is the base).
    """

    config: StudyConfig
    runs: pd.DataFrame
    base: Mapping[str, float]
    curves: pd.DataFrame

    def __repr__(self) -> str:
        return f"StudyResult({self.config.model}: {self._size()}, {len(self.runs)} runs)"

    def _repr_html_(self) -> str:
        header, rows = self._score_rows()
        about = f"{self.config.model}: {self._size()}; mean ± sd, differences from uniform training, p after Holm"
        return card("StudyResult", about, (), table(header, rows))

    def _size(self) -> str:
        arms, seeds = self.runs["arm"].nunique(), self.runs["seed"].nunique()
        return f"{arms} arm{'s' * (arms != 1)}, {seeds} seed{'s' * (seeds != 1)}"

    def table(self, against: str = "uniform") -> pd.DataFrame:
        """One row per arm: mean and standard deviation of each score over seeds, and differences from ``against``.

        p: of a paired t test over seeds on the mean of claim accuracy and negated accuracy; p_holm: corrected for the
        number of arms (Holm 1979). equal: that mean where the arm has lost ALLOWED_LOSS points of affirmative
        accuracy or R@1 on its way from the base weights to the tuned ones, or at its end where it loses less;
        equal_difference, equal_p, equal_p_holm: the same comparison there. collapsed: seeds whose affirmative accuracy
        fell by more than COLLAPSE points.
        """
        import pandas as pd

        runs = self.runs.assign(gain=_gain(self.runs))
        equal = self.at_equal_preservation()
        rows = []
        for arm, of in runs.groupby("arm", sort=False):
            row: dict[str, Any] = {"arm": arm, "rate": of["rate"].iloc[0], "seeds": len(of)}
            for name in SCORES:
                row |= {name: of[name].mean(), f"{name}_sd": of[name].std(ddof=1) if len(of) > 1 else np.nan}
            row |= {name: of[name].mean() for name in of.columns if name.startswith("update_")}
            lost = self.base["affirmative"] - of["affirmative"]
            row |= {"collapsed": int((lost > COLLAPSE).sum()), "diverged": int(of["diverged"].sum())}
            row |= _against(runs, "gain", str(arm), against, "")
            mine = equal[equal["arm"] == arm]
            row |= {"equal": mine["gain"].mean(), "equal_sd": mine["gain"].std(ddof=1) if len(mine) > 1 else np.nan}
            row |= _against(equal, "gain", str(arm), against, "equal_")
            rows.append(row)
        table = pd.DataFrame(rows)
        for name in ("p", "equal_p"):
            table[f"{name}_holm"] = holm(table[name].to_numpy(dtype=float))
        return table

    def as_text(
        self,
        format: Literal["text", "markdown", "latex", "csv"] = "text",
        *,
        of: Literal["scores", "update"] = "scores",
    ) -> str:
        """A table for people.

        of: "scores" as mean ± sd over seeds with differences from uniform training and corrected p (the paper's tables
            1 and 3 in one), or "update": the share of the change of weights that the three and five blocks of highest
            CTE have, and the three that changed most (its table 4; see :class:`UpdateShare`), in percent.
        """
        from ...benchmark.tables import as_table

        return as_table(*(self._update_rows() if of == "update" else self._score_rows()), format)

    def _score_rows(self) -> tuple[list[str], list[list[str]]]:
        names = {
            "claims": "claims",
            "negated": "negated",
            "affirmative": "affirmative",
            "gap": "gap",
            "r1": "R@1",
            **({"r5": "R@5"} if self.runs["r5"].notna().all() else {}),
            "preservation": "cosine",
        }
        header = ["arm", "rate", "seeds", *names.values(), "gain - uniform", "p", "at equal preservation", "p"]
        rows = [["(untrained)", "", "", *(_number(self.base[name], None, name) for name in names), "", "", "", ""]]
        for row in self.table().to_dict("records"):
            cells = [_number(row[name], row[f"{name}_sd"], name) for name in names]
            mark = "" if not row["collapsed"] else f" (collapsed: {row['collapsed']})"
            tests = []
            for prefix in ("", "equal_"):
                difference, lo, hi, p = (row[f"{prefix}{name}"] for name in ("difference", "lo", "hi", "p_holm"))
                untested = difference is None or not np.isfinite(difference)
                tests += ["", ""] if untested else [f"{difference:+.1f} [{lo:+.1f}, {hi:+.1f}]", f"{p:.2g}"]
            rows.append([f"{row['arm']}{mark}", f"{row['rate']:g}", str(row["seeds"]), *cells, *tests])
        return header, rows

    def _update_rows(self) -> tuple[list[str], list[list[str]]]:
        names = {"top3_cte": "top 3 by CTE", "top5_cte": "top 5 by CTE", "top3_size": "top 3 by size"}
        names = {f"update_{name}": shown for name, shown in names.items() if f"update_{name}" in self.runs}
        rows = []
        for arm, of in self.runs.groupby("arm", sort=False):
            shares = [f"{100 * of[name].mean():.1f} ± {100 * of[name].std():.1f}" for name in names]
            effective = of["update_effective_layers"]
            rows.append([str(arm), str(len(of)), *shares, f"{effective.mean():.2f} ± {effective.std():.2f}"])
        return ["arm", "seeds", *names.values(), "effective layers"], rows

    def figure(self, kept: Literal["affirmative", "r1", "preservation"] = "r1") -> PaperFigure:
        """Arms by what they gained and what they kept, with 95 % t intervals over seeds, and the untrained model.

        kept: the score on the horizontal axis. The vertical one is the mean of claim and negated accuracy.
        """
        from ...viz import pareto

        axis = {"affirmative": "affirmative accuracy (%)", "r1": "affirmative R@1 (%)", "preservation": "cosine"}[kept]
        points: dict[str, Any] = {"untrained": (self.base[kept], _gain(self.base))}
        for arm, of in self.runs.groupby("arm", sort=False):
            points[str(arm)] = (_interval(of[kept]), _interval(_gain(of)))
        return pareto(points, axis, "claim and negated accuracy, mean (%)")

    def at_equal_preservation(self, allowed: float = ALLOWED_LOSS) -> pd.DataFrame:
        """For each arm and seed, the point of its curve that has lost ``allowed`` points of affirmative score or R@1.

        Between the measured shares the scores are interpolated linearly. An arm that loses less is taken at its end.
        """
        import pandas as pd

        rows = []
        for (arm, seed), curve in self.curves.groupby(["arm", "seed"], sort=False):
            curve = curve.sort_values("share")
            share = curve["share"].to_numpy(dtype=float)
            loss = np.max([self.base[name] - curve[name].to_numpy(dtype=float) for name in KEPT], axis=0)
            at = crossing(share, loss, allowed)
            values = {name: float(np.interp(at, share, curve[name])) for name in ("claims", "negated", *KEPT)}
            rows.append({"arm": arm, "seed": seed, "share": at, **values})
        frame = pd.DataFrame(rows)
        return frame.assign(gain=_gain(frame))


def _gain(scores: Any) -> Any:
    """What the arms are compared by, of a table or of one run: the mean of claim and negated accuracy."""
    return (scores["claims"] + scores["negated"]) / 2


def _number(value: float, sd: float | None, name: str) -> str:
    digits = 3 if name == "preservation" else 1
    spread = "" if sd is None or not np.isfinite(sd) else f" ± {sd:.{digits}f}"
    return f"{value:.{digits}f}{spread}"


def _interval(values: pd.Series[float]) -> Interval:
    """The mean over seeds with its 95 % t interval; of one seed no interval."""
    from scipy import stats

    from ...benchmark.metrics import Interval

    n, mean = len(values), float(values.mean())
    half = float(stats.sem(values) * stats.t.ppf(0.975, n - 1)) if n > 1 else float("nan")
    return Interval(mean, mean - half, mean + half)


def crossing(share: Float[np.ndarray, " point"], loss: Float[np.ndarray, " point"], allowed: float) -> float:
    """The first share at which ``loss``, linear between the points, exceeds ``allowed``; the last where none does.

    >>> crossing(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 5.0]), allowed=3.0)
    0.75
    """
    for index in range(1, len(share)):
        if loss[index] > allowed:
            step = (allowed - loss[index - 1]) / (loss[index] - loss[index - 1])
            return float(share[index - 1] + max(0.0, step) * (share[index] - share[index - 1]))
    return float(share[-1])


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p values corrected for their number (Holm 1979); NaN, which is no test, stays and does not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.03])).round(2)
    array([0.03, 0.06,  nan, 0.06])
    """
    out = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    out[order] = np.minimum(corrected, 1)
    return out


def _against(frame: pd.DataFrame, score: str, arm: str, against: str, prefix: str) -> dict[str, float]:
    """Mean difference of two arms over the seeds that both have, its 95 % interval (t), and the paired t test's p."""
    from scipy import stats

    nothing = {f"{prefix}{name}": np.nan for name in ("difference", "lo", "hi", "p")}
    if arm == against or against not in set(frame["arm"]):
        return nothing
    mine, theirs = (frame[frame["arm"] == name].set_index("seed")[score] for name in (arm, against))
    difference = (mine - theirs).dropna()
    if len(difference) < 2:
        return nothing
    found = _interval(difference)
    no_spread = 1.0 if found.value == 0 else 0.0
    p = no_spread if difference.nunique() == 1 else float(stats.ttest_1samp(difference, 0).pvalue)
    return {f"{prefix}difference": found.value, f"{prefix}lo": found.lo, f"{prefix}hi": found.hi, f"{prefix}p": p}


@explains_arguments
def read_study_result(folder: str | Path) -> StudyResult:
    """The runs of a study that are finished, at the rate that each arm was tuned to.

    Raises DataFormatError when the folder holds no study, a run is damaged, or no run or tuning is finished.
    """
    folder = Path(folder)
    if not is_file(folder / "study.json"):
        raise DataFormatError(f"{shown_path(folder)} holds no study (no study.json)")
    try:
        return _result(folder)
    except TracescribeError:
        raise
    except FileNotFoundError as problem:
        raise DataFormatError(
            f"{folder}: rates are not tuned yet ({problem.filename} is missing); run the study on"
        ) from problem
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as problem:
        raise DataFormatError(
            f"{folder}: a file of the study holds what no study writes ({type(problem).__name__}: {problem}); "
            "delete its runs, and they are made again"
        ) from problem


def _result(folder: Path) -> StudyResult:
    import pandas as pd

    config = StudyConfig.model_validate(read_record(folder / "study.json")["config"])
    rates = best_rates(config, folder)
    base = _scores(read_record(folder / "base.json"))
    runs, curves = [], []
    for arm, seed in ((arm, seed) for arm in config.arms for seed in range(config.seeds)):
        file = folder / "runs" / Run(arm, rates[arm], seed).file
        found = read_record(file) if file.exists() else {}
        if "test" not in found:  # a run that rates were tuned by is made again, with its scores on the test split
            continue
        key: dict[str, Any] = {"arm": arm, "seed": seed}
        told = found.get("update", {})
        update = {f"update_{name}": _finite(value, name) for name, value in told.items() if name != "size"}
        runs.append({**key, "rate": rates[arm], **_scores(found), **update, "diverged": bool(found.get("diverged"))})
        curves.append({**key, "share": 0.0, **_of(base)})
        curves.extend({**key, "share": float(at), **_of(of)} for at, of in found.get("interpolation", {}).items())
    if not runs:
        raise DataFormatError(f"{folder}: no run is finished yet; run the study on")
    return StudyResult(config, pd.DataFrame(runs), base, pd.DataFrame(curves))


def _of(scores: Mapping[str, Any], names: Sequence[str] = ("claims", "negated", *KEPT)) -> dict[str, float]:
    return {name: _finite(scores[name], name) for name in names}


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a record on the test split; NaN: R@5 of an older study, and what a run that diverged has not."""
    found = record["test"]
    needed = () if record.get("diverged") else tuple(name for name in SCORES if name != "r5")
    return {name: _finite(found[name], name) if name in found or name in needed else np.nan for name in SCORES}


def _finite(value: Any, name: str) -> float:
    if not is_number(value, least=-1e6, most=1e6):
        raise ValueError(f"{name} is {shown(value)}")
    return float(value)
