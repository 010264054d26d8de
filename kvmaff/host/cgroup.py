"""
The CPUs and memory nodes that a thread's cgroup really grants it.

Sources: Documentation/admin-guide/cgroup-v2.rst (cpuset.cpus.effective), cgroup-v1/cpusets.rst
(cpuset.effective_cpus; without ``cpuset.`` where mounted with noprefix), proc(5) (mountinfo). A cgroup without the
cpuset controller has what its nearest ancestor with it has.
"""

from __future__ import annotations

import os
import re

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.tree import BIG, Tree
from kvmaff.kernel.text import printable

__all__ = ["Cgroups", "Grant", "Hierarchy"]

_CPUS = {
    "v1": ("cpuset.effective_cpus", "cpuset.cpus", "effective_cpus", "cpus"),
    "v2": ("cpuset.cpus.effective",),
}
_MEMS = {
    "v1": ("cpuset.effective_mems", "cpuset.mems", "effective_mems", "mems"),
    "v2": ("cpuset.mems.effective",),
}


_MOST = 16  # hierarchies that are looked at; a machine has two


@attrs.frozen(kw_only=True)
class Grant:
    """
    What one cgroup grants.

    Attributes:
        cgroup: The folder that says so, made printable.
        cpus: The CPUs.
        nodes: The memory nodes, by number; None where it does not say.
        above: (folder, CPUs) of what grants from the hierarchy's root down to it.
    """

    cgroup: str
    cpus: CpuSet
    nodes: tuple[int, ...] | None = None
    above: tuple[tuple[str, CpuSet], ...] = ()

    def taken_by(self, cpu: int) -> tuple[str, CpuSet] | None:
        """
        Who does not grant a CPU.

        A partition takes its CPUs from those above it: where a cgroup has none of those of the one below, that one is a
        partition, and what lies above has no say in it.

        Args:
            cpu: The CPU.

        Returns:
            (folder, the CPUs that it grants) of the highest cgroup that is to blame; None where it is granted.
        """
        if cpu in self.cpus:
            return None
        blamed = (self.cgroup, self.cpus)
        for folder, cpus in reversed(self.above):
            if cpu in cpus or cpus.isdisjoint(blamed[1]):
                break
            blamed = (folder, cpus)
        return blamed


@attrs.frozen(kw_only=True)
class Hierarchy:
    """
    A mounted cgroup hierarchy that may have the cpuset controller.

    Attributes:
        mount: Where it is mounted.
        root: Which of its cgroups is mounted there.
        kind: ``v1`` or ``v2``.
    """

    mount: str
    root: str
    kind: str

    def inside(self, path: str) -> str | None:
        """
        Where a cgroup lies below the mount.

        Args:
            path: Its path in the hierarchy, as /proc/PID/cgroup has it.

        Returns:
            Its path below the mount, or None where it is not there: a cgroup namespace shows what lies outside of it
            by ``..``.
        """
        if "\0" in path or ".." in path.split("/") or ".." in self.root.split("/"):
            return None
        root = self.root.rstrip("/")
        return path[len(root) :] if f"{path}/".startswith(f"{root}/") else None

    def file(self, folder: str, name: str) -> str:
        """
        The path of a file.

        Args:
            folder: A cgroup below the mount; empty for the mount itself.
            name: The file.

        Returns:
            The path, relative to the machine's root.
        """
        return "/".join(part for part in (self.mount.strip("/"), folder, name) if part)


class Cgroups:
    """
    The cpusets of a machine; each file is read once.

    Args:
        tree: The machine's root.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._told: dict[str, CpuSet | None] = {}
        table = tree.read("proc/self/mountinfo", BIG)
        # recordings of other tools have the older file, which knows no roots
        found = (
            _mounted(os.fsdecode(tree.read("proc/mounts", BIG) or b""))
            if table is None
            else _hierarchies(os.fsdecode(table))
        )
        sane = [one for one in found if "\0" not in one.mount and ".." not in one.mount.split("/")]
        self.hierarchies = list(dict.fromkeys(sane))[:_MOST]
        """Those mounted; a v1 cpuset comes first."""

    def granted(self, pid: int | str, tid: int | None = None) -> Grant | None:
        """
        Find out what a thread's cgroup grants it.

        Args:
            pid: The process; ``self`` for this one.
            tid: The thread; in a threaded cgroup it may have its own. None for the process.

        Returns:
            The grant, or None where no cpuset controller is mounted, or it cannot be told.
        """
        folder = f"proc/{pid}" if tid is None else f"proc/{pid}/task/{tid}"
        said = self._tree.read(f"{folder}/cgroup")
        if said is None:  # the older file has the path in whichever hierarchy has the controller
            own = os.fsdecode(self._tree.read(f"{folder}/cpuset") or b"").strip()
            paths = dict.fromkeys(("v1", "v2"), own) if own else {}
        else:
            paths = _own_paths(os.fsdecode(said))
        for hierarchy in self.hierarchies:
            path = paths.get(hierarchy.kind)
            inside = None if path is None else hierarchy.inside(path)
            if inside is None:
                continue
            parts = [part for part in inside.split("/") if part]
            chain = []
            nodes = None
            for depth in range(len(parts) + 1):
                folder = "/".join(parts[:depth])
                cpus = self._cpus(hierarchy, folder, _CPUS)
                if cpus:
                    shown = printable(
                        os.fsencode("/".join([hierarchy.mount.rstrip("/"), *parts[:depth]]) or "/"), 512
                    )
                    chain.append((shown, cpus))
                    nodes = self._cpus(hierarchy, folder, _MEMS) or nodes
            if chain:
                folder, cpus = chain.pop()
                return Grant(
                    cgroup=folder, cpus=cpus, nodes=tuple(nodes) if nodes else None, above=tuple(chain)
                )
        return None

    def _cpus(self, hierarchy: Hierarchy, folder: str, names: dict[str, tuple[str, ...]]) -> CpuSet | None:
        """Numbers of nodes are written as CPUs are."""
        files = [hierarchy.file(folder, name) for name in names[hierarchy.kind]]
        if files[0] not in self._told:
            self._told[files[0]] = self._tree.cpus(*files)
        return self._told[files[0]]


def _own_paths(text: str) -> dict[str, str]:
    """Return the thread's path in the v1 cpuset hierarchy and in the v2 one."""
    paths = {}
    for line in text.split("\n"):  # a name may have any other character that parts lines
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpuset" in controllers.split(","):
            paths["v1"] = path
        elif number == "0" and not controllers:
            paths["v2"] = path
    return paths


def _hierarchies(text: str) -> list[Hierarchy]:
    mounts = []
    for line in text.split("\n"):
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(types) < 3:
            continue
        kind = {"cgroup": "v1", "cgroup2": "v2"}.get(types[0])
        if kind == "v2" or (kind == "v1" and "cpuset" in types[2].split(",")):
            mounts.append(Hierarchy(mount=_unescape(fields[4]), root=_unescape(fields[3]), kind=kind))
    return sorted(mounts, key=lambda mount: mount.kind)


def _mounted(text: str) -> list[Hierarchy]:
    mounts = []
    for line in text.split("\n"):
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        kind = {"cgroup": "v1", "cgroup2": "v2", "cpuset": "v1"}.get(fields[2])
        if kind == "v2" or (kind == "v1" and (fields[2] == "cpuset" or "cpuset" in fields[3].split(","))):
            mounts.append(Hierarchy(mount=_unescape(fields[1]), root="/", kind=kind))
    return sorted(mounts, key=lambda mount: mount.kind)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
