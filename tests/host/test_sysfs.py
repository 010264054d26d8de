"""/sys -> Topology, on this machine, on recorded ones, and on damaged ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.host.reader import Host, read_host

from ..conftest import HOSTS

TRUTHS = sorted(HOSTS.glob("*.truth.json"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Unpack a recorded machine, once."""
    folder = tmp_path_factory.mktemp("hosts")

    def unpack(name: str) -> Path:
        if not (folder / name).is_dir():
            with tarfile.open(HOSTS / f"{name}.tar.xz") as archive:
                # Debian 12's own Python has no filters yet; the archives are ours
                archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        return folder / name

    return unpack


def _texts(groups: tuple[CpuSet, ...]) -> list[str]:
    return sorted(str(group) for group in groups)


@pytest.mark.skipif(not TRUTHS, reason="the recorded machines are not beside this checkout")
@pytest.mark.parametrize("truth", TRUTHS, ids=lambda path: path.name.removesuffix(".truth.json"))
def test_recorded_machine(truth: Path, recorded: Any) -> None:
    """A recorded machine reads as its truth says: CPUs, every level, nodes, memory, distances, isolation."""
    expected = json.loads(truth.read_text())
    host = read_host(recorded(expected["name"]))
    topology = host.topology
    assert expected["online"] == str(topology.online)
    for level, groups in (
        ("packages", topology.packages),
        ("dies", topology.dies),
        ("cores", topology.cores),
        ("L2", topology.l2),
        ("L3", topology.l3),
    ):
        if level in expected:
            assert sorted(expected[level]) == _texts(groups), level
    assert sorted(expected["nodes"]) == sorted(str(node.number) for node in topology.nodes)
    for node in topology.nodes:
        raw = expected["nodes"][str(node.number)]
        assert CpuSet.parse(raw["cpus"]) & topology.online == node.cpus
        assert raw["mem_kb"] == (None if node.memory_bytes is None else node.memory_bytes // 1024)
        assert (raw["distance"] or "").split() == [str(distance) for _, distance in node.distances]
    sysfs = expected["sysfs"]
    for key in ("possible", "present"):
        if sysfs.get(key):
            assert sysfs[key] == str(getattr(topology, key))
    assert sysfs.get("isolated", "") == str(host.isolated)
    assert str(host.nohz_full) == sysfs.get("nohz_full", "").replace("(null)", "")
    assert not host.live


def test_this_machine_as_lscpu_sees_it(host: Host) -> None:
    """On the running machine, cores, packages and nodes are those of lscpu -p."""
    if shutil.which("lscpu") is None:
        pytest.skip("lscpu is not installed")
    out = subprocess.run(
        ["lscpu", "-p=CPU,CORE,SOCKET,NODE"], capture_output=True, text=True, check=True
    ).stdout
    columns: list[dict[str, set[int]]] = [{}, {}, {}]
    for line in out.splitlines():
        if not line.startswith("#"):
            cpu, *ids = line.split(",")
            for column, key in zip(columns, ids, strict=True):
                column.setdefault(key, set()).add(int(cpu))
    cores, packages, nodes = ([CpuSet(group) for group in column.values()] for column in columns)
    topology = host.topology
    assert _texts(tuple(cores)) == _texts(topology.cores)
    assert _texts(tuple(packages)) == _texts(topology.packages)
    assert (
        _texts(tuple(nodes)) == _texts(tuple(node.cpus for node in topology.nodes if node.cpus))
        or "" in columns[2]
    )
    assert host.live


def test_every_cpu_is_in_one_group_of_a_level(host: Host) -> None:
    """No level has a CPU twice, and all are online."""
    topology = host.topology
    for level in ("packages", "dies", "clusters", "cores", "l2", "l3"):
        groups = getattr(topology, level)
        members = [cpu for group in groups for cpu in group]
        assert len(set(members)) == len(members)
        assert CpuSet(members) <= topology.online
        assert sorted(groups, key=lambda group: group.first) == list(groups)


def _tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_least_that_a_machine_can_say(tmp_path: Path) -> None:
    """A machine that names its CPUs and nothing else has empty levels, not invented ones."""
    topology = read_host(_tree(tmp_path, {"cpu/online": "0-3\n"})).topology
    assert CpuSet.parse("0-3") == topology.online == topology.possible == topology.present
    assert () == topology.cores == topology.packages == topology.l3 == topology.nodes


def test_masks_where_lists_are_missing_and_nul_bytes(tmp_path: Path) -> None:
    """Old kernels' masks serve where a list is missing; NUL bytes and offline CPUs in them do not matter."""
    files: dict[str, str | bytes] = {
        "cpu/online": b"0-1\n\0",
        "cpu/present": "0-2",
        "node/node7/cpumap": "00000007",
    }
    for cpu in (0, 1):
        files[f"cpu/cpu{cpu}/topology/thread_siblings"] = "7\n"
        files[f"cpu/cpu{cpu}/cache/index2/level"] = "3"
        files[f"cpu/cpu{cpu}/cache/index2/type"] = "Unified"
        files[f"cpu/cpu{cpu}/cache/index2/shared_cpu_map"] = "3"
    topology = read_host(_tree(tmp_path, files)).topology
    both = CpuSet([0, 1])
    assert (both,) == topology.cores
    assert (both,) == topology.l3
    assert [(7, both)] == [(node.number, node.cpus) for node in topology.nodes]
    assert CpuSet([2]) == topology.offline
    assert ["online", "offline", "absent"] == [topology.state_of(cpu) for cpu in (0, 2, 3)]


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"garbage", b"9" * 100_000, b"0-", b"(null)"])
def test_damaged_files_tell_nothing(tmp_path: Path, damage: bytes) -> None:
    """A damaged file leaves its level empty; the rest is read."""
    files: dict[str, str | bytes] = {
        "cpu/online": "0-1",
        "cpu/isolated": damage,
        "node/node0/cpulist": damage,
    }
    for name in ("core_cpus_list", "package_cpus_list", "die_cpus_list", "cluster_cpus_list", "cluster_id"):
        files[f"cpu/cpu0/topology/{name}"] = damage
    for name in ("level", "type", "shared_cpu_list"):
        files[f"cpu/cpu0/cache/index3/{name}"] = damage
    files["node/node0/meminfo"] = b"Node 0 MemTotal: " + damage
    files["node/node0/distance"] = damage
    host = read_host(_tree(tmp_path, files))
    topology = host.topology
    assert () == topology.cores == topology.packages == topology.dies == topology.clusters == topology.l3
    assert CpuSet() == host.isolated
    assert (CpuSet(), None, ()) == (
        topology.nodes[0].cpus,
        topology.nodes[0].memory_bytes,
        topology.nodes[0].distances,
    )


def test_a_recorded_tree_leads_nowhere_and_never_waits(tmp_path: Path) -> None:
    """A link or a FIFO in place of a file is not followed and not waited for."""
    root = _tree(tmp_path, {"cpu/online": "0", "cpu/present": "0"})
    secret = tmp_path / "secret"
    secret.write_text("0-5")
    (root / "sys/devices/system/cpu/possible").symlink_to(secret)
    os.mkfifo(root / "sys/devices/system/cpu/isolated")
    host = read_host(root)
    assert CpuSet([0]) == host.topology.possible
    assert CpuSet() == host.isolated


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "no cpu"])
def test_what_is_no_machine(tmp_path: Path, kind: str) -> None:
    """A root that is no machine's is an error that names the path."""
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("")
    elif kind != "missing":
        root.mkdir()
    if kind == "no cpu":
        _tree(root, {"cpu/online": ""})
    with pytest.raises(HostReadError) as caught:
        read_host(root)
    assert str(root) in str(caught.value)
    assert str(root) in caught.value.path
