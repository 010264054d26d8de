"""The options of a strategy: read from texts as they are written, of the types that there are, wrong ones named."""

from __future__ import annotations

import enum
import keyword
import math
import string
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff import PluginError, PluginManager, RequestError, Strategy, hookimpl, option
from kvmaff.hooks.answers import judge_strategy
from kvmaff.hooks.blame import Origin
from kvmaff.hooks.decide import find_strategy
from kvmaff.hooks.options import build_options, near_miss, option_text
from kvmaff.placement.strategy import options_of

from .test_decide import anywhere, request

ORIGIN = Origin(name="test")


class Reach(enum.StrEnum):
    """An enum as a plug-in has one."""

    PU = "pu"
    L3 = "L3"
    NODE = "node"
    SLY = "sly"

    def __str__(self) -> str:
        return "\x1b[31m"  # a plug-in's may say anything


@attrs.frozen(kw_only=True)
class Options:
    """One of each type."""

    reach: Reach = option(Reach.PU, "how far it reaches")
    spill: bool = option(default=False, help="whether it may spill")
    most: int = option(4, "the most", validator=attrs.validators.ge(1))
    ratio: float = 1.5
    where: str = option("near", help="where")


def strategy(options: type = Options) -> Strategy:
    return Strategy(name="test", summary="a test's", place=anywhere, options=options)


def build(given: dict[str, object], options: type = Options) -> Any:
    return build_options(strategy(options), ORIGIN, given, {})


words = hs.text(
    hs.characters(categories=["L", "N", "P", "S"], exclude_characters=","), min_size=1, max_size=20
)
names = hs.text(string.ascii_lowercase + "_", min_size=2, max_size=9).filter(
    # attrs's own __init__ has a self
    lambda name: not keyword.iskeyword(name) and name.strip("_") == name and name != "self"
)
KINDS = {
    bool: hs.booleans(),
    int: hs.integers(1 - 10**18, 10**18 - 1),
    float: hs.floats(allow_nan=False, allow_infinity=False),
    str: hs.text(),
}


@hs.composite
def enums(draw: hs.DrawFn) -> type[enum.StrEnum]:
    """An enum of a plug-in's."""
    values = draw(hs.lists(words, min_size=1, max_size=5, unique=True))
    return enum.StrEnum("Choice", [(f"C{place}", value) for place, value in enumerate(values)])


@hs.composite
def classes(draw: hs.DrawFn) -> tuple[type, dict[str, Any]]:
    """A class of options, and a value for each."""
    kinds: dict[str, Any] = draw(
        hs.dictionaries(names, hs.one_of(hs.sampled_from(list(KINDS)), enums()), max_size=5)
    )
    of = {name: KINDS[kind] if kind in KINDS else hs.sampled_from(list(kind)) for name, kind in kinds.items()}
    fields = {name: option(draw(of[name]), draw(words)) for name in kinds}
    made = attrs.frozen(kw_only=True)(type("Made", (), {"__annotations__": kinds, **fields}))
    return made, {name: draw(of[name]) for name in kinds}


@given(classes())
def test_what_is_written_is_read(made: tuple[type, dict[str, Any]]) -> None:
    """Whatever options there are and whatever their values: as text they are read as what they were."""
    options, values = made
    assert [] == judge_strategy(strategy(options))
    expected = options(**values)
    assert expected == build({name: option_text(value) for name, value in values.items()}, options)
    assert expected == build(values, options)
    found = {one.name: one for one in options_of(options)}
    assert list(values) == list(found)
    for name, one in found.items():
        assert one.default == getattr(options(), name)
        assert type(getattr(options(), name)) is one.kind
        assert one.help
        assert bool(one.choices) == issubclass(one.kind, enum.Enum)


@given(
    given=hs.dictionaries(
        names | hs.sampled_from([one.name for one in attrs.fields(Options)]), hs.text() | words
    )
)
def test_everything_wrong_is_named(given: dict[str, str]) -> None:
    """Any texts give options of the right types, or a problem for each that is wrong, printable."""
    try:
        made = build(given)
    except RequestError as error:
        assert 1 <= len(error.problems) <= len(given)
        assert all(problem.isprintable() for problem in error.problems)
        good = {
            name: text for name, text in given.items() if not any(repr(name) in one for one in error.problems)
        }
        build(good)
    else:
        assert {name: type(getattr(Options(), name)) for name in given} == {
            name: type(getattr(made, name)) for name in given
        }


@pytest.mark.parametrize(
    ("text", "value"),
    [("pu", Reach.PU), (" L3 ", Reach.L3), ("l3", Reach.L3), ("NODE", Reach.NODE), (Reach.NODE, Reach.NODE)],
)
def test_a_choice(text: object, value: Reach) -> None:
    """A value of an enum is said by its text, in upper or lower case, or is itself."""
    assert value is build({"reach": text}).reach


class Other(enum.StrEnum):
    """An enum of somebody else."""

    PU = "pu"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("l33", "is one of pu, L3, node, sly, not 'l33', did you mean 'L3'?"),
        ("Nodes", "is one of pu, L3, node, sly, not 'Nodes', did you mean 'node'?"),
        ("galaxy\x1b", "is one of pu, L3, node, sly, not 'galaxy?'"),
        ("", "is one of pu, L3, node, sly, not ''"),
        (7, "is one of pu, L3, node, sly, not 7"),
        (Other.PU, "is one of pu, L3, node, sly, not <Other.PU: 'pu'>"),
    ],
)
def test_no_choice(given: object, said: str) -> None:
    """What is no value of an enum is refused with all there are, and with what was near."""
    with pytest.raises(RequestError) as caught:
        build({"reach": given})
    assert (f"option 'reach' of strategy 'test' {said}",) == caught.value.problems


def test_all_that_is_wrong_at_once() -> None:
    """Names and values that are wrong are said together, before the class sees any value."""
    with pytest.raises(RequestError) as caught:
        build({"reach": "l33", "spil": "yes", "most": "many", "ratio": "inf"})
    assert 4 == len(caught.value.problems)
    with pytest.raises(RequestError, match="options of strategy 'test': 'most' must be >= 1: 0"):
        build({"most": "0"})


def test_case_that_tells_apart() -> None:
    """Where values differ in case alone, the text as it is written counts, and another is refused."""

    class Case(enum.StrEnum):
        LOW = "on"
        HIGH = "ON"

    @attrs.frozen
    class Told:
        case: Case = Case.LOW

    Told.__annotations__["case"] = Case  # a local class, which a text cannot name
    assert [Case.LOW, Case.HIGH] == [build({"case": text}, Told).case for text in ("on", "ON")]
    with pytest.raises(RequestError, match="is one of on, ON, not 'On'"):
        build({"case": "On"}, Told)


def test_near_misses() -> None:
    """The nearest word is suggested as it is written, and none where none is near."""
    assert ", did you mean 'L3'?" == near_miss(" l33", ["L3", "pu"])
    assert not near_miss("galaxy", ["L3", "pu"])


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_a_default_may_be_endless(number: float) -> None:
    """A default that no text says is one all the same, and is written as Python does."""

    @attrs.frozen
    class Endless:
        most: float = number

    Endless.__annotations__["most"] = float
    assert [] == judge_strategy(strategy(Endless))
    assert repr(number) == option_text(options_of(Endless)[0].default)


def manager(options: type) -> PluginManager:
    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_strategies():
            return [strategy(options)]

    made = PluginManager()
    made.register(Plugin, "saboteur")
    return made


@attrs.frozen
class Failing:
    """Options whose class fails in a way of its own."""

    depth: int = 1

    def __attrs_post_init__(self) -> None:
        raise LookupError("\x1b[2J")


def test_a_class_of_options_that_fails() -> None:
    """That is the plug-in's failure, under its name."""
    with pytest.raises(PluginError) as caught:
        manager(Failing).decide(request("a"), "test", {"depth": "2"})
    assert "plug-in 'saboteur': the options of strategy 'test' failed: LookupError: ?[2J" == str(caught.value)


def test_options_in_a_request_are_of_their_types() -> None:
    """A program that puts a text where a type belongs gets the type, or is told what is wrong."""
    seen = []
    made = manager(Options)
    made.strategies()  # asked once
    found, _ = find_strategy(made, "test")
    assert Options is found.options

    class Looks:
        @staticmethod
        @hookimpl
        def kvmaff_check_placement(request):
            seen.append(request.options)

    made.register(Looks, "looks")
    made.decide(request("a", options=Options(reach="l3", spill="yes", ratio=2)), "test")
    assert [Options(reach=Reach.L3, spill=True, ratio=2.0)] == seen
    assert Reach.L3 is seen[0].reach
    with pytest.raises(RequestError) as caught:
        made.decide(request("a", options=Options(reach="near", spill=None)), "test")
    assert 2 == len(caught.value.problems)
