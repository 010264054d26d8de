"""
/sys -> PCI devices, and the NUMA nodes that they hang on.

Source: Documentation/ABI/testing/sysfs-bus-pci (numa_node: -1 where the firmware does not say; class).

Rule: an address has one spelling, the kernel's: the domain with at least four digits, all in lower case. Domains have
32 bits, as Intel's VMD numbers its own from 10000 on. A virtual function (SR-IOV) is a device like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from kvmaff.host.tree import Tree, open_tree
from kvmaff.kernel.text import printable

__all__ = ["PciDevice", "pci_address", "pci_devices", "pci_nodes", "read_pci", "read_pci_device"]

_DEVICES = "sys/bus/pci/devices"
_ADDRESS = re.compile("(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])[.]([0-7])", re.IGNORECASE | re.ASCII)
_KIND = re.compile("0x[0-9a-f]{1,6}")
_MOST = 1 << 16
_MAX_NODES = 1024  # CONFIG_NODES_SHIFT is at most 10
_BRIDGES = (
    0x0604,
    0x0609,
)  # PCI to PCI, and half transparent; an NVSwitch is "another bridge", 0x0680, and a device


@attrs.frozen(kw_only=True)
class PciDevice:
    """
    A PCI device.

    Attributes:
        address: Domain, bus, device and function, as the kernel writes them: ``0000:65:00.0``.
        node: The NUMA node that it hangs on; None where that is not known.
        kind: Its class code, as 0x020000 for an Ethernet controller; None where that is not known.
    """

    address: str
    node: int | None = None
    kind: int | None = None

    @property
    def bridge(self) -> bool:
        """Whether it only leads to other devices."""
        return self.kind is not None and self.kind >> 8 in _BRIDGES


def pci_address(text: str) -> str:
    """
    The kernel's spelling of an address.

    Args:
        text: An address as people and programs write it; without a domain it is in domain 0000.

    Returns:
        The address.

    Raises:
        ValueError: It is none.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        shown = printable(text.encode(errors="replace"), 64)
        raise ValueError(
            f"{shown!r} is no PCI address; one looks like 0000:65:00.0, or 65:00.0 in domain 0000"
        )
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}".lower()


def pci_devices(root: str = "/") -> tuple[PciDevice, ...]:
    """
    Read a machine's PCI devices.

    Args:
        root: ``/``, or the root of a recorded machine.

    Returns:
        The devices, bridges among them, in order of address; none where there are none or they were not recorded.

    Raises:
        HostReadError: There is no such root.
    """
    with open_tree(root) as tree:
        return read_pci(tree)


def pci_nodes(addresses: Iterable[str], root: str = "/") -> tuple[int, ...]:
    """
    Read on which NUMA nodes devices hang.

    Args:
        addresses: The devices'.
        root: ``/``, or the root of a recorded machine.

    Returns:
        The nodes that are known, each once, in ascending order.

    Raises:
        HostReadError: There is no such root.
        ValueError: One is no address.
    """
    wanted = {pci_address(address) for address in addresses}
    if not wanted:
        return ()
    with open_tree(root) as tree:
        nodes = {device.node for address in wanted if (device := read_pci_device(tree, address))}
    return tuple(sorted(node for node in nodes if node is not None))


def read_pci(tree: Tree) -> tuple[PciDevice, ...]:
    """
    Read the PCI devices.

    Args:
        tree: The machine's root.

    Returns:
        The devices, bridges among them, in order of address; what is called by no address is left out.
    """
    found = []
    for name in tree.names(_DEVICES)[:_MOST]:
        device = read_pci_device(tree, name) if _spelt(name) else None
        if device is not None:
            found.append(device)
    return tuple(sorted(found, key=lambda device: _number(device.address)))


def read_pci_device(tree: Tree, address: str) -> PciDevice | None:
    """
    Read a PCI device.

    Args:
        tree: The machine's root.
        address: Its address.

    Returns:
        The device; None where nothing is told of one.

    Raises:
        ValueError: That is no address.
    """
    address = pci_address(address)
    folder = f"{_DEVICES}/{address}"
    node, kind = tree.number(f"{folder}/numa_node"), tree.text(f"{folder}/class")
    if node is None and kind is None:
        return None
    return PciDevice(
        address=address,
        node=node if node is not None and 0 <= node < _MAX_NODES else None,
        kind=int(kind, 16) if kind is not None and _KIND.fullmatch(kind) else None,
    )


def _spelt(name: str) -> bool:
    """Whether a name is an address in the kernel's spelling."""
    try:
        return pci_address(name) == name
    except ValueError:
        return False


def _number(address: str) -> tuple[int, str]:
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest
