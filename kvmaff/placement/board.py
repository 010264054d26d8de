"""
The host while guests are being placed: who owns which PU, and how loaded each is.

Loads count in thousandths of a vCPU a PU. CPUs count as sets; nothing here depends on how they are numbered.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.cpuset import CpuSet
from kvmaff.host.topology import NumaNode
from kvmaff.placement.fit import HostCores, NodeCores
from kvmaff.placement.request import PlacementRequest

__all__ = ["MOST_CELLS", "MOST_NODES", "WHOLE", "Board"]

MOST_NODES = 64
"""NUMA nodes that the exact search knows; on larger hosts the nearest ones are tried."""
MOST_CELLS = 256
"""NUMA cells of a guest that it knows."""

WHOLE = 1000
"""The load of one vCPU on a PU of its own."""
_UNKNOWN_DISTANCE = 20  # what firmware says of another node where it says nothing particular (ACPI SLIT)
_LOCAL = 10
_FARTHEST = 1 << 16


class Board:
    """
    The state of one search.

    Args:
        request: What is to be decided.
    """

    def __init__(self, request: PlacementRequest) -> None:
        topology = request.host.topology
        self.request = request
        self.isolated = request.host.isolation.unbalanced & topology.online
        self.nodes = _nodes(topology.nodes, topology.online)
        self.distances = {node.number: dict(node.distances) for node in topology.nodes}
        singles = topology.online - CpuSet.union_of(topology.cores)
        self.cores = (*topology.cores, *(CpuSet([cpu]) for cpu in singles))
        self.l3 = topology.l3 or tuple(node.cpus for node in self.nodes)
        by_first = {core.bits & -core.bits: core for core in self.cores}
        firsts = CpuSet.from_bits(sum(by_first))
        self.shape = {
            node.number: NodeCores.of([by_first[1 << cpu] for cpu in node.cpus & firsts], self.l3)
            for node in self.nodes
        }
        self.alone = {number: HostCores.of([shape], [[0]]) for number, shape in self.shape.items()}
        self.owner: dict[int, str] = {}
        self.load: dict[int, int] = dict.fromkeys(topology.online, 0)
        self.memory = dict(request.memory)
        self.resident = {demand.spec.name: demand.memory for demand in request.demands}
        self._together: HostCores | None = None
        self.used = CpuSet()  # by anybody, dedicated or not
        for held in request.held:
            if held.dedicated:
                self.own(held.cpus & topology.online, held.name)
            else:
                self.burden(held.cpus & topology.online, held.vcpus)

    def together(self) -> HostCores:
        """All nodes and how far they are apart, for the search over them."""
        if self._together is None:
            numbers = [node.number for node in self.nodes]
            far = [[min(self.distance(one, other), _FARTHEST) for other in numbers] for one in numbers]
            self._together = HostCores.of([self.shape[number] for number in numbers], far)
        return self._together

    def own(self, cpus: CpuSet, name: str) -> None:
        """
        Give CPUs to one guest alone.

        Args:
            cpus: The CPUs.
            name: The guest.
        """
        for cpu in cpus:
            self.owner.setdefault(cpu, name)
            self.load[cpu] = max(self.load[cpu], WHOLE)
        self.used |= cpus

    def burden(self, cpus: CpuSet, vcpus: int) -> None:
        """
        Let vCPUs float over CPUs.

        Args:
            cpus: The CPUs.
            vcpus: How many vCPUs.
        """
        for cpu in cpus:
            self.load[cpu] += WHOLE * vcpus // max(len(cpus), 1)
        self.used |= cpus

    @property
    def owned(self) -> CpuSet:
        """CPUs that belong to one guest alone."""
        return CpuSet(self.owner)

    def distance(self, one: int, other: int) -> int:
        """
        How far two nodes are beyond local.

        Args:
            one: A node's number.
            other: Another's.

        Returns:
            0 for the same node; the firmware's distance less 10 otherwise, the larger one where it differs by
            direction.
        """
        if one == other:
            return 0
        there = self.distances.get(one, {}).get(other, _UNKNOWN_DISTANCE)
        back = self.distances.get(other, {}).get(one, _UNKNOWN_DISTANCE)
        return max(there - _LOCAL, back - _LOCAL, 1)

    def room(self, pool: CpuSet, ceiling: int) -> CpuSet:
        """
        PUs with room for a whole vCPU each, below a load.

        Loads may be fractions, where guests float over more PUs than they have vCPUs; so an L3 group's room counts
        as a whole, and its least loaded PUs stand for it.

        Args:
            pool: The PUs to look at.
            ceiling: The load that none may exceed.

        Returns:
            As many PUs as there is room for.
        """
        free: list[int] = []
        for group in (*(group & pool for group in self.l3), pool - CpuSet.union_of(self.l3)):
            loads = sorted((self.load[cpu], cpu) for cpu in group)
            count = sum(max(ceiling - load, 0) for load, _ in loads) // WHOLE
            free += [cpu for load, cpu in loads[:count] if load < ceiling]
        return CpuSet(free)

    def weight(self, cpus: CpuSet) -> int:
        """
        The load of CPUs together.

        Args:
            cpus: The CPUs.

        Returns:
            Thousandths of a vCPU.
        """
        return sum(self.load[cpu] for cpu in cpus)


def _nodes(told: Iterable[NumaNode], online: CpuSet) -> list[NumaNode]:
    """Nodes that have CPUs, each CPU in the first node that names it; the whole host where there are none."""
    nodes, seen = [], CpuSet()
    for node in told:
        cpus = node.cpus - seen
        seen |= cpus
        if cpus:
            nodes.append(
                NumaNode(
                    number=node.number, cpus=cpus, memory_bytes=node.memory_bytes, distances=node.distances
                )
            )
    rest = online - seen
    if rest:
        number = max((node.number for node in nodes), default=-1) + 1
        nodes.append(NumaNode(number=number, cpus=rest, memory_bytes=None))
    return nodes
