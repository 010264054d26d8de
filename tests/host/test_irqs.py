"""Interrupts, from recorded files and this machine's."""

from __future__ import annotations

from pathlib import Path

from kvmaff.cpuset import CpuSet
from kvmaff.host.irqs import read_irqs
from kvmaff.host.tree import open_tree

from .files import write

TABLE = """\
           CPU0       CPU2       CPU3
  9:          0          0          0   IO-APIC   9-fasteoi   acpi
 36:         10          0       7777 PCI-MSIX-0000:00:05.0   1-edge      virtio1-req.0
 x1:          1          1          1   garbage
 40:          1          1
 41:          1          1          b   IO-APIC   1-edge  no number
NMI:          4          4          4   Non-maskable interrupts
ERR:          0
 27:          5          6          7     GICv3  27 Level     arch_timer\x1b[31m
"""


def test_table(tmp_path: Path) -> None:
    """Counts are those of the CPUs in the head line, names are printable, and broken lines are passed over."""
    write(
        tmp_path,
        {
            "proc/interrupts": TABLE,
            "proc/irq/36/smp_affinity_list": "0-3\n",
            "proc/irq/36/effective_affinity_list": "3\n",
            "proc/irq/9/smp_affinity_list": "0,2\n",
        },
    )
    with open_tree(str(tmp_path)) as tree:
        irqs = {irq.number: irq for irq in read_irqs(tree)}
    assert [9, 27, 36] == list(irqs)
    assert ("virtio1-req.0", {0: 10, 3: 7777}, 7777, 0) == (
        irqs[36].name,
        irqs[36].counts,
        irqs[36].count(3),
        irqs[36].count(2),
    )
    assert (CpuSet([3]), CpuSet([0, 2]), CpuSet()) == (irqs[36].goes_to, irqs[9].goes_to, irqs[27].goes_to)
    assert ("acpi", "arch_timer?[31m") == (irqs[9].name, irqs[27].name)


def test_no_table(tmp_path: Path) -> None:
    """Where there is no table, interrupts are not told."""
    with open_tree(str(tmp_path)) as tree:
        assert None is read_irqs(tree)


def test_this_machine() -> None:
    """On this machine every interrupt goes where it may go."""
    with open_tree("/") as tree:
        irqs = read_irqs(tree)
    assert irqs
    assert all(irq.effective <= irq.allowed for irq in irqs if irq.effective and irq.allowed is not None)
