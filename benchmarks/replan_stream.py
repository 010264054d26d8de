"""Guests that come and go on one host, for ``bench_replan.py``: Nova's packing and kvmaff with more and more moves."""

from __future__ import annotations

from pathlib import Path

import attrs
from place_nova import Nova, as_nova_has_it

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.hooks.chosen import Chosen
from kvmaff.host.reader import Host
from kvmaff.placement.outcome import Outcome
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement, Unplaced
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.simulate import simulate
from kvmaff.placement.workload import Poisson
from kvmaff.testing.trees import grid

NOVA = "nova_pack"
MOVES = {"kvmaff": 0, "kvmaff_1_move": 1, "kvmaff_3_moves": 3}
LOAD = 0.9
_NEAR, _FAR = 12, 32


def host() -> Host:
    """
    Make the host: 2 packages of 4 nodes, each of 2 L3 groups of 8 cores with 2 threads.

    Returns:
        It; 256 CPUs.
    """
    made = grid(packages=2, nodes=4, l3s=8, cores=64, threads=2)

    def far(one: int, other: int) -> int:
        return 10 if one == other else _NEAR if one // 4 == other // 4 else _FAR

    nodes = made.topology.nodes
    told = tuple(
        attrs.evolve(node, distances=tuple((other.number, far(node.number, other.number)) for other in nodes))
        for node in nodes
    )
    return attrs.evolve(made, topology=attrs.evolve(made.topology, nodes=told))


class NovaPack:
    """
    Decides as Nova does where it packs nodes.

    Args:
        nova: Who answers.
    """

    def __init__(self, nova: Nova) -> None:
        self._nova = nova

    def __call__(self, request: PlacementRequest) -> Placement:
        """
        Decide.

        Args:
            request: One guest to come.

        Returns:
            Where Nova pins it.

        Raises:
            PlacementImpossible: Nova refuses.
        """
        (demand,) = request.demands
        answer = self._nova.ask({**as_nova_has_it(request), "pack": True})
        if not answer["fits"] or not answer["whole"]:
            refused = (Unplaced(name=demand.spec.name, reasons=("Nova has no place",)),)
            raise PlacementImpossible("Nova has no place", unplaced=refused)
        cpus = [CpuSet([cpu]) for cpu in answer["cpus"]]
        used = CpuSet.union_of(cpus)
        nodes = tuple(node.number for node in request.host.topology.nodes if not node.cpus.isdisjoint(used))
        place = GuestPlacement(
            spec=demand.spec,
            pid=None,
            start=None,
            threads=(
                *(ThreadPlacement(role=Role.VCPU, index=at, cpus=one) for at, one in enumerate(cpus)),
                ThreadPlacement(role=Role.EMULATOR, index=None, cpus=used),
                ThreadPlacement(role=Role.VHOST, index=None, cpus=used),
            ),
            nodes=nodes,
            score=Score(distance=0, nodes=len(nodes), l3_groups=0, shared_cores=0, broken_cores=0),
            owned=used,
        )
        return Placement(strategy="nova", guests=(place,))


def run(job: tuple[str, int, int, Path | None]) -> Outcome:
    """
    Run one stream.

    Args:
        job: Who decides, the seed, how many guests come, and the Python that has Nova.

    Returns:
        What came of it.
    """
    who, seed, arrivals, python = job
    made = host()
    guests = Poisson(cpus=len(made.topology.online), load=LOAD, count=arrivals).arrivals(seed)
    if who != NOVA:
        return simulate(made, guests, Chosen("numa"), moves=MOVES[who])
    assert python is not None
    with Nova(python) as nova:
        return simulate(made, guests, NovaPack(nova))
