"""Published causal tracing maps, to redraw and to compare with."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np

from ..tracer.results.maps import TraceMap

__all__ = ["published_maps"]

_NAMES = {
    "negation in the foil": "foil_correct",
    "negation in the caption": "caption_correct",
    "negation in the foil, model wrong": "foil_incorrect",
}


def published_maps(*, wrong: bool = False) -> dict[str, TraceMap]:
    """CTE of CLIP ViT-B/32 (openai) on VALSE existence by where the negation stands, over pairs the model gets right.

    8 token rows by layers 0 to 12. The negated sentence's states are put into the affirmative one.

    wrong: also the map over the pairs that the model gets wrong.

    Source: Quantmeyer, Mosteiro, Gatt 2024, "How and where does CLIP process negation?" (arXiv 2407.10488), the result
    arrays released with the paper.

    >>> {name: cells.n_pairs for name, cells in published_maps().items()}
    {'negation in the foil': 81, 'negation in the caption': 72}
    """
    data = json.loads(files("tracescribe.viz.data").joinpath("quantmeyer_2024.json").read_text(encoding="utf-8"))
    found = {}
    for name, key in _NAMES.items():
        if wrong or "wrong" not in name:
            values, n = np.array(data["maps"][key]["cte"]).T, int(data["maps"][key]["pairs"])
            counts = np.full(values.shape[1], n)
            layers = np.arange(len(values))
            segment = "incorrect" if "wrong" in name else "correct"
            found[name] = TraceMap(
                values, tuple(data["rows"]), layers, counts, align="quantmeyer", segment=segment, n_pairs=n
            )
    return found
