"""Guests whose memory is bound to nodes, on real NUMA kernels: placed where it is, bound, read back, undone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import kvmaff
from kvmaff.binding.survey import demands_of, free_memory
from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.formats.matching import specs_for
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.memory import memory_by_node
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.verify import verify

from ..conftest import kernel_masks, needs_qemu
from .guests import BOUND_MIB, Guests
from .machine import Machine, Node

FOUR = Machine.parse("4x4")
LOPSIDED = Machine(
    sockets=2,
    cores=2,
    threads=2,
    # Linux numbers nodes without CPUs last
    nodes=(Node(cpus="0-3", memory=640), Node(cpus="4-7", memory=0), Node(memory=384)),
    distances=((10, 20, 32), (20, 10, 12), (32, 12, 10)),
)
LARGE = Machine.parse("4x16")

FLEET = {"a": (4, 3), "b": (4, 2), "c": (4, 1), "d": (2, 0), "e": (2, 0)}  # vCPUs, node; 16 of 16 CPUs
POLICIES = {"shared": VcpuPolicy.SHARED, "dedicated": VcpuPolicy.DEDICATED}
_SECONDS = 20

pytestmark = [needs_qemu, pytest.mark.usefixtures("state_dir")]


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    """Guests of one test."""
    with Guests(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """Guests with as many vCPUs as the machine has CPUs, which all its tests move about."""
    with Guests(tmp_path_factory.mktemp("fleet")) as started:
        for name, (vcpus, node) in FLEET.items():
            started.start(name, vcpus=vcpus, node=node)
        started.up()
        yield started


def _place(
    host: Host, guests: Sequence[Guest], strategy: str, policy: VcpuPolicy = VcpuPolicy.SHARED
) -> Placement:
    """Place guests, and hold the answer against every rule once more."""
    placement = kvmaff.place(host, guests, strategy, dedicated=policy is VcpuPolicy.DEDICATED)
    if strategy == "isolated":
        policy = VcpuPolicy.DEDICATED
    asked = specs_for((), guests, default=policy).running
    request = PlacementRequest(
        host=host, demands=tuple(demands_of(host, asked, ())), memory=free_memory(host)
    )
    assert () == verify(request, placement)
    assert len(guests) == len(placement.guests)
    return placement


def _apply(host: Host, placement: Placement, *, running: bool = True) -> None:
    """Bind, ask the kernel thread by thread, see running vCPUs get there; undo, and ask again."""
    pids = [one.pid for one in placement.guests if one.pid is not None]
    before = {pid: kernel_masks(pid) for pid in pids}
    assert kvmaff.plan(host, placement).apply().ok
    bound = {}
    for placed, guest in zip(placement.guests, kvmaff.guests(host), strict=True):
        for thread in guest.threads:
            cpus = placed.cpus_of(thread.role, thread.index)
            assert cpus == CpuSet(os.sched_getaffinity(thread.tid))
            bound[guest.pid, thread.tid] = cpus
    assert len(bound) == sum(map(len, before.values()))
    assert not kvmaff.plan(host)
    deadline = time.monotonic() + _SECONDS
    for (pid, tid), cpus in bound.items():
        if running and Path(f"/proc/{pid}/task/{tid}/comm").read_text().startswith("CPU "):
            while int(_stat(pid, tid)[36]) not in cpus:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert kvmaff.undo().ok
    assert before == {pid: kernel_masks(pid) for pid in pids}


def _stat(pid: int, tid: int) -> list[str]:
    """What stat says behind the thread's name: its state first, its CPU as number 36."""
    return Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()


def _once(placement: Placement) -> CpuSet:
    """Return the CPUs of all vCPUs, each of which belongs to one of them."""
    taken = [one.cpus for guest in placement.guests for one in guest.threads if one.role is Role.VCPU]
    union = CpuSet.union_of(taken)
    assert [1] * len(taken) == [len(cpus) for cpus in taken]
    assert len(taken) == len(union)
    return union


@pytest.mark.inside(FOUR, timeout=120)
def test_memory_is_found(fleet: Guests) -> None:
    """Most of each guest's memory is on the node that it is bound to, all of what the guest itself has."""
    for name, (_, node) in FLEET.items():
        memory = dict(memory_by_node(fleet.pid(name)))
        assert node == max(memory, key=lambda one: memory[one])
        assert BOUND_MIB << 20 <= memory[node] < 2 * BOUND_MIB << 20


@pytest.mark.inside(FOUR, timeout=120)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("strategy", ["numa", "pack", "spread"])
def test_a_full_machine(fleet: Guests, strategy: str, policy: str) -> None:
    """Guests that fill the machine: every strategy places all of them, numa each on the node of its memory."""
    host = kvmaff.read_host()
    placement = _place(host, kvmaff.guests(host), strategy, POLICIES[policy])
    if strategy == "numa":
        assert [(node,) for _, node in FLEET.values()] == [guest.nodes for guest in placement.guests]
    if policy == "dedicated":
        assert host.topology.online == _once(placement)
    _apply(host, placement)


@pytest.mark.inside(FOUR, timeout=120)
def test_isolated(fleet: Guests) -> None:
    """Isolated asks for a housekeeping CPU beside all vCPUs; with one core left, emulators are there and only there."""
    host = kvmaff.read_host()
    with pytest.raises(PlacementImpossible, match="no housekeeping CPU would be left"):
        kvmaff.place(host, kvmaff.guests(host), "isolated")
    fleet.end("e")
    try:
        placement = _place(host, kvmaff.guests(host), "isolated")
        assert [(node,) for _, node in FLEET.values()][:4] == [guest.nodes for guest in placement.guests]
        left = host.topology.online - _once(placement)
        assert [2, 2] == [len(left), len(left & host.topology.nodes[0].cpus)]
        assert {left} == {guest.cpus_of(Role.EMULATOR) for guest in placement.guests}
        _apply(host, placement)
    finally:
        fleet.start("e", vcpus=FLEET["e"][0], node=FLEET["e"][1])
        fleet.up()


@pytest.mark.inside(FOUR, timeout=120)
def test_one_too_many(fleet: Guests, guests: Guests) -> None:
    """Where dedicated guests have taken every CPU, the next one is refused, and the others' places are there."""
    guests.start("zz", vcpus=1, node=0)
    guests.up()
    host = kvmaff.read_host()
    with pytest.raises(PlacementImpossible, match="zz: node 0 has 0 of 4 CPUs for it") as caught:
        kvmaff.place(host, kvmaff.guests(host), "numa", dedicated=True)
    assert ["zz"] == [one.name for one in caught.value.unplaced]
    assert caught.value.placement is not None
    assert host.topology.online == _once(caught.value.placement)


@pytest.mark.inside(LOPSIDED, timeout=120)
@pytest.mark.parametrize("strategy", ["numa", "pack", "spread", "isolated"])
def test_a_node_without_cpus(guests: Guests, strategy: str) -> None:
    """A node without CPUs never gets a vCPU; memory there draws a guest to the nearest CPUs, which have no memory."""
    guests.start("far", vcpus=2, node=2, memory=160)
    guests.start("near", vcpus=2, node=0, memory=160)
    guests.up()
    host = kvmaff.read_host()
    assert [4, 4, 0] == [len(node.cpus) for node in host.topology.nodes]
    policies = [VcpuPolicy.DEDICATED] if strategy == "isolated" else list(POLICIES.values())
    for policy in policies:
        placement = _place(host, kvmaff.guests(host), strategy, policy)
        assert not any(2 in guest.nodes for guest in placement.guests)
        if strategy in {"numa", "isolated"}:
            assert [(1,), (0,)] == [guest.nodes for guest in placement.guests]
        if policy is VcpuPolicy.DEDICATED:
            _once(placement)
    _apply(host, placement)


@pytest.mark.inside(LOPSIDED, timeout=120)
def test_a_node_without_memory() -> None:
    """A node without memory says so, and is no place for a guest to come that says what it needs."""
    host = kvmaff.read_host()
    assert 0 == host.topology.nodes[1].memory_bytes
    assert (1, 0) == free_memory(host)[1]
    specs = 'policy = "dedicated"\nvcpus = 4\nmemory = "100 MiB"\n'
    text = "".join(f'[[guest]]\nname = "{name}"\n{specs}' for name in ("one", "two"))
    with pytest.raises(PlacementImpossible) as caught:
        kvmaff.place(host, specs=parse_specs(text, "two.toml"))
    assert caught.value.placement is not None
    assert [(0,)] == [guest.nodes for guest in caught.value.placement.guests]
    (two,) = caught.value.unplaced
    assert "node 1 has 4 of 4 CPUs for it and 0.0 GiB of memory free" in two.reasons
    assert {"it would fit without its memory", "it would fit if one were out of the way"} <= {*two.reasons}


@pytest.mark.inside(LARGE, timeout=240)
def test_many_cpus(guests: Guests) -> None:
    """64 CPUs in four nodes, filled by four guests of 16 dedicated vCPUs, each where its memory is."""
    nodes = (2, 0, 3, 1)
    for node in nodes:
        guests.start(f"on-{node}", vcpus=16, node=node, paused=True)
    guests.up()
    host = kvmaff.read_host()
    placement = _place(host, kvmaff.guests(host), "numa", VcpuPolicy.DEDICATED)
    assert {f"on-{node}": (node,) for node in nodes} == {one.spec.name: one.nodes for one in placement.guests}
    assert CpuSet.parse("0-63") == _once(placement)
    _apply(host, placement, running=False)
