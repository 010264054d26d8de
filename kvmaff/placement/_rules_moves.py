"""The rule about guests that run: how many of them may be moved."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from kvmaff.guest.guest import Role
from kvmaff.placement._legible import Case, Complaint, Place, names_text
from kvmaff.placement.placement import GuestPlacement, Placement

__all__ = ["moves"]


def moves(case: Case) -> Iterator[Complaint]:
    """No more guests that have a place get another one than the budget allows."""
    movers = [place for place in case.places if place.demand.now and _moved(place, place.demand.now)]
    if not movers or not _exceeded(case, movers):
        return
    movers = [place for place in movers if place.name not in _homeless(case)]
    if wrong := _exceeded(case, movers):
        yield None, f"{names_text([place.name for place in movers])} moved: {wrong}"


def _moved(place: Place, now: GuestPlacement) -> bool:
    """Whether a dedicated vCPU, or any of a guest without such, has other CPUs than before."""
    counted = place.pinned or place.vcpus
    before = {thread.index: thread.cpus.bits for thread in now.threads if thread.role is Role.VCPU}
    return any(before.get(thread.index) != thread.bits for thread in counted)


def _exceeded(case: Case, movers: list[Place]) -> str:
    budget = case.request.moves
    if len(movers) > budget.guests:
        return f"{len(movers)} guest{'s' if len(movers) > 1 else ''}, more than the budget of {budget.guests}"
    vcpus = sum(place.demand.spec.max_vcpus for place in movers)
    if budget.vcpus is not None and vcpus > budget.vcpus:
        return f"{vcpus} vCPUs, more than the budget of {budget.vcpus}"
    size = sum(place.demand.memory_bytes for place in movers)
    if budget.memory_bytes is not None and size > budget.memory_bytes:
        return f"{size} bytes of memory, more than the budget of {budget.memory_bytes}"
    return ""


def _homeless(case: Case) -> set[str | None]:
    """Guests whose place breaks a rule as it is, so that they have to leave it."""
    from kvmaff.placement.verify import verify  # noqa: PLC0415 - asked rarely, and it asks this

    there = [demand for demand in case.request.demands if demand.now is not None]
    now = Placement(strategy="now", guests=tuple(demand.now for demand in there if demand.now is not None))
    return {one.guest for one in verify(attrs.evolve(case.request, demands=tuple(there)), now)}
