"""Models of a hub: it is contacted once, and if it does not answer, only earlier downloads are used."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import UnknownModelError
from ...io.quoting import first_line

WAIT = 5.0  # seconds for the one question whether the hub can be reached
_LOCK = threading.Lock()
_inside = 0  # threads for which the flag is set, because the hub cannot be reached
_NETWORK = ("offline", "cached files", "connect", "reach", "localentrynotfound", "resolve", "timed out")


@contextmanager
def hub_or_cache(what: str) -> Iterator[None]:
    """Where the hub cannot be reached, run the block on files in the cache alone, without retries and their messages.

    huggingface_hub is told so for the whole process while such a block runs in any thread, and set back after the last.

    Raises:
        UnknownModelError: the hub cannot be reached and a file is not in the cache; the sentence begins with ``what``.
    """
    from huggingface_hub import constants

    global _inside
    with _LOCK:
        # while other threads hold the flag, it says nothing of what the user set
        set_by_user = constants.HF_HUB_OFFLINE and not _inside
        problem = "HF_HUB_OFFLINE is set" if set_by_user else _unreachable(constants.ENDPOINT)
        if problem is not None and not set_by_user:
            _inside += 1
            constants.HF_HUB_OFFLINE = True
    if problem is None:
        yield
        return
    try:
        with _as_said(what, problem):
            yield
    finally:
        if not set_by_user:
            with _LOCK:
                _inside -= 1
                if not _inside:
                    constants.HF_HUB_OFFLINE = False


@contextmanager
def _as_said(what: str, reason: str) -> Iterator[None]:
    try:
        with _quiet():
            yield
    except UnknownModelError:
        raise
    except Exception as error:
        if not any(word in text for text in _chain(error) for word in _NETWORK):
            raise
        raise UnknownModelError(
            f"{what}: {reason}, and it is not among the models downloaded before; download it on a machine with a "
            f"network and give its folder"
        ) from error


def _unreachable(endpoint: str) -> str | None:
    """Why a hub cannot be reached, or None; any answer counts as reached."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=WAIT)
    except Exception as error:
        return f"{endpoint} cannot be reached ({first_line(error)})"
    return None


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__}: {error}".lower()
        error = error.__cause__ or error.__context__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of the libraries about what the one sentence says; open_clip's are the root logger's."""
    loggers = [logging.getLogger(name) for name in (None, "huggingface_hub", "transformers", "httpx")]
    levels = [logger.level for logger in loggers]
    root, rest = loggers[0], loggers[1:]
    root.addFilter(_of_open_clip)
    for logger in rest:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.removeFilter(_of_open_clip)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _of_open_clip(record: Any) -> bool:
    return "open_clip" not in record.pathname
