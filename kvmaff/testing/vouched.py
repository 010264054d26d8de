"""Discovery's word for processes that a demo or a test started itself where KVM is not to be had."""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.guest.vmm import QEMU, Vmm
from kvmaff.kernel.scan import Proc
from kvmaff.testing.microvm import Microvm

__all__ = ["NOT_KVM", "vouch"]

NOT_KVM = "not KVM"
"""The name of the VMM of such a process."""


def vouch(microvms: Iterable[Microvm]) -> tuple[Vmm, ...]:
    """
    Vouch for microvms whose vCPUs are plain threads, so that they are found and may be bound.

    Args:
        microvms: Microvms that this process started; those that run on KVM prove themselves.

    Returns:
        The VMMs to hand to discovery; none where all run on KVM.
    """
    pids = [microvm.pid for microvm in microvms if not microvm.kvm]
    if not pids:
        return ()
    with Proc() as proc:
        starts = frozenset((task.pid, task.start) for task in proc.tasks(pids) if task.tid == task.pid)
    return (
        Vmm(
            name=NOT_KVM,
            executables=(),
            vcpu=QEMU.vcpu,
            iothread=QEMU.iothread,
            name_options=QEMU.name_options,
            vouched=starts,
        ),
    )
