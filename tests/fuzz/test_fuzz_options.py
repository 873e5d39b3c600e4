"""Odd arguments of every public function and options object."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import warnings
from pathlib import Path

import pytest

import tracescribe as ts
from fuzz.guard import Case
from fuzz.options import Target, prepare
from fuzz.surface import GROUPS, public
from fuzz.targets import targets
from fuzz.trying import QUICK, try_many
from tracescribe.errors import TracescribeError


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_every_public_function_and_class_is_tried_or_in_a_list_that_says_why_not() -> None:
    """Whatever is exported later must become a target, or be put into one of the lists of surface.py."""
    tried = {".".join(name.partition(" ")[0].split(".")[:2]) for name in targets()}
    everything = list(public())
    unlisted = [sorted(names) for names in everything if not names & tried.union(*GROUPS)]
    assert unlisted == []
    twice = [sorted(names) for names in everything if sum(bool(names & group) for group in (tried, *GROUPS)) > 1]
    assert twice == []
    assert set().union(*GROUPS) <= set().union(*everything), "a name that is exported no longer"


@pytest.mark.parametrize("name", targets())
def test_odd_arguments(case: Case, name: str) -> None:
    try_target(case, name, targets()[name], QUICK)


def try_target(case: Case, name: str, target: Target, times: float) -> None:
    prepare(case.inside)
    target.prepare(case.inside)
    there = set(case.inside.iterdir())
    with warnings.catch_warnings(), contextlib.suppress(TracescribeError):
        warnings.simplefilter("ignore")
        target.run({})  # whatever is lazy is loaded here
    clear(case.inside, there)

    def call(drawn: dict[str, object]) -> None:
        case.attempt(lambda: target.run(drawn), reads_only=not target.writes)
        if target.writes:
            clear(case.inside, there)

    try_many(name, target.inputs, call, target.quick, times if times == QUICK else times / target.slowdown)


def clear(folder: Path, kept: set[Path]) -> None:
    """Remove what a call wrote."""
    for path in set(folder.iterdir()) - kept:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_switch_is_true_or_false_and_nothing_else() -> None:
    """Any text is true: `overwrite="no"` would replace a result, and `trust_remote_code="no"` run a stranger's code."""
    tried = set()
    for target in [*targets().values(), Target(ts.load, {"name": "phantom"})]:
        for switch in inspect.signature(target.call).parameters.values():
            if switch.annotation == "bool" and not inspect.isclass(target.call):
                tried.add(switch.name)
                for given in ("no", "", 1, None):
                    with pytest.raises(TracescribeError, match=f"{switch.name} must be True or False, not "):
                        target.run({switch.name: given})
    assert tried >= {"overwrite", "trust_remote_code", "outside_images", "resume", "keep_going", "strict", "progress"}
