"""What a machine's description takes and refuses; nothing is booted."""

from __future__ import annotations

import dataclasses

import pytest

from .machine import Machine, Node, cpulist


def test_four_by_four() -> None:
    """4x4 is two packages of two nodes, cores of two threads, 12 apart within a package and 32 across."""
    machine = Machine.parse("4x4", append="isolcpus=4,5")
    assert (2, 2, 2, 2) == (machine.sockets, machine.dies, machine.cores, machine.threads)
    assert ("0-3", "4-7", "8-11", "12-15") == tuple(node.cpus for node in machine.nodes)
    assert ((10, 12, 32, 32), (12, 10, 32, 32), (32, 32, 10, 12), (32, 32, 12, 10)) == machine.distances
    assert "16 CPUs (2x2x2x2), 4 nodes, Linux 6.1, isolcpus=4,5" == str(machine)


@pytest.mark.parametrize(
    ("shape", "levels", "nodes"),
    [
        ("1", (1, 1, 1, 1), 1),
        ("8", (1, 1, 4, 2), 1),
        ("1x8", (1, 1, 4, 2), 1),
        ("2x8", (2, 1, 4, 2), 2),
        ("3x3", (3, 1, 3, 1), 3),
        ("6x2", (3, 2, 1, 2), 6),
        ("5x51", (5, 1, 51, 1), 5),
    ],
)
def test_shapes(shape: str, levels: tuple[int, ...], nodes: int) -> None:
    """NODESxCPUS, or CPUS alone: cores of two threads where the number is even, packages of two nodes from four on."""
    machine = Machine.parse(shape)
    assert levels == (machine.sockets, machine.dies, machine.cores, machine.threads)
    assert nodes == len(machine.nodes)
    assert list(range(machine.cpus)) == [cpu for node in machine.nodes for cpu in cpulist(node.cpus)]


@pytest.mark.parametrize("shape", ["", "x", "4x", "x4", "0", "4x0", "04", "4x4x4", "-1", "4 x 4", "²"])
def test_no_shape(shape: str) -> None:
    """What is no shape is said to be none."""
    with pytest.raises(ValueError, match=r"NODESxCPUS, as 4x4, or CPUS, as 8, not"):
        Machine.parse(shape)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sockets": 0}, "sockets is 1 or more, not 0"),
        ({"cores": 256}, "at most 255 CPUs, not 256"),
        ({"cores": 2, "nodes": (Node(cpus="0"),)}, "CPUs 1 are in no node"),
        ({"cores": 2, "nodes": (Node(cpus="0-2"),)}, "node 0 has CPU 2, the machine only 2 CPUs"),
        ({"cores": 2, "nodes": (Node(cpus="0,1"), Node(cpus="1"))}, "CPU 1 is in node 0 and in node 1"),
        ({"cores": 2, "nodes": (Node(cpus="1"), Node(cpus="0"))}, "in the order of their first CPU"),
        ({"nodes": (Node(), Node(cpus="0"))}, "those without CPUs last"),
        ({"nodes": (Node(cpus="0"), *[Node()] * 128)}, "at most 128 nodes, not 129"),
        ({"append": "x" * 1901}, "takes 1900 bytes more, not 1901"),
        ({"nodes": (Node(cpus="0", memory=64),)}, "needs 384 MiB or more, not 64"),
        ({"distances": ((10, 20),)}, "distances are 1 rows of 1 numbers"),
        ({"distances": ((11,),)}, "10 from itself and 11 to 254 from others, not 11"),
        ({"present": 2}, "present is 1 to 1 CPUs, not 2"),
        ({"present": 0}, "present is 1 to 1 CPUs, not 0"),
        ({"cores": 2, "offline": "0"}, "all but CPU 0 can be offline, not 0"),
        ({"cores": 4, "present": 2, "offline": "2"}, "of 2 CPUs all but CPU 0 can be offline, not 2"),
        ({"offline": "a"}, "'a' is no list of CPUs like 0-3,8"),
        ({"offline": "3-1"}, "3-1 is no range of CPUs"),
        ({"kernel": "5.10"}, "a kernel is one of 6.1, 6.12, not '5.10'"),
        ({"append": "a\nb"}, "one line"),
        ({"cpu": "Nehalem -S"}, "a CPU model of QEMU is a name"),
    ],
)
def test_refused(values: dict[str, object], message: str) -> None:
    """What makes no machine is refused before anything is started, and said."""
    with pytest.raises(ValueError, match=message):
        Machine(**values)  # type: ignore[arg-type]


def test_no_node() -> None:
    """A node has CPUs or memory."""
    with pytest.raises(ValueError, match="no node"):
        Node(memory=0)
    with pytest.raises(ValueError, match="0 MiB or more"):
        Node(cpus="0", memory=-1)


def test_equal_machines_are_one() -> None:
    """A machine is a value: equal ones share a boot."""
    one, other = Machine.parse("2x2"), Machine.parse("2x2")
    assert {one} == {other}
    assert one != dataclasses.replace(other, kernel="6.12")
    assert Machine(cores=4) == Machine(cores=4, nodes=(Node(cpus="0-3", memory=1024),))
