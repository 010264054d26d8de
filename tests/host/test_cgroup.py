"""What a cgroup grants, from recorded files and from this machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.tree import open_tree

V1 = "30 20 0:27 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
V2 = "31 20 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def _machine(root: Path, mounts: str, own: str, grants: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("20 1 0:1 / / rw - ext4 /dev/vda rw\nbroken\n" + mounts)
    (root / "proc/7/task/8").mkdir(parents=True)
    (root / "proc/7/task/8/cgroup").write_text(own)
    for name, text in grants.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("mounts", "own", "grants", "expected"),
    [
        (
            V2,
            "0::/machine/vm1\n",
            {"sys/fs/cgroup/machine/vm1/cpuset.cpus.effective": "2-3\n"},
            ("/sys/fs/cgroup/machine/vm1", "2-3"),
        ),
        (  # the controller is not enabled for the leaf: its parent's grant counts
            V2,
            "0::/machine/vm1\n",
            {
                "sys/fs/cgroup/machine/cpuset.cpus.effective": "0-5\n",
                "sys/fs/cgroup/machine/vm1/cgroup.procs": "",
            },
            ("/sys/fs/cgroup/machine", "0-5"),
        ),
        (
            V1 + V2,
            "5:cpuset:/vm\n0::/elsewhere\n",
            {
                "sys/fs/cgroup/cpuset/vm/cpuset.effective_cpus": "1\n",
                "sys/fs/cgroup/elsewhere/cpuset.cpus.effective": "9\n",
            },
            ("/sys/fs/cgroup/cpuset/vm", "1"),
        ),
        (  # a container's view: only a part of the hierarchy is mounted
            V2.replace(" / /sys", " /outer /sys"),
            "0::/outer/inner\n",
            {"sys/fs/cgroup/inner/cpuset.cpus.effective": "4\n"},
            ("/sys/fs/cgroup/inner", "4"),
        ),
        (  # spaces are escaped in mountinfo
            V2.replace("/sys/fs/cgroup", "/my\\040group"),
            "0::/\n",
            {"my group/cpuset.cpus.effective": "0-1\n"},
            ("/my group", "0-1"),
        ),
        (V2, "0::/../../outside\n", {"sys/fs/cgroup/cpuset.cpus.effective": "0-1\n"}, None),
        ("", "0::/a\n", {}, None),
        (V2, "garbage\n", {}, None),
    ],
)
def test_granted(
    tmp_path: Path, mounts: str, own: str, grants: dict[str, str], expected: tuple[str, str] | None
) -> None:
    """The grant is that of the thread's own cgroup, or of the nearest ancestor that has one."""
    with open_tree(str(_machine(tmp_path, mounts, own, grants))) as tree:
        grant = Cgroups(tree).granted(7, 8)
    if expected is None:
        assert grant is None
    else:
        assert grant is not None
        assert expected == (grant.cgroup, str(grant.cpus))


def test_this_process() -> None:
    """What this process may run on lies inside what its cgroup grants."""
    with open_tree("/") as tree:
        grant = Cgroups(tree).granted(os.getpid(), os.getpid())
    if grant is None:
        pytest.skip("no cpuset controller is mounted here")
    assert CpuSet(os.sched_getaffinity(0)) <= grant.cpus
    assert os.path.isdir(grant.cgroup)


def test_who_does_not_grant_a_cpu(tmp_path: Path) -> None:
    """The cgroup nearest to the root that lacks a CPU is to blame, and memory nodes are told, too."""
    grants = {
        "sys/fs/cgroup/cpuset.cpus.effective": "0-7\n",
        "sys/fs/cgroup/cpuset.mems.effective": "0-1\n",
        "sys/fs/cgroup/a/cpuset.cpus.effective": "0-3\n",
        "sys/fs/cgroup/a/cpuset.mems.effective": "1\n",
        "sys/fs/cgroup/a/b/cpuset.cpus.effective": "0-1\n",
    }
    with open_tree(str(_machine(tmp_path, V2, "0::/a/b\n", grants))) as tree:
        grant = Cgroups(tree).granted(7, 8)
    assert grant is not None
    assert (CpuSet([0, 1]), (1,)) == (grant.cpus, grant.nodes)
    assert [None, ("/sys/fs/cgroup/a/b", CpuSet([0, 1])), ("/sys/fs/cgroup/a", CpuSet(range(4)))] == [
        grant.taken_by(cpu) for cpu in (1, 2, 4)
    ]


def test_a_long_mount_table_and_names_of_any_bytes(tmp_path: Path) -> None:
    """Thousands of mounts and a cgroup whose name is no ASCII do not hide a grant."""
    mounts = (
        "".join(f"{n} 1 0:9 / /very/long/mount/point/{n} rw - overlay overlay rw\n" for n in range(5000)) + V2
    )
    grants = {"sys/fs/cgroup/cpuset.cpus.effective": "0-7", "sys/fs/cgroup/größe/cpuset.cpus.effective": "3"}
    with open_tree(str(_machine(tmp_path, mounts, "0::/größe\n", grants))) as tree:
        grant = Cgroups(tree).granted(7, 8)
    assert grant is not None
    assert CpuSet([3]) == grant.cpus


@pytest.mark.parametrize(
    ("mounts", "folder", "file"),
    [
        ("none /dev/cpuset cgroup rw,cpuset,noprefix 0 0\n", "dev/cpuset", "cpus"),
        ("cpuset /dev/cpuset cpuset rw 0 0\nbroken\n", "dev/cpuset", "cpus"),
        ("none /cgroup/unified cgroup2 rw 0 0\n", "cgroup/unified", "cpuset.cpus.effective"),
    ],
)
def test_recordings_with_the_older_files(tmp_path: Path, mounts: str, folder: str, file: str) -> None:
    """Where a recording has /proc/mounts and /proc/self/cpuset only, they tell the same."""
    files = {"proc/mounts": mounts, "proc/self/cpuset": "/dummy\n", f"{folder}/dummy/{file}": "0-6,12-15\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with open_tree(str(tmp_path)) as tree:
        grant = Cgroups(tree).granted("self")
    assert grant is not None
    assert (f"/{folder}/dummy", "0-6,12-15") == (grant.cgroup, str(grant.cpus))
