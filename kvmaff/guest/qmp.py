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
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import attrs

from kvmaff.errors import (
    GuestNotVerified,
    KvmaffError,
    QmpBusy,
    QmpError,
    QmpRefused,
    Unsupported,
    WrongUsage,
)
from kvmaff.guest.commandline import command_line
from kvmaff.guest.conversation import Conversation, client_class
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
from kvmaff.guest.qmpsocket import prove, reach, what_went_wrong
from kvmaff.kernel.text import printable

if TYPE_CHECKING:
    from kvmaff.guest._qmpclient import Client

__all__ = ["Qmp", "QmpState", "open_qmp", "qmp_session", "read_qmp"]

_LONGEST = 3600
"""Seconds."""


class Qmp(Conversation):
    """
    A conversation with a guest's monitor; made by :func:`open_qmp`.

    Attributes:
        pid: The guest's process.
        monitor: The monitor.
    """

    def __init__(self, client: Client, pid: int, monitor: Monitor, timeout: float) -> None:
        who = f"pid {pid}: its QMP monitor {monitor}"
        super().__init__(client, pid=pid, who=who, timeout=timeout, owner=f"pid {pid}")
        self.monitor = monitor

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


async def read_qmp(
    guest: Guest, *, path: str | os.PathLike[str] | None = None, timeout: float = TIMEOUT
) -> QmpState:
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
        GuestNotVerified: It is not proved to be one.
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
    guest: Guest, *, path: str | os.PathLike[str] | None = None, timeout: float = TIMEOUT, root: str = "/"
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
        GuestNotVerified: It is not proved to be one.
        QmpBusy: Somebody else is connected.
        QmpError: There is no monitor, or it is not that of the guest.
        Unsupported: The library is not installed, or the machine is a recorded one.
    """
    if root != "/":
        raise Unsupported(f"{root} is a recorded machine: nobody answers there")
    if not guest.verified:
        raise GuestNotVerified(
            f"pid {guest.pid} ({guest.name}) is not proved to be a guest: {guest.why}; it is not asked",
            pid=guest.pid,
            why=guest.why,
        )
    words = command_line(guest)
    found = monitors_said(words)
    if path is not None and (not (path := os.fspath(path)) or "\0" in path):
        raise WrongUsage.of([f"{path!r} is no path of a socket"])
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
        WrongUsage: The limit is none.
        QmpBusy: Somebody else is connected to the last.
        QmpError: Another reason why not.
        Unsupported: The library is not installed.
    """
    if type(timeout) not in {int, float} or not 0 < timeout <= _LONGEST:
        raise WrongUsage.of(
            [f"the limit is a number of seconds above 0, at most {_LONGEST}, not {timeout!r}"]
        )
    make = client_class()
    failed: list[QmpError] = []
    async with contextlib.AsyncExitStack() as stack:
        for monitor in monitors:
            try:
                client = await stack.enter_async_context(_connected(make, pid, start, monitor, timeout))
                break
            except QmpError as error:
                failed.append(error)
        else:
            # that somebody holds one is what can be helped
            kind = next((QmpBusy for error in failed if isinstance(error, QmpBusy)), QmpError)
            raise kind("; ".join(map(str, failed)), pid=pid) from failed[-1]
        yield Qmp(client, pid, monitor, timeout)


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
                await reach(ours, pid, monitor)
                prove(ours, pid, start, where)
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
            raise QmpError(f"{where} {what_went_wrong(error)}", pid=pid) from error
        try:
            yield client
        finally:
            await to_its_end(_leave(client, ours, timeout))


async def _leave(client: Client, ours: socket.socket, timeout: float) -> None:
    """End it, also against the peer's will: it may neither read nor close."""
    with contextlib.suppress(OSError):
        ours.shutdown(socket.SHUT_RDWR)
    # what the reader saw at its end was told to who asked, if it mattered
    with contextlib.suppress(Exception):
        async with asyncio.timeout(timeout):
            await client.disconnect()
