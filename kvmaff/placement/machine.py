"""
What a machine is, as the search counts it: cores and distances, whoever is on them.

Worked out when it is first asked for, since only some guests need it, and once for all boards of a search.
"""

from __future__ import annotations

from array import array
from functools import cached_property

from kvmaff.cpuset import CpuSet
from kvmaff.host.reader import Host
from kvmaff.placement.fit import MOST_APART, HostCores, NodeCores

__all__ = ["PARTS", "Machine"]

PARTS = 100
"""Distances to what a guest has already count in so many parts of the firmware's unit."""


class Machine:
    """
    One host.

    Args:
        host: It.
    """

    def __init__(self, host: Host) -> None:
        self._topology, self._columns = host.topology, host.columns

    @cached_property
    def cores(self) -> tuple[CpuSet, ...]:
        """All cores; a CPU of which the host tells none is one of its own."""
        told = self._topology.cores
        return (*told, *(CpuSet([cpu]) for cpu in self._topology.online - CpuSet.union_of(told)))

    @cached_property
    def shape(self) -> dict[int, NodeCores]:
        """The cores of each node, by its number."""
        by_first = {core.bits & -core.bits: core for core in self.cores}
        firsts = CpuSet.from_bits(sum(by_first))
        return {
            node.number: NodeCores.of([by_first[1 << cpu] for cpu in node.cpus & firsts], self._columns.l3)
            for node in self._columns.nodes
        }

    @cached_property
    def alone(self) -> dict[int, HostCores]:
        """Each node as if it were the host."""
        return {number: HostCores.of([shape], [[0]]) for number, shape in self.shape.items()}

    @cached_property
    def far(self) -> memoryview:
        """How far each node is from each, beyond local, row by row; of hosts that are laid out."""
        return memoryview(self._columns.distance).cast("q")

    @cached_property
    def together(self) -> HostCores:
        """All nodes and how far they are apart, for the search over them; only where there are not too many."""
        layout = self._columns.layout
        assert layout is not None
        return HostCores(layout=layout, distance=self._columns.distance)

    @cached_property
    def together_finely(self) -> HostCores:
        """The same with distances in parts of the firmware's unit, as far as the search takes such numbers."""
        layout = self._columns.layout
        assert layout is not None
        scaled = array("q", [min(PARTS * far, MOST_APART) for far in self.far])
        return HostCores(layout=layout, distance=scaled.tobytes())
