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
from collections import Counter
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
        irqs: Interrupts that may come here or did; None where the machine does not say.
        hidden: What could not be seen, so that it cannot be known whether it is clean; a sentence each.
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
    irqs: tuple[Irq, ...] | None
    hidden: tuple[str, ...] = ()

    @property
    def dirt(self) -> tuple[str, ...]:
        """What does not belong on a CPU that is to be quiet, a sentence each; none where it is clean."""
        return tuple(self._dirt())

    @property
    def clean(self) -> bool | None:
        """Whether only what belongs to the CPU or was bound to it runs there; None where that cannot be known."""
        if self.dirt:
            return False
        return None if self.hidden or self.state != "online" else True

    def _dirt(self) -> Iterator[str]:
        for thread in self.here:
            yield f"{_called(thread)} may run on {thread.mask} and ran here last: bind it to other CPUs, or to one"
        for thread in self.movable:
            how = how_to_move(thread)
            if how is not None:
                yield f"kernel thread {_called(thread)} may run elsewhere and ran here last: {how}"
        for irq in self.irqs or ():
            count = irq.count(self.cpu)
            # one that was told to go elsewhere does so with the next, and may show the old CPU until then
            told_away = irq.allowed is not None and self.cpu not in irq.allowed
            if count and self.cpu in irq.goes_to and not told_away:
                yield (
                    f"interrupt {irq.number} ({irq.name}) comes here, {count} time{'s' * (count > 1)} so far: write "
                    f"other CPUs to /proc/irq/{irq.number}/smp_affinity_list (which fails where the kernel manages it)"
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
    look = _Look([thread for thread in read_threads(host.root) if thread.tid != ours])
    with open_tree(host.root) as tree:
        irqs = read_irqs(tree)
    return tuple(_occupancy(host, cpu, look, irqs) for cpu in cpus)


def how_to_move(thread: Thread) -> str | None:
    """
    Say how a kernel thread is kept from a CPU.

    Args:
        thread: The thread.

    Returns:
        What to do; None where nothing can be done, and need not: those threads sleep unless something runs out of
        memory (``kworker/R-…``), or serve whoever calls them.
    """
    if thread.name.startswith("kworker/u"):
        return "write other CPUs to /sys/devices/virtual/workqueue/cpumask"
    if thread.name.startswith("irq/"):
        return f"move its interrupt, /proc/irq/{thread.name[4:].partition('-')[0]}/smp_affinity_list"
    return None if thread.fixed else f"taskset -pc CPULIST {thread.tid}"


class _Look:
    """Threads by what is asked of them, so that many CPUs cost little more than one."""

    def __init__(self, threads: list[Thread]) -> None:
        self.only: dict[int, list[Thread]] = {}
        self.last: dict[int, list[Thread]] = {}
        self.unread: dict[int, list[Thread]] = {}
        self.by_mask: Counter[CpuSet] = Counter()
        for thread in threads:
            if thread.mask is None:
                if thread.cpu is not None:
                    self.unread.setdefault(thread.cpu, []).append(thread)
                continue
            self.by_mask[thread.mask] += 1
            if len(thread.mask) == 1:
                self.only.setdefault(thread.mask.first, []).append(thread)
            elif thread.cpu is not None and thread.cpu in thread.mask:
                self.last.setdefault(thread.cpu, []).append(thread)


def _occupancy(host: Host, cpu: int, look: _Look, irqs: tuple[Irq, ...] | None) -> Occupancy:
    only, last = look.only.get(cpu, []), look.last.get(cpu, [])
    own = [thread for thread in only if thread.kernel and thread.fixed]
    state = host.topology.state_of(cpu)
    hidden = []
    if state == "online" and not own:
        hidden.append(
            "none of its own kernel threads can be seen, so others may run unseen, too: a pid namespace, a container "
            "or hidepid= hides them"
        )
    unread = map(_called, look.unread.get(cpu, []))
    hidden += [f"the mask of {name}, which ran here last, cannot be read" for name in unread]
    if irqs is None:
        hidden.append("/proc/interrupts cannot be read")
    groups = {
        "own": own,
        "bound": [thread for thread in only if not (thread.kernel and thread.fixed)],
        "here": [thread for thread in last if not thread.kernel],
        "movable": [thread for thread in last if thread.kernel],
    }
    return Occupancy(
        cpu=cpu,
        state=state,
        kept=host.isolation.of(cpu),
        isolated=cpu in host.isolation.unbalanced,
        others=sum(count for mask, count in look.by_mask.items() if cpu in mask) - len(only) - len(last),
        irqs=None
        if irqs is None
        else tuple(irq for irq in irqs if irq.count(cpu) or cpu in (irq.allowed or ())),
        hidden=tuple(hidden),
        **{name: tuple(with_details(threads, host.root)) for name, threads in groups.items()},
    )


def _called(thread: Thread) -> str:
    return f"{thread.name} ({thread.tid})"
