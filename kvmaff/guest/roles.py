"""
Which thread of a guest is for what, and who says so.

The kernel's own word first: debugfs names the thread of each vCPU that has run, and a flag tells its workers. Then
names, which are claims; and where a VMM's monitor was asked, its word, which must contradict neither. KVM's vcpu_id is
no vCPU number (on x86 it is the APIC id, which leaves numbers out), but goes up with it: the number comes from the
thread's name, else from the place among all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import attrs

from kvmaff.guest.askmonitors import Said
from kvmaff.guest.guest import Role, Source, number_list
from kvmaff.guest.vmm import Vmm, cut_iothread
from kvmaff.kernel.tasks import PF_IO_WORKER, PF_USER_WORKER, Task

__all__ = ["DISAGREE", "Told", "clash_of", "doubt_of", "roles_by_monitor", "roles_of"]

_ADVICE = (
    "start it with -name …,debug-threads=on or with -qmp unix:PATH,server=on,wait=off, or (under KVM) ask as root, to "
    "whom debugfs tells them"
)
_SHOWN = 4
DISAGREE = "its sources disagree"
"""How a doubt begins where a monitor contradicts names or the kernel."""


@attrs.frozen(kw_only=True)
class Told:
    """
    What a thread is for.

    Attributes:
        role: Its role.
        index: Which vCPU or IOThread it is, or None.
        source: Who says so; None for the emulator, which is what nobody claims.
        iothread: An IOThread's id.
    """

    role: Role
    index: int | None = None
    source: Source | None = None
    iothread: str | None = None


def roles_of(vmm: Vmm, tasks: Sequence[Task], vcpus: Mapping[int, int] | None = None) -> list[Told]:
    """
    What each thread of a process is for.

    Args:
        vmm: Its VMM.
        tasks: All its threads.
        vcpus: The kernel's list: thread number by vcpu_id, 0 for a vCPU that never ran; None where it does not tell.

    Returns:
        For each thread its role, and its number where it has one; IOThreads are numbered in order of thread number.
    """
    here = {task.tid for task in tasks}
    # QEMU keeps a vCPU that was unplugged, and the kernel the number of its thread, which has ended
    listed = {tid: place for place, (_, tid) in enumerate(sorted((vcpus or {}).items())) if tid in here}
    claimed = {task.tid: vmm.vcpu_index(task.name) for task in tasks if not _worker(task)}
    # names count where all that the kernel lists have one; a mixture would give a number twice
    named = all(claimed.get(tid) is not None for tid in listed)
    silent = bool(vcpus) and 0 not in (vcpus or {}).values()
    told: list[Told] = []
    iothreads = 0
    for task in tasks:
        index = claimed.get(task.tid)
        if _worker(task):
            # vhost workers moved from kthreadd into the VMM's process with Linux 6.4
            role = Role.VHOST if task.name.startswith("vhost-") else Role.OTHER
            told.append(Told(role=role, source=Source.KERNEL))
        elif task.tid in listed:
            number = index if named else listed[task.tid]
            told.append(Told(role=Role.VCPU, index=_number(number), source=Source.DEBUGFS))
        elif index is not None and not silent:
            told.append(Told(role=Role.VCPU, index=_number(index), source=Source.NAME))
        elif (name := vmm.iothread_name(task.name)) is not None:
            told.append(Told(role=Role.IOTHREAD, index=iothreads, source=Source.NAME, iothread=name))
            iothreads += 1
        else:
            told.append(Told(role=Role.EMULATOR))
    return told


def doubt_of(
    vmm: Vmm,
    tasks: Sequence[Task],
    told: Sequence[Told],
    vcpus: Mapping[int, int] | None,
    *,
    held: Callable[[], AbstractSet[int]],
    most: int | None,
) -> str | None:
    """
    Say why roles are not certain.

    Args:
        vmm: The VMM.
        tasks: All threads of the process.
        told: What each is for.
        vcpus: The kernel's list, as for :func:`roles_of`.
        held: Asked, where names alone speak, for which vcpu_ids the process holds descriptors.
        most: How many vCPUs the guest may have, or None.

    Returns:
        The reason in a sentence; None where the roles are certain.
    """
    indices = [one.index for one in told if one.role is Role.VCPU]
    if len(set(indices)) != len(indices):
        return "several of its threads claim to be the same vCPU"
    if vcpus and 0 not in vcpus.values():
        return _against_kernel(vmm, tasks, told, vcpus, most)
    main = next((task.name for task in tasks if task.tid == task.pid), "")
    unnamed = sum(
        one.role is Role.EMULATOR and task.name == main and task.tid != task.pid
        for task, one in zip(tasks, told, strict=True)
    )
    if not unnamed:
        return None
    if not indices:
        return f"none of its threads is named as a vCPU, so they cannot be told apart; {_ADVICE}"
    ids = vcpus.keys() if vcpus else held()
    lacking = len(ids) - len(indices)
    # QEMU keeps the descriptor of an unplugged vCPU; then no unnamed thread is left over
    if 0 < lacking <= unnamed:
        missing = sorted(set(range(len(ids))) - {index for index in indices if index is not None})[:lacking]
        return f"no thread is named as vCPU {number_list(missing)}, so it cannot be told from the emulator's; {_ADVICE}"
    return None


def roles_by_monitor(tasks: Sequence[Task], said: Said) -> list[Told]:
    """
    What each thread of a process is for by its monitor's word; of its own workers the kernel's.

    Args:
        tasks: All its threads.
        said: What the monitor said.

    Returns:
        For each thread its role, and its number where it has one; IOThreads are numbered in order of thread number.
    """
    number = {tid: index for index, tid in said.vcpus.items()}
    single = len(number) < len(said.vcpus)
    told: list[Told] = []
    iothreads = 0
    for task in tasks:
        name = said.iothreads.get(task.tid)
        if _worker(task):
            role = Role.VHOST if task.name.startswith("vhost-") else Role.OTHER
            told.append(Told(role=role, source=Source.KERNEL))
        elif task.tid in number:
            told.append(Told(role=Role.VCPU, index=None if single else number[task.tid], source=Source.QMP))
        elif name is not None:
            told.append(Told(role=Role.IOTHREAD, index=iothreads, source=Source.QMP, iothread=name))
            iothreads += 1
        else:
            told.append(Told(role=Role.EMULATOR))
    return told


def clash_of(
    tasks: Sequence[Task], told: Sequence[Told], vcpus: Mapping[int, int] | None, said: Said
) -> str | None:
    """
    Say where a monitor contradicts names or the kernel.

    Args:
        tasks: All threads of the process.
        told: What each is for without the monitor's word, as :func:`roles_of` has it.
        vcpus: The kernel's list, as for :func:`roles_of`.
        said: What the monitor said.

    Returns:
        Both words, for each thread of which they differ; None where they agree. A thread that only the monitor knows
        is newer than the others.
    """
    number = {tid: index for index, tid in said.vcpus.items()}
    single = len(number) < len(said.vcpus)
    whole = bool(vcpus) and 0 not in (vcpus or {}).values()
    wrong = []
    for task, one in zip(tasks, told, strict=True):
        if task.tid in number:
            theirs = "a vCPU's" if single else f"vCPU {number[task.tid]}'s"
        elif task.tid in said.iothreads:
            theirs = f"IOThread {said.iothreads[task.tid]}'s"
        else:
            theirs = "no IOThread's" if one.role is Role.IOTHREAD else "no vCPU's"
        by = one.source.value if one.source else "the kernel"
        if one.role is Role.VCPU:
            ours = "a vCPU's" if one.index is None else f"vCPU {one.index}'s"
            if theirs == ours or (one.index is None and task.tid in number):
                continue
        elif one.role in (Role.VHOST, Role.OTHER):
            ours = "a worker of the kernel's"
            if task.tid not in number and task.tid not in said.iothreads:
                continue
        elif one.role is Role.IOTHREAD:
            ours = f"IOThread {one.iothread}'s"
            if task.tid not in number and one.iothread == cut_iothread(said.iothreads.get(task.tid, "")):
                continue
        elif whole and task.tid in number:
            ours, by = "no vCPU's", Source.DEBUGFS.value
        else:
            continue
        wrong.append(f"thread {task.tid} is {ours} by {by}, {theirs} by QMP")
    more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return f"{DISAGREE}: {'; '.join(wrong[:_SHOWN])}{more}" if wrong else None


def _against_kernel(
    vmm: Vmm, tasks: Sequence[Task], told: Sequence[Told], vcpus: Mapping[int, int], most: int | None
) -> str | None:
    """Whether names contradict the kernel's list, or leave open which vCPU is which."""
    listed = set(vcpus.values()) & {task.tid for task in tasks}
    if not listed:
        return "the kernel lists vCPU threads that are not the process's own"
    for task, one in zip(tasks, told, strict=True):
        claim = vmm.vcpu_index(task.name)
        if claim is not None and one.role is not Role.VCPU and not _worker(task):
            return f"thread {task.tid} calls itself {task.name}, but the kernel knows it as no vCPU"
    claims = [vmm.vcpu_index(task.name) for task in tasks if task.tid in listed]
    known = [claim for claim in claims if claim is not None]
    if known and len(known) < len(listed):
        return "some of its vCPU threads are named and some are not, so that their numbers are not certain"
    gaps = sorted(vcpus) != list(range(len(vcpus)))
    if gaps and not known and (most is None or most > len(vcpus)):
        return f"its vCPU threads are known, but not which number each has; {_ADVICE}"
    return None


def _worker(task: Task) -> bool:
    if task.tid == task.pid:
        return False
    # before Linux 5.12 the flag of I/O workers was that of a vCPU in guest mode
    return bool(task.flags & PF_USER_WORKER) or (
        bool(task.flags & PF_IO_WORKER) and task.name.startswith("iou-")
    )


def _number(index: int | None) -> int | None:
    return None if index is None or index < 0 else index
