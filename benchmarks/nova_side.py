"""
The half of ``bench_place.py`` that runs where Nova is installed: fits guests onto hosts by Nova's own function.

For each line of JSON on its standard input, a host and a guest, it makes Nova's values of them, calls
``nova.virt.hardware.numa_fit_instance_to_host`` and prints a line of JSON: how many nanoseconds that call took, and
what came of it. It ends at the end of its input. Nova is as it comes: no configuration file, every option at its
default, debug messages off.

A host is ``{"cells": [{"cpus": [...], "siblings": [[...], ...], "pinned": [...]}, ...]}`` with a cell for each NUMA
node, a guest ``"guest": [vCPUs of each cell]``, all of them dedicated. With ``"pack": true`` nodes that are in use come
first, as Nova's option ``packing_host_numa_cells_allocation_strategy`` has it, and the answer has the CPU of each vCPU.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")  # what Nova's libraries say about one another

from nova.conf import CONF  # noqa: E402
from nova.objects.instance_numa import InstanceNUMACell, InstanceNUMATopology  # noqa: E402
from nova.objects.numa import NUMACell, NUMATopology  # noqa: E402
from nova.virt.hardware import numa_fit_instance_to_host  # noqa: E402

_MIB = 65536  # of each node; guests need one MiB a cell, so that memory never decides


def host_of(cells: list[dict[str, Any]]) -> NUMATopology:
    """
    Make Nova's value of a host.

    Args:
        cells: Its nodes.

    Returns:
        The value.
    """
    return NUMATopology(
        cells=[
            NUMACell(
                id=number,
                socket=cell["socket"],
                cpuset=set(),
                pcpuset=set(cell["cpus"]),
                memory=_MIB,
                cpu_usage=0,
                memory_usage=0,
                pinned_cpus=set(cell["pinned"]),
                siblings=[set(core) for core in cell["siblings"]],
                mempages=[],
            )
            for number, cell in enumerate(cells)
        ]
    )


def guest_of(sizes: list[int]) -> InstanceNUMATopology:
    """
    Make Nova's value of a guest.

    Args:
        sizes: How many vCPUs each of its cells has.

    Returns:
        The value.
    """
    cells, at = [], 0
    for number, size in enumerate(sizes):
        vcpus = set(range(at, at + size))
        at += size
        cells.append(
            InstanceNUMACell(
                id=number, cpuset=set(), pcpuset=vcpus, memory=1, pagesize=None, cpu_policy="dedicated"
            )
        )
    return InstanceNUMATopology(cells=cells)


def whole(found: InstanceNUMATopology, host: NUMATopology, sizes: list[int]) -> bool:
    """
    Tell whether an answer is one.

    Args:
        found: The answer.
        host: The host.
        sizes: How many vCPUs each cell of the guest has.

    Returns:
        True where each vCPU has a CPU of its own that was free, on the node that its cell is said to be on.
    """
    free = {cell.id: cell.free_pcpus for cell in host.cells}
    taken = [cpu for cell in found.cells for cpu in (cell.cpu_pinning or {}).values()]
    inside = all(set((cell.cpu_pinning or {}).values()) <= free[cell.id] for cell in found.cells)
    return inside and len(set(taken)) == sum(sizes)


def main() -> None:
    """Answer line by line."""
    for line in sys.stdin:
        asked = json.loads(line)
        host, guest = host_of(asked["cells"]), guest_of(asked["guest"])
        pack = asked.get("pack", False)
        CONF.set_override("packing_host_numa_cells_allocation_strategy", pack, group="compute")
        start = time.perf_counter_ns()
        found = numa_fit_instance_to_host(host, guest, None)
        took = time.perf_counter_ns() - start
        answer = {"ns": took, "fits": found is not None}
        if found is not None:
            answer["whole"] = whole(found, host, asked["guest"])
            if pack:
                pinning = {
                    vcpu: cpu for cell in found.cells for vcpu, cpu in (cell.cpu_pinning or {}).items()
                }
                answer["cpus"] = [pinning[vcpu] for vcpu in sorted(pinning)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
