"""Let a Ctrl-C wait while there is something that nobody would clean up."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["InterruptLater"]


class InterruptLater:
    """
    From its making SIGINT waits, until :meth:`now`.

    The signal mask alone would not do it: the kernel hands a process's signal to any thread that does not
    block it, and Python then runs the handler in the main thread all the same. So where this is the main
    thread, its handler waits too. What is started meanwhile inherits the mask, and with it an interrupt that
    waits until it has said what it does about it.
    """

    def __init__(self) -> None:
        self._came = False
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._handler = signal.getsignal(signal.SIGINT)
        # a handler that is not Python's could not be put back
        self._ours = threading.current_thread() is threading.main_thread() and callable(self._handler)
        if self._ours:
            signal.signal(signal.SIGINT, self._wait)

    def _wait(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True

    def now(self) -> None:
        """
        Put handler and mask back as they were; what has come meanwhile comes now. Again is harmless.

        Raises:
            KeyboardInterrupt: It came, and the handler is Python's own.
        """
        if self._ours:
            self._ours = False
            signal.signal(signal.SIGINT, self._handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if self._came:
            self._came = False
            signal.raise_signal(signal.SIGINT)
