"""
Who would have to make room for a guest: exchanges of guests between nodes, in counts alone.

A node has so much of each resource left, a guest's part (a cell, or all of a guest without cells) needs so much of each
on one node. A part that fits nowhere may drive out guests of a node, which need another node then, and may drive out
others themselves.

Rules:

* fewest guests are moved; of as many, those that cost the least distance, then the least of what is worth something to
  guests to come, then the fewest vCPUs and the least memory;
* a part drives out only as many as it needs: of what any exchange moves at all, nothing less would do. So where the
  search ends by itself, no exchange that moves as few guests was passed over;
* it ends after so many steps, and then says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import attrs

from kvmaff.placement.future import accept

__all__ = ["Counts", "Exchange", "Item", "Part", "Steps", "exchanges"]

_FREE = 2
"""So many guests that do not run yet may be driven out at once."""
_KEPT = 32
"""So many exchanges are told, the best first: not everything that counts say can be done."""


class Steps:
    """
    How much may still be tried.

    Args:
        left: How many steps.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> bool:
        """
        Take a step.

        Returns:
            Whether there was one left.
        """
        self.left -= 1
        return self.left >= 0

    @property
    def ended(self) -> bool:
        """Whether more was asked for than there was."""
        return self.left < 0


@attrs.frozen(kw_only=True)
class Part:
    """
    What has to be on one node.

    Attributes:
        need: What it takes of each resource there.
        cost: For each node what its distance to what the guest has elsewhere costs; None where it may not be.
        size: How many vCPUs.
    """

    need: tuple[int, ...]
    cost: tuple[int | None, ...]
    size: int


@attrs.frozen(kw_only=True)
class Item:
    """
    One guest.

    Attributes:
        name: Its name.
        parts: What has to be on a node each.
        at: The node of each part; empty for a guest without a place.
        frees: What its going gives back, of each resource by node.
        fixed: Whether it may not be moved.
        charged: Whether its move counts; that of a guest that does not run yet does not.
        vcpus: What moving it takes of the budget.
        memory_bytes: The same.
    """

    name: str
    parts: tuple[Part, ...]
    at: tuple[int, ...] = ()
    frees: Mapping[int, tuple[int, ...]] = attrs.field(factory=dict)
    fixed: bool = False
    charged: bool = True
    vcpus: int = 0
    memory_bytes: int = 0


@attrs.frozen(kw_only=True)
class Counts:
    """
    A host in counts.

    Attributes:
        free: Of each node what is left of each resource; of the first, PUs, it is known what they are worth.
        items: The guests that have a place.
        far: From each node to each the distance beyond local.
    """

    free: tuple[tuple[int, ...], ...]
    items: tuple[Item, ...]
    far: tuple[tuple[int, ...], ...]


@attrs.frozen(kw_only=True, order=True)
class Exchange:
    """
    One way to make room.

    Attributes:
        cost: Distance, worth to guests to come, vCPUs moved, memory moved: what is less is better.
        places: For each guest concerned the node of each of its parts, the new guest last.
    """

    cost: tuple[int, int, int, int]
    places: tuple[tuple[str, tuple[int, ...]], ...]


def exchanges(
    counts: Counts,
    item: Item,
    steps: Steps,
    *,
    guests: int,
    vcpus: int | None = None,
    memory_bytes: int | None = None,
) -> Iterator[list[Exchange]]:
    """
    Find ways to make room for a guest.

    Args:
        counts: The host.
        item: The guest.
        steps: How much may be tried.
        guests: At most so many others are moved.
        vcpus: With so many vCPUs.
        memory_bytes: With so much memory.

    Yields:
        For no moved guest, then one, and so on: the exchanges that move as many, the best first.
    """
    free = any(not other.charged for other in counts.items)
    able = sum(other.charged and not other.fixed for other in counts.items)
    for count in range(0 if free else 1, min(guests, able) + 1):
        search = _Search(counts, item, steps, count, vcpus, memory_bytes)
        search.place([(item, at) for at in range(len(item.parts))], count)
        yield search.found()
        if steps.ended:
            return


class _Search:
    def __init__(
        self, counts: Counts, item: Item, steps: Steps, count: int, vcpus: int | None, memory: int | None
    ) -> None:
        self.counts, self.item, self.steps, self.count = counts, item, steps, count
        self.vcpus, self.memory = vcpus, memory
        self.free = [list(node) for node in counts.free]
        self.on: list[list[Item]] = [[] for _ in counts.free]
        for other in counts.items:
            if not other.fixed:
                for node in other.frees:
                    self.on[node].append(other)
        self.gone: dict[str, Item] = {}
        self.nodes: dict[str, dict[int, int]] = {item.name: {}}
        self.best: list[tuple[tuple[int, ...], int, Exchange]] = []  # a heap, the worst first
        self.seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()

    def found(self) -> list[Exchange]:
        return sorted(exchange for _, _, exchange in self.best)

    def place(self, todo: list[tuple[Item, int]], left: int) -> None:
        """Give each part a node, and whoever is driven out another one."""
        if not todo:
            if sum(item.charged for item in self.gone.values()) == self.count:
                self._note()
            return
        (item, at), rest = todo[0], todo[1:]
        part = item.parts[at]
        for node, free in enumerate(self.free):
            if part.cost[node] is None or not self.steps.take():
                continue
            lacks = [need - have for need, have in zip(part.need, free, strict=True)]
            if max(lacks) <= 0:
                self._put(item, at, node, part, rest, left)
            else:
                for going in self._enough(node, lacks, left):
                    self._drive(item, at, node, part, rest, left, going)

    def _put(
        self, item: Item, at: int, node: int, part: Part, rest: list[tuple[Item, int]], left: int
    ) -> None:
        free = self.free[node]
        for resource, need in enumerate(part.need):
            free[resource] -= need
        self.nodes[item.name][at] = node
        # one that is where it was is not moved
        stays = item.at and len(self.nodes[item.name]) == len(item.parts) and self._told(item) == item.at
        if not stays:
            self.place(rest, left)
        del self.nodes[item.name][at]
        for resource, need in enumerate(part.need):
            free[resource] += need

    def _drive(
        self,
        item: Item,
        at: int,
        node: int,
        part: Part,
        rest: list[tuple[Item, int]],
        left: int,
        going: Sequence[Item],
    ) -> None:
        more = [(other, one) for other in going for one in range(len(other.parts))]
        for other in going:
            self._leave(other, 1)
        # the largest next: what can be seen early to fit nowhere is not followed
        after = sorted([*rest, *more], key=lambda each: -each[0].parts[each[1]].need[0])
        self._put(item, at, node, part, after, left - sum(other.charged for other in going))
        for other in going:
            self._leave(other, -1)

    def _leave(self, item: Item, sign: int) -> None:
        for node, amounts in item.frees.items():
            free = self.free[node]
            for resource, amount in enumerate(amounts):
                free[resource] += sign * amount
        if sign > 0:
            self.gone[item.name] = item
            self.nodes[item.name] = {}
        else:
            del self.gone[item.name], self.nodes[item.name]

    def _enough(self, node: int, lacks: Sequence[int], left: int) -> Iterator[tuple[Item, ...]]:
        """The guests of a node, as many as may still go, without which there is room, and of which none could stay."""
        vcpus = sum(item.vcpus for item in self.gone.values())
        memory = sum(item.memory_bytes for item in self.gone.values())
        there = [
            item
            for item in self.on[node]
            if item.name not in self.gone
            and (self.vcpus is None or vcpus + item.vcpus <= self.vcpus)
            and (self.memory is None or memory + item.memory_bytes <= self.memory)
        ]
        there = [item for item in there if left or not item.charged]
        for count in range(1, min(max(left, _FREE), len(there)) + 1):
            for going in combinations(there, count):
                if not self.steps.take():
                    return
                if sum(item.charged for item in going) > left:
                    continue
                freed = [sum(item.frees[node][at] for item in going) for at in range(len(lacks))]
                if any(have < lack for have, lack in zip(freed, lacks, strict=True)):
                    continue
                if count > 1 and any(
                    all(
                        have - item.frees[node][at] >= lack
                        for at, (have, lack) in enumerate(zip(freed, lacks, strict=True))
                    )
                    for item in going
                ):
                    continue
                if self.vcpus is not None and vcpus + sum(item.vcpus for item in going) > self.vcpus:
                    continue
                if self.memory is not None and memory + sum(i.memory_bytes for i in going) > self.memory:
                    continue
                yield going

    def _told(self, item: Item) -> tuple[int, ...]:
        nodes = self.nodes[item.name]
        return tuple(nodes[at] for at in range(len(item.parts)))

    def _note(self) -> None:
        concerned = [*self.gone.values(), self.item]
        places = tuple((item.name, self._told(item)) for item in concerned)
        key = tuple(sorted(places))
        if key in self.seen:
            return
        self.seen.add(key)
        distance = sum(
            self._distance(item, nodes) for item, (_, nodes) in zip(concerned, places, strict=True)
        )
        worth = sum(
            accept(before[0]) - accept(after[0])
            for before, after in zip(self.counts.free, self.free, strict=True)
        )
        moved = self.gone.values()
        cost = (distance, worth, sum(i.vcpus for i in moved), sum(i.memory_bytes for i in moved))
        exchange = Exchange(cost=cost, places=places)
        entry = (tuple(-number for number in cost), -len(self.seen), exchange)
        if len(self.best) < _KEPT:
            heapq.heappush(self.best, entry)
        elif entry[:2] > self.best[0][:2]:
            heapq.heapreplace(self.best, entry)

    def _distance(self, item: Item, nodes: Sequence[int]) -> int:
        total = sum(part.cost[node] or 0 for part, node in zip(item.parts, nodes, strict=True))
        far = self.counts.far
        for (one, first), (other, second) in combinations(zip(item.parts, nodes, strict=True), 2):
            total += one.size * other.size * far[first][second]
        return total
