"""Real guests are found, and what only says so is not believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, Role
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.vouched import NOT_KVM, vouch

from ..conftest import QEMU, Qemu, as_nobody, needs_qemu, needs_root

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


def _roles(guest: Guest) -> list[tuple[str, int | None]]:
    return [(str(thread.role), thread.index) for thread in guest.threads if thread.role is not Role.OTHER]


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_qemu(qemu: Callable[..., Qemu], accel: str) -> None:
    """A QEMU is found with name, UUID, every vCPU by index, emulator threads with the main one first, IOThreads."""
    started = qemu("guest=g,,1,debug-threads=on", accel=accel, extra=("-uuid", UUID))
    guest = started.guest()
    assert ("g,1", UUID, started.pid, "qemu", True, None, None) == (
        guest.name,
        guest.uuid,
        guest.pid,
        guest.vmm,
        guest.verified,
        guest.why,
        guest.doubt,
    )
    assert (started.accel == "kvm") is guest.kvm
    assert [("vcpu", n) for n in range(4)] == _roles(guest)[:4]
    assert ("iothread", 0) in _roles(guest)
    emulator = guest.by_role(Role.EMULATOR)
    assert started.pid == emulator[0].tid
    assert ["IO io1"] == [thread.name for thread in guest.by_role(Role.IOTHREAD)]
    for thread in guest.threads:
        assert CpuSet(os.sched_getaffinity(thread.tid)) == thread.mask
    assert {int(tid) for tid in os.listdir(f"/proc/{started.pid}/task")} == {t.tid for t in guest.threads}


@needs_qemu
def test_qemu_with_one_thread_for_all_vcpus(qemu: Callable[..., Qemu]) -> None:
    """Single-threaded TCG has one vCPU thread, which is no particular vCPU's."""
    guest = qemu("s,debug-threads=on", accel="tcg,thread=single").guest()
    assert [None] == [thread.index for thread in guest.vcpus]
    assert guest.doubt is None


@needs_qemu
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_qemu_without_thread_names(qemu: Callable[..., Qemu], accel: str) -> None:
    """Without debug-threads the guest is proved, but its roles are in doubt, and why is said."""
    guest = qemu("off,debug-threads=off", accel=accel).guest()
    assert guest.verified
    assert guest.doubt is not None
    assert "debug-threads=on" in guest.doubt
    assert () == guest.vcpus


def test_three_microvms_at_once() -> None:
    """Microvms on KVM prove themselves by their VM; where KVM is refused they are found when vouched for."""
    vms = [Microvm.start(f"m{n}", vcpus=n, mode=Mode.HALT, iothreads=["d0"]) for n in (1, 2, 3)]
    try:
        found = find_guests(vmms=vouch(vms))
        own = [guest for guest in found if guest.pid in {vm.pid for vm in vms}]
        assert [("m1", 1), ("m2", 2), ("m3", 3)] == [(guest.name, len(guest.vcpus)) for guest in own]
        for guest, vm in zip(own, vms, strict=True):
            assert guest.verified
            assert vm.kvm == guest.kvm
            assert vm.vcpu_tids == tuple(thread.tid for thread in guest.vcpus)
            assert list(vm.iothread_tids.values()) == [t.tid for t in guest.by_role(Role.IOTHREAD)]
            assert ("kvm" if vm.kvm else NOT_KVM) == guest.vmm
    finally:
        for vm in vms:
            vm.close()
    assert not find_guests(pids=[vm.pid for vm in vms])


def test_plain_threads_are_guests_only_when_vouched_for() -> None:
    """Threads that stand in for vCPUs are labelled not KVM, and are no guest to anybody else."""
    with Microvm.start("standin", vcpus=2, mode=Mode.HALT, kvm="/nonexistent") as vm:
        (guest,) = find_guests(vmms=vouch([vm]), pids=[vm.pid])
        assert (NOT_KVM, False, True, 2) == (guest.vmm, guest.kvm, guest.verified, len(guest.vcpus))
        assert () == find_guests(pids=[vm.pid])
        wrong = [
            type(vmm)(
                name="x",
                executables=(),
                vcpu="x",
                vouched=frozenset((pid, start + 1) for pid, start in vmm.vouched),
            )
            for vmm in vouch([vm])
        ]
        assert () == find_guests(vmms=wrong, pids=[vm.pid])


IMPOSTOR = """
import ctypes, sys, threading, time
prctl = ctypes.CDLL(None).prctl
def named(name, stay):
    prctl(15, name.encode(), 0, 0, 0)
    stay and time.sleep(60)
for n in range(2):
    threading.Thread(target=named, args=(f"CPU {n}/KVM", True), daemon=True).start()
named("qemu-system-x86", False)
print("up", flush=True)
time.sleep(60)
"""


@contextmanager
def impostor(executable: str = sys.executable, *, user: int | None = None) -> Iterator[int]:
    """A process of ours that calls itself and its threads what QEMU calls its own."""
    process = subprocess.Popen(
        [executable, "-c", IMPOSTOR, "-name", "g,debug-threads=on"],
        stdout=subprocess.PIPE,
        user=user,
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
    )
    try:
        assert process.stdout is not None
        assert b"up\n" == process.stdout.readline()
        time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_only_calls_itself_qemu() -> None:
    """Names of process and threads prove nothing: listed with what it really is, and not verified."""
    with impostor() as pid:
        (guest,) = find_guests(pids=[pid])
    assert not guest.verified
    assert not guest.kvm
    assert "calls itself qemu-system-x86" in (guest.why or "")
    assert "python" in (guest.why or "")


def test_an_executable_that_is_not_roots(tmp_path: Path) -> None:
    """An executable with a VMM's name in a folder that is not root's alone proves nothing, whoever owns the file."""
    fake = tmp_path / "qemu-system-x86_64"
    shutil.copy("/usr/bin/sleep", fake)
    tmp_path.chmod(0o777)
    process = subprocess.Popen([fake, "60"])
    try:
        (guest,) = find_guests(pids=[process.pid])
        assert not guest.verified
        assert str(fake) in (guest.why or "")
        fake.unlink()
        (guest,) = find_guests(pids=[process.pid])
        assert not guest.verified
        assert "(deleted)" in (guest.why or "")
    finally:
        process.kill()
        process.wait()


@needs_root
def test_an_executable_that_another_user_owns() -> None:
    """A VMM's name on another user's file proves nothing, wherever it lies."""
    folder = Path("/var/lib/kvmaff-test")
    folder.mkdir(mode=0o755)
    fake = folder / "qemu-system-x86_64"
    process = None
    try:
        shutil.copy("/usr/bin/sleep", fake)
        os.chown(fake, 65534, 65534)
        process = subprocess.Popen([fake, "60"])
        (guest,) = find_guests(pids=[process.pid])
        assert not guest.verified
        assert "belongs to user 65534" in (guest.why or "")
        os.chown(fake, 0, 0)
        fake.chmod(0o777)
        (guest,) = find_guests(pids=[process.pid])
        assert "may be written by others" in (guest.why or "")
        fake.chmod(0o755)
        (guest,) = find_guests(pids=[process.pid])
        assert guest.verified
        fake.unlink()
        (guest,) = find_guests(pids=[process.pid])
        assert guest.verified  # as after an upgrade
    finally:
        if process:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


@needs_root
@needs_qemu
def test_a_vmm_that_was_upgraded_meanwhile() -> None:
    """An executable without a name left, as after an upgrade, still proves the guest."""
    folder = Path("/var/lib/kvmaff-test-upgrade")
    folder.mkdir(mode=0o755)
    copy = folder / QEMU
    shutil.copy(f"/usr/bin/{QEMU}", copy)
    process = subprocess.Popen(
        [
            *(copy, "-accel", "tcg", "-S", "-nodefaults", "-display", "none", "-m", "16"),
            *("-L", "/usr/share/qemu", "-L", "/usr/share/seabios", "-name", "up,debug-threads=on"),
        ],
        env={
            **os.environ,
            "QEMU_MODULE_DIR": str(next(Path("/usr/lib").glob("*/qemu/accel-*.so"), Path()).parent),
        },
    )
    try:
        copy.unlink()
        deadline = time.monotonic() + 20
        guest = None
        while time.monotonic() < deadline and not (guest and guest.vcpus):
            (guest,) = find_guests(pids=[process.pid])
        assert guest is not None
        assert guest.verified
        assert "(deleted)" in os.readlink(f"/proc/{process.pid}/exe")
        assert 1 == len(guest.vcpus)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@needs_root
def test_a_path_of_another_mount_namespace(tmp_path: Path) -> None:
    """A bind mount in a user's own mount namespace can show any path; it does not lead there from here."""
    target = Path("/usr/bin/qemu-system-x86_64" if shutil.which(QEMU) else "/usr/bin/true")
    if target.name == "true":
        pytest.skip(f"{QEMU} is not installed")
    script = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        f"assert libc.mount(b'/usr/bin/sleep', {os.fsencode(target)!r}, None, 0x1000, None) == 0\n"
        f"os.execv({str(target)!r}, ['qemu-system-x86_64', '60'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{process.pid}/exe") != str(target):
            assert time.monotonic() < deadline
        (guest,) = find_guests(pids=[process.pid])
        assert not guest.verified
        assert "another file" in (guest.why or "")
    finally:
        process.kill()
        process.wait()


@needs_qemu
@needs_root
def test_what_an_unprivileged_user_sees(qemu: Callable[..., Qemu]) -> None:
    """Another user sees root's guests with threads, roles and masks, unverified, and is told why."""
    started = qemu("seen,debug-threads=on", accel="tcg")
    (guest,) = as_nobody(f"guests_data(find_guests(pids=[{started.pid}]))")
    assert ("seen", False, None) == (guest["name"], guest["verified"], guest["kvm"])
    assert "try as root" in guest["why"]
    assert 4 == sum(thread["role"] == "vcpu" for thread in guest["threads"])
    assert all(thread["mask"] for thread in guest["threads"])


@needs_root
def test_a_deleted_file_of_another_mount_namespace() -> None:
    """A deleted executable of a mount namespace of its own proves nothing, whatever path it shows."""
    script = (
        "import ctypes, os, shutil, sys\nlibc = ctypes.CDLL(None)\nassert libc.unshare(0x20000) == 0\n"
        "assert libc.mount(b'none', b'/', None, 0x44000, None) == 0\n"
        "assert libc.mount(b'none', b'/usr/local/bin', b'tmpfs', 0, b'mode=755') == 0\n"
        "p = '/usr/local/bin/qemu-system-x86_64'\nshutil.copy('/usr/bin/sleep', p)\nfd = os.open(p, os.O_RDONLY)\n"
        "os.unlink(p)\nos.execve(fd, ['qemu-system-x86_64', '60'], dict(os.environ))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 10
        while not os.readlink(f"/proc/{process.pid}/exe").endswith("qemu-system-x86_64 (deleted)"):
            assert time.monotonic() < deadline
        (guest,) = find_guests(pids=[process.pid])
        assert not guest.verified
        assert "another mount namespace" in (guest.why or "")
    finally:
        process.kill()
        process.wait()


def test_absurd_numbers_are_no_vcpus() -> None:
    """A process that claims absurd vCPU numbers breaks no table."""
    code = IMPOSTOR.replace('f"CPU {n}/KVM"', '["CPU 99999/KVM", "CPU 9999/KVM"][n]')
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        (guest,) = find_guests(pids=[process.pid])
        assert [9999] == [thread.index for thread in guest.vcpus]
        done = subprocess.run(
            [sys.executable, "-m", "kvmaff", "guests"], capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode
        assert "vcpu 9999" in done.stdout
    finally:
        process.kill()
        process.communicate()


def test_hostile_names_are_made_printable(tmp_path: Path) -> None:
    """Whatever a process of a recorded machine calls itself, it comes as text; garbage breaks nothing."""
    task = tmp_path / "proc/5/task/5"
    task.mkdir(parents=True)
    (tmp_path / "proc/5/comm").write_bytes(b"qemu-system-x86\n")
    os.symlink("/usr/bin/qemu-system-x86_64", tmp_path / "proc/5/exe")
    tail = " ".join(str(n) for n in range(1, 50))
    (task / "stat").write_bytes(b"5 (qemu-system-x86) S " + tail.encode())
    (tmp_path / "proc/5/cmdline").write_bytes(
        b"qemu\0-name\0guest=\x1b[31mred\xff,debug-threads=on\0-uuid\0nonsense\0"
    )
    (guest,) = find_guests(str(tmp_path))
    assert ("?[31mred?", None, False) == (guest.name, guest.uuid, guest.verified)
    (tmp_path / "proc/5/cmdline").write_bytes(b"\0" * 300_000)
    (guest,) = find_guests(str(tmp_path))
    assert "pid:5" == guest.name
