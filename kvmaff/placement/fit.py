"""
The exact fit inside one NUMA node, in CPU ids.

The search itself is compiled (``kvmaff.placement._fit``, which only this module imports) and knows
counts alone: PUs of one core are alike, and so are cores that hold as many free ones. Here a node
becomes counts, and counts become ids again, by two rules:

* cores count in the order of their lowest CPU, L3 groups in the order of their first core;
* a core gives its lowest free PUs.

So the answer depends on the sets that were given, never on the order in which they were.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.placement import _fit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["NodeCores", "NodeFit", "fit_in_node"]

_NO_L3 = -1


@attrs.frozen(kw_only=True)
class NodeFit:
    """
    The PUs that vCPUs take in one NUMA node, and what that costs.

    The four numbers are the levels of the cost, the first counting most; no other choice of PUs
    costs less.

    Attributes:
        cpus: The chosen PUs.
        order: The PU of vCPU 0, 1, and so on: vCPUs on a core follow one another, then cores of an
            L3 group. With ``unit=2``, vCPUs 2k and 2k + 1 are siblings.
        l3_groups: L3 groups used.
        shared_cores: Cores used that have PUs which were not free.
        broken_cores: Cores used in part that were all free.
        left: PUs of the L3 groups used that were free and are not taken.
    """

    cpus: CpuSet
    order: tuple[int, ...]
    l3_groups: int
    shared_cores: int
    broken_cores: int
    left: int


@attrs.frozen(kw_only=True)
class NodeCores:
    """
    What a fit has to know about a node, worked out once for many of them; :meth:`of` makes one.

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

    def fit(
        self,
        vcpus: int,
        *,
        free: CpuSet,
        unit: int = 1,
        per_core: int = 0,
        whole_cores: bool = False,
    ) -> NodeFit | None:
        """
        Choose the PUs for some vCPUs.

        Args:
            vcpus: How many, 1 to 8192.
            free: PUs that may be taken; those outside the node do not matter.
            unit: vCPUs come on a core in multiples of this, and ``vcpus`` is one.
            per_core: At most so many vCPUs on a core; 0 for no limit.
            whole_cores: Whether only cores may be used whose PUs are all free.

        Returns:
            The fit that costs least, or None when there is none at all.

        Raises:
            ValueError: A number is out of range; says which one.
        """
        free_bits = free.bits
        open_bits = [core & free_bits for core in self.cores]
        found = _fit.fit_node(
            vcpus,
            unit,
            per_core,
            whole_cores,
            self.groups,
            self.totals,
            [bits.bit_count() for bits in open_bits],
        )
        if found is None:
            return None
        takes, (l3_groups, shared_cores, broken_cores, left) = found
        by_group: dict[int, list[int]] = {}
        for group, bits, take in zip(self.groups, open_bits, takes, strict=True):
            if take:
                by_group.setdefault(group, []).extend(_lowest(bits, take))
        order = tuple(chain.from_iterable(by_group.values()))
        return NodeFit(
            cpus=CpuSet(order),
            order=order,
            l3_groups=l3_groups,
            shared_cores=shared_cores,
            broken_cores=broken_cores,
            left=left,
        )


def fit_in_node(
    vcpus: int,
    *,
    cores: Sequence[CpuSet],
    l3: Iterable[CpuSet],
    free: CpuSet,
    unit: int = 1,
    per_core: int = 0,
    whole_cores: bool = False,
) -> NodeFit | None:
    """
    Choose the PUs for some vCPUs in a node that is asked about once.

    Args:
        vcpus: As in :meth:`NodeCores.fit`, like all that is not said here.
        cores: As in :meth:`NodeCores.of`.
        l3: The same.
        free: PUs that may be taken.
        unit: vCPUs come on a core in multiples of this.
        per_core: At most so many vCPUs on a core; 0 for no limit.
        whole_cores: Whether only cores may be used whose PUs are all free.

    Returns:
        The fit that costs least, or None when there is none at all.

    Raises:
        ValueError: A number is out of range, a core has no PU, or two cores have the same one.
    """
    return NodeCores.of(cores, l3).fit(
        vcpus, free=free, unit=unit, per_core=per_core, whole_cores=whole_cores
    )


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


def _lowest(bits: int, count: int) -> list[int]:
    """Return the lowest so many CPUs of a set that has them."""
    cpus = []
    for _ in range(count):
        cpus.append((bits & -bits).bit_length() - 1)
        bits &= bits - 1
    return cpus
