"""Adapters, one file per model family: how a tower is built from the source model."""
