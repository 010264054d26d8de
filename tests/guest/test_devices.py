"""Which PCI devices a process has by VFIO."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

import kvmaff
from kvmaff.binding.survey import demands_of
from kvmaff.formats.capture import capture
from kvmaff.guest.devices import guest_devices, read_guest_devices
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.pci import PciDevice
from kvmaff.host.tree import FolderTree
from kvmaff.kernel.scan import Proc
from kvmaff.testing import inputs_devices as st
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.trees import grid, write_files, write_tree

from ..conftest import as_nobody, needs_root
from ..host.files import write


def _machine(root: Path, fds: dict[str, str], files: dict[str, str | bytes] | None = None) -> str:
    """Write a machine whose process 7 has descriptors."""
    write(root, files or {})
    (root / "proc/7/fd").mkdir(parents=True)
    for number, link in fds.items():
        (root / "proc/7/fd" / number).symlink_to(link)
    return str(root)


def _group(number: int, *devices: str) -> dict[str, str | bytes]:
    return {f"sys/kernel/iommu_groups/{number}/devices/{device}/uevent": "" for device in devices}


def _device(name: str, address: str) -> dict[str, str | bytes]:
    text = f"DRIVER=vfio-pci\nPCI_CLASS=20000\nPCI_SLOT_NAME={address}\nMODALIAS=pci:x\n"
    return {f"sys/class/vfio-dev/{name}/device/uevent": text}


def test_groups_and_devices(tmp_path: Path) -> None:
    """What a group has without its bridge, and what a device's own file leads to; each once."""
    files = {
        **_group(7, "0000:65:00.0", "0000:65:00.1", "0000:64:00.0"),
        **_group(8, "0000:66:00.0"),
        **_group(9, "0000:67:00.0"),
        **_device("vfio3", "10000:e1:00.0"),
        **_device("vfio4", "0000:65:00.0"),
        "sys/bus/pci/devices/0000:64:00.0/class": "0x060400\n",
        "sys/bus/pci/devices/0000:65:00.0/class": "0x030200\n",
    }
    fds = {
        "0": "/dev/null",
        "3": "/dev/vfio/vfio",
        "4": "/dev/vfio/7",
        "5": "/dev/vfio/7",
        "6": "/dev/vfio/devices/vfio3",
        "7": "/dev/vfio/devices/vfio4",
        "8": "/dev/vfio/noiommu-8",
        "9": "anon_inode:[vfio-device]",
        "10": "socket:[7]",
    }
    expected = ("0000:65:00.0", "0000:65:00.1", "0000:66:00.0", "10000:e1:00.0")
    assert expected == guest_devices(7, _machine(tmp_path, fds, files))


def test_links_that_make_no_sense(tmp_path: Path) -> None:
    """Paths that lead elsewhere, numbers that no kernel writes and groups that are not there give nothing."""
    files = {
        **_group(7, "0000:65:00.0"),
        **_group(8, "pci", "0000:0A:00.0", "b0:00.0", "arm-smmu.0", "0000:65:00.0 "),
        **_device("vfio3", "elsewhere"),
        **_device("vfio4", "../65:00.0"),
        "sys/class/vfio-dev/vfio5/device/uevent": b"\xff\0PCI_SLOT_NAME=\n" * 9,
        "sys/class/vfio-dev/vfio6/device/uevent": "PCI_SLOT_NAME=0000:66:00.0\n" * 9999,  # too long to be one
    }
    links = (
        *("/dev/vfio/07", "/dev/vfio/7 (deleted)", "/dev/vfio/../vfio/7", "/dev/vfio/7/", "x/dev/vfio/7"),
        *(
            "/dev/vfio/7\n",
            "/dev/vfio/\u0667",
            "/dev/vfio/9999999999",
            "/dev/vfio/8",
            "/dev/vfio/9",
            "/dev/vfio/-7",
        ),
        *(
            f"/dev/vfio/devices/{name}"
            for name in ("vfio3", "vfio4", "vfio5", "vfio6", "vfio7", "vfio", "../7")
        ),
    )
    fds = {str(number): link for number, link in enumerate(links)}
    assert () == guest_devices(7, _machine(tmp_path, fds, files))


@given(
    hs.lists(
        hs.text(hs.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30), max_size=8
    )
)
def test_any_links(tmp_path_factory: pytest.TempPathFactory, tails: list[str]) -> None:
    """Whatever links say, there is an answer, and it has only what /sys has."""
    root = tmp_path_factory.mktemp("machine")
    fds = {str(number): f"/dev/vfio/{tail}" for number, tail in enumerate(tails)}
    found = guest_devices(7, _machine(root, fds, _group(1, "0000:65:00.0")))
    assert set(found) <= {"0000:65:00.0"}


def test_nothing_to_look_at(tmp_path: Path) -> None:
    """A process that is gone, has no descriptors, or that this user may not look at has no devices."""
    root = _machine(tmp_path, {})
    assert ((), ()) == (guest_devices(7, root), guest_devices(8, root))
    assert () == guest_devices(os.getpid())


@needs_root
def test_nobody_may_not_look() -> None:
    """Without the right to look there are no devices, and no error."""
    command = f"list(__import__('kvmaff.guest.devices', fromlist=['x']).guest_devices({os.getpid()}))"
    assert [] == as_nobody(command)


_HOLDER = """
import os, stat, sys
kind, major, minor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs("/dev/vfio/devices")
for path in ("/dev/vfio/7", "/dev/vfio/devices/vfio3"):
    if kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    else:
        open(path, "w").close()
files = [os.open(path, os.O_RDONLY) for path in ("/dev/vfio/7", "/dev/vfio/devices/vfio3")]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[Callable[..., int]]:
    """Start a process with a /dev of its own in a mount namespace of its own, that holds files by VFIO's names."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str, major: int = 0, minor: int = 0) -> int:
        script = 'mount -t tmpfs none /dev && exec "$@"'
        words = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", _HOLDER, kind]
        process = subprocess.Popen(
            [*words, str(major), str(minor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip("no mount namespace, or no device files in it")
        return process.pid

    yield start
    for one in started:
        one.communicate()


@needs_root
@pytest.mark.parametrize(
    ("kind", "number", "devices"),
    [
        ("device", (1, 3), ("0000:65:00.0", "0000:66:00.0")),
        ("device", (1, 5), ()),  # another one than /sys has: somebody's /dev/zero by that name
        ("file", (0, 0), ()),
    ],
)
def test_a_name_proves_nothing(
    tmp_path: Path, holder: Callable[..., int], kind: str, number: tuple[int, int], devices: tuple[str, ...]
) -> None:
    """On the running machine a file is believed only where it is the device that /sys has by that name."""
    pid = holder(kind, *number)
    assert {"/dev/vfio/7", "/dev/vfio/devices/vfio3"} <= {
        os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()
    }
    shown: dict[str, str | bytes] = {
        "sys/class/vfio/7/dev": "1:3\n",
        "sys/class/vfio-dev/vfio3/dev": "1:3\n",
    }
    write(tmp_path, {**_group(7, "0000:65:00.0"), **_device("vfio3", "0000:66:00.0"), **shown})
    with Proc() as proc, FolderTree(str(tmp_path)) as tree:
        assert devices == read_guest_devices(proc, tree, pid)
    (tmp_path / "sys/class/vfio/7/dev").write_text("1;3")
    (tmp_path / "sys/class/vfio-dev/vfio3/dev").unlink()
    with Proc() as proc, FolderTree(str(tmp_path)) as tree:
        assert () == read_guest_devices(proc, tree, pid)


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A capture of a machine of four nodes, with a guest that has devices on nodes 2, 1, 1, one unknown, one bogus."""
    nodes = {"0000:65:00.0": 2, "0000:66:00.0": 1, "0000:67:00.0": 1, "0000:68:00.0": None, "0000:69:00.0": 9}
    write_tree(tmp_path / "tree", grid(packages=4, cores=4))
    write_files(tmp_path / "tree", st.pci_files([PciDevice(address=one, node=nodes[one]) for one in nodes]))
    (tmp_path / "tree/proc/1").mkdir(parents=True)  # so that it is a machine with processes
    guest = Microvm.start("captured", vcpus=1, mode=Mode.HALT)
    try:
        if not guest.kvm:
            pytest.skip(str(guest.why))
        found = [one for one in kvmaff.guests(kvmaff.read_host()) if one.pid == guest.pid]
    finally:
        guest.close()
    monkeypatch.setattr("kvmaff.formats.capture.find_guests", lambda *_, **__: tuple(found))
    monkeypatch.setattr("kvmaff.formats.capture.guest_devices", lambda *_: tuple(nodes))
    capture(tmp_path / "host.tar.xz", root=str(tmp_path / "tree"))
    monkeypatch.undo()
    return str(tmp_path / "host.tar.xz")


def test_devices_of_a_captured_guest(tmp_path: Path, captured: str) -> None:
    """A capture has a guest's devices with their nodes, also captured again: its demand names the nodes, each once."""
    capture(tmp_path / "again", root=captured)
    for root in (captured, str(tmp_path / "again")):
        host = kvmaff.read_host(root)
        (guest,) = kvmaff.guests(host)
        assert ["0000:65:00.0", "0000:69:00.0"] == [*guest_devices(guest.pid, root)][::4]
        spec = GuestSpec(name=guest.name, vcpus=1)
        one, to_come = demands_of(host, [(guest, spec)], [attrs.evolve(spec, name="later")])
        assert ((1, 2), ()) == (one.devices, to_come.devices)
