"""Several processes for one trace, as ``accelerate launch`` starts them: each computes its share of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

__all__ = ["Team", "team"]

PATIENCE = timedelta(days=30)  # shares may take hours longer than others; a dead process is the launcher's to notice


@dataclass(frozen=True, eq=False)
class Team:
    """This process among those of one launch; alone without one.

    index, count: its number and how many there are. device: where it computes.
    """

    index: int = 0
    count: int = 1
    device: str = "cpu"
    state: Any = None

    @property
    def share(self) -> tuple[int, int]:
        """What :func:`tracescribe.tracer.run.trace.fill_cache` takes."""
        return self.index, self.count

    @property
    def is_main(self) -> bool:
        """Whether this is the process that assembles and writes the result."""
        return self.index == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


@contextmanager
def team(device: str = "cpu") -> Iterator[Team]:
    """The processes of this launch. Without a launcher accelerate is not even imported.

    device: as the user gave it; "cuda" becomes the process's own GPU.

    >>> with team() as alone:
    ...     alone.share, alone.is_main
    ((0, 1), True)
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield Team(device=device)
        return
    from accelerate import PartialState

    # CPU processes find each other through gloo, on this machine unless the launcher says otherwise
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    here = f"cuda:{state.local_process_index}" if device == "cuda" else device
    try:
        yield Team(state.process_index, state.num_processes, here, state)
    finally:
        state.destroy_process_group()
