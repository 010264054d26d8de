"""Placements for tests of verify: by hand, and at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import Topology
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest

_SELDOM = hs.sampled_from((False,) * 7 + (True,))
NOTHING = Score(distance=0, nodes=0, l3_groups=0, shared_cores=0, broken_cores=0)


def nodes_used(topology: Topology, cpus: CpuSet) -> tuple[int, ...]:
    """The nodes of some CPUs."""
    return tuple(node.number for node in topology.nodes if not node.cpus.isdisjoint(cpus))


def place(host: Host, demand: Demand, vcpus: Sequence[str | CpuSet], others: str | CpuSet) -> GuestPlacement:
    """A guest's place: cpulists for its vCPUs in order, and one for all its other threads."""
    sets = [CpuSet.parse(cpus) if isinstance(cpus, str) else cpus for cpus in (*vcpus, others)]
    other = sets.pop()
    threads = [ThreadPlacement(role=Role.VCPU, index=at, cpus=cpus) for at, cpus in enumerate(sets)]
    threads.append(ThreadPlacement(role=Role.EMULATOR, index=None, cpus=other))
    threads += [
        ThreadPlacement(role=Role.IOTHREAD, index=at, cpus=other) for at in range(len(demand.spec.iothreads))
    ]
    threads.append(ThreadPlacement(role=Role.VHOST, index=None, cpus=other))
    return GuestPlacement(
        spec=demand.spec,
        pid=demand.pid,
        start=demand.start,
        threads=tuple(threads),
        nodes=nodes_used(host.topology, CpuSet(cpu for cpus in sets for cpu in cpus)),
        score=NOTHING,
    )


@hs.composite
def any_placements(draw: hs.DrawFn, request: PlacementRequest) -> Placement:
    """Answers that try a little: some guests right, most with this or that wrong."""
    topology = request.host.topology
    everywhere = list(topology.present)
    some = hs.lists(hs.sampled_from(everywhere), max_size=6).map(CpuSet)
    # core by core, so that siblings come together as often as not
    line = [cpu for core in draw(hs.permutations(topology.cores or (topology.online,))) for cpu in core]
    line = [cpu for cpu in line if cpu not in request.reserved] or everywhere
    guests = []
    for demand in request.demands:
        spec = demand.spec
        at = draw(hs.integers(0, len(line) - 1)) if draw(hs.booleans()) else 0
        line = line[at:] + line[:at]
        if spec.vcpu_policy is VcpuPolicy.DEDICATED:
            vcpus = [CpuSet([line[vcpu % len(line)]]) for vcpu in range(spec.max_vcpus)]
            if draw(hs.booleans()):
                line = line[spec.max_vcpus :] or line  # those that come later may stay out of the way
        else:
            vcpus = [draw(some) or topology.online - request.host.isolation.unbalanced] * spec.max_vcpus
            for vcpu in spec.dedicated_vcpus:
                vcpus[vcpu] = CpuSet([line[vcpu % len(line)]])
        mine = CpuSet(cpu for cpus in vcpus for cpu in cpus)
        others = draw(
            hs.sampled_from(
                (mine, CpuSet(line[-1:]), topology.online - request.host.isolation.unbalanced - mine)
            )
        )
        if spec.emulator_policy is EmulatorPolicy.SHARE and draw(hs.booleans()):
            others = mine
        guest = place(request.host, demand, vcpus, others)
        threads = [
            attrs.evolve(thread, **draw(_slips(spec, some))) if draw(_SELDOM) else thread
            for thread in guest.threads
        ]
        changes: dict[str, Any] = {}
        if draw(_SELDOM):
            changes = draw(
                hs.sampled_from(
                    ({"nodes": (0,)}, {"nodes": ()}, {"pid": 3}, {"start": 3}, {"threads": threads[1:]})
                )
            )
        guests.append(attrs.evolve(guest, **{"threads": threads, **changes}))
    guests = [attrs.evolve(guest, threads=tuple(guest.threads)) for guest in guests]
    match draw(hs.sampled_from(("", "", "", "", "twice", "less", "more"))):
        case "twice":
            guests.append(draw(hs.sampled_from(guests)))
        case "less":
            guests.remove(draw(hs.sampled_from(guests)))
        case "more":
            stranger = attrs.evolve(guests[0], spec=GuestSpec(name="stranger", vcpus=1))
            guests.insert(draw(hs.integers(0, len(guests))), stranger)
    return Placement(strategy="any", guests=tuple(guests))


@hs.composite
def _slips(draw: hs.DrawFn, spec: GuestSpec, some: hs.SearchStrategy[CpuSet]) -> dict[str, Any]:
    """What is wrong with one thread's place."""
    if draw(hs.sampled_from((False, False, True))):
        twice = {"role": Role.VCPU, "index": 0}
        return draw(
            hs.sampled_from(({"index": None}, {"index": spec.max_vcpus}, {"role": Role.OTHER}, twice))
        )
    return {"cpus": draw(some)}
