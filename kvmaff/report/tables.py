"""
Values -> tables for a terminal.

Everything that comes from other processes passes as plain text: no markup, no escapes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.binding.plan import Plan
from kvmaff.binding.report import Outcome, Report, ThreadResult
from kvmaff.binding.undo import Listed
from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, GuestThread, Role, number_list
from kvmaff.host.reader import Host

__all__ = ["guests_table", "load_table", "plan_table", "records_table", "report_table"]

_STYLE = {
    Outcome.SET: "green",
    Outcome.RESTORED: "green",
    Outcome.KEPT: "dim",
    Outcome.GONE: "yellow",
    Outcome.CLIPPED: "red",
    Outcome.REFUSED: "red",
}


def guests_table(guests: Sequence[Guest], *, every_thread: bool = False) -> Table:
    """
    Show guests and the CPUs of their threads.

    Args:
        guests: The guests.
        every_thread: A row for each thread; otherwise threads of one role and mask share a row.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    titles = ["guest", "pid", "VMM", "KVM", "role", "thread", "may run on", "last on"]
    for title in (*titles, "role told by") if every_thread else titles:
        table.add_column(title, overflow="fold")
    for guest in guests:
        head = [
            Text(guest.name, style="bold" if guest.verified else "yellow"),
            Text(str(guest.pid)),
            Text(guest.vmm),
            Text({True: "yes", False: "no", None: "unknown"}[guest.kvm]),
        ]
        for group in _groups(guest.threads, every_thread=every_thread):
            told = [Text(group[0].source or "-")] if every_thread else []
            table.add_row(*head, *_thread_cells(group), *told)
            head = [Text("")] * 4
        table.add_section()
    return table


def report_table(report: Report) -> Table:
    """
    Show what became of each thread.

    Args:
        report: The report.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("thread", "role", "before", "asked", "now", "outcome", ""):
        table.add_column(title, overflow="fold")
    for thread in report.threads:
        table.add_row(
            str(thread.tid),
            Text(_role(thread)),
            _cpus(thread.before),
            _cpus(thread.asked),
            _cpus(thread.after),
            Text(thread.outcome.value, style=_STYLE[thread.outcome]),
            Text(thread.why),
        )
    return table


def plan_table(plan: Plan) -> Table:
    """
    Show what differs from a decision.

    Args:
        plan: The plan.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("guest", "thread", "role", "now", "decided"):
        table.add_column(title, overflow="fold")
    for change in plan.changes:
        thread = change.thread
        index = "" if thread.index is None else f" {thread.index}"
        table.add_row(
            Text(change.guest),
            str(thread.tid),
            Text(f"{thread.role}{index}"),
            _cpus(thread.mask),
            _cpus(change.to),
        )
    return table


def records_table(records: Iterable[Listed]) -> Table:
    """
    Show what could be undone.

    Args:
        records: The records, the newest first.

    Returns:
        The table.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("record", "when", "what", "threads", ""):
        table.add_column(title, overflow="fold")
    for listed in records:
        record = listed.record
        when = _when(record.time) if record else ""
        table.add_row(
            str(listed.number),
            when,
            Text(record.command if record else ""),
            str(len(record.entries)) if record else "",
            Text(listed.why or "", style="yellow"),
        )
    return table


def load_table(host: Host, guests: Sequence[Guest]) -> Table:
    """
    Show which guests' threads each CPU carries.

    Args:
        host: The host.
        guests: The guests, as they were read back from the kernel.

    Returns:
        A row for each CPU that carries one: its core and node, the threads that may run nowhere else, and the
        vCPUs that ran there last. The other CPUs share a row.
    """
    topology = host.topology
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("CPU", "core", "node", "bound to it", "ran there last"):
        table.add_column(title, overflow="fold")
    idle = CpuSet()
    for cpu in topology.online:
        core = next((str(group) for group in topology.cores if cpu in group), "?")
        node = next((str(node.number) for node in topology.nodes if cpu in node.cpus), "?")
        only = CpuSet([cpu])
        bound = [_short(guest, thread) for guest in guests for thread in guest.threads if thread.mask == only]
        last = [_short(guest, thread) for guest in guests for thread in guest.vcpus if thread.cpu == cpu]
        if not bound and not last:
            idle |= only
            continue
        table.add_row(str(cpu), core, node, Text(", ".join(bound) or "-"), Text(", ".join(last) or "-"))
    if idle:
        table.add_row(str(idle), "", "", Text("-"), Text("-"))
    return table


def _groups(threads: Sequence[GuestThread], *, every_thread: bool) -> list[list[GuestThread]]:
    if every_thread:
        return [[thread] for thread in threads]
    return [list(group) for _, group in groupby(threads, key=lambda thread: (thread.role, thread.mask))]


def _thread_cells(group: Sequence[GuestThread]) -> list[Text]:
    first = group[0]
    numbers = number_list(thread.index for thread in group if thread.index is not None)
    role = f"{first.role} {numbers}" if numbers and first.role is Role.VCPU else str(first.role)
    if len(group) == 1 and first.iothread is not None:
        role = f"{first.role} {first.iothread}"
    thread = f"{first.name} ({first.tid})" if len(group) == 1 else f"{len(group)} threads"
    last = number_list(thread.cpu for thread in group if thread.cpu is not None)
    return [Text(role), Text(thread), _cpus(first.mask), Text(last)]


def _when(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "at no time"


def _cpus(cpus: CpuSet | None) -> Text:
    if cpus is None:
        return Text("-")
    return Text(str(cpus) or "none")


def _role(thread: ThreadResult) -> str:
    if thread.role is None:
        return "-"
    return str(thread.role) if thread.index is None else f"{thread.role} {thread.index}"


def _short(guest: Guest, thread: GuestThread) -> str:
    index = "" if thread.index is None else f" {thread.index}"
    return f"{guest.name} {thread.role}{index}"
