"""Reads any source of causal effects (trace, map, profile, excess, array) as one value per layer 0..L."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError
from ...io.quoting import shown
from ...validation import is_share, is_whole
from .arrays import real_array

Draws = Float[np.ndarray, "draw layer"]

AGGREGATES = ("sum", "max", "mean", "std", "differing", "pooled", "std_from_differing")
OF_TOKENS = AGGREGATES[4:]  # of certain tokens, which only a trace knows


@dataclass(frozen=True, eq=False)
class Profile:
    """CTE per layer 0..L with what is known about where it comes from; layer 0 is NaN at a site inside the blocks.

    n_pairs, n_texts: the pairs that entered, and how many distinct pairs of captions they have; None if not known.

    forced_last: the value that layer L has by construction (1 for a last-layer readout under "sum" and "max", 0 for a
    difference of two such traces), or None where no value is forced (several layers are read) or none is known.

    quantity: what a value is, as messages call it.
    """

    values: Float[np.ndarray, " layer"]
    aggregate: str
    draws: Draws | None = None
    n_pairs: int | None = None
    n_texts: int | None = None
    forced_last: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    quantity: str = "CTE"


def read_profile(source: Any, *, aggregate: str = "sum", ci: float | None = 0.95, seed: int = 0) -> Profile:
    """One value per layer from any supported source.

    Raises PrescriptionError for an unknown aggregate, a shape that is not [L+1] or [L+1, token], or another type.

    >>> read_profile([[1.0, 0.0], [0.6, 0.3], [0.0, 1.0]]).values
    array([1. , 0.9, 1. ])
    """
    if not isinstance(aggregate, str) or aggregate not in AGGREGATES:
        raise PrescriptionError(f"unknown aggregate {shown(aggregate)}; choose one of: {', '.join(AGGREGATES)}")
    if ci is not None and not is_share(ci):
        raise PrescriptionError(f"ci must lie between 0 and 1, such as 0.95, not {shown(ci)}")
    if not is_whole(seed):
        raise PrescriptionError(f"seed must be a whole number >= 0, not {shown(seed)}")
    from ...tracer import CausalTrace, Circuit, Excess, LayerProfile, TraceMap

    if isinstance(source, CausalTrace):
        profile = source.per_layer(aggregate=aggregate, ci=ci, seed=seed)
        return _from_layer_profile(profile, "trace", trace=dict(source.provenance))
    if isinstance(source, Excess):
        profile = source.per_layer(aggregate=aggregate, ci=ci, seed=seed)
        both = {"trace": dict(source.trace.provenance), "control": dict(source.control.provenance)}
        return _from_layer_profile(profile, "excess", forced_last=0.0, **both)
    if aggregate in OF_TOKENS and not (isinstance(source, LayerProfile) and source.aggregate == aggregate):
        raise PrescriptionError(f"aggregate {aggregate!r} needs the trace itself, not {type(source).__name__}")
    if isinstance(source, Circuit):
        return _from_circuit(source, aggregate)
    if isinstance(source, TraceMap):
        return _from_layer_profile(source.per_layer(aggregate=aggregate), "map")
    if isinstance(source, LayerProfile):
        if aggregate not in ("sum", source.aggregate):
            raise PrescriptionError(
                f"the profile is already aggregated by {source.aggregate!r} and cannot become {aggregate!r}; "
                "pass the trace or its map"
            )
        return _from_layer_profile(source, "profile")
    return _from_array(source, aggregate)


def _from_layer_profile(profile: Any, kind: str, *, forced_last: float | None = None, **about: Any) -> Profile:
    from ...tracer.results.tables import what_the_readout_reads

    values = np.asarray(profile.value, dtype=np.float64)
    layers = np.asarray(profile.layers)
    draws = None if profile.replicates is None else np.asarray(profile.replicates, dtype=np.float64)
    if np.array_equal(layers, np.arange(1, len(values) + 1)):  # a site inside the blocks: there is no layer 0
        values = np.concatenate([[np.nan], values])
        draws = None if draws is None else np.pad(draws, ((0, 0), (1, 0)), constant_values=np.nan)
    elif not np.array_equal(layers, np.arange(len(values))):
        raise PrescriptionError(f"the profile's layers are {layers.tolist()}; weights need all layers 0..L in order")
    elif forced_last is None:
        forced_last = 1.0 if profile.aggregate in ("sum", "max") else None
    if what_the_readout_reads(about.get("trace", {})) is not None:
        forced_last = None
    known = {"source": kind, "n_pairs": int(profile.n_pairs), "n_groups": int(profile.n_groups), **about}
    if profile.n_texts is not None:
        known["n_texts"] = int(profile.n_texts)
    n_pairs = int(profile.n_pairs) or None
    return Profile(values, profile.aggregate, draws, n_pairs, profile.n_texts, forced_last, known)


def _from_circuit(source: Any, aggregate: str) -> Profile:
    """What the circuit's cells add to its share, by layer; 0 for layers without a cell, or whose cells lessen it."""
    if aggregate != "sum":
        raise PrescriptionError(f"a circuit's cells are summed by layer: aggregate={aggregate!r} does not apply to it")
    values = np.maximum(source.by_layer(), 0.0)
    if int(source.provenance.get("first_layer", 0)) == 1:
        values[0] = np.nan
    about = {"source": "circuit", "share": source.share, "cells": len(source), "trace": dict(source.provenance)}
    return Profile(values, "sum", n_pairs=source.n_pairs, provenance=about)


def _from_array(source: Any, aggregate: str) -> Profile:
    expected = "an array [L+1] or [L+1, token] with the layers 0..L on its first axis"
    array = real_array(source, f"a CausalTrace, TraceMap, LayerProfile, Excess, or {expected}")
    if array.ndim not in (1, 2):
        raise PrescriptionError(f"cannot prescribe from an array of shape {array.shape}; pass {expected}")
    if array.shape[0] < 3:
        raise PrescriptionError(
            f"an array of shape {array.shape} holds {array.shape[0]} layer(s); pass {expected} (L at least 2)"
        )
    if array.ndim == 2 and array.shape[1] == 0:
        raise PrescriptionError(f"an array of shape {array.shape} has no token; pass {expected}")
    about = {"source": "array", "shape": list(array.shape)}
    if array.ndim == 1:
        # How the caller aggregated is unknown: a last value of exactly 1 still tells of a last-layer readout.
        return Profile(array, "given", forced_last=1.0, provenance=about)
    values = getattr(np, aggregate)(array, axis=1)
    return Profile(values, aggregate, forced_last=1.0 if aggregate in ("sum", "max") else None, provenance=about)
