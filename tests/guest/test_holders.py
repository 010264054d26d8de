"""Who holds a VM and which thread runs which vCPU, by the kernel's word: real KVM, debugfs mounted or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.discover import Discovery
from kvmaff.guest.guest import Guest, Source
from kvmaff.guest.holders import How
from kvmaff.kernel.scan import Proc, Scanner
from kvmaff.testing.microvm import Microvm, Mode

from ..conftest import needs_qemu, needs_root

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")

# What a script says of guests, without those of others
_SAY = """
import json, os, socket, subprocess, sys, time
from pathlib import Path
from kvmaff.guest.discover import Discovery
from tests.conftest import qmp, start_qemu

def said(discovery, pids):
    found = {guest.pid: guest for guest in discovery.find(pids)}
    return [
        {
            "kvm": guest.kvm,
            "verified": guest.verified,
            "doubt": guest.doubt,
            "vcpus": [[thread.index, thread.tid, thread.source] for thread in guest.vcpus],
            "others": sorted({thread.role for thread in guest.threads} - {"vcpu"}),
        }
        for guest in map(found.get, pids)
        if guest
    ]
"""


def _apart(script: str, *words: str, kind: str = "debugfs", before: Sequence[str] = ()) -> Any:
    """Run a script where debugfs, or what only is in its place, is mounted; nobody else sees that."""
    mount = f'mount -t {kind} none /sys/kernel/debug && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *before, sys.executable, "-c", _SAY + script, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


_QEMU = """
folder = Path(sys.argv[1])
words = ("-qmp", f"unix:{folder}/q,server=on,wait=off", "-smp", sys.argv[2])
started = start_qemu(f"x,debug-threads={sys.argv[3]}", vcpus=int(sys.argv[4]), extra=words)
try:
    with Discovery(stats=True) as discovery, socket.socket(socket.AF_UNIX) as holder:
        with Discovery(stats=True) as other:
            paused = said(other, [started.pid])  # over QMP, where there are no names
        time.sleep(0.2)
        holder.connect(str(folder / "q"))
        held = said(discovery, [started.pid])
        holder.close()
        qmp(folder / "q", {"execute": "cont"})
        deadline = time.monotonic() + 20
        while True:
            running = said(discovery, [started.pid])
            if int(sys.argv[4]) == sum(source == "debugfs" for _, _, source in running[0]["vcpus"]):
                break
            assert time.monotonic() < deadline, running
            time.sleep(0.02)
        before = discovery.find([started.pid])[0]
        while (again := discovery.find([started.pid])[0]) is not before:  # names settle
            assert time.monotonic() < deadline
            before = again
        vcpus = qmp(folder / "q", {"execute": "query-cpus-fast"})[0]
        truth = [[one["cpu-index"], one["thread-id"]] for one in vcpus]
        print(json.dumps([discovery.holders, paused, held, running, truth, started.accel]))
finally:
    started.process.kill()
"""


@needs_root
@needs_qemu
@needs_kvm
@pytest.mark.parametrize("names", ["on", "off"])
@pytest.mark.parametrize("smp", ["3", "6,sockets=2,cores=3,threads=1"])
def test_vcpus_as_qemu_says(tmp_path: Path, names: str, smp: str) -> None:
    """With and without thread names, APIC ids with gaps too, each vCPU's thread is the one that QMP tells."""
    count = int(smp[0])
    how, paused, held, running, truth, accel = _apart(_QEMU, str(tmp_path), smp, names, str(count))
    assert "kvm" == accel
    assert How.DEBUGFS == how
    (now,) = running
    assert (True, True, None) == (now["kvm"], now["verified"], now["doubt"])
    assert truth == [[index, tid] for index, tid, _ in now["vcpus"]]
    assert list(range(count)) == [index for index, _, _ in now["vcpus"]]
    # before a vCPU has run the kernel knows no thread; then names tell, or QMP, while nobody else holds that
    (then,) = paused
    assert [[n, tid, "name" if names == "on" else "qmp"] for n, tid in truth] == then["vcpus"]
    assert then["doubt"] is None
    (alone,) = held
    if names == "on":
        assert then == alone
    else:
        assert [] == alone["vcpus"]
        assert "as root" in alone["doubt"]
        assert "somebody else" in alone["doubt"]


_PASSED_ON = """
import fcntl
VM, LINK = 0xAE01, "anon_inode:kvm-vm"
script = '''
import fcntl, os, sys, time
vm = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE01, 0)
if sys.argv[1] == "moved":
    os.dup2(vm, 200)
    os.close(vm)
print("up", flush=True)
time.sleep(60)
'''
started = subprocess.Popen([sys.executable, "-c", script, sys.argv[1]], stdout=subprocess.PIPE)
try:
    started.stdout.readline()
    with Discovery() as discovery:
        found = said(discovery, [started.pid])
        print(json.dumps([discovery.holders, found[0]["kvm"], found[0]["verified"]]))
finally:
    started.kill()
"""


@needs_root
@needs_kvm
@pytest.mark.parametrize(
    ("how", "kind", "moved", "before"),
    [
        (How.DEBUGFS, "debugfs", "kept", ()),
        (How.DEBUGFS, "tmpfs", "kept", ()),  # it is opened without being mounted
        (How.DESCRIPTORS, "debugfs", "moved", ()),
        (How.DESCRIPTORS, "tmpfs", "kept", ("setpriv", "--bounding-set", "-sys_admin")),
    ],
)
def test_a_holder_is_found(how: How, kind: str, moved: str, before: tuple[str, ...]) -> None:
    """Whoever holds a VM is found: where debugfs leaves its holder open, or cannot be had, by reading descriptors."""
    assert [how, True, True] == _apart(_PASSED_ON, moved, kind=kind, before=before)


@needs_root
@needs_kvm
def test_one_vm_of_unknown_holder_spoils_no_other() -> None:
    """Whoever moves his VM's descriptor makes us read descriptors; the other VMs' vCPUs are known all the same."""
    script = (
        "import fcntl, os, sys\n"
        "vm = fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE01, 0)\n"
        "os.dup2(vm, 200)\nos.close(vm)\nprint('up', flush=True)\nsys.stdin.readline()\n"
    )
    with (
        Microvm.start("m", vcpus=2, mode=Mode.HALT) as vm,
        Discovery(stats=True) as discovery,
    ):
        if not vm.kvm:
            pytest.skip("/dev/kvm is refused here")
        before = discovery.find([vm.pid])[0]
        if discovery.holders is not How.DEBUGFS:
            pytest.skip("debugfs cannot be had")
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout
                process.stdout.readline()
                with Discovery(stats=True) as other:
                    found = [other.find([vm.pid])[0], discovery.find([vm.pid])[0]]
                    assert [How.DESCRIPTORS] * 2 == [other.holders, discovery.holders]
            finally:
                process.kill()
        for guest in (before, *found):
            assert [(tid, Source.DEBUGFS) for tid in vm.vcpu_tids] == [
                (one.tid, one.source) for one in guest.vcpus
            ]


_NO_MAIN = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *holder(void *kvm) {
    ioctl(*(int *)kvm, 0xAE01, 0);
    usleep(100000);
    puts("up");
    fflush(stdout);
    pause();
    return NULL;
}
int main(void) {
    static int kvm;
    pthread_t thread;
    kvm = open("/dev/kvm", O_RDWR);
    pthread_create(&thread, NULL, holder, &kvm);
    syscall(SYS_exit, 0);
}
"""


@needs_root
@needs_kvm
def test_a_guest_whose_main_thread_has_ended(tmp_path: Path) -> None:
    """It shows neither executable nor descriptors; the kernel's list has it."""
    (tmp_path / "m.c").write_text(_NO_MAIN)
    subprocess.run(["cc", tmp_path / "m.c", "-o", tmp_path / "m", "-pthread"], check=True)
    with (
        subprocess.Popen([tmp_path / "m"], stdout=subprocess.PIPE) as process,
        Discovery(stats=True) as discovery,
    ):
        try:
            assert process.stdout
            process.stdout.readline()
            found = discovery.find([process.pid])
            if discovery.holders is not How.DEBUGFS:
                pytest.skip("debugfs cannot be had")
            assert [(process.pid, True, True)] == [(guest.pid, guest.kvm, guest.verified) for guest in found]
            assert process.pid not in {thread.tid for thread in found[0].threads}
            assert 0 < found[0].start <= found[0].threads[0].start
        finally:
            process.kill()


@needs_kvm
def test_a_process_becomes_a_guest_and_ceases_to_be_one() -> None:
    """What was no guest a moment ago is found when it opens a VM: nothing is remembered against a process."""
    script = (
        "import fcntl, os, sys\n"
        "sys.stdin.readline()\n"
        "kvm = os.open('/dev/kvm', os.O_RDWR)\n"
        "vm = fcntl.ioctl(kvm, 0xAE01, 0)\n"
        "print('up', flush=True)\nsys.stdin.readline()\nos.close(vm)\nprint('down', flush=True)\nsys.stdin.readline()\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        Discovery() as discovery,
    ):
        assert process.stdin
        assert process.stdout
        try:
            seen = []
            for _ in range(3):
                seen.append(
                    (
                        [guest.kvm for guest in discovery.find([process.pid])],
                        process.pid in discovery.look().evidence,
                    )
                )
                process.stdin.write("\n")
                process.stdin.flush()
                process.stdout.readline()
            assert [([], False), ([True], True), ([], False)] == seen
        finally:
            process.kill()


@needs_root
@needs_qemu
def test_another_program_in_the_same_process() -> None:
    """exec(2) keeps numbers and inode numbers: names are read anew all the same."""
    script = (
        "import ctypes, os, sys\n"
        "ctypes.CDLL(None).prctl(15, b'CPU 0/KVM', 0, 0, 0)\n"
        "print('up', flush=True)\nsys.stdin.readline()\n"
        "os.execvp('qemu-system-x86_64', 'qemu-system-x86_64 -S -accel tcg -nodefaults -display none'.split())\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        Discovery() as discovery,
    ):
        assert process.stdin
        assert process.stdout
        try:
            process.stdout.readline()
            assert () == discovery.find([process.pid])
            process.stdin.write("\n")
            process.stdin.flush()
            while not (found := discovery.find([process.pid])):
                pass
            assert "CPU 0/KVM" not in {thread.name for guest in found for thread in guest.threads}
        finally:
            process.kill()


def test_the_same_program_again() -> None:
    """The main thread's name is read each time: exec(2) changes it even where the program stays the same."""
    script = (
        "import ctypes, os, sys\n"
        "ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)\n"
        "print('up', flush=True)\nsys.stdin.readline()\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], 'later', ''])\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", script, "CPU 0/KVM", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        Proc() as proc,
    ):
        assert process.stdin
        assert process.stdout
        scanner = Scanner(proc)
        names = []
        try:
            for _ in range(2):
                process.stdout.readline()
                for _ in range(3):  # until it is settled
                    found = scanner.scan([process.pid])[0].name
                    time.sleep(0.03)
                names.append(found)
                process.stdin.write("\n")
                process.stdin.flush()
            assert ["CPU 0/KVM", "later"] == names
        finally:
            process.kill()


def test_only_what_changed_is_made_anew() -> None:
    """A guest of which nothing has changed is the same value; one with another mask is not."""
    with Microvm.start("m", vcpus=2, mode=Mode.HALT) as vm, Discovery(stats=True) as discovery:
        if not vm.kvm:
            pytest.skip("/dev/kvm is refused here")

        def same_again() -> Guest:
            before, after = None, discovery.find([vm.pid])[0]
            while before is not after:  # names settle, and the last CPU is told once
                before, after = after, discovery.find([vm.pid])[0]
            return after

        before = same_again()
        cpu = min(os.sched_getaffinity(0))
        os.sched_setaffinity(vm.vcpu_tids[0], {cpu})
        after = discovery.find([vm.pid])[0]
        assert CpuSet([cpu]) == after.vcpus[0].mask
        assert (before == after) == (len(os.sched_getaffinity(0)) == 1)
        assert before.vcpus[1] == after.vcpus[1]
        assert after is same_again()
