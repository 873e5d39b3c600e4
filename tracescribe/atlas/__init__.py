"""The atlas: layer profiles of many models over the same caption pairs, on one axis of relative depth."""

from .config import AtlasConfig, ModelSpec, SetSpec, read_atlas_config
from .result import Atlas, read_atlas
from .run import run_atlas

__all__ = ["Atlas", "AtlasConfig", "ModelSpec", "SetSpec", "read_atlas", "read_atlas_config", "run_atlas"]
