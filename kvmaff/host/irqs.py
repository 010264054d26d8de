"""
Which CPUs interrupts go to, and how often they did.

Source: proc(5) (/proc/interrupts), Documentation/core-api/irq/irq-affinity.rst (smp_affinity_list is where an interrupt
may go, effective_affinity_list where the hardware sends it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.host.tree import BIG, Tree
from kvmaff.kernel.text import printable

__all__ = ["Irq", "read_irqs"]

_MOST = 1 << 16


@attrs.frozen(kw_only=True)
class Irq:
    """
    One interrupt.

    Attributes:
        number: Its number.
        name: Whose it is, as the drivers call themselves; printable.
        allowed: The CPUs it may be sent to; None where that may not be read.
        effective: The CPUs it is sent to; None where the machine does not say.
        counts: How often it came to a CPU since boot, by CPU; those where it never did are left out.
    """

    number: int
    name: str
    allowed: CpuSet | None
    effective: CpuSet | None
    counts: Mapping[int, int] = attrs.field(hash=False)

    def count(self, cpu: int) -> int:
        """
        How often it came to a CPU.

        Args:
            cpu: The CPU.

        Returns:
            The number of times since boot.
        """
        return self.counts.get(cpu, 0)

    @property
    def goes_to(self) -> CpuSet:
        """The CPUs it is sent to, as far as is known; otherwise (some chips never say) those it may be sent to."""
        return self.effective or self.allowed or CpuSet()


def read_irqs(tree: Tree) -> tuple[Irq, ...] | None:
    """
    Read the interrupts of devices; those of the CPUs themselves (timers, IPIs) have no number and are left out.

    Args:
        tree: The machine's root.

    Returns:
        The interrupts by number; None where /proc/interrupts cannot be read.
    """
    lines = (tree.text("proc/interrupts", BIG) or "").splitlines()
    if not lines:
        return None
    cpus = [int(word[3:]) for word in lines[0].split() if re.fullmatch("CPU[0-9]{1,4}", word)]
    found: list[Irq] = []
    for line in lines[1:]:
        head, _, rest = line.partition(":")
        number = head.strip()
        if not re.fullmatch("[0-9]{1,7}", number) or len(found) >= _MOST:
            continue
        words = rest.split(None, len(cpus))
        if len(words) < len(cpus) or not all(
            word.isdigit() and len(word) < 20 for word in words[: len(cpus)]
        ):
            continue
        # "PCI-MSIX-0000:00:05.0   0-edge      virtio4-config": the last column is whose it is
        about = re.split(r"\s{2,}", " ".join(words[len(cpus) :]).strip()) if len(words) > len(cpus) else [""]
        folder = f"proc/irq/{number}"
        found.append(
            Irq(
                number=int(number),
                name=printable(about[-1].encode(errors="replace")),
                allowed=tree.cpus(f"{folder}/smp_affinity_list"),
                effective=tree.cpus(f"{folder}/effective_affinity_list"),
                counts={cpu: int(word) for cpu, word in zip(cpus, words, strict=False) if word != "0"},
            )
        )
    return tuple(sorted(found, key=lambda irq: irq.number))
