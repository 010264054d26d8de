"""What runs on a CPU, on this machine and as a capture has it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError, RequestError
from kvmaff.host.occupants import Occupancy, how_to_move, on_cpus
from kvmaff.host.reader import Host, read_host
from kvmaff.host.threads import THREADS_FILE, Thread, read_threads
from kvmaff.kernel.tasks import PF_KTHREAD, PF_NO_SETAFFINITY

from ..conftest import needs_two_cpus
from .files import machine

FIXED = PF_KTHREAD | PF_NO_SETAFFINITY


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that sleeps."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def _one(host: Host, cpu: int) -> Occupancy:
    (found,) = on_cpus(host, CpuSet([cpu]))
    return found


@needs_two_cpus
def test_a_thread_counts_by_its_mask(host: Host, child: subprocess.Popen[bytes]) -> None:
    """A process bound to a CPU is bound there, wherever it ran last, and nowhere else."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(child.pid, {first})
    found = {one.cpu: one for one in on_cpus(host, CpuSet([first, second]))}
    (thread,) = [thread for thread in found[first].bound if thread.tid == child.pid]
    assert (os.getpid(), os.getuid(), "sleep 60") == (thread.ppid, thread.uid, thread.args)
    elsewhere = found[second]
    assert child.pid not in {
        thread.tid for thread in (*elsewhere.bound, *elsewhere.here, *elsewhere.movable, *elsewhere.own)
    }
    os.sched_setaffinity(child.pid, {first, second})
    now = _one(host, first)
    assert child.pid not in {thread.tid for thread in now.bound}


def test_every_thread_that_may_run_there_is_counted_once(host: Host) -> None:
    """What is shown and what is only counted are together the threads whose mask has the CPU."""
    cpu = host.topology.online.first
    before = {thread.tid for thread in read_threads("/") if thread.mask and cpu in thread.mask}
    found = _one(host, cpu)
    after = {thread.tid for thread in read_threads("/") if thread.mask and cpu in thread.mask}
    shown = [thread.tid for thread in (*found.own, *found.bound, *found.here, *found.movable)]
    assert len(set(shown)) == len(shown)
    assert set(shown) <= before | after
    count = len(shown) + found.others
    assert len(before & after) - 1 <= count <= len(before | after)
    assert os.getpid() not in shown


def test_this_machines_own_kernel_threads(host: Host) -> None:
    """Every CPU has the kernel's threads that belong to it, and none of them is dirt."""
    if not any(thread.kernel for thread in read_threads("/")):
        pytest.skip("kernel threads are not shown in this pid namespace")
    for one in on_cpus(host, host.topology.online):
        names = {thread.name.split(":")[0] for thread in one.own}
        assert {f"migration/{one.cpu}", f"ksoftirqd/{one.cpu}"} <= names
        assert all(thread.kernel and thread.mask == CpuSet([one.cpu]) for thread in one.own)
        assert not any(thread.name in sentence for thread in one.own for sentence in one.dirt)


def _thread(tid: int, name: str, mask: str | None, cpu: int, flags: int = 0, **more: Any) -> dict[str, Any]:
    fields = {"pid": tid, "tid": tid, "name": name, "flags": flags, "cpu": cpu, "mask": mask}
    return {**fields, "ppid": 1, "uid": 0, "args": None, **more}


THREADS = [
    _thread(10, "cpuhp/5", "5", 5, FIXED),
    _thread(11, "kworker/5:1", "5", 5, FIXED),
    _thread(12, "kworker/u16:3", "0-7", 5, FIXED),
    _thread(13, "kswapd0", "0-7", 5, PF_KTHREAD),
    _thread(14, "irq/36-virtio1", "4-5", 5, PF_KTHREAD),
    _thread(20, "CPU 0/KVM", "5", 3),
    _thread(21, "postgres", "0-7", 5),
    _thread(22, "away", "0-7", 4),
    _thread(23, "left", "0-3", 5),
    _thread(24, "unreadable", None, 5),
]


def _captured(root: Path, threads: object) -> Host:
    table = "   CPU4 CPU5\n 36: 0 99 MSI 1-edge  nic\n 37: 5 0  MSI 2-edge  disk\n 38: 0 3  MSI 3-edge  usb\n"
    files: dict[str, str | bytes] = {
        THREADS_FILE: json.dumps(threads),
        "sys/devices/system/cpu/isolated": "5",
        "proc/cmdline": "isolcpus=5",
        "proc/interrupts": table,
        "proc/irq/36/smp_affinity_list": "0-7",
        "proc/irq/36/effective_affinity_list": "5",
        "proc/irq/37/smp_affinity_list": "0-7",
        "proc/irq/37/effective_affinity_list": "4",
        "proc/irq/38/smp_affinity_list": "0-3",
        "proc/irq/38/effective_affinity_list": "0",
    }
    return read_host(machine(root, files=files))


def test_an_isolated_cpu_that_is_not_clean(tmp_path: Path) -> None:
    """Strangers, movable kernel threads and interrupts that come there are dirt, each with what to do; no more is."""
    found = _one(_captured(tmp_path, {"threads": THREADS}), 5)
    assert ([10, 11], [20], [21], [12, 13, 14], 1) == (
        *([thread.tid for thread in group] for group in (found.own, found.bound, found.here, found.movable)),
        found.others,
    )
    assert [36, 37, 38] == [irq.number for irq in found.irqs]
    assert (True, False, "isolcpus=5") == (found.isolated, found.clean, found.kept[0].by)
    expected = [
        ("postgres (21)", "bind it to other CPUs"),
        ("kworker/u16:3 (12)", "/sys/devices/virtual/workqueue/cpumask"),
        ("kswapd0 (13)", "taskset -pc CPULIST 13"),
        ("irq/36-virtio1 (14)", "/proc/irq/36/smp_affinity_list"),
        ("interrupt 36 (nic)", "99 times"),
    ]
    assert len(expected) == len(found.dirt)
    assert all(who in said and what in said for (who, what), said in zip(expected, found.dirt, strict=True))


def test_an_isolated_cpu_that_is_clean(tmp_path: Path) -> None:
    """Its own kernel threads and what was bound to it leave a CPU clean."""
    host = _captured(tmp_path, {"threads": [THREADS[0], THREADS[1], THREADS[5], THREADS[7], THREADS[8]]})
    (tmp_path / "proc/irq/36/effective_affinity_list").write_text("4")
    found = _one(host, 5)
    assert (True, ()) == (found.clean, found.dirt)


def test_whether_it_is_clean_cannot_be_known(tmp_path: Path) -> None:
    """Without a kernel thread of its own, with a mask unread, or without interrupts, nobody calls a CPU clean."""
    for place, (threads, interrupts) in enumerate(
        [(THREADS[5:6], True), ([*THREADS[:2], THREADS[9]], True), (THREADS[:2], False)]
    ):
        host = _captured(tmp_path / str(place), {"threads": threads})
        (tmp_path / str(place) / "proc/irq/36/effective_affinity_list").write_text("4")
        if not interrupts:
            (tmp_path / str(place) / "proc/interrupts").unlink()
        found = _one(host, 5)
        assert (None, 1) == (found.clean, len(found.hidden))


def test_what_nobody_recorded(tmp_path: Path) -> None:
    """A recording without processes says so, and nothing of what ran."""
    machine(tmp_path / "a", files={"proc/cpuinfo": "processor: 0"})
    machine(tmp_path / "b")
    for name in ("a", "b"):
        with pytest.raises(HostReadError, match="nobody recorded what ran there"):
            on_cpus(read_host(tmp_path / name), CpuSet([0]))


def test_rescuers_and_chips_that_never_say(tmp_path: Path) -> None:
    """Sleeping workers that nobody may move are no dirt; an interrupt whose target is not told comes where it may."""
    rescuer = _thread(12, "kworker/R-kblockd", "0-7", 5, FIXED)
    host = _captured(tmp_path, {"threads": [*THREADS[:2], rescuer]})
    (tmp_path / "proc/irq/36/effective_affinity_list").write_text("\n")
    found = _one(host, 5)
    assert ([12], 1) == ([thread.tid for thread in found.movable], len(found.dirt))
    assert "interrupt 36 (nic)" in found.dirt[0]


def test_a_kernel_thread_that_somebody_bound_is_not_the_cpus_own(tmp_path: Path) -> None:
    """Only those whose mask nobody may change belong to the CPU."""
    bound = _thread(13, "kswapd0", "5", 5, PF_KTHREAD)
    found = _one(_captured(tmp_path, {"threads": [*THREADS[:2], bound]}), 5)
    assert ([10, 11], [13]) == (
        [thread.tid for thread in found.own],
        [thread.tid for thread in found.bound],
    )


def test_an_interrupt_that_was_told_away(tmp_path: Path) -> None:
    """An interrupt that was sent elsewhere is no dirt, though the kernel shows the old CPU until the next one comes."""
    host = _captured(tmp_path, {"threads": THREADS[:2]})
    assert ["interrupt 36 (nic)"] == [said.partition(" comes")[0] for said in _one(host, 5).dirt]
    (tmp_path / "proc/irq/36/smp_affinity_list").write_text("0-4")
    assert (True, ()) == (_one(host, 5).clean, _one(host, 5).dirt)


def test_cpus_that_are_not_there(host: Host, tmp_path: Path) -> None:
    """A CPU that is not there is an error that names those that are; an offline one has nothing."""
    with pytest.raises(RequestError, match="7000"):
        on_cpus(host, CpuSet([0, 7000]))
    offline = machine(
        tmp_path, "0-1", {"sys/devices/system/cpu/present": "0-3", THREADS_FILE: '{"threads": []}'}
    )
    assert "offline" == _one(read_host(offline), 3).state


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"threads": 1}',
        '{"threads": [1]}',
        json.dumps({"threads": [{**THREADS[0], "mask": "5-"}]}),
        json.dumps({"threads": [{**THREADS[0], "tid": -1}]}),
        json.dumps({"threads": [{key: THREADS[0][key] for key in THREADS[0] if key != "uid"}]}),
        "[" * 100_000,
    ],
)
def test_damaged_threads_of_a_capture(tmp_path: Path, damage: str) -> None:
    """What a capture says of threads is checked field by field; the error names the file."""
    machine(tmp_path, files={THREADS_FILE: damage})
    with pytest.raises(HostReadError, match=r"threads\.json"):
        read_threads(str(tmp_path))


def test_names_in_a_capture_are_made_printable(tmp_path: Path) -> None:
    """A thread's name and command line come to the terminal without escapes."""
    threads = [_thread(1, "\x1b[2Jx", "0", 0, args="\x1b]0;y")]
    machine(tmp_path, files={THREADS_FILE: json.dumps({"threads": threads})})
    (thread,) = read_threads(str(tmp_path))
    assert ("?[2Jx", "?]0;y") == (thread.name, thread.args)


def test_how_to_move_what_may_not_be_moved() -> None:
    """A kernel thread that may not be bound is said to be one."""
    thread = Thread(pid=2, tid=2, name="odd", flags=FIXED, cpu=0, mask=CpuSet([0, 1]))
    assert None is how_to_move(thread)
    assert "taskset -pc CPULIST 2" == how_to_move(attrs.evolve(thread, flags=PF_KTHREAD))
