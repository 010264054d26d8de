"""One decision: the strategy is found, asked with its options, and its answer used only if it keeps every rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from kvmaff import (
    CpuSet,
    Demand,
    GuestPlacement,
    GuestSpec,
    Host,
    Placement,
    PlacementImpossible,
    PlacementRefused,
    PlacementRequest,
    PluginError,
    PluginManager,
    RequestError,
    Role,
    Score,
    Strategy,
    ThreadPlacement,
    Topology,
    Unplaced,
    Violation,
    hookimpl,
)

ALL, NONE = CpuSet.parse("0-3"), CpuSet()


def request(*names: str, **more: Any) -> PlacementRequest:
    """Shared guests of two vCPUs on a host of four CPUs of which nothing more is told."""
    levels = dict.fromkeys(("packages", "dies", "clusters", "cores", "l2", "l3", "nodes"), ())
    topology = Topology(possible=ALL, present=ALL, online=ALL, **levels)
    host = Host(root="/recorded", topology=topology, isolated=CpuSet(), nohz_full=CpuSet())
    demands = tuple(Demand(spec=GuestSpec(name=name, vcpus=2)) for name in names)
    return PlacementRequest(host=host, demands=demands, **more)


def anywhere(asked: PlacementRequest, *, why: tuple[str, ...] = (), minus: CpuSet = NONE) -> Placement:
    """Every guest on every CPU that it may use."""
    guests = []
    for demand in asked.demands:
        cpus = asked.usable(demand) - minus
        roles = [*((Role.VCPU, n) for n in range(demand.spec.max_vcpus)), (Role.EMULATOR, None)]
        guests.append(
            GuestPlacement(
                spec=demand.spec,
                pid=demand.pid,
                start=demand.start,
                threads=tuple(ThreadPlacement(role=role, index=index, cpus=cpus) for role, index in roles),
                nodes=(),
                score=Score(
                    distance=0, nodes=0, l3_groups=1, shared_cores=0, broken_cores=0, load=500, left=0
                ),
                why=why,
            )
        )
    return Placement(strategy="whoever", guests=tuple(guests))


@attrs.frozen(kw_only=True)
class Options:
    """One of each type."""

    spill: bool = False
    most: int = attrs.field(default=4, validator=attrs.validators.ge(1))
    ratio: float = 1.5
    where: str = "near"


def manager(place: Callable[[PlacementRequest], Any] = anywhere, *, options: type = Options) -> PluginManager:
    """A manager with the strategies "test", which decides so, and "other", which has the option "depth"."""

    @attrs.frozen
    class Other:
        depth: int = 1

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_strategies():
            yield Strategy(name="test", summary="a test's", place=place, options=options)
            yield Strategy(name="other", summary="a test's", place=place, options=Other)

    made = PluginManager()
    made.register(Plugin, "saboteur")
    return made


def objecting(answer: Any) -> type:
    """A plug-in that answers so what is wrong with a placement."""

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_check_placement(request, placement):
            return answer(request, placement) if callable(answer) else answer

    return Plugin


# -- what works


def test_an_answer_that_keeps_the_rules() -> None:
    """The strategy's answer comes back under the strategy's own name, its sentences printable."""
    placement = manager(lambda asked: anywhere(asked, why=("\x1b[31mred",))).decide(request("a", "b"), "test")
    assert "test" == placement.strategy
    assert ["a", "b"] == [guest.spec.name for guest in placement.guests]
    assert {("?[31mred",)} == {guest.why for guest in placement.guests}


def test_reserved_cpus_are_in_the_request() -> None:
    """What plug-ins reserve is added to what the request reserves, and the strategy sees both."""
    seen = []

    class Plugin:
        @staticmethod
        @hookimpl
        def kvmaff_reserved_cpus(topology):
            return CpuSet([topology.online.first])

    made = manager(lambda asked: seen.append(asked) or anywhere(asked))
    made.register(Plugin, "reserving")
    placement = made.decide(request("a", reserved=CpuSet([1])), "test")
    assert CpuSet([0, 1]) == seen[0].reserved
    assert CpuSet([2, 3]) == placement.guests[0].cpus


# -- finding


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tets", "no strategy 'tets', did you mean 'test'? there are: other, test"),
        ("Test", "no strategy 'Test', did you mean 'test'? there are: other, test"),
        ("numa", "no strategy 'numa'; there are: other, test"),
        ("\x1b[2J", "no strategy '?[2J'; there are: other, test"),
    ],
)
def test_an_unknown_strategy(name: str, said: str) -> None:
    """The near miss is suggested, and all there are listed."""
    with pytest.raises(RequestError) as caught:
        manager().decide(request("a"), name)
    assert said == str(caught.value)


def test_an_unknown_strategy_names_the_suspects() -> None:
    """Where a plug-in does not work or is disabled, it may have had the strategy: the error says so."""
    from importlib.metadata import EntryPoint

    points = [EntryPoint(name=name, value="no_such_module", group="kvmaff") for name in ("lost", "off")]
    with pytest.raises(RequestError) as caught:
        PluginManager.load(points, disable="of?").decide(request("a"), "mine")
    assert (
        "no strategy 'mine'; there is none at all",
        "plug-in 'lost' does not work, 'off' is disabled by KVMAFF_DISABLE_PLUGINS: see 'kvmaff plugins'",
    ) == caught.value.problems


# -- options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Options()),
        (None, Options()),
        (
            {"spill": "Yes", "most": " 7", "ratio": "2", "where": "far"},
            Options(spill=True, most=7, ratio=2.0, where="far"),
        ),
        (
            {"spill": True, "most": 7, "ratio": 2, "where": ""},
            Options(spill=True, most=7, ratio=2.0, where=""),
        ),
        *(({"spill": word}, Options(spill=True)) for word in ("true", "1", "TRUE")),
        *(({"spill": word}, Options()) for word in ("no", "false", "0")),
    ],
)
def test_options(given: dict[str, object] | None, expected: Options) -> None:
    """Texts as a person types them and values as a program has them become the strategy's own options."""
    seen = []
    made = manager(lambda asked: seen.append(asked.options) or anywhere(asked))
    made.decide(request("a"), "test", given)
    assert [expected] == seen
    assert type(expected) is type(seen[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"spil": "yes"}, "strategy 'test' has no option 'spil', did you mean 'spill'?"),
        ({"depth": "1"}, "strategy 'test' has no option 'depth', 'other' has"),
        (
            {"zzz": "1"},
            (
                "strategy 'test' has no option 'zzz'; it has most (a whole number), ratio (a number), "
                "spill (yes or no), where (a text)"
            ),
        ),
        ({"spill": "maybe"}, "option 'spill' of strategy 'test' is yes or no, not 'maybe'"),
        ({"spill": 1}, "option 'spill' of strategy 'test' is yes or no, not 1"),
        ({"most": "4.5"}, "option 'most' of strategy 'test' is a whole number, not '4.5'"),
        ({"most": True}, "option 'most' of strategy 'test' is a whole number, not True"),
        ({"most": "9" * 5000}, "option 'most' of strategy 'test' is a whole number, not '" + "9" * 59 + "…'"),
        ({"ratio": "nan"}, "option 'ratio' of strategy 'test' is a number, not 'nan'"),
        ({"ratio": 10**400}, "option 'ratio' of strategy 'test' is a number, not 1" + "0" * 58 + "…"),
        ({"where": 3}, "option 'where' of strategy 'test' is a text, not 3"),
        ({"most": "0"}, "options of strategy 'test': 'most' must be >= 1: 0"),
        ({"where": "a", "most": "b", "spil": "c"}, None),
    ],
)
def test_wrong_options(given: dict[str, object], said: str | None) -> None:
    """Each wrong option is named, with what was near, who has it, or what it should be; all of them at once."""
    with pytest.raises(RequestError) as caught:
        manager().decide(request("a"), "test", given)
    if said is not None:
        assert (said,) == caught.value.problems
    else:
        assert 2 == len(caught.value.problems)


def test_a_dash_counts_as_an_underscore() -> None:
    """max-cores is max_cores; both at once is the same option twice."""

    @attrs.frozen
    class Long:
        max_cores: int = 1

    made = manager(options=Long)
    assert made.decide(request("a"), "test", {"max-cores": "3"})
    with pytest.raises(RequestError, match="option 'max_cores' of strategy 'test' is given twice"):
        made.decide(request("a"), "test", {"max-cores": "3", "max_cores": "4"})


def test_options_in_the_request() -> None:
    """A request may bring its options, of the strategy's own class and not beside others."""
    seen = []
    made = manager(lambda asked: seen.append(asked.options) or anywhere(asked))
    made.decide(request("a", options=Options(most=9)), "test")
    assert [Options(most=9)] == seen
    with pytest.raises(RequestError) as caught:
        made.decide(request("a", options=7), "test", {"most": "1"})
    assert 2 == len(caught.value.problems)


# -- answers


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda _: 1 / 0, "strategy 'test' failed: ZeroDivisionError: division by zero"),
        (lambda _: exec("raise SystemExit('\x1b')"), "strategy 'test' failed: SystemExit: ?"),
        (lambda asked: asked.no_such_field, "strategy 'test' failed: AttributeError: "),
        (lambda _: None, "strategy 'test' gave a value of type NoneType, no Placement"),
        (lambda asked: [anywhere(asked)], "strategy 'test' gave a value of type list, no Placement"),
    ],
)
def test_a_strategy_that_fails(place: Callable[[PlacementRequest], Any], said: str) -> None:
    """Whatever else a strategy does than answer is an error with the plug-in's and the strategy's name."""
    with pytest.raises(PluginError) as caught:
        manager(place).decide(request("a"), "test")
    assert str(caught.value).startswith(f"plug-in 'saboteur': {said}")
    assert "saboteur" == caught.value.plugin


def test_keyboard_interrupt_passes() -> None:
    """Ctrl-C while a strategy thinks is the user's."""
    with pytest.raises(KeyboardInterrupt):
        manager(lambda _: exec("raise KeyboardInterrupt")).decide(request("a"), "test")


def test_a_broken_rule_is_refused() -> None:
    """An answer that breaks rules is refused with the strategy, the plug-in and every violation."""

    def half(asked: PlacementRequest) -> Placement:
        (guest,) = anywhere(asked).guests
        threads = (attrs.evolve(guest.threads[0], cpus=CpuSet([9])), *guest.threads[2:])
        return Placement(strategy="x", guests=(attrs.evolve(guest, threads=threads),))

    with pytest.raises(PlacementRefused) as caught:
        manager(half).decide(request("a"), "test")
    rules = {violation.rule for violation in caught.value.violations}
    assert {"threads", "online"} <= rules
    assert "test" == caught.value.strategy
    text = str(caught.value)
    assert text.startswith("the answer of strategy 'test' (plug-in 'saboteur') is refused:\nguest 'a': ")
    assert all(f"[{rule}]" in text for rule in rules)


@pytest.mark.parametrize("guests", [None, [], (7,), (Score,)])
def test_a_misshapen_answer_is_refused(guests: Any) -> None:
    """A Placement whose parts are of wrong types is refused, and raises nothing else."""
    with pytest.raises(PlacementRefused):
        manager(lambda _: Placement(strategy="x", guests=guests)).decide(request("a"), "test")


# -- objections


def test_any_objection_refuses() -> None:
    """What one plug-in objects refuses the placement, whatever others say; each message says whose it is."""
    made = manager()
    made.register(objecting(None), "silent")
    made.register(objecting(()), "content")
    made.register(
        objecting([Violation(rule="licence", guest="a", message="\x1b[5m two sockets only")]), "strict"
    )
    with pytest.raises(PlacementRefused) as caught:
        made.decide(request("a"), "test")
    (violation,) = caught.value.violations
    assert ("licence", "a") == (violation.rule, violation.guest)
    assert "plug-in 'strict' objects: ?[5m two sockets only" == violation.message
    assert str(caught.value).endswith("guest 'a': plug-in 'strict' objects: ?[5m two sockets only [licence]")


def test_objections_are_asked_of_what_keeps_the_rules() -> None:
    """A plug-in sees the verified placement and the whole request, reserved CPUs and options included."""
    seen = []
    made = manager()
    made.register(objecting(lambda *both: seen.append(both)), "looks")
    placement = made.decide(request("a"), "test")
    ((asked, shown),) = seen
    assert placement == shown
    assert Options() == asked.options
    broken = manager(lambda asked: anywhere(asked, minus=ALL))
    broken.register(objecting(lambda *both: seen.append(both)), "looks")
    with pytest.raises(PlacementRefused):
        broken.decide(request("a"), "test")
    assert 1 == len(seen)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("no", "kvmaff_check_placement gave a value of type str, not an iterable"),
        (True, "kvmaff_check_placement gave a value of type bool, not an iterable"),
        (["no"], "kvmaff_check_placement: a value of type str is no Violation"),
        (
            [Violation(rule="r", guest=None, message=7)],
            "kvmaff_check_placement: a Violation's fields are texts",
        ),
        (lambda *_: 1 / 0, "kvmaff_check_placement failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_bad_objection_stops_the_decision(answer: Any, said: str) -> None:
    """One whose say is not known might have refused: there is no placement, and the error has its name."""
    made = manager()
    made.register(objecting(answer), "bad")
    with pytest.raises(PluginError) as caught:
        made.decide(request("a"), "test")
    assert f"plug-in 'bad': {said}" == str(caught.value)


# -- no place


def impossible(**details: Any) -> Callable[[PlacementRequest], Placement]:
    """A strategy that raises PlacementImpossible with these details."""

    def place(asked: PlacementRequest) -> Placement:
        raise PlacementImpossible("no \x1b[1mroom\nat all", **details)

    return place


NOWHERE = (Unplaced(name="b", reasons=("no room\x07", "be smaller")),)


def test_impossible_passes_through() -> None:
    """Who has no place, why, and the places of the others come through, printable and under the strategy's name."""

    def place(asked: PlacementRequest) -> Placement:
        others = attrs.evolve(asked, demands=asked.demands[:1])
        return impossible(unplaced=NOWHERE, placement=anywhere(others), hint=3)(asked)

    with pytest.raises(PlacementImpossible) as caught:
        manager(place).decide(request("a", "b"), "test")
    error = caught.value
    assert "no ?[1mroom\nat all" == str(error)
    assert (Unplaced(name="b", reasons=("no room?", "be smaller")),) == error.unplaced
    assert ("test", ["a"]) == (
        error.placement.strategy,
        [guest.spec.name for guest in error.placement.guests],
    )
    assert {"hint": 3}.items() <= error.details.items()


def test_the_places_of_the_others_keep_the_rules_too() -> None:
    """A part of an answer is verified as a whole one is."""

    def place(asked: PlacementRequest) -> Placement:
        others = attrs.evolve(asked, demands=asked.demands[:1])
        return impossible(unplaced=NOWHERE, placement=anywhere(others, minus=ALL))(asked)

    with pytest.raises(PlacementRefused):
        manager(place).decide(request("a", "b"), "test")


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({}, "it does not name the guests without a place"),
        ({"unplaced": ()}, "it does not name the guests without a place"),
        ({"unplaced": ("b",)}, "it does not name the guests without a place"),
        ({"unplaced": (Unplaced(name="b", reasons=()),)}, "it names a guest without a reason: 'b'"),
        (
            {"unplaced": (Unplaced(name="z", reasons=("r",)),)},
            "it finds no place for 'z', which was not asked",
        ),
        ({"unplaced": NOWHERE, "placement": 7}, "gave a value of type int, no Placement"),
    ],
)
def test_impossible_without_reasons(details: dict[str, Any], said: str) -> None:
    """Whoever finds no place must say for whom and why: else that is the plug-in's failure."""
    with pytest.raises(PluginError) as caught:
        manager(impossible(**details)).decide(request("a", "b"), "test")
    assert said in str(caught.value)
    assert str(caught.value).startswith("plug-in 'saboteur': strategy 'test'")
