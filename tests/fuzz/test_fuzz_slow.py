"""All fuzz targets with 100,000 inputs, which are other ones at each run.

FUZZ_ONLY=viz.,"command study" in the environment tries only targets whose names hold one of these words.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fuzz import commands, files, folders
from fuzz.guard import Case
from fuzz.targets import targets as called
from fuzz.test_fuzz_commands import try_command
from fuzz.test_fuzz_files import try_file
from fuzz.test_fuzz_folders import try_folder
from fuzz.test_fuzz_options import try_target
from fuzz.trying import SEEN

TIMES = 50
WANTED = 100_000


def targets() -> dict[str, Callable[[Case], None]]:
    """Every target of the quick tests."""
    found: dict[str, Callable[[Case], None]] = {}
    for name, target in called().items():
        found[name] = partial(try_target, name=name, target=target, times=TIMES)
    for name, folder in folders.KINDS.items():
        found[name] = partial(try_folder, name=name, kind=folder, times=TIMES)
    for name in commands.VALID:
        found[f"command {name}"] = partial(try_command, name=name, times=TIMES)
    for name, kind in files.kinds().items():
        found[name] = partial(try_file, name=name, kind=kind, times=TIMES)
    chosen = os.environ.get("FUZZ_ONLY", "").split(",")
    return {name: run for name, run in found.items() if any(word in name for word in chosen)}


@pytest.mark.slow
def test_a_hundred_thousand_inputs(tmp_path: Path) -> None:
    """Every target is tried although one fails; what failed is said at once, and in the end."""
    problems: dict[str, BaseException] = {}
    began = time.monotonic()
    for number, (name, run) in enumerate(targets().items()):
        place = tmp_path / str(number)
        place.mkdir()
        SEEN.pop(name, None)
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # a pass over all that earlier targets left takes seconds, which would count as this target's
        started = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            try:
                run(Case(place, patch))
            except BaseException as problem:  # hypothesis groups them; too long a call is no Exception
                if isinstance(problem, KeyboardInterrupt):
                    raise
                problems[name] = problem
                notes = " | ".join(getattr(problem, "__notes__", ()))
                print(f"--- {name}: {type(problem).__name__}: {str(problem)[:600]}\n{notes[:1500]}", flush=True)
        print(f"{len(SEEN.get(name, ())):7,} {time.monotonic() - started:7.1f} s  {name}", flush=True)
    gc.unfreeze()
    different = sum(map(len, SEEN.values()))
    print(f"{different:,} different inputs in {time.monotonic() - began:.0f} s; {len(problems)} targets failed")
    assert not problems
    assert different >= WANTED or os.environ.get("FUZZ_ONLY")
