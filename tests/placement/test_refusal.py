"""What a refusal says would help, done: it does help."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import event, given
from hypothesis import strategies as hs

from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import EmulatorPolicy, ThreadPolicy, VcpuPolicy
from kvmaff.placement.placement import Remedy
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import isolated, numa, pack, spread
from kvmaff.testing import inputs_hosts as st

STRATEGIES = {
    strategy.name: strategy
    for module in (isolated, numa, pack, spread)
    for strategy in module.kvmaff_strategies()
}


def done(request: PlacementRequest, remedy: Remedy) -> PlacementRequest:
    """The request as a reader of the remedy would change it."""
    (demand,) = request.demands
    if remedy.what == "guest":
        return attrs.evolve(request, held=[one for one in request.held if one.name != remedy.to])
    if remedy.what == "option":
        assert "anywhere=yes" == remedy.to
        return attrs.evolve(request, options=isolated.IsolatedOptions(anywhere=True))
    if remedy.what in {"cells", "memory"}:
        changes: dict[str, Any] = {"cells": (), "memory_bytes": 0, "page_bytes": 0}
    elif remedy.what == "vcpus":
        changes = {"vcpus": int(remedy.to), "max_vcpus": int(remedy.to), "cells": ()}
    elif remedy.what == "vcpu_policy":
        changes = {
            "vcpu_policy": VcpuPolicy.SHARED,
            "dedicated_vcpus": (),
            "thread_policy": ThreadPolicy.PREFER,
        }
        changes |= {"emulator_policy": EmulatorPolicy.SHARE, "iothread_policy": None}
    elif remedy.what == "affinity":
        changes = {"affinity": (), "anti_affinity": ()}
    elif remedy.what in {"page_bytes", "pool"}:
        changes = {remedy.what: int(remedy.to) if remedy.to else None}
    elif remedy.what == "core_kind":
        changes = {"core_kind": remedy.to}
    elif remedy.what == "thread_policy":
        changes = {"thread_policy": ThreadPolicy(remedy.to)}
    else:
        changes = dict.fromkeys(remedy.what.split("+"), EmulatorPolicy(remedy.to))
        assert changes.keys() <= {"emulator_policy", "iothread_policy"}
    return attrs.evolve(request, demands=[attrs.evolve(demand, spec=demand.spec.with_changes(**changes))])


def remedies(name: str, request: PlacementRequest) -> tuple[Remedy, ...]:
    """What would help a guest that is refused; nothing where it is placed."""
    try:
        STRATEGIES[name].place(request)
    except PlacementImpossible as error:
        (unplaced,) = error.unplaced
        return unplaced.remedies
    return ()


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=st.requests(guests=1), data=hs.data())
def test_what_would_help_does(name: str, request: PlacementRequest, data: hs.DataObject) -> None:
    """Each single change that a refusal names gives the guest a place that keeps every rule."""
    (demand,) = request.demands
    if not demand.spec.cells and not demand.spec.dedicated_vcpus:  # more often too big than they come
        pairs = demand.spec.thread_policy is ThreadPolicy.REQUIRE and demand.spec.threads == 1
        size = data.draw(hs.integers(1, 20)) * (2 if pairs else demand.spec.threads)
        spec = demand.spec.with_changes(vcpus=size, max_vcpus=size)
        request = attrs.evolve(request, demands=[attrs.evolve(demand, spec=spec)])
    for remedy in remedies(name, request):
        event(remedy.what)
        changed = done(request, remedy)
        placement = STRATEGIES[name].place(changed)
        assert () == verify(changed, placement), remedy
