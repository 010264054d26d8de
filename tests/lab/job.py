"""A command that runs in a machine, and what became of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .agent import ERR, EXIT, KILL, OUT
from .errors import CommandFailed, CommandTimeout

if TYPE_CHECKING:
    from .lab import Lab

__all__ = ["COMMAND_SECONDS", "KILL_SECONDS", "Job", "Result", "Sink", "tail"]

COMMAND_SECONDS = 60.0
KILL_SECONDS = 20.0
_TAIL_LINES = 60  # a panic with its call trace

Sink = Callable[[bytes], object]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """
    What became of a command.

    Attributes:
        argv: The command.
        code: Its exit code; negative where a signal ended it.
        stdout: What it said.
        stderr: What it said on standard error.
        seconds: How long it took, on the host's clock.
    """

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


class Job:
    """A command that runs in a machine. Started by :meth:`Lab.start`."""

    def __init__(self, lab: Lab, number: int, argv: tuple[str, ...], sinks: Mapping[bytes, Sink]) -> None:
        self._lab = lab
        self._number = number
        self._argv = argv
        self._said = {OUT: bytearray(), ERR: bytearray()}
        self._sinks = {kind: sinks.get(kind, said.extend) for kind, said in self._said.items()}
        self._start = time.monotonic()
        self._end = 0.0
        self.code: int | None = None

    def wait(self, timeout: float | None = COMMAND_SECONDS) -> Result:
        """
        Wait for its end.

        Args:
            timeout: Seconds from now; None waits on. What is late is killed, with all of its session.

        Raises:
            CommandTimeout: It was late.
            MachineDied: The machine ended first.
        """
        if not self._lab.pump(lambda: self.code is not None, timeout):
            self.kill()
            raise CommandTimeout(
                f"{self._words()} took longer than {timeout:g} s and was killed{self._story()}"
            )
        return self.result()

    def kill(self) -> None:
        """
        Kill it and all of its session, and wait for its end.

        Raises:
            MachineDied: The machine does not even do that; it was ended.
        """
        if self.code is None:
            self._lab.send(KILL, self._number, b"")
            if not self._lab.pump(lambda: self.code is not None, KILL_SECONDS):
                raise self._lab.died(f"it does not answer any more, while {self._words()} runs")

    def result(self) -> Result:
        """Return what became of it, or of an unfinished one what it said so far (code -1)."""
        return Result(
            argv=self._argv,
            code=-1 if self.code is None else self.code,
            stdout=self._said[OUT].decode(errors="replace"),
            stderr=self._said[ERR].decode(errors="replace"),
            seconds=(self._end or time.monotonic()) - self._start,
        )

    def check(self) -> None:
        """
        Make sure that it ended well.

        Raises:
            CommandFailed: It did not.
        """
        if self.code:
            raise CommandFailed(f"{self._words()} ended with {self.code}{self._story()}")

    def hear(self, kind: bytes, content: bytes) -> None:
        """Take in what the machine says of it."""
        if kind == EXIT:
            self._end = time.monotonic()
            self.code = int(content)
        else:
            self._sinks[kind](content)

    def _words(self) -> str:
        return f"command {' '.join(self._argv)!r}"

    def _story(self) -> str:
        said = self.result()
        parts = {"stdout": said.stdout, "stderr": said.stderr, "console": self._lab.console()}
        return "".join(f"\n--- {name}\n{tail(text)}" for name, text in parts.items() if text.strip())


def tail(text: str, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.strip().splitlines()[-lines:])
