"""The compiled fit: it answers as its plain twin does, and the twin as trying everything does."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmaff.placement._fit import fit_node

from .fit_twin import Answer, Core, Question, brute_force, cost_of, possible_takes, twin

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(question: Question) -> Answer:
    """The engine under test, asked as the twin is."""
    return question.ask(fit_node)


both = pytest.mark.parametrize("answer", [compiled, twin])


@st.composite
def some_cores(draw: st.DrawFn, *, totals: tuple[int, ...], max_size: int) -> tuple[Core, ...]:
    """Cores of a ragged node: any SMT, siblings offline, groups uneven and interleaved."""
    core = st.sampled_from(totals).flatmap(
        lambda total: st.builds(
            Core,
            group=st.integers(0, 3),
            total=st.just(total),
            free=st.just(total) | st.integers(0, total),
        )
    )
    return tuple(draw(st.lists(core, min_size=1, max_size=max_size)))


@st.composite
def questions(
    draw: st.DrawFn, *, totals: tuple[int, ...] = (1, 2, 2, 3, 4, 8), max_cores: int = 10
) -> Question:
    """Questions that a node may be asked, most of which have an answer."""
    cores = draw(some_cores(totals=totals, max_size=max_cores))
    unit = draw(st.sampled_from((1, 1, 1, 2, 4)))
    most = sum(core.free for core in cores) // unit + 1
    return Question(
        vcpus=unit * draw(st.integers(1, most)),
        unit=unit,
        per_core=draw(st.just(0) | st.integers(unit, 8)),
        whole=draw(st.booleans()),
        cores=cores,
    )


tiny = questions(totals=(1, 2, 3, 4), max_cores=5)


@given(questions())
def test_engine_answers_as_its_twin(question: Question) -> None:
    """The compiled engine and its plain twin give the same takes at the same cost."""
    assert twin(question) == compiled(question)


@given(tiny)
def test_twin_answers_as_brute_force(question: Question) -> None:
    """The twin finds what trying every combination finds, ties included."""
    assert brute_force(question) == twin(question)


@given(tiny)
def test_engine_answers_as_brute_force(question: Question) -> None:
    """Nothing that fits is refused, nothing costs less, and ties are broken as promised."""
    assert brute_force(question) == compiled(question)


@given(questions(max_cores=40))
def test_answer_keeps_every_rule(question: Question) -> None:
    """Takes add up, each is one that its core allows, and the cost is that of the definition."""
    answer = compiled(question)
    if answer is None:
        return
    takes, cost = answer
    assert question.vcpus == sum(takes)
    for core, take in zip(question.cores, takes, strict=True):
        assert take in possible_takes(question, core)
    assert cost_of(question.cores, takes) == cost


@given(questions(max_cores=40))
def test_none_means_too_little_room(question: Question) -> None:
    """There is an answer exactly when the cores have room for all vCPUs."""
    room = sum(max(possible_takes(question, core)) for core in question.cores)
    assert (room >= question.vcpus) == (compiled(question) is not None)


@given(questions(), st.data())
def test_one_more_free_pu_never_hurts(question: Question, data: st.DataObject) -> None:
    """What fits also fits when one more PU of any core is free."""
    at = data.draw(st.integers(0, len(question.cores) - 1))
    core = question.cores[at]
    more = attrs.evolve(core, free=min(core.total, core.free + 1))
    richer = attrs.evolve(question, cores=(*question.cores[:at], more, *question.cores[at + 1 :]))
    assert compiled(question) is None or compiled(richer) is not None


@given(questions(), st.data())
def test_order_of_cores_does_not_change_the_cost(question: Question, data: st.DataObject) -> None:
    """The cores in another order cost the same."""
    cores = tuple(data.draw(st.permutations(question.cores)))
    one, other = compiled(question), compiled(attrs.evolve(question, cores=cores))
    assert (one and one[1]) == (other and other[1])


@given(questions(), st.permutations([-(10**30), -1, 7, 10**30]))
def test_names_of_groups_do_not_matter(question: Question, names: list[int]) -> None:
    """Groups may be called by any integers; only their order of appearance counts."""
    cores = tuple(attrs.evolve(core, group=names[core.group]) for core in question.cores)
    assert compiled(question) == compiled(attrs.evolve(question, cores=cores))


@settings(deadline=None)  # starting threads takes the time it takes
@given(st.lists(questions(), min_size=2, max_size=8))
def test_threads_do_not_disturb_one_another(asked: list[Question]) -> None:
    """Asked again, and from several threads at once, the answers are the same."""
    alone = [compiled(question) for question in asked]
    with ThreadPoolExecutor(4) as pool:
        assert alone == list(pool.map(compiled, asked))


# -- the objective, level by level


def ask(vcpus: int, *cores: tuple[int, int, int], **rest: Any) -> Question:
    """A question about cores given as (group, total, free)."""
    return Question(vcpus=vcpus, cores=tuple(Core(*core) for core in cores), **rest)


@both
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        pytest.param(
            ask(4, (0, 2, 2), (1, 2, 2), (2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1)),
            ([0, 0, 1, 1, 1, 1], (1, 4, 0, 0)),
            id="fewer L3 groups before fewer shared cores",
        ),
        pytest.param(
            ask(1, (0, 2, 1), (0, 2, 2)),
            ([0, 1], (1, 0, 1, 2)),
            id="fewer shared cores before fewer broken ones",
        ),
        pytest.param(
            ask(3, (0, 2, 2), (0, 2, 2), (1, 2, 2), (1, 2, 2), (1, 1, 1)),
            ([0, 0, 2, 0, 1], (1, 0, 0, 2)),
            id="fewer broken cores before less left over",
        ),
        pytest.param(
            ask(2, (0, 2, 2), (0, 2, 2), (1, 2, 2), (1, 2, 0)),
            ([0, 0, 2, 0], (1, 0, 0, 0)),
            id="the tightest group before a roomier one",
        ),
        pytest.param(
            ask(3, (7, 2, 2), (3, 2, 2), (7, 2, 2), (3, 2, 2)),
            ([2, 0, 1, 0], (1, 0, 1, 1)),
            id="the earliest group, and its earliest cores",
        ),
        pytest.param(
            ask(6, (0, 8, 8), (0, 4, 4), (0, 2, 2)),
            ([0, 4, 2], (1, 0, 0, 8)),
            id="cores of several sizes that add up exactly",
        ),
        pytest.param(
            ask(160, (0, 100, 100), (0, 90, 90), (0, 60, 60)),
            ([100, 0, 60], (1, 0, 0, 90)),
            id="the same with more PUs than a word has bits",
        ),
        pytest.param(
            ask(4, (0, 2, 1), (0, 2, 1), (0, 2, 2), (0, 2, 2), unit=2),
            ([0, 0, 2, 2], (1, 0, 0, 2)),
            id="a lone free sibling serves no pair",
        ),
        pytest.param(
            ask(2, (0, 2, 2), (0, 2, 2), (0, 2, 2), per_core=1),
            ([1, 1, 0], (1, 0, 2, 4)),
            id="one vCPU a core, siblings kept empty",
        ),
        pytest.param(
            ask(3, (0, 2, 1), (0, 2, 2), (0, 2, 2), whole=True),
            ([0, 2, 1], (1, 0, 1, 2)),
            id="whole cores only",
        ),
        pytest.param(
            ask(5, (0, 8, 4), (0, 8, 4), (0, 3, 3), (0, 3, 3), per_core=2),
            ([2, 0, 2, 1], (1, 1, 2, 9)),
            id="no more shared cores than there must be",
        ),
        pytest.param(
            ask(6, (0, 3, 3), (0, 3, 3), (0, 8, 4), unit=2),
            ([2, 0, 4], (1, 1, 1, 4)),
            id="a shared core that must be used may spare others",
        ),
        pytest.param(
            ask(5, (0, 1, 1), (1, 4, 4), (2, 2, 2), (2, 1, 0)),
            ([1, 4, 0, 0], (2, 0, 0, 0)),
            id="groups of uneven size",
        ),
        pytest.param(ask(3, (0, 2, 2), (1, 2, 0)), None, id="too few free PUs"),
        pytest.param(ask(2, (0, 2, 1), (0, 1, 1), unit=2), None, id="enough PUs, but no pair"),
        pytest.param(ask(1, (0, 2, 1), whole=True), None, id="no whole core"),
        pytest.param(ask(1, (0, 0, 0)), None, id="a core whose PUs are all offline"),
        pytest.param(ask(1), None, id="no core"),
    ],
)
def test_objective(answer: Callable[[Question], Answer], question: Question, expected: Answer) -> None:
    """Each level of the objective, and each policy, decides where it should."""
    assert expected == answer(question)


# -- large nodes: 8,192 PUs, where every level of the cost may reach its bound


@pytest.mark.parametrize(
    ("question", "cost"),
    [
        pytest.param(ask(4097, *((c // 8, 2, 2) for c in range(4096))), (257, 0, 1, 15), id="512 groups"),
        pytest.param(ask(4096, *((0, 2, 1) for _ in range(4096))), (1, 4096, 0, 0), id="all shared"),
        pytest.param(
            ask(4096, *((0, 2, 2) for _ in range(4096)), per_core=1),
            (1, 0, 4096, 4096),
            id="all broken",
        ),
        pytest.param(ask(8192, *((c, 1, 1) for c in range(8192))), (8192, 0, 0, 0), id="8192 groups"),
        pytest.param(ask(4097, *((0, 1, 1) for _ in range(8192))), (1, 0, 0, 4095), id="one group"),
        pytest.param(ask(1, *((0, 1, 1) for _ in range(8192))), (1, 0, 0, 8191), id="all left"),
        pytest.param(ask(8192, (0, 8192, 8192)), (1, 0, 0, 0), id="one core"),
        pytest.param(ask(8190, (0, 8192, 8192), unit=2), (1, 0, 1, 2), id="nearly one core"),
    ],
)
def test_largest_node(question: Question, cost: tuple[int, int, int, int]) -> None:
    """A node of 8,192 PUs is fitted exactly, and no level of the cost runs into the next."""
    answer = compiled(question)
    assert answer is not None
    assert question.vcpus == sum(answer[0])
    assert cost == answer[1]
    assert cost == cost_of(question.cores, answer[0])


@pytest.mark.parametrize("groups", [1, 40, 700])
def test_largest_ragged_node(groups: int) -> None:
    """A large node with every kind of core, half used, keeps all rules; the capacity is met exactly."""
    random = Random(groups)  # the same node each time
    totals = [random.choice((1, 2, 4, 8)) for _ in range(2000)]
    cores = tuple(
        Core(random.randrange(groups), total, random.choice((total, random.randint(0, total))))
        for total in totals
    )
    room = sum(core.free // 2 * 2 for core in cores)
    for vcpus in (2, room // 4 * 2, room):
        question = Question(vcpus=vcpus, unit=2, cores=cores)
        answer = compiled(question)
        assert answer is not None
        assert vcpus == sum(answer[0])
        assert cost_of(cores, answer[0]) == answer[1]
        for core, take in zip(cores, answer[0], strict=True):
            assert take in possible_takes(question, core)
    assert compiled(Question(vcpus=room + 2, unit=2, cores=cores)) is None


# -- bad input


GOOD: dict[str, Any] = {
    "vcpus": 2,
    "unit": 1,
    "per_core": 0,
    "whole": False,
    "groups": [0, 0],
    "totals": [2, 2],
    "frees": [2, 2],
}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vcpus": 0}, "vcpus is a number from 1 to 8192, not 0"),
        ({"vcpus": -3}, "vcpus is a number from 1 to 8192, not -3"),
        ({"vcpus": 8193}, "vcpus is a number from 1 to 8192, not 8193"),
        ({"vcpus": 10**30}, f"vcpus is a number from 1 to 8192, not {10**30}"),
        ({"unit": 0}, "unit is a number from 1 to 8192, not 0"),
        ({"vcpus": 3, "unit": 2}, "vcpus is 3, which is no multiple of unit, 2"),
        ({"unit": 4}, "vcpus is 2, which is no multiple of unit, 4"),
        ({"per_core": -1}, "per_core is a number from 0 to 8192, not -1"),
        ({"unit": 2, "per_core": 1}, "per_core is 1, less than unit, 2"),
        ({"groups": [0]}, "groups, totals and frees are of one length, not 1, 2 and 2"),
        ({"totals": [2]}, "groups, totals and frees are of one length, not 2, 1 and 2"),
        ({"frees": [2, 2, 2]}, "groups, totals and frees are of one length, not 2, 2 and 3"),
        ({"totals": [2, -1]}, "totals[1] is a number from 0 to 8192, not -1"),
        ({"totals": [2, 8193]}, "totals[1] is a number from 0 to 8192, not 8193"),
        ({"totals": [2, 8191]}, "totals add up to more than 8192 at totals[1]"),
        ({"frees": [-2, 2]}, "frees[0] is a number from 0 to 8192, not -2"),
        ({"frees": [2, 2**64]}, f"frees[1] is a number from 0 to 8192, not {2**64}"),
        ({"frees": [2, 3]}, "frees[1] is 3, more than totals[1], which is 2"),
        (
            {name: [0] * 8193 for name in ("groups", "totals", "frees")},
            "the length of groups is a number from 0 to 8192, not 8193",
        ),
    ],
)
def test_bad_numbers(bad: dict[str, Any], message: str) -> None:
    """A question that makes no sense is a ValueError that names field, index and value."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_node(**GOOD | bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vcpus": 2.0}, "vcpus is an integer, not 2.0"),
        ({"unit": None}, "unit is an integer, not None"),
        ({"groups": [0, "0"]}, "groups[1] is an integer, not '0'"),
        ({"totals": [2, 2.5]}, "totals[1] is an integer, not 2.5"),
        ({"frees": [None, 2]}, "frees[0] is an integer, not None"),
    ],
)
def test_bad_types(bad: dict[str, Any], message: str) -> None:
    """What is no integer is a TypeError that names field, index and value."""
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        fit_node(**GOOD | bad)
