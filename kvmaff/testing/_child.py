"""
A process that is talked to in lines, seen from its parent.

It is never waited for without a limit, and however it fails, its error carries what it said on stderr.
"""

from __future__ import annotations

import contextlib
import os
import select
import site
import subprocess
import sys
import time

from kvmaff.errors import MicrovmError

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.1


class Child:
    """
    A module of this package, run as a process of its own.

    Its standard input and output are pipes; it is expected to end at the end of the first, or at a line
    ``quit``.

    Args:
        label: What errors call it.
        module: The module, to be run by the very Python that runs this.
        arguments: Its command line.
        timeout: Seconds to wait for each of its lines.

    Raises:
        MicrovmError: It cannot be started.
    """

    def __init__(self, label: str, module: str, arguments: list[str], timeout: float) -> None:
        self._label = label
        self._timeout = timeout
        self._unread = b""
        # Not a pipe: somebody would have to empty that while the process runs
        self._stderr = open(os.memfd_create("stderr"), "rb", buffering=0)  # noqa: SIM115 - end() closes it
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by an argument list
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env=_environment(),
            )
        except BaseException as error:
            self._stderr.close()
            if isinstance(error, OSError):
                raise MicrovmError(f"{label} cannot be started: {error}") from error
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def tell(self, line: str) -> None:
        """
        Write a line.

        Args:
            line: Without its end.

        Raises:
            MicrovmError: The process has ended, or was ended.
        """
        if self._stdin.closed:
            raise MicrovmError(f"{self._label} is closed")
        try:
            os.write(self._stdin.fileno(), f"{line}\n".encode())
        except BrokenPipeError:
            raise self.failed("has ended") from None

    def hear(self) -> str:
        """
        Read a line.

        Returns:
            The line, without its end.

        Raises:
            MicrovmError: None came in time, or the process has ended; nothing is left of it.
        """
        deadline = time.monotonic() + self._timeout
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.failed(f"did not answer within {self._timeout:g} s", kill=True)
            # No end of file comes where a process that was forked meanwhile holds the pipe, so look as well;
            # in this order, as what it wrote before its end is still to be read
            ended = self._process.poll() is not None
            if poll.poll(0 if ended else 1000 * min(left, _LOOK_SECONDS)):
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                self._unread += chunk
                ended = not chunk
            if ended:
                raise self.failed("has ended")
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode(errors="replace")

    def failed(self, what: str, *, kill: bool = False) -> MicrovmError:
        """
        End the process, as nothing more is to be had of it.

        Args:
            what: What it did wrong.
            kill: Do not give it the time to end by itself.

        Returns:
            An error that says so, and what the process had to say for itself.
        """
        with open(os.dup(self._stderr.fileno()), "rb") as stderr:
            self.end(kill=kill)
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if not kill:
            what += f" with status {self._process.returncode}"
        return MicrovmError(f"{self._label} {what}: {said or 'it said nothing'}")

    def end(self, *, kill: bool = False) -> None:
        """
        End the process and wait for it. Again is harmless.

        Args:
            kill: At once; else only where it does not end by itself.

        Raises:
            MicrovmError: It does not end even so.
        """
        if not self._stdin.closed:
            # A process forked meanwhile may hold the pipe, so that closing it says nothing
            with contextlib.suppress(BrokenPipeError):
                os.write(self._stdin.fileno(), b"quit\n")
            self._stdin.close()
        try:
            if kill:
                self._process.kill()
            self._process.wait(_END_SECONDS)
        except BaseException as error:
            self._process.kill()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                raise MicrovmError(f"{self._label} does not end when killed") from error
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self._stdout.close()
            self._stderr.close()


def _environment() -> dict[str, str]:
    """Return an environment in which the process finds this very package, and nothing by its cwd."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    # Found anyway where it is installed; PYTHONPATH would put site-packages before the standard library
    if _ROOT not in (*site.getsitepackages(), site.getusersitepackages()):
        rest = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{rest}" if rest else _ROOT
    return environment
