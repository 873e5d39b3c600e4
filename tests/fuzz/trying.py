"""Runs a target with many drawn inputs, and counts how many of them were different."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.odd import told_apart

TIMES = int(os.environ.get("TRACESCRIBE_FUZZ", "1"))
"""How many times as many inputs are drawn as in the quick tests; they are other ones at each run, if not 1."""

SEEN: dict[str, set[bytes]] = {}
"""By target, what tells its inputs apart."""


def try_many(name: str, inputs: st.SearchStrategy[Any], call: Callable[[Any], None], number: int, times: int) -> None:
    """Call with ``number * times`` drawn inputs."""
    seen = SEEN.setdefault(name, set())

    @settings(
        max_examples=number * times,
        deadline=None,  # `guard.limited` stops what takes long
        derandomize=times == 1,
        database=None,
        phases=[Phase.generate] if times == 1 else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def run(drawn: Any) -> None:
        seen.add(blake2b(told_apart(drawn), digest_size=12).digest())
        call(drawn)

    run()
