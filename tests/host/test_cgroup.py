"""What a cgroup grants, from recorded files and from this machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Grant, cpus_granted
from kvmaff.host.tree import Tree

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
    with Tree(str(_machine(tmp_path, mounts, own, grants))) as tree:
        grant = cpus_granted(tree, 7, 8)
    if expected is None:
        assert grant is None
    else:
        assert Grant(cgroup=expected[0], cpus=CpuSet.parse(expected[1])) == grant


def test_this_process() -> None:
    """What this process may run on lies inside what its cgroup grants."""
    with Tree("/") as tree:
        grant = cpus_granted(tree, os.getpid(), os.getpid())
    if grant is None:
        pytest.skip("no cpuset controller is mounted here")
    assert CpuSet(os.sched_getaffinity(0)) <= grant.cpus
    assert os.path.isdir(grant.cgroup)
