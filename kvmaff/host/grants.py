"""What a thread is really granted, and why a CPU is not among it."""

from __future__ import annotations

import os

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.host.cgroup import Cgroups, Grant
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.threads import read_threads
from kvmaff.host.tree import open_tree

__all__ = ["granted", "why_not"]


def granted(host: Host, pid: int | None = None, tid: int | None = None) -> Grant:
    """
    Find out which CPUs and memory nodes a thread's cgroup grants it.

    Args:
        host: The machine.
        pid: The process; None for this one, or the one that made the capture.
        tid: One of its threads; in a threaded cgroup it may have its own. None for the process.

    Returns:
        The grant: online CPUs only; all of them and all nodes, by no cgroup (``""``), where none limits it.

    Raises:
        RequestError: The process or thread is not there.
    """
    with open_tree(host.root) as tree:
        whose = "self" if pid is None else str(pid)
        file = f"proc/{whose}/cgroup" if tid is None else f"proc/{whose}/task/{tid}/cgroup"
        if pid is not None and tree.text(file) is None:
            raise RequestError.of([f"{f'thread {tid} of ' if tid else ''}process {pid} is not there"])
        found = Cgroups(tree).granted(whose, tid)
    online = host.topology.online
    if found is None:
        nodes = tuple(node.number for node in host.topology.nodes)
        return Grant(cgroup="", cpus=online, nodes=nodes or None)
    return Grant(cgroup=found.cgroup, cpus=found.cpus & online, nodes=found.nodes, above=found.above)


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
    grant = granted(host, pid, tid)
    state = host.topology.state_of(cpu)
    if state == "absent":
        return f"there is no such CPU; this machine has {host.topology.present}"
    if state == "offline":
        return f"it is offline; as root: echo 1 > /sys/devices/system/cpu/cpu{cpu}/online"
    for kept in host.isolation.of(cpu):
        inside = grant.cgroup == kept.by or grant.cgroup.startswith(f"{kept.by}/")
        if kept.what is KeptFrom.OUTSIDERS and not inside:
            return f"the cgroup partition {kept.by} has it for itself"
    taken = grant.taken_by(cpu)
    if taken is not None:
        return f"the cgroup {taken[0]} grants {taken[1]} only"
    mask = _mask(host, pid, tid)
    if mask is not None and cpu not in mask:
        return f"its mask is {mask}: set by somebody, or what it started with (isolcpus= leaves CPUs out of that)"
    return None


def _mask(host: Host, pid: int | None, tid: int | None) -> CpuSet | None:
    if pid is None and not host.live:
        return None
    number = tid or pid or os.getpid()
    return next((thread.mask for thread in read_threads(host.root) if thread.tid == number), None)
