"""Puts a trace together from its pairs, its options and what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import DegenerateTraceError
from ..pairs.batch import PairBatch
from ..pairs.descriptions import descriptions
from ..results.causal_trace import CausalTrace
from .options import TraceOptions

__all__ = ["assembled"]


def assembled(
    batch: PairBatch, options: TraceOptions, floor: float, provenance: dict[str, Any], **measured: Any
) -> CausalTrace:
    """The trace of these pairs.

    floor: where the options name none. provenance: what is recorded beside the options. measured: scores, embeddings
        and columns, as :class:`CausalTrace` has them.

    Raises:
        DegenerateTraceError: no pair reaches the floor.
    """
    from ...patching import site_named

    site = site_named(options.site)
    floor = floor if options.floor is None else options.floor
    recorded = {**options.recorded(), "floor": floor, "first_layer": site.first_layer, "site": site.name}
    result = CausalTrace(
        tokens=batch.tokens,
        foil_tokens=batch.foil_tokens,
        differs=batch.differs,
        kinds=batch.kinds,
        text_pair=batch.text_pair,
        ids=batch.ids,
        groups=batch.groups,
        provenance=recorded | provenance | {"tf32": False},
        noising=batch.noising if options.direction == "negated->affirmative" else None,
        **descriptions(batch.pairs),
        **measured,
    )
    if not result.valid.any():
        raise DegenerateTraceError(
            f"none of the {len(batch.pairs)} pairs can be traced: the largest |S_corr - S_foil| ({options.metric}) is "
            f"{np.abs(result.denominator).max():.1e}, below the floor {floor:g}, so that the image does not "
            f"tell the two captions apart; use other images or pairs, or lower floor="
        )
    return result
