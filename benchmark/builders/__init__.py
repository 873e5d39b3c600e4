"""Data sets made from labels: multiple choice (MedNega-CXR's form), contextual claims and captions, tracing pairs.

Facts come from any reader of labels (:mod:`tracescribe.benchmark.readers`). Every set of options is asked of as many
images as it has options, each with another right answer, so that a text without its image scores at chance.
"""

from .contextual import caption_items, contextual_items
from .folder import build_contextual, build_mednega, read_facts, write_pairs
from .mednega import mednega_items
from .pairs import pair_items

__all__ = [
    "build_contextual",
    "build_mednega",
    "caption_items",
    "contextual_items",
    "mednega_items",
    "pair_items",
    "read_facts",
    "write_pairs",
]
