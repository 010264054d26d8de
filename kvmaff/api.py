"""The calls that most programs need, each a line to the room that does the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from kvmaff.asking import journal_in
from kvmaff.binding.decided import last_decision
from kvmaff.binding.pin import pin_guest
from kvmaff.binding.pin import pin_process as pin_any
from kvmaff.binding.plan import Plan, make_plan
from kvmaff.binding.report import Report
from kvmaff.binding.undo import undo as undo_record
from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.formats.capture import Captured
from kvmaff.formats.capture import capture as write_capture
from kvmaff.formats.specs import read_rules, read_specs
from kvmaff.guest.askmonitors import AskMonitors
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.monitor import TIMEOUT
from kvmaff.guest.select import select_guest
from kvmaff.guest.vmm import Vmm
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host, read_host
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import Demand, HostRules, PlacementRequest
from kvmaff.placement.verify import verify

if TYPE_CHECKING:
    from kvmaff.binding.hotplug import HotplugReport, Plugged
    from kvmaff.guest.qmp import QmpState

__all__ = [
    "capture",
    "guests",
    "hotplug",
    "hotplug_async",
    "pin",
    "pin_process",
    "plan",
    "read_host",
    "read_qmp",
    "read_rules",
    "read_specs",
    "undo",
]

_PLENTY = 1 << 62


def guests(
    host: Host, *, vmms: Sequence[Vmm] | None = None, ask: AskMonitors = AskMonitors.IN_DOUBT
) -> tuple[Guest, ...]:
    """
    Find the guests that run on a host, with every thread by role.

    Args:
        host: The host.
        vmms: VMMs to know beside the built-in ones; None for those of the installed plug-ins.
        ask: Whose QMP monitors are asked which thread is which; each within a second.

    Returns:
        The guests in order of name, and what only claims to be one (``verified`` is false).

    Raises:
        HostReadError: There is no /proc.
        Unsupported: /proc is that of another pid namespace.
    """
    return find_guests(host.root, vmms=_vmms() if vmms is None else vmms, ask=ask)


def capture(
    path: str | os.PathLike[str], *, host: Host | None = None, command_lines: bool = False
) -> Captured:
    """
    Write a host into one file, for a later :func:`read_host` elsewhere.

    Args:
        path: The file; one that is there is replaced when the new one is whole.
        host: The host, read anew; None for this machine.
        command_lines: Keep the command lines of all processes, which may hold secrets.

    Returns:
        What the file holds.

    Raises:
        HostReadError: The machine cannot be read.
        RequestError: It is too large for a capture, or the file cannot be written, or something is there that is no
            plain file; nothing is left behind.
        Unsupported: /proc is that of another pid namespace.
    """
    return write_capture(path, root=host.root if host else "/", command_lines=command_lines, vmms=_vmms())


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
    return pin_guest(host, guest, wishes, journal=journal_in(state_dir), vmms=_vmms())


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
    return pin_any(host, pid, cpus, tid=tid, journal=journal_in(state_dir))


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
    return undo_record(number, journal=journal_in(state_dir), force=force)


async def hotplug_async(
    host: Host,
    guest: Guest | str,
    count: int = 1,
    *,
    path: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
    unbound: bool = False,
    state_dir: str | os.PathLike[str] | None = None,
    told: Callable[[Plugged], None] | None = None,
) -> HotplugReport:
    """
    Plug vCPUs into a running guest, in order of its topology, each born on the CPUs that were decided for it.

    Who gives up waiting (cancels) waits for the vCPU that is on its way; all that is plugged in then is bound.

    Args:
        host: The running machine.
        guest: The guest, or its name, ``uuid:…`` or ``pid:…``: a QEMU with a QMP monitor.
        count: How many vCPUs.
        path: The monitor's UNIX socket, as the guest's process sees it; None for what its command line says.
        timeout: Seconds that each step with the monitor may take.
        unbound: Where nothing was decided for the guest, plug in all the same.
        state_dir: Where records and decisions are kept.
        told: Told of each vCPU when it is there and bound.

    Returns:
        The report; not ``ok`` where the guest refused some vCPU after others were plugged in.

    Raises:
        RequestError: It cannot be done as it stands; nothing was changed.
        GuestNotFound: No guest goes by that name.
        AmbiguousGuest: Several do.
        GuestNotVerified: It is not proved to be a guest.
        QmpBusy: Somebody else is connected to its monitor.
        QmpError: It has no monitor, or one that refuses or cannot be believed; nothing was changed.
        BindingFailed: The kernel did not let its main thread go where the first vCPU belongs; nothing stays changed.
        JournalError: The record cannot be written; nothing was changed.
        Unsupported: The host is a recorded one, or qemu.qmp is not installed.
    """
    from kvmaff.binding.hotplug import hotplug as plug_in  # noqa: PLC0415 - asyncio takes longer to load than a host

    if not isinstance(guest, Guest | str):
        raise TypeError(f"a guest is a Guest or its name, 'uuid:…' or 'pid:…', not {guest!r}")
    if isinstance(guest, str):
        # which of its threads is what its monitor is asked below, and nobody else's here
        guest = select_guest(guests(host, ask=AskMonitors.NEVER), guest)
    return await plug_in(
        host,
        guest,
        count,
        path=path,
        timeout=timeout,
        unbound=unbound,
        journal=journal_in(state_dir),
        told=told,
    )


def hotplug(
    host: Host,
    guest: Guest | str,
    count: int = 1,
    *,
    path: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
    unbound: bool = False,
    state_dir: str | os.PathLike[str] | None = None,
    told: Callable[[Plugged], None] | None = None,
) -> HotplugReport:
    """
    Plug vCPUs in as :func:`hotplug_async` does, which says what is what, and wait for it.

    Args:
        host: The running machine.
        guest: The guest, or its name.
        count: How many vCPUs.
        path: The monitor's UNIX socket.
        timeout: Seconds that each step may take.
        unbound: Where nothing was decided for the guest, plug in all the same.
        state_dir: Where records and decisions are kept.
        told: Told of each vCPU when it is there and bound.

    Returns:
        The report.

    Raises:
        KvmaffError: As there.
    """
    from kvmaff.guest.plainly import plainly  # noqa: PLC0415 - the same

    return plainly(
        lambda: hotplug_async(
            host, guest, count, path=path, timeout=timeout, unbound=unbound, state_dir=state_dir, told=told
        )
    )


def read_qmp(
    guest: Guest, *, path: str | os.PathLike[str] | None = None, timeout: float = TIMEOUT
) -> QmpState:
    """
    Ask a guest's QMP monitor for its vCPUs, IOThreads, places for vCPUs and what KVM counts.

    ``qmp_session`` is for programs that are asynchronous, or ask more.

    Args:
        guest: The guest, proved to be one.
        path: The monitor's UNIX socket, as the guest's process sees it; None for what its command line says.
        timeout: Seconds that each step may take.

    Returns:
        What it tells; each thread is the process's own.

    Raises:
        GuestNotFound: The guest has ended.
        QmpBusy: Somebody else is connected.
        QmpError: There is no monitor, it is not that of the guest, or what it answers cannot be true.
        Unsupported: qemu.qmp is not installed.
    """
    from kvmaff.guest.plainly import plainly  # noqa: PLC0415 - the same
    from kvmaff.guest.qmp import read_qmp as read_monitor  # noqa: PLC0415 - the same

    return plainly(lambda: read_monitor(guest, path=path, timeout=timeout))


def plan(
    host: Host,
    placement: Placement | None = None,
    *,
    rules: HostRules | None = None,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Plan:
    """
    Compare a decision with the machine as it is now; nothing is changed.

    Args:
        host: The running machine.
        placement: The decision; None for what was decided and applied last.
        rules: What is so for the host beside the decision, and kept with it; None for what it was decided from, where
            it says that (``placement.basis``, with what plug-ins reserve), else for the rules of the last decision.
        plugins: The plug-ins; None for all that are installed.
        state_dir: Where decisions and records are kept.

    Returns:
        The plan: false, and without changes, where nothing differs. ``plan.apply()`` does it.

    Raises:
        RequestError: Nothing was decided yet, or a decided guest's vCPUs cannot be told apart.
        JournalError: What was decided cannot be believed.
    """
    manager = plugins or PluginManager.load()
    journal = journal_in(state_dir)
    decided, known = placement, None
    if placement is None:
        decided, known = last_decision(journal)
    elif placement.basis is not None:
        asked = placement.basis.request
        known = HostRules(reserved=asked.reserved, overcommit=asked.overcommit, pools=asked.pools)
    rules = known if rules is None else rules
    if decided is None:
        raise RequestError.of([f"nothing was decided yet in {journal.folder}: decide with a strategy first"])
    made = make_plan(host, decided, vmms=tuple(manager.vmms().values()))
    if placement is None:
        _still_holds(host, made.placement, rules or HostRules())
    return attrs.evolve(made, rules=rules).bound_to(journal, manager.applied)


def _still_holds(host: Host, decided: Placement, rules: HostRules) -> None:
    """A host may have changed since it was decided: CPUs gone, isolated, or given to two by two decisions."""
    # memory was there when it was decided: what is free now is without what the guests have of it already
    sizes = {one.spec.page_bytes for one in decided.guests if one.spec.page_bytes}
    request = PlacementRequest(
        host=host,
        demands=tuple(Demand(spec=one.spec, pid=one.pid, start=one.start) for one in decided.guests),
        pages=tuple((node.number, size, _PLENTY) for node in host.topology.nodes for size in sorted(sizes)),
        reserved=rules.reserved,
        pools=rules.pools,
        overcommit=rules.overcommit,
    )
    broken = verify(request, decided)
    if broken:
        raise RequestError.of(
            [f"what was decided does not hold any more: {one.message}; decide anew" for one in broken]
        )


def _vmms() -> tuple[Vmm, ...]:
    return tuple(PluginManager.load().vmms().values())
