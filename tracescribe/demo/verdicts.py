"""The demo's conclusions: a table, and sentences chosen by differences relative to their noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..benchmark import Evaluation
    from ..benchmark.metrics import Interval
    from ..tracer import CausalTrace, TraceComparison
    from .result import DemoResult, Run

FOUR_AT_ONCE = 2.50 / 1.96  # Bonferroni: the normal quantile of 0.05 / 4 over that of 0.05, two-sided
# Points by which scores of equal runs differed where only the eighth digit of their inputs did: up to 8, measured
# between versions of this package. Two seeds that happen to agree do not make a smaller difference mean something.
ROUNDING = 8.0
COLUMNS = ("", "affirmative", "negated", "gap", "claims", "wrong film", "R@1", "top-3")
LEGEND = (
    "Percent, on films of patients that training never saw; mean over seeds, and half their range as ± where there are "
    "several. Affirmative, negated: multiple choice of four, the same items worded without and with negation. Gap: the "
    "difference of the two. Claims: one true claim among four. Wrong film: the same with another patient's film; "
    "this is what the texts alone give (chance is 25). R@1: affirmative caption retrieval among 32 (fewer in "
    "small data). Top-3: share of the weights' change in the three blocks of highest CTE. Another machine or version "
    "of torch adds in another order, and training enlarges such differences: scores then differ by up to 8 points, as "
    "between seeds. Only differences above the noise that the sentences state mean something."
)


@dataclass(frozen=True)
class Difference:
    """A difference between two ways of training, and what it must exceed to mean anything (both in points).

    noise: the largest of the spread between seeds on either side, the half-width of a score's bootstrap interval, and
    what rounding alone does to trained scores (`ROUNDING`).
    """

    value: float
    noise: float

    @property
    def sign(self) -> int:
        """-1, 0 or 1: clearly lower, not distinguishable, clearly higher."""
        return int(np.sign(self.value)) if abs(self.value) > self.noise else 0  # 0 also where the noise is unknown

    def __str__(self) -> str:
        return f"{self.value:+.1f} (noise {self.noise:.1f})".replace("-", "−")


Metric = Callable[["Evaluation"], "Interval | None"]
METRICS: dict[str, Metric] = {
    "affirmative": lambda scores: scores.affirmative,
    "negated": lambda scores: scores.negated,
    "gap": lambda scores: scores.gap,
    "claims": lambda scores: scores.claims,
    "retrieval": lambda scores: scores.retrieval,
}


def difference(of: Sequence[Evaluation], to: Sequence[Evaluation], metric: str) -> Difference:
    """Mean of ``of`` minus mean of ``to`` (one evaluation a seed), with its noise."""
    first, second = (_intervals(group, metric) for group in (of, to))
    values = [[score.value for score in group] for group in (first, second)]
    widths = [(score.hi - score.lo) / 2 for score in (*first, *second)]
    noise = max(ROUNDING, float(np.mean(widths)), *(max(group) - min(group) for group in values))
    return Difference(float(np.mean(values[0]) - np.mean(values[1])), noise)


def table_rows(result: DemoResult) -> list[list[str]]:
    """The demo's table, one row a way of training, under `COLUMNS`."""
    rows = [["before", *_scores([result.before]), ""]]
    for name in dict.fromkeys(run.name for run in result.runs):
        runs = result.of(name)
        rows.append([label(name), *_scores([run.scores for run in runs]), _mean_and_range([run.top3 for run in runs])])
    return rows


def label(name: str) -> str:
    """A row's name with what it is."""
    told = {
        "uniform": "uniform LoRA",
        "NAST": "CTE-weighted updates",
        "permuted": "same weights, wrong layers",
        "gradient scaling": "CTE-scaled gradients",
    }
    return told.get(name, name)


def sentences(result: DemoResult) -> list[str]:
    """What helped and what did not, each sentence chosen by the numbers."""
    uniform, nast, permuted = ([run.scores for run in result.of(name)] for name in ("uniform", "NAST", "permuted"))
    return [
        _says_gap(result.before, uniform),
        _says_cost(result.before, uniform),
        _says_prior(result.before, uniform),
        _says_comparison("Weighting the updates by CTE", nast, "uniform training", uniform),
        _says_comparison("Choosing the layers by CTE", nast, "the same weights on the wrong layers", permuted),
        _says_gradient(result),
        _says_directions(result),
        _says_trace(result),
    ]


def scores_as_dict(result: DemoResult) -> dict[str, Any]:
    """The demo's numbers for machines."""
    return {
        "before": result.before.to_dict(),
        "runs": [
            {
                "name": run.name,
                "weighting": run.weighting,
                "seed": run.seed,
                "top3_update_share": run.top3,
                "seconds": run.seconds,
                "scores": run.scores.to_dict(),
            }
            for run in result.runs
        ],
        "alpha": result.plan.alpha.tolist(),
        "profile": result.trace.per_layer(ci=None).value.tolist(),
        "profile_after": result.after.per_layer(ci=None).value.tolist(),
        "excess": result.excess.per_layer(ci=None).value.tolist(),
        "verdicts": sentences(result),
    }


def _says_gap(before: Evaluation, uniform: Sequence[Evaluation]) -> str:
    change, negated = (difference(uniform, [before], metric) for metric in ("gap", "negated"))
    gap = f"{_mean([before], 'gap'):.1f} to {_mean(uniform, 'gap'):.1f} points"
    accuracy = f"negated accuracy {_mean([before], 'negated'):.1f} to {_mean(uniform, 'negated'):.1f} %"
    if change.sign < 0 and negated.sign > 0:
        return f"Fine-tuning on contrast sets closes the negation gap from {gap} ({accuracy})."
    if change.sign < 0:
        return f"Fine-tuning shrinks the gap from {gap}, but not by understanding negation better ({accuracy})."
    if change.sign > 0:
        return f"Fine-tuning on contrast sets widens the negation gap: {gap} ({accuracy})."
    return f"Fine-tuning on contrast sets does not move the negation gap beyond the noise: {gap}, {change}."


def _says_cost(before: Evaluation, uniform: Sequence[Evaluation]) -> str:
    names = {"affirmative": "affirmative accuracy", "retrieval": "affirmative R@1"}
    changes = {key: difference(uniform, [before], key) for key in names}
    told = {key: f"{name} {_mean([before], key):.1f} to {_mean(uniform, key):.1f} %" for key, name in names.items()}
    lost = [told[key] for key, change in changes.items() if change.sign < 0]
    if lost:
        return f"It has a price, so the smaller gap alone proves little: {', '.join(lost)}."
    return f"It has no price that this test set can show: {', '.join(told.values())}."


def _says_prior(before: Evaluation, uniform: Sequence[Evaluation]) -> str:
    gain = difference(uniform, [before], "claims")
    wrong = [float(np.mean([_wrong_film(scores) for scores in group])) for group in ([before], uniform)]
    gained = (
        f"Claim accuracy goes from {_mean([before], 'claims'):.1f} to {_mean(uniform, 'claims'):.1f} %, and with "
        f"another patient's film from {wrong[0]:.1f} to {wrong[1]:.1f} %"
    )
    if wrong[1] - wrong[0] > gain.noise:
        return f"{gained}: that part of the gain comes from the texts alone, not from sight."
    return f"{gained}: the gain does not come from the texts alone." if gain.sign > 0 else f"{gained}."


@dataclass(frozen=True)
class Comparison:
    """One way of training against another, by four scores of which higher is better.

    Not by the gap, which shrinks when affirmative accuracy is lost. One of four differences passes its 95 % noise by
    chance in a fifth of all comparisons: theirs is widened for it.
    """

    changes: dict[str, Difference]

    @property
    def better(self) -> list[str]:
        """The scores that are clearly higher."""
        return [name for name, change in self.changes.items() if change.sign > 0]

    @property
    def worse(self) -> list[str]:
        """The scores that are clearly lower."""
        return [name for name, change in self.changes.items() if change.sign < 0]

    @property
    def short(self) -> str:
        """The result in a few words, for a tile."""
        parts = [
            f"{word} {' and '.join(names)}" for word, names in (("better", self.better), ("worse", self.worse)) if names
        ]
        return "; ".join(parts) or "no difference above the noise"


def compare(of: Sequence[Evaluation], to: Sequence[Evaluation]) -> Comparison:
    """``of`` against ``to``, one evaluation per seed."""
    names = {"negated": "negated", "claims": "claims", "affirmative": "affirmative", "retrieval": "R@1"}
    found = {name: difference(of, to, metric) for metric, name in names.items()}
    return Comparison({name: Difference(one.value, one.noise * FOUR_AT_ONCE) for name, one in found.items()})


def gap_with_noise(group: Sequence[Evaluation]) -> str:
    """The mean gap with its noise, as a tile shows it; a dash where there is none."""
    found = _intervals(group, "gap")
    if not found:
        return "–"
    spread = max(score.value for score in found) - min(score.value for score in found)
    noise = max(float(np.mean([(score.hi - score.lo) / 2 for score in found])), spread)
    return f"{_mean(group, 'gap'):.0f} ± {noise:.0f} pp"


def _says_comparison(what: str, of: Sequence[Evaluation], than: str, to: Sequence[Evaluation]) -> str:
    found = compare(of, to)
    numbers = ", ".join(f"{name} {change}" for name, change in found.changes.items())
    better, worse = found.better, found.worse
    if better and worse:
        return f"{what} trades {' and '.join(worse)} for {' and '.join(better)} against {than}: {numbers}."
    if better or worse:
        return (
            f"{what} {'beats' if better else 'does worse than'} {than} in {' and '.join(better or worse)}: {numbers}."
        )
    return f"{what} cannot be told from {than} here: {numbers}."


def _says_gradient(result: DemoResult) -> str:
    share = {name: _top3(result.of(name)) for name in ("uniform", "NAST", "gradient scaling")}
    moved, wanted = share["gradient scaling"] - share["uniform"], share["NAST"] - share["uniform"]
    numbers = (
        f"the three layers of highest CTE get {share['uniform']:.1f} % of the change in uniform training, "
        f"{share['gradient scaling']:.1f} % with scaled gradients, {share['NAST']:.1f} % with scaled updates"
    )
    if abs(moved) < 0.5 * abs(wanted):
        return f"Scaling gradients, as the method is published, is mostly undone by AdamW: {numbers}."
    return f"Scaling gradients moves the change between layers about as scaling updates does: {numbers}."


def directions(result: DemoResult) -> dict[str, CausalTrace]:
    """The negation pairs by which caption says "no"; a side without pairs is left out."""
    return {
        which: result.trace.select([index for index, side in enumerate(result.negated) if side == which])
        for which in ("correct", "foil")
        if which in result.negated
    }


def _says_directions(result: DemoResult) -> str:
    peaks = {which: _peak(trace.per_layer(ci=None).value) for which, trace in directions(result).items()}
    if len(peaks) < 2:
        return "The data hold one direction of negation only, so that the plan may depend on it."
    told = f"layer {peaks['correct']} where the correct caption says no, layer {peaks['foil']} where the foil does"
    if abs(peaks["correct"] - peaks["foil"]) <= 1:
        return f"Both directions of negation point at the same layers: CTE peaks at {told}."
    return f"The plan mixes two directions that disagree: CTE peaks at {told}."


def _peak(profile: np.ndarray) -> int:
    """The layer of highest CTE between the first and the last, whose values are fixed by construction."""
    return 1 + int(profile[1:-1].argmax())


def _says_trace(result: DemoResult) -> str:
    peaks = [_peak(trace.per_layer(ci=None).value) for trace in (result.trace, result.after)]
    where = f"stays at layer {peaks[0]}" if peaks[0] == peaks[1] else f"moves from layer {peaks[0]} to {peaks[1]}"
    inverted = [100 * float(trace.share_inverted) for trace in (result.trace, result.after)]
    return (
        f"Traced again after weighted training, the peak of CTE between the first and the last layer {where}"
        f"{_says_changes(result.retraced)}, and the share of pairs whose foil scores at least as high as the correct "
        f"caption goes from {inverted[0]:.0f} to {inverted[1]:.0f} %."
    )


def _says_changes(compared: TraceComparison) -> str:
    profile = compared.profile
    if not profile.tested.any():
        return ""
    differ, free = int((profile.q[profile.tested] < 0.05).sum()), int(profile.tested.sum())
    at = int(np.argmax(np.where(profile.tested, np.abs(profile.difference), -1)))
    return (
        f", {differ} of {free} layers differ on the {compared.n_pairs[0]} pairs that both models get right (q < 0.05; "
        f"most: layer {compared.layers[at]} by {profile.difference[at]:+.2f} [{profile.lo[at]:+.2f}, "
        f"{profile.hi[at]:+.2f}])"
    )


def _intervals(group: Sequence[Evaluation], metric: str) -> list[Interval]:
    found = [METRICS[metric](scores) for scores in group]
    return [score for score in found if score is not None]


def _mean(group: Sequence[Evaluation], metric: str) -> float:
    return float(np.mean([score.value for score in _intervals(group, metric)]))


def _wrong_film(scores: Evaluation) -> float:
    value = scores.baselines["shuffled_image"].claims
    return float("nan") if value is None else value


def _top3(runs: Sequence[Run]) -> float:
    return float(np.mean([run.top3 for run in runs]))


def _scores(group: Sequence[Evaluation]) -> list[str]:
    listed = [[score.value for score in _intervals(group, metric)] for metric in METRICS]
    listed.insert(4, [_wrong_film(scores) for scores in group])
    return [_mean_and_range(values) for values in listed]


def _mean_and_range(values: Sequence[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{np.mean(values):.1f}" + (f" ±{spread:.1f}" if len(values) > 1 else "")
