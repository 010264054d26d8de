"""Questions to the fit, as hypothesis strategies: ragged hosts of any distances, guests with and without cells."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import attrs
from hypothesis import strategies as hs

from .fit_twin import REAL, Cell, Core, Question

_DISTANCES = (1, 2, 10, 11, 11, 11, 22, 22, 100)


@hs.composite
def questions(
    draw: hs.DrawFn,
    *,
    nodes: int = 4,
    cores: int = 10,
    totals: tuple[int, ...] = (1, 2, 2, 3, 4, 8),
    most: int = 64,
    cells: bool | None = None,
) -> Question:
    """
    Questions that a host may be asked, most of which have an answer.

    Any SMT, siblings offline, L3 groups uneven and interleaved, nodes without cores, nodes alike.
    """
    count = draw(hs.integers(1, nodes))
    core = hs.sampled_from(totals).flatmap(
        lambda total: hs.builds(
            Core,
            group=hs.integers(0, 3),
            total=hs.just(total),
            free=hs.just(total) | hs.integers(0, total),
            node=hs.integers(0, count - 1),
        )
    )
    drawn = draw(hs.lists(core, min_size=1, max_size=cores))
    if draw(hs.booleans()):  # nodes alike, up to what is free
        part = drawn[: max(len(drawn) // count, 1)]
        drawn = [attrs.evolve(one, node=node) for node in range(count) for one in part]
    rows = tuple(sorted(drawn, key=lambda one: one.node))
    unit = draw(hs.sampled_from((1, 1, 1, 2, 4)))
    room = min(sum(one.free for one in rows), most) // unit + 1
    pieces = draw(hs.integers(1, room))
    some: tuple[Cell, ...] = ()
    have: tuple[tuple[int, ...], ...] = ()
    if cells or (cells is None and draw(hs.sampled_from((False, False, True)))):
        some, have = draw(_cells(pieces, unit, count))
    return Question(
        vcpus=unit * pieces,
        unit=unit,
        per_core=draw(hs.just(0) | hs.integers(unit, 8)),
        whole=draw(hs.sampled_from((False, False, True))),
        cores=rows,
        distance=draw(distances(count)),
        near=tuple(draw(_either(count, hs.just(0), hs.sampled_from((0, 0, 1, 11, 200))))),
        cap=tuple(draw(_either(count, hs.just(8192), hs.integers(0, 12)))),
        wide=draw(_wide(rows, count)),
        accept=draw(hs.just(REAL) | hs.just((0,) * 8193) | _worths()),
        cells=some,
        have=have,
    )


@hs.composite
def distances(draw: hs.DrawFn, count: int) -> tuple[tuple[int, ...], ...]:
    """Distances, the same in both directions; nothing else holds of them."""
    pairs = {
        (one, other): far
        for one in range(count)
        for other, far in enumerate(draw(_either(one, hs.just(11), hs.sampled_from(_DISTANCES))))
    }
    return tuple(
        tuple(0 if one == other else pairs[max(one, other), min(one, other)] for other in range(count))
        for one in range(count)
    )


def _either(count: int, plain: hs.SearchStrategy[int], odd: hs.SearchStrategy[int]) -> Any:
    """All of them plain, or each as may be."""
    return hs.lists(plain, min_size=count, max_size=count) | hs.lists(odd, min_size=count, max_size=count)


@hs.composite
def _cells(
    draw: hs.DrawFn, pieces: int, unit: int, nodes: int
) -> tuple[tuple[Cell, ...], tuple[tuple[int, ...], ...]]:
    """Up to five cells of so many pieces, some without any, and what nodes have for them."""
    empty = draw(hs.sampled_from((0, 0, 0, 1, 2)))
    cuts = draw(hs.sets(hs.integers(1, pieces), max_size=4 - empty)) | {pieces}
    ends = sorted(cuts)
    sizes = sorted((end - begin for begin, end in zip([0, *ends], ends, strict=False)), reverse=True)
    resources = draw(hs.integers(0, 2))
    need = hs.lists(hs.integers(0, 4), min_size=resources, max_size=resources).map(tuple)
    have = hs.lists(hs.integers(0, 9), min_size=resources, max_size=resources).map(tuple)
    cells = tuple(Cell(unit * size, draw(need)) for size in sizes)
    if unit > 1 and len(cells) > 1 and draw(hs.sampled_from((False,) * 9 + (True,))):
        first, *_, last = cells  # siblings apart
        cells = (
            attrs.evolve(first, vcpus=first.vcpus + 1),
            *cells[1:-1],
            attrs.evolve(last, vcpus=last.vcpus - 1),
        )
    cells += tuple(Cell(0, draw(need)) for _ in range(empty))
    return cells, tuple(draw(have) for _ in range(nodes)) if resources else ()


@hs.composite
def _wide(draw: hs.DrawFn, cores: tuple[Core, ...], count: int) -> tuple[int, ...]:
    """L3 groups of several nodes: a node that is in one has no other."""
    groups = [{core.group for core in cores if core.node == node} for node in range(count)]
    some = draw(_either(count, hs.just(-1), hs.sampled_from((-1, 0, 1, 63))))
    return tuple(wide if len(own) == 1 else -1 for wide, own in zip(some, groups, strict=True))


@hs.composite
def _worths(draw: hs.DrawFn) -> tuple[int, ...]:
    """Any worths that ascend."""
    steps = draw(hs.lists(hs.integers(0, 31), min_size=1, max_size=40))
    return tuple(accumulate((0, *(steps[at % len(steps)] for at in range(8192)))))
