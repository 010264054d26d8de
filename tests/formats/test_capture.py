"""A host in one file: everything that is needed, and nothing that is secret."""

from __future__ import annotations

import io
import json
import lzma
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

import kvmaff
from kvmaff.binding.survey import free_memory
from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError, RequestError, Unsupported
from kvmaff.formats import capture as room
from kvmaff.formats.capture import capture
from kvmaff.guest.devices import guest_devices
from kvmaff.guest.memory import memory_by_node
from kvmaff.guest.recorded import GUESTS_FILE, guests_text, recorded_guests
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.irqs import read_irqs
from kvmaff.host.pci import pci_devices, pci_nodes
from kvmaff.host.reader import Host, read_host
from kvmaff.host.tree import open_tree
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.trees import write_tree

from ..conftest import HOSTS, Qemu, needs_qemu
from ..host.files import machine

SECRET = "sesame-opens-7316"


@pytest.fixture
def microvm() -> Iterator[Callable[..., Microvm]]:
    """Start KVM guests of ours; all end with the test."""
    started: list[Microvm] = []

    def start(vcpus: int) -> Microvm:
        started.append(Microvm.start("captured", vcpus=vcpus, mode=Mode.HALT, iothreads=("disk0",)))
        if not started[-1].kvm:
            pytest.skip(str(started[-1].why))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_this_machine_read_back(tmp_path: Path, host: Host) -> None:
    """A captured host equals the one that was read, with its grants and interrupts."""
    done = capture(tmp_path / "host.tar.xz")
    again = read_host(done.path)
    assert attrs.evolve(again, root="/", topology=host.topology) == host
    same = attrs.evolve(again.topology, nodes=(), huge_pages=())
    assert attrs.evolve(host.topology, nodes=(), huge_pages=()) == same
    assert [node.number for node in host.topology.nodes] == [node.number for node in again.topology.nodes]
    assert not again.live
    assert (len(_members(Path(done.path))) > done.files, os.path.getsize(done.path)) == (
        True,
        done.size_bytes,
    )
    with open_tree("/") as here, open_tree(done.path) as there:
        assert Cgroups(here).granted("self") == Cgroups(there).granted("self")
        assert {irq.number for irq in read_irqs(here)} == {irq.number for irq in read_irqs(there)}
    assert [node for node, _ in free_memory(host)] == [node for node, _ in free_memory(again)]


@pytest.mark.skipif(
    not list(HOSTS.glob("*.tar.xz")), reason="the recorded machines are not beside this checkout"
)
@pytest.mark.parametrize("packed", sorted(HOSTS.glob("*.tar.xz")), ids=lambda path: path.name)
def test_every_recorded_machine(tmp_path: Path, packed: Path) -> None:
    """A capture of a recorded machine reads as that does, also where no file lists the online CPUs."""
    capture(tmp_path / "host.tar.xz", root=str(packed))
    read = read_host(packed)
    assert attrs.evolve(read_host(tmp_path / "host.tar.xz"), root=read.root) == read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(host=st.hosts())
def test_any_machine_read_back(tmp_path_factory: pytest.TempPathFactory, host: Host) -> None:
    """A capture of any recorded machine reads as that machine does."""
    folder = tmp_path_factory.mktemp("machine")
    write_tree(folder / "tree", host)
    capture(folder / "host.tar.xz", root=str(folder / "tree"))
    read = read_host(folder / "tree")
    assert attrs.evolve(read_host(folder / "host.tar.xz"), root=read.root) == read


def test_a_capture_of_a_capture(tmp_path: Path, microvm: Callable[..., Microvm]) -> None:
    """A capture can be captured again, and unpacked reads the same."""
    guest = microvm(2)
    capture(tmp_path / "one")
    capture(tmp_path / "two", root=str(tmp_path / "one"))
    one, two = read_host(tmp_path / "one"), read_host(tmp_path / "two")
    assert attrs.evolve(two, root=one.root) == one
    assert kvmaff.guests(one) == kvmaff.guests(two)
    assert guest.pid in {found.pid for found in kvmaff.guests(two)}
    with tarfile.open(tmp_path / "two") as archive:
        archive.extractall(
            tmp_path / "folder", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    folder = read_host(tmp_path / "folder")
    assert attrs.evolve(folder, root=one.root) == one
    assert kvmaff.guests(folder) == kvmaff.guests(one)


def test_guests_and_a_decision_on_a_laptop(
    tmp_path: Path, microvm: Callable[..., Microvm], host: Host
) -> None:
    """Guests are in a capture with role, mask and proof; they are placed there as here, and never bound."""
    guest = microvm(1)
    kvmaff.capture(tmp_path / "host.tar.xz")
    there = kvmaff.read_host(tmp_path / "host.tar.xz")
    (live,) = [found for found in kvmaff.guests(host) if found.pid == guest.pid]
    (found,) = [found for found in kvmaff.guests(there) if found.pid == guest.pid]
    assert attrs.evolve(live, seen=0, threads=()) == attrs.evolve(found, seen=0, threads=())
    assert [attrs.evolve(thread, cpu=None) for thread in live.threads] == [
        attrs.evolve(thread, cpu=None) for thread in found.threads
    ]
    assert memory_by_node(guest.pid, there.root)
    for strategy in ("numa", "pack", "spread"):
        placed = kvmaff.place(there, [found], strategy)
        assert kvmaff.place(host, [live], strategy).guests[0].threads == placed.guests[0].threads
    with pytest.raises(Unsupported):
        kvmaff.pin(there, found, {"0": CpuSet([0])})
    seen = {
        thread.tid
        for one in kvmaff.on_cpus(there, there.topology.online)
        for thread in (*one.bound, *one.here)
    }
    assert guest.pid in seen


@needs_qemu
def test_no_secrets(tmp_path: Path, qemu: Callable[..., Qemu]) -> None:
    """Neither environments nor command lines are in a capture, but for the guest's name; command lines where asked."""
    environment = subprocess.Popen(["sleep", "60"], env={**os.environ, "PASSWORD": SECRET})
    guest = qemu("captured", extra=("-object", f"secret,id=key0,data={SECRET}"))
    try:
        capture(tmp_path / "plain")
        capture(tmp_path / "lines", command_lines=True)
    finally:
        environment.kill()
        environment.wait()
    texts = {
        name: lzma.decompress((tmp_path / name).read_bytes()).decode("latin-1") for name in ("plain", "lines")
    }
    assert (False, True) == (SECRET in texts["plain"], SECRET in texts["lines"])
    assert "PASSWORD" not in texts["lines"]
    assert os.uname().nodename not in texts["plain"] or len(os.uname().nodename) < 6
    (found,) = [one for one in kvmaff.guests(read_host(tmp_path / "plain")) if one.pid == guest.pid]
    assert ("captured", True, 4) == (found.name, found.verified, len(found.vcpus))


def test_the_kernels_command_line_is_cut_to_what_it_says_of_cpus(tmp_path: Path) -> None:
    """Addresses, keys and whatever follows -- are left out; the options of CPUs stay."""
    files: dict[str, str | bytes] = {
        "proc/cmdline": f"root=/dev/x rd.luks.key={SECRET} isolcpus=2 nohz-full=2 hugepages=4 -- isolcpus=3 {SECRET}",
        "proc/self/mountinfo": f"1 2 0:3 / /home/{SECRET} rw - nfs host:/x rw\n4 1 0:5 / /cg rw - cgroup2 cgroup2 rw\n",
    }
    capture(tmp_path / "host.tar.xz", root=str(machine(tmp_path / "tree", "0-3", files)))
    assert SECRET not in lzma.decompress((tmp_path / "host.tar.xz").read_bytes()).decode("latin-1")
    with open_tree(str(tmp_path / "host.tar.xz")) as tree:
        assert "isolcpus=2 nohz-full=2 hugepages=4" == tree.text("proc/cmdline")
        assert "4 1 0:5 / /cg rw - cgroup2 cgroup2 rw" == tree.text("proc/self/mountinfo")


def test_the_file_is_ours_alone_and_whole(tmp_path: Path) -> None:
    """It is made 0600 whatever the umask, and replaces a file that was there when it is whole."""
    (tmp_path / "host.tar.xz").write_text("old")
    before = os.umask(0)
    try:
        capture(tmp_path / "host.tar.xz")
    finally:
        os.umask(before)
    info = os.lstat(tmp_path / "host.tar.xz")
    assert (True, 0o600) == (stat.S_ISREG(info.st_mode), stat.S_IMODE(info.st_mode))
    assert ["host.tar.xz"] == os.listdir(tmp_path)


def test_devices_pipes_and_links_are_not_replaced(tmp_path: Path) -> None:
    """What is there and is no plain file stays: root's /dev/null and /dev/stdout are such."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("fifo", "link", "dangling"):
        with pytest.raises(RequestError, match="no plain file"):
            capture(tmp_path / name)
    assert "precious" == (tmp_path / "target").read_text()
    assert (True, True, True) == (
        stat.S_ISFIFO(os.lstat(tmp_path / "fifo").st_mode),
        (tmp_path / "link").is_symlink(),
        (tmp_path / "dangling").is_symlink(),
    )
    assert ["dangling", "fifo", "link", "target"] == sorted(os.listdir(tmp_path))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there, a folder in the file's place, a machine too large: an error, and no file."""
    with pytest.raises(RequestError, match="No such file"):
        capture(tmp_path / "nowhere" / "host.tar.xz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="folder"):
        capture(tmp_path / "folder")
    monkeypatch.setattr(room, "MOST_FILES", 3)
    with pytest.raises(RequestError, match="too large"):
        capture(tmp_path / "host.tar.xz")
    with pytest.raises(HostReadError):
        capture(tmp_path / "host.tar.xz", root=str(tmp_path / "nothing"))
    assert ["folder"] == os.listdir(tmp_path)


def _archive(folder: Path, guests: str) -> Path:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in (("sys/devices/system/cpu/online", "0-3"), (GUESTS_FILE, guests)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    (folder / "host.tar.xz").write_bytes(lzma.compress(out.getvalue()))
    return folder / "host.tar.xz"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pid": 0}, "'pid'"),
        ({"name": 7}, "'name'"),
        ({"kvm": "yes"}, "'kvm'"),
        ({"threads": {}}, "'threads'"),
        ({"memory": [[0]]}, "'memory'"),
        ({"memory": [[0, -1]]}, "'memory'"),
        ({"devices": ["65"]}, "'devices': '65' is no PCI address"),
        ({"devices": "0000:65:00.0"}, "'devices'"),
        ({"devices": [7]}, "'devices'"),
        ({"devices": ["65:00.0"] * (1 << 15)}, "'devices': more than"),
        ({"threads": [{"role": "vcpu"}]}, "thread 0"),
        ({"threads": [{"role": ["vcpu"]}]}, "'role'"),
        ({"start": True}, "'start'"),
        ({"verified": None}, "'verified'"),
    ],
)
def test_guests_of_a_damaged_capture(
    tmp_path: Path, microvm: Callable[..., Microvm], change: dict[str, object], said: str
) -> None:
    """Every field of a captured guest is checked; the error says which and where."""
    pid = microvm(1).pid
    found = [one for one in kvmaff.guests(read_host()) if one.pid == pid]
    (guest,) = json.loads(guests_text(found, {}))["guests"]
    path = _archive(tmp_path, json.dumps({"guests": [{**guest, **change}]}))
    with pytest.raises(HostReadError, match=said) as caught:
        recorded_guests(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"guests": 3}', "[" * 100_000, '{"guests": [[]]}'])
def test_no_guests_at_all(tmp_path: Path, text: str) -> None:
    """What is no list of guests is an error."""
    with pytest.raises(HostReadError, match=r"guests\.json"):
        recorded_guests(str(_archive(tmp_path, text)))


def test_names_of_guests_in_a_capture_are_made_fit(tmp_path: Path, microvm: Callable[..., Microvm]) -> None:
    """A captured guest's name comes without escapes; one without a name goes by its process."""
    pid = microvm(1).pid
    (guest,) = json.loads(guests_text([one for one in kvmaff.guests(read_host()) if one.pid == pid], {}))[
        "guests"
    ]
    both = [{**guest, "name": "\x1b[2Jx", "pid": 5}, {**guest, "name": "", "pid": 6}]
    found = kvmaff.guests(read_host(_archive(tmp_path, json.dumps({"guests": both}))))
    assert ["?[2Jx", "pid:6"] == [one.name for one in found]


def test_a_capture_of_before_there_were_devices(tmp_path: Path, microvm: Callable[..., Microvm]) -> None:
    """Where a capture does not tell devices nothing is known of them; where it does, in any spelling, they are."""
    pid = microvm(1).pid
    (guest,) = json.loads(guests_text([one for one in kvmaff.guests(read_host()) if one.pid == pid], {}))[
        "guests"
    ]
    told = {**guest, "pid": 5, "devices": ["66:00.0", "0000:65:00.0", "0000:66:00.0"]}
    del guest["devices"]
    root = str(_archive(tmp_path, json.dumps({"guests": [guest, told]})))
    assert ((), ("0000:65:00.0", "0000:66:00.0"), ()) == tuple(
        guest_devices(one, root) for one in (pid, 5, 6)
    )
    assert ((), ()) == (pci_devices(root), pci_nodes(guest_devices(5, root), root))


def test_pci_devices_of_this_machine(tmp_path: Path) -> None:
    """A capture has the PCI devices of the machine, with nodes and classes, also captured again."""
    capture(tmp_path / "one")
    capture(tmp_path / "two", root=str(tmp_path / "one"))
    assert pci_devices() == pci_devices(str(tmp_path / "one")) == pci_devices(str(tmp_path / "two"))


def test_what_a_capture_says_of_itself_is_handed_on(tmp_path: Path) -> None:
    """The kernel and the time of a capture are those of the machine, also in a capture of a capture."""
    capture(tmp_path / "one")
    capture(tmp_path / "two", root=str(tmp_path / "one"))
    said = []
    for name in ("one", "two"):
        with open_tree(str(tmp_path / name)) as tree:
            said.append(json.loads(tree.text(room.ABOUT_FILE) or ""))
    assert said[0] == said[1]
    assert (os.uname().release, False) == (said[0]["kernel"], said[0]["command_lines"])


def test_an_unpacked_capture_keeps_users_and_parents(tmp_path: Path) -> None:
    """What a capture says of threads is not overwritten by what its folder does not have."""
    capture(tmp_path / "one")
    with tarfile.open(tmp_path / "one") as archive:
        archive.extractall(
            tmp_path / "folder", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    packed, unpacked = (
        kvmaff.on_cpus(read_host(root), read_host(root).topology.online)
        for root in (tmp_path / "one", tmp_path / "folder")
    )
    assert packed == unpacked
    assert any(thread.uid == 0 for one in packed for thread in (*one.own, *one.here, *one.movable))


def test_the_grant_of_any_process(tmp_path: Path) -> None:
    """A capture tells what every process was granted, guest or not."""
    capture(tmp_path / "one")
    there = read_host(tmp_path / "one")
    assert kvmaff.granted(read_host(), os.getpid()) == kvmaff.granted(there, os.getpid())
    assert {None} == {kvmaff.why_not(there, cpu, os.getpid()) for cpu in os.sched_getaffinity(0)}
    with pytest.raises(RequestError, match="is not there"):
        kvmaff.granted(there, 99_999_999)
