"""
Which PCI devices a running guest has.

Sources: Documentation/driver-api/vfio.rst. Whoever drives a device from a process by VFIO holds the character device of
its IOMMU group (/dev/vfio/7; /dev/vfio/noiommu-7) or, since Linux 6.6, of the device itself (/dev/vfio/devices/vfio3).

Rules:

* that a process holds the character device is a fact; the addresses on its command line are claims, and not read;
* what a descriptor's link says is a text that a user can make up, by a mount namespace with a /dev of its own: the
  file is believed where its device number is the one that /sys has for it, which takes root and the driver to make.
  A recorded machine's links lead to nothing; they are taken at their word, since nothing can be bound by it;
* bridges between the devices of a group are not the guest's.
"""

from __future__ import annotations

import os
import re
import stat

from kvmaff.guest.recorded import recorded_guests
from kvmaff.host.pci import pci_address, read_pci_device
from kvmaff.host.tree import Tree, open_tree
from kvmaff.kernel.scan import Proc

__all__ = ["guest_devices", "read_guest_devices"]

_GROUP = re.compile("/dev/vfio/((?:noiommu-)?(0|[1-9][0-9]{0,8}))")
_DEVICE = re.compile("/dev/vfio/devices/(vfio(?:0|[1-9][0-9]{0,8}))")
_SLOT = re.compile("^PCI_SLOT_NAME=(.*)$", re.MULTILINE)
_NUMBERS = re.compile("([0-9]{1,9}):([0-9]{1,9})")
_MOST = 4096
"""Devices that one guest is believed to have."""


def guest_devices(pid: int, root: str = "/") -> tuple[str, ...]:
    """
    Find the PCI devices that a guest has by VFIO.

    Args:
        pid: The process.
        root: ``/``, or the root of a recorded machine.

    Returns:
        Their addresses, sorted; none where there are none, or where that may not be looked at.

    Raises:
        HostReadError: There is no /proc, or a capture is damaged.
    """
    recorded = None if root == "/" else recorded_guests(root)
    if recorded is not None:
        return recorded.devices.get(pid, ())
    with Proc(root) as proc, open_tree(root) as tree:
        return read_guest_devices(proc, tree, pid)


def read_guest_devices(proc: Proc, tree: Tree, pid: int) -> tuple[str, ...]:
    """
    Find the PCI devices that a process has by VFIO.

    Args:
        proc: The open /proc.
        tree: The machine's root.
        pid: The process.

    Returns:
        Their addresses, sorted.
    """
    found: set[str] = set()
    for name, link in _links(proc, pid):
        if match := _GROUP.fullmatch(link):
            shown, names = f"sys/class/vfio/{match[1]}", f"sys/kernel/iommu_groups/{match[2]}/devices"
            own = tree.names(names)[:_MOST] if _proved(proc, tree, f"{pid}/fd/{name}", shown) else []
        elif match := _DEVICE.fullmatch(link):
            shown = f"sys/class/vfio-dev/{match[1]}"
            told = (
                tree.text(f"{shown}/device/uevent")
                if _proved(proc, tree, f"{pid}/fd/{name}", shown)
                else None
            )
            own = _SLOT.findall(told or "")[:1]
        else:
            continue
        found.update(address for text in own if (address := _address(tree, text)))
    return tuple(sorted(found))[:_MOST]


def _links(proc: Proc, pid: int) -> list[tuple[str, str]]:
    """Return a process's descriptors that lead to VFIO, and where."""
    try:
        fd = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=proc.fd)
    except OSError:
        return []
    found = {}
    try:
        for name in os.listdir(fd):
            try:
                found[name] = os.readlink(name, dir_fd=fd)
            except OSError:
                continue  # closed meanwhile
    except OSError:
        return []
    finally:
        os.close(fd)
    return [(name, link) for name, link in found.items() if link.startswith("/dev/vfio/")]


def _proved(proc: Proc, tree: Tree, path: str, shown: str) -> bool:
    """Whether a descriptor is of the character device that /sys shows."""
    if not proc.live:
        return True
    match = _NUMBERS.fullmatch(tree.text(f"{shown}/dev") or "")
    if match is None:
        return False
    try:
        info = os.stat(path, dir_fd=proc.fd)
    except OSError:
        return False
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(int(match[1]), int(match[2]))


def _address(tree: Tree, text: str) -> str | None:
    """Return the address of a device that is a guest's; a group also has bridges, and devices of other buses."""
    try:
        address = pci_address(text)
    except ValueError:
        return None
    device = read_pci_device(tree, address)
    return None if address != text or (device and device.bridge) else address
