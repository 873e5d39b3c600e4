"""What a trace is scored by, as options; imports what reads them, and numpy, when a value is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import TraceError
from ...io.quoting import shown
from ..choices import METRIC_NAMES

if TYPE_CHECKING:
    from .candidates import Candidates

__all__ = ["CandidateList", "MetricName"]


@dataclass(frozen=True)
class MetricName:
    """The name of a metric, or a registered function, as an option."""

    metavar = "|".join(METRIC_NAMES)

    def read(self, value: Any) -> str:
        """The name; a function that has none is refused."""
        from .metrics import METRICS

        if isinstance(value, str) and value in METRICS:
            return value
        for metric in METRICS.values():
            if value is metric.function:
                return metric.name
        if callable(value):
            raise TraceError(
                f"metric={shown(value)} has no name that a trace could record: call "
                f'tracescribe.tracer.register_metric("name", function) first'
            )
        raise ValueError

    def __str__(self) -> str:
        from .metrics import METRICS

        return f"one of {', '.join(map(repr, METRICS))} or a registered function"


@dataclass(frozen=True)
class CandidateList:
    """Candidates as an option: texts, embeddings, lists of either by pair, a mapping of pairs' ids, or a file."""

    metavar = "FILE"

    def read(self, value: Any) -> Candidates:
        """The candidates, checked; raises DataFormatError with a sentence where they cannot be used."""
        from .candidates import given_candidates

        return given_candidates(value)

    def __str__(self) -> str:
        return "a list of texts, an array of embeddings, a list of either per pair, or a .txt or .jsonl file"
