"""What kvmaff reads in a machine is what QEMU was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .lab import Lab
from .machine import Machine, Node, cpulist

MACHINES = {
    "4x4": Machine.parse("4x4", append="isolcpus=4,5"),
    "4x4-6.12": Machine.parse("4x4", append="isolcpus=4,5 nohz_full=5", kernel="6.12"),
    "64-cpus": Machine.parse("4x16"),
    "node-without-cpus": Machine(cores=4, threads=2, nodes=(Node(cpus="0-7", memory=768), Node(memory=256))),
    "node-without-memory": Machine(
        sockets=2, cores=2, threads=2, nodes=(Node(cpus="0-3", memory=768), Node(cpus="4-7", memory=0))
    ),
    "dies-and-threads": Machine(sockets=2, dies=3, cores=2, threads=2),
    "interleaved-nodes": Machine(
        sockets=3,
        cores=3,
        nodes=(Node(cpus="0-2,6-8"), Node(cpus="3-5")),
        distances=((10, 17), (28, 10)),
    ),
    "offline": Machine(cores=4, threads=2, offline="3,6-7"),
    "hot-plug": Machine(sockets=2, cores=2, threads=2, present=6),
    "one-cpu": Machine(),
}

# What "kvmaff topology --json" does, without the seconds that the command line's libraries take to load
_READ = """
import json
import kvmaff
from kvmaff.formats.plain import topology_data
print(json.dumps(topology_data(kvmaff.read_host())))
"""
_BY_NAME = [
    pytest.param(machine, id=name, marks=pytest.mark.lab(machine)) for name, machine in MACHINES.items()
]


def _groups(machine: Machine, size: int) -> list[list[int]]:
    """Return the online CPUs in groups of so many neighbours."""
    online = [cpu for cpu in range(machine.present_cpus) if cpu not in cpulist(machine.offline)]
    groups = [
        [cpu for cpu in online if first <= cpu < first + size] for first in range(0, machine.cpus, size)
    ]
    return [group for group in groups if group]


def _numbers(groups: list[str]) -> list[list[int]]:
    return [list(cpulist(group)) for group in groups]


@pytest.mark.parametrize("machine", _BY_NAME)
def test_topology(lab: Lab, machine: Machine) -> None:
    """CPUs, packages, dies, cores, caches, nodes with memory and distances, isolated CPUs: as asked."""
    found: dict[str, Any] = json.loads(lab.run("python3", "-c", _READ, check=True).stdout)
    (online,) = _groups(machine, machine.cpus)
    assert list(range(machine.cpus)) == list(cpulist(found["possible"]))
    assert list(range(machine.present_cpus)) == list(cpulist(found["present"]))
    assert online == list(cpulist(found["online"]))
    per_die = machine.cores * machine.threads
    assert _groups(machine, machine.dies * per_die) == _numbers(found["packages"])
    assert _groups(machine, per_die) == _numbers(found["dies"] if machine.dies > 1 else found["packages"])
    assert _groups(machine, per_die) == _numbers(found["l3"])
    assert _groups(machine, machine.threads) == _numbers(found["cores"])
    isolated = dict(word.split("=") for word in machine.append.split())
    assert cpulist(isolated.get("isolcpus", "")) == cpulist(found["isolated"])
    assert cpulist(isolated.get("nohz_full", "")) == cpulist(found["nohz_full"])
    assert list(map(str, range(len(machine.nodes)))) == list(found["nodes"])
    rows = machine.distances or [
        [10 if a == b else 20 for b in range(len(machine.nodes))] for a in range(len(machine.nodes))
    ]
    for number, node in enumerate(machine.nodes):
        one = found["nodes"][str(number)]
        assert [cpu for cpu in cpulist(node.cpus) if cpu in online] == list(cpulist(one["cpus"]))
        assert dict(enumerate(rows[number])) == {int(to): value for to, value in one["distances"].items()}
        # the kernel keeps some of it for itself, most on the first node
        assert 0.75 * node.memory <= one["memory_bytes"] / 2**20 <= node.memory


@pytest.mark.lab(MACHINES["4x4"])
def test_command(lab: Lab) -> None:
    """The command says the same as the call."""
    said = json.loads(lab.run("kvmaff", "topology", "--json", check=True).stdout)
    granted = said.pop("granted")
    assert json.loads(lab.run("python3", "-c", _READ, check=True).stdout) == said
    assert said["online"] == granted["cpus"]


@pytest.mark.parametrize("machine", _BY_NAME)
def test_kernel(lab: Lab, machine: Machine) -> None:
    """The kernel is of the series that was asked for, and was given the words that were to be appended."""
    assert lab.release.startswith(f"{machine.kernel}.")
    (line,) = lab.run("cat", "/proc/cmdline", check=True).stdout.splitlines()
    assert line.endswith(machine.append)
