"""Dedicated guests through the strategies: never refused where they fit, at the least cost, by every rule."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.topology import CoreKind
from kvmaff.placement.board import Board
from kvmaff.placement.placement import GuestPlacement, Score
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import isolated, numa, pack
from kvmaff.testing import inputs_hosts as st

from .fit_twin import Answer, Cell, Core, Cost, Question, twin

STRATEGIES = {
    strategy.name: strategy for module in (pack, numa, isolated) for strategy in module.kvmaff_strategies()
}
every = pytest.mark.parametrize("name", STRATEGIES)


def placed(name: str, request: PlacementRequest) -> GuestPlacement | None:
    """The only guest's place, which keeps every rule; None where it is refused."""
    try:
        placement = STRATEGIES[name].place(request)
    except PlacementImpossible as error:
        (refused,) = error.unplaced
        # no host is asked about that has no CPU for other threads
        assume(not any("housekeeping CPU" in reason for reason in refused.reasons))
        return None
    assert () == verify(request, placement)
    (guest,) = placement.guests
    assert not guest.why  # it is proved
    return guest


def levels(score: Score) -> Cost:
    """The levels that the fit knows."""
    return (score.distance, score.l3_groups, score.shared_cores, score.broken_cores, score.lost)


# -- any host


@hs.composite
def alone(draw: hs.DrawFn) -> PlacementRequest:
    """One dedicated guest beside what others hold."""
    request = draw(st.requests(guests=1))
    (demand,) = request.demands
    spec = demand.spec
    if spec.vcpu_policy is not VcpuPolicy.DEDICATED:
        spec = attrs.evolve(
            spec,
            vcpu_policy=VcpuPolicy.DEDICATED,
            dedicated_vcpus=(),
            thread_policy=draw(hs.sampled_from(_thread_policies(spec))),
        )
    told = {node.number for node in request.host.topology.nodes}
    devices = tuple(node for node in spec.device_nodes if not told or node in told)
    spec = attrs.evolve(
        spec,
        emulator_policy=EmulatorPolicy.SHARE,
        iothread_policy=None,
        device_nodes=devices,
        page_bytes=0,
        **dict.fromkeys(("core_kind", "trust_domain", "pool")),
        affinity=(),
        anti_affinity=(),
    )
    held = tuple(attrs.evolve(one, trust_domain=None) for one in request.held)
    request = attrs.evolve(request, held=held, overcommit=None)
    return attrs.evolve(request, demands=(attrs.evolve(demand, spec=spec),))


def _thread_policies(spec: GuestSpec) -> list[ThreadPolicy]:
    """Those that do not contradict what it is."""
    policies = [ThreadPolicy.PREFER]
    if spec.max_vcpus % 2 == 0:
        policies.append(ThreadPolicy.REQUIRE)
    if spec.threads == 1:
        policies.append(ThreadPolicy.ISOLATE)
    return policies


def questions(name: str, request: PlacementRequest, kind: CoreKind | None) -> Iterator[Question]:
    """What a strategy asks for in the twin's terms; a later one counts where no earlier one fits."""
    (demand,) = request.demands
    spec, board = demand.spec, Board(request)
    pool = request.usable(demand) - board.used
    outside = board.isolated if name == "isolated" and board.isolated else CpuSet()
    pool = pool & outside if outside else pool - board.isolated
    if kind is not None:
        pool &= kind.cpus
    told = any(cell.memory_bytes for cell in spec.cells)
    free = {node.number: board.memory[0].get(node.number) for node in board.nodes}
    cap = [8192] * len(board.nodes)
    have: tuple[tuple[int, ...], ...] = ()
    if demand.pid is None and told:
        have = tuple((1 << 60 if amount is None else amount,) for amount in free.values())
    elif demand.pid is None:
        for at, amount in enumerate(free.values()):
            counts = range(spec.max_vcpus + 1)
            if amount is not None:  # memory is spread as the vCPUs are
                cap[at] = max(n for n in counts if -(-spec.memory_bytes * n // spec.max_vcpus) <= amount)
    rows = [
        Core(
            next((at for at, group in enumerate(board.l3) if core.first in group), -1),
            len(core),
            len(core & pool),
            place,
        )
        for place, node in enumerate(board.nodes)
        for core in sorted(board.cores, key=lambda core: core.first)
        if core.first in node.cpus
    ]
    numbers = [node.number for node in board.nodes]
    mine = [{row.group for row in rows if row.node == place} for place in range(len(numbers))]
    wide = [
        next(iter(own)) if len(own) == 1 and min(own) >= 0 and sum(own <= other for other in mine) > 1 else -1
        for own in mine
    ]
    siblings = max(spec.threads, 2 if spec.thread_policy is ThreadPolicy.REQUIRE else 1)
    for unit in dict.fromkeys((siblings, 1 if spec.thread_policy is ThreadPolicy.PREFER else siblings)):
        if spec.max_vcpus % unit:
            continue
        yield Question(
            vcpus=spec.max_vcpus,
            unit=unit,
            per_core=1 if spec.thread_policy is ThreadPolicy.ISOLATE else 0,
            whole=spec.thread_policy is ThreadPolicy.ISOLATE or name == "isolated",
            cores=tuple(rows),
            distance=tuple(tuple(100 * board.distance(one, other) for other in numbers) for one in numbers),
            near=tuple(near(board, demand, node) if name != "pack" else 0 for node in numbers),
            cap=tuple(cap),
            wide=tuple(wide),
            cells=tuple(
                Cell(len(vcpus), (memory,) if have else ()) for vcpus, memory in whole_cells(spec, unit)
            ),
            have=have,
        )


def near(board: Board, demand: Demand, node: int) -> int:
    """Hundredths of the firmware's unit from a node to what a guest has already."""
    total = sum(size for _, size in demand.memory)
    away = Fraction(sum(board.distance(node, device) for device in demand.device_nodes))
    for where, size in demand.memory if total else ():
        away += Fraction(size * board.distance(node, where), total)
    return int(100 * away + Fraction(1, 2))


def whole_cells(spec: GuestSpec, unit: int) -> list[tuple[set[int], int]]:
    """The vCPUs and memory that must be in one node: a cell's, and siblings of which each cell has some."""
    parts = [(set(cell.vcpus), cell.memory_bytes) for cell in spec.cells]
    for start in range(0, spec.max_vcpus, unit) if parts else ():
        group = set(range(start, start + unit))
        some = [part for part in parts if part[0] & group]
        parts = [part for part in parts if part not in some]
        parts.append((set().union(*(vcpus for vcpus, _ in some)), sum(memory for _, memory in some)))
    return sorted(parts, key=lambda part: -len(part[0]))


def best(name: str, request: PlacementRequest) -> Answer | None:
    """What the twin says of them; nothing where more memory is wanted than the host has, free or not."""
    (demand,) = request.demands
    told = [node.memory_bytes for node in request.host.topology.nodes]
    cells = [cell.memory_bytes for cell in demand.spec.cells]
    if demand.pid is None and told and None not in told:
        have = [size or 0 for size in told]
        if max(demand.spec.memory_bytes, sum(cells)) > sum(have) or max(cells, default=0) > max(have):
            return None
    kinds = request.host.topology.kinds
    ways = (
        each for kind in (kinds if len(kinds) > 1 else (None,)) for each in questions(name, request, kind)
    )
    answers = map(twin, ways)
    return next((answer for answer in answers if answer is not None), None)


@every
@given(request=alone())
def test_a_guest_has_the_place_that_costs_least(name: str, request: PlacementRequest) -> None:
    """A guest is refused just where the twin finds no place, and no place costs less than its own."""
    expected, actual = best(name, request), placed(name, request)
    assert (expected is None) == (actual is None)
    if expected is not None and actual is not None:
        parts, *rest = expected.cost
        assert ((parts + 50) // 100, *rest) == levels(actual.score)


@every
@given(request=alone(), data=hs.data())
def test_one_more_free_cpu_never_makes_it_impossible(
    name: str, request: PlacementRequest, data: hs.DataObject
) -> None:
    """Who has a place also has one when a guest outside lets go of a CPU."""
    if not request.held or placed(name, request) is None:
        return
    one = data.draw(hs.sampled_from(request.held))
    gone = CpuSet([data.draw(hs.sampled_from(list(one.cpus)))])
    others = tuple(other for other in request.held if other is not one)
    left = attrs.evolve(one, cpus=one.cpus - gone)
    assert placed(name, attrs.evolve(request, held=(*others, left) if left.cpus else others)) is not None


def renumbered(value: Any, new: dict[int, int]) -> Any:
    """The same host or request with other CPU numbers; groups stand in order of their first CPU, as ever."""
    if isinstance(value, CpuSet):
        return CpuSet(new[cpu] for cpu in value)
    if isinstance(value, tuple):
        turned = tuple(renumbered(one, new) for one in value)
        groups = turned and all(isinstance(one, CpuSet) for one in turned)
        return tuple(sorted(turned, key=lambda group: group.first)) if groups else turned
    if attrs.has(type(value)) and not isinstance(value, GuestSpec):
        return attrs.evolve(
            value,
            **{f.name: renumbered(getattr(value, f.name), new) for f in attrs.fields(type(value)) if f.init},
        )
    return value


@every
@given(request=alone(), data=hs.data())
def test_renumbered_cpus_cost_the_same(name: str, request: PlacementRequest, data: hs.DataObject) -> None:
    """Other CPU numbers are other CPUs in the answer, and the same cost."""
    cpus = list(request.host.topology.possible | request.host.topology.present)
    new = dict(zip(cpus, data.draw(hs.permutations(cpus)), strict=True))
    one, other = placed(name, request), placed(name, renumbered(request, new))
    assert (one and levels(one.score)) == (other and levels(other.score))
