"""Where and how hidden states are replaced: towers, hook points, the patching engine.

loading/ finds a source model, adapters/ read it into towers/ (the readable model), a dual encoder holds a text tower
and an image encoder. engine/ runs the patches of a sweep (sites) over a tower; resume/ makes that fast. Every forward
pass runs under one state of torch (torch_state).
"""

if not __name__.startswith("tracescribe."):
    raise ImportError(
        f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe"
    )

from .adapters.base import Adapter
from .adapters.registry import lora_targets, register, text_blocks
from .engine.alignment import Alignment, PositionPolicy, align_rows
from .engine.direct import DirectEngine
from .engine.engine import Direction, PatchedBatch, PatchedEmbeddings, PatchingEngine, PatchPath
from .engine.given import GivenStates
from .engine.gradients import AttributionEngine, FirstOrder
from .engine.head_edges import HeadEdgeEmbeddings, HeadEdgeEngine
from .engine.joint import JointEmbeddings, JointEngine
from .engine.knockout import KnockOutEngine
from .engine.neurons import NeuronAttribution
from .engine.patterns import attention_patterns
from .loading import load
from .loading.dual_encoder import DualEncoder, wrap
from .loading.image_encoder import ImageEncoder
from .loading.images import ImageCrop, open_image, read_image
from .loading.verification import verify
from .sites import Column, Site, Sweep, each_position, site_named
from .towers.hooks import HookPoint
from .towers.image_tower import ImageTower
from .towers.spec import TowerSpec
from .towers.text_tower import TextTower
from .towers.tokenizers import TextTokenizer
from .towers.tower import Tower

__all__ = [
    "Adapter",
    "Alignment",
    "AttributionEngine",
    "Column",
    "DirectEngine",
    "Direction",
    "DualEncoder",
    "FirstOrder",
    "GivenStates",
    "HeadEdgeEmbeddings",
    "HeadEdgeEngine",
    "HookPoint",
    "ImageCrop",
    "ImageEncoder",
    "ImageTower",
    "JointEmbeddings",
    "JointEngine",
    "KnockOutEngine",
    "NeuronAttribution",
    "PatchPath",
    "PatchedBatch",
    "PatchedEmbeddings",
    "PatchingEngine",
    "PositionPolicy",
    "Site",
    "Sweep",
    "TextTokenizer",
    "TextTower",
    "Tower",
    "TowerSpec",
    "align_rows",
    "attention_patterns",
    "each_position",
    "load",
    "lora_targets",
    "open_image",
    "read_image",
    "register",
    "site_named",
    "text_blocks",
    "verify",
    "wrap",
]
