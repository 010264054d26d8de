"""
The way to a guest's QMP socket, and the proof that the guest's process is at its other end.

Paths on a command line are the process's: below its root (/proc/PID/root), from its folder. A socket that is bound to a
path can be put in another's place by whoever may write to the folder; so the kernel is asked who listens (SO_PEERCRED,
unix(7): the process that called listen(2)), before anything is said.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct

from kvmaff.errors import QmpError
from kvmaff.guest.monitor import Monitor
from kvmaff.kernel.scan import Proc

__all__ = ["prove", "reach", "what_went_wrong"]

_AGAIN = 0.02


async def reach(ours: socket.socket, pid: int, monitor: Monitor) -> None:
    """
    Connect a socket to a monitor, as the guest's process sees its path, however long that is.

    Args:
        ours: The socket, one that does not block.
        pid: The process.
        monitor: The monitor.

    Raises:
        OSError: It cannot be reached.
    """
    fd = None if monitor.abstract else _file(pid, monitor.path)
    try:
        if fd is None:
            name = b"\0" + os.fsencode(monitor.path)
            address: str | bytes = name if monitor.tight else name.ljust(_SUN_PATH, b"\0")
        else:
            address = f"/proc/self/fd/{fd}"
        while True:
            try:
                ours.connect(address)
            except BlockingIOError:  # others wait already, and the queue is full
                await asyncio.sleep(_AGAIN)
            else:
                return
    finally:
        if fd is not None:
            os.close(fd)


_SUN_PATH = 108
_MOST_LINKS = 40


def _file(pid: int, path: str) -> int:
    """Open the socket's file as the process sees it; as we do where that may not be looked at."""
    try:
        fd = os.open(_as_seen_by(pid, path), os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.startswith("/"):
            raise
        raise _ElsewhereError from None
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)
        raise _NoSocketError
    return fd


def _as_seen_by(pid: int, path: str) -> str:
    """
    Find a path as a process sees it: a link in it leads to somewhere below the process's root, not ours.

    Where it leads may change meanwhile; who listens there is proved afterwards.
    """
    root = f"/proc/{pid}/root"
    if not path.startswith("/"):
        folder = os.readlink(f"/proc/{pid}/cwd")  # below its root, as the kernel tells it
        path = f"{folder}/{path}"
    left, links = _parts(path), 0
    done: list[str] = []
    while left:
        part = left.pop()
        if part == "..":
            del done[-1:]
            continue
        here = "/".join((root, *done, part))
        if links < _MOST_LINKS and stat.S_ISLNK(os.lstat(here).st_mode):
            target, links = os.readlink(here), links + 1
            if target.startswith("/"):
                done = []
            left += _parts(target)
        else:
            done.append(part)
    return "/".join((root, *done))


def _parts(path: str) -> list[str]:
    """Return a path's parts, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


class _NoSocketError(Exception):
    """A path leads to something else."""


class _ElsewhereError(Exception):
    """A path leads nowhere from where its process is now."""


def prove(ours: socket.socket, pid: int, start: int, where: str) -> None:
    """
    Make sure that it is the guest's process that listens where we are connected to.

    Args:
        ours: The connected socket.
        pid: The process.
        start: Its start, clock ticks after boot.
        where: What errors call the monitor.

    Raises:
        QmpError: It is another one.
    """
    size = struct.calcsize("3i")
    listens, _, _ = struct.unpack("3i", ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    with Proc() as proc:
        now = proc.start_of(pid)
    if listens != pid or now != start:
        raise QmpError(
            f"{where} is served by process {listens or 'of another pid namespace'}, not by the guest's; nothing was "
            "asked",
            pid=pid,
        )


def what_went_wrong(error: BaseException) -> str:
    """
    Say what went wrong with a monitor.

    Args:
        error: What was raised, by us or by the library.

    Returns:
        Words that follow the monitor's name.
    """
    from kvmaff.guest._qmpclient import what_peer_did  # noqa: PLC0415 - the extra

    if isinstance(error, _NoSocketError):
        return "is no socket"
    if isinstance(error, _ElsewhereError):
        return (
            "is a path from the folder that it was started in, and it is in another one now (-daemonize): say the "
            "whole path (--qmp)"
        )
    return what_peer_did(error)
