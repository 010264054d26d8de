"""Moves, steps and gains as tables: everything is in them, and names are plain text."""

from __future__ import annotations

import io

import attrs
from rich.console import Console
from rich.table import Table

from kvmaff.cpuset import CpuSet
from kvmaff.formats.moves import choices_data, clean_up_data, moves_data
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.choices import choices
from kvmaff.placement.moves import Moves
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.rebalance import rebalance
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.report.moves import choices_table, gains_table, steps_table
from kvmaff.strategies import numa, spread
from kvmaff.testing.trees import grid

NUMA = next(iter(numa.kvmaff_strategies()))
SPREAD = next(iter(spread.kvmaff_strategies()))
HOST = grid(packages=1, nodes=2, l3s=2, cores=8, threads=1)
SMALL = "[red]a[/red]"


def _shown(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(table)
    return out.getvalue()


def _full() -> PlacementRequest:
    """Two small guests, a node each, and one to come that needs a whole one."""
    specs = [GuestSpec(name=name, vcpus=1, vcpu_policy=VcpuPolicy.DEDICATED) for name in (SMALL, "b")]
    asked = PlacementRequest(host=HOST, demands=tuple(Demand(spec=spec) for spec in specs))
    places: tuple[GuestPlacement, ...] = SPREAD.place(asked).guests
    there = tuple(Demand(spec=place.spec, now=place) for place in places)
    cell = GuestCell(vcpus=(0, 1, 2, 3))
    big = GuestSpec(name="[b]big", vcpus=4, cells=(cell,), vcpu_policy=VcpuPolicy.DEDICATED)
    return attrs.evolve(asked, demands=(Demand(spec=big), *there), moves=Moves(guests=2))


def test_choices() -> None:
    """Each answer has a row: who fits with how many moves, and who is moved from where to where."""
    found = choices(_full(), NUMA.place)
    text = _shown(choices_table(found))
    assert "0 of 4 vCPUs" in text
    assert "4 of 4 vCPUs" in text
    assert "(1 vCPUs, node " in text
    assert "[b]big" in text
    data = choices_data(found)
    assert [0, 1] == [one["moves"] for one in data]
    assert [["[b]big"], []] == [one["unplaced"] for one in data]
    assert 1 == len(data[1]["moved"])


def test_steps() -> None:
    """Each step has a row with its CPUs; data says the same."""
    placement = choices(_full(), NUMA.place)[-1].placement
    assert placement is not None
    (step,) = placement.steps() or ()
    text = _shown(steps_table([step, attrs.evolve(step, waits=True)]))
    assert 2 == text.count(step.guest)
    assert 1 == text.count("waits there")
    (told,) = moves_data(placement)["steps"]
    assert {
        "guest": step.guest,
        "cpus": str(step.place.vcpu_cpus),
        "nodes": list(step.place.nodes),
        "waits": False,
    } == told
    assert {"admission": None, "moved": [], "steps": []} == moves_data(None)


def test_gains() -> None:
    """A guest that is torn gains by coming together; the row says what, level by level."""
    spec = GuestSpec(name=SMALL, vcpus=2, vcpu_policy=VcpuPolicy.DEDICATED)
    torn = PlacementRequest(host=HOST, demands=(Demand(spec=spec, allowed=CpuSet([0, 4])),))
    placement = NUMA.place(torn)
    assert placement.basis is not None
    demand = Demand(spec=spec, now=placement.guests[0])
    request = PlacementRequest(host=HOST, demands=(demand,), moves=Moves(guests=1))
    found = rebalance(request, placement.basis.objective)
    text = _shown(gains_table(found))
    assert SMALL in text
    assert "nodes 0, 1" in text
    assert "-> distance 0" in text
    data = clean_up_data(attrs.evolve(found, left_alone=(("c", "it floats"),)))
    assert [{"guest": "c", "why": "it floats"}] == data["left_alone"]
    (gain,) = data["gains"]
    before, after = (gain[side][0] for side in ("before", "after"))
    assert (SMALL, "distance", "distance", 0) == (
        gain["guest"],
        before["level"],
        after["level"],
        after["value"],
    )
    assert before["value"] > 0
