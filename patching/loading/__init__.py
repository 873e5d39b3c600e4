"""From a model's name to a verified dual encoder: hubs, local folders, checkpoint files, medical models by name."""

from .names import load

__all__ = ["load"]
