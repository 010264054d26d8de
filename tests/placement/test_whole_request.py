"""All that a guest may ask, on hosts so small that every answer there is can be tried: what fits is never refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, ThreadPolicy
from kvmaff.host.isolation import Isolation
from kvmaff.host.reader import Host
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import numa, pack, spread
from kvmaff.testing import inputs_hosts as st

STRATEGIES = {
    strategy.name: strategy for module in (numa, pack, spread) for strategy in module.kvmaff_strategies()
}
_SCORE = Score(distance=0, nodes=0, l3_groups=0, shared_cores=0, broken_cores=0)
_MOST_CPUS = 5
_MOST_VCPUS = 4


@hs.composite
def small(draw: hs.DrawFn) -> PlacementRequest:
    """One guest of up to four vCPUs that may ask anything, on up to five CPUs, beside what others hold."""
    host = draw(st.hosts().filter(lambda host: len(host.topology.online) <= _MOST_CPUS))
    request = draw(st.requests(hs.just(host), guests=1))
    spec = draw(
        st.placement_specs("guest0", vcpus=_MOST_VCPUS).filter(lambda spec: spec.max_vcpus <= _MOST_VCPUS)
    )
    # a device that is nowhere is refused without a search
    there = {node.number for node in host.topology.nodes}
    nodes = tuple(node for node in spec.device_nodes if node in there)
    spec = spec.with_changes(iothreads=spec.iothreads[:1], device_nodes=nodes)
    if not there:
        spec = spec.with_changes(page_bytes=0)  # verify asks for huge pages by node
    demand = attrs.evolve(request.demands[0], spec=spec)
    if spec.thread_policy is ThreadPolicy.ISOLATE:
        # siblings that are not to be had are not known to stay empty; verify cannot see who would be there
        demand = attrs.evolve(demand, allowed=None)
        host = attrs.evolve(host, isolated=CpuSet(), isolation=Isolation())
        request = attrs.evolve(request, host=host, reserved=CpuSet(), pools=())
    return attrs.evolve(request, demands=(demand,))


def answers(request: PlacementRequest) -> Iterator[Placement]:
    """Every answer in which each thread that may float has one CPU, which is where it is least in the way."""
    (demand,) = request.demands
    spec, host = demand.spec, request.host
    cpus = list(
        host.topology.online - host.isolation.unbalanced
    )  # isolated ones are left alone unless asked for
    cells = spec.cells or (None,)
    for own in permutations(cpus, len(spec.pinned)):
        for floats in product(cpus, repeat=len(cells)) if spec.floating else ((),):
            vcpus = dict(zip(spec.pinned, own, strict=True))
            for cell, cpu in zip(cells, floats, strict=False):
                inside = spec.floating if cell is None else [v for v in cell.vcpus if v in spec.floating]
                vcpus |= dict.fromkeys(inside, cpu)
            yield from _with_others(host, demand, [vcpus[vcpu] for vcpu in range(spec.max_vcpus)], cpus)


def _with_others(host: Host, demand: Demand, vcpus: list[int], cpus: list[int]) -> Iterator[Placement]:
    spec = demand.spec
    shared = CpuSet(vcpus[vcpu] for vcpu in spec.floating or spec.pinned)
    for emulator, io in product(
        _places(spec.emulator_policy, shared, cpus),
        _places(spec.iothread_policy, shared, cpus) if spec.iothreads and spec.iothread_policy else (None,),
    ):
        threads = [
            ThreadPlacement(role=Role.VCPU, index=at, cpus=CpuSet([cpu])) for at, cpu in enumerate(vcpus)
        ]
        threads.append(ThreadPlacement(role=Role.EMULATOR, index=None, cpus=emulator))
        threads += [
            ThreadPlacement(role=Role.IOTHREAD, index=at, cpus=emulator if io is None else io)
            for at in range(len(spec.iothreads))
        ]
        nodes, used = [], CpuSet(vcpus)
        for node in host.topology.nodes:
            if node.cpus & used:
                nodes.append(node.number)
                used -= node.cpus
        place = GuestPlacement(
            spec=spec,
            pid=demand.pid,
            start=demand.start,
            threads=tuple(threads),
            nodes=tuple(nodes),
            score=_SCORE,
        )
        yield Placement(strategy="any", guests=(place,))


def _places(policy: EmulatorPolicy, shared: CpuSet, cpus: list[int]) -> list[CpuSet]:
    return [shared] if policy is EmulatorPolicy.SHARE else [CpuSet([cpu]) for cpu in cpus]


def fits(request: PlacementRequest) -> bool:
    """Whether any answer keeps every rule."""
    return any(not verify(request, answer) for answer in answers(request))


def refused(name: str, request: PlacementRequest) -> str:
    """Why a guest is refused; nothing where it has a place, which keeps every rule."""
    try:
        placement = STRATEGIES[name].place(request)
    except PlacementImpossible as error:
        return str(error)
    assert () == verify(request, placement)
    return ""


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60)
@given(request=small())
def test_what_fits_is_placed(name: str, request: PlacementRequest) -> None:
    """Where some answer keeps all rules, there is a place."""
    assume(not contradictions(request, request.demands[0]))  # what no host like it has is not searched
    why = refused(name, request)
    assert not why or not fits(request), why
