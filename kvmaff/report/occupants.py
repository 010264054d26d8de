"""What runs on a CPU, for a terminal."""

from __future__ import annotations

import pwd
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvmaff.guest.guest import Guest
from kvmaff.host.irqs import Irq
from kvmaff.host.occupants import Occupancy
from kvmaff.host.reader import Host
from kvmaff.host.threads import Thread

__all__ = ["guest_threads", "occupants"]

_MOST = 24  # rows of a kind; the rest is counted


def guest_threads(guests: Sequence[Guest]) -> dict[int, str]:
    """
    Say what the threads of guests are.

    Args:
        guests: The guests.

    Returns:
        ``web vcpu 0`` by thread number.
    """
    return {
        thread.tid: f"{guest.name} {thread.role}{'' if thread.index is None else f' {thread.index}'}"
        for guest in guests
        if guest.verified
        for thread in guest.threads
    }


def occupants(
    found: Occupancy, host: Host, names: Mapping[int, str], why_not: str | None, *, everything: bool = False
) -> RenderableType:
    """
    Show what runs on a CPU.

    Args:
        found: What runs there.
        host: The machine.
        names: What the threads of guests are, by thread number.
        why_not: Why the process in question may not run there; None where it may.
        everything: Fold nothing.

    Returns:
        A picture of it.
    """
    most = 1 << 30 if everything else _MOST
    parts: list[RenderableType] = [Text(_head(found, host), style="bold")]
    parts += [Text(f"  kept from {one.what.value} by {one.by}") for one in found.kept]
    if why_not is not None:
        parts.append(Text(f"  not for this process: {why_not}"))
    if found.state == "online":
        parts += _threads("bound to it, and to nothing else", found.bound, names, most)
        parts += _threads("ran here last, may run elsewhere", found.here, names, most)
        parts += _threads(
            "kernel threads that ran here last and may run elsewhere", found.movable, names, most
        )
        parts.append(Text(f"its own kernel threads, as on every CPU: {_own(found.own)}"))
        parts.append(Text(f"{found.others} more threads may run here and ran elsewhere last"))
        parts += _irqs(found, most)
    parts += [Text(line, style=style) for line, style in _verdict(found, most)]
    return Group(*parts)


def _head(found: Occupancy, host: Host) -> str:
    topology = host.topology
    words = [f"CPU {found.cpu}", found.state + (", isolated" if found.isolated else "")]
    core = next((core for core in topology.cores if found.cpu in core), None)
    if core is not None:
        words.append(f"core {core}" if len(core) > 1 else "a core of its own")
    words += [f"L3 {group}" for group in topology.l3 if found.cpu in group]
    words += [f"NUMA node {node.number}" for node in topology.nodes if found.cpu in node.cpus]
    words += [
        f"package {place} of {len(topology.packages)}"
        for place, group in enumerate(topology.packages, 1)
        if found.cpu in group and len(topology.packages) > 1
    ]
    words += [f"kind {kind.name}" for kind in topology.kinds if found.cpu in kind.cpus]
    return "; ".join(words)


def _threads(
    title: str, threads: Sequence[Thread], names: Mapping[int, str], most: int
) -> Iterator[RenderableType]:
    if not threads:
        yield Text(f"{title}: none")
        return
    yield Text(f"{title}:")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("  user", "pid", "ppid", "thread", "may run on", "what"):
        table.add_column(
            column, overflow="fold", justify="right" if column in ("pid", "ppid", "thread") else "left"
        )
    for thread in threads[:most]:
        table.add_row(
            Text(f"  {_user(thread.uid)}"),
            str(thread.pid),
            "-" if thread.ppid is None else str(thread.ppid),
            str(thread.tid),
            Text("-" if thread.mask is None else str(thread.mask)),
            Text(_what(thread, names)),
        )
    yield table
    if len(threads) > most:
        yield Text(f"  ... and {len(threads) - most} more (--all shows them)")


def _what(thread: Thread, names: Mapping[int, str]) -> str:
    guest = names.get(thread.tid)
    if guest is not None:
        return f"guest {guest} ({thread.name})"
    if thread.kernel:
        return f"[{thread.name}]"
    if not thread.args:
        return thread.name
    args = thread.args if len(thread.args) <= 72 else f"{thread.args[:69]}..."
    return args if thread.tid == thread.pid else f"{thread.name}: {args}"


def _own(threads: Sequence[Thread]) -> str:
    return ", ".join(thread.name for thread in threads) or "none"


def _irqs(found: Occupancy, most: int) -> Iterator[RenderableType]:
    if found.irqs is None:
        yield Text("interrupts that come here: not known")
        return
    here = [irq for irq in found.irqs if irq.count(found.cpu) or found.cpu in irq.goes_to]
    rest = len(found.irqs) - len(here)
    more = f"; {rest} more may be sent here and never were" if rest else ""
    if not here:
        yield Text(f"interrupts that come here: none{more}")
        return
    yield Text(f"interrupts that come here, or did{more}:")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("  irq", "times here", "may go to", "goes to", "whose"):
        table.add_column(column, overflow="fold", justify="right" if column == "times here" else "left")
    # those that come here now stand first
    here.sort(key=lambda irq: (found.cpu not in irq.goes_to, -irq.count(found.cpu), irq.number))
    for irq in here[:most]:
        table.add_row(f"  {irq.number}", str(irq.count(found.cpu)), *_affinity(irq), Text(irq.name))
    yield table
    if len(here) > most:
        yield Text(f"  ... and {len(here) - most} more (--all shows them)")


def _affinity(irq: Irq) -> tuple[Text, Text]:
    told = [Text("?" if cpus is None else str(cpus) or "-") for cpus in (irq.allowed, irq.effective)]
    return told[0], told[1]


def _verdict(found: Occupancy, most: int) -> Iterator[tuple[str, str]]:
    if found.state != "online":
        return
    if not found.isolated:
        for sentence in found.hidden:
            yield f"not all may be seen: {sentence}", "yellow"
        return
    if found.clean:
        yield (
            f"CPU {found.cpu} is isolated and clean: nothing runs there but its own and what was bound to it",
            "green",
        )
        return
    if found.clean is None:
        yield f"CPU {found.cpu} is isolated; whether it is clean cannot be known:", "yellow"
        for sentence in found.hidden:
            yield f"  {sentence}", "yellow"
        return
    yield f"CPU {found.cpu} is isolated, but not clean:", "red"
    for sentence in found.dirt[:most]:
        yield f"  {sentence}", "red"
    if len(found.dirt) > most:
        yield f"  ... and {len(found.dirt) - most} more (--all shows them)", "red"
    for sentence in found.hidden:
        yield f"  not all may be seen: {sentence}", "yellow"


def _user(uid: int | None) -> str:
    """A capture's users are those of another machine; a number says so."""
    if uid is None:
        return "?"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
