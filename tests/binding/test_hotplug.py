"""vCPUs are plugged into real QEMUs, and each is born where it was decided to be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

import kvmaff
from kvmaff.binding.decided import last_decided
from kvmaff.binding.journal import DECIDED, Journal
from kvmaff.binding.plan import Plan, make_plan
from kvmaff.binding.transaction import Transaction, Wish
from kvmaff.binding.undo import list_records
from kvmaff.cpuset import CpuSet
from kvmaff.errors import GuestNotVerified, QmpBusy, QmpError, QmpRefused, RequestError, Unsupported
from kvmaff.guest.askmonitors import AskMonitors
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.qmp import Qmp
from kvmaff.guest.qmpanswers import Slot
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement

from ..conftest import Qemu, kernel_masks, needs_qemu, needs_root, needs_two_cpus, qmp
from ..guest.qmppeer import Peer, peer

pytest.importorskip("qemu.qmp", reason="the extra qmp is not installed")
pytestmark = [needs_root, needs_two_cpus]

HERE = sorted(os.sched_getaffinity(0))
EVEN, ODD = CpuSet(HERE[:1]), CpuSet(HERE[1:2])
BOTH = CpuSet(HERE[:2])
MOST = 6

Start = Callable[..., Qemu]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A folder of records of the test's own."""
    return Journal(tmp_path / "records")


@pytest.fixture
def started(qemu: Start, tmp_path: Path) -> Callable[..., Qemu]:
    """Start a QEMU of two vCPUs that may have six."""

    def start(accel: str = "tcg", names: str = "on") -> Qemu:
        extra = (
            "-qmp",
            f"unix:{tmp_path}/q,server=on,wait=off",
            "-cpu",
            "qemu64",
            "-smp",
            f"2,maxcpus={MOST}",
        )
        return qemu(f"w,debug-threads={names}", accel=accel, vcpus=2, extra=extra)

    return start


def _decide(host: Host, guest: Guest, journal: Journal, most: int = MOST) -> None:
    """Decide that vCPUs are on one CPU and the other by turns, and the rest is on the first; and bind it."""
    spec = GuestSpec(name=guest.name, vcpus=2, max_vcpus=most, vcpu_policy=VcpuPolicy.SHARED)
    threads = [
        ThreadPlacement(role=Role.VCPU, index=index, cpus=ODD if index % 2 else EVEN) for index in range(most)
    ]
    threads += [ThreadPlacement(role=role, index=None, cpus=EVEN) for role in (Role.EMULATOR, Role.VHOST)]
    one = GuestPlacement(
        spec=spec,
        pid=guest.pid,
        start=guest.start,
        threads=tuple(threads),
        nodes=(0,),
        score=Score(distance=0, nodes=1, l3_groups=1, shared_cores=0, broken_cores=0, levels=("distance",)),
    )
    placement = Placement(strategy="by hand", guests=(one,))
    assert make_plan(host, placement).bound_to(journal, lambda _: None).apply().ok


def _plan(host: Host, journal: Journal) -> Plan:
    """What differs from the decision; which no strategy would make, as a shared guest has one set."""
    placement = last_decided(journal)
    assert placement is not None
    return make_plan(host, placement).bound_to(journal, lambda _: None)


@needs_qemu
@pytest.mark.parametrize("running", [False, True], ids=["paused", "running"])
@pytest.mark.parametrize("names", ["on", "off"])
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_four_more(
    started: Start, host: Host, journal: Journal, tmp_path: Path, accel: str, names: str, running: bool
) -> None:
    """Each new vCPU thread is born on its planned CPU, the main thread is back, and so is all else."""
    of = started(accel, names)
    if running:
        qmp(tmp_path / "q", {"execute": "cont"})
    _decide(host, of.guest(), journal)
    before = kernel_masks(of.pid)
    report = kvmaff.hotplug(host, of.guest(), 4, state_dir=journal.folder)
    assert (True, None, 4) == (report.ok, report.error, len(report.plugged))
    assert [2, 3, 4, 5] == [one.index for one in report.plugged]
    assert (
        [EVEN, ODD, EVEN, ODD]
        == [one.born for one in report.plugged]
        == [one.decided for one in report.plugged]
    )
    after = kernel_masks(of.pid)
    for one in report.plugged:
        assert frozenset(one.decided or ()) == after.pop(one.tid)
    (answer,) = qmp(tmp_path / "q", {"execute": "query-cpus-fast"})
    truth = {one["cpu-index"]: one["thread-id"] for one in answer}
    assert {one.index: one.tid for one in report.plugged} == {n: truth[n] for n in range(2, 6)}
    assert before == {tid: after[tid] for tid in before}
    assert frozenset(EVEN) == after[of.pid]
    assert not _plan(host, journal)
    with pytest.raises(RequestError, match="cannot have 1 vCPUs more: it has no free place"):
        kvmaff.hotplug(host, of.guest(), state_dir=journal.folder)


@needs_qemu
def test_undone(started: Start, host: Host, journal: Journal) -> None:
    """Undo brings the new threads to where they would have been without: where the main thread was."""
    of = started()
    was = of.guest()
    for thread in was.threads:
        os.sched_setaffinity(thread.tid, BOTH)
    _decide(host, was, journal)
    for thread in of.guest().by_role(Role.EMULATOR):
        assert EVEN == thread.mask
    report = kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    assert report.bound.journal is not None
    assert kvmaff.undo(report.bound.journal, state_dir=journal.folder).ok
    masks = kernel_masks(of.pid)
    assert frozenset(EVEN) == masks[of.pid]
    assert {frozenset(EVEN)} == {masks[one.tid] for one in report.plugged}


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_somebody_else_plugs(
    started: Start, host: Host, journal: Journal, tmp_path: Path, accel: str
) -> None:
    """A vCPU that a plain device_add plugged in is put where it belongs by what was decided, also after ours."""
    of = started(accel)
    _decide(host, of.guest(), journal)
    place = {"socket-id": 0, "core-id": 3, "thread-id": 0}
    command = {"driver": "qemu64-x86_64-cpu", "id": "theirs", **place}
    qmp(tmp_path / "q", {"execute": "device_add", "arguments": command})
    deadline = time.monotonic() + 20
    while [0, 1, 3] != [thread.index for thread in of.guest().vcpus]:  # its name comes a moment later
        assert time.monotonic() < deadline
    theirs = of.guest().vcpus[2]
    assert EVEN == theirs.mask  # the main thread's
    report = kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    assert [2, 4] == [one.index for one in report.plugged]
    made = _plan(host, journal)
    assert [(3, ODD)] == [(change.thread.index, change.to) for change in made.changes]
    assert made.apply().ok
    assert frozenset(ODD) == kernel_masks(of.pid)[theirs.tid]


@needs_qemu
def test_nothing_decided(started: Start, host: Host, journal: Journal) -> None:
    """Where nothing was decided nothing is plugged in, unless that is wished; then nothing is bound."""
    of = started()
    with pytest.raises(RequestError, match="nothing was decided for guest w.*--unbound"):
        kvmaff.hotplug(host, of.guest(), state_dir=journal.folder)
    assert 2 == len(of.guest().vcpus)
    before = kernel_masks(of.pid)
    report = kvmaff.hotplug(host, "w" if _alone() else of.guest(), 2, unbound=True, state_dir=journal.folder)
    assert (True, [2, 3], ()) == (report.ok, [one.index for one in report.plugged], report.bound.threads)
    after = kernel_masks(of.pid)
    assert {before[of.pid]} == {after[one.tid] for one in report.plugged}
    assert () == list_records(journal)


def _alone() -> bool:
    return [guest.name for guest in find_guests()].count("w") == 1


@needs_qemu
def test_another_process_of_the_same_name(
    started: Start, qemu: Start, host: Host, journal: Journal, tmp_path: Path
) -> None:
    """What was decided for a process that runs is not taken for another one of its name; for one that ended it is."""
    of = started()
    _decide(host, of.guest(), journal)
    extra = ("-qmp", f"unix:{tmp_path}/2,server=on,wait=off", "-cpu", "qemu64", "-smp", f"2,maxcpus={MOST}")
    other = qemu("w,debug-threads=on", accel="tcg", vcpus=2, extra=extra)
    with pytest.raises(RequestError, match="nothing was decided"):
        kvmaff.hotplug(host, other.guest(), state_dir=journal.folder)
    of.process.kill()
    of.process.wait()
    assert [EVEN, ODD] == [
        one.born for one in kvmaff.hotplug(host, other.guest(), 2, state_dir=journal.folder).plugged
    ]


def _peer_guest(one: Peer) -> Guest:
    (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.NEVER)
    return guest


@needs_qemu
def test_refused_at_once(started: Start, host: Host, journal: Journal) -> None:
    """What cannot be done is said before anything is plugged in: too many, none, a vCPU on no CPU of this machine."""
    of = started()
    _decide(host, of.guest(), journal)
    before = kernel_masks(of.pid)
    for count, words in ((5, "4 of its 6 places"), (0, "at least 1"), (True, "at least 1")):
        with pytest.raises(RequestError, match=words):
            kvmaff.hotplug(host, of.guest(), count, state_dir=journal.folder)
    text = Path(journal.folder, DECIDED).read_text()
    far = f'{{"role": "vcpu", "index": 3, "cpus": "{host.topology.online.last + 1}"}}'
    Path(journal.folder, DECIDED).write_text(
        text.replace(f'{{"role": "vcpu", "index": 3, "cpus": "{ODD}"}}', far)
    )
    with pytest.raises(RequestError, match="vCPU 3 belongs on CPU .* not online or not granted"):
        kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    Path(journal.folder, DECIDED).write_text(
        text.replace('"vcpu_policy": "shared"', '"vcpu_policy": "dedicated"').replace(
            f', {{"role": "vcpu", "index": 3, "cpus": "{ODD}"}}', ""
        )
    )
    with pytest.raises(RequestError, match="vCPU 3 has no decided place"):
        kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    assert before == kernel_masks(of.pid)
    assert 2 == len(of.guest().vcpus)


def test_not_for_everybody(host: Host, journal: Journal, tmp_path: Path) -> None:
    """What only claims to be a guest gets nothing, nor does a recorded machine."""
    with peer(tmp_path, "true") as one:
        (claims,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.NEVER)
        with pytest.raises(GuestNotVerified):
            kvmaff.hotplug(host, attrs.evolve(claims, verified=False, why="no"), state_dir=journal.folder)
        with pytest.raises(Unsupported, match="recorded"):
            kvmaff.hotplug(attrs.evolve(host, root="/elsewhere"), claims, state_dir=journal.folder)


@pytest.mark.parametrize(
    ("does", "error"),
    [
        ("foreign", QmpError),
        ("negative", QmpError),
        ("slots", QmpError),
        ("swappedpaths", QmpError),
        ("stalls", QmpError),
        ("refuses", QmpRefused),
        ("hundred", QmpError),
        ("flood", QmpError),
        ("hangsup", QmpError),
        ("silent", QmpBusy),
    ],
)
def test_nothing_stays_changed(
    host: Host, journal: Journal, tmp_path: Path, does: str, error: type[QmpError]
) -> None:
    """Whatever a monitor does: an error in bounded time, every mask as it was, and no record."""
    with peer(tmp_path, does) as one:
        guest = _peer_guest(one)
        _decide(host, guest, journal, most=4)
        kept, before = list_records(journal), kernel_masks(one.pid)
        begun = time.monotonic()
        timeout = 0.5 if does in {"stalls", "flood", "silent"} else 10
        with pytest.raises(error):
            kvmaff.hotplug(host, guest, 2, timeout=timeout, state_dir=journal.folder)
        assert time.monotonic() - begun < 20
        assert before == kernel_masks(one.pid)
        assert kept == list_records(journal)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("stallsplug", "did not answer device_add within 0.5 s"),
        ("true", "tells no new thread"),  # says yes to device_add
        ("oldtid", "tells no new thread"),  # says that an IOThread is the new vCPU
    ],
)
def test_nobody_knows(host: Host, journal: Journal, tmp_path: Path, does: str, words: str) -> None:
    """Where a monitor fails while a vCPU is on its way that is said; every thread that was there is where it was."""
    with peer(tmp_path, does) as one:
        guest = _peer_guest(one)
        os.sched_setaffinity(one.pid, EVEN)
        _decide(host, guest, journal, most=4)
        before = kernel_masks(one.pid)
        timeout = 0.5 if does == "stallsplug" else 10
        report = kvmaff.hotplug(host, guest, 2, timeout=timeout, state_dir=journal.folder)
        assert (False, ()) == (report.ok, report.plugged)
        assert report.error is not None
        assert words in report.error
        assert "whether vCPU 2 is there is not known" in report.error
        assert before == kernel_masks(one.pid)


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_an_answer_that_is_lost(
    started: Start, host: Host, journal: Journal, monkeypatch: pytest.MonkeyPatch, accel: str
) -> None:
    """QEMU does it although its answer comes too late: the new thread stays where the vCPU belongs."""
    of = started(accel)
    _decide(host, of.guest(), journal)
    assert kvmaff.hotplug(host, of.guest(), 1, state_dir=journal.folder).ok
    plug = Qmp.plug

    async def late(self: Qmp, slot: Slot) -> None:
        await plug(self, slot)
        raise QmpError("it did not answer", pid=self.pid)

    monkeypatch.setattr(Qmp, "plug", late)
    report = kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    assert not report.ok
    assert report.error is not None
    assert "whether vCPU 3 is there is not known" in report.error
    monkeypatch.undo()
    vcpus = kvmaff.read_qmp(of.guest()).vcpus
    masks = kernel_masks(of.pid)
    assert [0, 1, 2, 3] == [one.index for one in vcpus]
    assert frozenset(ODD) == masks[vcpus[3].tid]
    assert frozenset(EVEN) == masks[of.pid]


@needs_qemu
def test_one_thread_for_all(qemu: Start, host: Host, journal: Journal, tmp_path: Path) -> None:
    """Under single-threaded TCG new vCPUs run in the thread of all, which stays where it belongs."""
    extra = ("-qmp", f"unix:{tmp_path}/q,server=on,wait=off", "-cpu", "qemu64", "-smp", f"2,maxcpus={MOST}")
    of = qemu("w,debug-threads=on", accel="tcg,thread=single", vcpus=2, extra=extra)
    _decide(host, of.guest(), journal)
    before = kernel_masks(of.pid)
    report = kvmaff.hotplug(host, of.guest(), 2, state_dir=journal.folder)
    assert (True, [EVEN, EVEN]) == (report.ok, [one.decided for one in report.plugged])
    assert before == kernel_masks(of.pid)
    assert not _plan(host, journal)


@needs_qemu
def test_decided_anew_meanwhile(
    started: Start, host: Host, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody decides while the monitor is asked is what counts."""
    of = started()
    _decide(host, of.guest(), journal)
    slots = Qmp.slots

    async def slow(self: Qmp) -> tuple[Slot, ...]:
        placement = last_decided(journal)
        assert placement is not None
        (one,) = placement.guests
        threads = [
            attrs.evolve(thread, cpus=ODD) if (thread.role, thread.index) == (Role.VCPU, 2) else thread
            for thread in one.threads
        ]
        anew = attrs.evolve(placement, guests=(attrs.evolve(one, threads=tuple(threads)),))
        make_plan(host, anew).bound_to(journal, lambda _: None).apply()
        return await slots(self)

    monkeypatch.setattr(Qmp, "slots", slow)
    report = kvmaff.hotplug(host, of.guest(), 1, state_dir=journal.folder)
    assert [(2, ODD, ODD)] == [(one.index, one.born, one.decided) for one in report.plugged]


@needs_qemu
def test_a_main_thread_that_may_not_move(
    started: Start, host: Host, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a later vCPU cannot be bound, the earlier one stays where it belongs, on record."""
    of = started()
    _decide(host, of.guest(), journal)
    assert kvmaff.hotplug(host, of.guest(), 1, state_dir=journal.folder).ok
    bind, moves = Transaction.bind, []

    def refused(self: Transaction, wishes: Sequence[Wish]) -> None:
        moves.append(wishes)
        if len(moves) == 4:  # the main thread, for vCPU 4 or 5
            wishes = [attrs.evolve(wish, cpus=CpuSet([63])) for wish in wishes]  # as the kernel refuses a CPU
        bind(self, wishes)

    monkeypatch.setattr(Transaction, "bind", refused)
    report = kvmaff.hotplug(host, of.guest(), 3, state_dir=journal.folder)
    monkeypatch.undo()
    assert not report.ok
    assert report.plugged
    assert report.error is not None
    assert "was plugged in and stays; then:" in report.error
    masks = kernel_masks(of.pid)
    assert [frozenset(one.decided or ()) for one in report.plugged] == [
        masks[one.tid] for one in report.plugged
    ]
    assert frozenset(EVEN) == masks[of.pid]


@needs_qemu
def test_told_as_it_goes(started: Start, host: Host, journal: Journal) -> None:
    """Whoever wants to know is told of each vCPU when it is where it belongs."""
    of = started()
    _decide(host, of.guest(), journal)
    told: list[tuple[int, frozenset[int]]] = []
    report = kvmaff.hotplug(
        host,
        of.guest(),
        3,
        state_dir=journal.folder,
        told=lambda one: told.append((one.index, kernel_masks(of.pid)[one.tid])),
    )
    assert [(one.index, frozenset(one.decided or ())) for one in report.plugged] == told


@needs_qemu
def test_a_later_one_is_refused(started: Start, host: Host, journal: Journal, tmp_path: Path) -> None:
    """Where QEMU refuses one after another was plugged in, the first stays where it belongs and the report says so."""
    of = started()
    _decide(host, of.guest(), journal)
    taken = {
        "driver": "qemu64-x86_64-cpu",
        "id": "kvmaff-vcpu-3",
        "socket-id": 0,
        "core-id": 5,
        "thread-id": 0,
    }
    qmp(tmp_path / "q", {"execute": "device_add", "arguments": taken})
    while 3 != len(of.guest().vcpus):
        time.sleep(0.01)
    report = kvmaff.hotplug(host, of.guest(), 3, state_dir=journal.folder)
    assert not report.ok
    assert [2] == [one.index for one in report.plugged]
    assert report.error is not None
    assert "vCPU 2 of guest w was plugged in and stays; then:" in report.error
    assert "Duplicate device ID 'kvmaff-vcpu-3'" in report.error
    assert frozenset(EVEN) == kernel_masks(of.pid)[of.pid]


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_cancelled(started: Start, host: Host, journal: Journal, accel: str) -> None:
    """Who gives up at any moment leaves every vCPU that is there where it belongs, and no thread or task."""
    of = started(accel)
    _decide(host, of.guest(), journal)
    guest = of.guest()

    async def go(seconds: float) -> None:
        task = asyncio.create_task(kvmaff.hotplug_async(host, guest, 1, state_dir=journal.folder))
        await asyncio.sleep(seconds)
        for _ in range(3):  # whoever gives up may insist
            task.cancel()
            await asyncio.sleep(0.0005)
        with contextlib.suppress(asyncio.CancelledError, RequestError):
            await task
        assert {asyncio.current_task()} == asyncio.all_tasks()

    threads = threading.active_count()
    for seconds in (0.0, 0.002, 0.01, 0.02, 0.04, 0.08):
        asyncio.run(go(seconds))
        assert threads == threading.active_count()
        vcpus = kvmaff.read_qmp(guest).vcpus
        masks = kernel_masks(of.pid)
        assert {one.index: frozenset(ODD if one.index % 2 else EVEN) for one in vcpus} == {
            one.index: masks[one.tid] for one in vcpus
        }
        assert frozenset(EVEN) == masks[of.pid]


_KILLED = """
import os, sys
import kvmaff
from kvmaff.guest.discover import find_guests
from kvmaff.guest import qmp
async def die(self, slot):
    os.kill(os.getpid(), 9)
qmp.Qmp.plug = die
(guest,) = find_guests(pids=[int(sys.argv[1])])
kvmaff.hotplug(kvmaff.read_host(), guest, 2, state_dir=sys.argv[2])
"""


@needs_qemu
def test_killed_in_between(started: Start, host: Host, journal: Journal) -> None:
    """Killed while the main thread is away, it leaves a record: the plan shows the drift, undo restores."""
    of = started()
    _decide(host, of.guest(), journal)
    qmp_first = kvmaff.hotplug(host, of.guest(), 1, state_dir=journal.folder)
    assert qmp_first.ok
    done = subprocess.run([sys.executable, "-c", _KILLED, str(of.pid), str(journal.folder)], check=False)
    assert -9 == done.returncode
    assert frozenset(ODD) == kernel_masks(of.pid)[of.pid]
    assert [of.pid] == [change.thread.tid for change in _plan(host, journal).changes]
    # the next one does not take that for its place
    report = kvmaff.hotplug(host, of.guest(), 1, state_dir=journal.folder)
    assert [(3, ODD)] == [(one.index, one.born) for one in report.plugged]
    assert frozenset(EVEN) == kernel_masks(of.pid)[of.pid]
    assert report.bound.journal is not None
    assert kvmaff.undo(report.bound.journal, state_dir=journal.folder).ok
    assert kvmaff.undo(state_dir=journal.folder).ok
    assert frozenset(EVEN) == kernel_masks(of.pid)[of.pid]


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """No test leaves a thread of ours."""
    before = threading.active_count()
    yield
    assert before == threading.active_count()
