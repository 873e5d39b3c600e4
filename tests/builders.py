"""Builders of synthetic results, so that tests of statistics, figures and training need no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import tracescribe as ts

PROFILE = np.array([1.0, 0.9, 1.1, 1.0, 0.8, 1.0])  # of a tower with five blocks
NOUNS = ("edema", "effusion", "nodule", "device")


def synthetic_trace(
    n_pairs: int = 12,
    n_layers: int = 8,
    *,
    n_subject: int = 1,
    n_texts: int = 4,
    seed: int = 0,
    share_inverted: float = 0.25,
    share_invalid: float = 0.0,
    vary_length: bool = False,
    with_embeddings: bool = False,
    embed_dim: int = 16,
    direction: str = "foil->correct",
    groups: tuple[str, ...] | None = None,
    **provenance: Any,
) -> ts.CausalTrace:
    """A trace of "There is no NOUN ..." against "There is severe NOUN ..." that looks like a causal EOT tower's.

    The effect moves from the differing token (layer 0) to [EOT] (layer L); cells before the difference are exactly 0,
    layer 0 and layer L are as FACTS' invariants say. n_subject: subject tokens per pair (vary_length: one more in
    every second pair). With embeddings, the scores are cosines of random unit vectors instead, so that rescoring can
    be checked; they still keep the exact zeros and ones.
    """
    rng = np.random.default_rng(seed)
    n_texts = min(n_texts, n_pairs)
    text_pair = np.arange(n_pairs) % n_texts
    lengths = np.array([6 + n_subject + (vary_length and text % 2) for text in range(n_texts)])
    width = int(lengths.max())
    kinds = np.zeros((n_texts, width), dtype=np.int8)
    differs = np.zeros((n_texts, width), dtype=bool)
    correct, foil = [], []
    for text, length in enumerate(lengths):
        noun = NOUNS[text % len(NOUNS)] + (str(text) if text >= len(NOUNS) else "")
        subject = [noun, *(f"more{i}" for i in range(1, length - 6))]
        correct.append(("[SOT]", "there", "is", "no", *subject, ".", "[EOT]"))
        foil.append(("[SOT]", "there", "is", "severe", *subject, ".", "[EOT]"))
        kinds[text, :length] = [1, *[2] * (length - 3), 3, 4]
        differs[text, 3] = True

    if with_embeddings:
        embeddings, correct_e, foil_e = _random_embeddings(rng, lengths, n_layers, width, embed_dim)
        images = rng.normal(size=(n_pairs, embed_dim))
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        s_correct = np.einsum("pe,pe->p", correct_e[text_pair].astype(np.float64), images)
        s_foil = np.einsum("pe,pe->p", foil_e[text_pair].astype(np.float64), images)
        patched = np.einsum("plte,pe->plt", embeddings[text_pair].astype(np.float64), images)
        patched[np.broadcast_to((kinds == 0)[text_pair][:, None, :], patched.shape)] = np.nan
        provenance = {"image_embeddings": images.tolist(), **provenance}
    else:
        embeddings = correct_e = foil_e = None
        margin = rng.uniform(0.02, 0.08, size=n_pairs)
        margin[rng.permutation(n_pairs)[: round(share_inverted * n_pairs)]] *= -1
        margin[rng.permutation(n_pairs)[: round(share_invalid * n_pairs)]] = 1e-4
        s_correct = 0.25 + rng.normal(0, 0.02, size=n_pairs)
        s_foil = s_correct - margin
        cte = np.full((n_pairs, n_layers + 1, width), np.nan)
        for pair in range(n_pairs):
            cte[pair, :, : lengths[text_pair[pair]]] = _causal_cte(rng, n_layers, lengths[text_pair[pair]])
        shift = margin[:, None, None] * cte
        patched = s_foil[:, None, None] + shift if direction == "correct->foil" else s_correct[:, None, None] - shift
    ids = tuple(f"pair{i}" for i in range(n_pairs))
    return ts.CausalTrace(
        scores=ts.tracer.Scores(correct=s_correct, foil=s_foil, patched=patched),
        tokens=tuple(correct[text] for text in text_pair),
        foil_tokens=tuple(foil[text] for text in text_pair),
        differs=differs[text_pair],
        kinds=kinds[text_pair],
        text_pair=text_pair,
        ids=ids,
        groups=ids if groups is None else groups,
        provenance={
            "model": "synthetic",
            "site": "resid",
            "direction": direction,
            "method": "exact",
            "floor": 0.01,
            "seed": seed,
            "tower": {"causal": True, "pooling": "eos", "n_layers": n_layers, "readout_layers": [n_layers]},
            **provenance,
        },
        embeddings=embeddings,
        correct_embeddings=correct_e,
        foil_embeddings=foil_e,
    )


def synthetic_neurons(n_pairs: int = 6, **changes: Any) -> ts.tracer.Neurons:
    """Five neurons of 3 layers × 2 rows × 4, the last one drawn at random; the first pair has no token of "before"."""
    rng = np.random.default_rng(0)
    denominator = rng.uniform(0.02, 0.08, n_pairs)
    row = ("[end]", "before", "[end]", "[end]", "before")
    cte = np.array([0.3, -0.2, 0.15, 0.1, 0.01])
    effects = cte[:, None] * denominator * rng.uniform(0.5, 1.5, (5, n_pairs))
    effects[[name == "before" for name in row], 0] = np.nan
    given: dict[str, Any] = {
        "layer": np.array([1, 2, 1, 3, 2]),
        "row": row,
        "neuron": np.array([3, 0, 1, 2, 2]),
        "estimate": cte * 1.1,
        "chosen": np.array([True, True, True, True, False]),
        "effects": effects,
        "together": 0.3 * denominator,
        "denominator": denominator,
        "clusters": np.arange(n_pairs),
        "texts": np.arange(n_pairs) % 3,
        "rows": ("before", "[end]"),
        "n_cells": 24,
        "n_layers": 3,
        "n_neurons": 4,
        "segment": "correct",
        "provenance": {"model": "synthetic", "site": "neurons"},
    }
    return ts.tracer.Neurons(**given | changes)


def synthetic_head_edges(n_pairs: int = 6, **changes: Any) -> ts.tracer.HeadEdges:
    """Edges of 3 layers × 2 heads."""
    rng = np.random.default_rng(0)
    denominator = rng.uniform(0.02, 0.08, n_pairs)
    effects = denominator[:, None, None, None, None] * rng.normal(0, 0.2, (n_pairs, 3, 2, 3, 2))
    effects.transpose(0, 2, 4, 1, 3)[..., np.arange(3)[:, None] >= np.arange(3)] = np.nan
    given: dict[str, Any] = {
        "effects": effects,
        "denominator": denominator,
        "clusters": np.arange(n_pairs),
        "texts": np.arange(n_pairs) % 3,
        "inputs": "qk",
        "segment": "correct",
        "provenance": {"model": "synthetic", "site": "z"},
    }
    return ts.tracer.HeadEdges(**given | changes)


def synthetic_knock_out(**changes: Any) -> ts.tracer.KnockOut:
    """Two rows of queries; their traces have other pairs."""
    about = {"site": "edges", "replace": "cut", "first_layer": 1}
    traces = {
        query: synthetic_trace(n_pairs, 3, seed=seed, queries=query, **about)
        for seed, (query, n_pairs) in enumerate({"first differing": 4, "[end]": 6}.items())
    }
    return ts.tracer.KnockOut(**{"traces": traces} | changes)


def synthetic_negator_attention(n_pairs: int = 6, **changes: Any) -> ts.tracer.NegatorAttention:
    """3 layers × 2 heads, of which 2.1 selects the negator."""
    rng = np.random.default_rng(0)
    shape = (n_pairs, 3, 2)
    affirmative = rng.uniform(0, 0.2, shape).astype(np.float32)
    negated = rng.uniform(0.3, 0.5, shape).astype(np.float32)
    negated[:, 1, 1] += 0.4
    given: dict[str, Any] = {
        "selectivity": negated - affirmative / 2,
        "negated": negated,
        "affirmative": affirmative,
        "negators": (("no", "severe"), *(("no", "mild"),) * (n_pairs - 1)),
        "ids": tuple(map(str, range(n_pairs))),
        "groups": tuple(str(number // 2) for number in range(n_pairs)),
        "texts": np.arange(n_pairs),
        "ci": 0.95,
        "lo": np.full((3, 2), 0.1),
        "hi": np.full((3, 2), 0.9),
        "provenance": {"model": "synthetic"},
    }
    return ts.tracer.NegatorAttention(**given | changes)


def arrays(value: Any, place: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array that a result holds, by where it is."""
    if isinstance(value, np.ndarray):
        yield place, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from arrays(getattr(value, entry.name), f"{place}.{entry.name}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from arrays(inner, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from arrays(inner, f"{place}[{number}]")


def _causal_cte(rng: np.random.Generator, n_layers: int, length: int) -> np.ndarray:
    """CTE [layer, token] of one pair whose token 3 differs and whose readout is the last token."""
    depth = np.linspace(0, 1, n_layers + 1)
    cte = np.zeros((n_layers + 1, length))
    cte[:, 3] = (1 - depth) ** 1.5
    cte[:, length - 1] = depth**2
    between = slice(4, length - 1)
    bump = 4 * depth * (1 - depth)
    cte[:, between] = bump[:, None] * rng.uniform(0.05, 0.25, size=length - 5)
    cte[1:-1, 3:] += rng.normal(0, 0.03, size=(n_layers - 1, length - 3))
    return cte


def _random_embeddings(
    rng: np.random.Generator, lengths: np.ndarray, n_layers: int, width: int, embed_dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors [text, layer, token, embed] and both captions'; with a causal tower's exact zeros and ones."""

    def unit(*shape: int) -> np.ndarray:
        vectors = rng.normal(size=shape)
        return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)

    embeddings = unit(len(lengths), n_layers + 1, width, embed_dim)
    correct, foil = unit(len(lengths), embed_dim), unit(len(lengths), embed_dim)
    for text, length in enumerate(lengths):
        embeddings[text, :, :3] = correct[text]
        embeddings[text, 0, 3:length] = correct[text]
        embeddings[text, 0, 3] = foil[text]
        embeddings[text, -1, 3:length] = correct[text]
        embeddings[text, -1, length - 1] = foil[text]
        embeddings[text, :, length:] = np.nan
    return embeddings, correct, foil


def profile_with_draws(draws: np.ndarray, **options: Any) -> ts.LayerProfile:
    """The profile whose bootstrap replicates are ``draws`` [draw, layer]."""
    from tracescribe.tracer import LayerProfile

    settings = {"aggregate": "sum", "ci": 0.95, "n_pairs": 100, "n_groups": 100, **options}
    return LayerProfile.from_replicates(draws.mean(axis=0), draws, **settings)
