"""
/sys -> NUMA nodes, their memory and huge pages.

Sources: Documentation/ABI/stable/sysfs-devices-node, Documentation/admin-guide/mm/hugetlbpage.rst.
"""

from __future__ import annotations

from kvmaff.cpuset import CpuSet
from kvmaff.host.topology import HugePages, NumaNode
from kvmaff.host.tree import Tree

__all__ = ["meminfo", "read_huge_pages", "read_nodes"]

_NODE = "sys/devices/system/node"
_MAX_NODES = 1024  # CONFIG_NODES_SHIFT is at most 10
_DIGITS = 15  # more of them are no amount of anything


def read_nodes(tree: Tree, online: CpuSet) -> tuple[NumaNode, ...]:
    """
    Read the NUMA nodes.

    Args:
        tree: The machine's root.
        online: The online CPUs.

    Returns:
        The nodes, by number; none where the machine has no NUMA folders.
    """
    numbers = tree.numbered(_NODE, "node", _MAX_NODES)
    nodes = []
    for number in numbers:
        folder = f"{_NODE}/node{number}"
        cpus = tree.mask(f"{folder}/cpumap") or tree.cpus(f"{folder}/cpulist") or CpuSet()
        nodes.append(
            NumaNode(
                number=number,
                cpus=cpus & online,
                memory_bytes=meminfo(tree, number).get("MemTotal"),
                distances=_distances(tree.text(f"{folder}/distance"), numbers),
                huge_pages=read_huge_pages(tree, f"{folder}/hugepages"),
            )
        )
    return tuple(nodes)


def meminfo(tree: Tree, number: int) -> dict[str, int]:
    """
    Read a node's meminfo.

    Args:
        tree: The machine's root.
        number: The node.

    Returns:
        Bytes by the kernel's name of them, as ``MemTotal``; what has no amount is left out.
    """
    amounts = {}
    for line in (tree.text(f"{_NODE}/node{number}/meminfo") or "").splitlines():
        words = line.split()
        if len(words) >= 4 and _whole(words[3]):
            amounts[words[2].rstrip(":")] = int(words[3]) * 1024
    return amounts


def read_huge_pages(tree: Tree, folder: str) -> tuple[HugePages, ...]:
    """
    Read the huge pages of a node or of the machine.

    Args:
        tree: The machine's root.
        folder: The folder that has one for each size, relative to the root.

    Returns:
        The huge pages by size; sizes whose files do not tell are left out.
    """
    found = []
    for name in tree.names(folder):
        size = name.removeprefix("hugepages-").removesuffix("kB")
        if name != f"hugepages-{size}kB" or not _whole(size):
            continue
        total, free = (tree.number(f"{folder}/{name}/{file}") for file in ("nr_hugepages", "free_hugepages"))
        if total is not None and free is not None and 0 <= free <= total:
            found.append(HugePages(size_bytes=int(size) * 1024, total=total, free=free))
    return tuple(sorted(found, key=lambda pages: pages.size_bytes))


def _distances(row: str | None, numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """One number for each online node, in order; a row of another length tells nothing."""
    words = (row or "").split()
    if len(words) != len(numbers) or not all(_whole(word) and len(word) < 10 for word in words):
        return ()
    return tuple(zip(numbers, map(int, words), strict=True))


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS
