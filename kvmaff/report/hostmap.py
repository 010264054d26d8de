"""
A placement as a picture of the host.

One line an L3 group (a node where the machine tells none), a pair of brackets a core, one cell a PU:
a letter is a guest, upper case where the PU is a dedicated vCPU's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.host.reader import Host
from kvmaff.placement.placement import GuestPlacement, Placement

__all__ = ["host_map", "placement_table"]

_MANY = "+"
_FREE = "."
_KEPT = "x"
_OTHERS = "e"
_LETTERS = "abcdfghijklmnopqrstuvwyz"  # without those two
_LEGEND = (
    f"upper case: dedicated   {_MANY} several guests   * a guest beyond the {len(_LETTERS)}th   "
    f"{_KEPT} kept empty, or an emulator's own   {_OTHERS} other threads   "
    f"{_FREE} not used by these guests   : the same, isolated   - offline"
)


def host_map(host: Host, placement: Placement) -> Text:
    """
    Draw who runs where.

    Args:
        host: The host.
        placement: Who runs where.

    Returns:
        The picture with its legend.
    """
    topology = host.topology
    letters = {
        guest.spec.name: _LETTERS[n] if n < len(_LETTERS) else "*" for n, guest in enumerate(placement.guests)
    }
    cells = {cpu: _cell(cpu, placement.guests, letters, host) for cpu in topology.online | topology.offline}
    nodes = topology.nodes or ()
    lines: list[str] = []
    rest = topology.online
    groups = []
    for group in topology.l3 or [node.cpus for node in nodes]:  # nodes may overlap
        groups.append(group & rest)
        rest -= group
    cores = [*topology.cores]
    cores += [CpuSet([cpu]) for cpu in topology.online - CpuSet.union_of(cores)]
    for group in filter(None, (*groups, rest)):
        left = group
        parts = []
        for node in nodes:  # which may overlap, or not have all CPUs
            if not node.cpus.isdisjoint(left):
                parts.append((left & node.cpus, f"node {node.number}"))
                left -= node.cpus
        for part, label in [*parts, *([(left, "")] if left else [])]:
            drawn = [
                "[" + "".join(cells[cpu] for cpu in core & part) + "]"
                for core in cores
                if not core.isdisjoint(part)
            ]
            lines.append(f"{label:8}{'L3' if topology.l3 else '  '} {_folded(drawn)}  {part}")
    if topology.offline:
        lines.append(f"{'offline':11}{'-' * min(len(topology.offline), 64)}  {topology.offline}")
    names = [f"{letters[guest.spec.name]} {guest.spec.name}" for guest in placement.guests]
    return Text("\n".join([*lines, "", *_wrapped(names), _LEGEND]))


def placement_table(placement: Placement) -> Table:
    """
    Show a placement, a row for each guest and role.

    Args:
        placement: The placement.

    Returns:
        The table.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("guest", "node", "role", "CPUs"):
        table.add_column(title, overflow="fold")
    for guest in placement.guests:
        head = [Text(guest.spec.name, style="bold"), Text(", ".join(map(str, guest.nodes)))]
        vcpus = [thread for thread in guest.threads if thread.role is Role.VCPU]
        own = frozenset(guest.spec.pinned)
        pinned = " ".join(f"{thread.index}={thread.cpus}" for thread in vcpus if thread.index in own)
        if pinned:
            table.add_row(*head, "vCPUs, dedicated", Text(pinned))
            head = [Text(""), Text("")]
        floating = [thread for thread in vcpus if thread.index not in own]
        for cpus, same in groupby(floating, key=lambda thread: thread.cpus):
            count = len(list(same))
            table.add_row(*head, f"{count} vCPU{'' if count == 1 else 's'}, shared", Text(str(cpus)))
            head = [Text(""), Text("")]
        others = guest.cpus_of(Role.EMULATOR)
        table.add_row("", "", "other threads", Text(str(others)))
        for number, name in enumerate(guest.spec.iothreads):
            cpus_of_it = guest.cpus_of(Role.IOTHREAD, number)
            if cpus_of_it != others:
                table.add_row("", "", Text(f"IOThread {name}"), Text(str(cpus_of_it)))
    return table


def _cell(cpu: int, guests: Sequence[GuestPlacement], letters: dict[str, str], host: Host) -> str:
    if cpu in host.topology.offline:
        return "-"
    here = [guest for guest in guests if cpu in guest.vcpu_cpus]
    if not here:
        if any(cpu in guest.owned for guest in guests):
            return _KEPT
        if any(cpu in guest.cpus for guest in guests):
            return _OTHERS
        return ":" if cpu in host.isolation.unbalanced else _FREE
    if len(here) > 1:
        return _MANY
    letter = letters[here[0].spec.name]
    return (
        letter.upper()
        if any(cpu in (here[0].cpus_of(Role.VCPU, vcpu) or ()) for vcpu in here[0].spec.pinned)
        else letter
    )


def _folded(cores: Sequence[str]) -> str:
    """Runs of equal cores folded, so that 512 CPUs stay readable."""
    if len(cores) <= 32:
        return "".join(cores)
    parts = []
    for core, same in groupby(cores):
        count = len(list(same))
        parts.append(core if count == 1 else f"{count}x{core}")
    return " ".join(parts)


def _wrapped(names: Sequence[str]) -> list[str]:
    return ["   ".join(names[start : start + 8]) for start in range(0, len(names), 8)]
