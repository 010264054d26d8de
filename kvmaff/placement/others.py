"""
Where a guest's other threads run: the emulator's, IOThreads and vhost workers.

By policy: on the CPUs of its vCPUs (of a mixed guest, of those that float), on PUs of its own, or on housekeeping CPUs.
Of these it gets the nearest: the emulator to the vCPUs, IOThreads and vhost workers to the devices where the nodes of
these are known. All that are as near, as other threads of other guests are there, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec
from kvmaff.placement.board import Board
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import ThreadPlacement
from kvmaff.placement.request import Demand

__all__ = ["needs_housekeeping", "needs_others", "other_threads", "promised"]


def promised(spec: GuestSpec, objective: Objective) -> GuestSpec:
    """
    What a strategy promises for a guest's other threads, which may be more than was asked.

    Args:
        spec: What it needs.
        objective: What is wanted.

    Returns:
        The same spec; where dedicated vCPUs are kept clean, with housekeeping in place of sharing.
    """
    if not objective.keeps_house or not spec.pinned:
        return spec
    if EmulatorPolicy.SHARE not in (spec.emulator_policy, spec.iothread_policy):
        return spec
    house = {
        field: EmulatorPolicy.HOUSEKEEPING
        for field in ("emulator_policy", "iothread_policy")
        if getattr(spec, field) is EmulatorPolicy.SHARE
    }
    return spec.with_changes(**house)


def needs_housekeeping(spec: GuestSpec) -> bool:
    """
    Whether some of a guest's threads run on housekeeping CPUs.

    Args:
        spec: What is promised.

    Returns:
        True where they do.
    """
    house = EmulatorPolicy.HOUSEKEEPING
    return spec.emulator_policy is house or (spec.iothread_policy is house and bool(spec.iothreads))


def needs_others(spec: GuestSpec) -> bool:
    """
    Whether a guest needs CPUs besides those of its dedicated vCPUs, which are found when all of these have theirs.

    Args:
        spec: What is promised.

    Returns:
        True where some of its threads keep house, or some vCPUs of a mixed one float.
    """
    return needs_housekeeping(spec) or bool(spec.pinned and spec.floating)


def other_threads(
    board: Board,
    demand: Demand,
    spec: GuestSpec,
    objective: Objective,
    *,
    shared: CpuSet,
    own: Sequence[int],
    counts: Mapping[int, int],
    house: CpuSet,
) -> list[ThreadPlacement]:
    """
    Give a guest's other threads their CPUs.

    Args:
        board: The host, with all guests.
        demand: The guest.
        spec: What is promised.
        objective: What is wanted.
        shared: The CPUs that they may share with its vCPUs.
        own: PUs of their own: the emulator's, then one for each IOThread, for those that are isolated.
        counts: Its vCPUs by node number.
        house: The housekeeping CPUs.

    Returns:
        The emulator, each IOThread, vhost workers.
    """
    pus = [CpuSet([cpu]) for cpu in own]
    by_device = by_vcpu = house
    if needs_housekeeping(spec):
        by_vcpu = by_device = _nearest(board, house, counts)
        if objective.near and demand.device_nodes:
            by_device = _nearest(board, house, dict.fromkeys(demand.device_nodes, 1))
    places = {EmulatorPolicy.SHARE: shared, EmulatorPolicy.HOUSEKEEPING: by_vcpu}
    emulator = places[spec.emulator_policy] if spec.emulator_policy in places else pus.pop(0)
    threads = [ThreadPlacement(role=Role.EMULATOR, index=None, cpus=emulator)]
    policy = spec.iothread_policy or spec.emulator_policy
    places = {EmulatorPolicy.SHARE: shared, EmulatorPolicy.HOUSEKEEPING: by_device}
    for number in range(len(spec.iothreads)):
        alone = spec.iothread_policy is EmulatorPolicy.ISOLATE
        cpus = pus.pop(0) if alone else places.get(policy, emulator)
        threads.append(ThreadPlacement(role=Role.IOTHREAD, index=number, cpus=cpus))
    vhost = places.get(spec.emulator_policy, emulator)
    threads.append(ThreadPlacement(role=Role.VHOST, index=None, cpus=vhost))
    return threads


def _nearest(board: Board, cpus: CpuSet, counts: Mapping[int, int]) -> CpuSet:
    """Those of some CPUs that are nearest to some nodes, all of them."""
    if len(board.nodes) == 1:
        return cpus
    far = {
        node.number: sum(count * board.distance(node.number, other) for other, count in counts.items())
        for node in board.nodes
        if not node.cpus.isdisjoint(cpus)
    }
    least = min(far.values(), default=0)
    return cpus & CpuSet.union_of(node.cpus for node in board.nodes if far.get(node.number) == least)
