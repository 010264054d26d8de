"""Machines written as trees are read back as they were; damaged trees say less, or are an error that says where."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host, host_of, read_host
from kvmaff.host.topology import Topology
from kvmaff.host.tree import Tree
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import OLD_KERNEL, TreeStyle, grid, tree_files, write_files, write_tree

from ..conftest import needs_root

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
LEVELS = ("drawers", "books", "packages", "dies", "clusters", "cores", "l2", "l3")
STYLES = hs.builds(TreeStyle, **{field.name: hs.booleans() for field in attrs.fields(TreeStyle)})
BIG = grid(packages=16, nodes=2, l3s=8, cores=64, threads=2, isolated=CpuSet(range(1024, 2048)))

ONLINE = "sys/devices/system/cpu/online"
TEXTS = {
    "empty": b"",
    "garbage": b"core of the matter\n",
    "binary": bytes(range(128, 256)) * 20,
    "backwards": b"9-3,-1",
    "digits": b"9" * 5000,
    "commas": b"," * 60_000,
    "lines": b"Node\n" * 10_000,
}
LIE = b"0-8191\n"
"""What files hold that must not be believed, behind a link or before more than any file has."""
THINGS = ("missing", "huge", "folder", "fifo", "link", "forbidden")


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A folder in memory, which another user may read, too."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        os.chmod(path, 0o755)
        yield path


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """What is inside ends; a minute is a hundred times what the slowest needs."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError("still reading after a minute")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def as_told(host: Host, style: TreeStyle, root: str) -> Host:
    """
    What of a host a tree can tell.

    A cache that neither the first nor the last core has is not looked for; core types have no order but the CPUs'.
    """
    topology = host.topology
    asked = CpuSet(core.first for core in topology.cores) or topology.online
    ends = CpuSet([asked.first, asked.last])
    for level in ("l2", "l3"):
        groups = getattr(topology, level)
        if all(group.isdisjoint(ends) for group in groups):
            topology = attrs.evolve(topology, **{level: ()})
    return attrs.evolve(host, root=root, topology=topology)


@given(host=st.hosts(), style=STYLES)
@example(host=grid(cores=2), style=OLD_KERNEL)
def test_what_is_written_is_read(host: Host, style: TreeStyle) -> None:
    """Every level, node, kind and state, and who isolates, is read as it was written, in each style of a kernel."""
    with folder() as root:
        write_tree(root, host, style)
        read = read_host(root)
        assert as_told(host, style, root) == read


@settings(max_examples=40)
@given(host=st.overlapping(), style=STYLES)
def test_nodes_that_overlap_are_read_as_they_are(host: Host, style: TreeStyle) -> None:
    """CPUs in several nodes are in several nodes; other levels do not care."""
    with folder() as root:
        write_tree(root, host, style)
        assert as_told(host, style, root) == read_host(root)


@pytest.mark.parametrize("style", [TreeStyle(), OLD_KERNEL], ids=["modern", "old"])
def test_2048_cpus(style: TreeStyle) -> None:
    """A machine of 2,048 CPUs is read as it was written."""
    with folder() as root:
        write_tree(root, BIG, style)
        read = read_host(root)
    assert 2048 == len(read.topology.online)
    assert BIG.topology == read.topology
    assert (BIG.isolated, BIG.nohz_full) == (read.isolated, read.nohz_full)


# -- damage


def consistent(host: Host) -> None:
    """Whatever a tree says, what is told of it holds together."""
    topology = host.topology
    online = topology.online
    assert online
    assert online <= topology.present <= topology.possible
    for level in LEVELS:
        groups = getattr(topology, level)
        assert all(groups), level
        assert CpuSet.union_of(groups) <= online, level
        assert sum(map(len, groups)) == len(CpuSet.union_of(groups)), level
        assert [group.first for group in groups] == sorted(group.first for group in groups), level
    numbers = [node.number for node in topology.nodes]
    assert sorted(set(numbers)) == numbers
    for node in topology.nodes:
        assert node.cpus <= online
        assert not node.distances or numbers == [other for other, _ in node.distances]
        assert node.memory_bytes is None or node.memory_bytes >= 0
    for pages in (topology.huge_pages, *(node.huge_pages for node in topology.nodes)):
        assert all(0 <= size.free <= size.total for size in pages)
    assert 1 != len(topology.kinds)
    assert CpuSet.union_of(kind.cpus for kind in topology.kinds) <= online
    assert sum(len(kind.cpus) for kind in topology.kinds) <= len(online)
    assert all(kind.name.isprintable() for kind in topology.kinds)
    assert all(one.cpus and one.cpus <= online and one.by.isprintable() for one in host.isolation.kept)
    assert all(doubt.isprintable() for doubt in host.isolation.doubts)


def says_less(host: Host, read: Host) -> None:
    """Of the same CPUs nothing is told that was not so before."""
    whole, rest = host.topology, read.topology
    for level in LEVELS:
        # dies are told only where they part packages, of which there may be fewer now
        groups = getattr(whole, level) or (whole.packages if level == "dies" else ())
        assert all(any(part <= group for group in groups) for part in getattr(rest, level)), level
    by_number = {node.number: node for node in whole.nodes}
    for node in rest.nodes:
        known = by_number[node.number]
        assert node.cpus <= known.cpus
        assert node.memory_bytes in (None, known.memory_bytes)
        assert set(node.huge_pages) <= set(known.huge_pages)
    for kind in rest.kinds:
        assert any(kind.name == known.name and kind.cpus <= known.cpus for known in whole.kinds)
    assert rest.smt in (None, whole.smt)
    assert set(rest.huge_pages) <= set(whole.huge_pages)
    assert read.isolated <= host.isolated
    assert read.nohz_full <= host.nohz_full
    for what in (KeptFrom.TICK, KeptFrom.MANAGED_IRQ, KeptFrom.IRQ):
        assert read.isolation.kept_from(what) <= host.isolation.kept_from(what)


class Files(Tree):
    """A tree in memory that notes which of its files are read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__("/files")
        self._files = files
        self.asked: set[str] = set()

    def read(self, path: str, limit: int = 1 << 16) -> bytes | None:
        self.asked |= {path} & self._files.keys()
        data = self._files.get(path, b"")
        return data if 0 < len(data) <= limit else None

    def names(self, path: str) -> list[str]:
        start = f"{path}/"
        return list({each[len(start) :].partition("/")[0] for each in self._files if each.startswith(start)})

    def folders(self, path: str) -> list[str]:
        return [
            name
            for name in self.names(path)
            if any(each.startswith(f"{path}/{name}/") for each in self._files)
        ]


@hs.composite
def damaged(draw: hs.DrawFn, files: dict[str, bytes]) -> dict[str, str]:
    """A strategy of path -> what happens to it: one file, some, all of a name, all below a folder, or all."""
    with Files(files) as tree:
        host_of(tree)
    paths = hs.sampled_from(sorted(tree.asked))
    name = draw(paths).rpartition("/")[2]
    hit = draw(
        hs.lists(paths, min_size=1, max_size=12, unique=True)
        | hs.just([path for path in files if path.endswith(f"/{name}")])
        | hs.sampled_from(
            ("sys/devices/system/cpu/", "sys/devices/system/node/", "sys/fs/", "proc/", "")
        ).map(lambda start: [path for path in files if path.startswith(start)])
    )
    what = draw(hs.sampled_from((*TEXTS, *THINGS)))
    return dict.fromkeys(hit, what)


def damage(root: str, files: dict[str, bytes], hit: dict[str, str]) -> None:
    """Write a tree, but for what is damaged."""
    write_files(root, {"lie": LIE})
    texts = {path: TEXTS.get(what, b"") for path, what in hit.items() if what != "missing"}
    write_files(root, {path: data for path, data in files.items() if path not in hit} | texts)
    for path, what in hit.items():
        place = os.path.join(root, path)
        if what == "huge":  # 8 GiB, of which the rest is NUL bytes
            Path(place).write_bytes(LIE)
            os.truncate(place, 1 << 33)
        elif what == "forbidden":
            os.chmod(place, 0)
        elif what in ("folder", "fifo", "link"):
            os.unlink(place)
            if what == "folder":
                os.mkdir(place)
            elif what == "fifo":
                os.mkfifo(place)
            else:
                os.symlink(os.path.join(root, "lie"), place)


@contextlib.contextmanager
def somebody(else_than_root: bool) -> Iterator[None]:
    """Read as a user whom permissions concern."""
    if not else_than_root or os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(host=st.hosts(), style=STYLES, data=hs.data())
def test_a_damaged_tree_says_less(host: Host, style: TreeStyle, data: hs.DataObject) -> None:
    """Missing, empty, senseless, huge or forbidden files, or what is no file: less is told, or an error."""
    files = tree_files(host, style)
    hit = data.draw(damaged(files))
    with folder() as root:
        damage(root, files, hit)
        try:
            with no_hang(), somebody("forbidden" in hit.values()):
                read = read_host(root)
        except HostReadError as error:
            assert error.path.startswith(root)
            assert error.path in str(error)
            return
    consistent(read)
    assert read.topology.possible <= host.topology.possible
    assert read.topology.present <= host.topology.present
    if read.topology.online == host.topology.online:
        says_less(host, read)
    else:
        assert any(path.startswith("sys/devices/system/cpu/") for path in hit)


@given(host=st.hosts(), style=STYLES, data=hs.data())
def test_a_tree_that_contradicts_itself(host: Host, style: TreeStyle, data: hs.DataObject) -> None:
    """Files that hold what others should: what is told still holds together."""
    files = tree_files(host, style)
    paths = hs.sampled_from(sorted(files))
    cpus = hs.sampled_from(
        [path for path in sorted(files) if "list" in path or "cpus" in path or path == ONLINE] or ["?"]
    )
    swaps = data.draw(hs.dictionaries(paths | cpus, paths | cpus, min_size=1, max_size=12))
    more = hs.sampled_from(
        (b"0-8191", b"1,3,5", b"0", b"", b"0-63", b"ffffffff", b"8191", b"4294967296", b"-1")
    )
    made = data.draw(hs.dictionaries(paths | cpus, more, max_size=6))
    with folder() as root:
        write_files(
            root, files | {path: files.get(other, b"") for path, other in swaps.items() if path != "?"}
        )
        write_files(root, {path: text for path, text in made.items() if path != "?"})
        try:
            with no_hang():
                read = read_host(root)
        except HostReadError as error:
            assert error.path.startswith(root)
            return
    consistent(read)


@pytest.mark.parametrize(
    ("files", "removed"),
    [
        ({"sys/devices/cpu_core/cpus": b"0-3", "sys/devices/cpu_atom/cpus": b"2-7"}, ()),
        ({"sys/devices/system/cpu/possible": b"0-2"}, ()),
        ({"sys/devices/system/cpu/present": b"1,9"}, ()),
        ({}, ("cpu0/topology/core_cpus", "cpu0/topology/thread_siblings")),
        ({"sys/devices/system/cpu/cpu0/topology/package_cpus_list": b"0,5-8191"}, ()),
        ({"sys/devices/system/cpu/cpu1/cache/index3/shared_cpu_list": b"0-7"}, ()),
    ],
    ids=[
        "PMUs overlap",
        "not possible",
        "not present",
        "no core of CPU 0",
        "packages overlap",
        "L3s overlap",
    ],
)
def test_contradictions_by_hand(files: dict[str, bytes], removed: tuple[str, ...]) -> None:
    """The same with one contradiction each: kinds and levels stay apart, what is online is present and possible."""
    whole = tree_files(grid(packages=2, cores=2, threads=2)) | files
    gone = [f"sys/devices/system/cpu/{path}{end}" for path in removed for end in ("", "_list")]
    with folder() as root:
        write_files(root, {path: data for path, data in whole.items() if path not in gone})
        read = read_host(root)
    assert 8 == len(read.topology.online)
    consistent(read)


@pytest.mark.parametrize("what", [*TEXTS, *THINGS])
def test_every_file_damaged(what: str) -> None:
    """Where nothing at all can be read the error names cpu/online, or CPUs are told by their folders alone."""
    host = grid(cores=4, threads=2)
    files = tree_files(host)
    with folder() as root:
        damage(root, files, dict.fromkeys(files, what))
        with no_hang(), somebody(what == "forbidden"):
            try:
                read = read_host(root)
            except HostReadError as error:
                assert f"{root}/{ONLINE}" == error.path
            else:
                consistent(read)
                assert read.topology.online <= host.topology.online


@needs_root
def test_a_root_that_may_not_be_opened() -> None:
    """A folder of somebody else's is an error that says so."""
    with folder() as root:
        write_tree(root, grid())
        os.chmod(root, 0o700)
        with somebody(else_than_root=True), pytest.raises(HostReadError, match="ermission denied") as caught:
            read_host(root)
    assert root == caught.value.path


@pytest.mark.parametrize(
    "part", ["sys", "sys/devices/system/cpu", "sys/devices/system/node", "sys/fs", "proc"]
)
@pytest.mark.parametrize("what", ["missing", "file", "loop", "empty"])
def test_a_part_of_the_tree_is_gone(part: str, what: str) -> None:
    """A whole folder that is missing, no folder, a link in a circle or empty: less is told, or an error."""
    host = grid(packages=2, nodes=2, cores=4, threads=2, isolated=CpuSet([3]))
    with folder() as root:
        write_tree(root, host)
        place = os.path.join(root, part)
        shutil.rmtree(place)
        if what == "file":
            Path(place).write_text("0-3\n")
        elif what == "loop":
            os.symlink(os.path.basename(place), place)
        elif what == "empty":
            os.mkdir(place)
        if part in ("sys", "sys/devices/system/cpu"):
            with pytest.raises(HostReadError) as caught:
                read_host(root)
            assert f"{root}/{ONLINE}" == caught.value.path
        else:
            read = read_host(root)
            consistent(read)
            says_less(host, read)


def test_every_level_is_tested() -> None:
    """The levels that are checked are those that a topology has."""
    sets = {field.name for field in attrs.fields(Topology) if str(field.type) == "tuple[CpuSet, ...]"}
    assert sets == set(LEVELS)
