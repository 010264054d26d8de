"""Binding real guests: what was asked, what the kernel says, and the way back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import is_key, pin_guest, pin_process
from kvmaff.binding.report import Outcome
from kvmaff.binding.undo import list_records, undo
from kvmaff.cpuset import CpuSet
from kvmaff.errors import BindingFailed, GuestNotVerified, JournalError, RequestError, Unsupported
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.vmm import Vmm
from kvmaff.host.reader import Host, read_host
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.vouched import vouch

from ..conftest import Qemu, as_nobody, kernel_masks, needs_qemu, needs_root, needs_two_cpus
from ..guest.test_discover import impostor
from ..test_helpers import narrow_cgroup

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])

pytestmark = needs_two_cpus


@attrs.frozen
class Running:
    """A microvm and how it is found."""

    vm: Microvm
    vmms: tuple[Vmm, ...]

    def guest(self) -> Guest:
        (found,) = find_guests(vmms=self.vmms, pids=[self.vm.pid])
        return found


@contextlib.contextmanager
def running(name: str = "m", vcpus: int = 2, **options: object) -> Iterator[Running]:
    """A microvm of this test."""
    with Microvm.start(name, vcpus=vcpus, mode=Mode.HALT, **options) as vm:  # type: ignore[arg-type]
        yield Running(vm, vouch([vm]))


@pytest.fixture
def journal(state_dir: Path) -> Journal:
    """The journal of this test."""
    return Journal(str(state_dir))


def _taskset(tid: int) -> CpuSet:
    out = subprocess.run(["taskset", "-cp", str(tid)], capture_output=True, text=True, check=True).stdout
    return CpuSet.parse(out.rpartition(":")[2].strip())


@needs_qemu
def test_two_qemus_and_three_microvms(qemu: Callable[..., Qemu], host: Host, journal: Journal) -> None:
    """Two QEMUs and three microvms, bound at once: kernel and taskset agree with the report; undo restores."""
    qemus = [qemu("q0,debug-threads=on"), qemu("q1,debug-threads=on", accel="tcg", vcpus=2)]
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(running(f"m{n}", iothreads=["d0"])) for n in range(3)]
        finders: list[tuple[Callable[[], Guest], tuple[Vmm, ...]]] = [(q.guest, ()) for q in qemus]
        finders += [(run.guest, run.vmms) for run in runs]
        before = {find().pid: kernel_masks(find().pid) for find, _ in finders}
        for number, (find, vmms) in enumerate(finders):
            guest = find()
            wishes = {
                "all": HERE,
                "vcpu": ONE,
                "0": OTHER if number % 2 else ONE,
                "emulator": str(OTHER),
                "io": ONE,
            }
            report = pin_guest(host, guest, wishes, journal=journal, vmms=vmms)
            assert report.ok
            assert report.changed
            for thread in report.threads:
                expected = {
                    Role.VCPU: wishes["0"] if thread.index == 0 else ONE,
                    Role.EMULATOR: OTHER,
                    Role.IOTHREAD: ONE,
                }[thread.role]
                assert expected == thread.asked == thread.after
                assert expected == CpuSet(os.sched_getaffinity(thread.tid))
                assert expected == _taskset(thread.tid)
                assert thread.outcome is Outcome.SET
            bound = {thread.tid for thread in report.threads}
            others = {thread.tid for thread in find().threads if thread.role is Role.OTHER}
            assert set(kernel_masks(guest.pid)) == bound | others
        assert 5 == len(list_records(journal))
        for _ in finders:
            report = undo(journal=journal)
            assert report.ok
            assert all(thread.outcome is Outcome.RESTORED for thread in report.threads)
        assert before == {pid: kernel_masks(pid) for pid in before}
        assert () == list_records(journal)
        assert () == undo(journal=journal).threads


@needs_qemu
def test_keys(qemu: Callable[..., Qemu], host: Host, journal: Journal) -> None:
    """Ranges, names and roles reach just the threads they mean, the more particular first."""
    started = qemu("k,debug-threads=on", accel="tcg", extra=("-object", "iothread,id=io2"))
    wishes = {"all": HERE, "1-2": ONE, "io": HERE, "io:io2": OTHER, "3": OTHER}
    report = pin_guest(host, started.guest(), wishes, journal=journal)
    named = {thread.tid: thread for thread in started.guest().threads}
    for thread in report.threads:
        now = named[thread.tid]
        expected = HERE
        if now.role is Role.VCPU:
            expected = {0: HERE, 1: ONE, 2: ONE, 3: OTHER}[now.index or 0]
        elif now.name == "IO io2":
            expected = OTHER
        assert expected == thread.after == now.mask
        assert (Outcome.KEPT if expected == HERE else Outcome.SET) is thread.outcome


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"0": CpuSet([8000])}, ["0: CPU 8000 is not in this machine"]),
        ({"7": ONE}, ["no thread '7'; its vCPUs: 0-1"]),
        ({"1-3": ONE}, ["no thread '1-3'; its vCPUs: 0-1"]),
        ({"0": [0]}, ["0: CPUs are a CpuSet or a cpulist"]),
        ({"io:nope": ONE}, ["'io:nope'", "has no named IOThread"]),
        ({"vhost": ONE}, ["no thread 'vhost'"]),
        ({"nonsense": ONE}, ["'nonsense' names no thread"]),
        ({"0-": ONE}, ["'0-' names no thread"]),
        ({"io:": ONE}, ["'io:' names no thread"]),
        ({"0": CpuSet()}, ["0: no CPU is named"]),
        ({}, ["no thread is named"]),
        ({"0-1": ONE, "1": OTHER}, ["contradict each other for vcpu 1"]),
        (
            {"0": "x", "1": CpuSet([8001]), "bad": ONE},
            ["'x' is no cpulist", "CPU 8001", "'bad' names no thread"],
        ),
    ],
)
def test_bad_requests_change_nothing(
    host: Host, journal: Journal, state_dir: Path, wishes: dict[str, CpuSet | str], said: list[str]
) -> None:
    """What cannot be done as it stands is refused with every reason, before a mask or a record is touched."""
    with running() as run:
        before = kernel_masks(run.vm.pid)
        with pytest.raises(RequestError) as caught:
            pin_guest(host, run.guest(), wishes, journal=journal, vmms=run.vmms)
        for words in said:
            assert words in str(caught.value)
        assert before == kernel_masks(run.vm.pid)
    assert not state_dir.exists()


def test_offline_cpu(host: Host, journal: Journal) -> None:
    """A CPU that is present but switched off is refused by name."""
    topology = attrs.evolve(host.topology, online=ONE, present=host.topology.present)
    with running() as run:
        before = kernel_masks(run.vm.pid)
        with pytest.raises(RequestError, match=f"CPU {OTHER} is switched off; online are {ONE}"):
            pin_guest(
                attrs.evolve(host, topology=topology),
                run.guest(),
                {"0": OTHER},
                journal=journal,
                vmms=run.vmms,
            )
        assert before == kernel_masks(run.vm.pid)


def test_a_guest_that_ends_in_between(host: Host, journal: Journal) -> None:
    """A guest that ends between finding and binding is an error that says so, and no record is left."""
    with running() as run:
        guest = run.guest()
    with pytest.raises(BindingFailed, match="ended meanwhile") as caught:
        pin_guest(host, guest, {"0": ONE, "emulator": OTHER}, journal=journal, vmms=run.vmms)
    assert not caught.value.report.ok
    assert {Outcome.GONE} == {thread.outcome for thread in caught.value.report.threads}
    assert () == list_records(journal)


def test_a_thread_that_is_gone_is_its_own_result(host: Host, journal: Journal) -> None:
    """One thread that has ended fails nobody else."""
    with running() as run:
        guest = run.guest()
        first, *rest = guest.threads
        dead = attrs.evolve(first, tid=2**22 + 5, index=7)
        report = pin_guest(
            host,
            attrs.evolve(guest, threads=(dead, first, *rest)),
            {"vcpu": ONE},
            journal=journal,
            vmms=run.vmms,
        )
        assert report.ok
        assert [Outcome.SET, Outcome.SET, Outcome.GONE] == [thread.outcome for thread in report.threads]
        assert undo(journal=journal).ok


def test_a_thread_number_that_was_reused(host: Host, journal: Journal) -> None:
    """A number that names another thread by now is not touched."""
    with running() as run, running("stranger") as stranger:
        guest, victim = run.guest(), stranger.guest().vcpus[0]
        first, *rest = guest.threads
        reused = attrs.evolve(first, tid=victim.tid)  # the number lives on, in another process
        older = attrs.evolve(
            rest[0], start=rest[0].start - 5, ino=rest[0].ino + 1
        )  # and here in the same one
        before = kernel_masks(stranger.vm.pid)
        with pytest.raises(BindingFailed):
            pin_guest(
                host,
                attrs.evolve(guest, threads=(reused, older)),
                {"vcpu": ONE},
                journal=journal,
                vmms=run.vmms,
            )
        assert before == kernel_masks(stranger.vm.pid)
        assert HERE == CpuSet(os.sched_getaffinity(older.tid))


def test_impostor_is_never_bound(host: Host, journal: Journal) -> None:
    """A process that only calls itself a guest is refused, and its masks stay."""
    with impostor() as pid:
        (guest,) = find_guests(pids=[pid])
        before = kernel_masks(pid)
        with pytest.raises(GuestNotVerified, match=str(pid)):
            pin_guest(host, guest, {"all": ONE}, journal=journal)
        assert before == kernel_masks(pid)


@needs_qemu
def test_unnamed_threads_are_bound_as_a_whole_only(
    qemu: Callable[..., Qemu], host: Host, journal: Journal
) -> None:
    """Where vCPUs cannot be told apart, roles are refused and all= works."""
    started = qemu("off,debug-threads=off", accel="tcg")
    before = kernel_masks(started.pid)
    with pytest.raises(RequestError, match="debug-threads=on"):
        pin_guest(host, started.guest(), {"emulator": ONE}, journal=journal)
    assert before == kernel_masks(started.pid)
    assert pin_guest(host, started.guest(), {"all": ONE}, journal=journal).ok
    assert {frozenset(ONE)} == set(kernel_masks(started.pid).values())
    undo(journal=journal)
    assert before == kernel_masks(started.pid)


@needs_root
def test_a_mask_that_the_kernel_clips(host: Host, journal: Journal) -> None:
    """A cgroup that clips a mask is a failure that names it; every thread is back as it was, and no record is left."""
    with narrow_cgroup(ONE) as folder, running() as run:
        (folder / "cgroup.procs").write_text(str(run.vm.pid))
        before = kernel_masks(run.vm.pid)
        assert {frozenset(ONE)} == set(before.values())
        with pytest.raises(BindingFailed) as caught:
            pin_guest(host, run.guest(), {"0": HERE, "1": ONE}, journal=journal, vmms=run.vmms)
        (clipped, kept) = caught.value.report.threads
        assert (Outcome.CLIPPED, HERE, ONE) == (clipped.outcome, clipped.asked, clipped.after)
        assert Outcome.KEPT is kept.outcome
        assert str(folder) in clipped.why
        with pytest.raises(BindingFailed, match=f"its cgroup {folder} grants {ONE}"):
            pin_guest(host, run.guest(), {"all": OTHER}, journal=journal, vmms=run.vmms)
        assert before == kernel_masks(run.vm.pid)
        assert () == list_records(journal)
        run.vm.close()


@needs_root
def test_all_or_nothing(host: Host, journal: Journal) -> None:
    """Where one thread cannot be bound, those that were are put back and say so."""
    with narrow_cgroup(ONE) as folder, running(vcpus=3) as run:
        tasks = folder / ("tasks" if (folder / "tasks").exists() else "cgroup.threads")
        try:
            tasks.write_text(str(run.vm.vcpu_tids[1]))
        except OSError:
            pytest.skip("single threads cannot be moved to a cgroup of this kind")
        before = kernel_masks(run.vm.pid)
        with pytest.raises(BindingFailed) as caught:
            pin_guest(host, run.guest(), {"0": ONE, "1": OTHER, "2": OTHER}, journal=journal, vmms=run.vmms)
        report = caught.value.report
        assert [Outcome.RESTORED, Outcome.REFUSED, Outcome.RESTORED] == [t.outcome for t in report.threads]
        assert (False, 0, None) == (report.ok, report.changed, report.journal)
        assert before == kernel_masks(run.vm.pid)
        assert () == list_records(journal)
        run.vm.close()


@needs_root
def test_no_rights(host: Host) -> None:
    """Without the right to bind, nothing changes and the message says what is needed."""
    with running() as run:
        before = kernel_masks(run.vm.pid)
        code, out, err = as_nobody(
            f"run('pin', '--pid', '{run.vm.pid}', '{ONE}', '--state-dir', '/tmp/kvmaff-nobody-{os.getpid()}', '--json')"
        )
        shutil.rmtree(f"/tmp/kvmaff-nobody-{os.getpid()}", ignore_errors=True)
        assert before == kernel_masks(run.vm.pid)
    assert 1 == code
    assert "CAP_SYS_NICE" in err
    answer = json.loads(out)
    assert (False, 0) == (answer["ok"], answer["changed"])
    assert {"refused"} == {thread["outcome"] for thread in answer["threads"]}


def test_any_process(host: Host, journal: Journal) -> None:
    """--pid binds all threads of a process or one, guest or not, and undo restores."""
    with impostor() as pid:
        before = kernel_masks(pid)
        report = pin_process(host, pid, str(ONE), journal=journal)
        assert report.ok
        assert {frozenset(ONE)} == set(kernel_masks(pid).values())
        tid = max(before)
        pin_process(host, pid, OTHER, tid=tid, journal=journal)
        assert {**dict.fromkeys(before, frozenset(ONE)), tid: frozenset(OTHER)} == kernel_masks(pid)
        assert undo(journal=journal).ok
        assert undo(journal=journal).ok
        assert before == kernel_masks(pid)
        with pytest.raises(RequestError, match=f"has no thread {os.getpid()}"):
            pin_process(host, pid, ONE, tid=os.getpid(), journal=journal)
        with pytest.raises(RequestError, match="no cpulist"):
            pin_process(host, pid, "x", journal=journal)
    with pytest.raises(RequestError, match=f"there is no process {2**22 + 1}"):
        pin_process(host, 2**22 + 1, ONE, journal=journal)


SPAWNER = """
import ctypes, threading, time
def child():
    time.sleep(0.2)
def stay():
    ctypes.CDLL(None).prctl(15, b"stays", 0, 0, 0)
    time.sleep(60)
threading.Thread(target=stay, daemon=True).start()
time.sleep(0.1)
print("up", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    threading.Thread(target=child, daemon=True).start()
    time.sleep(0.0005)
"""


def test_threads_that_start_meanwhile(host: Host, journal: Journal) -> None:
    """A process that starts threads all the time is bound whole, and unbound whole, later threads included."""
    process = subprocess.Popen([sys.executable, "-c", SPAWNER], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        assert pin_process(host, process.pid, ONE, journal=journal).ok
        time.sleep(0.3)
        assert {frozenset(ONE)} == set(kernel_masks(process.pid).values())
        for _ in range(3):
            assert undo(journal=journal).ok
            time.sleep(0.3)
            assert {frozenset(HERE)} == set(kernel_masks(process.pid).values())
            assert pin_process(host, process.pid, ONE, journal=journal).ok
    finally:
        process.kill()
        process.communicate()


@needs_root
def test_a_call_that_fails_leaves_no_heir(host: Host, journal: Journal) -> None:
    """Where one thread of a process that starts threads all the time refuses, later threads are put back too."""
    process = subprocess.Popen([sys.executable, "-c", SPAWNER], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with narrow_cgroup(OTHER) as folder:
            tasks = folder / ("tasks" if (folder / "tasks").exists() else "cgroup.threads")
            stuck = _waiting_thread(process.pid)
            tasks.write_text(str(stuck))
            with pytest.raises(BindingFailed):
                pin_process(host, process.pid, ONE, journal=journal)
            time.sleep(0.3)
            left = kernel_masks(process.pid)
            left.pop(stuck, None)
            assert {frozenset(HERE)} == set(left.values())
            assert () == list_records(journal)
            process.kill()
            process.wait()
    finally:
        process.kill()
        process.communicate()


def _waiting_thread(pid: int) -> int:
    """The thread of the spawner that lives as long as it does, beside the main one."""
    for name in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        if Path(f"/proc/{pid}/task/{name}/comm").read_text() == "stays\n":
            return int(name)
    raise AssertionError("the spawner has no thread that stays")


def test_a_thread_number_is_no_process(host: Host, journal: Journal) -> None:
    """--pid with the number of a thread that is not the main one binds nothing, and says what to write."""
    with impostor() as pid:
        before = kernel_masks(pid)
        tid = max(before)
        with pytest.raises(RequestError, match=f"--pid {pid}:{tid}"):
            pin_process(host, tid, ONE, journal=journal)
        assert before == kernel_masks(pid)


def test_a_zombie_is_not_bound(host: Host, journal: Journal) -> None:
    """A process that has ended and waits for its parent cannot be bound."""
    process = subprocess.Popen(["true"])
    try:
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with pytest.raises(RequestError, match="has ended"):
            pin_process(host, process.pid, ONE, journal=journal)
    finally:
        process.wait()


PLUGGED = """
import ctypes, threading, time
prctl = ctypes.CDLL(None).prctl
def vcpu(n, wait):
    time.sleep(wait)
    prctl(15, f"CPU {n}/KVM".encode(), 0, 0, 0)
    time.sleep(60)
def main():
    print("up", flush=True)
    time.sleep(0.4)
    threading.Thread(target=vcpu, args=(1, 0.004), daemon=True).start()
    time.sleep(60)
threading.Thread(target=vcpu, args=(0, 0), daemon=True).start()
main()
"""


def test_a_vcpu_that_is_plugged_in_meanwhile(
    host: Host, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that starts while the guest is bound, and gets its vCPU's name a moment later, ends as that vCPU."""
    process = subprocess.Popen([sys.executable, "-c", PLUGGED], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        with Path(f"/proc/{process.pid}/stat").open() as file:
            start = int(file.read().rpartition(")")[2].split()[19])
        vouched = frozenset({(process.pid, start)})
        vmms = (Vmm(name="ours", executables=(), vcpu=r"CPU ([0-9]+)/KVM", vouched=vouched),)
        (guest,) = find_guests(vmms=vmms, pids=[process.pid])
        real, waited = find_guests, []

        def late(*args: object, **options: object) -> object:
            while not waited and len(os.listdir(f"/proc/{process.pid}/task")) < 3:
                time.sleep(0.001)  # look first when the new thread is there and has no name yet
            waited.append(1)
            return real(*args, **options)

        monkeypatch.setattr("kvmaff.binding.pin.find_guests", late)
        report = pin_guest(host, guest, {"vcpu": OTHER, "emulator": ONE}, journal=journal, vmms=vmms)
        assert report.ok
        (guest,) = real(vmms=vmms, pids=[process.pid])
        assert [OTHER, OTHER] == [thread.mask for thread in guest.vcpus]
        assert undo(journal=journal).ok
        assert {frozenset(HERE)} == set(kernel_masks(process.pid).values())
    finally:
        process.kill()
        process.communicate()


@needs_root
def test_another_pid_namespaces_proc(tmp_path: Path) -> None:
    """Where /proc shows another pid namespace, its numbers are nobody we know: nothing is bound."""
    script = f"echo $$; {sys.executable} -m kvmaff pin --pid 1 {ONE} --state-dir {tmp_path / 'records'}"
    done = subprocess.run(
        ["unshare", "-p", "-f", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert 1 == done.returncode
    assert "another pid namespace" in done.stderr
    assert not (tmp_path / "records").exists() or not list((tmp_path / "records").glob("0*.json"))


def test_terminated_half_way(journal: Journal) -> None:
    """SIGTERM in the middle puts everything back, as Ctrl-C does."""
    script = (
        "import os, signal, sys\nimport kvmaff.binding.transaction as transaction\nreal = transaction.bind\n"
        "def bind(proc, rows, seen):\n    transaction.bind = real\n    real(proc, rows[:1], seen)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    return real(proc, rows, seen)\n"
        "transaction.bind = bind\nfrom kvmaff.cli import main\nmain()\n"
    )
    with impostor() as pid:
        before = kernel_masks(pid)
        done = subprocess.run(
            [sys.executable, "-c", script, "pin", "--pid", str(pid), str(ONE)],
            capture_output=True,
            check=False,
        )
        assert 128 + signal.SIGTERM == done.returncode
        assert before == kernel_masks(pid)
    assert () == list_records(journal)


def test_nothing_to_do_writes_no_record(host: Host, journal: Journal) -> None:
    """Masks that are right already are kept, and there is nothing to undo."""
    with running() as run:
        report = pin_guest(host, run.guest(), {"all": HERE}, journal=journal, vmms=run.vmms)
        assert (True, 0, None) == (report.ok, report.changed, report.journal)
        assert {Outcome.KEPT} == {thread.outcome for thread in report.threads}
    assert () == list_records(journal)


@needs_root
def test_read_only_journal(host: Host, tmp_path: Path) -> None:
    """Where the record cannot be written, nothing is bound, and the message says what to do."""
    folder = tmp_path / "records"
    folder.mkdir(mode=0o700)
    with running() as run:
        before = kernel_masks(run.vm.pid)
        script = (
            "import ctypes, sys\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x20000) == 0\n"
            "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
            f"p = {os.fsencode(folder)!r}\n"
            "assert libc.mount(p, p, None, 0x1000, None) == 0\n"
            "assert libc.mount(None, p, None, 0x1021, None) == 0\n"
            f"sys.argv = ['kvmaff', 'pin', '--pid', '{run.vm.pid}', '{ONE}', '--state-dir', {str(folder)!r}]\n"
            "from kvmaff.cli import main\nmain()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert before == kernel_masks(run.vm.pid)
        assert 1 == done.returncode
        assert "Read-only file system" in done.stderr
        assert "--state-dir" in done.stderr
        with pytest.raises(JournalError, match="--state-dir"):
            pin_guest(
                host, run.guest(), {"0": ONE}, journal=Journal("/proc/self/nothing/here"), vmms=run.vmms
            )
        assert before == kernel_masks(run.vm.pid)


def test_a_recorded_machine_is_not_bound(tmp_path: Path) -> None:
    """Binding to a recorded machine is refused."""
    cpu = tmp_path / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    (cpu / "online").write_text("0-63")
    with pytest.raises(Unsupported, match="recorded machine"):
        pin_process(read_host(tmp_path), os.getpid(), ONE)


@pytest.mark.parametrize(
    ("key", "valid"),
    [
        ("0", True),
        ("0-3,7", True),
        ("emulator", True),
        ("io", True),
        ("io:a b", True),
        ("vhost", True),
        ("vcpu", True),
    ]
    + [(key, False) for key in ("", "x", "io:", "-1", "0:2", "vCPU", "9999")],
)
def test_is_key(key: str, valid: bool) -> None:
    """A key is a vCPU number or range, a role, or an IOThread by name."""
    assert valid is is_key(key)
