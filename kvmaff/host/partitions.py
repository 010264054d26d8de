"""
Cgroups that keep CPUs to themselves, or out of load balancing.

Sources: Documentation/admin-guide/cgroup-v2.rst (cpuset.cpus.partition, cpuset.cpus.isolated),
cgroup-v1/cpusets.rst (cpuset.sched_load_balance: CPUs that no cpuset balances are in no scheduling domain).

Rule: where the controller is not handed on (cgroup.subtree_control), nothing is walked, which is most hosts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Cgroups, Hierarchy
from kvmaff.host.tree import Tree
from kvmaff.kernel.text import printable

__all__ = ["Partition", "partitions"]

_MOST = 4096  # folders to look at
_DEEPEST = 32


@attrs.frozen(kw_only=True)
class Partition:
    """
    CPUs that a cgroup has in another way than a plain one.

    Attributes:
        by: The cgroup's folder, made printable.
        cpus: The CPUs, without those that partitions inside of it have.
        balanced: Whether the scheduler balances load among them.
        exclusive: Whether no thread outside of it can run there.
        doubt: Why it is not what it was asked to be; the CPUs are none then.
    """

    by: str
    cpus: CpuSet
    balanced: bool = True
    exclusive: bool = False
    doubt: str | None = None


def partitions(tree: Tree, cgroups: Cgroups, online: CpuSet, isolated: CpuSet) -> tuple[Partition, ...]:
    """
    Find the cgroups that keep CPUs apart.

    Args:
        tree: The machine's root.
        cgroups: Its cpusets.
        online: The online CPUs.
        isolated: Those that the boot isolated, which are nobody's.

    Returns:
        The partitions, and what failed to be one.
    """
    found: list[Partition] = []
    for hierarchy in cgroups.hierarchies:
        if hierarchy.kind == "v1":
            found += _unbalanced(tree, hierarchy, online, isolated)
        else:
            found += _exclusive(tree, hierarchy, online, isolated)
    return tuple(found)


def _exclusive(tree: Tree, hierarchy: Hierarchy, online: CpuSet, isolated: CpuSet) -> list[Partition]:
    found = list(_walk(tree, hierarchy))
    left = tree.cpus(hierarchy.file("", "cpuset.cpus.effective"))
    # the root still lists CPUs of partitions that broke since (seen on 6.12), but has them itself
    lost = online - left if left else CpuSet()
    apart = (tree.cpus(hierarchy.file("", "cpuset.cpus.isolated")) or CpuSet()) & lost - isolated
    apart -= CpuSet.union_of(group.cpus for group in found)
    if apart:
        found.append(
            Partition(by="a cgroup's isolated partition", cpus=apart, balanced=False, exclusive=True)
        )
    return found


def _walk(tree: Tree, hierarchy: Hierarchy) -> Iterator[Partition]:
    """Look at every cgroup that has the cpuset controller; where that is not handed on, no child has it."""
    folders = [("", 0)]
    looked = 0
    while folders:
        folder, depth = folders.pop()
        looked += 1
        if looked > _MOST or depth > _DEEPEST:
            doubt = (
                f"{_shown(hierarchy, '')} has more cgroups than are looked at: it may have more partitions"
            )
            yield Partition(by=_shown(hierarchy, folder), cpus=CpuSet(), doubt=doubt)
            return
        yield from _partition(tree, hierarchy, folder)
        handed_on = tree.text(hierarchy.file(folder, "cgroup.subtree_control"))
        if handed_on is None or "cpuset" in handed_on.split():
            inside = hierarchy.file(folder, "")
            folders += [
                (f"{folder}/{name}".lstrip("/"), depth + 1)
                for name in sorted(tree.folders(inside), reverse=True)
            ]


def _partition(tree: Tree, hierarchy: Hierarchy, folder: str) -> Iterator[Partition]:
    said = tree.text(hierarchy.file(folder, "cpuset.cpus.partition")) or ""
    kind, _, rest = said.partition(" ")
    if kind not in ("root", "isolated"):
        return
    by = _shown(hierarchy, folder)
    if not rest:
        cpus = tree.cpus(hierarchy.file(folder, "cpuset.cpus.effective")) or CpuSet()
        yield Partition(by=by, cpus=cpus, balanced=kind == "root", exclusive=True)
        return
    reason = printable(rest.removeprefix("invalid").strip(" ()").encode()) or "invalid"
    doubt = f"{by} was asked to be a partition ({kind}) and is none: {reason}"
    yield Partition(by=by, cpus=CpuSet(), doubt=doubt)


def _unbalanced(tree: Tree, hierarchy: Hierarchy, online: CpuSet, isolated: CpuSet) -> list[Partition]:
    if _flag(tree, hierarchy, "", "sched_load_balance") != 0:
        return []
    balanced = CpuSet()
    folders = [("", 0)]
    looked = 0
    while folders and looked < _MOST:
        folder, depth = folders.pop()
        for name in tree.folders(hierarchy.file(folder, "")):
            inside = f"{folder}/{name}".lstrip("/")
            looked += 1
            flag = _flag(tree, hierarchy, inside, "sched_load_balance")
            if flag == 1:
                names = ("cpuset.effective_cpus", "cpuset.cpus", "effective_cpus", "cpus")
                balanced |= tree.cpus(*(hierarchy.file(inside, name) for name in names)) or CpuSet()
            elif flag == 0 and depth < _DEEPEST:
                folders.append((inside, depth + 1))
    cpus = online - isolated - balanced
    by = f"{_shown(hierarchy, '')} (sched_load_balance 0)"
    return [Partition(by=by, cpus=cpus, balanced=False)] if cpus else []


def _flag(tree: Tree, hierarchy: Hierarchy, folder: str, name: str) -> int | None:
    said = tree.number(hierarchy.file(folder, f"cpuset.{name}"))
    return tree.number(hierarchy.file(folder, name)) if said is None else said


def _shown(hierarchy: Hierarchy, folder: str) -> str:
    return printable(os.fsencode("/" + hierarchy.file(folder, "")), 512)
