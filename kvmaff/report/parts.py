"""
The parts of a machine, one inside the other.

Rule 1: what holds what is found from the sets alone: a NUMA node may hold packages, and a package several nodes.
Rule 2: a group that crosses a core or one of an outer level is in parts, each called so: every online PU is in one
place, and no core is cut.
"""

from __future__ import annotations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.topology import Topology

__all__ = ["CORE", "NODE", "Part", "nested"]

CORE = "core"
"""What the levels of a part call a core."""
NODE = "NUMA node"
"""What they call a NUMA node."""
_LEVELS = (
    ("drawers", "drawer"),
    ("books", "book"),
    ("packages", "package"),
    ("nodes", NODE),
    ("dies", "die"),
    ("l3", "L3"),
    ("clusters", "cluster"),
    ("l2", "L2"),
    ("cores", CORE),
)
_RANK = {level: rank for rank, (_, level) in enumerate(_LEVELS)}


@attrs.frozen(kw_only=True)
class Part:
    """
    A part of a machine.

    Attributes:
        levels: What it is, the outermost first, NUMA nodes with their number; nothing for a PU and no more.
        cpus: Its online CPUs.
        parts: What it consists of, in order of first CPU; nothing where its PUs are all that is told.
    """

    levels: tuple[tuple[str, int | None], ...]
    cpus: CpuSet
    parts: tuple[Part, ...] = ()


class _Building:
    """A part that may still get others inside."""

    def __init__(self, cpus: CpuSet, *levels: tuple[str, int | None]) -> None:
        self.cpus = cpus
        self.levels = list(levels)
        self.holder: dict[int, _Building] = {}  # CPU -> the part inside that has it

    def put(self, cpus: CpuSet, level: tuple[str, int | None]) -> None:
        inside = {id(one): one for cpu in cpus if (one := self.holder.get(cpu))}.values()
        for one in inside:
            if cpus == one.cpus:
                one.levels.append(level)
                return
            if cpus < one.cpus:
                one.put(cpus, level)
                return
        crossed = [one for one in inside if not one.cpus <= cpus]
        if crossed:
            part = (f"part of {level[0].removeprefix('part of ')}", level[1])
            for one in crossed:
                one.put(one.cpus & cpus, part)
            rest = cpus - CpuSet.union_of(one.cpus for one in crossed)
            if rest:
                self.put(rest, part)
            return
        new = _Building(cpus, level)
        new.holder = {cpu: self.holder[cpu] for cpu in cpus if cpu in self.holder}
        self.holder.update(dict.fromkeys(cpus, new))

    def finished(self, *, top: bool = False) -> Part:
        inside = {one.cpus.first: one for one in self.holder.values()}
        parts = [one.finished() for one in inside.values()]
        if parts or top:
            parts += [Part(levels=(), cpus=CpuSet([cpu])) for cpu in self.cpus if cpu not in self.holder]
        levels = sorted(self.levels, key=lambda level: _RANK[level[0].removeprefix("part of ")])
        if any(level == CORE for level, _ in levels):  # a cluster of one core says nothing
            levels = [level for level in levels if level[0] != "cluster"]
        return Part(
            levels=tuple(levels),
            cpus=self.cpus,
            parts=tuple(sorted(parts, key=lambda part: part.cpus.first)),
        )


def nested(topology: Topology) -> Part:
    """
    Find what holds what.

    Args:
        topology: The machine.

    Returns:
        All of it; groups of the same CPUs are one part of several levels.
    """
    machine = _Building(topology.online)
    for name, level in (_LEVELS[-1], *_LEVELS[:-1]):
        for group in getattr(topology, name):
            if isinstance(group, CpuSet):
                machine.put(group, (level, None))
            elif group.cpus:
                machine.put(group.cpus, (level, group.number))
    return machine.finished(top=True)
