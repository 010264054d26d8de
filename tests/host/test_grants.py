"""What a thread is granted, and why a CPU is not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.host.grants import granted, why_not
from kvmaff.host.reader import Host, read_host
from kvmaff.host.threads import THREADS_FILE

from ..conftest import needs_two_cpus
from .files import V2_MOUNT, machine

CGROUP = "sys/fs/cgroup"


def _host(root: Path, cgroup: str = "/a/b") -> Host:
    thread = {
        "pid": 7,
        "tid": 8,
        "name": "t",
        "flags": 0,
        "cpu": 1,
        "mask": "1,6",
        "ppid": 1,
        "uid": 0,
        "args": None,
    }
    files: dict[str, str | bytes] = {
        "sys/devices/system/cpu/present": "0-9",
        "proc/self/mountinfo": V2_MOUNT,
        "proc/self/cgroup": "0::/\n",
        "proc/7/cgroup": f"0::{cgroup}\n",
        "proc/7/task/8/cgroup": f"0::{cgroup}\n",
        THREADS_FILE: json.dumps({"threads": [thread]}),
        f"{CGROUP}/cpuset.cpus.effective": "0-5,9",
        f"{CGROUP}/cpuset.mems.effective": "0-1",
        f"{CGROUP}/a/cpuset.cpus.effective": "0-4",
        f"{CGROUP}/a/b/cpuset.cpus.effective": "0-2",
        f"{CGROUP}/a/b/cpuset.mems.effective": "1",
        f"{CGROUP}/rt/cpuset.cpus.effective": "6-7",
        f"{CGROUP}/rt/cpuset.cpus.partition": "isolated",
    }
    return read_host(machine(root, "0-7", files))


def test_what_is_granted(tmp_path: Path) -> None:
    """CPUs that are online, and memory nodes, of the nearest cgroup that says so."""
    host = _host(tmp_path)
    grant = granted(host, 7, 8)
    assert ("/sys/fs/cgroup/a/b", "0-2", (1,)) == (grant.cgroup, str(grant.cpus), grant.nodes)
    mine = granted(host)
    assert ("/sys/fs/cgroup", "0-5", (0, 1)) == (mine.cgroup, str(mine.cpus), mine.nodes)
    with pytest.raises(RequestError, match="process 9 is not there"):
        granted(host, 9)
    with pytest.raises(RequestError, match="thread 9 of process 7"):
        granted(host, 7, 9)


@pytest.mark.parametrize(
    ("cpu", "why"),
    [
        (1, None),
        (0, "its mask is 1,6"),
        (3, "the cgroup /sys/fs/cgroup/a/b grants 0-2 only"),
        (5, "the cgroup /sys/fs/cgroup/a grants 0-4 only"),
        (6, "the cgroup partition /sys/fs/cgroup/rt has it for itself"),
        (8, "it is offline"),
        (99, "there is no such CPU"),
    ],
)
def test_why_not(tmp_path: Path, cpu: int, why: str | None) -> None:
    """The reason that lies deepest is named: the CPU, a partition, a cgroup, the mask."""
    said = why_not(_host(tmp_path), cpu, 7, 8)
    assert why is said if why is None else why in (said or "")


def test_inside_a_partition(tmp_path: Path) -> None:
    """Whoever is in the partition has its CPUs."""
    host = _host(tmp_path, "/rt")
    assert None is why_not(host, 6, 7, 8)
    assert "the cgroup /sys/fs/cgroup/rt grants 6-7 only" == why_not(host, 1, 7)


def test_no_cgroup_limits_anything(tmp_path: Path) -> None:
    """Without cpusets everything online is granted."""
    grant = granted(read_host(machine(tmp_path, "0-3")))
    assert ("", CpuSet(range(4)), None) == (grant.cgroup, grant.cpus, grant.nodes)


@needs_two_cpus
def test_this_machine(host: Host) -> None:
    """A process of ours may run where its mask says, and the mask is the reason where it may not."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(["sleep", "60"])
    try:
        os.sched_setaffinity(process.pid, {first})
        assert None is why_not(host, first, process.pid)
        assert f"its mask is {first}:" in (why_not(host, second, process.pid) or "")
        assert CpuSet(os.sched_getaffinity(0)) <= granted(host).cpus
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("cgroup", "cpu", "blamed"),
    [
        ("/p/plain", 2, "/p/plain grants 3 only"),
        ("/p/plain", 6, "/p grants 2-3 only"),
        ("/p/iso", 2, "/p/iso grants 4-5 only"),
        ("/p/iso", 6, "/p/iso grants 4-5 only"),
        ("/p/iso", 4, None),
    ],
)
def test_who_is_to_blame_below_partitions(tmp_path: Path, cgroup: str, cpu: int, blamed: str | None) -> None:
    """A partition takes its CPUs from those above: what they have left says nothing of those inside."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT,
        "proc/7/cgroup": f"0::{cgroup}\n",
        f"{CGROUP}/cpuset.cpus.effective": "0-1,6-7",
        f"{CGROUP}/p/cpuset.cpus.effective": "2-3",
        f"{CGROUP}/p/plain/cpuset.cpus.effective": "3",
        f"{CGROUP}/p/iso/cpuset.cpus.effective": "4-5",
    }
    said = why_not(read_host(machine(tmp_path, "0-7", files)), cpu, 7)
    assert (None if blamed is None else f"the cgroup /{CGROUP}{blamed}") == said


@pytest.mark.parametrize("path", ["/../../x", "/foobar", "/"])
def test_a_cgroup_that_cannot_be_seen(tmp_path: Path, path: str) -> None:
    """Where a process's cgroup lies outside of what is mounted, its mask is what is known, and no other's grant."""
    thread = {
        "pid": 7,
        "tid": 7,
        "name": "t",
        "flags": 0,
        "cpu": 1,
        "mask": "1,6",
        "ppid": 1,
        "uid": 0,
        "args": None,
    }
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT.replace(" / /sys", " /foo /sys"),
        "proc/7/cgroup": f"0::{path}\n",
        THREADS_FILE: json.dumps({"threads": [thread]}),
        f"{CGROUP}/cpuset.cpus.effective": "0-3",
        f"{CGROUP}/bar/cpuset.cpus.effective": "2",
    }
    grant = granted(read_host(machine(tmp_path, "0-7", files)), 7)
    assert ("", "1,6", None) == (grant.cgroup, str(grant.cpus), grant.nodes)


def test_a_partition_that_only_begins_alike(tmp_path: Path) -> None:
    """A process in /rt2 is not inside the partition /rt."""
    assert "partition" in (why_not(_host(tmp_path, "/rt2"), 6, 7) or "")


def test_a_name_that_forges_a_line(tmp_path: Path) -> None:
    """Only a newline parts lines: a cgroup's name may have what Python takes for one."""
    host = _host(tmp_path, "/a/b\x0c0::/")
    assert "/sys/fs/cgroup" != granted(host, 7, 8).cgroup
