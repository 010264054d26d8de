"""
How each VMM is recognised and names its threads.

Rule: a name is a claim. It says what a thread of a proved guest is for; it never makes a process a guest.

Sources of the names: QEMU softmmu/cpus.c and accel/*/*-accel-ops.c ("CPU %d/KVM"), iothread.c ("IO %s");
Firecracker src/vmm vstate/vcpu.rs; cloud-hypervisor vmm/src/cpu.rs; crosvm src/crosvm/sys/linux/vcpu.rs;
kvmtool kvm-cpu.c. QEMU names threads only with ``-name …,debug-threads=on``. Numbers have at most four digits: no
VMM has 10,000 vCPUs.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import attrs

from kvmaff.kernel.text import printable

__all__ = ["BUILTIN", "QEMU", "Vmm", "cut_iothread", "vmm_of_executable"]

_COMM = 15
"""Bytes of a thread's name (TASK_COMM_LEN)."""


@attrs.frozen(kw_only=True)
class Vmm:
    """
    One kind of VMM.

    Attributes:
        name: What it is called in answers.
        executables: Patterns (fnmatch) of its executable's file name.
        vcpu: Pattern of a vCPU thread's whole name; its group is the vCPU's number, or does not take part
            where one thread runs all vCPUs.
        iothread: The same for IOThreads; its group is the IOThread's name.
        name_options: Options of its command line that name the guest.
        vouched: Processes, as (pid, start), that whoever registers this VMM started itself.
    """

    name: str
    executables: tuple[str, ...]
    vcpu: str
    iothread: str | None = None
    name_options: tuple[str, ...] = ()
    vouched: frozenset[tuple[int, int]] = frozenset()

    def vcpu_index(self, comm: str) -> int | None:
        """
        Which vCPU a thread name claims.

        Args:
            comm: The name.

        Returns:
            The number; -1 where the thread runs all vCPUs; None where it claims none.
        """
        match = re.fullmatch(self.vcpu, comm)
        if match is None:
            return None
        if match[1] is None:
            return -1
        # a plug-in's pattern may let anything through
        return int(match[1]) if re.fullmatch("[0-9]{1,4}", match[1]) else None

    def iothread_name(self, comm: str) -> str | None:
        """
        Which IOThread a thread name claims.

        Args:
            comm: The name.

        Returns:
            The IOThread's name, or None where it claims to be none.
        """
        match = re.fullmatch(self.iothread, comm) if self.iothread else None
        return match[1] if match else None


QEMU = Vmm(
    name="qemu",
    executables=("qemu-system-*", "qemu-kvm"),
    vcpu=r"CPU ([0-9]{1,4})/(?:KVM|TCG|HVF|NVMM)|ALL CPUs/TCG",
    # "IO mon_iothread" is the monitor's own thread, no user's IOThread
    iothread=r"IO (?!mon_iothread$)(.+)",
    name_options=("-name", "--name"),
)
"""QEMU, and everything that names its threads as QEMU does."""

BUILTIN: tuple[Vmm, ...] = (
    QEMU,
    Vmm(
        name="firecracker",
        executables=("firecracker", "firecracker-*"),
        vcpu=r"fc_vcpu ?([0-9]{1,4})",
        name_options=("--id",),
    ),
    Vmm(name="cloud-hypervisor", executables=("cloud-hypervisor",), vcpu=r"vcpu([0-9]{1,4})"),
    Vmm(
        name="crosvm",
        executables=("crosvm",),
        vcpu=r"crosvm_vcpu([0-9]{1,4})",
        name_options=("--name",),
    ),
    Vmm(
        name="kvmtool",
        executables=("lkvm", "lkvm-static", "kvmtool"),
        vcpu=r"kvm-vcpu-([0-9]{1,4})",
        name_options=("--name", "-n"),
    ),
)
"""The VMMs known from the start."""


def cut_iothread(name: str) -> str:
    """
    Cut an IOThread's id as its thread's name shows it.

    Args:
        name: The id.

    Returns:
        What is left of it; the whole of one of at most 12 bytes.
    """
    return printable(f"IO {name}".encode(errors="replace")[:_COMM]).removeprefix("IO ")


def vmm_of_executable(name: str, vmms: Sequence[Vmm]) -> Vmm | None:
    """
    Which VMM an executable's file name belongs to.

    Args:
        name: The file name, without folders; or a comm, which is that name cut to 15 bytes.
        vmms: The VMMs to choose from; the first that fits is taken.

    Returns:
        The VMM, or None.
    """
    for vmm in vmms:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in vmm.executables):
            return vmm
    return None
