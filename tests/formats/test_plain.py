"""The JSON that other programs read, whole: a field that changes its meaning fails here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvmaff.cpuset import CpuSet
from kvmaff.formats.plain import cpu_data, grant_data, topology_data
from kvmaff.host.cgroup import Grant
from kvmaff.host.occupants import on_cpus
from kvmaff.host.reader import Host, read_host
from kvmaff.host.threads import THREADS_FILE

from ..host.files import machine

CPU, NODE = "sys/devices/system/cpu", "sys/devices/system/node"


def _host(root: Path) -> Host:
    thread: dict[str, Any] = {"flags": 0, "ppid": 1, "uid": 7, "args": "qemu -x"}
    threads = [
        {**thread, "pid": 8, "tid": 9, "name": "CPU 0/KVM", "cpu": 2, "mask": "3"},
        {**thread, "pid": 8, "tid": 10, "name": "worker", "cpu": 3, "mask": "2-3", "args": None},
        {**thread, "pid": 2, "tid": 11, "name": "cpuhp/3", "cpu": 3, "mask": "3", "flags": 0x04200000},
    ]
    files: dict[str, str | bytes] = {
        f"{CPU}/present": "0-4",
        f"{CPU}/possible": "0-7",
        f"{CPU}/isolated": "3",
        f"{CPU}/nohz_full": "2",
        f"{CPU}/smt/control": "off",
        "proc/cmdline": "isolcpus=3 irqaffinity=0 nohz_full=1-2",
        "proc/irq/default_smp_affinity": "f",
        "proc/interrupts": "   CPU0 CPU3\n 36: 1 2 MSI 1-edge  nic\n",
        "proc/irq/36/smp_affinity_list": "0-3",
        "proc/irq/36/effective_affinity_list": "0",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "5",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "4",
        f"{NODE}/node1/cpulist": "0-4",
        f"{NODE}/node1/distance": "10",
        f"{NODE}/node1/meminfo": "Node 1 MemTotal:  1024 kB\n",
        f"{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages": "3",
        f"{NODE}/node1/hugepages/hugepages-2048kB/free_hugepages": "2",
        "sys/devices/cpu_core/cpus": "0-1",
        "sys/devices/cpu_atom/cpus": "2-3",
        THREADS_FILE: json.dumps({"threads": threads}),
    }
    for cpu in range(4):
        for name in ("core_cpus", "package_cpus", "book_siblings", "drawer_siblings", "cluster_cpus"):
            files[f"{CPU}/cpu{cpu}/topology/{name}_list"] = "0-1" if cpu < 2 else "2-3"
        files[f"{CPU}/cpu{cpu}/topology/cluster_id"] = "0"
        files[f"{CPU}/cpu{cpu}/topology/die_cpus_list"] = str(cpu)
        for level in (2, 3):
            files[f"{CPU}/cpu{cpu}/cache/index{level}/level"] = str(level)
            files[f"{CPU}/cpu{cpu}/cache/index{level}/type"] = "Unified"
            files[f"{CPU}/cpu{cpu}/cache/index{level}/shared_cpu_list"] = str(cpu) if level == 2 else "0-3"
    return read_host(machine(root, "0-3", files))


def test_topology(tmp_path: Path) -> None:
    """Every field of the topology, with what it says."""
    pairs, single = ["0-1", "2-3"], ["0", "1", "2", "3"]
    assert topology_data(_host(tmp_path)) == {
        "possible": "0-7",
        "present": "0-4",
        "online": "0-3",
        "offline": "4",
        "isolated": "3",
        "nohz_full": "2",
        "drawers": pairs,
        "books": pairs,
        "packages": pairs,
        "dies": single,
        "clusters": pairs,
        "cores": pairs,
        "l2": ["0", "2"],
        "l3": ["0-3"],
        "kinds": [{"name": "P", "cpus": "0-1"}, {"name": "E", "cpus": "2-3"}],
        "smt": "off",
        "nodes": {
            "1": {
                "cpus": "0-3",
                "memory_bytes": 1 << 20,
                "distances": {"1": 10},
                "huge_pages": [{"size_bytes": 2 << 20, "total": 3, "free": 2}],
            }
        },
        "huge_pages": [{"size_bytes": 2 << 20, "total": 5, "free": 4}],
        "isolation": [
            {"cpus": "3", "from": "load balancing", "by": "isolcpus=3"},
            {"cpus": "2", "from": "the tick", "by": "nohz_full=1-2"},
            {"cpus": "2", "from": "RCU callbacks", "by": "nohz_full=1-2"},
        ],
        "doubts": [
            (
                "nohz_full=1-2 is on the kernel's command line, but /sys/devices/system/cpu/nohz_full does not have 1: "
                "the kernel was built without it, or did not take it"
            ),
            "irqaffinity=0 is on the kernel's command line, but /proc/irq/default_smp_affinity has 0-3 now",
        ],
    }


def test_cpu(tmp_path: Path) -> None:
    """Every field of what runs on a CPU, with what it says."""
    (found,) = on_cpus(_host(tmp_path), CpuSet([3]))
    thread = {"pid": 8, "ppid": 1, "uid": 7}
    assert cpu_data(found, {9: "web vcpu 0"}, "why") == {
        "cpu": 3,
        "state": "online",
        "isolated": True,
        "isolation": [{"cpus": "3", "from": "load balancing", "by": "isolcpus=3"}],
        "clean": False,
        "dirt": ["worker (10) may run on 2-3 and ran here last: bind it to other CPUs, or to one"],
        "hidden": [],
        "own": [
            {
                **thread,
                "pid": 2,
                "tid": 11,
                "name": "cpuhp/3",
                "args": "qemu -x",
                "mask": "3",
                "cpu": 3,
                "guest": None,
            }
        ],
        "bound": [
            {
                **thread,
                "tid": 9,
                "name": "CPU 0/KVM",
                "args": "qemu -x",
                "mask": "3",
                "cpu": 2,
                "guest": "web vcpu 0",
            }
        ],
        "here": [
            {**thread, "tid": 10, "name": "worker", "args": None, "mask": "2-3", "cpu": 3, "guest": None}
        ],
        "movable": [],
        "others": 0,
        "irqs": [{"number": 36, "name": "nic", "count": 2, "allowed": "0-3", "effective": "0"}],
        "why_not": "why",
    }


def test_grant() -> None:
    """A grant, told and not told."""
    assert {"cgroup": "/x", "cpus": "0-1", "nodes": [3]} == grant_data(
        Grant(cgroup="/x", cpus=CpuSet([0, 1]), nodes=(3,))
    )
    assert {"cgroup": "", "cpus": "2", "nodes": None} == grant_data(Grant(cgroup="", cpus=CpuSet([2])))
