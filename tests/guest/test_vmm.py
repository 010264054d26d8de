"""Thread names and what they claim."""

from __future__ import annotations

import pytest

from kvmaff.guest.vmm import BUILTIN, QEMU, vmm_of_executable

VMMS = {vmm.name: vmm for vmm in BUILTIN}


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
