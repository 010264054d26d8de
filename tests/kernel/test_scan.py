"""Processes and threads in bulk, against the standard library."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.kernel import scan
from kvmaff.kernel.masks import mask_words, read_masks
from kvmaff.kernel.scan import Proc, Scanner, ticks_now
from kvmaff.kernel.tasks import PF_KTHREAD, PF_USER_WORKER, Task, Tasks
from kvmaff.kernel.text import printable
from kvmaff.testing.microvm import Microvm

SETTLE = scan._SETTLE_NS
CHILD = """
import sys, threading
for _ in range(int(sys.argv[1])):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


class Sleeper(threading.Thread):
    """A thread of this process that sleeps until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self._end, self._up = threading.Event(), threading.Event()
        self.start()
        self._up.wait()

    @property
    def tid(self) -> int:
        assert self.native_id is not None
        return self.native_id

    def run(self) -> None:
        self._up.set()
        self._end.wait()

    def call(self, name: bytes) -> None:
        call_thread(self.tid, name)

    def end(self) -> None:
        self._end.set()
        self.join()
        while os.path.exists(f"/proc/self/task/{self.tid}"):
            time.sleep(0)  # joined is a moment before gone


def call_thread(tid: int, name: bytes) -> None:
    """Give a thread of this process a name."""
    fd = os.open(f"/proc/self/task/{tid}/comm", os.O_WRONLY)
    try:
        assert len(name) == os.write(fd, name)
    finally:
        os.close(fd)


@contextmanager
def threads(count: int) -> Iterator[list[int]]:
    """Threads of this process that sleep, by number."""
    started = [Sleeper() for _ in range(count)]
    try:
        yield [one.tid for one in started]
    finally:
        for one in started:
            one._end.set()
        for one in started:
            one.end()


@contextmanager
def process(extra: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours with some threads beside the main one, all asleep."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(extra)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        try:
            assert one.stdout is not None
            one.stdout.readline()
            yield one
        finally:
            one.kill()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[int]]:
    """Processes of ours with few and with many threads."""
    with contextlib.ExitStack() as stack:
        yield sorted(stack.enter_context(process(extra)).pid for extra in (0, 70, 3, 1))


@contextmanager
def clock() -> Iterator[SimpleNamespace]:
    """The time by which names settle, in our hand."""
    fake = SimpleNamespace(
        now=SETTLE, CLOCK_BOOTTIME=time.CLOCK_BOOTTIME, clock_gettime_ns=time.clock_gettime_ns
    )
    fake.monotonic_ns = lambda: fake.now
    with mock.patch.object(scan, "time", fake):
        yield fake


def known(tasks: Tasks) -> list[tuple[Task, bytes, CpuSet | None]]:
    """All that a look found out, without what is told only once."""
    return [
        (attrs.evolve(task, cpu=None, state=""), name, mask)
        for task, name, mask in zip(tasks, tasks.names(), tasks.masks, strict=True)
    ]


def test_own_threads_and_masks() -> None:
    """Every thread of this process is listed, with name, start and the mask that the standard library reads."""
    with threads(50) as tids, Proc() as proc:
        seen_before = ticks_now()
        tasks = proc.tasks([os.getpid()])
        masks = proc.masks(tasks)
        assert {*tids, os.getpid()} <= set(tasks.tids())
        for task, mask in zip(tasks, masks, strict=True):
            assert CpuSet(os.sched_getaffinity(task.tid)) == mask
            raw = Path(f"/proc/self/task/{task.tid}/stat").read_bytes()
            fields = raw.rpartition(b")")[2].split()
            assert int(fields[19]) == task.start
            assert int(fields[6]) == task.flags
            assert os.stat(f"/proc/self/task/{task.tid}").st_ino == task.ino
            assert 0 == task.error
            assert task.start <= ticks_now()
        assert seen_before <= tasks.seen <= ticks_now()
        first, *_ = tasks
        # which is the main thread, unless thread numbers have wrapped around
        assert min(tasks.tids()) == first.tid == tasks[0].tid == tasks[-len(tasks)].tid
        assert list(tasks)[1:3] == tasks[1:3]
        with pytest.raises(IndexError):
            tasks[len(tasks)]


def test_all_processes() -> None:
    """The processes are those of /proc, and kernel threads are known by their flag."""
    with Proc() as proc:
        pids = proc.pids()
        listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        assert {os.getpid(), 1} <= set(pids)
        assert len(listed ^ set(pids)) < 50  # others come and go
        tasks = proc.tasks(pids)
        kernel = [task for task in tasks if task.flags & PF_KTHREAD]
        assert all(not os.path.exists(f"/proc/{task.pid}/exe") for task in kernel)


def test_gone_is_a_result() -> None:
    """A process that is not there has no threads; a thread that is not there has no mask."""
    with Proc() as proc:
        gone = 2**22 + 1  # above the largest pid_max
        assert 0 == len(proc.tasks([gone]))
        assert [(None, 3)] == read_masks([gone])
        assert [] == read_masks([])


def test_words_hold_every_possible_cpu() -> None:
    """The kernel's masks are wide enough for every possible CPU."""
    possible = CpuSet.parse(Path("/sys/devices/system/cpu/possible").read_text())
    assert possible.last < 64 * mask_words()


def test_recorded_tree(tmp_path: Path) -> None:
    """Below a recorded root masks come from status and nothing is asked of the running kernel."""
    task = tmp_path / "proc/77/task/77"
    task.mkdir(parents=True)
    tail = " ".join(str(n) for n in range(1, 50))
    (task / "stat").write_bytes(b"77 (a) b\n(\x1b[31m) S " + tail.encode())
    (task / "status").write_text("Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t4-5,4095\n")
    with Proc(str(tmp_path)) as proc:
        assert [77] == proc.pids()
        tasks = proc.tasks(proc.pids())
        assert [CpuSet.parse("4-5,4095")] == proc.masks(tasks)
        assert "a) b?(?[31m" == tasks[0].name
        (task / "status").write_text("Cpus_allowed_list:\tnonsense\n")
        assert [None] == proc.masks(tasks)
    with pytest.raises(HostReadError, match="proc"):
        Proc(str(tmp_path / "nothing"))


def test_printable() -> None:
    """What other processes call themselves cannot reach the terminal as anything but text."""
    assert "?[2Jabc?" == printable(b"\x1b[2Jabc\xff")
    assert "grün" == printable("grün".encode())
    assert "?" == printable("\u202e".encode())  # right-to-left override
    assert 128 == len(printable(b"x" * 1000))


def test_no_descriptor_is_left_open() -> None:
    """A scan leaves as many descriptors open as it found."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with Proc() as proc:
            proc.masks(proc.tasks(proc.pids()))
    assert before == len(os.listdir("/proc/self/fd"))


def test_settled_names() -> None:
    """A thread that renames itself 4 ms after it started is known by its new name at the next look."""
    named = threading.Event()

    def late() -> None:
        time.sleep(0.004)
        call_thread(threading.get_native_id(), b"CPU 0/KVM")
        named.set()
        end.wait()

    end, one = threading.Event(), threading.Thread(target=late)
    with Proc() as proc:
        scanner = Scanner(proc)
        scanner.scan([os.getpid()])
        one.start()
        try:
            first = scanner.scan([os.getpid()])
            assert one.native_id in first.tids()
            named.wait()
            again = scanner.scan([os.getpid()])
            assert b"CPU 0/KVM" == dict(zip(again.tids(), again.names(), strict=True))[one.native_id or 0]
        finally:
            end.set()
            one.join()


def test_a_look_that_lasts() -> None:
    """A thread that was born late in a long look is not thought to be as old as that look's beginning."""
    with threads(1) as (tid,), Proc() as proc, clock() as fake:
        scanner = Scanner(proc)
        real = scan.lib.ps_sweep

        def slow(fd: int, sweep: object) -> int:
            fake.now += 2 * SETTLE  # for the others that were looked at before this one
            count: int = real(fd, sweep)
            return count

        with mock.patch.object(scan, "lib", Instead(scan.lib, ps_sweep=slow)):
            scanner.scan([os.getpid()])
        fake.now += SETTLE // 10
        scanner.scan([os.getpid()])
        call_thread(tid, b"CPU 1/KVM")
        fake.now += SETTLE // 10
        tasks = scanner.scan([os.getpid()])
        assert b"CPU 1/KVM" == dict(zip(tasks.tids(), tasks.names(), strict=True))[tid]


names = hs.binary(min_size=1, max_size=15).filter(lambda name: 0 not in name)
steps = hs.lists(
    hs.one_of(
        hs.tuples(hs.just("start"), names),
        hs.tuples(hs.just("end"), hs.integers(0, 20)),
        hs.tuples(hs.just("rename"), hs.integers(0, 20), names),
        hs.tuples(hs.just("look"), hs.sampled_from([0, 1, SETTLE // 2, SETTLE - 1, SETTLE]), hs.booleans()),
    ),
    max_size=25,
)


@pytest.mark.parametrize("stats", [False, True])
@settings(max_examples=60)
@given(steps)
def test_a_later_look_tells_what_a_fresh_one_tells(stats: bool, given_steps: list[tuple]) -> None:
    """Whatever starts, ends and is renamed: a later look knows all threads, and each by its last unsettled name."""
    pid = os.getpid()
    running: list[Sleeper] = []
    last: dict[tuple[int, int], tuple[int, bool, bytes]] = {}  # what is known: since when, settled, the name

    def look(anew: bool) -> None:
        tasks = scanner.scan([pid], anew=[pid] if anew else [])
        fresh = Scanner(proc, stats=stats).scan([pid])
        assert sorted(os.listdir("/proc/self/task"), key=int) == [str(tid) for tid in tasks.tids()]
        model = {}
        for task, name in zip(fresh, fresh.names(), strict=True):
            since, settled, old = last.get((task.tid, task.ino), (fake.now, False, b""))
            if not settled or anew:
                seen_before = (task.tid, task.ino) in last
                settled, old = seen_before and fake.now - since >= SETTLE, name
            model[task.tid, task.ino] = since, settled, old
        assert [name for _, _, name in model.values()] == tasks.names()
        assert [(task, mask) for task, _, mask in known(fresh)] == [
            (attrs.evolve(task, name=printable(name)), mask)
            for (task, _, mask), name in zip(known(tasks), fresh.names(), strict=True)
        ]
        last.clear()
        last.update(model)

    with contextlib.ExitStack() as stack, clock() as fake:
        proc = stack.enter_context(Proc())
        scanner = Scanner(proc, stats=stats)
        stack.callback(lambda: [one.end() for one in running])
        for kind, *rest in given_steps:
            if kind == "start":
                running.append(Sleeper())
                running[-1].call(rest[0])
            elif kind == "look":
                fake.now += rest[0]
                look(rest[1])
            elif kind == "rename" and running:
                running[rest[0] % len(running)].call(rest[1])
            elif kind == "end" and running:
                running.pop(rest[0] % len(running)).end()
        fake.now += SETTLE
        look(anew=True)
        assert known(Scanner(proc, stats=stats).scan([pid])) == known(scanner.scan([pid]))


@pytest.mark.parametrize("stats", [False, True])
def test_shared_work(processes: list[int], stats: bool) -> None:
    """Two threads of ours, or more, tell what one tells, at the first look and later."""
    with Proc() as proc:
        one = Scanner(proc, stats=stats)
        first, later = known(one.scan(processes)), known(one.scan(processes))
        assert 4 + 74 == len(first)
        assert first == later
        for count in (0, 2, 3, 4, 16, 40):
            more = Scanner(proc, stats=stats, threads=count)
            assert first == known(more.scan(reversed(processes)))
            assert first == known(more.scan([*processes, *processes]))
            part = more.scan(processes[1:3])
            assert [item for item in first if item[0].pid in processes[1:3]] == known(part)
            assert processes[1:3] == list(part.counts)
            assert len(part) == sum(part.counts.values())


def test_many_more_threads_than_last_time() -> None:
    """A process that has a hundred times as many threads as when it was last looked at is looked at whole."""
    with Proc() as proc:
        scanner = Scanner(proc)
        few = set(scanner.scan([os.getpid()]).tids())
        with threads(400) as tids:
            assert few | set(tids) == set(scanner.scan([os.getpid()]).tids())
        assert few == set(scanner.scan([os.getpid()]).tids())


def test_exec() -> None:
    """After exec(2) a process has its number and inode number still: the main thread's name is read each time."""
    program = "import os; input(); os.execv('/bin/sleep', ['sleep', '60'])"
    with (
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child,
        Proc() as proc,
        clock() as fake,
    ):
        try:
            path = f"/proc/{child.pid}/exe"
            while not os.path.samefile(path, sys.executable):
                time.sleep(0.001)
            scanner = Scanner(proc)
            for _ in range(2):
                before = scanner.scan([child.pid])
                fake.now += SETTLE
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.flush()
            while os.path.samefile(path, sys.executable):
                time.sleep(0.001)
            after = scanner.scan([child.pid])
            assert [Path(f"/proc/{child.pid}/comm").read_bytes()[:-1]] == after.names()
            assert before[0].ino == after[0].ino
            assert before.names() != after.names()
            assert after.names() == scanner.scan([child.pid], anew=[child.pid]).names()
        finally:
            child.kill()


def test_processes_that_end() -> None:
    """A zombie is a process with one thread, which is not alive; one that was waited for has none. Neither fails."""
    with Proc() as proc:
        scanner, plain = Scanner(proc, stats=True), Scanner(proc)
        with process(5) as child:
            assert 6 == len(scanner.scan([child.pid])) == len(plain.scan([child.pid]))
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            (zombie,) = scanner.scan([child.pid], anew=[child.pid])
            assert (child.pid, "Z", 0, False) == (zombie.tid, zombie.state, zombie.error, zombie.alive)
            (zombie,) = tasks = plain.scan([child.pid])
            assert (child.pid, "", 0) == (zombie.tid, zombie.state, zombie.error)
            assert {} == tasks.errors
            assert os.sched_getaffinity(child.pid) == set(tasks.masks[0] or ())
        tasks = scanner.scan([os.getpid(), child.pid])
        assert [os.getpid()] == list(tasks.counts)
        assert {} == tasks.errors
        assert 0 == proc.start_of(child.pid)
        assert proc.process_of(child.pid) is None
        gone = scanner.scan([child.pid])
        assert ([], [], [], {}) == ([*gone], gone.tids(), gone.names(), gone.errors)
        assert [] == list(gone.masks)
        assert [] == scanner.scan([]).tids()


def test_no_descriptors_left(processes: list[int]) -> None:
    """What cannot be opened for want of descriptors is said, process by process, and read once there are some."""
    with Proc() as proc:
        scanner = Scanner(proc)
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = os.dup(proc.fd)
        os.close(highest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, usual[1]))
            none = scanner.scan(processes)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, usual[1]))
            some = scanner.scan(processes)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        assert (0, dict.fromkeys(processes, errno.EMFILE)) == (len(none), none.errors)
        assert (78, {}) == (len(some), some.errors)
        assert {errno.EMFILE} == {task.error for task in some}
        assert known(Scanner(proc).scan(processes)) == known(scanner.scan(processes))


def test_kernel_workers_are_told_apart() -> None:
    """A worker of the kernel's inside a VMM is known by its flag without anybody's stat being read."""
    with Microvm.start("workers") as vm, Proc() as proc:
        tasks = Scanner(proc).scan([vm.pid])
        workers = {task.tid for task in tasks if task.flags & PF_USER_WORKER}
        expected = set()
        for tid in tasks.tids():
            fields = Path(f"/proc/{vm.pid}/task/{tid}/stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[6]) & PF_USER_WORKER:
                expected.add(tid)
        if not expected:
            pytest.skip("this kernel has no worker inside a VMM")
        assert expected == workers
        assert not expected & set(vm.vcpu_tids)
        assert {0} == {task.start for task in tasks if task.tid not in workers}


def test_links_and_holders(processes: list[int]) -> None:
    """Links and descriptors are those that the standard library reads, with its errors."""
    everybody = [*processes, os.getpid(), 2**22 + 1]
    with Proc() as proc, open("/dev/zero", "rb") as file, open("/dev/zero", "rb"):
        for name in ("exe", "cwd", "root", "stat"):
            for pid, (link, error) in zip(everybody, proc.links(everybody, name), strict=True):
                try:
                    expected = os.readlink(f"/proc/{pid}/{name}"), 0
                except OSError as raised:
                    expected = "", raised.errno or 0
                assert expected == (os.fsdecode(link), error)
        assert [] == list(proc.links([], "exe"))
        assert {os.getpid(): file.fileno()} == proc.holders(everybody, "/dev/zero")
        assert {} == proc.holders(everybody, "/dev/zer") == proc.holders([], "x")
        many = [os.getpid()] * 3000  # more than there is room for at once
        assert {(os.fsencode(os.readlink("/proc/self/exe")), 0)} == set(proc.links(many, "exe"))
        assert 3000 == len(list(proc.links(many, "exe")))


def record(tmp_path: Path, pid: int, names_of: dict[str, bytes | None]) -> None:
    """Write a process of a recorded machine: threads by the name of their folder, with their comm."""
    for entry, name in names_of.items():
        task = tmp_path / f"proc/{pid}/task/{entry}"
        task.mkdir(parents=True)
        if name is not None:
            (task / "comm").write_bytes(name)


def test_recorded_names(tmp_path: Path) -> None:
    """Below a recorded root any bytes may stand where names and numbers are expected."""
    record(
        tmp_path,
        7,
        {
            "7": b"main\n",
            "8": b"",
            "9": b"x" * 4096,
            "10": b"a\nb\n",
            "11": b"\xff\x1b[2J",
            "12": None,
            "13": b"a\0b\n",
            "014": b"zero",
            "99999999999": b"",
            "x": b"",
            "-1": b"",
            "2147483647": b"last",
        },
    )
    (tmp_path / "proc/self").symlink_to("7")
    with Proc(str(tmp_path)) as proc:
        scanner = Scanner(proc)
        for _ in range(2):
            tasks = scanner.scan(proc.pids())
            assert [7, 8, 9, 10, 11, 12, 13, 2**31 - 1] == tasks.tids()
            assert [b"main", b"", b"x" * 68, b"a\nb", b"\xff\x1b[2J", b"", b"a", b"last"] == tasks.names()
            assert [0, 0, 0, 0, 0, errno.ESRCH, 0, 0] == [task.error for task in tasks]
        with pytest.raises(ValueError, match="not read"):
            _ = tasks.masks
        stats = Scanner(proc, stats=True).scan([7])
        assert {errno.ESRCH} == {task.error for task in stats}
        (tmp_path / "proc/7/status").write_text("Tgid:\n")
        assert proc.process_of(7) is None
        (tmp_path / "proc/7/status").write_text("Tgid:\tx\n")
        assert proc.process_of(7) is None
        (tmp_path / "proc/7/status").write_text("Tgid:\t7\n")
        assert 7 == proc.process_of(7)


class Instead:
    """The compiled functions, some of them replaced."""

    def __init__(self, real: object, **functions: object) -> None:
        self._real = real
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


def test_file_systems_that_count_no_links(tmp_path: Path) -> None:
    """Below a recorded root threads are listed however many they are, also where a folder's links say nothing."""
    record(tmp_path, 7, {str(tid): b"x" for tid in range(7, 3007)})

    def weigh(_: int, pids: object, count: int, weights: list[int]) -> None:
        for place in range(count):
            weights[place] = 0

    with Proc(str(tmp_path)) as proc, mock.patch.object(scan, "lib", Instead(scan.lib, ps_weigh=weigh)):
        assert 3000 == len(Scanner(proc).scan([7, 8]))
