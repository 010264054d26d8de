"""
/sys -> Topology.

Rules (Documentation/admin-guide/cputopology.rst, Documentation/ABI/testing/sysfs-devices-system-cpu):

* a group of CPUs is what the kernel lists for one of them, as a list or, on old kernels, a mask, always
  intersected with the online CPUs: lists keep offline CPUs, hand-made trees contradict themselves;
* one CPU of a group is asked, the others are taken at its word: that keeps a read at about a millisecond;
* ``cache/indexN`` means nothing by its number: ``level`` and ``type`` say which cache it is;
* a cluster id of -1 or 65535 means that there is no cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from kvmaff.cpuset import MAX_CPUS, CpuSet
from kvmaff.errors import HostReadError
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.host.tree import Tree

__all__ = ["read_topology"]

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"
_MAX_NODES = 1024  # CONFIG_NODES_SHIFT is at most 10
_MAX_INDEX = 16  # cache/index0..15: the most that any CPU shows is 5
_NO_CLUSTER = (None, -1, 65535)


def read_topology(tree: Tree) -> Topology:
    """
    Read the topology of a machine.

    Args:
        tree: The machine's root.

    Returns:
        Its topology, with empty levels where it does not say.

    Raises:
        HostReadError: The tree does not say which CPUs there are.
    """
    listed = tree.numbered(_CPU, "cpu", MAX_CPUS)
    online = tree.cpus(f"{_CPU}/online")
    if online is None:
        online = CpuSet(cpu for cpu in listed if _seems_online(tree, cpu))
    if not online:
        path = f"{tree.root.rstrip('/')}/{_CPU}/online"
        raise HostReadError(f"{path}: names no CPU; is this the root of a machine?", path=path)
    present = tree.cpus(f"{_CPU}/present") or CpuSet(listed) | online
    possible = tree.cpus(f"{_CPU}/possible") or present

    cores = _partition(online, lambda cpu: _siblings(tree, cpu, "core_cpus", "thread_siblings"))
    packages = _partition(online, lambda cpu: _siblings(tree, cpu, "package_cpus", "core_siblings"))
    dies = _partition(online, lambda cpu: _siblings(tree, cpu, "die_cpus"))
    if not any(die < package for die in dies for package in packages):
        dies = ()
    firsts = CpuSet(core.first for core in cores) if cores else online
    caches = {level: _Cache(tree, level) for level in (2, 3)}
    return Topology(
        possible=possible,
        present=present,
        online=online,
        packages=packages,
        dies=dies,
        clusters=_partition(online, lambda cpu: _cluster(tree, cpu)),
        cores=cores,
        l2=_partition(firsts, caches[2].around, online),
        l3=_partition(firsts, caches[3].around, online),
        nodes=_nodes(tree, online),
    )


def _seems_online(tree: Tree, cpu: int) -> bool:
    """Old kernels and trimmed recordings have no cpu/online: then the CPU's own folder tells."""
    own = tree.number(f"{_CPU}/cpu{cpu}/online")
    if own is not None:
        return own == 1
    return tree.text(f"{_CPU}/cpu{cpu}/topology/core_id") is not None or cpu == 0


def _partition(
    ask: CpuSet, group_of: Callable[[int], CpuSet | None], online: CpuSet | None = None
) -> tuple[CpuSet, ...]:
    """Group CPUs by asking one of each group; those that do not say are in none."""
    groups: list[CpuSet] = []
    seen = CpuSet()
    for cpu in ask:
        if cpu in seen:
            continue
        said = group_of(cpu)
        if said is None or cpu not in said:
            continue
        group = (said & (ask if online is None else online)) - seen
        groups.append(group)
        seen |= group
    return tuple(groups)


def _siblings(tree: Tree, cpu: int, *names: str) -> CpuSet | None:
    folder = f"{_CPU}/cpu{cpu}/topology"
    masks = [f"{folder}/{name}" for name in names]
    return tree.cpus(*(f"{mask}_list" for mask in masks), masks=masks)


def _cluster(tree: Tree, cpu: int) -> CpuSet | None:
    if tree.number(f"{_CPU}/cpu{cpu}/topology/cluster_id") in _NO_CLUSTER:
        return None
    return _siblings(tree, cpu, "cluster_cpus")


class _Cache:
    """The data or unified cache of one level, found first where it was found last time."""

    def __init__(self, tree: Tree, level: int) -> None:
        self._tree = tree
        self._level = level
        self._last = level

    def around(self, cpu: int) -> CpuSet | None:
        """Return the CPUs that share it with this one, or None where there is no such cache."""
        found = self._at(cpu, self._last)
        if found is not None:
            return found
        for index in self._tree.numbered(f"{_CPU}/cpu{cpu}/cache", "index", _MAX_INDEX):
            found = self._at(cpu, index)
            if found is not None:
                self._last = index
                return found
        return None

    def _at(self, cpu: int, index: int) -> CpuSet | None:
        folder = f"{_CPU}/cpu{cpu}/cache/index{index}"
        if self._tree.number(f"{folder}/level") != self._level:
            return None
        if self._tree.text(f"{folder}/type") == "Instruction":
            return None
        return self._tree.cpus(f"{folder}/shared_cpu_list", masks=[f"{folder}/shared_cpu_map"])


def _nodes(tree: Tree, online: CpuSet) -> tuple[NumaNode, ...]:
    numbers = tree.numbered(_NODE, "node", _MAX_NODES)
    nodes = []
    for number in numbers:
        folder = f"{_NODE}/node{number}"
        cpus = tree.cpus(f"{folder}/cpulist", masks=[f"{folder}/cpumap"]) or CpuSet()
        nodes.append(
            NumaNode(
                number=number,
                cpus=cpus & online,
                memory_bytes=_memory(tree.text(f"{folder}/meminfo")),
                distances=_distances(tree.text(f"{folder}/distance"), numbers),
            )
        )
    return tuple(nodes)


def _memory(meminfo: str | None) -> int | None:
    for line in (meminfo or "").splitlines():
        words = line.split()
        if words[2:3] == ["MemTotal:"] and words[3:] and words[3].isdigit() and len(words[3]) < 16:
            return int(words[3]) * 1024
    return None


def _distances(row: str | None, numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """One number for each online node, in order; a row of another length tells nothing."""
    words = (row or "").split()
    if len(words) != len(numbers) or not all(w.isascii() and w.isdigit() for w in words):
        return ()
    if any(len(word) > 9 for word in words):
        return ()
    return tuple(zip(numbers, map(int, words), strict=True))
