"""A background thread for what takes long: tasks in turn, each replaced by a newer one of its name, all stoppable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from ...errors import TracescribeError
from ...warn import heard

__all__ = ["Stopped", "Ticket", "Worker"]

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """A task was stopped or replaced. No error: nothing that catches errors may swallow it."""


class Ticket:
    """Whether a task's result is still wanted. doing: what it does. note: how far it is."""

    def __init__(self, doing: str = "") -> None:
        self.doing, self.note = doing, ""
        self._gone = threading.Event()

    @property
    def wanted(self) -> bool:
        return not self._gone.is_set()

    def cancel(self) -> None:
        self._gone.set()

    def check(self) -> None:
        """Raise :class:`Stopped` if the result is not wanted any more."""
        if self._gone.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Wait so long, for the user to finish typing; raises :class:`Stopped` as soon as a newer task is there."""
        if self._gone.wait(seconds):
            raise Stopped


class Worker:
    """Runs tasks in one daemon thread, started with the first.

    failed: called with the sentence of a task that raised. warned: with the sentences that a task warned of, which are
    not shown elsewhere. ended: called after every task.

    >>> found = []
    >>> worker = Worker(found.append, found.extend, lambda: None)
    >>> worker.submit("trace", lambda ticket: found.append("done")).wanted
    True
    >>> worker.join(), found
    (True, ['done'])
    """

    def __init__(
        self, failed: Callable[[str], Any], warned: Callable[[list[str]], Any], ended: Callable[[], Any]
    ) -> None:
        self._failed, self._warned, self._ended = failed, warned, ended
        self._change = threading.Condition()
        self._waiting: list[tuple[str, Ticket, Callable[[Ticket], Any]]] = []
        self._running: tuple[str, Ticket] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._taken = self._ran = 0  # tasks

    def submit(self, name: str, task: Callable[[Ticket], Any], doing: str = "") -> Ticket:
        """Run a task after those that wait; every earlier one of this name is cancelled. doing: what it does."""
        ticket = Ticket(doing)
        self.cancel(name)
        with self._change:
            if self._closed:
                ticket.cancel()
                return ticket
            self._waiting.append((name, ticket, task))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tracescribe explorer", daemon=True)
                self._thread.start()
            self._change.notify_all()
        return ticket

    def cancel(self, *names: str) -> bool:
        """Cancel tasks by name, or all without one; whether there was any."""
        with self._change:
            found = [task for task in self._waiting if not names or task[0] in names]
            self._waiting = [task for task in self._waiting if task not in found]
            tickets = [ticket for _, ticket, _ in found]
            if self._running is not None and (not names or self._running[0] in names):
                tickets.append(self._running[1])
            cancelled = [ticket for ticket in tickets if ticket.wanted]
            for ticket in cancelled:
                ticket.cancel()
            return bool(cancelled)

    @property
    def doing(self) -> str:
        """What the running task does, or else the next one that waits; "" if there is neither."""
        with self._change:
            tickets = [] if self._running is None else [self._running[1]]
            tickets += [ticket for _, ticket, _ in self._waiting]
            first = next((ticket for ticket in tickets if ticket.wanted), None)
            return "" if first is None else first.doing + (f": {first.note}" if first.note else "")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs or waits; False if that took longer than ``timeout`` seconds."""
        with self._change:
            return self._change.wait_for(lambda: self._ran == self._taken and not self._waiting, timeout)

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._change:
            self._closed = True
        self.cancel()
        with self._change:
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                name, ticket, task = self._waiting.pop(0)
                self._running = (name, ticket)
                self._taken += 1
            try:
                with heard() as sentences:
                    task(ticket)
                if ticket.wanted:
                    self._warned(sentences)
            except Stopped:
                pass
            except TracescribeError as error:
                if ticket.wanted:
                    self._failed(str(error))
            except Exception as error:  # the thread must outlive it, and the user must hear of it
                logger.exception("a task of the explorer failed")
                if ticket.wanted:
                    self._failed(f"{type(error).__name__}: {error}")
            finally:
                with self._change:
                    self._running = None
                try:
                    self._ended()  # before join() returns
                except Exception:  # what cannot be shown must not end the thread
                    logger.exception("the explorer could not show a result")
                with self._change:
                    self._ran += 1
                    self._change.notify_all()
