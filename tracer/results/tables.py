"""A causal trace as a pandas table and as one line of text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ...io.quoting import plural
from ..pairs.roles import TokenKind, assign_rows
from .agreement import Agreement
from .profiles import pairs_used

if TYPE_CHECKING:
    import pandas as pd

    from .causal_trace import CausalTrace

_SAID = {
    "correct": "captions",
    "foil": "foil_captions",
    "attribute": "attributes",
    "template": "templates",
    "negated": "negated",
}

__all__ = ["in_directions", "replaced_by", "told_metric", "trace_frame", "trace_summary", "what_the_readout_reads"]


def trace_frame(trace: CausalTrace) -> pd.DataFrame:
    """One line per (pair, layer, token inside the pair); ``cte`` is NaN for pairs that are not valid.

    Pairs that enter a map by default (``used``) come first, then valid ones, then the others. ``cte`` is ``effect``
    over ``denominator``, S_corr - S_foil: read a large value beside its denominator. Where the trace's last axis is not
    the tokens, ``column`` names it instead of the columns about tokens.
    """
    import pandas as pd

    used = np.zeros(trace.n_pairs, dtype=bool)
    if trace.valid.any():
        used[pairs_used(trace, None, warn=False)[0]] = True
    order = np.lexsort((np.arange(trace.n_pairs), ~trace.valid, ~used))
    inside = np.broadcast_to(trace.inside[order][:, None, :], trace.scores.patched.shape)
    place, at, token = np.nonzero(inside)
    pair = order[place]
    about = _about_columns(trace, token) if trace.columns is not None else _about_tokens(trace, pair, token)
    said = {
        column: np.array(getattr(trace, name), dtype=object)[pair]
        for column, name in _SAID.items()
        if getattr(trace, name) is not None
    }
    return pd.DataFrame(
        {
            "pair": pair,
            "id": np.array(trace.ids, dtype=object)[pair],
            "group": np.array(trace.groups, dtype=object)[pair],
            **said,
            "layer": trace.layers[at],
            **about,
            "score": trace.scores.patched[pair, at, token],
            "s_correct": trace.scores.correct[pair],
            "s_foil": trace.scores.foil[pair],
            "effect": trace.effect()[pair, at, token],
            "denominator": trace.denominator[pair],
            "cte": trace.cte[pair, at, token],
            "valid": trace.valid[pair],
            "used": used[pair],
            "segment": trace.segment[pair],
        }
    )


def _about_columns(trace: CausalTrace, column: Int[np.ndarray, "line"]) -> dict[str, np.ndarray]:
    assert trace.columns is not None
    return {"column": np.array(trace.columns, dtype=object)[column]}


def _about_tokens(
    trace: CausalTrace, pair: Int[np.ndarray, "line"], token: Int[np.ndarray, "line"]
) -> dict[str, np.ndarray]:
    roles = assign_rows("role", trace.kinds, trace.differs, trace.tokens, trace.ids)
    width = trace.kinds.shape[1]
    padded = np.array([words + ("",) * (width - len(words)) for words in trace.tokens], dtype=object)
    padded_foil = np.array([words + ("",) * (width - len(words)) for words in trace.foil_tokens], dtype=object)
    return {
        "token": token,
        "text": padded[pair, token],
        "foil_text": padded_foil[pair, token],
        "kind": np.array([kind.name.lower() for kind in TokenKind], dtype=object)[trace.kinds[pair, token]],
        "role": np.array(roles.labels, dtype=object)[roles.index[pair, token]],
        "differs": trace.differs[pair, token],
    }


def trace_summary(trace: CausalTrace) -> str:
    """What to know before a number: what was replaced where, for which captions, and which pairs enter a map."""
    n_texts = len(np.unique(trace.text_pair))
    invalid = int((~trace.valid).sum())
    segments = trace.segment
    split = ", ".join(f"{int((segments == name).sum())} {name}" for name in ("correct", "ambiguous", "incorrect"))
    agreement = trace.provenance.get("agreement")
    measured = f"; {Agreement(**agreement)}" if agreement else ""
    read = what_the_readout_reads(trace.provenance)
    return (
        f"{plural(trace.n_pairs, 'pair')} ({plural(n_texts, 'text')}{_example(trace)}), "
        f"{trace.n_layers} layers; {invalid} invalid (|S_corr - S_foil| < {trace.floor:g}); {_entered(trace)}"
        f"S_corr <= S_foil in {trace.share_inverted:.0%}; {split}; "
        + ", ".join(_settings(trace))
        + measured
        + ("" if read is None else f". {read}")
    )


def _settings(trace: CausalTrace) -> list[str]:
    """What decides the meaning of a value, where it is not the default."""
    told = trace.provenance
    said = [str(told[key]) for key in ("model", "site") if key in told]
    for option in ("heads", "positions"):
        if told.get(option) not in (None, "each"):
            said.append(f"{option} {told[option]}")
    if told.get("window") not in (None, 1):
        said.append(f"windows of {told['window']} layers")
    if told.get("aligned"):
        said.append(f"aligned ({told['aligned']} positions)")
    if told.get("replace") not in (None, "foil"):
        said.append(replaced_by(told))
    said += told_metric(told)
    if told.get("directions"):
        said.append(in_directions(told))
    method = told.get("method", "exact")
    steps = f", {told['steps']} steps" if (told.get("steps") or 1) > 1 else ""
    said += [] if method == "exact" else [f"method {method}{steps}"]
    return [*said, trace.direction]


def told_metric(provenance: Mapping[str, Any]) -> list[str]:
    """What S is, where it is not the cosine.

    >>> told_metric({"metric": {"name": "rank", "candidates": 1000, "against": "caption"}}), told_metric({})
    (['S: rank among 1,000 candidates'], [])
    >>> told_metric({"metric": {"name": "probability", "candidates": None, "against": "caption"}})
    ['S: probability against the foil']
    """
    told = provenance.get("metric") or {"name": "cosine"}
    if told["name"] == "cosine":
        return []
    among = ""
    if "against" in told:
        kind = "targets" if told["against"] == "target" else "candidates"
        among = f" among {told['candidates']:,} {kind}" if told.get("candidates") else " against the foil"
    return [f"S: {str(told['name']).replace('_', ' ')}{among}"]


def _example(trace: CausalTrace) -> str:
    """The first pair's captions."""
    if trace.captions is None:
        return ""
    sides = [trace.captions[0], *([] if trace.foil_captions is None else [trace.foil_captions[0]])]
    return ": " + " / ".join(repr(textwrap.shorten(side, 60, placeholder=" ...")) for side in sides if side)


def _entered(trace: CausalTrace) -> str:
    if not trace.valid.any():
        return ""
    used, name = pairs_used(trace, None, warn=False)
    return f"{len(used)} enter maps ({name}); "


def in_directions(told: Mapping[str, Any]) -> str:
    """How many directions of the state a trace replaces.

    >>> in_directions({"directions": {"count": 3}})
    'in the span of 3 given directions only'
    """
    return f"in the span of {told['directions'].get('count')} given directions only"


def replaced_by(told: Mapping[str, Any]) -> str:
    """What a trace puts in, where it is not the other caption's states.

    >>> replaced_by({"replace": "cut", "queries": "[end]"})
    "attention cut from tokens [end] to the column's"
    >>> replaced_by({"replace": "resample", "donors": 3, "pool": {"captions": 28}})
    "replaced by resample ablation (3 of the pool's 28 captions per pair)"
    """
    if told["replace"] == "cut":
        queries = told.get("queries")
        return f"attention cut from {'all tokens' if queries in (None, 'all') else f'tokens {queries}'} to the column's"
    pool = told.get("pool")
    size = f"the pool's {pool['captions']} captions" if isinstance(pool, Mapping) and "captions" in pool else "a pool"
    drawn = f"{told.get('donors') or 1} of " if told["replace"] == "resample" else ""
    per = " per pair" if drawn else ""
    return f"replaced by {told['replace']} ablation" + ("" if told["replace"] == "zero" else f" ({drawn}{size}{per})")


def what_the_readout_reads(provenance: Mapping[str, Any]) -> str | None:
    """What a reader of CTE must know of a tower whose embedding averages the states of several layers; else None.

    >>> what_the_readout_reads({"tower": {"n_layers": 12, "readout_layers": [1, 2, 12]}})
    'The embedding averages the states of layers 1, 2, 12: a patch reaches 3 of these 3 up to layer 1 and only 1 ...
    >>> what_the_readout_reads({"tower": {"n_layers": 12, "readout_layers": [12]}}) is None
    True
    """
    tower = provenance.get("tower", {})
    layers, last = list(tower.get("readout_layers", [])), tower.get("n_layers")
    if layers in ([], [last]):
        return None
    n = len(layers)
    return (
        f"The embedding averages the states of layers {', '.join(map(str, layers))}: a patch reaches {n} of these {n} "
        f"up to layer {layers[0]} and only 1 at layer {layers[-1]}, so that CTE of the layers read early is inflated "
        f"and CTE({layers[-1]}) is not 1"
    )
