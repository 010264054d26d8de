"""The calls that most programs need, each a line to the room that does the work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import pin_guest
from kvmaff.binding.pin import pin_process as pin_any
from kvmaff.binding.report import Report
from kvmaff.binding.undo import undo as undo_record
from kvmaff.cpuset import CpuSet
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.select import select_guest
from kvmaff.guest.vmm import Vmm
from kvmaff.host.reader import Host, read_host

__all__ = ["guests", "pin", "pin_process", "read_host", "undo"]


def guests(host: Host, *, vmms: Sequence[Vmm] = ()) -> tuple[Guest, ...]:
    """
    Find the guests that run on a host, with every thread by role.

    Args:
        host: The host.
        vmms: VMMs to know beside the built-in ones.

    Returns:
        The guests in order of name, and what only claims to be one (``verified`` is false).

    Raises:
        HostReadError: There is no /proc.
        Unsupported: /proc is that of another pid namespace.
    """
    return find_guests(host.root, vmms=vmms)


def pin(
    host: Host,
    guest: Guest | str,
    wishes: Mapping[str, CpuSet | str],
    *,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Bind a guest's threads, all of them or none.

    Args:
        host: The running machine.
        guest: The guest, or its name, ``uuid:…`` or ``pid:…``.
        wishes: CPUs (a set or a cpulist) by key: ``{"0": "4", "1-3": "5-7", "emulator": "0-1", "io:disk": "2"}``.
        state_dir: Where the record that undoes it is kept; by default /var/lib/kvmaff for root.

    Returns:
        The report, thread by thread.

    Raises:
        RequestError: The request cannot be carried out as it stands; nothing was changed.
        GuestNotFound: No guest goes by that name.
        AmbiguousGuest: Several do.
        GuestNotVerified: It is not proved to be a guest.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed. Its ``report`` says why.
        Unsupported: The host is a recorded one, or /proc is that of another pid namespace.
    """
    if not isinstance(guest, Guest | str):
        raise TypeError(f"a guest is a Guest or its name, 'uuid:…' or 'pid:…', not {guest!r}")
    if isinstance(guest, str):
        guest = select_guest(guests(host), guest)
    return pin_guest(host, guest, wishes, journal=_journal(state_dir))


def pin_process(
    host: Host,
    pid: int,
    cpus: CpuSet | str,
    *,
    tid: int | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Bind any process on purpose, guest or not.

    Args:
        host: The running machine.
        pid: The process; all its threads are bound, those too that start meanwhile.
        cpus: The CPUs, as a set or a cpulist.
        tid: Bind this thread of it only.
        state_dir: Where the record that undoes it is kept.

    Returns:
        The report, thread by thread.

    Raises:
        RequestError: The process or thread is not there, or a CPU is not online; nothing was changed.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed.
        Unsupported: The host is a recorded one, or /proc is that of another pid namespace.
    """
    return pin_any(host, pid, cpus, tid=tid, journal=_journal(state_dir))


def undo(
    number: int | None = None,
    *,
    force: bool = False,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Put back what the last call of :func:`pin` changed, or what a given one did.

    Args:
        number: The record, as in the report's ``journal``; None for the newest.
        force: Also overwrite masks that somebody else has set since.
        state_dir: Where the records are.

    Returns:
        The report; without threads where there is nothing to undo.

    Raises:
        JournalError: The record cannot be believed; no mask was changed.
        RequestError: A newer record holds the same threads.
    """
    return undo_record(number, journal=_journal(state_dir), force=force)


def _journal(state_dir: str | os.PathLike[str] | None) -> Journal:
    return Journal(None if state_dir is None else os.fspath(state_dir))
