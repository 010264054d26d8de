"""PCI devices and the nodes that they hang on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import HostReadError
from kvmaff.host.pci import PciDevice, pci_address, pci_devices, pci_nodes, read_pci, read_pci_device
from kvmaff.host.tree import FolderTree, open_tree
from kvmaff.testing import inputs_devices as st
from kvmaff.testing.trees import write_files

from .files import write

HERE = Path("/sys/bus/pci/devices")


@given(st.pci_addresses())
def test_one_spelling(address: str) -> None:
    """The kernel's spelling stays as it is; capitals and leading zeros of the domain lead to it."""
    domain, _, rest = address.partition(":")
    assert [address] * 3 == [pci_address(text) for text in (address, address.upper(), f"{domain:0>8}:{rest}")]


@given(st.pci_addresses())
def test_no_domain_is_domain_0(address: str) -> None:
    """An address without a domain is the one of domain 0000."""
    rest = address.partition(":")[2]
    assert f"0000:{rest}" == pci_address(rest)


@given(hs.one_of(hs.text(max_size=20), hs.from_regex("[0-9a-fg:.]{0,16}", fullmatch=True)))
def test_any_text(text: str) -> None:
    """Any text is an address, and then its spelling is one too, or it is an error in words."""
    try:
        address = pci_address(text)
    except ValueError as error:
        assert "is no PCI address; one looks like 0000:65:00.0" in str(error)
    else:
        assert address == pci_address(address)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:65:00.0", "0000:65:00.0"),
        ("65:00.0", "0000:65:00.0"),
        ("0000:3B:1F.7", "0000:3b:1f.7"),
        ("10000:e1:00.0", "10000:e1:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("ffffffff:ff:1f.7", "ffffffff:ff:1f.7"),
    ],
)
def test_spellings(text: str, address: str) -> None:
    """Addresses as lspci, libvirt and people write them."""
    assert address == pci_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "0000:65:00", "0000:65:00.8", "0000:65:20.0", "0:65:00.0", "100000000:65:00.0", "0000:5:00.0"),
        *("0000:65:00.0\n", " 65:00.0", "0000:65:00.0/..", "../65:00.0", "0000:6g:00.0", "\u0660000:65:00.0"),
    ],
)
def test_no_addresses(text: str) -> None:
    """Too many or too few digits, devices and functions that no bus has, blanks, paths."""
    with pytest.raises(ValueError, match="no PCI address"):
        pci_address(text)


def test_a_bad_address_is_shown_without_escapes() -> None:
    """What was given does not reach a terminal as it is."""
    with pytest.raises(ValueError, match=r"'\?\[2J'"):
        pci_address("\x1b[2J")


@given(machine=st.pci_machines())
def test_a_machine_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, machine: list[PciDevice]
) -> None:
    """Every device is read, in order of domain and address; each by itself as in the list of all."""
    root = tmp_path_factory.mktemp("machine")
    write_files(root, st.pci_files(machine))

    def place(device: PciDevice) -> tuple[int, str]:
        domain, _, rest = device.address.partition(":")
        return int(domain, 16), rest

    assert tuple(sorted(machine, key=place)) == pci_devices(str(root))
    with FolderTree(str(root)) as tree:
        assert machine == [read_pci_device(tree, device.address) for device in machine]
    nodes = {device.node for device in machine} - {None}
    assert nodes == set(pci_nodes((device.address for device in machine), str(root)))


def test_what_does_not_parse_is_not_known(tmp_path: Path) -> None:
    """Nodes that no kernel has, text for numbers and names that are no addresses tell nothing."""
    folder = "sys/bus/pci/devices"
    write(
        tmp_path,
        {
            f"{folder}/0000:01:00.0/numa_node": "-1\n",
            f"{folder}/0000:02:00.0/numa_node": "1024\n",
            f"{folder}/0000:02:00.0/class": "0x20000\n",
            f"{folder}/0000:03:00.0/numa_node": "one\n",
            f"{folder}/0000:04:00.0/numa_node": "3\n",
            f"{folder}/0000:04:00.0/class": "0x1234567\n",
            f"{folder}/0000:0A:00.0/numa_node": "1\n",
            f"{folder}/05:00.0/numa_node": "1\n",
            f"{folder}/slot/numa_node": "1\n",
        },
    )
    expected = (
        PciDevice(address="0000:01:00.0"),
        PciDevice(address="0000:02:00.0", kind=0x020000),
        PciDevice(address="0000:04:00.0", node=3),
    )
    assert expected == pci_devices(str(tmp_path))
    assert (3,) == pci_nodes(["04:00.0", "0000:01:00.0", "0000:04:00.0", "0000:09:00.0"], str(tmp_path))


def test_links_are_followed_inside_the_tree_only(tmp_path: Path) -> None:
    """Devices are links in a copied /sys; one that leads out of the copy tells nothing."""
    write(tmp_path / "out", {"numa_node": "1\n"})
    write(tmp_path / "root", {"sys/devices/pci0000:00/0000:00:03.0/numa_node": "2\n"})
    bus = tmp_path / "root/sys/bus/pci/devices"
    bus.mkdir(parents=True)
    (bus / "0000:00:03.0").symlink_to("../../../devices/pci0000:00/0000:00:03.0")
    (bus / "0000:00:04.0").symlink_to(tmp_path / "out")
    expected = (PciDevice(address="0000:00:03.0", node=2),)
    assert expected == pci_devices(str(tmp_path / "root"))


def test_no_devices(tmp_path: Path) -> None:
    """A machine of which none are told has none; where there is no machine is an error."""
    assert ((), ()) == (pci_devices(str(tmp_path)), pci_nodes(["65:00.0"], str(tmp_path)))
    assert () == pci_nodes([], str(tmp_path / "nothing"))
    with pytest.raises(HostReadError):
        pci_devices(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no PCI address"):
        pci_nodes(["65"], str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "bridge"),
    [
        (0x060400, True),
        (0x060401, True),
        (0x060940, True),
        (0x068000, False),
        (0x030000, False),
        (None, False),
    ],
)
def test_bridges(kind: int | None, bridge: bool) -> None:
    """Bridges between PCI buses are such; an NVSwitch, which is another kind of bridge, is a device."""
    assert bridge == PciDevice(address="0000:00:01.0", kind=kind).bridge


@pytest.mark.skipif(not HERE.is_dir() or not os.listdir(HERE), reason="this machine has no PCI devices")
def test_this_machine() -> None:
    """This machine's devices are those that a plain loop over its files finds."""
    expected = {}
    for name in os.listdir(HERE):
        node = int((HERE / name / "numa_node").read_text()) if (HERE / name / "numa_node").exists() else -1
        expected[name] = (node if node >= 0 else None, int((HERE / name / "class").read_text(), 16))
    with open_tree("/") as tree:
        assert expected == {device.address: (device.node, device.kind) for device in read_pci(tree)}
    assert set(expected) == {device.address for device in pci_devices()}
