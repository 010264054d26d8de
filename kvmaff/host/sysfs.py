"""
/sys -> Topology: the CPUs and the levels they are grouped in.

Rules (Documentation/admin-guide/cputopology.rst, Documentation/ABI/testing/sysfs-devices-system-cpu):

* a group of CPUs is what the kernel tells for one of them, always intersected with the online CPUs: offline ones stay
  in it, and hand-made trees contradict themselves;
* the mask is asked before the list: kernels before 5.16 cut a list off at a page; some recordings have lists only;
* one CPU of a group is asked, the others are taken at its word, and a level of which neither the first nor the last
  CPU knows is not told: that keeps a read at about a millisecond;
* ``cache/indexN`` means nothing by its number: ``level`` and ``type`` say which cache it is;
* a cluster id of -1 or 65535, or a die id of -1, means that there is no cluster, no die.
"""

from __future__ import annotations

from collections.abc import Callable

from kvmaff.cpuset import MAX_CPUS, CpuSet
from kvmaff.errors import HostReadError
from kvmaff.host.kinds import read_kinds
from kvmaff.host.memory import read_huge_pages, read_nodes
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.host.tree import Tree

__all__ = ["read_topology"]

_CPU = "sys/devices/system/cpu"
_MAX_INDEX = 16  # cache/index0..15: the most that any CPU shows is 5
_SMT = ("on", "off", "forceoff", "notsupported", "notimplemented")


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
        online = _seem_online(tree, listed)
    if not online:
        path = f"{tree.root.rstrip('/')}/{_CPU}/online"
        raise HostReadError(f"{path}: names no CPU; is this the root of a machine?", path=path)
    present = (tree.cpus(f"{_CPU}/present") or CpuSet(listed)) | online
    possible = (tree.cpus(f"{_CPU}/possible") or present) | present

    def level(*names: str, number: str = "", none: tuple[int | None, ...] = ()) -> tuple[CpuSet, ...]:
        return _partition(online, _Level(tree, names, number, none).around)

    cores = level("core_cpus", "thread_siblings")
    nodes = read_nodes(tree, online)
    packages = _rejoined(tree, level("package_cpus", "core_siblings"), nodes)
    dies = level("die_cpus", number="die_id", none=(-1, 65535))
    if not any(die < package for die in dies for package in packages):
        dies = ()
    firsts = CpuSet(core.first for core in cores) if cores else online
    caches = {number: _Cache(tree, number) for number in (2, 3)}
    return Topology(
        possible=possible,
        present=present,
        online=online,
        drawers=level("drawer_siblings"),
        books=level("book_siblings"),
        packages=packages,
        dies=dies,
        clusters=level("cluster_cpus", number="cluster_id", none=(None, -1, 65535)),
        cores=cores,
        l2=_partition(firsts, caches[2].around, online),
        l3=_partition(firsts, caches[3].around, online),
        nodes=nodes,
        kinds=read_kinds(tree, online, firsts, cores, packages),
        smt=_smt(tree.text(f"{_CPU}/smt/control")),
        huge_pages=read_huge_pages(tree, "sys/kernel/mm/hugepages"),
    )


def _seem_online(tree: Tree, listed: list[int]) -> CpuSet:
    """
    Find the online CPUs where no file lists them, as on old kernels and in trimmed recordings.

    A CPU's own file is believed. Without one (CPU 0, kernels without hot-plug) a CPU that is offline has nothing in its
    topology folder, unless the kernel is so old that no CPU has such a folder.
    """
    own = {cpu: tree.number(f"{_CPU}/cpu{cpu}/online") for cpu in listed}
    silent = [cpu for cpu in listed if own[cpu] is None]
    shown = [cpu for cpu in silent if tree.names(f"{_CPU}/cpu{cpu}/topology")]
    return CpuSet([cpu for cpu in listed if own[cpu] == 1] + (shown or silent))


def _smt(text: str | None) -> str | None:
    """Some architectures print how many threads a core may have online."""
    if text in _SMT:
        return text
    return text if text and text.isascii() and text.isdigit() and len(text) < 5 else None


def _partition(
    ask: CpuSet, group_of: Callable[[int], CpuSet | None], online: CpuSet | None = None
) -> tuple[CpuSet, ...]:
    """Group CPUs by asking one of each group; those that do not say are in none."""
    first = group_of(ask.first)
    if first is None and group_of(ask.last) is None:
        return ()
    groups: list[CpuSet] = []
    seen = CpuSet()
    for cpu in ask:
        if cpu in seen:
            continue
        said = first if cpu == ask.first else group_of(cpu)
        if said is None or cpu not in said:
            continue
        group = (said & (ask if online is None else online)) - seen
        groups.append(group)
        seen |= group
    return tuple(sorted(groups, key=lambda group: group.first))


def _rejoined(tree: Tree, packages: tuple[CpuSet, ...], nodes: tuple[NumaNode, ...]) -> tuple[CpuSet, ...]:
    """
    Join what kernels before 3.18 cut: a package of several NUMA nodes (Cluster-on-Die), at the nodes.

    The pieces have one physical_package_id and lie in a node each. Pieces within a node (Itanium), an id of -1 (s390,
    POWER, RISC-V), and books, which number their packages anew, are left alone.
    """
    pieces: dict[int, list[tuple[int, CpuSet]]] = {}
    for package in packages if 1 < len(packages) <= len(nodes) else ():
        homes = [node.number for node in nodes if not package.isdisjoint(node.cpus)]
        folder = f"{_CPU}/cpu{package.first}/topology"
        number = tree.number(f"{folder}/physical_package_id")
        if (
            len(homes) == 1
            and number is not None
            and number >= 0
            and tree.number(f"{folder}/book_id") is None
        ):
            pieces.setdefault(number, []).append((homes[0], package))
    whole = set(packages)
    for parts in pieces.values():
        if len(parts) > 1 and len({home for home, _ in parts}) == len(parts):
            whole -= {part for _, part in parts}
            whole.add(CpuSet.union_of(part for _, part in parts))
    return tuple(sorted(whole, key=lambda package: package.first))


class _Files:
    """Masks and lists that tell the same; what told last is asked first."""

    def __init__(self, tree: Tree, masks: tuple[str, ...], lists: tuple[str, ...]) -> None:
        self._asked = [(tree.mask, name) for name in masks] + [(tree.cpus, name) for name in lists]

    def told(self, folder: str) -> CpuSet | None:
        """Return what they tell in a folder, or None."""
        for at, (ask, name) in enumerate(self._asked):
            found = ask(f"{folder}/{name}")
            if found is not None:
                if at:
                    self._asked.insert(0, self._asked.pop(at))
                return found
        return None


class _Level:
    """A level of cpuN/topology."""

    def __init__(self, tree: Tree, names: tuple[str, ...], number: str, none: tuple[int | None, ...]) -> None:
        self._tree = tree
        self._files = _Files(tree, names, tuple(f"{name}_list" for name in names))
        self._number = number
        self._none = none

    def around(self, cpu: int) -> CpuSet | None:
        """Return the CPUs that are in one group with this one, or None where that is not told."""
        folder = f"{_CPU}/cpu{cpu}/topology"
        if self._number and self._tree.number(f"{folder}/{self._number}") in self._none:
            return None
        return self._files.told(folder)


class _Cache:
    """The data or unified cache of one level, found first where it was found last time."""

    def __init__(self, tree: Tree, level: int) -> None:
        self._tree = tree
        self._files = _Files(tree, ("shared_cpu_map",), ("shared_cpu_list",))
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
        if self._tree.text(f"{folder}/type") not in (None, "Data", "Unified"):
            return None
        return self._files.told(folder)
