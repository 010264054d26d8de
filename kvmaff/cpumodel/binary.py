"""
A QEMU binary, started to be asked and for nothing else: without a machine's devices, and paused.

Rules: nothing of the user's configuration is read (``-nodefaults -no-user-config``); QMP goes over a socket pair that
nobody else has; what the binary writes is read up to a limit and then thrown away; it ends with the conversation, and
``timeout`` (coreutils) ends it where we were killed. A path may name anything, so everything has a limit in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from kvmaff.errors import QemuError, QmpError, QmpRefused, Unsupported
from kvmaff.guest.conversation import Conversation, client_class
from kvmaff.guest.plainly import to_its_end
from kvmaff.guest.qmpsocket import what_went_wrong
from kvmaff.kernel.text import printable

if TYPE_CHECKING:
    from kvmaff.guest._qmpclient import Client

__all__ = ["accelerator", "asked", "find_binary", "need_x86"]

_NAMES = ("qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm", "/usr/bin/kvm")
"""Upstream's name, and those that distributions give it."""
_STEP_SECONDS = 20.0
_LEAVE_SECONDS = 2.0
_LOOK_SECONDS = 0.005
_LIFE_SECONDS = 300
"""After which a binary that nobody asks any more ends."""
_ERRORS = 1 << 14
"""Bytes of what it says to standard error that are kept."""
_SHOWN = 3


def find_binary(binary: str | os.PathLike[str] | None = None) -> str:
    """
    Find the binary that is meant.

    Args:
        binary: A path, or a name in ``PATH``; None for the first of the usual ones that is installed.

    Returns:
        Its absolute path.

    Raises:
        QemuError: There is none, or it cannot be executed.
    """
    if binary is None:
        found = next((path for name in _NAMES if (path := shutil.which(name))), None)
        if found is None:
            why = (
                "there is no QEMU for x86 here (qemu-system-x86_64): install it, or say where it is (--qemu)"
            )
            raise QemuError(why, binary="", why=why)
        return os.path.abspath(found)
    name = os.fspath(binary)
    if not name or "\0" in name:
        raise _error(name, "is no path")
    found = shutil.which(name)
    if found is None:
        if os.path.isdir(name):
            raise _error(name, "is a folder, no program")
        raise _error(name, "may not be executed" if os.path.exists(name) else "there is no such program")
    return os.path.abspath(found)


def accelerator() -> str:
    """
    Say by what this process can have guests run.

    Returns:
        ``kvm`` where /dev/kvm may be opened, else ``tcg``.
    """
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


@contextlib.asynccontextmanager
async def asked(
    binary: str, *, accel: str, machine: str = "none", timeout: float = _STEP_SECONDS
) -> AsyncIterator[Conversation]:
    """
    Start a binary, and let it be asked for as long as the context lasts.

    Args:
        binary: Its absolute path.
        accel: ``kvm`` or ``tcg``.
        machine: The machine type; ``none`` has no board and no CPU.
        timeout: Seconds that each step may take.

    Yields:
        The conversation.

    Raises:
        QemuError: It does not start, or is no QEMU.
        Unsupported: The library is not installed.
    """
    make = client_class()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(ours.close)
        with theirs:
            child = _Child(binary, _words(binary, accel, machine, theirs.fileno()), theirs.fileno())
        stack.push_async_callback(lambda: to_its_end(child.end()))
        ours.setblocking(False)
        client = make(f"pid-{child.pid}")
        try:
            async with asyncio.timeout(timeout):
                await client.connect(ours)
        except TimeoutError:
            raise _error(binary, f"did not greet over QMP within {timeout:g} s; it is no QEMU") from None
        except Exception as error:  # whatever the peer provokes in the library is its fault
            cause = what_went_wrong(error)
            if cause != "closed the connection":  # what it says then is about our leaving
                raise _error(binary, f"{cause}; it is no QEMU") from error
            raise _error(binary, await child.why(cause, begun=client.greeting is not None)) from error
        stack.push_async_callback(lambda: to_its_end(_leave(client)))
        conversation = Conversation(
            client, pid=child.pid, who=printable(os.fsencode(binary)), timeout=timeout, owner=binary
        )
        try:
            yield conversation
        except QmpRefused:
            raise
        except QmpError as error:
            if await child.ended():
                raise _error(binary, await child.why("ended while it was asked", begun=True)) from error
            raise
        with contextlib.suppress(QmpError):
            await conversation.ask("quit")
            child.asked_to_end = True


def _words(binary: str, accel: str, machine: str, fd: int) -> list[str]:
    words = [
        binary,
        "-S",
        "-M",
        machine,
        "-accel",
        accel,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]
    words += ["-chardev", f"socket,id=kvmaff,fd={fd}", "-mon", "chardev=kvmaff,mode=control"]
    keeper = shutil.which("timeout")
    return [keeper, "-s", "KILL", str(_LIFE_SECONDS), *words] if keeper else words


class _Child:
    """
    The process: reaped by us alone, so that its number is its own for as long as we may signal it.

    What it writes to standard error is read as it comes: it never waits for us.
    """

    def __init__(self, binary: str, words: list[str], fd: int) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the binary that the user named, or PATH's
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(fd,),
                start_new_session=True,
            )
        except OSError as error:
            raise _error(binary, f"cannot be started: {error.strerror}") from error
        self.pid = self._process.pid
        self.asked_to_end = False
        self._kept = b""
        assert self._process.stderr is not None
        self._errors = self._process.stderr.fileno()
        os.set_blocking(self._errors, False)
        asyncio.get_running_loop().add_reader(self._errors, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._errors, _ERRORS)
        except BlockingIOError:
            return
        self._kept = (self._kept + data)[:_ERRORS]
        if not data:
            asyncio.get_running_loop().remove_reader(self._errors)

    async def ended(self, seconds: float = _LEAVE_SECONDS) -> bool:
        """Whether it ends by itself within some seconds."""
        for _ in range(int(seconds / _LOOK_SECONDS)):
            if self._process.poll() is not None:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    async def why(self, what: str, *, begun: bool) -> str:
        """What it did, with its own words on why it does not start or go on."""
        if not await self.ended():
            return f"{what}; it is no QEMU"
        await asyncio.sleep(0)  # what it said last is read
        lines = [printable(line.strip(), 256) for line in self._kept.splitlines() if line.strip()]
        if not lines:
            return f"{what}; it is no QEMU, or one that says nothing"
        said = "; ".join(lines[:_SHOWN])
        return f"{what}; it says: {said}" if begun else f"does not start: {said}"

    async def end(self) -> None:
        """End it, with what it started; where it was asked to, it has time to do so."""
        if not (self.asked_to_end and await self.ended()) and self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        asyncio.get_running_loop().remove_reader(self._errors)
        assert self._process.stderr is not None
        self._process.stderr.close()


async def _leave(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_LEAVE_SECONDS):
            await client.disconnect()


def _error(binary: str, why: str) -> QemuError:
    return QemuError(f"{printable(os.fsencode(binary))}: {why}", binary=binary, why=why)


def need_x86(binary: str, arch: object) -> str:
    """
    Refuse what has no models to compare.

    Args:
        binary: The binary.
        arch: What ``query-target`` says.

    Returns:
        The architecture: ``x86_64`` or ``i386``.

    Raises:
        Unsupported: It is another one.
    """
    if arch in ("x86_64", "i386"):  # of whatever type, also what cannot be in a set
        return str(arch)
    said = printable(str(arch).encode(errors="replace"), 32)
    raise Unsupported(
        f"{printable(os.fsencode(binary))}: is for {said}; models are compared for x86 only: ARM's hosts have none to "
        "choose from, and on s390x QEMU has query-cpu-model-baseline itself"
    )
