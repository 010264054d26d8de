"""For every rule of verify, a plug-in whose strategy breaks just that one: decide refuses its answer."""

from __future__ import annotations

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementRefused
from kvmaff.hooks.manager import PluginManager
from kvmaff.hooks.specs import hookimpl
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import Held, PlacementRequest
from kvmaff.placement.strategy import Strategy
from kvmaff.placement.verify import RULES

from ..placement import test_verify_saboteurs_where as where
from ..placement.test_verify_saboteurs import GOOD, REQUEST, SABOTEURS


class Saboteur:
    """A plug-in with one strategy, which has its answer ready whatever is asked."""

    def __init__(self, answer: Placement) -> None:
        self._answer = answer

    @hookimpl
    def kvmaff_strategies(self) -> tuple[Strategy, ...]:
        return (Strategy(name="sly", summary="a test's", place=lambda _: self._answer),)


class Reserving:
    """A plug-in that reserves what the request of the saboteurs does."""

    @hookimpl
    def kvmaff_reserved_cpus(self) -> CpuSet:
        return REQUEST.reserved


def manager(answer: Placement) -> PluginManager:
    """A manager that knows nobody but a saboteur."""
    made = PluginManager()
    made.register(Saboteur(answer), "saboteur")
    return made


def refused(made: PluginManager, request: PlacementRequest) -> PlacementRefused:
    """How the saboteur's answer is refused."""
    with pytest.raises(PlacementRefused) as caught:
        made.decide(request, "sly", None)
    return caught.value


def test_a_good_answer_is_used() -> None:
    """What breaks no rule passes, under the strategy's own name: it is the breach alone that is refused."""
    for good, request in ((GOOD, REQUEST), (where.GOOD, where.REQUEST)):
        assert attrs.evolve(good, strategy="sly") == manager(good).decide(request, "sly", None)


def asked(words: tuple[str, ...]) -> PlacementRequest:
    """What is asked of a saboteur: what is said of it may name a guest that only it has beside it."""
    if "'late'" not in words:
        return REQUEST
    late = Held(name="late", cpus=CpuSet([29]), dedicated=False)
    return attrs.evolve(REQUEST, held=(*REQUEST.held, late))


ALL = (*((asked(one[-1]), *one) for one in SABOTEURS), *where.SABOTEURS)


@pytest.mark.parametrize(
    ("demanded", "rule", "guest", "placement", "words"),
    ALL,
    ids=[f"{one[1]}-{number}" for number, one in enumerate(ALL)],
)
def test_saboteur(
    demanded: PlacementRequest, rule: str, guest: str | None, placement: Placement, words: tuple[str, ...]
) -> None:
    """An answer that breaks one rule is refused with the strategy, the plug-in, that rule alone, and what is wrong."""
    error = refused(manager(placement), demanded)
    assert "sly" == error.strategy
    assert {(rule, guest)} == {(one.rule, one.guest) for one in error.violations}
    first, *lines = str(error).splitlines()
    assert "the answer of strategy 'sly' (plug-in 'saboteur') is refused:" == first
    assert len(error.violations) == len(lines)
    assert [] == [line for line in lines if not line.endswith(f" [{rule}]")]
    assert [] == [word for word in (repr(guest) if guest else "", *words) if word not in "\n".join(lines)]


def test_every_rule_is_broken_once() -> None:
    """No rule is without a strategy that breaks it."""
    assert set(RULES) == {rule for _, rule, *_ in ALL}


def test_what_another_plugin_reserves_is_reserved() -> None:
    """CPUs that only a plug-in reserves are kept from a strategy's answer as those of the request are."""
    (placement,) = [placement for rule, _, placement, _ in SABOTEURS if rule == "reserved"]
    free = attrs.evolve(REQUEST, reserved=CpuSet())
    made = manager(placement)
    assert placement.guests == made.decide(free, "sly", None).guests
    made.register(Reserving(), "reserving")
    assert {"reserved"} == {one.rule for one in refused(made, free).violations}
