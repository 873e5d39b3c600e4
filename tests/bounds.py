"""How far two ways to compute one result may differ, derived from how far their scores may.

Numbers of another processor, or with another number of threads, come from sums in another order. So no bound on CTE is
a number: it follows from the bound on the scores it is made of.
"""

from __future__ import annotations

import numpy as np

import tracescribe as ts

# On trained adapters and losses, in float64. Two orders of summation move a gradient by about 1e-15 of its largest
# terms. Adam divides by sqrt(v) + 1e-8, so that where a gradient is near 0 the difference may grow by 1e8 and a step by
# 1e-7 of the rate: 4e-9 in 8 steps of 5e-3. In float32 (1e-7) such a step could differ by all of itself: training has
# no bound there, and tests that compare it run in float64. About 1e-15 is found.
TRAINED = 1e-8

# On a cosine: float32 and other orders of summation over at most 4 blocks give about 1e-6.
S_ERROR = 2e-5


def cte_error(trace: ts.CausalTrace, score_error: float = S_ERROR) -> np.ndarray:
    """The most by which each CTE may differ if every score differs by at most ``score_error``; [pair, layer, column].

    CTE = (S_corr - S) / d with d = S_corr - S_foil: its numerator and d move by 2 score_error each, so that it moves by
    at most 2 score_error (1 + |CTE|) / (|d| - 2 score_error).
    """
    denominator = np.abs(trace.denominator)[:, None, None]
    assert (denominator > 10 * score_error).all(), "the scores of a pair are too close for CTE to mean anything"
    return 2 * score_error * (1 + np.abs(trace.cte)) / (denominator - 2 * score_error)


def assert_same_cte(found: np.ndarray | float, trace: ts.CausalTrace, at: object = ...) -> None:
    """``found`` is ``trace.cte[at]``, up to the rounding of the scores; NaN where that is."""
    expected = trace.cte[at]  # type: ignore[index]
    found = np.broadcast_to(found, expected.shape)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    excess = np.abs(found - expected) - cte_error(trace)[at]  # type: ignore[index]
    assert not (excess > 0).any(), (
        f"CTE differs by {np.nanmax(np.abs(found - expected)):.1e}, {np.nanmax(excess):.1e} too much"
    )
