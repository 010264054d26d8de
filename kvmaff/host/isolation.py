"""
From what each CPU is kept, and by whom.

Sources: Documentation/admin-guide/kernel-parameters.txt and kernel/sched/isolation.c (isolcpus=, nohz_full=),
kernel/rcu/tree_nocb.h (rcu_nocbs=), kernel/irq/irqdesc.c (irqaffinity=), admin-guide/cgroup-v2.rst (cpuset partitions),
cgroup-v1/cpusets.rst (sched_load_balance).

Rule: what the running kernel shows (/sys, /proc/irq, cpuset files) is believed; the command line says who asked, and
what it asked in vain is a doubt. A command line alone is believed only where the kernel shows nothing of the kind
(managed_irq, rcu_nocbs).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.cmdline import BootWords, boot_words
from kvmaff.host.partitions import partitions
from kvmaff.host.topology import Topology
from kvmaff.host.tree import BIG, Tree

__all__ = ["Isolation", "Kept", "KeptFrom", "read_isolation"]


class KeptFrom(enum.StrEnum):
    """What a CPU may be kept from."""

    BALANCING = "load balancing"
    """The scheduler moves no thread to it or from it: a thread runs there because somebody put it there."""
    OUTSIDERS = "other cgroups"
    """Threads outside one cgroup cannot be put there."""
    TICK = "the tick"
    """The periodic tick, while one thread runs there; timers and unbound kernel work stay away, too."""
    RCU = "RCU callbacks"
    """They run in threads that may run elsewhere."""
    MANAGED_IRQ = "managed interrupts"
    """Interrupts whose CPUs the kernel chooses (of multi-queue devices); as far as other CPUs can take them."""
    IRQ = "interrupts"
    """Other interrupts, unless somebody sends one there."""


@attrs.frozen(kw_only=True)
class Kept:
    """
    Some CPUs kept from something by someone.

    Attributes:
        cpus: The CPUs.
        what: What they are kept from.
        by: Who keeps them from it: words of the kernel's command line, or a cgroup's folder.
    """

    cpus: CpuSet
    what: KeptFrom
    by: str


@attrs.frozen(kw_only=True)
class Isolation:
    """
    From what the CPUs of a machine are kept, and by whom.

    Attributes:
        kept: Who keeps which CPUs from what; CPUs that are not online are in none.
        doubts: What was asked for and is not so, or cannot be known; a sentence each.
    """

    kept: tuple[Kept, ...] = ()
    doubts: tuple[str, ...] = ()

    def of(self, cpu: int) -> tuple[Kept, ...]:
        """
        From what a CPU is kept.

        Args:
            cpu: The CPU.

        Returns:
            Who keeps it from what; nothing for a CPU like any other.
        """
        return tuple(one for one in self.kept if cpu in one.cpus)

    def kept_from(self, what: KeptFrom) -> CpuSet:
        """
        The CPUs that are kept from something, by whomever.

        Args:
            what: What from.

        Returns:
            The CPUs.
        """
        return CpuSet.union_of(one.cpus for one in self.kept if one.what is what)

    @property
    def unbalanced(self) -> CpuSet:
        """The CPUs without load balancing: a thread with several of them stays on one."""
        return self.kept_from(KeptFrom.BALANCING)


def read_isolation(
    tree: Tree, topology: Topology, isolated: CpuSet | None, nohz_full: CpuSet | None
) -> Isolation:
    """
    Read from what CPUs are kept.

    Args:
        tree: The machine's root.
        topology: Its CPUs.
        isolated: What /sys/devices/system/cpu/isolated says; None where it is missing.
        nohz_full: What /sys/devices/system/cpu/nohz_full says; None where it is missing.

    Returns:
        The answer.
    """
    online = topology.online
    words = boot_words(tree.text("proc/cmdline") or "", topology.possible)
    kept: list[Kept] = []
    doubts = list(words.mistakes)

    def keep(cpus: CpuSet, what: KeptFrom, by: str) -> None:
        if cpus & online:
            kept.append(Kept(cpus=cpus & online, what=what, by=by))

    boot = words.cpus("domain") if isolated is None else isolated
    keep(boot & words.cpus("domain"), KeptFrom.BALANCING, words.word("isolcpus"))
    keep(boot - words.cpus("domain"), KeptFrom.BALANCING, "the kernel (/sys/devices/system/cpu/isolated)")
    groups = partitions(tree, Cgroups(tree), online, boot)
    for group in groups:
        if group.doubt:
            doubts.append(group.doubt)
        if not group.balanced:
            keep(group.cpus - boot, KeptFrom.BALANCING, group.by)
        if group.exclusive:
            keep(group.cpus, KeptFrom.OUTSIDERS, group.by)
    if any(group.doubt for group in groups):  # 6.12 may leave the CPUs of a partition that broke unbalanced
        alone = _without_domains(tree) - boot - CpuSet.union_of(group.cpus for group in groups)
        keep(alone, KeptFrom.BALANCING, "the kernel (/proc/schedstat shows no scheduling domain)")
    tickless = nohz_full or CpuSet()
    for asked, by in (
        (words.cpus("nohz_full"), words.word("nohz_full")),
        (words.cpus("nohz") - words.cpus("nohz_full"), words.word("isolcpus")),
        (
            tickless - words.cpus("nohz_full") - words.cpus("nohz"),
            "the kernel (/sys/devices/system/cpu/nohz_full)",
        ),
    ):
        keep(tickless & asked, KeptFrom.TICK, by)
        keep(tickless & asked, KeptFrom.RCU, by)
    keep(words.cpus("rcu_nocbs") - tickless, KeptFrom.RCU, words.word("rcu_nocbs"))
    if not _rejected(words, online, isolated, tickless):
        keep(words.cpus("managed_irq"), KeptFrom.MANAGED_IRQ, words.word("isolcpus"))
    usual = tree.mask("proc/irq/default_smp_affinity")
    if usual and words.cpus("irqaffinity") and not _differs(usual, words, online):
        keep(online - usual, KeptFrom.IRQ, words.word("irqaffinity"))
    elif usual:
        keep(online - usual, KeptFrom.IRQ, "/proc/irq/default_smp_affinity")
    elif words.cpus("irqaffinity"):
        keep(online - words.cpus("irqaffinity"), KeptFrom.IRQ, words.word("irqaffinity"))
    return Isolation(kept=tuple(kept), doubts=(*doubts, *_in_vain(words, online, boot, tickless, usual)))


def _without_domains(tree: Tree) -> CpuSet:
    """CPUs in no scheduling domain; none where the kernel does not tell (Documentation/scheduler/sched-stats.rst)."""
    cpus: dict[int, bool] = {}
    cpu = -1
    for line in (tree.text("proc/schedstat", BIG) or "").splitlines():
        word = line.partition(" ")[0]
        if re.fullmatch("cpu[0-9]{1,5}", word):
            cpu = int(word[3:])
            cpus[cpu] = False
        elif word.startswith("domain"):
            cpus[cpu] = True
    return CpuSet(cpu for cpu, balanced in cpus.items() if not balanced) if any(cpus.values()) else CpuSet()


def _in_vain(
    words: BootWords, online: CpuSet, boot: CpuSet, tickless: CpuSet, usual: CpuSet | None
) -> Iterator[str]:
    """What the command line asks for and the kernel does not show."""
    for option, asked, shown, file in (
        ("isolcpus", words.cpus("domain"), boot, "isolated"),
        ("nohz_full", words.cpus("nohz_full"), tickless, "nohz_full"),
        ("isolcpus", words.cpus("nohz"), tickless, "nohz_full"),
    ):
        # the CPU that booted keeps the tick for the others, asked or not
        missing = asked & online - shown - (CpuSet([online.first]) if file == "nohz_full" else CpuSet())
        if missing:
            yield (
                f"{words.word(option)} is on the kernel's command line, but /sys/devices/system/cpu/{file} does not "
                f"have {missing}: the kernel was built without it, or did not take it"
            )
    if usual and words.cpus("irqaffinity") and _differs(usual, words, online):
        yield (
            f"{words.word('irqaffinity')} is on the kernel's command line, but /proc/irq/default_smp_affinity has "
            f"{usual & online} now"
        )


def _rejected(words: BootWords, online: CpuSet, isolated: CpuSet | None, tickless: CpuSet) -> bool:
    """The kernel drops an isolcpus= whole where it contradicts nohz_full=; then nothing else of it shows either."""
    shown = isolated is None or not words.cpus("domain") & online - isolated
    return not shown or not words.cpus("nohz") & online - CpuSet([online.first]) <= tickless


def _differs(usual: CpuSet, words: BootWords, online: CpuSet) -> bool:
    """The kernel adds the CPU that booted, which is the first of all but never asked for by name."""
    return not (usual ^ words.cpus("irqaffinity")) & online <= CpuSet([online.first])
