"""
PCI devices, and memory in pages, as hypothesis strategies.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from hypothesis import strategies as hs

from kvmaff.host.pci import PciDevice

__all__ = ["layouts", "pci_addresses", "pci_files", "pci_machines"]

_KINDS = (0x020000, 0x030200, 0x010802, 0x060400, 0x060900, 0x068000, 0x088000, None)
_PAGE = 4096


def pci_addresses() -> hs.SearchStrategy[str]:
    """
    PCI addresses in the kernel's spelling.

    Returns:
        A strategy; domain 0, a VMD's and any others.
    """
    domains = hs.one_of(hs.just(0), hs.sampled_from((1, 0xFFFF, 0x10000)), hs.integers(0, 0xFFFFFFFF))
    return hs.builds(
        "{:04x}:{:02x}:{:02x}.{}".format, domains, hs.integers(0, 255), hs.integers(0, 31), hs.integers(0, 7)
    )


def pci_machines() -> hs.SearchStrategy[list[PciDevice]]:
    """
    The PCI devices of a machine.

    Returns:
        A strategy; each address once, nodes and classes known or not.
    """
    devices = hs.builds(
        PciDevice,
        address=pci_addresses(),
        node=hs.one_of(hs.none(), hs.integers(0, 7)),
        kind=hs.sampled_from(_KINDS),
    ).filter(lambda device: (device.node, device.kind) != (None, None))
    return hs.lists(devices, max_size=12, unique_by=lambda device: device.address)


def pci_files(devices: list[PciDevice]) -> Mapping[str, bytes]:
    """
    Tell what the files of PCI devices hold.

    Args:
        devices: The devices.

    Returns:
        What they hold, by path relative to the root, for :func:`kvmaff.testing.trees.write_files`.
    """
    files = {}
    for device in devices:
        folder = f"sys/bus/pci/devices/{device.address}"
        files[f"{folder}/numa_node"] = b"%d\n" % (-1 if device.node is None else device.node)
        if device.kind is not None:
            files[f"{folder}/class"] = b"0x%06x\n" % device.kind
    return files


@hs.composite
def layouts(draw: hs.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int | None]]]:
    """
    Memory of a process: mappings, and in what stretches it lies on nodes.

    Returns:
        A strategy of ((first address, pages) of each mapping, (pages, node or None: not there) of each stretch, in the
        mappings' order and as many pages altogether).
    """
    stretches = draw(
        hs.lists(
            hs.tuples(hs.integers(1, 1 << 24), hs.sampled_from((0, 1, 2, None))), min_size=1, max_size=12
        )
    )
    total = sum(pages for pages, _ in stretches)
    cuts = sorted({0, total, *draw(hs.lists(hs.integers(1, total), max_size=6))})
    spans, address = [], 0
    for first, end in pairwise(cuts):
        address += draw(hs.integers(1, 1 << 20)) * _PAGE
        spans.append((address, end - first))
        address += (end - first) * _PAGE
    return spans, stretches
