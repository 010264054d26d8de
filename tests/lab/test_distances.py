"""
Where the fewest NUMA nodes are not the least distance, on a real kernel: every node choice is tried by brute force.

Three nodes are near one another and one is far from all. A guest that is there already has half of each near node, so
that whoever needs more than two CPUs could have the far node alone, or several near ones.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import attrs
import pytest

import kvmaff
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.memory import memory_by_node

from ..conftest import kernel_masks, needs_qemu
from .guests import Guests
from .machine import Machine, Node

FAR = Machine(
    sockets=4,
    cores=2,
    threads=2,
    nodes=tuple(Node(cpus=f"{first}-{first + 3}") for first in range(0, 16, 4)),
    distances=((10, 14, 16, 50), (14, 10, 12, 40), (16, 12, 10, 44), (50, 40, 44, 10)),
)
THERE = (0, 1, 4, 5, 8, 9)  # the CPU of each vCPU of the guest that is there
_NODES = Path("/sys/devices/system/node")

TWINS = """
[defaults]
policy = "dedicated"

[[guest]]
name = "twin"
[[guest.cell]]
vcpus = "0-1"
[[guest.cell]]
vcpus = "2-3"

[[guest]]
name = "lopsided"
device_nodes = [2]
[[guest.cell]]
vcpus = "0,2"
[[guest.cell]]
vcpus = [1]
"""

pytestmark = [needs_qemu, pytest.mark.inside(FAR, timeout=120)]


@attrs.frozen(kw_only=True)
class Want:
    """What a guest needs: its parts, each whole in one node, and the nodes of its devices; maybe its memory near."""

    parts: tuple[tuple[int, ...], ...]
    devices: tuple[int, ...] = ()
    near: bool = True


def _distances() -> list[list[int]]:
    """How far nodes are beyond local, as this kernel has it."""
    rows = [(_NODES / f"node{node}/distance").read_text().split() for node in range(4)]
    return [[int(far) - 10 for far in row] for row in rows]


def _cpus_of(node: int) -> kvmaff.CpuSet:
    return kvmaff.CpuSet.parse((_NODES / f"node{node}/cpulist").read_text().strip())


def _free(*taken: Guest) -> list[int]:
    """How many CPUs of each node no thread of these guests may run on."""
    masks = [mask for guest in taken for mask in kernel_masks(guest.pid).values()]
    used = kvmaff.CpuSet.union_of(map(kvmaff.CpuSet, masks))
    return [len(_cpus_of(node) - used) for node in range(4)]


def _choices(guest: Guest, want: Want, free: Sequence[int]) -> dict[tuple[int, ...], float]:
    """What every choice of a node for each part costs, where it fits."""
    far = _distances()
    memory = (
        memory_by_node(guest.pid) if want.near else ()
    )  # QEMU's own is not where it was told to have the guest's
    total = sum(size for _, size in memory) or 1
    pull = [
        sum(far[node][to] for to in want.devices) + sum(size * far[node][to] for to, size in memory) / total
        for node in range(4)
    ]
    costs = {}
    for chosen in product(range(4), repeat=len(want.parts)):
        count = [0] * 4
        for node, part in zip(chosen, want.parts, strict=True):
            count[node] += len(part)
        if all(map(int.__le__, count, free)):
            apart = sum(count[a] * count[b] * far[a][b] for a, b in combinations(range(4), 2))
            costs[chosen] = apart + sum(vcpus * one for vcpus, one in zip(count, pull, strict=True))
    return costs


def _chosen(guest: Guest, want: Want) -> tuple[int, ...]:
    """The node that each part of a guest is bound to, as the kernel says; each vCPU has one CPU of its own."""
    cpu_of = {thread.index: os.sched_getaffinity(thread.tid) for thread in guest.vcpus}
    assert [1] * len(cpu_of) == [len(cpus) for cpus in cpu_of.values()]
    assert len(cpu_of) == len(set().union(*cpu_of.values()))
    cpus_of = [set().union(*(cpu_of[vcpu] for vcpu in part)) for part in want.parts]
    found = [[node for node in range(4) if cpus <= set(_cpus_of(node))] for cpus in cpus_of]
    assert [1] * len(want.parts) == [len(nodes) for nodes in found]
    return tuple(node for (node,) in found)


def _is_least(guest: Guest, want: Want, free: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Hold where a guest is against every choice there is; return its nodes, and how few there could have been."""
    costs, chosen = _choices(guest, want, free), _chosen(guest, want)
    assert costs[chosen] < min(costs.values()) + 0.1  # hundredths count, not what is less
    return tuple(sorted(set(chosen))), min(len(set(nodes)) for nodes in costs)


def _guests(*names: str) -> list[Guest]:
    found = {guest.name: guest for guest in kvmaff.guests(kvmaff.read_host())}
    return [found[name] for name in names]


def _apply(*words: str) -> None:
    done = subprocess.run(["kvmaff", "apply", *words, "--json"], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert json.loads(done.stdout)["ok"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """A guest that is there in all tests."""
    with Guests(tmp_path_factory.mktemp("there")) as guests:
        guests.start("there", vcpus=len(THERE))
        guests.up()
        yield guests


@pytest.fixture
def there(started: Guests, state_dir: Path) -> Iterator[Guest]:
    """The same, pinned; when a test has undone its own, this is undone too."""
    before = kernel_masks(started.pid("there"))
    wishes = {str(vcpu): str(cpu) for vcpu, cpu in enumerate(THERE)}
    assert kvmaff.pin(kvmaff.read_host(), "there", {**wishes, "all": kvmaff.CpuSet(THERE)}).ok
    (guest,) = _guests("there")
    assert [2, 2, 2, 4] == _free(guest)
    yield guest
    assert kvmaff.undo().ok
    assert before == kernel_masks(guest.pid)


def test_the_kernel_has_the_distances() -> None:
    """The kernel and kvmaff have the distances that the machine was given."""
    assert [[far - 10 for far in row] for row in FAR.distances] == _distances()
    nodes = kvmaff.read_host().topology.nodes
    assert [list(row) for row in FAR.distances] == [[far for _, far in node.distances] for node in nodes]


def test_three_near_nodes_rather_than_two_far_ones(started: Guests, there: Guest) -> None:
    """A guest without cells takes three near nodes, where two would do of which one is far."""
    want = Want(parts=tuple((vcpu,) for vcpu in range(5)), near=False)
    started.start("wide", vcpus=5, node=0)
    try:
        started.up()
        (guest,), host = _guests("wide"), kvmaff.read_host()
        before = kernel_masks(guest.pid)
        _apply("wide", "--dedicated", "--strategy", "numa", "--option", "near=no")
        assert ((0, 1, 2), 2) == _is_least(guest, want, _free(there))
        kvmaff.undo()
        assert before == kernel_masks(guest.pid)
        # its memory is there, too
        near = kvmaff.place(host, [guest], "numa", dedicated=True, others=[there])
        assert [(0, 1, 2)] == [one.nodes for one in near.guests]
    finally:
        started.end("wide")


def test_cells(started: Guests, there: Guest, tmp_path: Path) -> None:
    """Guests of two cells: each cell whole in a node, the two nodes those that cost least, where one would do."""
    wants = {
        "twin": Want(parts=((0, 1), (2, 3))),
        "lopsided": Want(parts=((0, 2), (1,)), devices=(2,)),
    }
    started.start("twin", vcpus=4, node=1)
    started.start("lopsided", vcpus=3, node=0)
    (tmp_path / "twins.toml").write_text(TWINS)
    try:
        started.up()
        twin, lopsided = guests = _guests(*wants)
        before = [kernel_masks(guest.pid) for guest in guests]
        _apply(*wants, "--strategy", "numa", "--spec", str(tmp_path / "twins.toml"))
        # the larger one is placed first
        assert ((1, 2), 1) == _is_least(twin, wants["twin"], _free(there))
        assert ((0, 3), 1) == _is_least(lopsided, wants["lopsided"], _free(there, twin))
        for guest in guests:
            (others,) = {frozenset(os.sched_getaffinity(one.tid)) for one in guest.by_role(Role.EMULATOR)}
            assert others == set().union(*(os.sched_getaffinity(vcpu.tid) for vcpu in guest.vcpus))
        kvmaff.undo()
        assert before == [kernel_masks(guest.pid) for guest in guests]
    finally:
        started.end("twin", "lopsided")
