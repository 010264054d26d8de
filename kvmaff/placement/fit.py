"""
The exact fit of one guest, in CPU ids.

The search itself is compiled (``kvmaff.placement._fit``, which only this module imports) and knows counts alone: PUs of
one core are alike, and so are cores that hold as many free ones. Here counts become ids again, by two rules:

* nodes count in the order in which they are given, cores in the order of their lowest CPU, L3 groups in the order of
  their first core;
* a core gives its lowest free PUs.

So the answer depends on the sets that were given, never on the order in which they were.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.columns import Layout
from kvmaff.placement import _fit
from kvmaff.placement.future import ACCEPT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MOST_APART", "Fit", "HostCores", "NodeCores", "Order", "TooLong", "fit_in_node"]

MOST_APART = 1 << 16
"""Nodes are at most so far apart for the search."""
_NO_L3 = -1
_NO_CAP = 8192
_STEPS = 1 << 16
"""A search that takes longer than a few tenths of a second ends with the best so far, and says so."""


class TooLong(Exception):
    """The search ended before it found a place, or that there is none."""


@attrs.frozen(kw_only=True)
class Order:
    """
    What a guest asks of cores.

    Attributes:
        vcpus: How many, 1 to 8192.
        unit: vCPUs come on a core in multiples of this, and ``vcpus`` is one.
        per_core: At most so many vCPUs on a core; 0 for no limit.
        whole_cores: Whether only cores may be used whose PUs are all free.
    """

    vcpus: int
    unit: int = 1
    per_core: int = 0
    whole_cores: bool = False


@attrs.frozen(kw_only=True)
class Fit:
    """
    The PUs that vCPUs take, and what that costs.

    The five numbers are the levels of the cost, the first counting most; where it is proved, no other choice of PUs
    costs less.

    Attributes:
        cpus: The chosen PUs.
        order: The PU of vCPU 0, 1, and so on: vCPUs on a core follow one another, then cores of an
            L3 group, then groups of a node. With ``unit=2``, vCPUs 2k and 2k + 1 are siblings.
        nodes: For each of them the place of its node.
        cells: The place of the node of each cell.
        distance: Sum over pairs of vCPUs of the distance between their nodes, and of each vCPU's ``near``.
        l3_groups: L3 groups used.
        shared_cores: Cores used that have PUs which were not free.
        broken_cores: Cores used in part that were all free.
        lost: What its PUs were worth to guests to come (future.py).
        proved: Whether it is proved that nothing costs less; otherwise the search was too long and ended.
    """

    cpus: CpuSet
    order: tuple[int, ...]
    nodes: tuple[int, ...]
    cells: tuple[int, ...] = ()
    distance: int
    l3_groups: int
    shared_cores: int
    broken_cores: int
    lost: int
    proved: bool


@attrs.frozen(kw_only=True)
class NodeCores:
    """
    What a fit has to know about a node; :meth:`of` makes one.

    Attributes:
        cores: The cores as bits, in order.
        totals: How many PUs each has.
        groups: For each a number that its L3 group has and no other.
    """

    cores: tuple[int, ...]
    totals: tuple[int, ...]
    groups: tuple[int, ...]

    @classmethod
    def of(cls, cores: Sequence[CpuSet], l3: Iterable[CpuSet]) -> NodeCores:
        """
        Work it out.

        Args:
            cores: The node's cores, each with all its online PUs, in any order.
            l3: The host's L3 groups, in any order. A core belongs to that of its lowest CPU; cores
                in none make up a group of their own, which without L3 groups is the node.

        Returns:
            The node.

        Raises:
            ValueError: A core has no PU, or two cores have the same one.
        """
        ordered = _in_order(cores)
        return cls(
            cores=tuple(ordered),
            totals=tuple(core.bit_count() for core in ordered),
            groups=tuple(_groups(ordered, l3)),
        )


@attrs.frozen(kw_only=True)
class HostCores:
    """
    What a fit has to know about a host.

    Attributes:
        layout: Its cores.
        distance: From each node to each, from 1 to 65,536 where they differ, packed as 64-bit integers.
    """

    layout: Layout
    distance: bytes

    @classmethod
    def of(cls, nodes: Sequence[NodeCores], distance: Sequence[Sequence[int]]) -> HostCores:
        """
        Work it out of nodes whose cores are known.

        Args:
            nodes: Up to 64 nodes.
            distance: From each to each, from 1 to 65,536 where they differ.

        Returns:
            The host.
        """
        layout = Layout.made(
            [node.cores for node in nodes],
            [group for node in nodes for group in node.groups],
            [total for node in nodes for total in node.totals],
            _wide(nodes),
        )
        return cls(layout=layout, distance=array("q", [far for row in distance for far in row]).tobytes())

    def fit(
        self,
        order: Order,
        *,
        free: CpuSet,
        near: Sequence[int],
        cap: Sequence[int] | None = None,
        cells: Sequence[int] = (),
        need: Sequence[int] = (),
        have: Sequence[int] = (),
        steps: int = _STEPS,
    ) -> Fit | None:
        """
        Choose the PUs for some vCPUs.

        Args:
            order: What is asked of cores.
            free: PUs that may be taken; those outside the host do not matter.
            near: For each node what each vCPU on it costs besides, up to 2**30.
            cap: For each node how many vCPUs it may get at most; None for no limit.
            cells: How many vCPUs each cell has, the largest first; each is whole in a node.
            need: What each cell needs of each resource (up to four), cell by cell.
            have: What each node has of each, node by node.
            steps: After so many the search ends with the best so far.

        Returns:
            The fit that costs least, or None when there is none at all.

        Raises:
            ValueError: A number is out of range; says which one.
            TooLong: The search ended before it found a place, or that there is none.
        """
        layout = self.layout
        found = _fit.fit_host(
            order.vcpus,
            order.unit,
            order.per_core,
            order.whole_cores,
            len(near),
            layout.count,
            layout.node,
            layout.group,
            layout.total,
            layout.count_free(free),
            self.distance,
            array("q", near).tobytes(),
            array("i", cap or [_NO_CAP] * len(near)).tobytes(),
            layout.wide,
            ACCEPT,
            cells,
            array("q", need).tobytes(),
            array("q", have).tobytes(),
            steps,
        )
        if found is None:
            return None
        if not found:
            raise TooLong
        takes, cell_nodes, far, (l3_groups, shared_cores, broken_cores, lost), proved = found
        node_of, group_of = memoryview(layout.node).cast("i"), memoryview(layout.group).cast("i")
        pus: dict[int, dict[int, list[int]]] = {}
        for (core, _), cpus in zip(takes, layout.pick(free, takes), strict=True):
            by_group = pus.setdefault(node_of[core], {})
            by_group.setdefault(group_of[core], []).extend(cpus)
        lines = {place: list(chain.from_iterable(by_group.values())) for place, by_group in pus.items()}
        if cells:
            left = {place: iter(line) for place, line in lines.items()}
            nodes = [place for place, count in zip(cell_nodes, cells, strict=True) for _ in range(count)]
            chosen = [next(left[place]) for place in nodes]
        else:
            nodes = [place for place, line in lines.items() for _ in line]
            chosen = list(chain.from_iterable(lines.values()))
        return Fit(
            cpus=CpuSet(chosen),
            order=tuple(chosen),
            nodes=tuple(nodes),
            cells=tuple(cell_nodes),
            distance=far,
            l3_groups=l3_groups,
            shared_cores=shared_cores,
            broken_cores=broken_cores,
            lost=lost,
            proved=proved,
        )


def fit_in_node(order: Order, *, cores: Sequence[CpuSet], l3: Iterable[CpuSet], free: CpuSet) -> Fit | None:
    """
    Choose the PUs for some vCPUs in a node that is asked about once.

    Args:
        order: What is asked of cores.
        cores: As in :meth:`NodeCores.of`.
        l3: The same.
        free: PUs that may be taken.

    Returns:
        The fit that costs least, or None when there is none at all.

    Raises:
        ValueError: A number is out of range, a core has no PU, or two cores have the same one.
    """
    return HostCores.of([NodeCores.of(cores, l3)], [[0]]).fit(order, free=free, near=[0])


def _wide(nodes: Sequence[NodeCores]) -> list[int]:
    """For each node that lies in one L3 group, which other nodes have too, that group's number; -1 for the others."""
    mine = [set(node.groups) for node in nodes]
    numbers: dict[int, int] = {}
    wide = []
    for place, groups in enumerate(mine):
        (group, *more) = groups or {_NO_L3}
        others = any(group in other for number, other in enumerate(mine) if number != place)
        if more or group == _NO_L3 or not others:
            wide.append(-1)
        else:
            wide.append(numbers.setdefault(group, len(numbers)))
    return wide


def _in_order(cores: Sequence[CpuSet]) -> list[int]:
    """Return the cores' bits by their lowest CPUs; no PU is in two, or two vCPUs could get it."""
    node = 0
    for index, core in enumerate(cores):
        if not core:
            raise ValueError(f"cores[{index}] has no PU")
        if node & core.bits:
            twice = CpuSet.from_bits(node & core.bits)
            raise ValueError(f"cores[{index}] has PUs that an earlier core also has: {twice}")
        node |= core.bits
    return sorted((core.bits for core in cores), key=lambda bits: bits & -bits)


def _groups(cores: list[int], l3: Iterable[CpuSet]) -> list[int]:
    """Return for each core a number that its L3 group has and no other."""
    firsts = [core & -core for core in cores]
    group_of = dict.fromkeys(firsts, _NO_L3)
    everywhere = sum(firsts)
    for number, group in enumerate(l3):
        rest = group.bits & everywhere
        while rest:
            group_of[rest & -rest] = number
            rest &= rest - 1
    return [group_of[first] for first in firsts]
