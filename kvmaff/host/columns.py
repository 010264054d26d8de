"""
A host's cores, L3 groups and nodes as columns of numbers, for those who go through all of them.

Worked out once for a host that was read: hosts have hundreds of cores, and every placement asks for all of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host import _lay
from kvmaff.host.topology import NumaNode, Topology

__all__ = ["MOST_NODES", "Columns", "Layout", "columns_of", "far_apart", "nodes_with_cpus"]

MOST_NODES = 64
"""So many NUMA nodes are laid out; hosts with more are searched in another way."""
_BITS = attrgetter("bits")
_UNKNOWN_DISTANCE = 20  # what firmware says of another node where it says nothing particular (ACPI SLIT)
_LOCAL = 10
_FARTHEST = 1 << 16
_FEW = 64  # so many CPUs are looked up one by one, more by going through all cores


@attrs.frozen(kw_only=True)
class Layout:
    """
    Cores node by node, in each in order of their lowest CPUs; packed 32-bit integers.

    Attributes:
        count: How many cores there are.
        core_of: For each CPU the place of its core, or -1.
        node: For each core the place of its node.
        group: For each core its L3 group, -1 for none.
        total: For each core how many PUs it has.
        wide: For each node the number of an L3 group that is all it has and that others have, too; else -1.
    """

    count: int
    core_of: bytes
    node: bytes
    group: bytes
    total: bytes
    wide: bytes

    @classmethod
    def of(cls, cores: Sequence[CpuSet], l3: Sequence[CpuSet], nodes: Sequence[CpuSet]) -> Layout:
        """
        Lay cores out.

        Args:
            cores: The cores, in any order; CPUs of nodes in none of them are cores of one PU.
            l3: L3 groups, in any order; a core is in that of its lowest CPU.
            nodes: Up to 64 nodes; a CPU in several is in the first, and a core in that of its lowest CPU.

        Returns:
            The layout.

        Raises:
            ValueError: A core has no PU, two cores have the same one, one is in no node, or there are too many nodes.
        """
        size = -(-max((cpus.bits.bit_length() for cpus in (*nodes, *l3)), default=1) // 64) or 1
        try:
            packed = [_packed(group, size) for group in (cores, l3, nodes)]
        except OverflowError:
            raise ValueError("a core has PUs in no node") from None
        node, group, total, core_of, wide = _lay.lay_out(size, *packed)
        return cls(count=len(node) // 4, core_of=core_of, node=node, group=group, total=total, wide=wide)

    @classmethod
    def made(
        cls, nodes: Sequence[Sequence[int]], groups: Iterable[int], totals: Iterable[int], wide: Iterable[int]
    ) -> Layout:
        """
        Make a layout of what is known of each core.

        Args:
            nodes: For each node its cores' bits, in order.
            groups: For each core its L3 group.
            totals: For each core how many PUs it has.
            wide: For each node as in :attr:`wide`.

        Returns:
            The layout.
        """
        cores = [core for node in nodes for core in node]
        core_of = array("i", [-1]) * max((core.bit_length() for core in cores), default=0)
        for place, core in enumerate(cores):
            for cpu in CpuSet.from_bits(core):
                core_of[cpu] = place
        return cls(
            count=len(cores),
            core_of=core_of.tobytes(),
            node=array("i", [place for place, node in enumerate(nodes) for _ in node]).tobytes(),
            group=array("i", groups).tobytes(),
            total=array("i", totals).tobytes(),
            wide=array("i", wide).tobytes(),
        )

    def count_free(self, free: CpuSet) -> bytes:
        """
        Count the free PUs of each core.

        Args:
            free: PUs that may be taken; those of no core do not matter.

        Returns:
            A number for each core, packed.
        """
        return _lay.count_free(free.bits, self.core_of, self.count)

    def pick(self, free: CpuSet, takes: list[tuple[int, int]]) -> list[list[int]]:
        """
        Pick the lowest free PUs of some cores.

        Args:
            free: PUs that may be taken.
            takes: (core, how many) for each.

        Returns:
            For each the CPUs, ascending.
        """
        return _lay.pick(free.bits, self.core_of, takes)


@attrs.frozen(kw_only=True)
class Columns:
    """
    What of a host does not change.

    Attributes:
        nodes: The NUMA nodes that have CPUs, each CPU in the first that names it; CPUs in none are one more node.
        l3: The L3 groups; the nodes where the host tells of none.
        layout: All cores; None on a host of more than 64 nodes.
        distance: From each node to each as :func:`far_apart` tells it; empty where there is no layout.
        cores: The bits of each core that the host tells.
        core_at: The same by CPU.
    """

    nodes: tuple[NumaNode, ...]
    l3: tuple[CpuSet, ...]
    layout: Layout | None
    distance: bytes
    cores: tuple[int, ...] = attrs.field(repr=False)
    core_at: Mapping[int, int] = attrs.field(repr=False)

    def cores_of(self, bits: int) -> int:
        """
        All PUs of the cores that have any of some PUs.

        Args:
            bits: The PUs.

        Returns:
            The PUs of their cores; one of which the host tells no core is one of its own.
        """
        whole = bits
        if bits.bit_count() > _FEW:
            for core in self.cores:
                if core & bits:
                    whole |= core
            return whole
        rest, core_at = bits, self.core_at
        while rest:
            last = rest.bit_length() - 1
            core = core_at.get(last, 0) | 1 << last
            whole |= core
            rest &= ~core
        return whole


def columns_of(topology: Topology) -> Columns:
    """
    Work out a host's columns.

    Args:
        topology: The host's.

    Returns:
        The columns.

    Raises:
        ValueError: Two of its cores have the same CPU, or one has none that is online; no reader tells such.
    """
    nodes = nodes_with_cpus(topology)
    l3 = topology.l3 or tuple(node.cpus for node in nodes)
    cores = tuple(map(_BITS, topology.cores))
    core_at = {cpu: core.bits for core in topology.cores for cpu in core}
    if len(nodes) > MOST_NODES:
        return Columns(nodes=nodes, l3=l3, layout=None, distance=b"", cores=cores, core_at=core_at)
    return Columns(
        nodes=nodes,
        l3=l3,
        layout=Layout.of(topology.cores, l3, [node.cpus for node in nodes]),
        distance=far_apart([node.number for node in nodes], [node.distances for node in nodes]),
        cores=cores,
        core_at=core_at,
    )


def nodes_with_cpus(topology: Topology) -> tuple[NumaNode, ...]:
    """
    The NUMA nodes that have CPUs.

    Args:
        topology: The host's.

    Returns:
        Each CPU in the first node that names it; CPUs in none are one more node, the whole host where there are none.
    """
    nodes, seen = [], CpuSet()
    for node in topology.nodes:
        mine = node
        if not node.cpus.isdisjoint(seen):
            mine = attrs.evolve(node, cpus=node.cpus - seen)
        seen |= mine.cpus
        if mine.cpus:
            nodes.append(mine)
    rest = topology.online - seen
    if rest:
        number = max((node.number for node in nodes), default=-1) + 1
        nodes.append(NumaNode(number=number, cpus=rest, memory_bytes=None))
    return tuple(nodes)


def far_apart(numbers: Sequence[int], told: Sequence[Sequence[tuple[int, int]]]) -> bytes:
    """
    Work out how far nodes are apart beyond local.

    Args:
        numbers: Up to 64 nodes' numbers.
        told: For each (node, distance) as the firmware tells it.

    Returns:
        From each to each the distance less 10, the larger one where it differs by direction, from 1 to 65,536; 0 for
        the same; packed as 64-bit integers.
    """
    return _lay.far_apart(list(numbers), list(told), _UNKNOWN_DISTANCE, _LOCAL, _FARTHEST)


def _packed(sets: Iterable[CpuSet], size: int) -> bytes:
    """Words of sets, one after another; each loop here is one of C's."""
    words: Callable[[int, int, str], bytes] = int.to_bytes  # type: ignore[assignment]  # "little" is a str
    return b"".join(map(words, map(_BITS, sets), repeat(8 * size), repeat("little")))
