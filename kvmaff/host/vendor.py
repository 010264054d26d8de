"""Who made a machine's CPUs, as the kernel says it."""

from __future__ import annotations

import re

from kvmaff.host.tree import Tree, open_tree

__all__ = ["AMD", "cpu_vendor", "read_vendor"]

AMD = frozenset({"AuthenticAMD", "HygonGenuine"})
"""Vendors whose CPUs have AMD's way to tell siblings."""
_LARGEST = 1 << 24
"""/proc/cpuinfo has about 1.5 KiB a CPU."""
_VENDOR = re.compile(r"^vendor_id\s*:\s*([!-~]{1,32})\s*$", re.MULTILINE)


def read_vendor(tree: Tree) -> str | None:
    """
    Read it from an open tree.

    Args:
        tree: The machine's files.

    Returns:
        The word behind ``vendor_id`` in /proc/cpuinfo; None where there is none, as on machines that are not x86.
    """
    data = tree.read("proc/cpuinfo", _LARGEST)
    if data is None:
        return None
    found = _VENDOR.search(data.decode("ascii", "replace"))
    return None if found is None else found[1]


def cpu_vendor(root: str) -> str | None:
    """
    Read it.

    Args:
        root: The machine; ``/`` is this one.

    Returns:
        As :func:`read_vendor`.

    Raises:
        HostReadError: There is no such machine.
    """
    with open_tree(root) as tree:
        return read_vendor(tree)
