"""The compiled fit over several nodes: distances, caps, L3 groups of several nodes, cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations, product
from random import Random
from typing import Any

import attrs
import pytest

from kvmaff.placement._fit import fit_host

from .fit_twin import ENDLESS, UNKNOWN, Answer, Cell, Core, Question, brute_force, by_node, problems, twin


def compiled(question: Question) -> Answer | None:
    """The engine under test, asked as the twin is."""
    return question.ask(fit_host)


both = pytest.mark.parametrize("answer", [compiled, twin])


def flat(
    rooms: Sequence[int], vcpus: int, far: dict[tuple[int, int], int] | int = 11, **rest: Any
) -> Question:
    """A question about nodes of so many single-thread cores, all free; distances by pair."""
    count = len(rooms)
    pairs = far if isinstance(far, dict) else dict.fromkeys(product(range(count), repeat=2), far)
    return Question(
        vcpus=vcpus,
        cores=tuple(Core(0, 1, 1, node) for node, room in enumerate(rooms) for _ in range(room)),
        distance=tuple(
            tuple(0 if one == other else pairs[min(one, other), max(one, other)] for other in range(count))
            for one in range(count)
        ),
        **{
            "near": (0,) * count,
            "cap": (8192,) * count,
            "wide": (-1,) * count,
            **rest,
        },
    )


def sockets(*sizes: int, inside: int = 2, between: int = 22) -> dict[tuple[int, int], int]:
    """Distances of nodes in sockets of so many."""
    socket = [at for at, size in enumerate(sizes) for _ in range(size)]
    return {
        (one, other): inside if socket[one] == socket[other] else between
        for one, other in product(range(len(socket)), repeat=2)
    }


@both
@pytest.mark.parametrize(
    ("question", "counts", "distance"),
    [
        pytest.param(flat([4, 4], 4), None, 0, id="one node where one has room"),
        pytest.param(flat([3, 4, 3], 4), [0, 4, 0], 0, id="whichever has"),
        pytest.param(
            flat([8, 8, 1], 10, {(0, 1): 100, (0, 2): 1, (1, 2): 1}),
            None,
            809,
            id="a node that could be left out saves distance between two others",
        ),
        pytest.param(
            flat([2, 2, 2, 2, 3, 3, 3, 3], 8, sockets(4, 4)),
            [0, 0, 0, 0, None, None, None, None],
            2 * (9 + 6 + 6),
            id="three of a socket",
        ),
        pytest.param(
            flat([2, 2, 2, 2, 3, 2, 0, 0], 8, sockets(4, 4)),
            [2, 2, 2, 2, 0, 0, 0, 0],
            6 * 4 * 2,
            id="four nodes of one socket before three of two",
        ),
        pytest.param(flat([4, 4, 4], 4, near=(3, 2, 3)), [0, 4, 0], 8, id="where the guest's devices are"),
        pytest.param(flat([2, 2, 8], 4, near=(0, 0, 50)), [2, 2, 0], 44, id="near counts as distances do"),
        pytest.param(flat([2, 2, 8], 4, near=(0, 0, 10)), [0, 0, 4], 40, id="both ways"),
        pytest.param(flat([8, 8], 6, cap=(3, 4)), None, 88, id="memory makes it use two nodes"),
        pytest.param(flat([8, 8], 8, cap=(3, 4)), None, None, id="and a third is not there"),
        pytest.param(flat([2, 2, 2], 7), None, None, id="too little room in all"),
        pytest.param(flat([0, 0, 4, 0], 3), [0, 0, 3, 0], 0, id="nodes without cores"),
        pytest.param(flat([0, 0, 4, 0], 5), None, None, id="only one node with cores, and too few"),
    ],
)
def test_distance(
    answer: Callable[[Question], Answer | None],
    question: Question,
    counts: list[int | None] | None,
    distance: int | None,
) -> None:
    """The nodes are those that are the least distance apart."""
    found = answer(question)
    assert distance == (found and found.cost[0])
    if found is not None:
        actual = by_node(question, found.takes)
        for expected, count in zip(counts or [None] * len(actual), actual, strict=True):
            assert expected in {None, count}


def test_a_wide_l3_group_counts_once() -> None:
    """Of nodes that are equally far apart, those in one L3 group are taken."""
    question = flat([4, 4, 4, 4], 8, wide=(0, 1, -1, 1))
    found = compiled(question)
    assert found is not None
    assert [0, 4, 0, 4] == by_node(question, found.takes)
    assert (16 * 11, 1) == found.cost[:2]


def test_groups_are_told_apart_inside_a_node_only() -> None:
    """Two nodes' groups of one number are two, unless they are said to be one."""
    question = flat([4, 4], 8)
    found = compiled(question)
    assert found is not None
    assert 2 == found.cost[1]


def test_the_place_that_is_worth_least_to_others() -> None:
    """Of nodes and groups that cost the same, the one whose holes are worth least."""
    question = flat([12, 6, 9], 6)
    found = compiled(question)
    assert found is not None
    assert [0, 6, 0] == by_node(question, found.takes)


@both
@pytest.mark.parametrize(
    ("question", "cells"),
    [
        pytest.param(flat([4, 4], 8, cells=(Cell(4), Cell(4))), {(0, 1), (1, 0)}, id="a node each"),
        pytest.param(flat([8, 8], 8, cells=(Cell(4), Cell(4))), {(0, 0), (1, 1)}, id="or one for both"),
        pytest.param(flat([1, 1, 1], 4, cells=(Cell(2), Cell(1), Cell(1))), None, id="none for the larger"),
        pytest.param(
            flat([2, 1, 1], 4, cells=(Cell(2), Cell(1), Cell(1))), {(0, 1, 2), (0, 2, 1)}, id="unequal"
        ),
        pytest.param(flat([3, 3], 6, cells=(Cell(4), Cell(2))), None, id="a cell larger than any node"),
        pytest.param(
            flat([3, 3], 6, cells=(Cell(2), Cell(2), Cell(2))), None, id="room, but no place for the third"
        ),
        pytest.param(
            flat([8, 8, 8], 8, cells=(Cell(4, (5,)), Cell(4, (4,))), have=((4,), (8,), (5,))),
            {(2, 0), (2, 1), (1, 0)},
            id="memory for one a node",
        ),
        pytest.param(
            flat([8, 8], 8, cells=(Cell(4, (5, 0)), Cell(4, (0, 5))), have=((5, 4), (4, 5))),
            {(0, 1)},
            id="each resource for itself",
        ),
        pytest.param(
            flat([8, 8], 8, cells=(Cell(4, (5,)), Cell(4, (4,))), have=((4,), (4,))),
            None,
            id="too little memory",
        ),
        pytest.param(
            flat([8, 8], 8, cells=(Cell(4), Cell(4)), cap=(4, 8), near=(0, 9)),
            {(0, 1), (1, 0), (1, 1)},
            id="caps",
        ),
        pytest.param(flat([8, 8], 6, unit=2, cells=(Cell(3), Cell(3))), None, id="siblings in two cells"),
        pytest.param(
            flat([8, 0], 4, cells=(Cell(4, (2,)), Cell(0, (5,))), have=((4,), (5,))),
            {(0, 1)},
            id="memory without vCPUs, on a node without cores",
        ),
        pytest.param(
            flat([4, 4], 4, cells=(Cell(4, (2,)), Cell(0, (5,))), have=((6,), (3,))),
            {(1, 0)},
            id="the vCPUs leave the only node with enough for the other cell",
        ),
        pytest.param(
            flat([4, 4], 4, cells=(Cell(4, (4,)), Cell(0, (5,)), Cell(0, (3,))), have=((6,), (7,))),
            {(1, 0, 1)},
            id="what is left must hold the last one as well",
        ),
        pytest.param(
            flat([4, 4], 4, cells=(Cell(4, (4,)), Cell(0, (5,)), Cell(0, (4,))), have=((6,), (7,))),
            None,
            id="too little memory for a cell without vCPUs",
        ),
        pytest.param(
            flat([4, 4], 4, cells=(Cell(2, (0, 1)), Cell(2, (0, 1)), Cell(0, (3, 1))), have=((2, 9), (3, 2))),
            {(0, 0, 1)},
            id="each resource for itself, without vCPUs",
        ),
        pytest.param(
            flat([1], 1, cells=(Cell(1), Cell(0), Cell(0))), {(0, 0, 0)}, id="cells that need nothing at all"
        ),
    ],
)
def test_cells(
    answer: Callable[[Question], Answer | None], question: Question, cells: set[tuple[int, ...]] | None
) -> None:
    """Each cell is whole in a node that has what it needs."""
    found = answer(question)
    assert (cells is None) == (found is None)
    if found is not None and cells is not None:
        assert found.cells in cells
        assert [] == problems(question, found)


def test_unequal_cells_all_of_them() -> None:
    """Three nodes of 1 to 4 free CPUs and three cells of 1 to 4 vCPUs: a place exactly where there is one."""
    for rooms in product(range(1, 5), repeat=3):
        for sizes in product(range(1, 5), repeat=3):
            ways = product(range(3), repeat=3)
            expected = any(
                all(sum(s for s, at in zip(sizes, way, strict=True) if at == n) <= rooms[n] for n in range(3))
                for way in ways
            )
            cells = tuple(Cell(size) for size in sorted(sizes, reverse=True))
            question = flat(rooms, sum(sizes), cells=cells)
            found = compiled(question)
            assert expected == (found is not None), (rooms, sizes)
            assert found is None or problems(question, found) == []


@pytest.mark.parametrize("seed", range(4))
def test_cells_that_fill_nodes(seed: int) -> None:
    """Cells that leave no CPU free are found, in whatever order nodes come."""
    random = Random(seed)
    parts = [[4, 3, 3], [5, 5], [6, 2, 2], [4, 3, 3], [7, 3], [4, 4, 2], [4, 3, 3], [4, 3, 3]]
    random.shuffle(parts)
    sizes = sorted((size for part in parts for size in part), reverse=True)
    question = flat([10] * len(parts), 80, cells=tuple(map(Cell, sizes)), steps=1 << 16)
    found = compiled(question)
    assert found is not None
    assert [] == problems(question, found)


def test_cells_without_vcpus_change_no_cost() -> None:
    """On nodes with memory for all, cells without vCPUs are placed, and what they belong to costs the same."""
    random = Random(5)
    for _ in range(50):
        some = {"have": ((40,),) * 4, "near": tuple(random.randint(0, 9) for _ in range(4))}
        cells = tuple(Cell(size, (1,)) for size in (3, 2, 2))
        empty = tuple(Cell(0, (random.randint(0, 9),)) for _ in range(random.randint(1, 8)))
        rooms = [random.randint(2, 6) for _ in range(4)]
        without = compiled(flat(rooms, 7, cells=cells, **some))
        found = compiled(flat(rooms, 7, cells=cells + empty, **some))
        assert (without and without.cost) == (found and found.cost)
        assert found is None or problems(flat(rooms, 7, cells=cells + empty, **some), found) == []


def test_nobody_knows_is_not_none() -> None:
    """A search that ends before it finds anything gives an empty tuple; None is a proof."""
    nothing_fits = flat([1] * 6, 1, cells=(Cell(1, (3,)),) + (Cell(0, (3,)),) * 6, have=((5,),) * 6)
    sizes = (7, 6, 5, 5, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2)
    fits = flat([10] * 8, sum(sizes), cells=tuple(map(Cell, sizes)))
    for question, known in ((nothing_fits, None), (fits, fits)):
        assert UNKNOWN is compiled(attrs.evolve(question, steps=1))
        found = compiled(attrs.evolve(question, steps=1 << 20))
        assert (known is None) == (found is None)
        assert found is None or problems(question, found) == []


def test_cells_for_which_there_are_too_few_nodes() -> None:
    """Where each node holds one of the cells, one cell more than nodes is refused at once, and rightly so."""
    cells = tuple(Cell(2) for _ in range(17))
    assert None is compiled(flat([3] * 16, 34, cells=cells, steps=1 << 16))


def test_every_order_of_nodes() -> None:
    """Three nodes of different size, in any order, cost the same."""
    far = {(0, 1): 30, (0, 2): 5, (1, 2): 11}
    costs = set()
    for order in permutations(range(3)):
        turned = {
            (one, other): far[min(order[one], order[other]), max(order[one], order[other])]
            for one in range(3)
            for other in range(one + 1, 3)
        }
        found = compiled(flat([[5, 6, 2][old] for old in order], 9, turned))
        assert found is not None
        costs.add(found.cost)
    expected = brute_force(flat([5, 6, 2], 9, far))
    assert expected is not None
    assert {expected.cost} == costs


def test_a_search_that_is_too_long_says_so() -> None:
    """On 64 nodes of random distances, few steps give an answer that is right, and that is not proved."""
    random = Random(7)
    far = {(one, other): random.randint(1, 254) for one, other in product(range(64), repeat=2)}
    question = flat([random.randint(1, 9) for _ in range(64)], 150, far, steps=1000)
    found = compiled(question)
    assert found is not None
    assert not found.proved
    assert [] == problems(question, found)
    better = compiled(attrs.evolve(question, steps=20_000))
    assert better is not None
    assert better.cost <= found.cost


def test_a_realistic_host_is_proved_at_once() -> None:
    """Sixteen nodes in four sockets, seven of ten CPUs used: the place of a large guest is proved."""
    random = Random(3)
    for _ in range(20):
        rooms = [random.randint(0, 20) for _ in range(16)]
        question = flat(rooms, min(sum(rooms), 40), sockets(4, 4, 4, 4), steps=ENDLESS)
        short = compiled(attrs.evolve(question, steps=2000))
        assert short is not None
        assert short.proved
        assert [] == problems(question, short)
