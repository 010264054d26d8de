"""What QEMU makes of ``-smp`` -> tables for a terminal."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.guest.guest import number_list
from kvmaff.guest.smp import SmpReading

__all__ = ["places_table", "smp_table"]

_ROWS = 32


def smp_table(reading: SmpReading) -> Table:
    """
    Show the numbers, and how QEMU comes to them.

    Args:
        reading: What was read.

    Returns:
        A row for each word.
    """
    rules = reading.rules
    qemu = ".".join(map(str, rules.qemu))
    table = Table(
        title=f"{rules.machine} on QEMU {qemu}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("word")
    table.add_column("number", justify="right")
    table.add_column("why")
    given = dict(reading.given)
    for word, why in reading.why:
        style = "bold" if word in given else ""
        table.add_row(
            Text(word, style=style), Text(str(getattr(reading.topology, word)), style=style), Text(why)
        )
    return table


def places_table(reading: SmpReading) -> Table:
    """
    Show where in the guest its vCPUs are.

    Args:
        reading: What was read.

    Returns:
        A row for each core; for each of the next larger level, and so on, where these are too many.
    """
    topology, levels = reading.topology, [level[:-1] for level in reading.rules.levels]
    places = [
        (vcpu, tuple(getattr(topology.place(vcpu), level) for level in levels))
        for vcpu in range(topology.maxcpus)
    ]
    depth = len(levels) - 1
    while depth > 1 and len({numbers[:depth] for _, numbers in places}) > _ROWS:
        depth -= 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for level in levels[:depth]:
        table.add_column(level, justify="right")
    table.add_column("vCPUs", overflow="fold")
    if topology.cpus < topology.maxcpus:
        table.add_column("to be plugged", overflow="fold")
    rows = groupby(places, key=lambda one: one[1][:depth])
    for at, (numbers, some) in enumerate(rows):
        if at == _ROWS:
            table.add_row(*(Text("…") for _ in table.columns))
            break
        vcpus = [vcpu for vcpu, _ in some]
        there = [vcpu for vcpu in vcpus if vcpu < topology.cpus]
        later = [vcpu for vcpu in vcpus if vcpu >= topology.cpus]
        table.add_row(
            *(Text(str(number)) for number in numbers), Text(number_list(there)), Text(number_list(later))
        )
    return table
