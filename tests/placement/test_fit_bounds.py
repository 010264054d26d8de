"""The compiled fit at its bounds: the largest hosts of every shape, and what is refused by name."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import attrs
import pytest

from kvmaff.placement._fit import fit_host

from .fit_twin import REAL, Answer, Cell, Core, Question, ints, longs, possible_takes, problems


def compiled(question: Question) -> Answer | None:
    """The engine under test."""
    return question.ask(fit_host)


def one_node(vcpus: int, *cores: Core, **rest: Any) -> Question:
    """A question about a single node."""
    return Question(vcpus=vcpus, cores=cores, **rest)


def many(vcpus: int, nodes: int, *cores: Core, **rest: Any) -> Question:
    """A question about nodes that are all equally far apart."""
    same: dict[str, Any] = {"near": (0,) * nodes, "cap": (8192,) * nodes, "wide": (-1,) * nodes}
    same["distance"] = tuple(tuple(11 * (one != other) for other in range(nodes)) for one in range(nodes))
    return Question(vcpus=vcpus, cores=cores, **same | rest)


# -- 8,192 PUs, where every level of the cost may reach its bound


@pytest.mark.parametrize(
    ("question", "cost"),
    [
        pytest.param(
            one_node(4097, *(Core(c // 8, 2, 2) for c in range(4096))), (257, 0, 1), id="512 groups"
        ),
        pytest.param(one_node(4096, *[Core(0, 2, 1)] * 4096), (1, 4096, 0), id="all shared"),
        pytest.param(one_node(4096, *[Core(0, 2, 2)] * 4096, per_core=1), (1, 0, 4096), id="all broken"),
        pytest.param(one_node(8192, *(Core(c, 1, 1) for c in range(8192))), (8192, 0, 0), id="8192 groups"),
        pytest.param(one_node(4097, *[Core(0, 1, 1)] * 8192), (1, 0, 0), id="one group"),
        pytest.param(one_node(1, *[Core(0, 1, 1)] * 8192), (1, 0, 0), id="one of all"),
        pytest.param(one_node(8192, Core(0, 8192, 8192)), (1, 0, 0), id="one core"),
        pytest.param(one_node(8190, Core(0, 8192, 8192), unit=2), (1, 0, 1), id="nearly one core"),
        pytest.param(one_node(8192, Core(0, 8192, 8192), unit=8192), (1, 0, 0), id="one core of one unit"),
        pytest.param(
            many(8192, 64, *(Core(c, 1, 1, c // 128) for c in range(8192))), (8192, 0, 0), id="64 nodes"
        ),
        pytest.param(
            many(8191, 64, *(Core(0, 128, 128, node) for node in range(64))),
            (64, 0, 1),
            id="64 nodes of one core",
        ),
        pytest.param(
            many(8192, 64, *(Core(0, 128, 128, node) for node in range(64)), wide=tuple(range(64))),
            (64, 0, 0),
            id="64 wide groups",
        ),
        pytest.param(
            many(8192, 64, *(Core(0, 128, 128, node) for node in range(64)), wide=(63,) * 64),
            (1, 0, 0),
            id="one wide group",
        ),
        pytest.param(
            many(
                8192,
                64,
                *(Core(0, 128, 128, node) for node in range(64)),
                cells=(Cell(32, (1, 2, 3, 4)),) * 256,
                have=((4, 8, 12, 16),) * 64,
                steps=1 << 16,
            ),
            (64, 0, 0),
            id="256 cells on 64 nodes",
        ),
        pytest.param(
            many(8192, 64, Core(0, 8192, 8192, 63), cells=(Cell(32),) * 256, steps=1 << 16),
            (1, 0, 0),
            id="256 cells in the last node",
        ),
        pytest.param(many(1, 64, Core(0, 1, 1, 31)), (1, 0, 0), id="63 nodes without cores"),
    ],
)
def test_largest_hosts(question: Question, cost: tuple[int, int, int]) -> None:
    """A host of 8,192 PUs is fitted, and no level of the cost runs into the next."""
    answer = compiled(question)
    assert answer is not None
    assert cost == answer.cost[1:4]
    assert [] == problems(question, answer)


@pytest.mark.parametrize("shape", ["one group", "a group each", "a node each"])
def test_worths_at_their_bound(shape: str) -> None:
    """Where PUs are worth as much as they may be, what is lost runs into no other level."""
    worths = tuple(31 * free for free in range(8193))
    groups = {
        "one group": lambda _: (0, 0),
        "a group each": lambda c: (c, 0),
        "a node each": lambda c: (0, c),
    }
    cores = [Core(group, 128, 128, node) for group, node in map(groups[shape], range(64))]
    question = many(8192, 64, *cores, accept=worths)
    answer = compiled(question)
    assert answer is not None
    assert 2 * 31 * 8192 == answer.cost[4]
    assert [] == problems(question, answer)


def test_distances_at_their_bound() -> None:
    """The largest distances are added up without overflow."""
    cores = [Core(0, 128, 128, node) for node in range(64)]
    far = tuple(tuple((1 << 16) * (one != other) for other in range(64)) for one in range(64))
    for unit in (1, 128):
        question = many(8192, 64, *cores, distance=far, near=(1 << 30,) * 64, unit=unit)
        answer = compiled(question)
        assert answer is not None
        assert [] == problems(question, answer)


@pytest.mark.parametrize("groups", [1, 40, 700])
@pytest.mark.parametrize("nodes", [1, 5, 64])
def test_largest_ragged_host(groups: int, nodes: int) -> None:
    """A large host with every kind of core, half used, keeps all rules; the capacity is met exactly."""
    random = Random(groups)  # the same host each time
    totals = [random.choice((1, 2, 4, 8)) for _ in range(2000)]
    cores = tuple(
        Core(
            random.randrange(groups),
            total,
            random.choice((total, random.randint(0, total))),
            at * nodes // 2000,
        )
        for at, total in enumerate(totals)
    )
    room = sum(core.free // 2 * 2 for core in cores)
    for vcpus in (2, room // 4 * 2, room):
        question = many(vcpus, nodes, *cores, unit=2, steps=3000)
        answer = compiled(question)
        assert answer is not None
        assert [] == problems(question, answer)
    assert compiled(many(room + 2, nodes, *cores, unit=2)) is None


@pytest.mark.parametrize("seed", range(30))
def test_any_shape_of_host(seed: int) -> None:
    """Few or many nodes, groups and cores of any size, taken up to the last unit."""
    random = Random(seed)
    nodes = random.choice((1, 2, 3, 17, 64))
    largest = random.choice((1, 2, 63, 64, 65, 500, 3000))
    totals: list[int] = []
    while len(totals) < random.choice((1, 50, 9000)):
        total = random.randint(0 if seed % 3 else largest, largest)
        if sum(totals) + total > 8192 or len(totals) == 8192:
            break
        totals.append(total)
    groups = random.choice((1, 7, 9000))
    cores = tuple(
        Core(
            random.randrange(groups) - 5,
            total,
            random.choice((total, random.randint(0, total))),
            at * nodes // len(totals),
        )
        for at, total in enumerate(totals)
    )
    unit = random.choice((1, 1, 2, 3, 64))
    per_core = random.choice((0, 0, 2 * unit))
    shape = many(unit, nodes, *cores, unit=unit, per_core=per_core, steps=2000)
    room = sum(max(possible_takes(shape, core)) for core in cores)
    for vcpus in {unit, room // 2 // unit * unit, room - unit, room} - {0, -unit}:
        question = attrs.evolve(shape, vcpus=vcpus)
        answer = compiled(question)
        assert (answer is not None) == (vcpus <= room)
        assert answer is None or problems(question, answer) == []


# -- bad input


def good(**changes: Any) -> tuple[Any, ...]:
    """The arguments of a question that makes sense, with changes."""
    arguments: dict[str, Any] = {
        "vcpus": 2,
        "unit": 1,
        "per_core": 0,
        "whole": False,
        "nodes": 2,
        "cores": 2,
        "node": ints([0, 1]),
        "group": ints([0, 0]),
        "total": ints([2, 2]),
        "free": ints([2, 2]),
        "distance": longs([0, 11, 11, 0]),
        "near": longs([0, 0]),
        "cap": ints([8192, 8192]),
        "wide": ints([-1, -1]),
        "accept": ints(REAL),
        "sizes": (),
        "need": b"",
        "have": b"",
        "steps": 100,
    }
    assert changes.keys() <= arguments.keys()
    return tuple((arguments | changes).values())


def test_good_arguments_are_good() -> None:
    """What the others change is right."""
    assert fit_host(*good()) is not None
    assert fit_host(*good(sizes=[1, 1], need=longs([1, 2]), have=longs([3, 3]))) is not None


def edited(numbers: tuple[int, ...], place: int, number: int) -> bytes:
    """A packed column with one number changed."""
    return ints([*numbers[:place], number, *numbers[place + 1 :]])


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
        ({"nodes": 0}, "nodes is a number from 1 to 64, not 0"),
        ({"nodes": 65}, "nodes is a number from 1 to 64, not 65"),
        ({"cores": -1}, "cores is a number from 0 to 8192, not -1"),
        ({"cores": 8193}, "cores is a number from 0 to 8192, not 8193"),
        ({"steps": 0}, f"steps is a number from 1 to {1 << 40}, not 0"),
        ({"node": ints([0])}, "node has 4 bytes, 2 numbers of 4 are needed"),
        ({"group": ints([0, 0, 0])}, "group has 12 bytes, 2 numbers of 4 are needed"),
        ({"total": b""}, "total has 0 bytes, 2 numbers of 4 are needed"),
        ({"free": ints([2])}, "free has 4 bytes, 2 numbers of 4 are needed"),
        ({"distance": longs([0, 11, 11])}, "distance has 24 bytes, 4 numbers of 8 are needed"),
        ({"near": longs([0])}, "near has 8 bytes, 2 numbers of 8 are needed"),
        ({"cap": ints([1, 1, 1])}, "cap has 12 bytes, 2 numbers of 4 are needed"),
        ({"wide": ints([1])}, "wide has 4 bytes, 2 numbers of 4 are needed"),
        ({"accept": ints(REAL[:-1])}, "accept has 32768 bytes, 8193 numbers of 4 are needed"),
        ({"node": ints([1, 0])}, "node[1] is 0: cores stand node by node"),
        ({"node": ints([0, 2])}, "node[1] is a number from 0 to 1, not 2"),
        ({"node": ints([-1, 0])}, "node[0] is a number from 0 to 1, not -1"),
        ({"total": ints([2, -1])}, "total[1] is a number from 0 to 8192, not -1"),
        ({"total": ints([2, 8193])}, "total[1] is a number from 0 to 8192, not 8193"),
        ({"total": ints([2, 8191])}, "total adds up to more than 8192 at total[1]"),
        ({"free": ints([-2, 2])}, "free[0] is a number from 0 to 8192, not -2"),
        ({"free": ints([2, 3])}, "free[1] is 3, more than total[1], which is 2"),
        ({"distance": longs([0, 0, 0, 0])}, "distance from 0 to 1 is 0, but they are not one node"),
        ({"distance": longs([0, 11, 12, 0])}, "distance from 0 to 1 is 11, but 12 the other way"),
        ({"distance": longs([0, -1, 1, 0])}, "distance[1] is a number from 0 to 65536, not -1"),
        ({"distance": longs([0, 65537, 1, 0])}, "distance[1] is a number from 0 to 65536, not 65537"),
        ({"near": longs([-1, 0])}, f"near[0] is a number from 0 to {1 << 30}, not -1"),
        ({"near": longs([0, 1 << 31])}, f"near[1] is a number from 0 to {1 << 30}, not {1 << 31}"),
        ({"cap": ints([-1, 0])}, "cap[0] is a number from 0 to 8192, not -1"),
        ({"wide": ints([64, 0])}, "wide[0] is a number from -1 to 63, not 64"),
        ({"wide": ints([0, -2])}, "wide[1] is a number from -1 to 63, not -2"),
        ({"accept": edited(REAL, 0, 1)}, "accept[0] is 1, but nothing is worth nothing"),
        (
            {"accept": edited(REAL, 2, 0)},
            "accept[2] is 0: it ascends, from 0, by at most 31 a PU in all",
        ),
        (
            {"accept": edited(REAL, 1, 32)},
            "accept[1] is 32: it ascends, from 0, by at most 31 a PU in all",
        ),
        ({"sizes": [1] * 257}, "the number of cells is a number from 0 to 256, not 257"),
        ({"sizes": [2, -1]}, "sizes[1] is a number from 0 to 8192, not -1"),
        ({"sizes": [0, 2]}, "sizes[1] is larger than the one before it"),
        ({"sizes": [0, 0]}, "sizes do not add up to vcpus"),
        ({"sizes": [1, 2], "vcpus": 3}, "sizes[1] is larger than the one before it"),
        ({"sizes": [1]}, "sizes do not add up to vcpus"),
        ({"sizes": [2, 1]}, "sizes do not add up to vcpus"),
        ({"sizes": [2], "have": longs([1])}, "have holds at most 4 numbers for each node"),
        ({"sizes": [2], "have": longs([1] * 10)}, "have holds at most 4 numbers for each node"),
        ({"sizes": [2], "have": longs([1] * 2)}, "need has 0 bytes, 1 numbers of 8 are needed"),
        ({"sizes": [2], "need": longs([1])}, "need has 8 bytes, 0 numbers of 8 are needed"),
        (
            {"sizes": [2], "need": longs([-1]), "have": longs([1] * 2)},
            f"need[0] is a number from 0 to {1 << 62}, not -1",
        ),
    ],
)
def test_bad_numbers(bad: dict[str, Any], message: str) -> None:
    """A question that makes no sense is a ValueError that names field, index and value."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_host(*good(**bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"vcpus": 2.0}, "vcpus is an integer, not 2.0"),
        ({"unit": None}, "unit is an integer, not None"),
        ({"steps": "1"}, "steps is an integer, not '1'"),
        ({"sizes": [1, None]}, "sizes[1] is an integer, not None"),
        *(
            ({name: [0, 0]}, f"{name} is packed as bytes, not list")
            for name in (
                "node",
                "group",
                "total",
                "free",
                "distance",
                "near",
                "cap",
                "wide",
                "accept",
                "need",
            )
        ),
        ({"sizes": [2], "have": [1, 1]}, "have is packed as bytes, not list"),
        ({"node": bytearray(8)}, "node is packed as bytes, not bytearray"),
    ],
)
def test_bad_types(bad: dict[str, Any], message: str) -> None:
    """What is no integer, or not packed, is a TypeError that names it."""
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        fit_host(*good(**bad))
