"""What a thread is really granted, and why a CPU is not among it."""

from __future__ import annotations

import os

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError, RequestError
from kvmaff.host.cgroup import Cgroups, Grant
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.threads import read_threads
from kvmaff.host.tree import open_tree
from kvmaff.kernel.masks import read_masks

__all__ = ["granted", "reasons", "why_not"]


def granted(host: Host, pid: int | None = None, tid: int | None = None) -> Grant:
    """
    Find out which CPUs and memory nodes a thread's cgroup grants it.

    Args:
        host: The machine.
        pid: The process; None for this one, or the one that made the capture.
        tid: One of its threads; in a threaded cgroup it may have its own. None for the process.

    Returns:
        The grant: online CPUs only. Where no cgroup limits it, all of them and all nodes, by no cgroup (``""``). Where
        its cgroup cannot be seen (another cgroup namespace), what its mask has, by no cgroup and nodes not told.

    Raises:
        RequestError: The process or thread is not there.
        HostReadError: A capture is damaged.
    """
    return _grant(host, pid, tid)[0]


def why_not(host: Host, cpu: int, pid: int | None = None, tid: int | None = None) -> str | None:
    """
    Say why a thread may not run on a CPU.

    Args:
        host: The machine.
        cpu: The CPU.
        pid: The process; None for this one, or the one that made the capture.
        tid: One of its threads; None for its main thread.

    Returns:
        The reason that lies deepest: the CPU itself, a partition, a cgroup, its own mask; None where it may.

    Raises:
        RequestError: The process or thread is not there.
        HostReadError: A capture is damaged.
    """
    return reasons(host, CpuSet([cpu]), pid, tid)[cpu]


def reasons(
    host: Host, cpus: CpuSet, pid: int | None = None, tid: int | None = None
) -> dict[int, str | None]:
    """
    Say for several CPUs why a thread may not run there.

    Args:
        host: The machine.
        cpus: The CPUs.
        pid: As for :func:`why_not`.
        tid: As for :func:`why_not`.

    Returns:
        The reason by CPU; None where it may.

    Raises:
        RequestError: The process or thread is not there.
        HostReadError: A capture is damaged.
    """
    grant, mask = _grant(host, pid, tid)
    return {cpu: _reason(host, cpu, grant, mask) for cpu in cpus}


def _reason(host: Host, cpu: int, grant: Grant, mask: CpuSet | None) -> str | None:
    state = host.topology.state_of(cpu)
    if state == "absent":
        return f"there is no such CPU; this machine has {host.topology.present}"
    if state == "offline":
        return f"it is offline; as root: echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"
    for kept in host.isolation.of(cpu):
        inside = grant.cgroup == kept.by or grant.cgroup.startswith(f"{kept.by}/")
        if kept.what is KeptFrom.OUTSIDERS and not inside:
            return f"{'' if kept.by.startswith('a ') else 'the cgroup partition '}{kept.by} has it for itself"
    taken = grant.taken_by(cpu) if grant.cgroup else None
    if taken is not None:
        return f"the cgroup {taken[0]} grants {taken[1]} only"
    if mask is not None and cpu not in mask:
        return f"its mask is {mask}: set by somebody, or what it started with (isolcpus= leaves CPUs out of that)"
    return None


def _grant(host: Host, pid: int | None, tid: int | None) -> tuple[Grant, CpuSet | None]:
    """Return the grant, and the thread's mask where that can be read."""
    online = host.topology.online
    with open_tree(host.root) as tree:
        whose = "self" if pid is None else str(pid)
        folder = f"proc/{whose}" if tid is None else f"proc/{whose}/task/{tid}"
        shown = tree.read(f"{folder}/cgroup") is not None
        mask, known = (None, True) if pid is None and not host.live else _mask(host, pid, tid)
        if pid is not None and not shown and (host.live or not known):
            raise RequestError.of([f"{f'thread {tid} of ' if tid else ''}process {pid} is not there"])
        cgroups = Cgroups(tree)
        # a capture has the cgroups of processes, and of the threads of guests
        found = cgroups.granted(whose, tid if shown else None)
    if found is not None:
        return attrs.evolve(found, cpus=found.cpus & online), mask
    if cgroups.hierarchies and (mask is not None or not host.live):
        return Grant(cgroup="", cpus=online if mask is None else mask & online), mask
    nodes = tuple(node.number for node in host.topology.nodes)
    return Grant(cgroup="", cpus=online, nodes=nodes or None), mask


def _mask(host: Host, pid: int | None, tid: int | None) -> tuple[CpuSet | None, bool]:
    """Return a thread's mask, and whether there is such a thread."""
    number = tid or pid or os.getpid()
    if host.live:
        ((mask, error),) = read_masks([number])
        return mask, not error
    try:
        threads = read_threads(host.root)
    except HostReadError:
        return None, False  # nobody recorded them
    found = [thread.mask for thread in threads if thread.tid == number and pid in (None, thread.pid)]
    return (found[0], True) if found else (None, False)
