"""A request says at once what is wrong with it, by the field's name."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.strategies import numa
from kvmaff.testing.trees import grid

HOST = grid(packages=1, nodes=2, l3s=2, cores=8, threads=1)
NUMA = next(iter(numa.kvmaff_strategies()))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("goal", "guests", TypeError),  # a text is equal to the goal, and not the same
        ("goal", None, TypeError),
        ("moves", 1, TypeError),
        ("moves", None, TypeError),
        ("steps", -1, ValueError),
        ("steps", 1.5, ValueError),
        ("steps", "many", ValueError),
        ("steps", None, ValueError),
        ("steps", True, ValueError),
        ("seed", -1, ValueError),
        ("seed", 0.0, ValueError),
        ("seed", None, ValueError),
    ],
)
def test_what_is_wrong(field: str, value: Any, error: type[Exception]) -> None:
    """What is none of a field's values is refused with its name and the value, made or evolved."""
    with pytest.raises(error, match=f"^request: {field} is .*, not {value!r}$"):
        PlacementRequest(host=HOST, demands=(), **{field: value})
    with pytest.raises(error, match=field):
        attrs.evolve(PlacementRequest(host=HOST, demands=()), **{field: value})


@pytest.mark.parametrize(
    "said",
    [
        {"goal": Goal.GUESTS},
        {"moves": Moves(guests=2, vcpus=0, memory_bytes=0)},
        {"steps": 0},
        {"seed": 1 << 70},
    ],
)
def test_what_is_right(said: dict[str, Any]) -> None:
    """The ends of what a field takes are taken, and decided with."""
    spec = GuestSpec(name="a", vcpus=2, vcpu_policy=VcpuPolicy.DEDICATED)
    request = PlacementRequest(host=HOST, demands=(Demand(spec=spec),), **said)
    assert ["a"] == [guest.spec.name for guest in NUMA.place(request).guests]
