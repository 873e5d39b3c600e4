"""Provenance of a caption trace: the model, the pairs, the versions and the time."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ...io.provenance import provenance
from ..pairs.batch import PairBatch
from ..pairs.targets import Targets

if TYPE_CHECKING:
    from ...patching import DualEncoder

__all__ = ["trace_provenance"]

_TOWER = ("causal", "pooling", "n_layers", "n_heads", "d_model", "readout_layers")


def trace_provenance(model: DualEncoder, batch: PairBatch, targets: Targets | None) -> dict[str, Any]:
    """The record of a trace, without its options; targets: None where captions alone are measured.

    Raises:
        OptionError: SOURCE_DATE_EPOCH is set and is no time.
    """
    groups = None if batch.groups == batch.ids else batch.groups
    captions = json.dumps([batch.captions, batch.ids, groups]).encode() + batch.caption_pair.astype("<i8").tobytes()
    scored = b"" if targets is None else targets.sha256()
    return provenance(
        model=model.name,
        weights_sha256=model.text.fingerprint(),
        tower=model.text,
        facts=_TOWER,
        pairs_sha256=hashlib.sha256(captions + scored).hexdigest(),
        logit_scale=model.stated_logit_scale,
    )
