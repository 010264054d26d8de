"""A running guest as a frozen value."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from kvmaff.cpuset import CpuSet

__all__ = ["Guest", "GuestThread", "Role", "Source", "number_list"]


class Role(enum.StrEnum):
    """What a thread of a guest is for."""

    VCPU = "vcpu"
    """Runs one virtual CPU (or, under single-threaded TCG, all of them)."""
    EMULATOR = "emulator"
    """Every other user thread of the VMM; the main thread is the first."""
    IOTHREAD = "iothread"
    """Runs the I/O of devices that were given to it by name."""
    VHOST = "vhost"
    """The kernel's worker for a vhost device."""
    OTHER = "other"
    """Any other kernel worker inside the process."""


class Source(enum.StrEnum):
    """Who says what a thread is for."""

    DEBUGFS = "debugfs"
    """The kernel's list of a VM's vCPU threads."""
    KERNEL = "kernel"
    """The kernel's flag of its workers."""
    NAME = "name"
    """The thread's name, which is a claim."""
    QMP = "qmp"
    """The VMM itself, over QMP."""


@attrs.frozen(kw_only=True)
class GuestThread:
    """
    One thread of a guest.

    Attributes:
        pid: Its process.
        tid: Its number.
        ino: Inode number of its /proc folder when it was seen.
        start: Its start, clock ticks after boot.
        role: What it is for.
        index: Which vCPU or IOThread it is, from 0; None where that means nothing.
        name: Its comm, made printable.
        mask: The CPUs it may run on, or None where that could not be read.
        cpu: The CPU it ran on last, or None.
        source: Who says what it is for; None for the emulator's, which is what nobody claims.
        iothread: An IOThread's id, cut to 12 bytes where it is known by the thread's name; None for what is none.
    """

    pid: int
    tid: int
    ino: int
    start: int
    role: Role
    index: int | None
    name: str
    mask: CpuSet | None
    cpu: int | None
    source: Source | None = None
    iothread: str | None = None


@attrs.frozen(kw_only=True)
class Guest:
    """
    One running guest.

    Attributes:
        name: What it was called at its start, else ``pid:PID``; printable, chosen by whoever started it.
        uuid: Its UUID in lower case, or None.
        pid: The process.
        start: The process's start, clock ticks after boot.
        seen: Clock ticks after boot, sampled before its threads were looked at.
        vmm: The VMM's name.
        kvm: Whether it holds a KVM VM; None where that may not be looked at.
        verified: Whether it is proved to be a guest.
        why: What proof is missing; None where it is verified.
        doubt: Why its roles are not certain, so that only all its threads can be named; None where they are.
        max_vcpus: How many vCPUs it may have, as its command line says; None where that does not say.
        unanswered: Why its QMP monitor told nothing although it was asked; None where it was not, or told.
        threads: Its threads; vCPUs, emulator, IOThreads, vhost, others, each in order.
    """

    name: str
    uuid: str | None
    pid: int
    start: int
    seen: int
    vmm: str
    kvm: bool | None
    verified: bool
    why: str | None
    doubt: str | None
    threads: tuple[GuestThread, ...]
    max_vcpus: int | None = None
    unanswered: str | None = None

    @property
    def vcpus(self) -> tuple[GuestThread, ...]:
        """Its vCPU threads, in order of vCPU."""
        return self.by_role(Role.VCPU)

    def by_role(self, role: Role) -> tuple[GuestThread, ...]:
        """
        Its threads of one role.

        Args:
            role: The role.

        Returns:
            The threads, in order.
        """
        return tuple(thread for thread in self.threads if thread.role is role)


def number_list(numbers: Iterable[int]) -> str:
    """
    Numbers of vCPUs for people; they are no CPUs, and a guest may claim any.

    Args:
        numbers: The numbers.

    Returns:
        ``0-3,7``; empty for none.
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
