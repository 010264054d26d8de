"""A guest's own word over QMP: asked of real QEMUs, and of peers that lie, stall and shout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kvmaff
from kvmaff.errors import GuestNotFound, KvmaffError, QmpBusy, QmpError, QmpRefused, WrongUsage
from kvmaff.guest.askmonitors import AskMonitors
from kvmaff.guest.discover import Discovery, find_guests
from kvmaff.guest.guest import Guest, Source
from kvmaff.guest.monitor import Monitor
from kvmaff.guest.plainly import plainly
from kvmaff.guest.qmp import open_qmp, qmp_session

from ..conftest import Qemu, kernel_masks, needs_qemu, needs_root, qmp
from .qmppeer import LIES, Peer, peer

pytest.importorskip("qemu.qmp", reason="the extra qmp is not installed")

SHORT = 0.5
SLOW = {"silent", "drips", "stalls", "flood", "strangers"}
"""Peers that only a limit in time ends; a machine may be slow, so that the others have a long one."""

Start = Callable[..., Qemu]


def _socket(folder: Path) -> tuple[str, str]:
    return "-qmp", f"unix:{folder}/q,server=on,wait=off"


def _ask(one: Peer, *commands: str, timeout: float = 5.0) -> list[object]:
    async def go() -> list[object]:
        monitors = (Monitor(path=str(one.path)),)
        async with open_qmp(one.pid, one.start, monitors, timeout=timeout) as asked:
            return [await getattr(asked, command)() for command in commands]

    return plainly(go)


@needs_qemu
@pytest.mark.parametrize("names", ["on", "off"])
@pytest.mark.parametrize("accel", ["kvm", "tcg", "tcg,thread=single"])
def test_a_real_qemu(qemu: Start, tmp_path: Path, accel: str, names: str) -> None:
    """Every vCPU and IOThread is the thread that /proc shows and QEMU says; the free places are those up to maxcpus."""
    extra = (
        *_socket(tmp_path),
        "-cpu",
        "qemu64",
        "-smp",
        "2,maxcpus=6,sockets=3,cores=2",
        "-object",
        "iothread,id=a-very-long-name",
    )
    started = qemu(f"w,debug-threads={names}", accel=accel, vcpus=2, extra=extra)
    guest = started.guest()
    found = kvmaff.read_qmp(guest)
    truth = qmp(tmp_path / "q", {"execute": "query-cpus-fast"}, {"execute": "query-iothreads"})
    assert [(n["cpu-index"], n["thread-id"]) for n in truth[0]] == [
        (one.index, one.tid) for one in found.vcpus
    ]
    assert {n["id"]: n["thread-id"] for n in truth[1]} == {one.name: one.tid for one in found.iothreads}
    assert [0, 1, 2, 3, 4, 5] == [slot.index for slot in found.slots]
    assert [one.path for one in found.vcpus] == [slot.path for slot in found.slots[:2]]
    assert [None] * 4 == [slot.path for slot in found.slots[2:]]
    assert (("socket-id", 2), ("core-id", 1), ("thread-id", 0)) == found.slots[5].place
    if started.accel == "kvm":
        assert {0, 1} == found.stats.keys()
        assert "exits" in found.stats[0]
    else:
        assert {} == found.stats


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_discovery_asks_where_names_are_missing(qemu: Start, tmp_path: Path, accel: str) -> None:
    """Without names the monitor tells vCPUs and IOThreads apart, and is said to be who did."""
    started = qemu("w,debug-threads=off", accel=accel, vcpus=3, extra=_socket(tmp_path))
    guest = started.guest()
    assert (None, None) == (guest.doubt, guest.unanswered)
    assert [(0, Source.QMP), (1, Source.QMP), (2, Source.QMP)] == [
        (one.index, one.source) for one in guest.vcpus
    ]
    assert [("io1", Source.QMP)] == [(one.iothread, one.source) for one in guest.threads if one.iothread]
    (never,) = find_guests(pids=[started.pid], ask=AskMonitors.NEVER)
    assert never.doubt is not None
    assert "-qmp" in never.doubt


@needs_qemu
def test_discovery_asks_no_more_than_it_must(qemu: Start, tmp_path: Path) -> None:
    """Where names tell, nobody is connected to the monitor; where nothing changes it is asked once."""
    named = qemu("w,debug-threads=on", accel="tcg", vcpus=2, extra=_socket(tmp_path))
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(tmp_path / "q"))
        guest = named.guest()
        assert ([Source.NAME] * 2, None) == ([one.source for one in guest.vcpus], guest.unanswered)
        (always,) = find_guests(pids=[named.pid], ask=AskMonitors.ALWAYS)
    assert always.doubt is None
    assert always.unanswered is not None
    assert "somebody else" in always.unanswered
    folder = tmp_path / "2"
    folder.mkdir()
    unnamed = qemu("x,debug-threads=off", accel="tcg", vcpus=2, extra=_socket(folder))
    with Discovery(stats=True) as discovery:
        (first,) = discovery.find([unnamed.pid])
        while (again := discovery.find([unnamed.pid])[0]) is not first:  # names settle
            first = again
        (folder / "q").unlink()  # who asks again fails
        assert (first,) == discovery.find([unnamed.pid])
        assert first.doubt is None


@needs_qemu
@pytest.mark.parametrize("names", ["on", "off"])
def test_a_second_client_is_told_in_time(qemu: Start, tmp_path: Path, names: str) -> None:
    """While somebody holds the monitor that is said within the limit; discovery falls back to what else there is."""
    started = qemu(f"w,debug-threads={names}", accel="tcg", vcpus=2, extra=_socket(tmp_path))
    holders = [socket.socket(socket.AF_UNIX) for _ in range(5)]  # more than fit in the queue
    try:
        for holder in holders:
            holder.setblocking(False)
            try:
                holder.connect(str(tmp_path / "q"))
            except BlockingIOError:
                break
        before = time.monotonic()
        with pytest.raises(QmpBusy, match=r"did not greet within 0\.5 s.*somebody else") as caught:
            kvmaff.read_qmp(started.guest(), timeout=SHORT)
        assert time.monotonic() - before < 5
        assert started.pid == caught.value.pid
        guest = started.guest()
    finally:
        for holder in holders:
            holder.close()
    if names == "on":
        assert ([0, 1], None) == ([one.index for one in guest.vcpus], guest.doubt)
    else:
        assert guest.doubt is not None
        assert "somebody else" in guest.doubt
    assert ([0, 1], None) == ([one.index for one in started.guest().vcpus], started.guest().doubt)


def test_sources_that_disagree(tmp_path: Path) -> None:
    """Where a thread's name says another vCPU than the monitor, both are shown and the guest is not told apart."""
    with peer(tmp_path, "swapped") as one:
        (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.ALWAYS)
        assert guest.doubt is not None
        assert "its sources disagree" in guest.doubt
        for thread in guest.vcpus:
            words = f"thread {thread.tid} is vCPU {thread.index}'s by name, vCPU {1 - (thread.index or 0)}'s by QMP"
            assert words in guest.doubt
        assert [0, 1] == [thread.index for thread in guest.vcpus]


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("both", "is a vCPU's and an IOThread's"),
        ("otherio", "is IOThread io1's by name, no IOThread's by QMP"),
    ],
)
def test_iothreads_that_disagree(tmp_path: Path, does: str, words: str) -> None:
    """The same for IOThreads."""
    with peer(tmp_path, does) as one:
        (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.ALWAYS)
        assert words in (guest.doubt or guest.unanswered or "")
        assert ["io1"] == [thread.iothread for thread in guest.threads if thread.iothread]


@needs_qemu
@pytest.mark.parametrize(
    "words",
    [
        ("-qmp-pretty", "unix:{},server=on,wait=off"),
        ("-chardev", "socket,id=c,path={},server=on,wait=off", "-mon", "chardev=c,mode=control,pretty=on"),
        ("-chardev", "socket,id=c,path={},server=on,wait=off", "-qmp", "chardev:c"),
        ("-qmp", "unix:{}.no,server=on,wait=off", "-qmp", "unix:{},server=on,wait=off"),
    ],
)
def test_spellings(qemu: Start, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Each way to have a monitor is one that answers; of several the first that is free."""
    extra = tuple(word.format(tmp_path / "q") for word in words)
    started = qemu("w,debug-threads=on", accel="tcg", vcpus=2, extra=extra)
    (tmp_path / "q.no").unlink(missing_ok=True)
    found = kvmaff.read_qmp(started.guest())
    assert ([0, 1], 1) == ([one.index for one in found.vcpus], len(found.iothreads))


@needs_root
def test_in_another_mount_namespace(tmp_path: Path) -> None:
    """A path on the way to which an absolute link stands is followed below the root of the guest's process."""
    (tmp_path / "inside").mkdir()
    inside = tmp_path / "inside"
    script = (
        f"mount -t tmpfs none {inside} && mkdir {inside}/run && ln -s {inside}/run {inside}/var-run && "
        "exec qemu-system-x86_64 -S -nodefaults -display none -accel tcg -smp 2 -name w,debug-threads=on "
        f"-qmp unix:{inside}/var-run/q,server=on,wait=off"
    )
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (found := find_guests(pids=[process.pid])) or 2 != len(found[0].vcpus):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not (tmp_path / "inside" / "run").exists()
        assert 2 == len(kvmaff.read_qmp(found[0]).vcpus)
    finally:
        process.kill()
        process.wait()


@needs_root
@needs_qemu
def test_in_another_pid_namespace(tmp_path: Path) -> None:
    """A QEMU in a container numbers its threads otherwise; they are told by our numbers."""
    words = [
        "-S",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        "-smp",
        "2",
        "-name",
        "w,debug-threads=on",
    ]
    more = ["-object", "iothread,id=io1", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off"]
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "qemu-system-x86_64"]
    with subprocess.Popen([*alone, *words, *more], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 20
            found: list[Guest] = []
            while not found or 2 != len(found[0].vcpus):
                assert time.monotonic() < deadline
                time.sleep(0.05)
                mine = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                found = [*find_guests(pids=[int(pid) for pid in mine])]
            told = kvmaff.read_qmp(found[0])
            assert [thread.tid for thread in found[0].vcpus] == [vcpu.tid for vcpu in told.vcpus]
            (io1,) = [thread.tid for thread in found[0].threads if thread.iothread]
            assert [io1] == [thread.tid for thread in told.iothreads]
            (always,) = find_guests(pids=[found[0].pid], ask=AskMonitors.ALWAYS)
            assert ([Source.QMP] * 2, None) == ([thread.source for thread in always.vcpus], always.doubt)
        finally:
            process.kill()


@needs_qemu
def test_a_daemon_with_a_relative_path(tmp_path: Path) -> None:
    """A daemon is in another folder than it was started in: that is said, and the whole path helps."""
    words = [
        "-S",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        "-smp",
        "2",
        "-name",
        "w,debug-threads=on",
    ]
    more = ["-daemonize", "-pidfile", "pid", "-qmp", "unix:q,server=on,wait=off"]
    subprocess.run(["qemu-system-x86_64", *words, *more], cwd=tmp_path, check=True)
    pid = int((tmp_path / "pid").read_text())
    try:
        (guest,) = find_guests(pids=[pid])
        with pytest.raises(QmpError, match="-daemonize.*say the whole path"):
            kvmaff.read_qmp(guest)
        assert 2 == len(kvmaff.read_qmp(guest, path=str(tmp_path / "q")).vcpus)
    finally:
        os.kill(pid, 9)


@needs_qemu
def test_one_that_has_begun(qemu: Start, tmp_path: Path) -> None:
    """A QEMU that waited for its monitor and has begun is asked like any other."""
    words = (
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        "-smp",
        "2",
        "-S",
        "-name",
        "w,debug-threads=off",
    )
    command = ["qemu-system-x86_64", *words, "-qmp", f"unix:{tmp_path}/q,server=on"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        qmp(tmp_path / "q", {"execute": "query-status"})  # it begins
        (guest,) = find_guests(pids=[process.pid])
        assert ([0, 1], None) == ([thread.index for thread in guest.vcpus], guest.doubt)
    finally:
        process.kill()
        process.wait()


@needs_qemu
def test_many_questions(qemu: Start, tmp_path: Path) -> None:
    """A conversation lasts as long as it is needed: what is limited is what comes between two questions."""
    started = qemu("w,debug-threads=on", accel="tcg", vcpus=1, extra=_socket(tmp_path))

    async def go() -> int:
        async with qmp_session(started.guest(), path=tmp_path / "q") as asked:
            return sum([len(str(await asked.ask("query-qmp-schema"))) for _ in range(100)])

    assert plainly(go) > 1 << 24


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_limit_that_is_none(tmp_path: Path, timeout: float) -> None:
    """A limit that is no limit is refused, and nobody is said to hold anything."""
    with peer(tmp_path, "true") as one, pytest.raises(WrongUsage, match="a number of seconds above 0"):
        _ask(one, "vcpus", timeout=timeout)


@needs_qemu
def test_a_monitor_that_qemu_waits_for_is_left_alone(qemu: Start, tmp_path: Path) -> None:
    """A QEMU that begins when somebody connects does not begin because somebody looks."""
    words = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-name", "w", "-accel", "tcg"]
    process = subprocess.Popen([*words, "-qmp", f"unix:{tmp_path}/q,server=on"], stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "q").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        (guest,) = find_guests(pids=[process.pid], ask=AskMonitors.ALWAYS)
        assert guest.unanswered is not None
        assert "wait=off" in guest.unanswered
        assert () == guest.vcpus
    finally:
        process.kill()
        process.wait()


@needs_qemu
def test_a_socket_is_found_wherever_it_is(
    qemu: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is the process's, one too long for an address is reached, and so is an abstract name."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.chdir(deep)
    name = f"kvmaff-{os.getpid()}"
    for extra in (
        ("-qmp", "unix:q,server,nowait"),
        (
            "-chardev",
            f"socket,id=c,path={name},abstract=on,server=on,wait=off",
            "-mon",
            "chardev=c,mode=control",
        ),
        (
            "-chardev",
            f"socket,id=c,path={name},abstract=on,tight=off,server=on,wait=off",
            "-mon",
            "c,mode=control",
        ),
    ):
        started = qemu("w,debug-threads=on", accel="tcg", vcpus=2, extra=extra)
        monkeypatch.chdir("/")
        assert 2 == len(kvmaff.read_qmp(started.guest()).vcpus)
        monkeypatch.chdir(deep)
        started.process.kill()
        started.process.wait()


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("foreign", ("vCPU 0 is said to be thread 1, which is none", "vCPU 1 is said to be thread 2")),
        ("main", ("vCPU 0 is said to be the process's main thread",)),
        ("parent", ("which is none of the process's",)),
        ("negative", ("'thread-id' is a number from 0 to 2147483647, not -1", "not -7")),
        ("float", ("not something else",)),
        ("large", ("not 12089258196146291747", "not 2147483648")),
        ("text", ("vCPU 0 of the list: 'thread-id' is a number", "vCPU 1 of the list")),
        ("shared", ("share a thread and some do not",)),
        ("none", ("it has no vCPU",)),
        ("mapping", ("there is no list",)),
        ("many", ("there are 100000, more than 8192",)),
        ("twice", ("there are two vCPUs 0",)),
        ("iothread", ("IOThread 'a' is said to be thread 1", "'id' is no printable text")),
        ("slots", ("two are at one place",)),
        ("count", ("not one vCPU is plugged there at once",)),
        ("type", ("its type is none",)),
    ],
)
def test_lies(tmp_path: Path, does: str, words: tuple[str, ...]) -> None:
    """What cannot be true is refused, all of it in one message, and nothing of it reaches the terminal raw."""
    with peer(tmp_path, does) as one:
        with pytest.raises(QmpError, match="cannot be true") as caught:
            _ask(one, "vcpus", "iothreads", "slots")
        assert one.pid == caught.value.pid
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert str(caught.value).isprintable()


def test_the_peer_itself(tmp_path: Path) -> None:
    """The peer that does not lie is believed: so the lies are what the others are refused for."""
    with peer(tmp_path, "true") as one:
        vcpus, iothreads, slots = _ask(one, "vcpus", "iothreads", "slots")
        assert [0, 1] == [vcpu.index for vcpu in vcpus]  # type: ignore[attr-defined]
        assert ["io1"] == [thread.name for thread in iothreads]  # type: ignore[attr-defined]
        assert [0, 1, 2, 3] == [slot.index for slot in slots]  # type: ignore[attr-defined]
    assert "foreign" in LIES


@pytest.mark.parametrize(
    ("does", "error", "words"),
    [
        ("silent", QmpBusy, "did not greet within 0.5 s"),
        ("drips", QmpBusy, "did not greet within 0.5 s"),
        ("closes", QmpError, "closed the connection"),
        ("garbage", QmpError, "does not speak QMP"),
        ("bytes", QmpError, "QMP|no sense"),
        ("deep", QmpError, "QMP|no sense"),
        ("array", QmpError, "does not speak QMP"),
        ("endless", QmpError, "2 MiB without an end of line"),
        ("stalls", QmpError, "did not answer query-cpus-fast within 0.5 s"),
        ("hangsup", QmpError, "closed the connection when it was asked query-cpus-fast"),
        ("hundred", QmpError, "2 MiB without an end of line"),
        ("flood", QmpError, "more than 16 MiB|did not answer"),
        ("strangers", QmpError, "more than 16 MiB|did not answer"),
        ("error", QmpError, "QMP|no sense"),
        ("neither", QmpError, "QMP|no sense"),
        ("refuses", QmpRefused, r"QEMU refuses query-cpus-fast: \?\[2Jno"),
    ],
)
def test_whoever_misbehaves(tmp_path: Path, does: str, error: type[KvmaffError], words: str) -> None:
    """Stalling, closing, shouting: one clear error, soon, in little memory; and nothing of ours is left running."""
    (tmp_path / "honest").mkdir()
    with peer(tmp_path / "honest", "true") as honest:
        _ask(honest, "vcpus")  # what is loaded on the first use is no leak
    with peer(tmp_path, does) as one:
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        before, largest = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(error, match=words) as caught:
            _ask(one, "vcpus", timeout=SHORT if does in SLOW else 10)
        assert time.monotonic() - before < 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < 128 << 10  # KiB
        assert str(caught.value).isprintable()
        assert threads == threading.active_count()
        assert files == len(os.listdir("/proc/self/fd"))


def test_discovery_and_who_misbehaves(tmp_path: Path) -> None:
    """A guest whose monitor lies stays in doubt and says why; the others are found, and no mask has changed."""
    with peer(tmp_path, "foreign") as one:
        before = kernel_masks(one.pid)
        (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.ALWAYS)
        assert guest.verified
        assert guest.unanswered is not None
        assert "none of the process's" in guest.unanswered
        assert [Source.NAME] * 2 == [thread.source for thread in guest.vcpus]
        assert before == kernel_masks(one.pid)


def test_many_that_are_held_take_as_long_as_one(tmp_path: Path) -> None:
    """Guests are asked at the same time: five that say nothing take the time of one."""
    with contextlib.ExitStack() as stack:
        peers = []
        for number, does in enumerate(["true", *["silent"] * 4]):
            folder = tmp_path / str(number)
            folder.mkdir()
            peers.append(stack.enter_context(peer(folder, does)))
        vmms = tuple(vmm for one in peers for vmm in one.vmms)
        before = time.monotonic()
        found = find_guests(vmms=vmms, pids=[one.pid for one in peers], ask=AskMonitors.ALWAYS)
        assert time.monotonic() - before < 3.8  # four, one after the other, take more than four
    told = {guest.pid: guest.unanswered for guest in found}
    assert told.pop(peers[0].pid) is None
    assert all("somebody else" in (why or "") for why in told.values())
    assert 4 == len(told)


def test_another_process_listens_there(tmp_path: Path) -> None:
    """A socket of somebody else's is not asked, whoever's command line names it."""
    with peer(tmp_path, "true") as one:

        async def go() -> None:
            async with open_qmp(os.getpid(), 1, (Monitor(path=str(one.path)),), timeout=SHORT):
                raise AssertionError

        with pytest.raises(QmpError, match=f"is served by process {one.pid}, not by the guest's"):
            plainly(go)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "is no socket"),
        (lambda path: path.write_text(""), "is no socket"),
        (os.mkfifo, "is no socket"),
        (str, "No such file"),
        (lambda path: path.symlink_to("/proc/self/fd/999"), "No such file"),
    ],
)
def test_a_path_that_is_no_socket(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """What is not a socket is not opened; the error names the path."""
    path = tmp_path / "n"
    make(path)
    with peer(tmp_path, "true") as one:
        (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.NEVER)
        with pytest.raises(QmpError, match=words) as caught:
            kvmaff.read_qmp(guest, path=str(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ((), "it has no QMP monitor; to have one, start it with -qmp unix:PATH"),
        (("-qmp", "tcp:127.0.0.1:0,server=on,wait=off"), "is on TCP"),
        (("-qmp", "null"), "is on 'null'"),
    ],
)
@needs_qemu
def test_no_monitor(qemu: Start, extra: tuple[str, ...], words: str) -> None:
    """A guest without one, or with one that nobody can prove, says so and what to do."""
    guest = qemu("w,debug-threads=on", accel="tcg", vcpus=1, extra=extra).guest()
    with pytest.raises(QmpError, match=words):
        kvmaff.read_qmp(guest)


@needs_qemu
def test_it_has_ended(qemu: Start, tmp_path: Path) -> None:
    """A guest that has ended is not looked for among who has its number since."""
    started = qemu("w,debug-threads=on", accel="tcg", vcpus=1, extra=_socket(tmp_path))
    guest = started.guest()
    started.process.kill()
    started.process.wait()
    with pytest.raises(GuestNotFound):
        kvmaff.read_qmp(guest)


def _guest(one: Peer) -> Guest:
    (guest,) = find_guests(vmms=one.vmms, pids=[one.pid], ask=AskMonitors.NEVER)
    return guest


def test_cancelled(tmp_path: Path) -> None:
    """Who gives up is let go at once, and can ask again."""

    async def go(one: Peer) -> float:
        async with asyncio.timeout(5):
            task = asyncio.create_task(_hold(one))
            await asyncio.sleep(0.3)
            task.cancel()
            before = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert {asyncio.current_task()} == asyncio.all_tasks()
            return time.monotonic() - before

    async def _hold(one: Peer) -> None:
        async with qmp_session(_guest(one), timeout=60) as asked:
            await asked.vcpus()

    for does in ("stalls", "silent"):
        folder = tmp_path / does
        folder.mkdir()
        with peer(folder, does) as one:
            assert asyncio.run(go(one)) < 10


def test_plain_calls_within_a_running_loop(tmp_path: Path) -> None:
    """A plain call works where an event loop runs, and its thread has ended with it."""

    async def go(one: Peer) -> int:
        return len(kvmaff.read_qmp(_guest(one)).vcpus)

    with peer(tmp_path, "true") as one:
        threads = threading.active_count()
        assert 2 == asyncio.run(go(one))
        assert threads == threading.active_count()


_INTERRUPTED = """
import asyncio, json, os, sys, threading, time
import kvmaff
from kvmaff.guest.askmonitors import AskMonitors
from kvmaff.guest.discover import find_guests
from kvmaff.guest.vmm import QEMU, Vmm
pid, start, loop = map(int, sys.argv[1:])
vmm = Vmm(name="peer", executables=(), vcpu=QEMU.vcpu, vouched=frozenset({(pid, start)}))
(guest,) = find_guests(vmms=[vmm], pids=[pid], ask=AskMonitors.NEVER)
async def within():
    kvmaff.read_qmp(guest, timeout=60)
print("asks", flush=True)
try:
    asyncio.run(within()) if loop else kvmaff.read_qmp(guest, timeout=60)
except KeyboardInterrupt:
    print(json.dumps([t.name for t in threading.enumerate()]), flush=True)
"""


@pytest.mark.parametrize("loop", [0, 1], ids=["plain", "within a loop"])
def test_interrupted(tmp_path: Path, loop: int) -> None:
    """A Ctrl-C ends a plain call that waits, at once, and no thread is left."""
    with peer(tmp_path, "stalls") as one:
        words = [str(one.pid), str(one.start), str(loop)]
        with subprocess.Popen(
            [sys.executable, "-c", _INTERRUPTED, *words], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert b"asks\n" == process.stdout.readline()
            time.sleep(1.0)
            process.send_signal(2)
            before = time.monotonic()
            left = json.loads(process.stdout.readline())
            process.wait(10)
        assert time.monotonic() - before < 5
        assert ["MainThread"] == left
