"""
A booted machine, seen from the host.

* It outlives nobody: see ``keeper.py``. What it writes outside of :attr:`Lab.folder` goes to its memory.
* What the host changes outside of :attr:`Lab.folder` after the boot the machine may never see: it keeps what it has
  read, also that a file was not there.
* There are no threads, so that a test may fork as it likes: what the machine says is read while somebody waits for it.
  For one thread at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from .agent import CHUNK, ERR, EXIT, HEADER, HELLO, OUT, RUN, Frames
from .environment import CHECKOUT, inside
from .errors import BootFailed, LabUnavailable, MachineDied
from .initramfs import initramfs
from .job import COMMAND_SECONDS, KILL_SECONDS, Job, Result, Sink, tail
from .kernels import Kernel, busybox, kernel
from .machine import Machine
from .qemu import CHANNEL, QEMU, arguments, tsc_khz

__all__ = ["Lab"]

_HERE = Path(__file__).parent
_PREFIX = "kvmaff-lab-"
_ITS_OWN = ("dev", "proc", "run", "sys")  # folders of / that are not the host's


class Lab:
    """
    A booted machine. Boot one with :meth:`boot`.

    A context manager, whose end is :meth:`close`.

    Attributes:
        machine: What it is.
        folder: A folder that both sides may write, under the same path in the machine.
        seconds: How long the boot took.
        release: The kernel's release.
    """

    machine: Machine
    folder: Path
    seconds: float
    release: str

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.seconds = 0.0
        self.release = ""
        self._jobs: dict[int, Job] = {}
        self._started = 0
        self._frames = Frames()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._end: MachineDied | None = None
        self._socket, self._far = socket.socketpair()
        self._place = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            # Under its name only when it is held: whoever finds it free may clear all this away
            self._lock = (self._place / "lock.new").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            (self._place / "lock.new").rename(self._place / "lock")
            self.folder = self._place / "shared"
            self.folder.mkdir()
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    @classmethod
    def boot(cls, machine: Machine, *, timeout: float | None = None) -> Self:
        """
        Boot a machine and wait until it can be used.

        Args:
            machine: Which.
            timeout: Seconds that it may take; what the machine says itself where it is None.

        Raises:
            LabUnavailable: No machine can be booted here.
            BootFailed: This one did not come up; nothing is left of it.
        """
        image, box = cls.needs(machine)
        _sweep()
        try:
            lab = cls(machine)
        except OSError as error:
            raise BootFailed(f"{machine}: {error}") from error
        try:
            # The interpreter without its virtual environment: the agent needs none of it
            agent = [
                os.path.realpath(sys.executable),
                "-ISB",
                str(_HERE / "agent.py"),
                CHANNEL,
                machine.offline_cpus,
            ]
            first = lab._place / "initramfs"
            first.write_bytes(initramfs(image, box, share=lab.folder, agent=agent))
            lab._start_qemu(image.image, first)
            limit = machine.boot_seconds if timeout is None else timeout
            start = time.monotonic()
            try:
                if not lab.pump(lambda: bool(lab.release), limit):
                    raise BootFailed(f"{machine}: not up within {limit:g} s{lab._story()}")
            except MachineDied as error:
                raise BootFailed(str(error)) from None
            lab.seconds = time.monotonic() - start
        except OSError as error:  # a full disk, no more processes
            lab.close()
            raise BootFailed(f"{machine}: {error}") from error
        except BaseException:
            lab.close()
            raise
        return lab

    @staticmethod
    def needs(machine: Machine) -> tuple[Kernel, Path]:
        """
        Make sure that there is all that a boot needs, and fetch what can be fetched.

        Args:
            machine: What is to be booted.

        Returns:
            Its kernel, and a busybox.

        Raises:
            LabUnavailable: No machine can be booted here.
        """
        if platform.machine() != "x86_64":
            raise LabUnavailable(f"the host's own programs run in it, on x86-64, not on {platform.machine()}")
        if not shutil.which(QEMU):
            raise LabUnavailable(f"{QEMU} is not installed")
        for path in (CHECKOUT, Path(os.path.realpath(sys.executable))):
            if path.parts[1] in _ITS_OWN:
                raise LabUnavailable(f"{path} is not in the machine, whose /{path.parts[1]} is its own")
        return kernel(machine.kernel), busybox()

    def _start_qemu(self, image: Path, first: Path) -> None:
        words = arguments(
            self.machine,
            image=image,
            initramfs=first,
            share=self.folder,
            console=self._place / "console",
            channel=self._far.fileno(),
            khz=tsc_khz(),
        )
        with (self._place / "qemu").open("wb") as said:
            self._keeper = subprocess.Popen(
                [sys.executable, "-IS", str(_HERE / "keeper.py"), str(os.getpid()), *words],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[self._far.fileno()],
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        self._far.close()  # so that its end is seen here
        self._socket.setblocking(False)

    def start(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: bytes | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> Job:
        """
        Start a command in the machine, as root, in this checkout's environment.

        Args:
            argv: The command; no shell sees it.
            env: What differs from that environment.
            cwd: The folder it starts in; the current one where it is None.
            stdin: What it can read.
            stdout: Called with each piece of what it says, which is then not kept.
            stderr: The same for standard error.

        Raises:
            MachineDied: There is no machine any more.
        """
        if not argv:
            raise ValueError("a command has at least one word")
        self._started += 1
        words = tuple(os.fspath(word) for word in argv)
        source = None
        if stdin is not None:
            source = self.folder / f".stdin-{self._started}"
            source.write_bytes(stdin)
        sinks = {kind: sink for kind, sink in ((OUT, stdout), (ERR, stderr)) if sink}
        job = Job(self, self._started, words, sinks)
        self._jobs[self._started] = job
        wanted = {
            "argv": words,
            "env": {**inside(), **(env or {})},
            "cwd": os.fspath(cwd or os.getcwd()),
            "stdin": source and str(source),
        }
        self.send(RUN, self._started, json.dumps(wanted).encode())
        return job

    def run(
        self,
        *argv: str | os.PathLike[str],
        timeout: float | None = COMMAND_SECONDS,
        check: bool = False,
        **rest: object,
    ) -> Result:
        """
        Run a command in the machine and wait for its end.

        Args:
            argv: The command; no shell sees it.
            timeout: Seconds that it may take; None waits on.
            check: Raise where it does not end with 0.
            rest: As for :meth:`start`.

        Returns:
            What became of it.

        Raises:
            CommandTimeout: It took too long; it was killed, the machine goes on.
            CommandFailed: It failed, and ``check`` was asked for.
            MachineDied: The machine ended first.
        """
        job = self.start(*argv, **rest)  # type: ignore[arg-type] # start() knows them
        result = job.wait(timeout)
        if check:
            job.check()
        return result

    @property
    def alive(self) -> bool:
        """Whether the machine still runs, as far as is known."""
        return self._end is None and self._keeper is not None and self._keeper.poll() is None

    def console(self, lines: int = 60) -> str:
        """Return the last lines of what the kernel said, and QEMU itself."""
        texts = []
        for name in ("qemu", "console"):
            with contextlib.suppress(OSError):
                texts.append((self._place / name).read_text(encoding="utf-8", errors="replace"))
        return tail("".join(texts), lines)

    def pump(self, enough: Callable[[], bool], timeout: float | None) -> bool:
        """
        Read what the machine says.

        Args:
            enough: Asked after each piece.
            timeout: Seconds; None waits on.

        Returns:
            Whether it was enough; False where the time was over first.

        Raises:
            MachineDied: The machine ended first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not enough():
            if self._end:
                raise self._end
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if not select.select([self._socket], [], [], left)[0]:
                continue
            try:
                data = self._socket.recv(CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                raise self.died("it ended")
            for kind, number, content in self._frames.feed(data):
                if kind == HELLO:
                    self.release = json.loads(content)["kernel"]
                elif number in self._jobs:
                    self._jobs[number].hear(kind, content)
                    if kind == EXIT:
                        del self._jobs[number]
        return True

    def send(self, kind: bytes, job: int, content: bytes) -> None:
        """Say something to the agent."""
        if self._end:
            raise self._end
        try:
            self._socket.settimeout(KILL_SECONDS)
            self._socket.sendall(HEADER.pack(kind, job, len(content)) + content)
        except OSError as error:
            raise self.died(f"it takes no more commands: {error}") from error
        self._socket.setblocking(False)

    def died(self, why: str) -> MachineDied:
        """End what is left of the machine, and return the error that says so from now on."""
        if self._end is None:
            self._stop()
            self._end = MachineDied(f"{self.machine}: {why}{self._story()}")
        return self._end

    def _story(self) -> str:
        return f"\n--- console\n{self.console() or 'it said nothing'}"

    def _stop(self) -> None:
        self._socket.close()
        self._far.close()
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()  # it ends QEMU, then itself
            self._keeper.wait()

    def close(self) -> None:
        """End the machine, and remove what it had on the host. Again is harmless."""
        self.died("it was closed")
        self._lock.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Lab {self.machine}>"


def _sweep() -> None:
    """Remove the folders of those who died before they could do it: nobody holds their locks."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if place.lstat().st_uid != os.geteuid():
                continue
            lock = (place / "lock").open()
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
