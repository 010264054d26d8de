"""Hosts and guests for ``bench_replan.py``: many small guests at once, and full hosts on which somebody must move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import attrs
from place_hosts import in_cells, whole_host

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.moves import Moves
from kvmaff.placement.placement import GuestPlacement, Score, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest

WHOLE = {
    "64": (64, 4, (5, 7)),
    "64_swaps": (64, 2, (5, 7)),
    "256": (256, 8, (26, 28)),
    "1024": (1024, 16, (95, 99)),
}
"""CPUs, nodes, and between how many guests ask for all of them."""


def many_small(random: Random) -> PlacementRequest:
    """
    Ask for 500 guests of one or two vCPUs on 1,024 CPUs at once.

    Args:
        random: What host and sizes depend on.

    Returns:
        The request.
    """
    host = whole_host(random, 1024, 16)
    demands = [Demand(spec=one_node(f"g{number}", random.choice((1, 1, 2)))) for number in range(500)]
    return PlacementRequest(host=host, demands=tuple(demands))


def one_node(name: str, vcpus: int) -> GuestSpec:
    """
    Make a guest of one cell.

    Args:
        name: Its name.
        vcpus: Its vCPUs, all dedicated.

    Returns:
        It.
    """
    return GuestSpec(name=name, vcpus=vcpus, cells=in_cells([vcpus]), vcpu_policy=VcpuPolicy.DEDICATED)


def parted(random: Random, size: int, nodes: int, least: int, most: int) -> list[int]:
    """
    Draw sizes of guests that fill nodes exactly.

    Args:
        random: What they depend on.
        size: CPUs of a node.
        nodes: How many nodes.
        least: At least so many guests.
        most: At most so many.

    Returns:
        The sizes, in any order.
    """
    wanted = random.randint(least, most)
    cuts: list[list[int]] = [[size] for _ in range(nodes)]
    while sum(map(len, cuts)) < wanted:
        node = random.choice(cuts)
        at = max(range(len(node)), key=node.__getitem__)
        if node[at] > 1:
            first = random.randint(1, node[at] - 1)
            node[at : at + 1] = [first, node[at] - first]
    sizes = [part for node in cuts for part in node]
    random.shuffle(sizes)
    return sizes


def full(random: Random, name: str, moves: Moves) -> PlacementRequest:
    """
    Make a host whose guests ask for all CPUs, and that were placed where most was free.

    Args:
        random: What it depends on.
        name: Which host, of ``WHOLE``.
        moves: The budget.

    Returns:
        The request: guests that have a place, and those for which there was none then.
    """
    cpus, nodes, (least, most) = WHOLE[name]
    host = whole_host(random, cpus, nodes)
    sizes = parted(random, cpus // nodes, nodes, least, most)
    return worst_fit(host, sizes, moves)


def worst_fit(host: Host, sizes: Sequence[int], moves: Moves) -> PlacementRequest:
    """
    Place guests where most is free, one after the other.

    Args:
        host: The host.
        sizes: Their vCPUs.
        moves: The budget of the request.

    Returns:
        The request.
    """
    free = [list(_by_core(host, node.cpus)) for node in host.topology.nodes]
    demands = []
    for number, size in enumerate(sizes):
        at = max(range(len(free)), key=lambda place: len(free[place]))
        spec = one_node(f"g{number}", size)
        if len(free[at]) < size:
            demands.append(Demand(spec=spec))
            continue
        taken, free[at] = free[at][:size], free[at][size:]
        place = _placed(spec, taken, host.topology.nodes[at].number, number + 1)
        demands.append(Demand(spec=spec, pid=number + 1, start=0, now=place))
    return PlacementRequest(host=host, demands=tuple(demands), moves=moves)


def needs_a_move(random: Random) -> PlacementRequest | None:
    """
    Make a host of 256 CPUs on which one guest finds room only where others move.

    Args:
        random: What it depends on.

    Returns:
        The request with a budget of two; None where this is no such host.
    """
    request = full(random, "256", Moves(guests=2))
    there = [one for one in request.demands if one.now is not None]
    come = [one for one in request.demands if one.now is None]
    if not come:
        return None
    gone = random.sample(there, 4)
    left = tuple(one for one in there if one not in gone)
    return attrs.evolve(request, demands=(random.choice(come), *left))


def _by_core(host: Host, cpus: CpuSet) -> Iterable[int]:
    for core in host.topology.cores:
        yield from core & cpus


def _placed(spec: GuestSpec, cpus: list[int], node: int, pid: int) -> GuestPlacement:
    used = CpuSet(cpus)
    return GuestPlacement(
        spec=spec,
        pid=pid,
        start=0,
        threads=(
            *(ThreadPlacement(role=Role.VCPU, index=at, cpus=CpuSet([cpu])) for at, cpu in enumerate(cpus)),
            ThreadPlacement(role=Role.EMULATOR, index=None, cpus=used),
            ThreadPlacement(role=Role.VHOST, index=None, cpus=used),
        ),
        nodes=(node,),
        score=Score(distance=0, nodes=1, l3_groups=1, shared_cores=0, broken_cores=0),
        owned=used,
    )
