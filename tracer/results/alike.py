"""Whether two traces measure the same quantity, so that their difference is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        ours, theirs = (trace.provenance.get(key) for trace in (one, two))
        if ours != theirs and None not in (ours, theirs):
            raise TraceError(f"{what} differ in their {name} ({shown(ours)} and {shown(theirs)}): trace both alike")
    if one.metric != two.metric:
        raise TraceError(f"{what} differ in their metric ({one.metric.name} and {two.metric.name}): score both alike")
