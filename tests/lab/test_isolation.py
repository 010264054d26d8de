"""
Who keeps which CPUs from what, on real kernels: what kvmaff says is what was asked of the kernel and what it did.

Proofs from the kernel itself: its log of the boot, scheduling domains in /proc/schedstat, and trying it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvmaff
from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.host.isolation import KeptFrom

from ..conftest import kernel_masks
from . import tiny
from .guests import running
from .lab import Lab
from .machine import Machine

_READ = """
import json
import kvmaff
from kvmaff.formats.plain import topology_data
print(json.dumps(topology_data(kvmaff.read_host())))
"""
FLAGS = "isolcpus=domain,managed_irq,2-3,4-7:1/3"
NOHZ = "isolcpus=nohz,domain,managed_irq,2-7:2/4"
BOOTS = {
    "6.1": (
        Machine.parse("16", append=f"{FLAGS} nohz_full=5,N rcu_nocbs=6 irqaffinity=0-1 isolcpus=3"),
        [
            ("2-4,7", "load balancing", f"{FLAGS} isolcpus=3"),
            ("5,15", "the tick", "nohz_full=5,N"),
            ("5,15", "RCU callbacks", "nohz_full=5,N"),
            ("6", "RCU callbacks", "rcu_nocbs=6"),
            ("2-4,7", "managed interrupts", f"{FLAGS} isolcpus=3"),
            ("2-15", "interrupts", "irqaffinity=0-1"),
        ],
        "isolcpus=3",
    ),
    "6.12": (
        Machine.parse("16", append=f"{NOHZ} nohz_full=5 irqaffinity=0-1,6", kernel="6.12"),
        [
            ("2-3,6-7", "load balancing", NOHZ),
            ("2-3,6-7", "the tick", NOHZ),
            ("2-3,6-7", "RCU callbacks", NOHZ),
            ("2-3,6-7", "managed interrupts", NOHZ),
            ("2-5,7-15", "interrupts", "irqaffinity=0-1,6"),
        ],
        "nohz_full=5",
    ),
    "nohz-first": (
        Machine.parse("8", append="nohz_full=5 isolcpus=nohz,domain,managed_irq,2-3"),
        [("5", "the tick", "nohz_full=5"), ("5", "RCU callbacks", "nohz_full=5")],
        "isolcpus=nohz,domain,managed_irq,2-3",
    ),
}
# Partitions change masks of everything that runs, so they have these machines for themselves
_BY_BOOT = [pytest.param(name, id=name, marks=pytest.mark.lab(boot[0])) for name, boot in BOOTS.items()]
_BY_KERNEL = [
    pytest.param(id=kernel, marks=pytest.mark.inside(BOOTS[kernel][0], timeout=120))
    for kernel in ("6.1", "6.12")
]
both_kernels = pytest.mark.parametrize((), _BY_KERNEL)


@pytest.mark.parametrize("boot", _BY_BOOT)
def test_the_command_line(lab: Lab, boot: str) -> None:
    """Flags, strides and N mean what the kernel took them for; of words that contradict it threw out the one named."""
    _, expected, in_vain = BOOTS[boot]
    found = json.loads(lab.run("python3", "-c", _READ, check=True).stdout)
    assert expected == [(one["cpus"], one["from"], one["by"]) for one in found["isolation"]]
    assert all(in_vain in doubt for doubt in found["doubts"])
    assert any(f"{in_vain} on the kernel's command line contradicts" in doubt for doubt in found["doubts"])
    cpus = {
        what: str(CpuSet.union_of(CpuSet.parse(c) for c, w, _ in expected if w == what)) for what in KeptFrom
    }
    said = lab.run(
        "sh",
        "-c",
        "cd /sys/devices/system/cpu; cat isolated nohz_full; cat /proc/irq/default_smp_affinity; dmesg",
    )
    isolated, nohz_full, usual, *log = said.stdout.splitlines()
    assert (cpus["load balancing"], cpus["the tick"]) == (isolated, nohz_full)
    assert cpus["interrupts"] == str(CpuSet(range(lab.machine.cpus)) - CpuSet.parse_mask(usual))
    text = "\n".join(log)
    assert [cpus["the tick"]] == re.findall(r"NO_HZ: Full dynticks CPUs: (.*)\.", text)
    assert [cpus["RCU callbacks"]] == re.findall(r"Offload RCU callbacks from CPUs: (.*)\.", text)
    assert "Housekeeping: nohz_full= must match isolcpus=" in text


Group = Callable[..., Path]


@pytest.fixture
def group() -> Iterator[Group]:
    """Make cgroups; none is left after the test."""
    made: list[Path] = []

    def make(name: str, cpus: str, partition: str = "member", **files: str) -> Path:
        folder = Path("/sys/fs/cgroup", name)
        folder.mkdir()
        made.append(folder)
        if len(folder.relative_to("/sys/fs/cgroup").parts) > 1:
            _put(folder.parent / "cgroup.subtree_control", "+cpuset")
        for file, text in {"cpuset_cpus": cpus, **files}.items():
            _put(folder / file.replace("_", "."), text)
        if partition != "member":
            _put(folder / "cpuset.cpus.partition", partition)
            assert partition == (folder / "cpuset.cpus.partition").read_text().strip()
        return folder

    yield make
    for folder in reversed(made):
        for pid in (folder / "cgroup.procs").read_text().split():
            _put(Path("/sys/fs/cgroup/cgroup.procs"), pid)
        _put(folder / "cpuset.cpus.partition", "member")  # a removed one gives its CPUs back later, if at all
        folder.rmdir()


def _put(file: Path, text: str) -> None:
    """Write at once, so that what the kernel refuses is an error."""
    fd = os.open(file, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


Child = Callable[..., int]


@pytest.fixture
def child() -> Iterator[Child]:
    """Start processes of ours that sleep or spin, in a cgroup."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path | None = None, *, spin: bool = False) -> int:
        words = ["sh", "-c", "while :; do :; done"] if spin else ["sleep", "1000"]
        started.append(subprocess.Popen(words))
        if folder:
            _put(folder / "cgroup.procs", str(started[-1].pid))
        return started[-1].pid

    yield start
    for one in started:
        one.kill()
        one.wait()


def _boot() -> CpuSet:
    return CpuSet.parse(Path("/sys/devices/system/cpu/isolated").read_text())


def _kept() -> list[tuple[str, str, str]]:
    """What partitions keep."""
    host = kvmaff.read_host()
    kept = [(str(one.cpus), one.what.value, one.by) for one in host.isolation.kept]
    return [(cpus, what, by.rpartition("/")[2]) for cpus, what, by in kept if by.startswith("/sys/fs/cgroup")]


def _without_domains() -> CpuSet:
    """The CPUs that the kernel put in no scheduling domain, so that no load is balanced there."""
    found: dict[int, bool] = {}
    for line in Path("/proc/schedstat").read_text().splitlines():
        if line.startswith("cpu"):
            cpu = int(line.split()[0][3:])
            found[cpu] = True
        elif line.startswith("domain"):
            found[cpu] = False
    return CpuSet(cpu for cpu, alone in found.items() if alone)


def _works(pid: int) -> CpuSet:
    """The CPUs that a process of ours can really be bound to; it has its mask again afterwards."""
    before = os.sched_getaffinity(pid)
    found = []
    for cpu in range(16):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, {cpu})
            assert {cpu} == os.sched_getaffinity(pid)
            found.append(cpu)
    os.sched_setaffinity(pid, before)
    return CpuSet(found)


def _nested(group: Group) -> dict[str, Path]:
    """A root partition with an isolated one and a plain cgroup inside, an isolated one, and a plain one."""
    return {
        "fast": group("fast", "8-10", "root"),
        "inner": group("fast/inner", "10", "isolated"),
        "rest": group("fast/rest", "8-9"),
        "quiet": group("quiet", "12-13", "isolated"),
        "plain": group("plain", "0-3"),
    }


@both_kernels
def test_partitions(group: Group) -> None:
    """Root, isolated and nested partitions keep what the kernel's scheduling domains show, and end when they end."""
    assert [] == _kept()
    folders = _nested(group)
    assert [
        ("8-9", "other cgroups", "fast"),
        ("10", "load balancing", "inner"),
        ("10", "other cgroups", "inner"),
        ("12-13", "load balancing", "quiet"),
        ("12-13", "other cgroups", "quiet"),
    ] == sorted(_kept(), key=lambda one: (int(one[0].split("-")[0]), one[1]))
    isolation = kvmaff.read_host().isolation
    assert [] == [doubt for doubt in isolation.doubts if "partition" in doubt]
    assert _without_domains() == isolation.unbalanced == _boot() | CpuSet.parse("10,12-13")
    shown = Path("/sys/fs/cgroup/cpuset.cpus.isolated")  # Linux 6.12 has it
    if shown.exists():
        assert str(isolation.unbalanced) == shown.read_text().strip()
    _put(folders["quiet"] / "cpuset.cpus.partition", "member")
    assert {"fast", "inner"} == {by for _, _, by in _kept()}
    assert _without_domains() == kvmaff.read_host().isolation.unbalanced == _boot() | CpuSet([10])


@both_kernels
def test_a_partition_that_is_none(group: Group) -> None:
    """Partitions that get in each other's way are none for the kernel, and its reason is passed on."""
    folders = [group("bad", "14-15"), group("quiet", "12-13", "isolated")]
    _put(folders[0] / "cpuset.cpus", "13-15")
    with contextlib.suppress(OSError):  # some kernels refuse at once
        _put(folders[0] / "cpuset.cpus.partition", "isolated")
    said = {folder: (folder / "cpuset.cpus.partition").read_text() for folder in folders}
    isolation = kvmaff.read_host().isolation
    broken = {folder: text for folder, text in said.items() if "invalid" in text}
    assert broken
    doubts = [doubt for doubt in isolation.doubts if "partition" in doubt]
    for doubt, (folder, text) in zip(doubts, broken.items(), strict=True):
        reason = text.partition("(")[2].strip(")\n") or "invalid"  # 6.12 does not always know one
        assert f"{folder} was asked to be a partition (isolated) and is none: {reason}" == doubt
    # 6.12 leaves the CPUs of one that was a partition without load balancing, whatever its files say
    assert _without_domains() == isolation.unbalanced
    assert {str(folder) for folder in folders} - {str(folder) for folder in broken} == {
        one.by for one in isolation.kept if one.by.startswith("/sys/fs/cgroup")
    }


@pytest.mark.inside(BOOTS["6.12"][0])
def test_a_remote_partition(group: Group, child: Child) -> None:
    """A partition whose parent is none (Linux 6.7 and later) is found, and grants what can be had there."""
    group("far", "8-11", cpuset_cpus_exclusive="8-9")
    remote = group("far/away", "8-9", "isolated", cpuset_cpus_exclusive="8-9")
    assert "isolated\n" == (remote / "cpuset.cpus.partition").read_text()
    assert [("8-9", "load balancing", "away"), ("8-9", "other cgroups", "away")] == _kept()
    host = kvmaff.read_host()
    assert _without_domains() == host.isolation.unbalanced == _boot() | CpuSet.parse("8-9")
    inside, outside = child(remote), child()
    for pid in (inside, outside):
        assert _works(pid) == kvmaff.granted(host, pid).cpus
    assert CpuSet.parse("8-9") == kvmaff.granted(host, inside).cpus
    assert "/far/away has it for itself" in str(kvmaff.why_not(host, 8, outside))


@both_kernels
def test_what_is_granted_can_be_had(group: Group, child: Child) -> None:
    """Inside and outside of partitions, what is granted is what can be had; why_not names who has the rest."""
    folders = _nested(group)
    children = {name: child(folder) for name, folder in folders.items() if name != "fast"} | {"": child()}
    host = kvmaff.read_host()
    can = {name: _works(pid) for name, pid in children.items()}
    assert {"inner": "10", "rest": "8-9", "quiet": "12-13", "plain": "0-3", "": "0-7,11,14-15"} == {
        name: str(cpus) for name, cpus in can.items()
    }
    reasons: dict[tuple[str, int], str | None] = {}
    for name, pid in children.items():
        assert can[name] == kvmaff.granted(host, pid).cpus
        for cpu in (1, 4, 9, 10, 13):
            reasons[name, cpu] = why = kvmaff.why_not(host, cpu, pid)
            assert (cpu in can[name]) == (why is None or why.startswith("its mask is ")), (name, cpu, why)
    assert None is reasons["", 1] is reasons["", 4] is reasons["plain", 1] is reasons["rest", 9]
    assert (
        "the cgroup partition /sys/fs/cgroup/quiet has it for itself"
        == reasons["", 13]
        == reasons["rest", 13]
    )
    assert "the cgroup partition /sys/fs/cgroup/fast/inner has it for itself" == reasons["rest", 10]
    assert "the cgroup /sys/fs/cgroup/plain grants 0-3 only" == reasons["plain", 4]
    assert "the cgroup /sys/fs/cgroup/quiet grants 12-13 only" == reasons["quiet", 1]


@both_kernels
def test_a_partition_elsewhere(group: Group, child: Child) -> None:
    """Whoever makes a partition undoes, on 6.1, the masks of everybody else, also for isolated CPUs; kvmaff sees it."""
    isolated, host, pid = _boot(), kvmaff.read_host(), child()
    housekeeping = set(range(16)) - set(isolated)
    os.sched_setaffinity(pid, housekeeping)
    assert "its mask is" in str(kvmaff.why_not(host, isolated.first, pid))
    group("quiet", "12-13", "isolated")
    forgets = os.uname().release.startswith("6.1.")
    assert (set(range(16)) if forgets else housekeeping) - {12, 13} == os.sched_getaffinity(pid)
    assert forgets == (kvmaff.why_not(host, isolated.first, pid) is None)


@both_kernels
def test_guests_beside_and_in_a_partition(group: Group, tmp_path: Path, state_dir: Path) -> None:
    """No strategy gives a thread several CPUs without load balancing: not outside of a partition, and not in it."""
    quiet = group("quiet", "12-14", "isolated")
    with running(tiny.TICK, tmp_path, "one") as pid:
        host = kvmaff.read_host()
        before = kernel_masks(pid)
        for strategy in ("numa", "pack", "spread", "isolated"):
            placed = kvmaff.place(host, kvmaff.guests(host), strategy, anew=True)
            asked = [thread.cpus for thread in placed.guests[0].threads]
            assert kvmaff.plan(host, placed).apply().ok
            for cpus in (*asked, *map(CpuSet, kernel_masks(pid).values())):
                assert len(cpus) == 1 or not cpus & host.isolation.unbalanced
                assert not cpus & CpuSet.parse("12-14")
            kvmaff.undo()
            assert before == kernel_masks(pid)
        _put(quiet / "cgroup.procs", str(pid))
        for strategy in ("numa", "isolated"):
            with pytest.raises(PlacementImpossible) as caught:
                kvmaff.place(host, kvmaff.guests(host), strategy, anew=True)
            assert "nothing like it would fit" in str(caught.value)


@both_kernels
def test_a_stranger(child: Child) -> None:
    """A thread that got stuck on an isolated CPU is dirt there, with its name; elsewhere it is none."""
    cpu = _boot().first
    stranger = child(spin=True)
    os.sched_setaffinity(stranger, {cpu})
    deadline = time.monotonic() + 30
    while cpu != int(Path(f"/proc/{stranger}/stat").read_text().rpartition(")")[2].split()[36]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.sched_setaffinity(stranger, range(16))  # nobody moves it away, though it may run anywhere now
    host = kvmaff.read_host()

    def about() -> tuple[list[str], list[int]]:
        (found,) = kvmaff.on_cpus(host, CpuSet([cpu]))
        assert found.clean == (not found.dirt)
        here = [thread.tid for thread in found.here if thread.tid == stranger]
        return [line for line in found.dirt if f"({stranger})" in line], here

    for _ in range(3):
        time.sleep(0.1)
        said = f"sh ({stranger}) may run on 0-15 and ran here last: bind it to other CPUs, or to one"
        assert ([said], [stranger]) == about()
    os.sched_setaffinity(stranger, set(range(16)) - set(_boot()))
    assert ([], []) == about()
