"""What each thread is for, by the kernel's word and by names."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.guest.askmonitors import Said
from kvmaff.guest.guest import Role, Source
from kvmaff.guest.roles import Told, clash_of, doubt_of, roles_by_monitor, roles_of
from kvmaff.guest.vmm import BUILTIN, QEMU
from kvmaff.kernel.tasks import Task

WORKER = 0x4000  # PF_USER_WORKER
PID = 10


def _task(tid: int, name: str, flags: int = 0) -> Task:
    return Task(pid=PID, tid=tid, ino=1, start=1, name=name, flags=flags, state="S", cpu=0, error=0)


def _short(told: list[Told]) -> list[tuple[str, int | None, str | None]]:
    return [(one.role.value, one.index, one.source and one.source.value) for one in told]


def _doubt(
    tasks: list[Task],
    vcpus: dict[int, int] | None = None,
    held: frozenset[int] = frozenset(),
    most: int | None = None,
) -> str | None:
    told = roles_of(QEMU, tasks, vcpus)
    return doubt_of(QEMU, tasks, told, vcpus, held=lambda: held, most=most)


def test_by_name_and_flag() -> None:
    """vCPUs and IOThreads by name, kernel workers by flag whatever they are called, all else is the emulator."""
    tasks = [
        _task(10, "CPU 9/KVM", flags=WORKER),  # the main thread is never a worker
        _task(11, "qemu-system-x86"),
        _task(12, "CPU 1/KVM"),
        _task(13, "IO b"),
        _task(14, "IO a"),
        _task(15, "vhost-10", flags=WORKER),
        _task(16, "CPU 0/KVM", flags=WORKER),
        _task(17, "iou-wrk-10", flags=0x10),
        _task(18, "ALL CPUs/TCG"),
        _task(19, "vhost-10"),
    ]
    expected = [
        ("vcpu", 9, "name"),
        ("emulator", None, None),
        ("vcpu", 1, "name"),
        ("iothread", 0, "name"),
        ("iothread", 1, "name"),
        ("vhost", None, "kernel"),
        ("other", None, "kernel"),
        ("other", None, "kernel"),
        ("vcpu", None, "name"),
        ("emulator", None, None),
    ]
    assert expected == _short(roles_of(QEMU, tasks))


@given(hs.text(max_size=64), hs.integers(0, 1 << 32), hs.booleans())
def test_any_name_has_a_role(name: str, flags: int, listed: bool) -> None:
    """No thread name breaks role finding."""
    for vmm in BUILTIN:
        (told,) = roles_of(vmm, [_task(11, name, flags)], {0: 11} if listed else None)
        assert told.role in Role
        assert told.index is None or 0 <= told.index < 100_000
        assert (told.source is None) == (told.role is Role.EMULATOR)


@given(hs.sets(hs.integers(0, 300), min_size=1, max_size=12), hs.randoms())
def test_unnamed_vcpus_by_the_kernels_list(ids: set[int], random: Random) -> None:
    """Threads without names are the vCPUs that the kernel lists, numbered in order of vcpu_id, whatever else runs."""
    tids = random.sample(range(PID + 1, PID + 1 + len(ids)), len(ids))
    vcpus = dict(zip(sorted(ids), tids, strict=True))
    tasks = [_task(tid, "qemu-system-x86") for tid in range(PID, PID + len(ids) + 3)]
    told = {task.tid: one for task, one in zip(tasks, roles_of(QEMU, tasks, vcpus), strict=True)}
    assert [(Role.VCPU, n, Source.DEBUGFS) for n in range(len(ids))] == [
        (told[tid].role, told[tid].index, told[tid].source) for tid in vcpus.values()
    ]
    assert {Role.EMULATOR} == {one.role for tid, one in told.items() if tid not in vcpus.values()}
    certain = ids == set(range(len(ids)))
    assert certain == (_doubt(tasks, vcpus) is None)
    assert (
        _doubt(tasks, vcpus, most=len(ids)) is None
    )  # all that there can be are there, so their order is theirs


def test_names_give_the_numbers_where_all_have_one() -> None:
    """An APIC id is no vCPU number: with three cores a socket, vCPU 3 has the id 4."""
    tasks = [_task(10, "qemu-system-x86"), *(_task(11 + n, f"CPU {n}/KVM") for n in range(6))]
    vcpus = dict(zip((0, 1, 2, 4, 5, 6), range(11, 17), strict=True))
    told = roles_of(QEMU, tasks, vcpus)
    assert [("vcpu", n, "debugfs") for n in range(6)] == _short(told)[1:]
    assert _doubt(tasks, vcpus) is None
    assert _doubt(tasks, None, held=frozenset(vcpus)) is None


def test_vcpus_that_never_ran() -> None:
    """A paused guest's vCPUs are not in the kernel's list: their names count until they are."""
    tasks = [
        _task(10, "qemu-system-x86"),
        _task(11, "CPU 0/KVM"),
        _task(12, "CPU 1/KVM"),
        _task(13, "qemu-system-x86"),
    ]
    assert [("vcpu", 0, "debugfs"), ("vcpu", 1, "name")] == _short(roles_of(QEMU, tasks, {0: 11, 1: 0}))[1:3]
    assert _doubt(tasks, {0: 11, 1: 0}) is None
    unnamed = [_task(10 + n, "qemu-system-x86") for n in range(4)]
    assert "debug-threads=on" in str(_doubt(unnamed, {0: 0, 1: 0}))


@pytest.mark.parametrize(
    ("names", "vcpus", "said"),
    [
        (
            ["CPU 0/KVM", "CPU 1/KVM"],
            {0: 11},
            "thread 12 calls itself CPU 1/KVM, but the kernel knows it as no vCPU",
        ),
        (["CPU 0/KVM", "CPU 0/KVM"], None, "several of its threads claim to be the same vCPU"),
        (["CPU 0/KVM", "worker"], {0: 11, 1: 12}, "some of its vCPU threads are named and some are not"),
        (
            ["CPU 0/KVM", "CPU 1/KVM"],
            {0: 98, 1: 99},
            "the kernel lists vCPU threads that are not the process's own",
        ),
        (["a", "b"], {0: 11, 2: 12}, "not which number each has"),
    ],
)
def test_what_does_not_agree(names: list[str], vcpus: dict[int, int] | None, said: str) -> None:
    """Where names and the kernel's list contradict each other, the guest is in doubt, and why is said."""
    tasks = [_task(10, "qemu-system-x86"), *(_task(11 + n, name) for n, name in enumerate(names))]
    assert said in str(_doubt(tasks, vcpus))


@pytest.mark.parametrize("names", [["CPU 0/KVM", "CPU 2/KVM"], ["a", "b"]])
def test_an_unplugged_vcpu(names: list[str]) -> None:
    """QEMU keeps an unplugged vCPU, and the kernel the number of its thread, which is gone: nothing is in doubt."""
    tasks = [_task(10, "qemu-system-x86"), _task(11, names[0]), _task(13, names[1])]
    vcpus = {0: 11, 1: 12, 2: 13}
    assert [("vcpu", 0, "debugfs"), ("vcpu", 2, "debugfs")] == _short(roles_of(QEMU, tasks, vcpus))[1:]
    assert _doubt(tasks, vcpus) is None


def test_a_vcpu_in_guest_mode_is_no_worker() -> None:
    """Before Linux 5.12 its flag was that of today's io_uring workers, which are known by their name, too."""
    tasks = [_task(10, "q"), _task(11, "CPU 0/KVM", flags=0x10), _task(12, "iou-wrk-10", flags=0x10)]
    assert [("vcpu", 0, "debugfs"), ("other", None, "kernel")] == _short(roles_of(QEMU, tasks, {0: 11}))[1:]


def test_an_unnamed_thread_beside_enough_vcpus() -> None:
    """QEMU sometimes leaves a thread of its own unnamed: no doubt as long as every descriptor's vCPU has its thread."""
    tasks = [
        _task(10, "qemu-system-x86"),
        _task(11, "CPU 0/KVM"),
        _task(12, "CPU 1/KVM"),
        _task(13, "qemu-system-x86"),
    ]
    assert _doubt(tasks, held=frozenset({0, 4})) is None
    assert "vCPU 2" in str(_doubt(tasks, held=frozenset({0, 1, 4})))


@hs.composite
def said(draw: hs.DrawFn) -> tuple[list[Task], dict[int, int], Said]:
    """A guest's threads with names as QEMU gives them, the kernel's list, and a monitor that says the truth."""
    vcpus, others = draw(hs.integers(1, 6)), draw(hs.integers(1, 4))
    tids = draw(hs.permutations(range(PID + 1, PID + 1 + vcpus + others)))
    numbers = sorted(draw(hs.sets(hs.integers(0, 20), min_size=vcpus, max_size=vcpus)))
    here = dict(zip(numbers, tids, strict=False))
    names = {tid: f"CPU {number}/KVM" for number, tid in here.items()}
    iothreads = {tid: f"disk{tid}" for tid in tids[vcpus:]}
    names |= {tid: f"IO {name}" for tid, name in iothreads.items()}
    tasks = [_task(PID, "qemu-system-x86"), *(_task(tid, names[tid]) for tid in sorted(names))]
    return tasks, here, Said(vcpus=here, iothreads=iothreads)


@given(said(), hs.booleans())
def test_a_monitor_that_agrees(made: tuple[list[Task], dict[int, int], Said], listed: bool) -> None:
    """Where all say the same nothing clashes, and the roles are those that names tell."""
    tasks, here, told = made
    kernel = here if listed else None
    names = roles_of(QEMU, tasks, kernel)
    assert clash_of(tasks, names, kernel, told) is None
    assert [(one.role, one.index, one.iothread) for one in names] == [
        (one.role, one.index, one.iothread) for one in roles_by_monitor(tasks, told)
    ]


@given(said(), hs.randoms(), hs.booleans())
def test_a_monitor_that_disagrees(
    made: tuple[list[Task], dict[int, int], Said], random: Random, listed: bool
) -> None:
    """Whichever vCPU a monitor gives another thread of the process: both words are shown."""
    tasks, here, told = made
    number = random.choice(sorted(here))
    wrong = random.choice([task.tid for task in tasks[1:] if task.tid != here[number]])
    swapped = {index: here[number] for index, tid in here.items() if tid == wrong}
    lie = Said(vcpus={**here, **swapped, number: wrong}, iothreads=told.iothreads)
    kernel = here if listed else None
    clash = clash_of(tasks, roles_of(QEMU, tasks, kernel), kernel, lie)
    assert clash is not None
    assert "its sources disagree" in clash
    assert f"thread {here[number]} is" in clash or f"thread {wrong} is" in clash


def test_one_thread_for_all() -> None:
    """Under single-threaded TCG the monitor names one thread for all vCPUs, as its name does."""
    tasks = [_task(10, "qemu-system-x86"), _task(11, "ALL CPUs/TCG"), _task(12, "worker")]
    told = Said(vcpus={0: 11, 1: 11, 2: 11}, iothreads={})
    assert clash_of(tasks, roles_of(QEMU, tasks), None, told) is None
    assert ("vcpu", None, "qmp") == _short(roles_by_monitor(tasks, told))[1]
