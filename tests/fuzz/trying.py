"""Runs a target with many drawn inputs, and counts how many of them were different."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.odd import told_apart

QUICK = 0.5
"""The share of a target's number that the quick tests draw; always the same inputs."""

SEEN: dict[str, set[bytes]] = {}
"""By target, what tells its inputs apart."""


def try_many(name: str, inputs: st.SearchStrategy[Any], call: Callable[[Any], None], number: int, times: float) -> None:
    """Call with ``number * times`` drawn inputs."""
    seen = SEEN.setdefault(name, set())
    quick = times == QUICK

    @settings(
        max_examples=max(1, round(number * times)),
        deadline=None,  # `guard.limited` stops what takes long
        derandomize=quick,
        database=None,
        phases=[Phase.generate] if quick else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def run(drawn: Any) -> None:
        seen.add(blake2b(told_apart(drawn), digest_size=12).digest())
        call(drawn)

    run()
