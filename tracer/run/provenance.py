"""What a trace says of itself beside its options: the model, the pairs, the versions and the time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..pairs.batch import PairBatch
from ..pairs.targets import Targets

if TYPE_CHECKING:
    from ...patching import DualEncoder, Tower

__all__ = ["model_provenance", "trace_provenance"]

_TEXT_TOWER = ("causal", "pooling", "n_layers", "n_heads", "d_model", "readout_layers")


def trace_provenance(model: DualEncoder, batch: PairBatch, targets: Targets) -> dict[str, Any]:
    """The record of a trace of caption pairs."""
    groups = None if batch.groups == batch.ids else batch.groups
    captions = json.dumps([batch.captions, batch.ids, groups]).encode() + batch.caption_pair.astype("<i8").tobytes()
    pairs = hashlib.sha256(captions + targets.sha256()).hexdigest()
    return model_provenance(model, model.text, _TEXT_TOWER, pairs)


def model_provenance(
    model: DualEncoder, tower: Tower, facts: Sequence[str], pairs_sha256: str, **further: Any
) -> dict[str, Any]:
    """The record of a trace by one tower of a model. facts: the names of the tower's attributes to record."""
    values = {name: getattr(tower, name) for name in facts}
    return {
        "model": model.name,
        "weights_sha256": tower.fingerprint(),
        "pairs_sha256": pairs_sha256,
        "tower": {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
        "logit_scale": model.logit_scale,
        "versions": dict(_versions()),
        # the convention of reproducible builds: with it, equal runs write equal files
        "created": datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), UTC).isoformat(
            timespec="seconds"
        ),
        **further,
    }


@cache
def _versions() -> dict[str, str]:
    """Read once: looking them up takes longer than tracing a small model."""
    return {name: version(name) for name in ("tracescribe", "torch", "nnsight", "numpy")}
