"""What computed a run: versions of the packages and of Python."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("tracescribe", "torch", "peft", "accelerate", "transformers", "open_clip_torch", "numpy")


def environment() -> dict[str, str]:
    """Versions of what computed a run, and the machine's kind."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        **{name: version(name) for name in PACKAGES},
    }
