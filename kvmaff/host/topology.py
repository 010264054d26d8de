"""
What a machine is made of, as frozen values.

Rule: a level is a tuple of CpuSets, in order of first CPU. A core *is* the set of its PUs: the ids that
firmware gives to cores, dies and packages repeat, are -1 or 65535 on real machines, so none is kept.
Rule: only online CPUs are members; an empty level means that the machine does not say.
"""

from __future__ import annotations

import attrs

from kvmaff.cpuset import CpuSet

__all__ = ["CoreKind", "HugePages", "NumaNode", "Topology"]


@attrs.frozen(kw_only=True)
class HugePages:
    """
    The huge pages of one size.

    Attributes:
        size_bytes: The size of a page.
        total: How many there are, free or not.
        free: How many of them nobody uses; those that are reserved but not yet used count as free.
    """

    size_bytes: int
    total: int
    free: int


@attrs.frozen(kw_only=True)
class NumaNode:
    """
    One NUMA node.

    Attributes:
        number: The kernel's number of it; nodes may be numbered with gaps.
        cpus: Its online CPUs; empty for a node of memory only.
        memory_bytes: Its memory, 0 for a node of CPUs only, None where the machine does not say.
        distances: (node, distance) by node number; 10 is the node itself. Empty where not told.
        huge_pages: Its huge pages, by size; sizes of which it has none are listed with 0.
    """

    number: int
    cpus: CpuSet
    memory_bytes: int | None
    distances: tuple[tuple[int, int], ...] = ()
    huge_pages: tuple[HugePages, ...] = ()

    def distance_to(self, number: int) -> int | None:
        """
        How far another node is, in the firmware's unit (10 is local).

        Args:
            number: The other node's number.

        Returns:
            The distance, or None where the machine does not say.
        """
        return dict(self.distances).get(number)


@attrs.frozen(kw_only=True)
class CoreKind:
    """
    Cores of one kind, on a machine that has several.

    Attributes:
        name: ``P``, ``E`` or ``LP-E`` where the kernel names them; else ``capacity 1024`` or ``4800 MHz``, the most
            that one of them has.
        cpus: Their CPUs.
    """

    name: str
    cpus: CpuSet


@attrs.frozen(kw_only=True)
class Topology:
    """
    The CPUs of a machine and every level they are grouped in.

    Attributes:
        possible: CPUs that could ever be plugged in (/sys/devices/system/cpu/possible).
        present: CPUs that are plugged in.
        online: CPUs that schedule.
        drawers: CPUs by drawer (IBM Z).
        books: CPUs by book (IBM Z).
        packages: CPUs by package (socket).
        dies: CPUs by die; only where some package has more than one.
        clusters: CPUs by cluster; only where the kernel names clusters.
        cores: CPUs by core; the members of one are SMT siblings.
        l2: CPUs by level-2 cache (data or unified).
        l3: CPUs by level-3 cache.
        nodes: NUMA nodes by number.
        kinds: Core kinds, the fastest first; only where there are several.
        smt: What smt/control says (``on``, ``off``, ``forceoff``, ``notsupported``, ``notimplemented``, or a number of
            threads); None where it is not told.
        huge_pages: The huge pages of the whole machine, by size.
    """

    possible: CpuSet
    present: CpuSet
    online: CpuSet
    drawers: tuple[CpuSet, ...] = ()
    books: tuple[CpuSet, ...] = ()
    packages: tuple[CpuSet, ...]
    dies: tuple[CpuSet, ...]
    clusters: tuple[CpuSet, ...]
    cores: tuple[CpuSet, ...]
    l2: tuple[CpuSet, ...]
    l3: tuple[CpuSet, ...]
    nodes: tuple[NumaNode, ...]
    kinds: tuple[CoreKind, ...] = ()
    smt: str | None = None
    huge_pages: tuple[HugePages, ...] = ()

    @property
    def offline(self) -> CpuSet:
        """CPUs that are present and do not schedule."""
        return self.present - self.online

    @property
    def threads_per_core(self) -> int | None:
        """The most PUs that a core has online; None where cores are not told."""
        return max(map(len, self.cores), default=None)

    def state_of(self, cpu: int) -> str:
        """
        What a CPU number means on this machine.

        Args:
            cpu: The number.

        Returns:
            ``online``, ``offline`` (present but switched off), or ``absent``.
        """
        if cpu in self.online:
            return "online"
        return "offline" if cpu in self.present else "absent"
