"""The microvm: QEMU's names, KVM's vCPUs, the time they spend, and that it outlives nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmaff.errors import MicrovmError
from kvmaff.testing import _child
from kvmaff.testing._child import Child
from kvmaff.testing.microvm import Microvm, Mode

NOWHERE = "/nonexistent/kvm"
PATIENCE = 20.0


def eventually(fact: Callable[[], bool]) -> bool:
    """Whether something becomes true before patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def stat(pid: int, tid: int) -> list[str]:
    """A thread's stat fields; index n - 3 is field n of proc(5)."""
    return Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()


def gone(pid: int) -> bool:
    """Whether a process is no more; whoever inherited it may be slow to wait for it."""
    try:
        return stat(pid, pid)[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def user(microvm: Microvm, vcpu: int) -> int:
    """A vCPU's user time in clock ticks, guest time included."""
    return int(stat(microvm.pid, microvm.vcpu_tids[vcpu])[14 - 3])


def system(microvm: Microvm, vcpu: int) -> int:
    """A vCPU's kernel time in clock ticks."""
    return int(stat(microvm.pid, microvm.vcpu_tids[vcpu])[15 - 3])


def guest(microvm: Microvm, vcpu: int) -> int:
    """A vCPU's guest time in clock ticks."""
    return int(stat(microvm.pid, microvm.vcpu_tids[vcpu])[43 - 3])


def comm(pid: int, tid: int) -> str:
    """A thread's name."""
    return Path(f"/proc/{pid}/task/{tid}/comm").read_text().rstrip("\n")


def held(pid: int) -> list[str]:
    """What the descriptors of a process name."""
    return sorted(os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())


def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let another program stand where Python should be."""
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\n{script}\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))


@pytest.fixture(scope="module")
def _kvm() -> None:
    with Microvm.start(mode=Mode.HALT) as microvm:
        if not microvm.kvm:
            pytest.skip(f"{microvm.why}")


needs_kvm = pytest.mark.usefixtures("_kvm")


@pytest.fixture(params=["/dev/kvm", NOWHERE], ids=["kvm", "plain"])
def device(request: pytest.FixtureRequest) -> str:
    """KVM where it is to be had, and a device that is not there."""
    if request.param != NOWHERE:
        request.getfixturevalue("_kvm")
    return str(request.param)


@pytest.fixture
def microvm(device: str) -> Iterator[Microvm]:
    """Two halting vCPUs."""
    with Microvm.start(vcpus=2, mode=Mode.HALT, kvm=device) as started:
        yield started


@needs_kvm
def test_names_are_qemus() -> None:
    """Threads of vCPUs and IOThreads are named as QEMU names them, the longest id that gets a name included."""
    ids = ["io1", "twelve.bytes"]
    with Microvm.start("web", vcpus=2, mode=Mode.HALT, iothreads=ids) as microvm:
        assert ["CPU 0/KVM", "CPU 1/KVM"] == [comm(microvm.pid, tid) for tid in microvm.vcpu_tids]
        names = {one: comm(microvm.pid, tid) for one, tid in microvm.iothread_tids.items()}
        assert {"io1": "IO io1", "twelve.bytes": "IO twelve.bytes"} == names
        command = Path(f"/proc/{microvm.pid}/cmdline").read_bytes().split(b"\0")
        assert b"guest=web,debug-threads=on" == command[command.index(b"-name") + 1]
        assert (True, None) == (microvm.kvm, microvm.why)


@needs_kvm
def test_descriptors_are_a_vmms() -> None:
    """The process holds the device, the machine and every vCPU, as any VMM does."""
    with Microvm.start(vcpus=2, mode=Mode.HALT) as microvm:
        names = [name for name in held(microvm.pid) if "kvm" in name]
    assert ["/dev/kvm", "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu:1", "anon_inode:kvm-vm"] == names


@needs_kvm
def test_spinning_gathers_guest_time_and_halting_next_to_nothing() -> None:
    """While one vCPU spins for 30 ticks of guest time, a halting one takes at most 3 of any time."""
    with Microvm.start(vcpus=2, mode=Mode.HALT) as microvm:
        microvm.mode(Mode.SPIN, 0)
        assert eventually(lambda: guest(microvm, 0) >= 30)
        assert user(microvm, 1) + system(microvm, 1) <= 3
        assert eventually(lambda: stat(microvm.pid, microvm.vcpu_tids[1])[0] == "S")


def test_a_spinning_vcpu_spends_user_time(microvm: Microvm) -> None:
    """With KVM or without, spinning is user time (guest time is part of it)."""
    microvm.mode(Mode.SPIN)
    assert eventually(lambda: user(microvm, 0) >= 5 and user(microvm, 1) >= 5)


def test_an_exiting_vcpu_spends_kernel_time(microvm: Microvm) -> None:
    """With KVM or without, leaving the guest all the time costs the kernel's time."""
    microvm.mode(Mode.EXIT, 1)
    assert eventually(lambda: system(microvm, 1) >= 5)
    assert system(microvm, 0) <= 3


def test_a_mode_lasts_until_the_next(microvm: Microvm) -> None:
    """A vCPU told to halt stops spending time; told to spin it begins again."""
    microvm.mode(Mode.SPIN)
    assert eventually(lambda: user(microvm, 0) >= 3)
    microvm.mode(Mode.HALT, 0)
    halted, other = user(microvm, 0), user(microvm, 1)
    assert eventually(lambda: user(microvm, 1) >= other + 20)
    assert user(microvm, 0) <= halted + 2
    microvm.mode(Mode.SPIN, 0)
    assert eventually(lambda: user(microvm, 0) >= halted + 5)


def test_no_request_is_lost(microvm: Microvm) -> None:
    """However requests meet the guest's entries and exits, each one comes into effect."""
    for _ in range(40):
        for mode in (Mode.SPIN, Mode.EXIT, Mode.HALT, Mode.EXIT):
            microvm.mode(mode, 0)


def test_without_kvm_it_says_so() -> None:
    """Where the device is missing plain threads stand in, are not named as KVM's, and the reason is given."""
    with Microvm.start(vcpus=2, mode=Mode.HALT, iothreads=["io1"], kvm=NOWHERE) as microvm:
        assert not microvm.kvm
        assert f"not KVM: {NOWHERE}: No such file or directory" == microvm.why
        assert ["CPU 0/TCG", "CPU 1/TCG"] == [comm(microvm.pid, tid) for tid in microvm.vcpu_tids]
        assert "IO io1" == comm(microvm.pid, microvm.iothread_tids["io1"])
        assert [] == [name for name in held(microvm.pid) if "kvm" in name]


def test_another_device_is_not_kvm() -> None:
    """A device that is there but is no KVM is told apart from a missing one."""
    with Microvm.start(mode=Mode.HALT, kvm="/dev/null") as microvm:
        assert microvm.why is not None
        assert microvm.why.startswith("not KVM: /dev/null: KVM_GET_API_VERSION: ")


@needs_kvm
def test_half_a_machine_is_torn_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where KVM fails at vCPU 3, what stands by then is given back before plain threads stand in."""
    wrapped(tmp_path, monkeypatch, f'ulimit -n 8\nexec {sys.executable} "$@"')  # 0-2, kvm, vm, 3 vCPUs
    with Microvm.start(vcpus=5, mode=Mode.HALT) as microvm:
        assert "not KVM: /dev/kvm: KVM_CREATE_VCPU of vCPU 3: Too many open files" == microvm.why
        assert [] == [name for name in held(microvm.pid) if "kvm" in name]
        tids = {int(task.name) for task in Path(f"/proc/{microvm.pid}/task").iterdir()}
        assert {microvm.pid, *microvm.vcpu_tids} == tids


def test_three_at_once(device: str) -> None:
    """Several microvms run side by side, each with threads of its own."""
    names = ["one", "two", "three"]
    microvms = [Microvm.start(name, vcpus=2, mode=Mode.SPIN, kvm=device) for name in names]
    try:
        assert 6 == len({tid for microvm in microvms for tid in microvm.vcpu_tids})
        assert eventually(lambda: all(user(microvm, 1) >= 1 for microvm in microvms))
    finally:
        for microvm in microvms:
            microvm.close()
    assert [True] * 3 == [gone(microvm.pid) for microvm in microvms]


def test_close_leaves_nothing(device: str) -> None:
    """After close there is no process, no zombie and no descriptor of it; closing again is harmless."""
    before = os.listdir("/proc/self/fd")
    microvm = Microvm.start(kvm=device)
    microvm.close()
    microvm.close()
    assert not Path(f"/proc/{microvm.pid}").exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(microvm.pid, 0)
    assert before == os.listdir("/proc/self/fd")
    with pytest.raises(MicrovmError, match="is closed"):
        microvm.mode(Mode.HALT)


def test_close_needs_no_end_of_file(microvm: Microvm) -> None:
    """Closing is in time although another process may hold the pipe's end, and the microvm ends by itself."""
    other = os.dup(microvm._child._stdin.fileno())
    try:
        microvm.close()
        assert 0 == microvm._child._process.returncode
    finally:
        os.close(other)


def test_close_kills_what_does_not_end(microvm: Microvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A microvm that cannot end by itself, being stopped, is killed."""
    monkeypatch.setattr(_child, "_END_SECONDS", 0.2)
    os.kill(microvm.pid, signal.SIGSTOP)
    microvm.close()
    assert -signal.SIGKILL == microvm._child._process.returncode


@pytest.mark.parametrize(
    ("shared", "end"),
    [(False, signal.SIGKILL), (True, signal.SIGKILL), (False, signal.SIGINT)],
    ids=["killed", "killed while a sibling holds the pipe", "interrupted by the terminal"],
)
def test_it_dies_with_its_parent(device: str, shared: bool, end: signal.Signals) -> None:
    """However the parent ends the microvm ends, even where a process forked meanwhile holds its pipe."""
    script = (
        "import os, sys, time\n"
        "from kvmaff.testing.microvm import Microvm\n"
        f"microvm = Microvm.start(kvm={device!r})\n"
        f"sibling = os.fork() if {shared} else -1\n"
        "if sibling:\n"
        "    print(microvm.pid, sibling, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_child._environment(),
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        pid, sibling = map(int, parent.stdout.readline().split())
        try:
            assert not gone(pid)
            # a terminal's Ctrl-C goes to every process of the group, the microvm too
            (os.killpg if end == signal.SIGINT else os.kill)(parent.pid, end)
            parent.wait()
            assert eventually(lambda: gone(pid))
        finally:
            if shared:
                os.kill(sibling, signal.SIGKILL)


def test_it_survives_the_thread_that_started_it() -> None:
    """Its life is tied to the parent process, not to the parent's thread."""
    started: list[Microvm] = []
    thread = threading.Thread(target=lambda: started.append(Microvm.start(mode=Mode.HALT)))
    thread.start()
    thread.join()
    with started[0] as microvm:
        microvm.mode(Mode.HALT)


def test_interrupts_are_its_parents(microvm: Microvm) -> None:
    """A Ctrl-C in the terminal does not end it."""
    os.kill(microvm.pid, signal.SIGINT)
    microvm.mode(Mode.HALT)


@pytest.mark.parametrize("threads", [0, 2], ids=["alone", "beside other threads"])
def test_an_interrupt_at_start_leaves_nothing(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C while it starts ends it, is not lost, and leaves mask and handler; whichever thread gets it."""
    wrapped(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid\nkill -INT $PPID\nexec sleep 60")

    class Slow(Child):
        """The interrupt comes when there is a process, and nobody has it yet."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            time.sleep(0.1)

    monkeypatch.setattr("kvmaff.testing.microvm.Child", Slow)
    handler, done = signal.getsignal(signal.SIGINT), threading.Event()
    others = [threading.Thread(target=done.wait) for _ in range(threads)]
    for other in others:
        other.start()
    try:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                Microvm.start()
            assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            assert handler is signal.getsignal(signal.SIGINT)
    finally:
        done.set()
        for other in others:
            other.join()


def test_a_hanging_start_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not answer in time is killed, and the error says so."""
    wrapped(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid\nexec sleep 60")
    with pytest.raises(MicrovmError, match=r"did not answer within 0\.5 s"):
        Microvm.start(timeout=0.5)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_failing_start_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process wrote to its standard error is in the error."""
    wrapped(tmp_path, monkeypatch, "echo out of order >&2\nexit 3")
    with pytest.raises(MicrovmError, match="has ended with status 3: out of order"):
        Microvm.start()


def test_an_impostor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that says something else than what a microvm says is ended."""
    wrapped(tmp_path, monkeypatch, "echo hello\nexec sleep 60")
    with pytest.raises(MicrovmError, match="it says 'hello'"):
        Microvm.start()


def test_no_python_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interpreter cannot be executed, the error is a MicrovmError too."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MicrovmError, match="cannot be started"):
        Microvm.start()


def test_a_dead_microvm_is_an_error(microvm: Microvm) -> None:
    """A request to a microvm that was killed says that it has ended."""
    os.kill(microvm.pid, signal.SIGKILL)
    assert eventually(lambda: gone(microvm.pid))
    with pytest.raises(MicrovmError, match="has ended with status -9"):
        microvm.mode(Mode.SPIN)


def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts in a folder full of modules named as those that it imports."""
    for name in ("json", "signal", "kvmaff"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    with Microvm.start(mode=Mode.HALT) as microvm:
        microvm.mode(Mode.HALT)


@pytest.mark.parametrize(
    "arguments",
    [
        {"vcpus": 0},
        {"vcpus": 257},
        {"vcpus": 1.0},
        {"name": ""},
        {"name": "two,words"},
        {"name": "a\nb"},
        {"name": "a\0b"},
        {"iothreads": [""]},
        {"iothreads": ["thirteenbytes"]},
        {"iothreads": ["1st"]},
        {"iothreads": ["ümlaut"]},
        {"iothreads": ["twice", "twice"]},
        {"mode": "sleep"},
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes no sense is a ValueError before anything is started."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(ValueError, match=r"."):
        Microvm.start(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("vcpu", [-1, 2])
def test_unknown_vcpu(microvm: Microvm, vcpu: int) -> None:
    """There is no vCPU but those that were started."""
    with pytest.raises(ValueError, match=f"has no vCPU {vcpu}"):
        microvm.mode(Mode.SPIN, vcpu)


def test_the_command_line_protocol() -> None:
    """One line of JSON; then an answer for each line; the end at the end of standard input."""
    command = [sys.executable, "-m", "kvmaff.testing.microvm", "-name", "hand,debug-threads=off"]
    command += ["--vcpus=2", "--mode=halt", "--iothread", "io1"]
    lines = "mode spin 1\nmode halt\n\nmode fly\nmode spin 2\nmode spin 1 1\n"
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, env=_child._environment(), check=True
    )
    facts, *answers = done.stdout.splitlines()
    assert ["iothreads", "kvm", "pid", "vcpus", "why"] == sorted(json.loads(facts))
    assert ["ok", "ok", "error", "error", "error", "error"] == [answer.split()[0] for answer in answers]
    assert "" == done.stderr


def test_threads_without_names() -> None:
    """With debug-threads=off threads keep the process's name, as QEMU's do."""
    command = [sys.executable, "-m", "kvmaff.testing.microvm", "-name", "guest=mute,debug-threads=off"]
    with subprocess.Popen(
        [*command, "--mode=halt"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_child._environment()
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert comm(process.pid, process.pid) == comm(process.pid, facts["vcpus"][0])


@pytest.mark.parametrize("words", [["-name", "a,b"], ["-name", "x,sandbox=on"], ["-name", "x", "--vcpus=0"]])
def test_a_wrong_command_line(words: list[str]) -> None:
    """What the process does not understand it refuses, with a usage and status 2."""
    command = [sys.executable, "-m", "kvmaff.testing.microvm", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=_child._environment(), check=False)
    assert 2 == done.returncode
    assert "usage: python -m kvmaff.testing.microvm" in done.stderr
