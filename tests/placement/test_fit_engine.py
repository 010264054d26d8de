"""The compiled fit: it answers as its plain twin does, and the twin as trying everything does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmaff.placement._fit import fit_host

from .fit_twin import UNKNOWN, Answer, Core, Cost, Question, brute_force, possible_takes, problems, twin
from .questions import questions


def compiled(question: Question) -> Answer | None:
    """The engine under test, asked as the twin is."""
    return question.ask(fit_host)


def cost(answer: Answer | None) -> Cost | None:
    """What it costs, if there is one."""
    return answer and answer.cost


both = pytest.mark.parametrize("answer", [compiled, twin])
tiny = questions(totals=(1, 2, 3, 4), nodes=3, cores=5)
small = questions(most=12)
large = questions(nodes=9, cores=60, most=400)


@given(small)
def test_engine_answers_as_its_twin(question: Question) -> None:
    """The compiled engine and its plain twin find the same cost, or that there is no answer."""
    assert cost(twin(question)) == cost(compiled(question))


@given(questions(nodes=1))
def test_inside_a_node_the_takes_are_the_twins(question: Question) -> None:
    """Inside one node even ties are broken as promised."""
    expected, actual = twin(question), compiled(question)
    assert (expected and expected.takes) == (actual and actual.takes)


@given(tiny)
def test_twin_answers_as_brute_force(question: Question) -> None:
    """The twin finds what trying every combination finds."""
    assert cost(brute_force(question)) == cost(twin(question))


@given(questions(totals=(1, 2, 3, 4), nodes=1, cores=5))
def test_inside_a_node_the_twins_takes_are_those_of_brute_force(question: Question) -> None:
    """Ties included."""
    expected, actual = brute_force(question), twin(question)
    assert (expected and expected.takes) == (actual and actual.takes)


@given(tiny)
def test_engine_answers_as_brute_force(question: Question) -> None:
    """Nothing that fits is refused, and nothing costs less."""
    assert cost(brute_force(question)) == cost(compiled(question))


@given(questions(totals=(1, 2, 3), nodes=3, cores=6, cells=True))
def test_cells_are_placed_as_by_brute_force(question: Question) -> None:
    """The same of guests that have cells."""
    assert cost(brute_force(question)) == cost(compiled(question))


@given(large)
def test_answer_keeps_every_rule(question: Question) -> None:
    """Takes add up, each is one that its core allows, cells are whole, and the cost is that of the definition."""
    answer = compiled(attrs.evolve(question, steps=1 << 14))
    if answer not in {None, UNKNOWN}:
        assert answer is not None
        assert [] == problems(question, answer)


@given(questions(nodes=6, cores=40, most=200, cells=False))
def test_none_means_too_little_room(question: Question) -> None:
    """Without cells there is an answer exactly when the nodes have room for all vCPUs."""
    room = 0
    for node in range(question.nodes):
        here = sum(max(possible_takes(question, question.cores[place])) for place in question.members(node))
        room += min(here, question.cap[node] // question.unit * question.unit)
    assert (room >= question.vcpus) == (compiled(question) is not None)


@given(small, st.integers(1, 60))
def test_a_search_that_is_cut_short(question: Question, steps: int) -> None:
    """After few steps there is an answer that keeps every rule, no worse than it says, or nobody knows; never none."""
    best, short = compiled(question), compiled(attrs.evolve(question, steps=steps))
    assert best is None or best.proved
    if short is None or best is None:
        assert best is None
        assert short in {None, UNKNOWN}
        return
    if short is UNKNOWN:
        assert question.cells  # all else is found at once
        return
    assert [] == problems(question, short)
    assert best.cost <= short.cost
    if short.proved:
        assert best.cost == short.cost


@given(small, st.data())
def test_one_more_free_pu_never_hurts(question: Question, data: st.DataObject) -> None:
    """What fits also fits when one more PU of any core is free."""
    at = data.draw(st.integers(0, len(question.cores) - 1))
    core = question.cores[at]
    more = attrs.evolve(core, free=min(core.total, core.free + 1))
    richer = attrs.evolve(question, cores=(*question.cores[:at], more, *question.cores[at + 1 :]))
    assert compiled(question) is None or compiled(richer) is not None


@given(small, st.data())
def test_order_of_cores_and_nodes_does_not_change_the_cost(question: Question, data: st.DataObject) -> None:
    """The cores and the nodes in another order cost the same."""
    order = data.draw(st.permutations(range(question.nodes)))  # new place -> old one
    cores = [
        attrs.evolve(question.cores[place], node=new)
        for new, old in enumerate(order)
        for place in data.draw(st.permutations(question.members(old)))
    ]
    turned = attrs.evolve(
        question,
        cores=tuple(cores),
        distance=tuple(tuple(question.distance[one][other] for other in order) for one in order),
        near=tuple(question.near[old] for old in order),
        cap=tuple(question.cap[old] for old in order),
        wide=tuple(question.wide[old] for old in order),
        have=tuple(question.have[old] for old in order) if question.have else (),
    )
    assert cost(compiled(question)) == cost(compiled(turned))


@given(small, st.permutations([-(2**31), -1, 7, 2**31 - 1]))
def test_names_of_groups_do_not_matter(question: Question, names: list[int]) -> None:
    """Groups may be called by any integers; only their order of appearance counts."""
    cores = tuple(attrs.evolve(core, group=names[core.group]) for core in question.cores)
    assert compiled(question) == compiled(attrs.evolve(question, cores=cores))


@settings(max_examples=50)
@given(st.lists(small, min_size=2, max_size=8))
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
            ([0, 0, 1, 1, 1, 1], (1, 4, 0)),
            id="fewer L3 groups before fewer shared cores",
        ),
        pytest.param(
            ask(1, (0, 2, 1), (0, 2, 2)),
            ([0, 1], (1, 0, 1)),
            id="fewer shared cores before fewer broken ones",
        ),
        pytest.param(
            ask(3, (0, 2, 2), (0, 2, 2), (1, 2, 2), (1, 2, 2), (1, 1, 1)),
            ([0, 0, 2, 0, 1], (1, 0, 0)),
            id="fewer broken cores before less left over",
        ),
        pytest.param(
            ask(2, (0, 2, 2), (0, 2, 2), (1, 2, 2), (1, 2, 0)),
            ([0, 0, 2, 0], (1, 0, 0)),
            id="the tightest group before a roomier one",
        ),
        pytest.param(
            ask(3, (7, 2, 2), (3, 2, 2), (7, 2, 2), (3, 2, 2)),
            ([2, 0, 1, 0], (1, 0, 1)),
            id="the earliest group, and its earliest cores",
        ),
        pytest.param(
            ask(6, (0, 8, 8), (0, 4, 4), (0, 2, 2)),
            ([0, 4, 2], (1, 0, 0)),
            id="cores of several sizes that add up exactly",
        ),
        pytest.param(
            ask(160, (0, 100, 100), (0, 90, 90), (0, 60, 60)),
            ([100, 0, 60], (1, 0, 0)),
            id="the same with more PUs than a word has bits",
        ),
        pytest.param(
            ask(4, (0, 2, 1), (0, 2, 1), (0, 2, 2), (0, 2, 2), unit=2),
            ([0, 0, 2, 2], (1, 0, 0)),
            id="a lone free sibling serves no pair",
        ),
        pytest.param(
            ask(2, (0, 2, 2), (0, 2, 2), (0, 2, 2), per_core=1),
            ([1, 1, 0], (1, 0, 2)),
            id="one vCPU a core, siblings kept empty",
        ),
        pytest.param(
            ask(3, (0, 2, 1), (0, 2, 2), (0, 2, 2), whole=True),
            ([0, 2, 1], (1, 0, 1)),
            id="whole cores only",
        ),
        pytest.param(
            ask(5, (0, 8, 4), (0, 8, 4), (0, 3, 3), (0, 3, 3), per_core=2),
            ([2, 0, 2, 1], (1, 1, 2)),
            id="no more shared cores than there must be",
        ),
        pytest.param(
            ask(6, (0, 3, 3), (0, 3, 3), (0, 8, 4), unit=2),
            ([2, 0, 4], (1, 1, 1)),
            id="a shared core that must be used may spare others",
        ),
        pytest.param(
            ask(5, (0, 1, 1), (1, 4, 4), (2, 2, 2), (2, 1, 0)),
            ([1, 4, 0, 0], (2, 0, 0)),
            id="groups of uneven size",
        ),
        pytest.param(ask(3, (0, 2, 2), (1, 2, 0)), None, id="too few free PUs"),
        pytest.param(ask(2, (0, 2, 1), (0, 1, 1), unit=2), None, id="enough PUs, but no pair"),
        pytest.param(ask(1, (0, 2, 1), whole=True), None, id="no whole core"),
        pytest.param(ask(1, (0, 0, 0)), None, id="a core whose PUs are all offline"),
        pytest.param(ask(1), None, id="no core"),
    ],
)
def test_objective(
    answer: Callable[[Question], Answer | None],
    question: Question,
    expected: tuple[list[int], tuple[int, int, int]] | None,
) -> None:
    """Each level of the objective, and each policy, decides where it should."""
    actual = answer(question)
    assert expected == (actual and (list(actual.takes), actual.cost[1:4]))
