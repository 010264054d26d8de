"""Searches for whatever a plug-in may want: any order of levels, any filter."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as hs

from kvmaff.errors import PlacementImpossible
from kvmaff.placement.objective import Grain, Level, Objective
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.solve import solve
from kvmaff.placement.verify import verify
from kvmaff.testing import inputs_hosts as st

_orders = hs.lists(hs.sampled_from(Level), min_size=1, unique=True).map(tuple)
objectives = hs.builds(
    Objective,
    name=hs.just("any"),
    levels=_orders,
    shared_levels=_orders,
    grain=hs.sampled_from(Grain),
    balance=hs.booleans(),
    whole_cores=hs.booleans(),
    from_isolated=hs.booleans(),
    housekeeping=hs.booleans(),
    near=hs.booleans(),
)


@given(st.requests(), objectives)
def test_any_objective(request: PlacementRequest, objective: Objective) -> None:
    """Whatever is wanted, every place keeps every rule, a refusal has reasons, and the same is found again."""
    answers: list[object] = []
    for _ in range(2):
        try:
            placement = solve(request, objective)
            event("placed")
        except PlacementImpossible as error:
            assert error.placement is not None
            placement = error.placement
            assert all(one.reasons for one in error.unplaced)
            placed = {guest.spec.name for guest in placement.guests}
            assert placed.isdisjoint(one.name for one in error.unplaced)
            assert len(request.demands) == len(placed) + len(error.unplaced)
            event("refused")
        rest = [one for one in verify(request, placement) if one.rule != "guests"]  # the refused are missing
        assert [] == rest
        answers.append(placement)
    assert answers[0] == answers[1]
