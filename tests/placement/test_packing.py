"""Whole nodes packed anew, in counts: hosts that are exactly full, budgets, and what must never come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.placement.exchange import Counts, Item, Part, Steps
from kvmaff.placement.packing import pack

from ..conftest import at_most


@attrs.frozen(kw_only=True)
class Case:
    """
    A host whose guests ask for all PUs, some of them placed where most was free.

    Attributes:
        size: PUs of a node.
        nodes: How many nodes.
        placed: Guests that have a place: PUs and node.
        waiting: PUs of those that have none.
    """

    size: int
    nodes: int
    placed: Sequence[tuple[int, int]]
    waiting: Sequence[int]

    @classmethod
    def of(cls, size: int, parts: Sequence[Sequence[int]], order: Sequence[int]) -> Case:
        """
        Place guests one after the other where most is free.

        Args:
            size: PUs of a node.
            parts: The sizes of guests that fill each node exactly.
            order: In which order they come, as places in all sizes.

        Returns:
            It.
        """
        sizes = [part for node in parts for part in node]
        free = [size] * len(parts)
        placed, waiting = [], []
        for at in order:
            node = max(range(len(free)), key=free.__getitem__)
            if free[node] < sizes[at]:
                waiting.append(sizes[at])
            else:
                free[node] -= sizes[at]
                placed.append((sizes[at], node))
        return cls(size=size, nodes=len(parts), placed=placed, waiting=waiting)

    def item(self, name: str, size: int, node: int | None) -> Item:
        """
        Count a guest.

        Args:
            name: Its name.
            size: Its vCPUs.
            node: Where it is; None for one without a place.

        Returns:
            It.
        """
        part = Part(need=(size, 0, 0), cost=(0,) * self.nodes, size=size)
        if node is None:
            return Item(name=name, parts=(part,))
        return Item(
            name=name,
            parts=(part,),
            at=(node,),
            frees={node: (size, 0, 0)},
            charged=True,
            vcpus=size,
            memory_bytes=size << 30,
        )

    def counts(self) -> Counts:
        """
        Count the host.

        Returns:
            Its counts.
        """
        free = [self.size] * self.nodes
        for size, node in self.placed:
            free[node] -= size
        return Counts(
            free=tuple((one, 0, 0) for one in free),
            items=tuple(self.item(f"r{at}", size, node) for at, (size, node) in enumerate(self.placed)),
            far=tuple(
                tuple(10 if one == other else 20 for other in range(self.nodes)) for one in range(self.nodes)
            ),
        )

    def pack(
        self, *, guests: int, vcpus: int | None = None, memory_bytes: int | None = None, steps: int = 1 << 18
    ) -> Mapping[str, tuple[int, ...]]:
        """
        Pack it anew.

        Args:
            guests: At most so many guests are moved.
            vcpus: With so many vCPUs.
            memory_bytes: With so much memory.
            steps: How much may be tried.

        Returns:
            For each guest that has a place its nodes.
        """
        waiting = [self.item(f"w{at}", size, None) for at, size in enumerate(self.waiting)]
        worth = {f"w{at}": size for at, size in enumerate(self.waiting)}
        return pack(
            self.counts(),
            waiting,
            worth,
            frozenset(),
            Steps(steps),
            guests=guests,
            vcpus=vcpus,
            memory_bytes=memory_bytes,
            seed=0,
        )

    def admitted(self, places: Mapping[str, tuple[int, ...]]) -> int:
        """
        Sum up what was admitted.

        Args:
            places: Who has a place.

        Returns:
            The vCPUs of those that had none.
        """
        return sum(size for at, size in enumerate(self.waiting) if f"w{at}" in places)


@hs.composite
def cases(draw: hs.DrawFn, nodes: int = 6) -> Case:
    """
    Draw hosts whose guests ask for all PUs.

    Args:
        draw: From hypothesis.
        nodes: At most so many nodes.

    Returns:
        One.
    """
    size = draw(hs.sampled_from([8, 16, 32]))
    parts = []
    for _ in range(draw(hs.integers(2, nodes))):
        left, node = size, []
        while left:
            node.append(draw(hs.integers(min(2, left), left)))
            left -= node[-1]
        parts.append(node)
    order = draw(hs.permutations(range(sum(map(len, parts)))))
    return Case.of(size, parts, order)


@at_most(250)
@given(cases(), hs.integers(3, 12), hs.none() | hs.integers(0, 60), hs.none() | hs.integers(0, 60))
def test_no_node_is_too_full_and_the_budget_is_kept(
    case: Case, guests: int, vcpus: int | None, gib: int | None
) -> None:
    """Whoever had a place has one, nodes hold what is on them, and those moved are within the budget."""
    packed = case.pack(
        guests=guests, vcpus=vcpus, memory_bytes=None if gib is None else gib << 30, steps=1 << 12
    )
    sizes = {f"r{at}": size for at, (size, _) in enumerate(case.placed)}
    homes = {f"r{at}": (node,) for at, (_, node) in enumerate(case.placed)}
    used = [0] * case.nodes
    for name, (node,) in packed.items():
        used[node] += sizes.get(name) or case.waiting[int(name[1:])]
    moved = [sizes[name] for name, home in homes.items() if packed[name] != home]
    assert max(used) <= case.size
    assert len(moved) <= guests
    assert sum(moved) <= min(one for one in (vcpus, gib, 1 << 30) if one is not None)
    assert not moved or case.admitted(packed), "nobody is moved where nobody is admitted"


@at_most(150)
@given(cases(nodes=3))
def test_a_few_nodes_are_packed_full(case: Case) -> None:
    """Where they ask for exactly what there is, and any may be moved, all have a place."""
    assert sum(case.waiting) == case.admitted(case.pack(guests=1000))


FULL = [
    # found by nobody who looks only at what admits at once: little is free everywhere
    ([[20, 12], [19, 13], [18, 14], [17, 15], [11, 11, 10], [9, 9, 7, 7], [8, 8, 8, 8], [6, 5, 5, 16]], 28),
    ([[9, 7, 16], [31, 1], [13, 19], [22, 5, 5], [3, 29], [17, 15], [11, 21], [8, 24]], 17),
    (
        [
            [40, 24],
            [33, 31],
            [50, 14],
            [22, 42],
            [9, 9, 46],
            [28, 36],
            [5, 59],
            [21, 21, 22],
            [12, 52],
            [7, 57],
        ],
        25,
    ),
]


@pytest.mark.parametrize(("parts", "step"), FULL)
def test_room_is_gathered(parts: list[list[int]], step: int) -> None:
    """Little that is free on every node is gathered until somebody has a place."""
    count = sum(map(len, parts))
    order = [at * step % count for at in range(count)]
    if len(set(order)) < count:
        order = sorted(range(count), key=lambda at: (at * step) % (count + 1))
    case = Case.of(sum(parts[0]), parts, order)
    packed = case.pack(guests=1000)
    assert case.waiting
    assert sum(case.waiting) == case.admitted(packed)
