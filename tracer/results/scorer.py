"""Scores of one text pair's captions by any metric: matrix products with the candidates, a bounded part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ...errors import NonFiniteError, TraceError
from ...io.quoting import shown
from ..choices import Against
from .candidates import Candidates, Encode, Pool
from .metrics import METRICS, Metric

__all__ = ["Scorer", "check_metric", "make_scorer"]

SAME = 1e-5  # embeddings of length 1 this close are one: those of one text in two batches differ by some 1e-7 per entry
_CELLS = 2**22  # scores of candidates held at once, 32 MiB
_ALONE = 1e-3  # of the largest score: sums in another order differ by 1e-6 of it in float32


def check_metric(metric: str, candidates: Candidates | None, against: Against, logit_scale: float | None) -> None:
    """Refuse what has no meaning with a metric.

    Raises:
        TraceError: names the option.

    >>> check_metric("cosine", None, "target", None)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: against= has no meaning with metric='cosine': it belongs to margin, ...
    """
    found = METRICS[metric]
    among = ", ".join(one.name for one in METRICS.values() if one.takes == "candidates")
    scaled = " and ".join(one.name for one in METRICS.values() if one.scaled)
    given = {"candidates": candidates is not None, "against": against != "caption"}
    for name, is_given in given.items():
        if is_given and found.takes != "candidates":
            raise TraceError(f"{name}= has no meaning with metric={metric!r}: it belongs to {among}")
    if logit_scale is not None and not found.scaled:
        raise TraceError(f"logit_scale= has no meaning with metric={metric!r}: it belongs to {scaled}")
    if against == "target" and candidates is None:
        raise TraceError("against='target' needs candidates=: the targets that the pair's own competes with")


def make_scorer(
    metric: str,
    candidates: Candidates | None,
    against: Against,
    logit_scale: float | None,
    *,
    encode: Encode | None,
    ids: Sequence[str],
    width: int,
    captions: Sequence[str] | None,
    targets: Sequence[str] | None,
) -> Scorer:
    """What scores the pairs of these ids; candidates that are texts are encoded once.

    captions, targets: the pairs' correct captions, and their targets where these are texts.

    Raises:
        DataFormatError: candidates that do not fit the pairs or the model.
        TraceError: no logit scale is known.
    """
    found = METRICS[metric]
    pool = None if candidates is None else candidates.encoded(encode, ids, width)
    if found.scaled and (logit_scale is None or not np.isfinite(logit_scale) or logit_scale <= 0):
        raise TraceError(f"metric={metric!r} needs a logit scale above 0, not {shown(logit_scale)}: give logit_scale=")
    same = None if pool is None else pool.same_as(captions if against == "caption" else targets)
    return Scorer(found, pool, against, float(logit_scale) if found.scaled and logit_scale else None, same, tuple(ids))


@dataclass(frozen=True, eq=False)
class Scorer:
    """A metric with its candidates.

    pool: None: the caption competes with the pair's foil alone. same: by pair, the candidate that is its own correct
    caption, or its own target, by name; -1: none. It is left out, as are embeddings equal to it: the caption that is
    scored stands in its place.
    """

    metric: Metric
    pool: Pool | None
    against: Against
    scale: float | None
    same: Int[np.ndarray, "pair"] | None
    ids: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a trace records of it."""
        told: dict[str, Any] = {"name": self.metric.name}
        if self.metric.takes == "embeddings":
            function = self.metric.function
            where = (
                f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
            )
            told |= {"function": where, "unit": self.metric.unit}
        if self.metric.takes == "candidates":
            told["against"] = self.against
            told["candidates"] = None if self.pool is None else len(self.pool.rows)
        if self.pool is not None:
            told["per_pair"] = self.pool.of_pair is not None
            told["candidates_sha256"] = self.pool.sha256
        if self.scale is not None:
            told["logit_scale"] = self.scale
        return told

    def __call__(
        self,
        texts: Float32[np.ndarray, "row embed"],
        foil: int,
        targets: Float32[np.ndarray, "target embed"],
        cosines: Float[np.ndarray, "target row"],
        pairs: Int[np.ndarray, "target"],
    ) -> Float[np.ndarray, "target row"]:
        """Scores of every text with every target.

        texts: the correct caption's first. foil: the foil's row. pairs: the pair that each target belongs to.

        Raises:
            TraceError: a pair has no other candidate than itself; names it. A registered function returned something
                else than a number for each text, which depends on that text only.
            NonFiniteError: a registered function returned NaN or infinity.
        """
        if self.metric.takes == "cosine":
            return self.metric.function(cosines)
        if self.metric.takes == "embeddings":
            return self._by_function(texts, targets, pairs)
        scale = 1.0 if self.scale is None else self.scale
        if self.pool is None:
            return self.metric.function(cosines, cosines[:, [foil]], scale)
        out = np.empty_like(cosines)
        for kept, members in self._groups(texts[0], targets, pairs):
            rows = self.pool.rows[kept].T.astype(np.float64)
            sides = targets[members] if self.against == "caption" else texts
            step = max(1, _CELLS // len(kept))
            for at in range(0, len(sides), step):
                rivals = sides[at : at + step].astype(np.float64) @ rows
                if self.against == "caption":
                    some = members[at : at + step]
                    out[some] = self.metric.function(cosines[some], rivals, scale)
                else:
                    block = np.arange(at, min(at + step, len(sides)))
                    scores = self.metric.function(cosines[np.ix_(members, block)].T, rivals, scale)
                    out[np.ix_(members, block)] = scores.T
        return out

    def _groups(
        self, caption: Float32[np.ndarray, "embed"], targets: Float32[np.ndarray, "target embed"], pairs: np.ndarray
    ) -> Iterator[tuple[Int[np.ndarray, "kept"], Int[np.ndarray, "member"]]]:
        """Targets that compete with the same candidates, and these."""
        assert self.pool is not None
        shared = np.arange(len(self.pool.rows))
        owners = caption[None] if self.against == "caption" else targets
        equal = _equal(owners, self.pool.rows)
        groups: dict[bytes, tuple[np.ndarray, list[int]]] = {}
        for member, pair in enumerate(pairs.tolist()):
            listed = shared if self.pool.of_pair is None else self.pool.of_pair[pair]
            left_out = equal[0 if self.against == "caption" else member]
            same = -1 if self.same is None else self.same[pair]
            kept = listed if same < 0 and not left_out.any() else listed[~left_out[listed] & (listed != same)]
            if not len(kept):
                raise TraceError(
                    f"pair {shown(self.ids[pair])} has no candidate other than its own {self.against}: give some that "
                    f"differ from it"
                )
            key = b"" if kept is shared else kept.tobytes()
            groups.setdefault(key, (kept, []))[1].append(member)
        for kept, members in groups.values():
            yield kept, np.array(members)

    def _by_function(self, texts: np.ndarray, targets: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        rows, out = texts.astype(np.float64), np.empty((len(targets), len(texts)))
        for member, target in enumerate(targets.astype(np.float64)):
            out[member] = self._returned(rows, target, pairs[member])
        self._check_alone(rows, targets[0].astype(np.float64), pairs[0], out[0])
        return out

    def _returned(self, rows: np.ndarray, target: np.ndarray, pair: int) -> np.ndarray:
        """What a registered function returns for some texts, one number for each."""
        found = self.metric.function(rows.copy(), target.copy())
        scores = _numbers(found)
        if scores is None or scores.shape != (len(rows),):
            raise TraceError(
                f"metric {self.metric.name!r} returned {shown(found)} for {len(rows)} texts: it must return one number "
                f"per text"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(scores.astype(np.float32)).all():
                raise NonFiniteError(
                    f"metric {self.metric.name!r} returned NaN, infinity or more than float32 holds for pair "
                    f"{shown(self.ids[pair])}"
                )
        return scores

    def _check_alone(self, rows: np.ndarray, target: np.ndarray, pair: int, scores: np.ndarray) -> None:
        """Refuse a function whose scores depend on what else it is given: which texts those are is of no meaning."""
        alone = float(self._returned(rows[-1:], target, pair)[0])
        if abs(alone - scores[-1]) > _ALONE * max(np.abs(scores).max(), abs(alone)):
            raise TraceError(
                f"metric {self.metric.name!r} scores a text by what is beside it: {scores[-1]:.6g} among {len(rows)} "
                f"texts and {alone:.6g} alone, for pair {shown(self.ids[pair])}; it must score every text by itself"
            )


def _numbers(found: Any) -> np.ndarray | None:
    """An array of numbers, or None where something is none."""
    if hasattr(found, "detach"):
        found = found.detach().cpu()
        found = found.double() if found.is_floating_point() else found  # numpy has no bfloat16
        found = found.numpy()
    try:
        scores = np.asarray(found)
    except ValueError:  # lists of several lengths
        return None
    return scores if scores.dtype.kind in "fiub" else None


def _equal(
    owners: Float32[np.ndarray, "owner embed"], rows: Float32[np.ndarray, "candidate embed"]
) -> Bool[np.ndarray, "owner candidate"]:
    """Whether a candidate is an owner's own embedding; a cosine alone, exact to 1e-7, tells no distance below 4e-4."""
    found = owners @ rows.T > 1 - 1e-5
    for owner, row in np.argwhere(found).tolist():
        found[owner, row] = np.linalg.norm(owners[owner].astype(np.float64) - rows[row]) < SAME
    return found
