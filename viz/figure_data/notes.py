"""Notes of figures, in phrases: pairs, captions, site, heads, positions, method, model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...token_strings import JOIN
from ...tracer.results.agreement import Agreement
from ...tracer.results.causal_trace import CausalTrace
from ...tracer.results.maps import Excess, LayerProfile, TraceMap
from ...tracer.results.profiles import pairs_used
from ...tracer.results.tables import in_directions, replaced_by, told_metric
from .labels import plural, shorten

__all__ = [
    "band",
    "captions",
    "map_notes",
    "model_suffix",
    "reduced",
    "resampled",
    "settings",
    "shared_settings",
    "trace_notes",
    "unit",
]

_ARROWS = {
    "foil->correct": "foil → correct",
    "correct->foil": "correct → foil",
    "negated->affirmative": "negated → affirmative",
}
_SITES = {
    "resid": "residual stream",
    "resid_pre": "residual stream before the block",
    "resid_mid": "residual stream after attention",
    "resid_post": "residual stream after the block",
    "attn": "attention output",
    "mlp": "MLP output",
    "neurons": "MLP neurons",
    "z": "attention heads (z)",
    "q": "queries",
    "k": "keys",
    "v": "values",
    "pattern": "attention pattern",
    "edges": "attention edges",
}
_BY_HEAD = ("z", "q", "k", "v", "pattern", "edges")


def trace_notes(source: CausalTrace | Excess, segment: str | None) -> tuple[str, ...]:
    """Which pairs entered, and how they were traced."""
    if isinstance(source, Excess):
        control = f"minus a control of {plural(source.control.n_pairs, 'pair')}"
        return (*trace_notes(source.trace, segment), control)
    texts = len(np.unique(source.text_pair))
    used, name = pairs_used(source, segment, warn=False)  # the map or profile beside says it
    size = plural(source.n_pairs, "pair") + (f" ({plural(texts, 'text')})" if texts != source.n_pairs else "")
    notes = [size]
    if len(used) < source.n_pairs:
        notes.append(f"{len(used):,} of them used ({name.replace('<=', '≤')})")
    notes.append(f"S_corr ≤ S_foil in {source.share_inverted:.0%}")
    invalid = int((~source.valid).sum())
    if invalid:
        notes.append(f"{invalid:,} below the floor of {source.floor:g}")
    return (*notes, *settings(source))


def map_notes(cells: TraceMap | LayerProfile) -> tuple[str, ...]:
    """What a map or a profile that stands alone tells of itself."""
    pairs = (plural(cells.n_pairs, "pair"),) if cells.n_pairs else ()
    return (*pairs, reduced(cells)) if isinstance(cells, TraceMap) else pairs


def reduced(cells: TraceMap) -> str:
    """How pairs became one map, and which pairs."""
    segment = "" if cells.segment == "all" else f", pairs: {cells.segment}"
    aligned = {"role": "", "position": ", rows: token positions", "quantmeyer": ", rows: Quantmeyer's"}
    return cells.reduce.replace("_", " ") + aligned.get(cells.align, "") + segment.replace("<=", "≤")


def settings(trace: CausalTrace) -> tuple[str, ...]:
    """Direction, site, heads, positions, window, alignment and method; defaults that change nothing are left out."""
    about = trace.provenance
    site = str(about.get("site") or "resid")
    phrases = [_ARROWS[trace.direction], _SITES.get(site, site), *_heads(site, about.get("heads"))]
    positions = about.get("positions")
    if positions not in (None, "each"):
        shown = positions if isinstance(positions, str) else ", ".join(map(str, np.atleast_1d(positions).tolist()))
        phrases.append(f"tokens together: {shown}" if isinstance(positions, str) else f"tokens {shown} together")
    window = about.get("window", 1)
    if window > 1:
        phrases.append(f"windows of {window} layers")
    if about.get("aligned"):
        phrases.append(f"captions of unequal length, aligned ({about['aligned']})")
    if about.get("replace") not in (None, "foil"):
        phrases.append(replaced_by(about))
    if about.get("directions"):
        phrases.append(in_directions(about))
    return (*phrases, *told_metric(about), *_method(trace))


def shared_settings(sources: Sequence[Any]) -> tuple[str, ...]:
    """The settings that all traces have in common; none where one of the sources is no trace."""
    traces = [source.trace if isinstance(source, Excess) else source for source in sources]
    found = [settings(trace) for trace in traces if isinstance(trace, CausalTrace)]
    if len(found) < len(traces):
        return ()
    return tuple(phrase for phrase in found[0] if all(phrase in other for other in found))


def _heads(site: str, heads: Any) -> list[str]:
    if heads is None or heads == "each":
        return ["all heads together"] if heads is None and site in _BY_HEAD else []
    numbers = np.atleast_1d(heads).tolist()
    return [f"head {numbers[0]}" if len(numbers) == 1 else f"heads {', '.join(map(str, numbers))}"]


def _method(trace: CausalTrace) -> list[str]:
    method = trace.provenance.get("method", "exact")
    if method == "attribution":
        agreement = trace.provenance.get("agreement")
        steps = trace.provenance.get("steps") or 1
        said = f"attribution (first order, {plural(steps, 'step')})"
        return [said] + ([f"{Agreement(**agreement)}"] if agreement else ["not compared with exact maps"])
    if method == "direct":
        through = ", later MLPs recomputed" if trace.provenance.get("through_mlps") else ""
        return [f"direct effect on the readout{through}"]
    return [] if method == "exact" else [f"method: {method}"]


def captions(trace: CausalTrace, i: int, special: np.ndarray) -> tuple[str, str]:
    """Both captions of a pair, as the trace keeps them, else put together from its tokens."""
    sides = []
    for kept, tokens in ((trace.captions, trace.tokens), (trace.foil_captions, trace.foil_tokens)):
        sides.append(shorten(caption_text(tokens[i], special) if kept is None else kept[i], 120))
    return sides[0], sides[1]


def caption_text(tokens: tuple[str, ...], special: np.ndarray) -> str:
    """A caption put together from its tokens, as far as these tell.

    >>> caption_text(("[SOT]", "no", "no·", "·dule", ".", "[EOT]"), np.array([1, 0, 0, 0, 0, 1], dtype=bool))
    'no nodule.'
    """
    text = ""
    for token, skip in zip(tokens, special, strict=True):
        if skip or not token:
            continue
        joined = (token.startswith(JOIN) and len(token) > 1) or token in tuple(".,;:!?")
        text += token.removeprefix(JOIN) if text.endswith(JOIN) else token if joined or not text else f" {token}"
    return text.replace(JOIN, "") if len(text) > 1 else text


def unit(trace: CausalTrace) -> str:
    """What the columns are."""
    if trace.columns is None:
        return "tokens"
    return "heads" if all(name.startswith("head ") for name in trace.columns) else "columns"


def band(curve: LayerProfile) -> tuple[str, ...]:
    """What the band around a curve is; nothing without one."""
    if curve.lo is None or curve.ci is None:
        return ()
    return (f"band: {curve.ci:.0%} bootstrap interval{resampled([curve])}",)


def resampled(curves: Sequence[LayerProfile]) -> str:
    """What the bootstrap of these curves resampled, where it is the same for all."""
    over = []
    for noun, counts in (
        ("group", {curve.n_groups for curve in curves}),
        ("text", {curve.n_texts for curve in curves}),
    ):
        count = counts.pop() if len(counts) == 1 else None
        over += [plural(count, noun)] if count else []
    return f" over {' and '.join(over)}" if over else ""


def model_suffix(source: Any) -> str:
    """The model's name, to end a title with."""
    trace = source.trace if isinstance(source, Excess) else source
    name = trace.provenance.get("model") if isinstance(trace, CausalTrace) else None
    return f" — {shorten(str(name), 60)}" if name else ""
