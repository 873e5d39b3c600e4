"""Whether two traces measure the same quantity, so that their difference is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import TraceError
from ...io.quoting import shown

if TYPE_CHECKING:
    from .causal_trace import CausalTrace

__all__ = ["check_alike"]

_SETTINGS = {
    "site": "site",
    "direction": "direction",
    "method": "method",
    "replace": "replacement",
    "directions": "directions",
    "positions": "positions",
    "heads": "heads",
    "queries": "queries",
    "through_mlps": "through_mlps",
    "aligned": "position_policy",
    "window": "window",
    "modality": "modality",
}


def check_alike(one: CausalTrace, two: CausalTrace, what: str, *, same_weights: bool = False) -> None:
    """Refuse two traces that were made in different ways; a setting that one of them does not tell is let pass.

    what: how the message calls them. same_weights: the weights of the model must be equal, too.

    Raises:
        TraceError: naming the setting, and both its values.
    """
    settings = _SETTINGS | ({"weights_sha256": "model's weights"} if same_weights else {})
    for key, name in settings.items():
        ours, theirs = (_told(trace, key) for trace in (one, two))
        if ours != theirs and None not in (ours, theirs):
            raise TraceError(f"{what} differ in their {name} ({shown(ours)} and {shown(theirs)}): trace both alike")
    if one.metric != two.metric:
        raise TraceError(f"{what} differ in their metric ({one.metric.name} and {two.metric.name}): score both alike")
    ours, theirs = _competition(one), _competition(two)
    if ours != theirs and None not in (ours, theirs):
        raise TraceError(f"{what} differ in what S is among ({ours} and {theirs}): score both alike")
    scales = [(trace.provenance.get("metric") or {}).get("logit_scale") for trace in (one, two)]
    weights = [trace.provenance.get("weights_sha256") for trace in (one, two)]
    if scales[0] != scales[1] and weights[0] == weights[1] is not None and None not in scales:
        raise TraceError(
            f"{what} are of one model and differ in their logit_scale ({scales[0]:g} and {scales[1]:g}): score both "
            f"alike"
        )


def _told(trace: CausalTrace, key: str) -> Any:
    """A setting as the provenance has it; None: it does not tell, or has the setting no meaning for its kind."""
    told = trace.provenance
    heads = told.get("heads")
    if key == "positions" and key in told and told[key] is None:  # the default, see run.columns.select_columns
        return "all" if heads == "each" or isinstance(heads, list) else "each"
    if key == "heads" and key in told and heads is None:
        return "all together"
    return told.get(key)


def _competition(trace: CausalTrace) -> str | None:
    """What a score among candidates is among; None where S has none, or the trace does not tell.

    How many candidates there are is a part of the score only where all pairs share them.
    """
    told: Any = trace.provenance.get("metric") or {}
    if trace.metric.takes != "candidates" or "candidates" not in told:
        return None
    if told["candidates"] is None:
        return "the pair's foil alone"
    number = "each pair's" if told.get("per_pair") else told["candidates"]
    return f"{number} {'targets' if told.get('against') == 'target' else 'captions'}"
