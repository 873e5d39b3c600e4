"""Losses and scores to TensorBoard, wandb or trackio, by accelerate's trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import OptionError

if TYPE_CHECKING:
    from .config import TrainConfig

PROJECT, FOLDER = "tracescribe", "runs"  # FOLDER: of trackers that write files, in the working directory
Track = Callable[[dict[str, float], int], None]


@contextmanager
def tracking(config: TrainConfig) -> Iterator[Track]:
    """A function that hands the values of a step to every tracker that the configuration names.

    Raises OptionError when a tracker's package is not installed.
    """
    trackers = [_tracker(name) for name in config.trackers]
    settings = {k: v for k, v in config.model_dump(mode="json").items() if isinstance(v, str | int | float)}

    def track(values: dict[str, float], step: int) -> None:
        for tracker in trackers:
            tracker.log(values, step=step)

    try:
        for tracker in trackers:
            tracker.store_init_configuration(settings)
        yield track
    finally:
        for tracker in trackers:
            tracker.finish()


def _tracker(name: str) -> Any:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise OptionError(f"the tracker {name!r} needs the package of that name: pip install {name}")
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it which process they are in
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracker = kind(PROJECT, logging_dir=FOLDER) if kind.requires_logging_directory else kind(PROJECT)
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker
