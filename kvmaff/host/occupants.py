"""
What runs on a CPU, and whether an isolated one is as quiet as it was meant to be.

The chapter's ``ps -eLo ruser,pid,ppid,lwp,psr,args | awk '$5==5'`` shows the threads that ran on CPU 5 last. That is
neither those that may run there nor those that must: here a thread counts by its mask, and where it ran last says only
that one of many CPUs was this one.

A kernel thread that belongs to its CPU (cpuhp, migration, ksoftirqd, kworker/N; PF_NO_SETAFFINITY and a mask of that
CPU) is on every CPU and does nothing unless the CPU itself asks for it: Documentation/core-api/kthread.rst,
Documentation/admin-guide/kernel-per-CPU-kthreads.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.host.irqs import Irq, read_irqs
from kvmaff.host.isolation import Kept
from kvmaff.host.reader import Host
from kvmaff.host.threads import Thread, read_threads, with_details
from kvmaff.host.tree import open_tree

__all__ = ["Occupancy", "on_cpus"]


@attrs.frozen(kw_only=True)
class Occupancy:
    """
    What runs on one CPU.

    Attributes:
        cpu: The CPU.
        state: ``online`` or ``offline``.
        kept: From what it is kept, and by whom.
        isolated: Whether it is outside load balancing, so that only what was put there should run there.
        own: Kernel threads that belong to this CPU; expected on every one.
        bound: Other threads that may run nowhere else.
        here: Threads of processes that may run elsewhere, too, and ran here last.
        movable: Kernel threads that may run elsewhere, too, and ran here last.
        others: How many more threads may run here.
        irqs: Interrupts that may come here or did.
    """

    cpu: int
    state: str
    kept: tuple[Kept, ...]
    isolated: bool
    own: tuple[Thread, ...]
    bound: tuple[Thread, ...]
    here: tuple[Thread, ...]
    movable: tuple[Thread, ...]
    others: int
    irqs: tuple[Irq, ...]

    @property
    def dirt(self) -> tuple[str, ...]:
        """What does not belong on a CPU that is to be quiet, a sentence each; none where it is clean."""
        return tuple(self._dirt())

    @property
    def clean(self) -> bool:
        """Whether only what belongs to the CPU or was bound to it runs there."""
        return not self.dirt

    def _dirt(self) -> Iterator[str]:
        for thread in self.here:
            yield f"{_called(thread)} may run elsewhere and ran here last: bind it elsewhere"
        for thread in self.movable:
            yield f"kernel thread {_called(thread)} may run elsewhere and ran here last: {how_to_move(thread)}"
        for irq in self.irqs:
            if irq.count(self.cpu) and self.cpu in irq.goes_to:
                yield (
                    f"interrupt {irq.number} ({irq.name}) comes here, {irq.count(self.cpu)} times so far: "
                    f"write other CPUs to /proc/irq/{irq.number}/smp_affinity_list"
                )


def on_cpus(host: Host, cpus: CpuSet) -> tuple[Occupancy, ...]:
    """
    Find out what runs on CPUs; the thread that asks is left out.

    Args:
        host: The machine, running or captured with its threads.
        cpus: The CPUs.

    Returns:
        The answer for each CPU.

    Raises:
        RequestError: A CPU is not there.
        HostReadError: There is no /proc, or the capture is damaged or has no threads.
        Unsupported: /proc is that of another pid namespace.
    """
    absent = cpus - host.topology.present - host.topology.online
    if absent:
        raise RequestError.of([f"CPU {absent} is not there: this machine has {host.topology.present}"])
    ours = os.getpid() if host.live else 0
    threads = [thread for thread in read_threads(host.root) if thread.tid != ours]
    with open_tree(host.root) as tree:
        irqs = read_irqs(tree)
    return tuple(_occupancy(host, cpu, threads, irqs) for cpu in cpus)


def how_to_move(thread: Thread) -> str:
    """
    Say how a kernel thread is kept from a CPU.

    Args:
        thread: The thread.

    Returns:
        What to do.
    """
    if thread.name.startswith("kworker/"):
        return "write other CPUs to /sys/devices/virtual/workqueue/cpumask"
    if thread.name.startswith("irq/"):
        return f"move its interrupt, /proc/irq/{thread.name[4:].partition('-')[0]}/smp_affinity_list"
    return "it may not be bound" if thread.fixed else f"taskset -pc CPULIST {thread.tid}"


def _occupancy(host: Host, cpu: int, threads: list[Thread], irqs: tuple[Irq, ...]) -> Occupancy:
    only = CpuSet([cpu])
    own: list[Thread] = []
    bound: list[Thread] = []
    here: list[Thread] = []
    movable: list[Thread] = []
    others = 0
    for thread in threads:
        if thread.mask is None or cpu not in thread.mask:
            continue
        if thread.mask == only:
            (own if thread.kernel and thread.fixed else bound).append(thread)
        elif thread.cpu == cpu:
            (movable if thread.kernel else here).append(thread)
        else:
            others += 1
    return Occupancy(
        cpu=cpu,
        state=host.topology.state_of(cpu),
        kept=host.isolation.of(cpu),
        isolated=cpu in host.isolation.unbalanced,
        own=tuple(with_details(own, host.root)),
        bound=tuple(with_details(bound, host.root)),
        here=tuple(with_details(here, host.root)),
        movable=tuple(with_details(movable, host.root)),
        others=others,
        irqs=tuple(irq for irq in irqs if irq.count(cpu) or (irq.allowed is not None and cpu in irq.allowed)),
    )


def _called(thread: Thread) -> str:
    return f"{thread.name} ({thread.tid})"
