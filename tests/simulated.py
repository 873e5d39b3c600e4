"""Simulated traces whose truth is known: effects by layer that vary by cluster, text and pair around it."""

from __future__ import annotations

import numpy as np

import tracescribe as ts
from tracescribe.tracer import Scores

TRUTH = np.array([1.0, 0.85, 0.95, 0.7, 0.5, 0.4, 0.55, 1.0])  # CTE by layer; the ends are fixed, as in a real tower
SHARES = np.array([0.5, 0.3, 0.2])  # of the layer's CTE, by column
DESIGNS = {
    # name: clusters, texts (None: one per pair), pairs, spread of the effect by cluster, by text, by pair
    "independent": (None, None, 200, 0.0, 0.0, 0.3),
    "clustered": (40, None, 200, 0.3, 0.0, 0.3),
    "8 patients": (8, None, 40, 0.3, 0.0, 0.3),
    "14 texts": (103, 14, 580, 0.1, 0.3, 0.3),
    "14 texts that do not matter": (103, 14, 580, 0.0, 0.0, 0.3),
    "clusters and texts alike": (30, 30, 580, 0.3, 0.3, 0.3),
    "6 texts": (103, 6, 580, 0.1, 0.3, 0.3),
}


def noise(design: str, index: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """What varies around the truth by cluster, text and pair, [pair, layer, column]; nothing at layers 0 and L."""
    _, _, n, *spreads = DESIGNS[design]
    free = (np.arange(len(TRUTH)) % (len(TRUTH) - 1) > 0).astype(float)[:, None]
    numbers = (*index, np.arange(n))
    drawn = (
        spread * rng.normal(size=(n, len(TRUTH), len(SHARES)))[at] for spread, at in zip(spreads, numbers, strict=True)
    )
    return free * SHARES / np.linalg.norm(SHARES) * sum(drawn)  # so that the spread of their sum is that of the design


def simulated(
    design: str,
    rng: np.random.Generator,
    truth: np.ndarray = TRUTH,
    index: tuple[np.ndarray, np.ndarray] | None = None,
    around: np.ndarray | None = None,
) -> ts.CausalTrace:
    """A trace whose CTE varies around ``truth`` by cluster, text and pair.

    index: the cluster and text of every pair; None: drawn. around: what its pairs share with another trace's.
    """
    n_clusters, n_texts, n, *_ = DESIGNS[design]
    cluster = np.arange(n) if n_clusters is None else rng.integers(n_clusters, size=n)
    text = np.arange(n) if n_texts is None else rng.integers(n_texts, size=n)
    cluster, text = (cluster, text) if index is None else index
    spread = noise(design, (cluster, text), rng)
    cte = truth[:, None] * SHARES + (spread if around is None else (around + spread) / np.sqrt(2))
    margin = rng.uniform(0.02, 0.08, size=n)
    correct = 0.25 + rng.normal(0, 0.02, size=n)
    words = [("[SOT]", f"word{i}") for i in text.tolist()]
    return ts.CausalTrace(
        scores=Scores(
            correct=correct, foil=correct - margin, patched=correct[:, None, None] - margin[:, None, None] * cte
        ),
        tokens=tuple(words),
        foil_tokens=tuple((start, f"other {word}") for start, word in words),
        differs=np.tile([False, True], (n, 1)),
        kinds=np.tile(np.array([1, 2], dtype=np.int8), (n, 1)),
        text_pair=text,
        ids=tuple(f"pair{i}" for i in range(n)),
        groups=tuple(f"patient{i}" for i in cluster.tolist()),
        columns=("first", "second", "third"),
        captions=tuple(f"word{i}" for i in text.tolist()),
        named=np.ones(n, dtype=bool),
    )


def held(lo: np.ndarray | None, hi: np.ndarray | None, truth: np.ndarray) -> float:
    assert lo is not None and hi is not None
    return float(((lo <= truth + 1e-9) & (truth - 1e-9 <= hi)).mean())
