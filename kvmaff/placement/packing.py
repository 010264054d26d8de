"""
Which guests could all be admitted if more than a few moved: whole nodes packed anew, in counts alone.

Some nodes at a time: all guests that are on these alone, and those that have no place, are given nodes anew, exactly;
what is better is kept. All nodes at once where they and the guests are few, so that nothing better exists then.

Better is: more admitted, by the goal; then fewer guests moved; then what is worth more to guests to come. Where that
ends with guests that have no place, room is gathered first: for some rounds better is also what leaves more free in one
place and less in another, since little that is free everywhere admits nobody. What admits nobody after all is undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from operator import le
from random import Random

import attrs

from kvmaff.placement.exchange import Counts, Item, Steps
from kvmaff.placement.future import accept

__all__ = ["pack"]

_AT_ONCE = 12
"""So many guests are packed at once."""
_INNER = 4000
"""So many steps for some nodes."""
_IDLE = 60
"""So many choices of nodes without anything better, and it ends."""
_GATHERINGS = 4
"""So often room is gathered."""

_accept = cache(accept)
_Rank = tuple[int, int, int, int]


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
) -> dict[str, tuple[int, ...]]:
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
        For each guest that has a place the nodes of its parts: the best that was found, which may be what there is.
    """
    state = _State(counts, waiting, worth, sunk, (guests, vcpus, memory_bytes))
    nodes = range(len(counts.free))
    movable = [item for item in counts.items if not item.fixed and item.at]
    if len(movable) + len(waiting) <= _AT_ONCE and len(movable) == len(counts.items):
        state.improve(frozenset(nodes), steps, most=steps.left)
        return state.at
    random = Random(seed)  # noqa: S311 - no secret: the same seed, the same answer
    _rounds(state, random, steps, gather=False)
    for _ in range(_GATHERINGS):
        if steps.ended or not state.refused():
            break
        before, kept = state.rank(), state.copy()
        _rounds(state, random, steps, gather=True)
        if state.rank() > before:
            _rounds(state, random, steps, gather=False)
        if state.rank() <= before:
            state.restore(kept)
    return state.at


def _rounds(state: _State, random: Random, steps: Steps, *, gather: bool) -> None:
    """Pack some nodes anew, and others, until nothing gets better."""
    idle = 0
    while idle < _IDLE and not steps.ended and (state.refused() or not gather):
        some = state.some(random)
        before = state.rank(gather=gather)
        state.improve(some, steps, most=_INNER, gather=gather)
        idle = 0 if state.rank(gather=gather) > before else idle + 1


@attrs.frozen
class _Sums:
    """What places admit and what they cost."""

    admitted: int = 0
    guests: int = 0
    vcpus: int = 0
    memory_bytes: int = 0


_NOTHING = _Sums()


@attrs.define
class _Best:
    rank: _Rank
    places: Mapping[str, tuple[int, ...]]


@attrs.frozen
class _Rest:
    """Guests still to be given nodes: the PUs that some must have, and what the others are worth for theirs."""

    must: int
    may: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, items: Iterable[Item], worth: Mapping[str, int]) -> _Rest:
        must, may = 0, []
        for item in items:
            need = sum(part.need[0] for part in item.parts)
            if item.name in worth:
                may.append((worth[item.name], need))
            else:
                must += need
        may.sort(key=lambda one: -one[0] / max(one[1], 1))
        return cls(must, may)

    def hope(self, room: int) -> int:
        """The most that they could be worth together where so many PUs are free."""
        room -= self.must
        if room < 0:
            return -1 << 60
        total = 0
        for value, need in self.may:
            if need > room:
                return total + -(-value * room // need)
            total, room = total + value, room - need
        return total


@attrs.frozen(kw_only=True)
class _Task:
    """Guests to be given some nodes; what all others admit and cost."""

    todo: Sequence[Item]
    rest: Sequence[_Rest]
    some: Sequence[int]
    sums: _Sums
    gather: bool
    best: _Best
    steps: Steps


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
        # a node that is some guest's home is not like others that are as full
        self.lived_in = {node for nodes in self.home.values() for node in nodes}
        self.free = [list(node) for node in counts.free]

    def refused(self) -> list[Item]:
        return [self.items[name] for name in self.worth if name not in self.at]

    def some(self, random: Random) -> frozenset[int]:
        """Draw nodes to pack anew; something is free in one of them if in any."""
        nodes = range(len(self.free))
        first = random.choice([node for node in nodes if self.free[node][0]] or nodes)
        others = random.sample(nodes, min(len(nodes), random.choice((2, 2, 3))))
        return frozenset((first, *others[:-1]))

    def copy(self) -> tuple[dict[str, tuple[int, ...]], list[list[int]]]:
        return dict(self.at), [node[:] for node in self.free]

    def restore(self, kept: tuple[dict[str, tuple[int, ...]], list[list[int]]]) -> None:
        self.at, self.free = kept

    def rank(self, *, gather: bool = False) -> _Rank:
        return self._rank(self._sums(self.at), [node[0] for node in self.free], gather=gather)

    def _rank(self, sums: _Sums, free: Iterable[int], *, gather: bool) -> _Rank:
        free = list(free)
        gathered = sum(one * one for one in free) if gather else 0
        return sums.admitted, gathered, -sums.guests, sum(map(_accept, free))

    def _sums(self, at: Mapping[str, tuple[int, ...]], start: _Sums = _NOTHING) -> _Sums:
        admitted, guests, vcpus, memory = attrs.astuple(start)
        for name, nodes in at.items():
            admitted += self.worth.get(name, 0)
            item = self.items[name]
            if item.charged and name not in self.sunk and self.home.get(name, nodes) != nodes:
                guests, vcpus, memory = guests + 1, vcpus + item.vcpus, memory + item.memory_bytes
        return _Sums(admitted, guests, vcpus, memory)

    def _affordable(self, sums: _Sums) -> bool:
        guests, vcpus, memory = self.budget
        return (
            sums.guests <= guests
            and (vcpus is None or sums.vcpus <= vcpus)
            and (memory is None or sums.memory_bytes <= memory)
        )

    def improve(self, some: frozenset[int], steps: Steps, *, most: int, gather: bool = False) -> None:
        """Pack some nodes anew, as far as there are steps."""
        inside = {name: nodes for name, nodes in self.at.items() if some.issuperset(nodes)}
        outside = {name: nodes for name, nodes in self.at.items() if name not in inside}
        waiting = self.refused()
        best = _Best(self.rank(gather=gather), inside)
        for name, nodes in inside.items():
            self._take(self.items[name], nodes, -1)
        todo = [*(self.items[name] for name in inside), *waiting]
        todo.sort(key=lambda item: (-max(part.need[0] for part in item.parts), item.name))
        inner = Steps(min(most, max(steps.left, 0)))
        left, sums = inner.left, self._sums(outside)
        rest = [_Rest.of(todo[place:], self.worth) for place in range(len(todo))]
        task = _Task(
            todo=todo, rest=rest, some=sorted(some), sums=sums, gather=gather, best=best, steps=inner
        )
        self._assign(task, 0, {}, sums.admitted)
        steps.left -= left - max(inner.left, 0)
        self.at = {**outside, **best.places}
        for name, nodes in best.places.items():
            self._take(self.items[name], nodes, 1)

    def _assign(self, task: _Task, place: int, chosen: dict[str, tuple[int, ...]], admitted: int) -> None:
        if not task.steps.take():
            return
        best = task.best
        if place == len(task.todo):
            sums = self._sums(chosen, task.sums)
            if self._affordable(sums):
                rank = self._rank(sums, (node[0] for node in self.free), gather=task.gather)
                if rank > best.rank:
                    best.rank, best.places = rank, dict(chosen)
            return
        room = 0
        for node in task.some:
            room += self.free[node][0]
        if task.rest[place].hope(room) + admitted < best.rank[0]:
            return
        item = task.todo[place]
        worth = self.worth.get(item.name)
        for nodes in self._ways(item, task.some):
            self._take(item, nodes, 1)
            chosen[item.name] = nodes
            self._assign(task, place + 1, chosen, admitted + (worth or 0))
            del chosen[item.name]
            self._take(item, nodes, -1)
        if worth is not None:  # one to come may have none
            self._assign(task, place + 1, chosen, admitted)

    def _ways(self, item: Item, some: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Nodes for its parts; first where it was."""
        home = self.home.get(item.name, ())
        if home and all(node in some for node in home) and self._fits(item, home):
            yield home
        alike: set[tuple[int, ...]] = set()
        if len(item.parts) == 1:
            part = item.parts[0]
            for node in sorted(some, key=lambda one: (self.free[one][0], one)):
                if (node,) == home or not self._fits(item, (node,)):
                    continue
                key = (*self.free[node], part.cost[node] or 0, node if node in self.lived_in else -1)
                if key not in alike:
                    alike.add(key)
                    yield (node,)
            return
        for nodes in product(sorted(some), repeat=len(item.parts)):
            if nodes != home and self._fits(item, nodes):
                yield nodes

    def _fits(self, item: Item, nodes: Sequence[int]) -> bool:
        parts = item.parts
        if len(parts) == 1:  # most guests
            node = self.free[nodes[0]]
            return parts[0].cost[nodes[0]] is not None and all(map(le, parts[0].need, node))
        need: dict[int, list[int]] = {}
        for part, at in zip(parts, nodes, strict=True):
            if part.cost[at] is None:
                return False
            sums = need.setdefault(at, [0] * len(part.need))
            for place, amount in enumerate(part.need):
                sums[place] += amount
        return all(all(map(le, sums, self.free[at])) for at, sums in need.items())

    def _take(self, item: Item, nodes: Sequence[int], sign: int) -> None:
        for part, node in zip(item.parts, nodes, strict=True):
            free = self.free[node]
            for at, amount in enumerate(part.need):
                free[at] -= sign * amount
