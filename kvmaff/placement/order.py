"""
In which order guests that run change places.

Each in turn goes where nobody else is then, so that no CPU is ever two guests' at once and every state on the way keeps
all rules. Where guests wait for each other in a circle, one waits elsewhere meanwhile: on CPUs that nobody has, and
that none of those who are still to go wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.placement.moves import Moved
from kvmaff.placement.objective import Objective
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.search import Search
from kvmaff.placement.verify import verify

__all__ = ["Step", "moved", "steps"]

_PLAIN = Objective(name="order", levels=(), shared_levels=())


@attrs.frozen(kw_only=True)
class Step:
    """
    One guest that changes places.

    Attributes:
        guest: Its name.
        place: Where it is after the step.
        waits: Whether it only waits there, and goes on later.
        state: All guests that run, after the step.
    """

    guest: str
    place: GuestPlacement
    waits: bool
    state: Placement = attrs.field(repr=False)


def moved(request: PlacementRequest, placement: Placement) -> tuple[Moved, ...]:
    """
    Which guests that have a place get another one.

    Args:
        request: What was asked.
        placement: The answer.

    Returns:
        Those of which a dedicated vCPU, or any of one without, changes its CPUs; in order of the request.
    """
    after = {one.spec.name: one for one in placement.guests}
    found = []
    for demand in request.demands:
        new = after.get(demand.spec.name)
        if demand.now is not None and new is not None and _vcpus(demand.now) != _vcpus(new):
            found.append(
                Moved(
                    guest=demand.spec.name,
                    vcpus=demand.spec.max_vcpus,
                    memory_bytes=demand.memory_bytes,
                    before=demand.now.nodes,
                    after=new.nodes,
                )
            )
    return tuple(found)


def steps(request: PlacementRequest, placement: Placement) -> tuple[Step, ...] | None:
    """
    Find an order in which guests change places.

    Args:
        request: What was asked; guests without a place come when all others are where they shall be.
        placement: The answer; it keeps all rules.

    Returns:
        The steps; none where nobody is moved. None where there is no order that was found.
    """
    running = tuple(demand for demand in request.demands if demand.now is not None)
    after = {one.spec.name: one for one in placement.guests}
    going = [one.guest for one in moved(request, placement)]
    asked = attrs.evolve(request, demands=running)
    at = {demand.spec.name: demand.now for demand in running if demand.now is not None}
    done: list[Step] = []
    waited: set[str] = set()
    while going:
        step = _next(asked, at, [(name, after[name]) for name in going])
        if step is None:
            step = _wait(
                asked, at, [(name, after[name]) for name in going if name not in waited], going, after
            )
            if step is None:
                return None
            waited.add(step.guest)
        else:
            going.remove(step.guest)
        at[step.guest] = step.place
        done.append(step)
    return tuple(done)


def _next(
    request: PlacementRequest, at: dict[str, GuestPlacement], going: Iterable[tuple[str, GuestPlacement]]
) -> Step | None:
    for name, place in going:
        if _free(name, place, at):
            state = _state(request, {**at, name: place})
            if state is not None:
                return Step(guest=name, place=place, waits=False, state=state)
    return None


def _wait(
    request: PlacementRequest,
    at: dict[str, GuestPlacement],
    able: Iterable[tuple[str, GuestPlacement]],
    going: Sequence[str],
    after: dict[str, GuestPlacement],
) -> Step | None:
    """Let one wait where it is in nobody's way; one with few vCPUs rather than one with many."""
    wanted = CpuSet.union_of(after[name].cpus | after[name].owned for name in going)
    for name, _ in sorted(able, key=lambda each: len(each[1].vcpu_cpus)):
        search = _search(request, {other: place for other, place in at.items() if other != name})
        demand = next(one for one in request.demands if one.spec.name == name)
        found = search.fits(demand, request.host.topology.online - wanted)
        if isinstance(found, str):
            continue
        search.note(demand, found)
        guests = {one.spec.name: one for one in search.finished()}
        if name in guests and not search.unplaced:
            state = _state(request, {**at, name: guests[name]})
            if state is not None:
                return Step(guest=name, place=guests[name], waits=True, state=state)
    return None


def _free(name: str, place: GuestPlacement, at: dict[str, GuestPlacement]) -> bool:
    """Whether a place is nobody else's now."""
    vcpus, own = place.vcpu_cpus | place.owned, place.owned
    for other, theirs in at.items():
        if other != name and not (
            vcpus.isdisjoint(theirs.owned) and own.isdisjoint(theirs.vcpu_cpus | theirs.owned)
        ):
            return False
    return True


def _state(request: PlacementRequest, at: dict[str, GuestPlacement]) -> Placement | None:
    """All guests at some places, other threads where they may be meanwhile; None where that breaks a rule."""
    search = _search(request, at)
    guests = search.finished()
    placement = Placement(strategy="order", guests=guests)
    if search.unplaced or verify(attrs.evolve(request, demands=_at(request, at)), placement):
        return None
    return placement


def _search(request: PlacementRequest, at: dict[str, GuestPlacement]) -> Search:
    search = Search(request, _PLAIN)
    for demand in _at(request, at):
        search.keep(demand)
    return search


def _at(request: PlacementRequest, at: dict[str, GuestPlacement]) -> tuple[Demand, ...]:
    there = [one for one in request.demands if one.spec.name in at]
    return tuple(attrs.evolve(one, spec=at[one.spec.name].spec, now=at[one.spec.name]) for one in there)


def _vcpus(place: GuestPlacement) -> tuple[CpuSet, ...]:
    """Where the vCPUs are that count: the dedicated ones, or all of a guest without."""
    spec = place.spec
    return tuple(place.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in spec.pinned or spec.floating)
