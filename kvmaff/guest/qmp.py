"""
What only QMP knows of a guest, asked of the process itself and of nobody else.

A monitor is believed where the kernel says that the guest's process listens at it (SO_PEERCRED, unix(7)); what it
answers is input all the same (:mod:`kvmaff.guest.qmpanswers`). It serves one client: while another one is connected
nothing comes, not even a greeting (QEMU docs/interop/qmp-spec.rst; chardev/char-socket.c), so that every step has a
limit in time. The library is qemu.qmp, the extra ``qmp``; it is loaded when a monitor is connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import attrs

from kvmaff.errors import KvmaffError, QmpBusy, QmpError, QmpRefused, Unsupported
from kvmaff.guest.commandline import command_line
from kvmaff.guest.guest import Guest
from kvmaff.guest.monitor import TIMEOUT, Monitor, monitors_said
from kvmaff.guest.plainly import to_its_end
from kvmaff.guest.qmpanswers import (
    MonitorIoThread,
    MonitorVcpu,
    Slot,
    iothreads_of,
    slots_of,
    stats_of,
    vcpus_of,
)
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.text import printable

if TYPE_CHECKING:
    from kvmaff.guest._qmpclient import Client

__all__ = ["Qmp", "QmpState", "open_qmp", "qmp_session", "read_qmp"]

_AGAIN = 0.02


class Qmp:
    """
    A conversation with a guest's monitor; made by :func:`open_qmp`.

    Attributes:
        pid: The guest's process.
        monitor: The monitor.
    """

    def __init__(self, client: Client, pid: int, monitor: Monitor, timeout: float) -> None:
        self.pid = pid
        self.monitor = monitor
        self._client = client
        self._timeout = timeout

    async def ask(self, command: str, **arguments: object) -> object:
        """
        Ask anything.

        Args:
            command: QMP's command.
            **arguments: Its arguments; ``_`` in a name stands for ``-``.

        Returns:
            The answer, unchecked.

        Raises:
            QmpRefused: QEMU refuses it.
            QmpError: There is no answer in time, or none that makes sense.
        """
        from qemu.qmp import ExecuteError  # noqa: PLC0415 - the extra

        said = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            async with asyncio.timeout(self._timeout):
                return await self._client.execute(command, said or None)
        except TimeoutError:
            raise self._error(f"did not answer {command} within {self._timeout:g} s") from None
        except ExecuteError as error:
            reason = printable(str(error).encode(errors="replace"), 512)
            raise QmpRefused(
                f"pid {self.pid}: QEMU refuses {command}: {reason}",
                pid=self.pid,
                command=command,
                kind=printable(error.error_class.encode(errors="replace"), 64),
                reason=reason,
            ) from None
        except Exception as error:  # whatever the peer provokes in the library is its fault
            cause = await self._cause(error)
            raise self._error(f"{cause} when it was asked {command}") from error

    async def vcpus(self) -> tuple[MonitorVcpu, ...]:
        """
        The vCPUs and their threads (``query-cpus-fast``, which disturbs no vCPU).

        Returns:
            The vCPUs in order of number; each thread is the process's own now.

        Raises:
            QmpError: As for :meth:`ask`, or the answer cannot be true; says all that is wrong.
        """
        return vcpus_of(await self.ask("query-cpus-fast"), self.pid)

    async def iothreads(self) -> tuple[MonitorIoThread, ...]:
        """
        The IOThreads (``query-iothreads``).

        Returns:
            The IOThreads in order of name; each thread is the process's own now.

        Raises:
            QmpError: As for :meth:`vcpus`.
        """
        return iothreads_of(await self.ask("query-iothreads"), self.pid)

    async def slots(self) -> tuple[Slot, ...]:
        """
        The places for vCPUs (``query-hotpluggable-cpus``).

        Returns:
            The places in order of topology, threads innermost, as vCPUs are numbered; taken and free.

        Raises:
            QmpRefused: The machine has no CPU hot-plug.
            QmpError: As for :meth:`vcpus`.
        """
        return slots_of(await self.ask("query-hotpluggable-cpus"), self.pid)

    async def stats(self) -> dict[int, dict[str, int | tuple[int, ...]]]:
        """
        What KVM counts for each vCPU (``query-stats``, QEMU 7.1 or later): exits by kind, halts and their times.

        Returns:
            By vCPU, by KVM's name, a count (or ns, where the name ends with ``_ns``), or a histogram's; nothing
            under TCG.

        Raises:
            QmpRefused: QEMU is older.
            QmpError: As for :meth:`vcpus`.
        """
        vcpus = await self.vcpus()
        return stats_of(await self.ask("query-stats", target="vcpu"), self.pid, vcpus)

    async def plug(self, slot: Slot) -> None:
        """
        Plug a vCPU in (``device_add``).

        Args:
            slot: A free place.

        Raises:
            QmpRefused: QEMU refuses it.
            QmpError: As for :meth:`ask`.
        """
        await self.ask("device_add", driver=slot.type, id=f"kvmaff-vcpu-{slot.index}", **dict(slot.place))

    async def _cause(self, error: BaseException) -> str:
        """What the peer did; the library tells it to who disconnects."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.disconnect()
        except Exception as cause:  # noqa: BLE001 - this is what is asked for
            error = cause
        return _did_of(error)

    def _error(self, what: str) -> QmpError:
        return QmpError(f"pid {self.pid}: its QMP monitor {self.monitor} {what}", pid=self.pid)


@attrs.frozen(kw_only=True)
class QmpState:
    """
    What a monitor tells of its guest's CPUs.

    Attributes:
        vcpus: The vCPUs and their threads.
        iothreads: The IOThreads.
        slots: The places for vCPUs; none where the machine has no CPU hot-plug.
        stats: By vCPU what KVM counts; empty under TCG and with QEMU before 7.1.
    """

    vcpus: tuple[MonitorVcpu, ...]
    iothreads: tuple[MonitorIoThread, ...]
    slots: tuple[Slot, ...]
    stats: dict[int, dict[str, int | tuple[int, ...]]]


async def read_qmp(guest: Guest, *, path: str | None = None, timeout: float = TIMEOUT) -> QmpState:
    """
    Ask a guest's monitor all of that.

    Args:
        guest: The guest, proved to be one.
        path: The monitor's UNIX socket, as for :func:`qmp_session`.
        timeout: Seconds that each step may take.

    Returns:
        What it tells.

    Raises:
        GuestNotFound: The guest has ended.
        QmpBusy: Somebody else is connected.
        QmpError: There is no monitor, it is not that of the guest, or what it answers cannot be true.
        Unsupported: The library is not installed.
    """
    async with qmp_session(guest, path=path, timeout=timeout) as qmp:
        vcpus, iothreads = await qmp.vcpus(), await qmp.iothreads()
        slots: tuple[Slot, ...] = ()
        stats: dict[int, dict[str, int | tuple[int, ...]]] = {}
        with contextlib.suppress(QmpRefused):
            slots = await qmp.slots()
        with contextlib.suppress(QmpRefused):
            stats = await qmp.stats()
    return QmpState(vcpus=vcpus, iothreads=iothreads, slots=slots, stats=stats)


@contextlib.asynccontextmanager
async def qmp_session(
    guest: Guest, *, path: str | None = None, timeout: float = TIMEOUT, root: str = "/"
) -> AsyncIterator[Qmp]:
    """
    Talk to a guest's QMP monitor, for as long as the context lasts; nobody else can meanwhile.

    Args:
        guest: The guest, proved to be one.
        path: The monitor's UNIX socket, as the guest's process sees it; None for what its command line says.
        timeout: Seconds that each step may take.
        root: ``/``; on a recorded machine nothing answers.

    Yields:
        The conversation.

    Raises:
        GuestNotFound: The guest has ended.
        QmpBusy: Somebody else is connected.
        QmpError: There is no monitor, or it is not that of the guest.
        Unsupported: The library is not installed, or the machine is a recorded one.
    """
    if root != "/":
        raise Unsupported(f"{root} is a recorded machine: nobody answers there")
    words = command_line(guest)
    found = monitors_said(words)
    monitors = found.sockets if path is None else (Monitor(path=path),)
    if not monitors:
        why = "; ".join(dict.fromkeys(f"its QMP monitor {why}" for why in found.others))
        raise QmpError(
            f"guest {guest.name} (pid {guest.pid}): {why or 'it has no QMP monitor'}; to have one, start it with "
            "-qmp unix:PATH,server=on,wait=off",
            pid=guest.pid,
        )
    async with open_qmp(guest.pid, guest.start, monitors, timeout=timeout) as qmp:
        yield qmp


@contextlib.asynccontextmanager
async def open_qmp(
    pid: int, start: int, monitors: Sequence[Monitor], *, timeout: float = TIMEOUT
) -> AsyncIterator[Qmp]:
    """
    Connect to the first of a process's monitors that lets us.

    Args:
        pid: The process.
        start: Its start, clock ticks after boot.
        monitors: Its monitors, at least one.
        timeout: Seconds that each step may take.

    Yields:
        The conversation.

    Raises:
        QmpBusy: Somebody else is connected to the last.
        QmpError: Another reason why not.
        Unsupported: The library is not installed.
    """
    client_class = _library()
    async with contextlib.AsyncExitStack() as stack:
        for place, monitor in enumerate(monitors):
            try:
                client = await stack.enter_async_context(
                    _connected(client_class, pid, start, monitor, timeout)
                )
                break
            except QmpError:
                if place == len(monitors) - 1:
                    raise
        yield Qmp(client, pid, monitor, timeout)


def _did_of(error: BaseException) -> str:
    from kvmaff.guest._qmpclient import what_peer_did  # noqa: PLC0415 - the extra

    return "is no socket" if isinstance(error, _NoSocketError) else what_peer_did(error)


def _library() -> type[Client]:
    try:
        from kvmaff.guest._qmpclient import Client  # noqa: PLC0415 - the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "qemu":
            raise
        raise Unsupported("asking QEMU needs qemu.qmp: pip install 'kvmaff[qmp]'") from None
    return Client


@contextlib.asynccontextmanager
async def _connected(
    make: type[Client], pid: int, start: int, monitor: Monitor, timeout: float
) -> AsyncIterator[Client]:
    where = f"pid {pid}: its QMP monitor {printable(os.fsencode(str(monitor)))}"
    client = make(f"pid-{pid}")
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as ours:
        try:
            async with asyncio.timeout(timeout):
                await _reach(ours, pid, monitor)
                _prove(ours, pid, start, where)
                await client.connect(ours)
        except TimeoutError:
            if client.greeting is not None:
                raise QmpError(f"{where} greeted and then said nothing for {timeout:g} s", pid=pid) from None
            raise QmpBusy(
                f"{where} did not greet within {timeout:g} s: it serves one client, and somebody else (libvirt, a "
                "management tool, a shell) is connected; or the guest hangs",
                pid=pid,
            ) from None
        except KvmaffError:
            raise
        except Exception as error:  # whatever the peer provokes in the library is its fault
            raise QmpError(f"{where} {_did_of(error)}", pid=pid) from error
        try:
            yield client
        finally:
            await to_its_end(_leave(client, ours, timeout))


async def _reach(ours: socket.socket, pid: int, monitor: Monitor) -> None:
    """Connect; as the process sees the path, and however long that is."""
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


def _file(pid: int, path: str) -> int:
    """Open the socket's file as the process sees it; as we do where that may not be looked at."""
    base = f"/proc/{pid}/root{path}" if path.startswith("/") else f"/proc/{pid}/cwd/{path}"
    try:
        fd = os.open(base, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)
        raise _NoSocketError
    return fd


class _NoSocketError(Exception):
    """A path leads to something else."""


def _prove(ours: socket.socket, pid: int, start: int, where: str) -> None:
    """Raise where another process than the guest's listens there."""
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


async def _leave(client: Client, ours: socket.socket, timeout: float) -> None:
    """End it, also against the peer's will: it may neither read nor close."""
    with contextlib.suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
    # what the reader saw at its end was told to who asked, if it mattered
    with contextlib.suppress(Exception):
        async with asyncio.timeout(timeout):
            await client.disconnect()
