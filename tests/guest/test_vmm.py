"""Thread names and what they claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.guest.guest import Role
from kvmaff.guest.vmm import BUILTIN, QEMU, roles_of, vmm_of_executable
from kvmaff.kernel.scan import Task

VMMS = {vmm.name: vmm for vmm in BUILTIN}


def _task(tid: int, name: str, flags: int = 0) -> Task:
    return Task(pid=10, tid=tid, ino=1, start=1, name=name, flags=flags, state="S", cpu=0, error=0)


@pytest.mark.parametrize(
    ("vmm", "comm", "index"),
    [
        ("qemu", "CPU 0/KVM", 0),
        ("qemu", "CPU 4095/TCG", 4095),
        ("qemu", "ALL CPUs/TCG", -1),
        ("qemu", "CPU 0/KVMx", None),
        ("qemu", "CPU x/KVM", None),
        ("qemu", "qemu-system-x86", None),
        ("firecracker", "fc_vcpu 3", 3),
        ("firecracker", "fc_vcpu3", 3),
        ("cloud-hypervisor", "vcpu12", 12),
        ("crosvm", "crosvm_vcpu1", 1),
        ("crosvm", "crosvm_vcpu_stall_monitor", None),
        ("kvmtool", "kvm-vcpu-7", 7),
    ],
)
def test_vcpu_names(vmm: str, comm: str, index: int | None) -> None:
    """Each VMM's vCPU threads are known by their whole name."""
    assert index == VMMS[vmm].vcpu_index(comm)


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        ("IO disk0", "disk0"),
        ("IO mon_iothread", None),
        ("IO mon_iothread2", "mon_iothread2"),
        ("IO ", None),
        ("io", None),
    ],
)
def test_iothread_names(comm: str, name: str | None) -> None:
    """QEMU's IOThreads are known by name; its monitor's thread is none."""
    assert name == QEMU.iothread_name(comm)


def test_roles() -> None:
    """vCPUs and IOThreads by name, kernel workers by flag whatever they are called, all else is the emulator."""
    tasks = [
        _task(10, "CPU 9/KVM", flags=0x4000),  # the main thread is never a worker
        _task(11, "qemu-system-x86"),
        _task(12, "CPU 1/KVM"),
        _task(13, "IO b"),
        _task(14, "IO a"),
        _task(15, "vhost-10", flags=0x4000),
        _task(16, "CPU 0/KVM", flags=0x4000),
        _task(17, "iou-wrk-10", flags=0x10),
        _task(18, "ALL CPUs/TCG"),
    ]
    expected = [
        (Role.VCPU, 9),
        (Role.EMULATOR, None),
        (Role.VCPU, 1),
        (Role.IOTHREAD, 0),
        (Role.IOTHREAD, 1),
        (Role.VHOST, None),
        (Role.OTHER, None),
        (Role.OTHER, None),
        (Role.VCPU, None),
    ]
    assert expected == roles_of(QEMU, tasks)


@pytest.mark.parametrize(
    ("name", "vmm"),
    [
        ("qemu-system-x86_64", "qemu"),
        ("qemu-system-x86", "qemu"),  # cut to a comm's 15 bytes
        ("qemu-kvm", "qemu"),
        ("qemu-img", None),
        ("qemu-x86_64", None),
        ("firecracker", "firecracker"),
        ("lkvm", "kvmtool"),
        ("python3.11", None),
        ("", None),
    ],
)
def test_executables(name: str, vmm: str | None) -> None:
    """A VMM is known by its executable's file name; its tools are not VMMs."""
    found = vmm_of_executable(name, BUILTIN)
    assert vmm == (found.name if found else None)


@given(hs.text(max_size=64), hs.integers(0, 1 << 32))
def test_any_name_has_a_role(name: str, flags: int) -> None:
    """No thread name breaks role finding."""
    for vmm in BUILTIN:
        ((role, index),) = roles_of(vmm, [_task(11, name, flags)])
        assert role in Role
        assert index is None or 0 <= index < 100_000
