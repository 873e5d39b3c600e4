"""Checks what can be drawn, and selects the pair."""

from __future__ import annotations

import difflib

import numpy as np

from ...errors import FigureError
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from .labels import quoted

__all__ = ["Profiled", "Source", "pair_number"]

Source = CausalTrace | TraceMap | Excess
Profiled = CausalTrace | TraceMap | Excess | LayerProfile


def pair_number(trace: CausalTrace, pair: int | str) -> int:
    """Position of a pair that is given by its number or its id.

    Raises:
        FigureError: there is no such pair, or several have that id.
    """
    if isinstance(pair, str):
        found = [i for i, name in enumerate(trace.ids) if name == pair]
        if len(found) == 1:
            return found[0]
        if found:
            raise FigureError(
                f"{len(found)} pairs are called {quoted(pair)}: choose one by its number, e.g. pair={found[0]}"
            )
        close = difflib.get_close_matches(pair[:200], trace.ids, n=1)
        hint = f"; did you mean {quoted(close[0])}?" if close else f"; the first is {quoted(trace.ids[0])}"
        raise FigureError(f"no pair is called {quoted(pair)}{hint}")
    if isinstance(pair, bool) or not isinstance(pair, int | np.integer):
        raise FigureError(f"pair={quoted(pair)}: choose a pair by its number or by its id")
    if not 0 <= pair < trace.n_pairs:
        raise FigureError(f"there is no pair {pair}: they are numbered 0 to {trace.n_pairs - 1}")
    return int(pair)
