"""Runs what the explorer shows: the trace of one pair, layer by layer, or that of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from ...errors import NonFiniteError
from ...tracer.pairs.pairs import Pair
from ...tracer.pairs.targets import encode_targets
from .background import Ticket
from .targets import Target

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from ...tracer import CausalTrace
    from ...tracer.run.options import TraceOptions

__all__ = ["Query", "Result", "score_captions", "trace_pair", "trace_pairs"]

BATCH = 8  # text pairs of a data set that run together: between two batches a trace can be stopped
QUICK = 1.5e9  # multiplications of a map that takes less than about 0.1 s on one core: it is run in one go
SHOW_EVERY = 0.05  # seconds

ShowCells = Callable[[Float[np.ndarray, "layer column"]], None]


@dataclass(frozen=True)
class Query:
    """What one trace is of. options: of the trace; the explorer changes direction, site and alignment."""

    correct: str
    foil: str
    target: Target
    options: TraceOptions

    def pair(self, model: DualEncoder) -> Pair:
        """The pair that is traced. An image is embedded once for each model."""
        return Pair(correct=self.correct, foil=self.foil, image=self.target.of(model), id="explored")


@dataclass(frozen=True, eq=False)
class Result:
    """The traces of one pair by the names of the models.

    candidates: the correct caption, the foil and further captions. scores: theirs, by model. number: in the history.
    """

    number: int
    query: Query
    traces: dict[str, CausalTrace]
    candidates: tuple[str, ...]
    scores: dict[str, tuple[float, ...]]
    seconds: float = 0.0


def score_captions(model: DualEncoder, query: Query, captions: Sequence[str]) -> tuple[float, ...]:
    """Cosine similarity of each caption with the target.

    Raises:
        NonFiniteError: an embedding holds NaN or infinity.
    """
    embeddings = model.encode_texts(list(captions)).float().cpu().numpy().astype(np.float64)
    if not np.isfinite(embeddings).all():
        raise NonFiniteError("the embedding of a caption is NaN or infinite: check the text tower's weights")
    row = query.target.embedding(model)
    unit = encode_targets(model, [row], ["explored"]).rows[0].astype(np.float64)  # refuses one of another width
    return tuple((embeddings @ unit).tolist())


def trace_pair(
    model: DualEncoder, query: Query, scores: Sequence[float], ticket: Ticket, show: ShowCells
) -> CausalTrace:
    """The trace of one pair; ``show`` is called with CTE as far as it is known, where it takes long enough to see.

    CTE by another score than cosine is shown when it is finished.

    Where it is run in one go, the numbers are those of :func:`tracescribe.trace` to the last bit; in groups of layers,
    they agree with them to float32 rounding.

    scores: of the correct caption and the foil.

    Raises:
        Stopped: the result is not wanted any more.
        As :func:`tracescribe.trace`.
    """
    from ...tracer.run.trace import run_trace

    pair = query.pair(model)
    ticket.check()
    watch: Any = None
    if query.options.metric == "cosine" and _multiplications(model, pair) > QUICK:
        correct, foil = scores[:2]
        base = correct if query.options.direction == "foil->correct" else foil
        shown = 0.0

        def watch(number: int, patched: Float32[np.ndarray, "layer column"]) -> None:
            nonlocal shown
            ticket.check()
            now = time.monotonic()
            if now - shown >= SHOW_EVERY and correct != foil:
                shown = now
                sign = 1.0 if base == correct else -1.0
                show(sign * (base - patched.astype(np.float64)) / (correct - foil))

    trace = run_trace(model, [pair], query.options, False, watch)
    ticket.check()
    return trace


def _multiplications(model: DualEncoder, pair: Pair) -> float:
    """About how many a map takes: every patched sequence through the blocks behind its layer."""
    text = model.text
    length = len(text.rows([pair.correct])[0])
    rows = length**2 / 2 if text.causal else length**2
    blocks = text.n_layers**2 / 2 if text.resumable else text.n_layers**2
    return rows * blocks * 12 * text.d_model**2


def trace_pairs(
    model: DualEncoder,
    pairs: Sequence[Pair],
    options: TraceOptions,
    ticket: Ticket,
    progress: Callable[[int, int], Any],
) -> CausalTrace:
    """The trace of a data set; ``progress`` is called with finished and all text pairs.

    Raises:
        Stopped: the result is not wanted any more.
        As :func:`tracescribe.trace`.
    """
    from ...tracer.run.trace import run_trace

    def advance(done: int, total: int) -> None:
        ticket.check()
        progress(done, total)

    return run_trace(model, pairs, replace(options, batch_size=BATCH), advance)
