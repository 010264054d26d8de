"""
Host -> the /sys and /proc files that a kernel would show for it.

The files are a dict first (:func:`tree_files`), so that a test can damage them before they are written. lscpu and
hwloc accept the trees, too (``lscpu --sysroot``, ``lstopo --if fsroot --input``).

Rule: what a host does not tell has no file, ids repeat between packages as firmware's do, and an offline CPU has a
folder and nothing in it that says where it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kvmaff.cpuset import CpuSet
from kvmaff.host.cmdline import BOOT_OPTIONS
from kvmaff.host.reader import Host
from kvmaff.host.topology import HugePages, NumaNode, Topology
from kvmaff.testing._tree_files import TreeStyle, Writer

__all__ = ["MODERN", "OLD_KERNEL", "TreeStyle", "grid", "tree_files", "write_files", "write_tree"]

_GIB = 1 << 30
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC

MODERN = TreeStyle()
"""As Linux 6 shows it."""
OLD_KERNEL = TreeStyle(lists=False, modern=False, online=False)
"""Masks only, old names only, no cpu/online."""


def write_tree(
    root: str | os.PathLike[str],
    host: Host,
    style: TreeStyle = MODERN,
    *,
    cmdline: str | None = None,
    granted: CpuSet | None = None,
) -> None:
    """
    Write a machine's files.

    Args:
        root: The folder; made where it is missing.
        host: The machine.
        style: How a kernel would show it.
        cmdline: What proc/cmdline holds; where not said, the words that the host's isolation names.
        granted: What the cgroup of the process that reads it grants; all CPUs where not said.
    """
    write_files(root, tree_files(host, style, cmdline=cmdline, granted=granted))


def write_files(root: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """
    Write files and the folders that they are in.

    Args:
        root: The folder; made where it is missing.
        files: What they hold, by path relative to it.
    """
    folders: dict[str, list[tuple[str, bytes]]] = {}
    for path, data in files.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append((name, data))
    for folder, members in folders.items():
        path = os.path.join(root, folder)
        os.makedirs(path, exist_ok=True)
        inside = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, data in members:
                fd = os.open(name, _FLAGS, 0o644, dir_fd=inside)
                try:
                    os.write(fd, data)
                finally:
                    os.close(fd)
        finally:
            os.close(inside)


def tree_files(
    host: Host,
    style: TreeStyle = MODERN,
    *,
    cmdline: str | None = None,
    granted: CpuSet | None = None,
) -> dict[str, bytes]:
    """
    Tell what a machine's files hold.

    Args:
        host: The machine.
        style: How a kernel would show it.
        cmdline: What proc/cmdline holds; where not said, the words that the host's isolation names.
        granted: What the cgroup of the process that reads it grants; all CPUs where not said.

    Returns:
        What they hold, by path relative to the root. Core kinds are told by the files that their names come from, so
        that other names than the reader's are not told.
    """
    writer = Writer(host.topology, style)
    writer.machine(host)
    for cpu in host.topology.present:
        writer.cpu(cpu)
    writer.nodes()
    writer.huge_pages("sys/kernel/mm/hugepages", host.topology.huge_pages)
    writer.kinds()
    writer.proc(_boot_words(host) if cmdline is None else cmdline)
    writer.interrupts(host)
    writer.cgroups(host, granted)
    end = b"\n\0" if style.nul else b"\n"
    return {path: text.encode() + end for path, text in writer.files.items()}


def _boot_words(host: Host) -> str:
    """Return a command line with the words that the host's isolation names."""
    words = dict.fromkeys(word for one in host.isolation.kept for word in one.by.split(" "))
    asked = [word for word in words if word.partition("=")[0] in BOOT_OPTIONS]
    return " ".join(["BOOT_IMAGE=/vmlinuz", "ro", *asked, "quiet"])


def grid(
    *,
    packages: int = 1,
    dies: int = 1,
    nodes: int = 1,
    l3s: int = 1,
    cores: int = 1,
    threads: int = 1,
    adjacent: bool = False,
    isolated: CpuSet = CpuSet(),  # noqa: B008 - it is frozen
) -> Host:
    """
    Make a regular machine.

    Args:
        packages: How many packages.
        dies: Dies of a package.
        nodes: NUMA nodes of a package.
        l3s: L3 caches of a package.
        cores: Cores of a package; a multiple of dies, of nodes and of l3s.
        threads: PUs of a core.
        adjacent: Whether the PUs of a core have consecutive numbers; else all first PUs come first, as on x86.
        isolated: CPUs that are isolated and have no tick.

    Returns:
        The machine, 64 GiB a node; not live.

    Raises:
        ValueError: The parts of a package do not come out even.
    """
    if any(cores % parts for parts in (dies, nodes, l3s)):
        raise ValueError(
            f"{cores} cores of a package are no multiple of {dies} dies, {nodes} nodes and {l3s} L3s"
        )
    count = packages * cores
    own = [
        CpuSet(core * threads + at if adjacent else core + at * count for at in range(threads))
        for core in range(count)
    ]

    def parts(number: int) -> tuple[CpuSet, ...]:
        size = count // number
        return tuple(CpuSet.union_of(own[at : at + size]) for at in range(0, count, size))

    def far(one: int, other: int) -> int:
        return 10 if one == other else 12 if one // nodes == other // nodes else 21

    every = CpuSet(range(count * threads))
    numbers = range(packages * nodes)
    pages = tuple(HugePages(size_bytes=size, total=0, free=0) for size in (2 << 20, _GIB))
    topology = Topology(
        possible=every,
        present=every,
        online=every,
        packages=parts(packages),
        dies=parts(packages * dies) if dies > 1 else (),
        clusters=(),
        cores=tuple(own),
        l2=tuple(own),
        l3=parts(packages * l3s),
        nodes=tuple(
            NumaNode(
                number=number,
                cpus=cpus,
                memory_bytes=64 * _GIB,
                distances=tuple((other, far(number, other)) for other in numbers),
                huge_pages=pages,
            )
            for number, cpus in enumerate(parts(packages * nodes))
        ),
        smt="on" if threads > 1 else "notsupported",
        huge_pages=pages,
    )
    return Host(root="/generated", topology=topology, isolated=isolated, nohz_full=isolated)
