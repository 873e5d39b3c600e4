"""Readers of published data sets: one family of formats per file, behind one registry.

`read` recognises a format by its content and yields the records of :mod:`tracescribe.benchmark.records`.
"""

from .dataset import Dataset, read
from .registry import Reader, formats, register

__all__ = ["Dataset", "Reader", "formats", "read", "register"]
