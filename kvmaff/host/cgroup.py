"""
The CPUs that a thread's cgroup really grants it.

Sources: Documentation/admin-guide/cgroup-v2.rst (cpuset.cpus.effective), cgroup-v1/cpusets.rst
(cpuset.effective_cpus), proc(5) (mountinfo). A cgroup without the cpuset controller has what its nearest
ancestor with it has.
"""

from __future__ import annotations

import os
import re

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.tree import Tree
from kvmaff.kernel.text import printable

__all__ = ["Grant", "cpus_granted"]


@attrs.frozen(kw_only=True)
class Grant:
    """
    What one cgroup grants.

    Attributes:
        cgroup: The folder that says so, made printable.
        cpus: The CPUs.
    """

    cgroup: str
    cpus: CpuSet


def cpus_granted(tree: Tree, pid: int, tid: int) -> Grant | None:
    """
    Find out which CPUs a thread's cgroup grants it.

    Args:
        tree: The machine's root.
        pid: The process.
        tid: The thread; in a threaded cgroup it may have its own.

    Returns:
        The grant, or None where no cpuset controller is mounted, or it cannot be told.
    """
    paths = _own_paths(tree.text(f"proc/{pid}/task/{tid}/cgroup") or "")
    for mount, root, kind in _mounts(tree.text("proc/self/mountinfo") or ""):
        path = paths.get(kind)
        if path is None or ".." in path.split("/"):
            continue
        inside = path if root == "/" else path.removeprefix(root)
        names = ("cpuset.effective_cpus", "cpuset.cpus") if kind == "v1" else ("cpuset.cpus.effective",)
        parts = [part for part in inside.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([mount, *parts[:depth]])
            cpus = tree.cpus(*(f"{folder.lstrip('/')}/{name}" for name in names))
            if cpus:
                return Grant(cgroup=printable(os.fsencode(folder), 512), cpus=cpus)
    return None


def _own_paths(text: str) -> dict[str, str]:
    """Return the thread's path in the v1 cpuset hierarchy and in the v2 one."""
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "cpuset" in controllers.split(","):
            paths["v1"] = path
        elif number == "0" and not controllers:
            paths["v2"] = path
    return paths


def _mounts(text: str) -> list[tuple[str, str, str]]:
    """Return (mount point, root of the mount inside the hierarchy, v1 or v2); a v1 cpuset comes first."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(types) < 3:
            continue
        kind = {"cgroup": "v1", "cgroup2": "v2"}.get(types[0])
        if kind == "v2" or (kind == "v1" and "cpuset" in types[2].split(",")):
            mounts.append((_unescape(fields[4]), _unescape(fields[3]), kind))
    return sorted(mounts, key=lambda mount: mount[2])


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
