"""
Processes of this machine's for the runs of a comparison: they tell how far they are, and never outlive it.

Rules:

* a Ctrl-C is for who started them: the terminal sends it to all of them, and none says anything about it;
* whatever ends the ``with`` block but its last line ends them at once, however long what they are at would last;
* they end by themselves where their parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from threading import Thread
from types import TracebackType
from typing import Any

from kvmaff.kernel.interrupt import InterruptLater

__all__ = ["Part", "Workers"]

_PATIENCE = 2.0  # seconds that a process has to end when it is told to
_HERE: dict[str, Any] = {}  # what this process, a worker, got when it began


class Workers(ProcessPoolExecutor):
    """
    An executor for :func:`kvmaff.placement.compare.compare`, which knows with it how far each run is.

    Args:
        jobs: How many processes; each starts from nothing, and what this one has open is not theirs.
    """

    def __init__(self, jobs: int) -> None:
        self._context = _Context()
        # the lock is for those that write: who reads must not wait for one that was ended while it wrote
        self._parts = self._context.Value("d", 0.0)
        super().__init__(jobs, self._context, _begin, (self._parts,))

    @property
    def parts(self) -> float:
        """How many runs are done, with parts of those at hand, as far as these were told by :class:`Part`."""
        return float(self._parts.get_obj().value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Wait for what is under way; or, where something was raised, end it."""
        if kind is not None:
            self.end()
        return super().__exit__(kind, error, traceback)

    def end(self) -> None:
        """End all processes, whatever they are at; futures that wait raise BrokenProcessPool then."""
        later = InterruptLater()  # who presses Ctrl-C again waits for less than it takes to say so
        try:
            self._context.end()
            self.shutdown()
        finally:
            later.now()


class Part:
    """Tells, in a worker, how far the run is that it is at."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, part: float) -> None:
        """
        Tell it.

        Args:
            part: From 0 to 1.
        """
        parts = _HERE["parts"]
        with parts.get_lock():
            parts.value += part - self._told
        self._told = part


class _Context(SpawnContext):
    """Starts processes, and knows which."""

    def __init__(self) -> None:
        self.started: list[_Process] = []

    def Process(self, *args: Any, **named: Any) -> _Process:  # type: ignore[override]  # noqa: N802 - its name there
        made = _Process(*args, **named)
        self.started.append(made)
        return made

    def end(self) -> None:
        """End all that were started."""
        there = [one for one in self.started if one.pid is not None]
        for one in there:
            one.terminate()
        until = time.monotonic() + _PATIENCE
        for one in there:
            one.join(max(until - time.monotonic(), 0))
            if one.is_alive():
                one.kill()
                one.join()


class _Process(SpawnProcess):
    def start(self) -> None:
        later = (
            InterruptLater()
        )  # it inherits the signal mask, and is not interrupted before it can say what then
        try:
            super().start()
        finally:
            later.now()


def _begin(parts: Any) -> None:
    """Begin, in a worker."""
    _HERE["parts"] = parts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what a plug-in starts has it as usual
    Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
            os._exit(1)  # nobody is there to be told anything
