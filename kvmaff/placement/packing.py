"""
Which guests could all be admitted if more than a few moved: whole nodes packed anew, in counts alone.

Some nodes at a time: all guests that are on these alone, and those that have no place, are given nodes anew, exactly;
what is better is kept. All nodes at once where they and the guests are few, so that nothing better exists then.

Better is: more admitted, by the goal; then fewer guests moved; then what is worth more to guests to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from random import Random

import attrs

from kvmaff.placement.exchange import Counts, Item, Steps
from kvmaff.placement.future import accept

__all__ = ["Packed", "pack"]

_AT_ONCE = 12
"""So many guests are packed at once."""
_INNER = 4000
"""So many steps for some nodes."""
_IDLE = 60
"""So many choices of nodes without anything better, and it ends."""


@attrs.frozen(kw_only=True)
class Packed:
    """
    What came out.

    Attributes:
        places: For each guest that has a place the nodes of its parts.
        proved: Whether nothing admits more within the budget, of all guests that may be moved.
    """

    places: Mapping[str, tuple[int, ...]]
    proved: bool


def pack(
    counts: Counts,
    waiting: Sequence[Item],
    worth: Mapping[str, int],
    sunk: frozenset[str],
    steps: Steps,
    *,
    guests: int,
    vcpus: int | None,
    memory_bytes: int | None,
    seed: int,
) -> Packed:
    """
    Look for a packing that admits more.

    Args:
        counts: The host, with the guests that have a place.
        waiting: Guests without one.
        worth: What admitting each of these counts.
        sunk: Guests that were moved already, which may be again.
        steps: How much may be tried.
        guests: At most so many others are moved.
        vcpus: With so many vCPUs.
        memory_bytes: With so much memory.
        seed: Where to begin.

    Returns:
        The best that was found, which may be what there is.
    """
    state = _State(counts, waiting, worth, sunk, (guests, vcpus, memory_bytes))
    nodes = range(len(counts.free))
    movable = [item for item in counts.items if not item.fixed and item.at]
    if len(movable) + len(waiting) <= _AT_ONCE and len(movable) == len(counts.items):
        proved = state.improve(frozenset(nodes), steps, most=steps.left)
        return Packed(places=dict(state.at), proved=proved and not steps.ended)
    random, idle = Random(seed), 0  # noqa: S311 - no secret: the same seed, the same answer
    while idle < _IDLE and not steps.ended and state.refused():
        some = frozenset(random.sample(nodes, min(len(nodes), random.choice((2, 2, 3)))))
        before = state.rank()
        state.improve(some, steps, most=_INNER)
        idle = 0 if state.rank() > before else idle + 1
    return Packed(places=dict(state.at), proved=False)


class _State:
    def __init__(
        self,
        counts: Counts,
        waiting: Sequence[Item],
        worth: Mapping[str, int],
        sunk: frozenset[str],
        budget: tuple[int, int | None, int | None],
    ) -> None:
        self.counts, self.worth, self.sunk, self.budget = counts, worth, sunk, budget
        self.items = {item.name: item for item in (*counts.items, *waiting)}
        self.home = {item.name: item.at for item in counts.items}
        self.at: dict[str, tuple[int, ...]] = {
            item.name: item.at for item in counts.items if item.at and not item.fixed
        }
        self.free = [list(node) for node in counts.free]

    def refused(self) -> list[Item]:
        return [self.items[name] for name in self.worth if name not in self.at]

    def rank(self) -> tuple[int, int, int]:
        admitted = sum(value for name, value in self.worth.items() if name in self.at)
        return admitted, -len(self._movers(self.at)), sum(accept(free[0]) for free in self.free)

    def _movers(self, at: Mapping[str, tuple[int, ...]]) -> list[Item]:
        return [
            self.items[name]
            for name, nodes in at.items()
            if self.items[name].charged and name not in self.sunk and self.home.get(name, nodes) != nodes
        ]

    def _affordable(self, at: Mapping[str, tuple[int, ...]]) -> bool:
        movers = self._movers(at)
        guests, vcpus, memory = self.budget
        return (
            len(movers) <= guests
            and (vcpus is None or sum(item.vcpus for item in movers) <= vcpus)
            and (memory is None or sum(item.memory_bytes for item in movers) <= memory)
        )

    def improve(self, some: frozenset[int], steps: Steps, *, most: int) -> bool:
        """Pack some nodes anew; whether everything was looked at."""
        inside = [self.items[name] for name, nodes in self.at.items() if some.issuperset(nodes)]
        outside = {name: nodes for name, nodes in self.at.items() if not some.issuperset(nodes)}
        waiting = self.refused()
        for item in inside:
            self._take(item, self.at[item.name], -1)
        todo = sorted((*inside, *waiting), key=lambda item: (-max(p.need[0] for p in item.parts), item.name))
        best = _Best(self.rank_of({**outside, **{item.name: self.at[item.name] for item in inside}}, inside))
        inner = Steps(min(most, max(steps.left, 0)))
        self._assign(todo, 0, {}, outside, sorted(some), best, inner)
        steps.left -= min(most, max(steps.left, 0)) - max(inner.left, 0)
        chosen = best.places
        if chosen is None:
            chosen = {item.name: self.at[item.name] for item in inside}
        self.at = {**outside, **chosen}
        for name, nodes in chosen.items():
            self._take(self.items[name], nodes, 1)
        return not inner.ended

    def rank_of(self, at: Mapping[str, tuple[int, ...]], taken: Sequence[Item]) -> tuple[int, int, int]:
        """The rank of an assignment, some guests of which are taken out of the counts now."""
        free = [node[0] for node in self.free]
        for item in taken:
            for part, node in zip(item.parts, at[item.name], strict=True):
                free[node] -= part.need[0]
        admitted = sum(value for name, value in self.worth.items() if name in at)
        return admitted, -len(self._movers(at)), sum(map(accept, free))

    def _assign(
        self,
        todo: Sequence[Item],
        place: int,
        chosen: dict[str, tuple[int, ...]],
        outside: Mapping[str, tuple[int, ...]],
        some: Sequence[int],
        best: _Best,
        steps: Steps,
    ) -> None:
        if not steps.take():
            return
        if place == len(todo):
            at = {**outside, **chosen}
            if self._affordable(at):
                free = sum(accept(node[0]) for node in self.free)
                admitted = sum(value for name, value in self.worth.items() if name in at)
                best.offer((admitted, -len(self._movers(at)), free), dict(chosen))
            return
        room = sum(self.free[node][0] for node in some)
        if self._hope(todo[place:], room) + self._admitted(chosen, outside) < best.rank[0]:
            return
        item = todo[place]
        for nodes in self._ways(item, some):
            self._take(item, nodes, 1)
            chosen[item.name] = nodes
            self._assign(todo, place + 1, chosen, outside, some, best, steps)
            del chosen[item.name]
            self._take(item, nodes, -1)
        if item.name in self.worth:  # one to come may have none
            self._assign(todo, place + 1, chosen, outside, some, best, steps)

    def _admitted(self, *places: Mapping[str, tuple[int, ...]]) -> int:
        return sum(self.worth.get(name, 0) for some in places for name in some)

    def _hope(self, rest: Sequence[Item], room: int) -> int:
        """The most that those still to be placed could be worth together."""
        must = sum(part.need[0] for item in rest if item.name not in self.worth for part in item.parts)
        if must > room:
            return -1 << 60
        room -= must
        total = 0
        for value, need in sorted(
            (
                (self.worth[item.name], sum(part.need[0] for part in item.parts))
                for item in rest
                if item.name in self.worth
            ),
            key=lambda one: -one[0] / max(one[1], 1),
        ):
            if need <= room:
                total, room = total + value, room - need
            else:
                return total + -(-value * room // need)
        return total

    def _ways(self, item: Item, some: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Nodes for its parts; first where it was."""
        home = self.home.get(item.name, ())
        if home and all(node in some for node in home) and self._fits(item, home):
            yield home
        alike: set[tuple[int, ...]] = set()
        if len(item.parts) == 1:
            part = item.parts[0]
            for node in sorted(some, key=lambda one: (self.free[one][0], one)):
                if (node,) == home or part.cost[node] is None or not self._fits(item, (node,)):
                    continue
                key = (*self.free[node], part.cost[node] or 0, node if self._lived_in(node) else -1)
                if key not in alike:
                    alike.add(key)
                    yield (node,)
            return
        for nodes in product(sorted(some), repeat=len(item.parts)):
            if nodes != home and self._fits(item, nodes):
                yield nodes

    def _lived_in(self, node: int) -> bool:
        """Whether it is some guest's home, so that it is not like others that are as full."""
        return any(node in nodes for nodes in self.home.values())

    def _fits(self, item: Item, nodes: Sequence[int]) -> bool:
        need: dict[int, list[int]] = {}
        for part, node in zip(item.parts, nodes, strict=True):
            if part.cost[node] is None:
                return False
            sums = need.setdefault(node, [0] * len(part.need))
            for at, amount in enumerate(part.need):
                sums[at] += amount
        return all(
            amount <= have
            for node, sums in need.items()
            for amount, have in zip(sums, self.free[node], strict=True)
        )

    def _take(self, item: Item, nodes: Sequence[int], sign: int) -> None:
        for part, node in zip(item.parts, nodes, strict=True):
            for at, amount in enumerate(part.need):
                self.free[node][at] -= sign * amount


class _Best:
    def __init__(self, rank: tuple[int, int, int]) -> None:
        self.rank = rank
        self.places: dict[str, tuple[int, ...]] | None = None

    def offer(self, rank: tuple[int, int, int], places: dict[str, tuple[int, ...]]) -> None:
        if rank > self.rank:
            self.rank, self.places = rank, places
