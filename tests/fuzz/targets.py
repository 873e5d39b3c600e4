"""Every target that is called with odd arguments."""

from __future__ import annotations

from functools import cache

from fuzz.analyses import analyses, pages
from fuzz.options import Target, functions
from fuzz.works import readers, works


@cache
def targets() -> dict[str, Target]:
    """By a name for the test: the package's name and the function's."""
    return {**functions(), **analyses(), **pages(), **works(), **readers()}
