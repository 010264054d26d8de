"""The record on disk: whole or not at all, believed only when it is ours, and enough to restore after a crash."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.binding.journal import Journal, default_folder
from kvmaff.binding.pin import pin_process
from kvmaff.binding.record import Entry, Record, from_data, to_data
from kvmaff.binding.report import Outcome
from kvmaff.binding.undo import discard, list_records, undo
from kvmaff.cpuset import CpuSet
from kvmaff.errors import JournalError, RequestError
from kvmaff.guest.guest import Role
from kvmaff.host.reader import Host
from kvmaff.kernel.text import printable
from kvmaff.testing import inputs as st

from ..conftest import kernel_masks, needs_root, needs_two_cpus
from ..guest.test_discover import impostor

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])

numbers = hs.integers(0, 2**62)
entries = hs.builds(
    Entry,
    pid=hs.integers(1, 2**31 - 1),
    tid=hs.integers(1, 2**31 - 1),
    start=numbers,
    role=hs.none() | hs.sampled_from(Role),
    index=hs.none() | hs.integers(0, 8191),
    before=st.cpu_sets(least=1),
    asked=st.cpu_sets(least=1),
    kept=hs.booleans(),
)
records = hs.builds(
    Record,
    number=hs.integers(1, 99_999_999),
    boot=hs.text(max_size=40),
    namespace=numbers,
    timens=numbers,
    time=numbers,
    ticks=numbers,
    command=hs.text(max_size=40).map(lambda text: printable(text.encode(errors="replace"), 1024)),
    entries=hs.lists(entries, max_size=4).map(tuple),
    decided=hs.none() | hs.text(max_size=40),
)


@pytest.fixture
def journal(state_dir: Path) -> Journal:
    """The journal of this test."""
    return Journal(str(state_dir))


@settings(max_examples=60)
@given(records)
def test_round_trip(record: Record) -> None:
    """A record survives JSON."""
    assert record == from_data(json.loads(json.dumps(to_data(record))), record.number)


@settings(max_examples=120)
@given(records, hs.data())
def test_no_damage_is_believed_or_breaks(record: Record, data: Any) -> None:
    """A record with a field replaced is a ValueError, or says something else, and nothing worse."""
    plain = to_data(record)
    place = data.draw(hs.sampled_from([plain, *plain["entries"]]))
    key = data.draw(hs.sampled_from(sorted(place)))
    place[key] = data.draw(
        hs.none() | hs.booleans() | hs.integers() | hs.text(max_size=5) | hs.lists(hs.integers(), max_size=2)
    )
    try:
        from_data(plain, record.number)
    except ValueError as error:
        assert str(error)


def test_on_disk(journal: Journal, state_dir: Path) -> None:
    """Files are 0600 in a folder of 0700, numbered, whole, and a crash's leftovers are swept."""
    with journal.locked(make=True) as folder:
        first = folder.begin("one")
        folder.write(first)
        (state_dir / ".00000002.json.new").write_text("half")
        second = folder.begin("two")
        folder.write(second)
        assert [1, 2] == folder.numbers()
        assert first == folder.read(1)
    assert 0o700 == state_dir.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in state_dir.iterdir()}
    assert ["00000001.json", "00000002.json", "last"] == sorted(path.name for path in state_dir.iterdir())
    assert (first.foreign, [2, 1]) == (None, [listed.number for listed in list_records(journal)])
    discard(2, journal)
    assert [1] == [listed.number for listed in list_records(journal)]
    with pytest.raises(JournalError, match="kvmaff undo --list"):
        discard(2, journal)
    with journal.locked() as folder:
        assert 3 == folder.begin("three").number  # a number is never given twice
        (state_dir / "last").write_text("nonsense")
        assert 2 == folder.begin("still").number
        (state_dir / "99999999.json").write_text("")
        assert 10**8 == folder.begin("many").number


@needs_two_cpus
@pytest.mark.parametrize("kept", [0, 1, 40, -3])
def test_truncated_record(host: Host, journal: Journal, state_dir: Path, kept: int) -> None:
    """A truncated record is an error that names the file, and no mask is changed."""
    with impostor() as pid:
        pin_process(host, pid, ONE, journal=journal)
        bound = kernel_masks(pid)
        file = state_dir / "00000001.json"
        whole = file.read_bytes()
        file.write_bytes(whole[:kept])
        with pytest.raises(JournalError, match="00000001.json: damaged") as caught:
            undo(journal=journal)
        assert "--discard 1" in str(caught.value)
        assert bound == kernel_masks(pid)
        (listed,) = list_records(journal)
        assert "damaged" in (listed.why or "")
        file.write_bytes(whole)
        assert undo(journal=journal).ok


@needs_two_cpus
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("boot", "another", "before the last boot"),
        ("namespace", 1, "another pid namespace"),
        ("timens", 1, "another time namespace"),
        ("kvmaff", 99, "version 99"),
        ("number", 5, "not that of its file"),
    ],
)
def test_foreign_record(
    host: Host, journal: Journal, state_dir: Path, field: str, value: Any, said: str
) -> None:
    """A record of another boot, pid namespace, version or place is refused by name, and no mask is changed."""
    with impostor() as pid:
        pin_process(host, pid, ONE, journal=journal)
        bound = kernel_masks(pid)
        file = state_dir / "00000001.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
        for number in (None, 1):
            with pytest.raises(JournalError, match=said):
                undo(number, journal=journal)
        assert bound == kernel_masks(pid)


@needs_two_cpus
def test_foreign_records_do_not_hide_ours(host: Host, journal: Journal, state_dir: Path) -> None:
    """The newest record of this boot is undone though a newer file is of another one."""
    with impostor() as pid:
        before = kernel_masks(pid)
        pin_process(host, pid, ONE, journal=journal)
        data = json.loads((state_dir / "00000001.json").read_text())
        (state_dir / "00000007.json").write_text(json.dumps({**data, "number": 7, "boot": "another"}))
        assert undo(journal=journal).ok
        assert before == kernel_masks(pid)
        assert [7] == [listed.number for listed in list_records(journal)]


@needs_root
@pytest.mark.parametrize("how", ["writable", "owner", "link", "fifo", "folder"])
def test_a_file_that_is_not_ours(journal: Journal, state_dir: Path, how: str) -> None:
    """A record that others may have written, a link or a FIFO is not believed, and not waited for."""
    with journal.locked(make=True) as folder:
        folder.write(folder.begin("mine"))
    file = state_dir / "00000001.json"
    if how == "writable":
        file.chmod(0o666)
    elif how == "owner":
        os.chown(file, 65534, 65534)
    elif how == "folder":
        state_dir.chmod(0o777)
    else:
        moved = file.rename(state_dir / "elsewhere")
        file.symlink_to(moved) if how == "link" else os.mkfifo(file)
    with pytest.raises(JournalError):
        undo(1, journal=journal)


@needs_two_cpus
@pytest.mark.parametrize("done", ["nothing", "half", "all"])
def test_crash(host: Host, journal: Journal, done: str) -> None:
    """After a crash at any place behind the record, undo puts everything back."""
    with impostor() as pid:
        before = kernel_masks(pid)
        tids = sorted(before)
        pin_process(host, pid, ONE, journal=journal)
        # the state that a crash would have left: the record, and none, some or all of the masks
        for tid in {"nothing": tids, "half": tids[1:], "all": []}[done]:
            os.sched_setaffinity(tid, before[tid])
        report = undo(journal=journal)
        assert report.ok
        assert before == kernel_masks(pid)
        assert () == list_records(journal)
        outcomes = [thread.outcome for thread in report.threads]
        assert {"nothing": 0, "half": 1, "all": len(tids)}[done] == outcomes.count(Outcome.RESTORED)


KILLED = """
import os, signal, sys
import kvmaff, kvmaff.binding.transaction as transaction
real = transaction.bind
def bind(proc, rows, seen):
    transaction.bind = real
    real(proc, rows[: len(rows) // 2], seen)
    os.kill(os.getpid(), signal.SIGKILL if sys.argv[2] == "kill" else signal.SIGINT)
    return real(proc, rows, seen)
transaction.bind = bind
try:
    kvmaff.pin_process(kvmaff.read_host(), int(sys.argv[1]), sys.argv[3])
except KeyboardInterrupt:
    sys.exit(77)
"""


@needs_two_cpus
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_killed_half_way(journal: Journal, how: str) -> None:
    """Killed between two masks, the record restores everything; interrupted, everything is back already."""
    with impostor() as pid:
        before = kernel_masks(pid)
        done = subprocess.run([sys.executable, "-c", KILLED, str(pid), how, str(ONE)], check=False)
        if how == "kill":
            assert -9 == done.returncode
            assert before != kernel_masks(pid)
            assert undo(journal=journal).ok
        else:
            assert 77 == done.returncode
        assert before == kernel_masks(pid)
        assert () == list_records(journal)


@needs_two_cpus
def test_masks_of_somebody_else_are_left_alone(host: Host, journal: Journal) -> None:
    """A mask that somebody else has set since is overwritten only by force; the record stays until then."""
    if len(HERE) < 2:
        pytest.skip("one CPU only")
    with impostor() as pid:
        before = kernel_masks(pid)
        os.sched_setaffinity(max(before), OTHER)
        pin_process(host, pid, ONE, tid=pid, journal=journal)
        pin_process(host, pid, ONE, tid=max(before), journal=journal)
        os.sched_setaffinity(max(before), HERE)
        os.sched_setaffinity(max(before), OTHER)
        report = undo(journal=journal)
        assert report.ok  # somebody has put it back already
        pin_process(host, pid, ONE, tid=max(before), journal=journal)
        os.sched_setaffinity(max(before), HERE)
        report = undo(journal=journal)
        assert not report.ok
        assert (Outcome.REFUSED, HERE) == (report.threads[0].outcome, report.threads[0].after)
        assert "somebody else" in report.threads[0].why
        assert 2 == len(list_records(journal))
        assert undo(journal=journal, force=True).ok
        assert OTHER == CpuSet(os.sched_getaffinity(max(before)))


@needs_two_cpus
def test_a_part_of_what_was_asked_is_somebody_elses(host: Host, journal: Journal) -> None:
    """A mask inside what was asked is not ours, unless the kernel cut it so: an administrator may have narrowed it."""
    with impostor() as pid:
        os.sched_setaffinity(pid, ONE)
        pin_process(host, pid, HERE, tid=pid, journal=journal)
        os.sched_setaffinity(pid, OTHER)
        assert not undo(journal=journal).ok
        assert OTHER == CpuSet(os.sched_getaffinity(pid))


@needs_two_cpus
def test_heirs_of_kept_threads_stay(host: Host, journal: Journal) -> None:
    """A later thread whose creator had the mask before is no heir of the call; one that may be either is said."""
    with heirs() as (pid, tids, spawn):
        old, other = tids
        os.sched_setaffinity(old, ONE)  # long before
        pin_process(host, pid, ONE, journal=journal)
        child = spawn(old)
        report = undo(journal=journal)
        assert ONE == CpuSet(os.sched_getaffinity(old))
        assert ONE == CpuSet(os.sched_getaffinity(child))
        assert HERE == CpuSet(os.sched_getaffinity(other))
        assert not report.ok  # the child may be the main thread's, too: nobody can know
        assert ["one of several" in thread.why for thread in report.threads if thread.tid == child] == [True]
        assert 1 == len(list_records(journal))


HEIRS = """
import os, sys, threading
tids, pipes = [], []
def child():
    print(threading.get_native_id(), flush=True)
    threading.Event().wait()
def worker(get):
    tids.append(threading.get_native_id())
    while get():
        threading.Thread(target=child, daemon=True).start()
for n in range(2):
    r, w = os.pipe()
    pipes.append(w)
    threading.Thread(target=worker, args=(lambda r=r: os.read(r, 1),), daemon=True).start()
while len(tids) < 2: pass
print(*tids, flush=True)
for line in sys.stdin:
    os.write(pipes[tids.index(int(line))], b"x")
"""


@contextlib.contextmanager
def heirs() -> Iterator[tuple[int, list[int], Callable[[int], int]]]:
    """A process with two threads, each of which starts another on request."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEIRS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def spawn(tid: int) -> int:
        process.stdin.write(f"{tid}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        yield process.pid, [int(word) for word in process.stdout.readline().split()], spawn
    finally:
        process.kill()
        process.communicate()


@needs_two_cpus
def test_heirs_go_back_with_their_creator(host: Host, journal: Journal) -> None:
    """A thread that started after the call with the mask that was asked goes back too."""
    with heirs() as (pid, tids, spawn):
        pin_process(host, pid, ONE, journal=journal)
        child = spawn(tids[0])
        assert ONE == CpuSet(os.sched_getaffinity(child))
        report = undo(journal=journal)
        assert report.ok
        assert {frozenset(HERE)} == set(kernel_masks(pid).values())
        assert ["inherited" in thread.why for thread in report.threads if thread.tid == child] == [True]


@needs_two_cpus
def test_what_cannot_be_looked_at_is_not_gone(journal: Journal) -> None:
    """Where threads cannot be listed, undo refuses and keeps the record; it does not take them for ended."""
    script = (
        "import os, resource, sys\nimport kvmaff\nfrom kvmaff.formats.plain import report_data\n"
        "import kvmaff.binding.restore, kvmaff.binding.undo\n"
        "kvmaff.pin_process(kvmaff.read_host(), int(sys.argv[1]), sys.argv[2])\n"
        "from kvmaff.kernel.scan import Scanner\nreal = Scanner.scan\n"
        "def few(self, pids):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1, 4096))\n"
        "    try: return real(self, pids)\n"
        "    finally: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "Scanner.scan = few\nreport = kvmaff.undo()\nprint(report.ok, {str(t.outcome) for t in report.threads})\n"
    )
    with impostor() as pid:
        before = kernel_masks(pid)
        done = subprocess.run(
            [sys.executable, "-c", script, str(pid), str(ONE)], capture_output=True, text=True, check=True
        )
        assert "False {'refused'}\n" == done.stdout
        assert 1 == len(list_records(journal))
        assert undo(journal=journal).ok
        assert before == kernel_masks(pid)


@needs_two_cpus
def test_a_record_wider_than_the_kernel(host: Host, journal: Journal, state_dir: Path) -> None:
    """A record with CPUs that no mask of this kernel can hold is an error, not a traceback."""
    with impostor() as pid:
        pin_process(host, pid, ONE, journal=journal)
        file = state_dir / "00000001.json"
        data = json.loads(file.read_text())
        data["entries"][0]["before"] = "0-8000"
        file.write_text(json.dumps(data))
        bound = kernel_masks(pid)
        with pytest.raises(JournalError, match="CPU 8000"):
            undo(journal=journal)
        assert bound == kernel_masks(pid)


@needs_two_cpus
@needs_root
def test_a_record_that_cannot_be_removed(host: Host, journal: Journal, state_dir: Path) -> None:
    """Where the masks are back but the record stays, both is said."""
    with impostor() as pid:
        before = kernel_masks(pid)
        pin_process(host, pid, ONE, journal=journal)
        script = (
            "import ctypes, sys\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x20000) == 0\n"
            "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
            f"p = {os.fsencode(state_dir)!r}\nassert libc.mount(p, p, None, 0x1000, None) == 0\n"
            "assert libc.mount(None, p, None, 0x1021, None) == 0\n"
            "sys.argv = ['kvmaff', 'undo', '--json']\nfrom kvmaff.cli import main\nmain()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert 1 == done.returncode
        answer = json.loads(done.stdout)
        assert (False, {"restored"}) == (answer["ok"], {thread["outcome"] for thread in answer["threads"]})
        assert "the masks are back, but the record stays" in done.stderr
        assert before == kernel_masks(pid)
        assert undo(journal=journal).ok


@needs_two_cpus
def test_older_record_waits_for_the_newer(host: Host, journal: Journal) -> None:
    """A record under a newer one of the same threads is not undone before it."""
    with impostor() as pid:
        before = kernel_masks(pid)
        pin_process(host, pid, ONE, journal=journal)
        pin_process(host, pid, OTHER, journal=journal)
        bound = kernel_masks(pid)
        with pytest.raises(RequestError, match="record 2 changed threads of the same process"):
            undo(1, journal=journal)
        assert bound == kernel_masks(pid)
        assert undo(journal=journal).ok
        assert undo(1, journal=journal).ok
        assert before == kernel_masks(pid)


@needs_two_cpus
def test_a_recorded_thread_that_is_gone(host: Host, journal: Journal) -> None:
    """Undo of a process that has ended says so and is done with."""
    with impostor() as pid:
        pin_process(host, pid, ONE, journal=journal)
    report = undo(journal=journal)
    assert report.ok
    assert {Outcome.GONE} == {thread.outcome for thread in report.threads}
    assert () == list_records(journal)


@needs_two_cpus
def test_a_recorded_number_that_was_reused(host: Host, journal: Journal) -> None:
    """A thread with a recorded number and another start is a stranger, and stays as it is."""
    with impostor() as pid:
        pin_process(host, pid, ONE, journal=journal)
        bound = kernel_masks(pid)
        with journal.locked() as folder:
            record = folder.read(1)
            changed = tuple(attrs.evolve(entry, start=entry.start - 7) for entry in record.entries)
            folder.write(attrs.evolve(record, entries=changed, ticks=2**61))
        assert {Outcome.GONE} == {thread.outcome for thread in undo(journal=journal).threads}
        assert bound == kernel_masks(pid)


def test_one_at_a_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one kvmaff holds the folder another waits, and gives up with a message."""
    monkeypatch.setattr("kvmaff.binding.journal._WAIT", 0.1)
    with journal.locked(make=True):
        start = time.monotonic()
        with pytest.raises(JournalError, match="another kvmaff"), journal.locked():
            pass
        assert time.monotonic() - start < 4
    with journal.locked():
        pass


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the environment's, else root's or the user's own."""
    monkeypatch.setenv("KVMAFF_STATE_DIR", "/somewhere")
    assert "/somewhere" == default_folder()
    monkeypatch.delenv("KVMAFF_STATE_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "/var/lib/kvmaff" == default_folder()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    assert "/home/me/state/kvmaff" == default_folder()
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_folder().endswith("/.local/state/kvmaff")
