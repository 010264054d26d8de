"""Trees are written as kernels show machines: other readers accept them, and so do ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest
from hypothesis import given, settings

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.isolation import Isolation, Kept, KeptFrom
from kvmaff.host.reader import Host, read_host
from kvmaff.host.topology import Topology
from kvmaff.host.tree import open_tree
from kvmaff.testing import inputs_hosts as st
from kvmaff.testing.trees import MODERN, OLD_KERNEL, TreeStyle, grid, tree_files, write_files, write_tree

LSTOPO = next(filter(None, map(shutil.which, ("lstopo-no-graphics", "lstopo"))), None)
needs_lscpu = pytest.mark.skipif(shutil.which("lscpu") is None, reason="lscpu is not installed")
needs_lstopo = pytest.mark.skipif(LSTOPO is None, reason="lstopo is not installed (Debian: hwloc)")

SHAPES = {
    "one CPU": grid(),
    "desktop": grid(cores=8, threads=2, l3s=2),
    "adjacent siblings": grid(packages=2, cores=4, threads=2, adjacent=True),
    "dies": grid(packages=2, dies=2, nodes=2, l3s=2, cores=8, threads=2),
    "many L3s": grid(packages=2, nodes=4, l3s=8, cores=32, threads=2),
    "four siblings": grid(packages=2, cores=6, threads=4),
    "384 CPUs": grid(packages=2, nodes=2, l3s=12, cores=96, threads=2),
}
LEVELS = ("packages", "cores", "l2", "l3", "nodes")


def told(topology: Topology) -> dict[str, list[str]]:
    """The levels that the tools tell, too, as texts without order."""
    groups = {
        "packages": topology.packages,
        "cores": topology.cores,
        "l2": topology.l2,
        "l3": topology.l3,
        "nodes": tuple(node.cpus for node in topology.nodes if node.cpus),
    }
    return {level: sorted(map(str, groups[level])) for level in LEVELS}


def by_lscpu(*words: str) -> dict[str, list[str]]:
    """What ``lscpu -p`` tells; its last comment names the columns, those of the caches with an empty one before."""
    out = subprocess.run(
        ["lscpu", *words, "-p=CPU,SOCKET,CORE,NODE,CACHE"], capture_output=True, text=True, check=True
    ).stdout
    comments, rows = (
        [line for line in out.splitlines() if line.startswith("#") is is_one] for is_one in (True, False)
    )
    columns = comments[-1].removeprefix("# ").split(",")
    found: dict[str, dict[str, set[int]]] = {level: {} for level in LEVELS}
    for line in rows:
        row = dict(zip(columns, line.split(","), strict=True))
        for level, column in zip(LEVELS, ("Socket", "Core", "L2", "L3", "Node"), strict=True):
            if row.get(column):
                found[level].setdefault(row[column], set()).add(int(row["CPU"]))
    return {level: sorted(str(CpuSet(cpus)) for cpus in found[level].values()) for level in LEVELS}


def by_lstopo(*words: str) -> dict[str, list[str]]:
    """What ``lstopo --of xml`` tells; a node without CPUs has those of others there, and is left out."""
    out = subprocess.run(
        [str(LSTOPO), *words, "--no-io", "--disallowed", "--of", "xml"], capture_output=True, check=True
    ).stdout
    kinds = {"Package": "packages", "Core": "cores", "L2Cache": "l2", "L3Cache": "l3", "NUMANode": "nodes"}
    found: dict[str, list[str]] = {level: [] for level in LEVELS}
    for each in ET.fromstring(out).iter("object"):
        level = kinds.get(each.attrib["type"])
        if level and each.get("cpuset"):
            # hexadecimal groups of 32 bits, each with 0x; an empty one is 0
            groups = [int(group or "0", 16) for group in each.attrib["cpuset"].split(",")]
            bits = 0
            for group in groups:
                bits = bits << 32 | group
            found[level].append(str(CpuSet.from_bits(bits)))
    return {level: sorted(found[level]) for level in LEVELS}


@needs_lscpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", [MODERN, OLD_KERNEL], ids=["modern", "old"])
def test_lscpu_reads_what_was_written(tmp_path: Path, shape: str, style: TreeStyle) -> None:
    """Lscpu finds in a written tree what the machine has, and so do we; without cpu/online it takes all CPUs."""
    write_tree(tmp_path, SHAPES[shape], style)
    expected = told(SHAPES[shape].topology)
    assert expected == by_lscpu("--sysroot", str(tmp_path))
    assert expected == told(read_host(tmp_path).topology)


@needs_lstopo
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", [MODERN, OLD_KERNEL], ids=["modern", "old"])
def test_lstopo_reads_what_was_written(tmp_path: Path, shape: str, style: TreeStyle) -> None:
    """Lstopo finds in a written tree what the machine has."""
    write_tree(tmp_path, SHAPES[shape], style)
    assert told(SHAPES[shape].topology) == by_lstopo("--if", "fsroot", "--input", str(tmp_path))


@needs_lscpu
def test_this_machine_by_lscpu(host: Host) -> None:
    """On the running machine lscpu tells the packages, cores, caches and nodes that we read."""
    expected, found = by_lscpu(), told(host.topology)
    for level in LEVELS:
        assert not expected[level] or expected[level] == found[level], level


@needs_lstopo
def test_this_machine_by_lstopo(host: Host) -> None:
    """On the running machine lstopo tells the packages, cores, caches and nodes that we read."""
    expected, found = by_lstopo(), told(host.topology)
    for level in LEVELS:
        if level == "nodes" and not host.topology.nodes:
            continue  # hwloc makes one up where the kernel has none
        assert expected[level] == found[level], level


def test_grid_is_regular() -> None:
    """A grid has the parts that were asked for, each of the same size."""
    topology = grid(packages=4, dies=2, nodes=2, l3s=4, cores=8, threads=2).topology
    sizes = {
        name: [len(group) for group in getattr(topology, name)]
        for name in ("packages", "dies", "l3", "l2", "cores")
    }
    assert {"packages": [16] * 4, "dies": [8] * 8, "l3": [4] * 16, "l2": [2] * 32, "cores": [2] * 32} == sizes
    assert CpuSet([0, 32]) == topology.cores[0]
    assert [10, 12, 21] == [topology.nodes[0].distance_to(other) for other in (0, 1, 2)]


def test_grid_refuses_what_is_uneven() -> None:
    """Parts of a package that do not come out even are an error."""
    with pytest.raises(ValueError, match="6 cores of a package are no multiple of 1 dies, 4 nodes"):
        grid(nodes=4, cores=6)


def test_old_style_has_masks_only() -> None:
    """An old kernel's tree has no list of siblings, no newer names and no cpu/online."""
    paths = tree_files(grid(cores=2, threads=2), OLD_KERNEL)
    names = {path.rpartition("/")[2] for path in paths}
    assert {"thread_siblings", "core_siblings", "cpumap", "shared_cpu_map"} <= names
    assert not {"core_cpus", "die_cpus", "cpulist"} & names
    assert not {name for name in names if name.endswith("_list")}
    assert "sys/devices/system/cpu/online" not in paths
    assert "sys/devices/system/cpu/cpu1/online" in paths


def test_nul_style_ends_every_file_so() -> None:
    """Files that end in NUL bytes all do."""
    files = tree_files(grid(), TreeStyle(nul=True))
    assert all(data.endswith(b"\n\0") for data in files.values())


@settings(max_examples=50)
@given(st.hosts())
def test_offline_cpus_are_named_and_have_no_place(host: Host) -> None:
    """In the style that names offline CPUs, each of them is in a group of each level, and has no folder of its own."""
    files = tree_files(host, TreeStyle(offline_named=True))
    for cpu in host.topology.offline:
        assert f"sys/devices/system/cpu/cpu{cpu}/topology/core_id" not in files
    named = CpuSet.union_of(
        CpuSet.parse(data) for path, data in files.items() if path.endswith("/core_siblings_list")
    )
    assert host.topology.possible == named


def test_what_the_reader_is_granted(tmp_path: Path) -> None:
    """The cgroup of the process that reads grants what it was told to; the command line is the text that was given."""
    host = grid(cores=4)
    write_tree(tmp_path, host, granted=CpuSet([1, 2]), cmdline="ro isolcpus=9 rcu_nocbs=3")
    with open_tree(str(tmp_path)) as tree:
        grant = Cgroups(tree).granted("self")
    assert grant
    assert ("/sys/fs/cgroup/machine.slice", CpuSet([1, 2]), (0,)) == (grant.cgroup, grant.cpus, grant.nodes)
    (kept,) = read_host(tmp_path).isolation.kept
    assert Kept(cpus=CpuSet([3]), what=KeptFrom.RCU, by="rcu_nocbs=3") == kept


def test_a_partition_is_written_as_a_cgroup(tmp_path: Path) -> None:
    """CPUs that a cgroup keeps are told by its files, and lost to the root."""
    own = CpuSet([2, 3])
    by = "/sys/fs/cgroup/guests"
    kept = tuple(Kept(cpus=own, what=what, by=by) for what in (KeptFrom.BALANCING, KeptFrom.OUTSIDERS))
    host = attrs.evolve(grid(cores=4), isolation=Isolation(kept=kept))
    write_tree(tmp_path, host)
    assert b"isolated\n" == (tmp_path / "sys/fs/cgroup/guests/cpuset.cpus.partition").read_bytes()
    assert b"0-1\n" == (tmp_path / "sys/fs/cgroup/cpuset.cpus.effective").read_bytes()
    assert kept == read_host(tmp_path).isolation.kept


def test_files_are_written_through_no_link(tmp_path: Path) -> None:
    """Writing over a tree never writes where a link in place of a file leads."""
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/file").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):  # noqa: PT011 - the kernel's own
        write_files(tmp_path, {"sys/file": b"x"})
    assert not os.path.exists(tmp_path / "elsewhere")
