"""
The best place for one guest's vCPUs, and for those of its other threads that have PUs of their own.

Dedicated vCPUs are found by the exact search wherever it knows the order of the levels; PUs for other threads are
looked for together with them:

* where any PU does for a vCPU, they are counted as vCPUs are;
* where vCPUs come in pairs or on cores of their own, each node in turn keeps the PUs that such vCPUs can use least, and
  the search for the vCPUs counts how far away they are;
* where neither finds a place, whatever PUs the vCPUs leave, the nearest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.board import MOST_CELLS, WHOLE, Board
from kvmaff.placement.candidates import candidates, overcommitted, squeezed
from kvmaff.placement.exact import exact
from kvmaff.placement.fit import TooLong
from kvmaff.placement.objective import Objective
from kvmaff.placement.pool import among, kinds_for, own_pool, pool_for
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Candidate, Wants, scored

__all__ = ["Finder", "Missing"]

_MOST_LEFT = 128
"""So many searches for a place that leaves something to others."""
_MOST_TRIED = 16
"""The same where each search tries places one by one: a refusal, which searches often, took minutes."""


@attrs.frozen(kw_only=True)
class Missing:
    """
    What a place would leave somebody without.

    Attributes:
        why: The same in words.
        cpus: Of these something would have to be left.
        cores: Whether it has to be a core of which the guest has nothing.
    """

    why: str
    cpus: CpuSet = attrs.field(factory=CpuSet)
    cores: bool = False


class Finder:
    """
    Looks for places on a board.

    Args:
        board: The host so far.
        objective: What is wanted.

    Attributes:
        gave_up: Whether some search ended before it knew.
    """

    def __init__(self, board: Board, objective: Objective) -> None:
        self.board = board
        self.objective = objective
        self.gave_up = False

    def best(self, demand: Demand, *, without: CpuSet | None = None) -> Candidate | None:
        """
        Find the best place.

        Args:
            demand: The guest.
            without: CPUs that it shall not have besides.

        Returns:
            The place of its dedicated vCPUs, or of all vCPUs of one that floats; None where there is none.
        """
        floats = not demand.spec.pinned
        pool = pool_for(self.board, demand, self.objective, floats=floats)
        if without is not None:
            pool -= without
        return self.in_pool(demand, pool)

    def in_pool(self, demand: Demand, pool: CpuSet) -> Candidate | None:
        """
        Find the best place within a pool.

        Args:
            demand: The guest.
            pool: The CPUs that its vCPUs may come to.

        Returns:
            The same as :meth:`best`.
        """
        if demand.pid is None and self._lacks_memory(demand.spec, pool):
            return None
        if not demand.spec.pinned:
            return self._floating(demand, pool)
        for kind in kinds_for(self.board, demand.spec):
            found = self._dedicated(demand, pool if kind is None else pool & kind.cpus)
            if found is not None:
                return found
        return None

    def _lacks_memory(self, spec: GuestSpec, pool: CpuSet) -> bool:
        """Whether all nodes together have too little, so that nothing has to be tried."""
        wanted = spec.memory_bytes or sum(cell.memory_bytes for cell in spec.cells)
        if not wanted:
            return False
        nodes = self.board.nodes if spec.floating and spec.pinned else self.board.nodes_of(pool)
        numbers = (node if isinstance(node, int) else node.number for node in nodes)
        return sum(self.board.free_memory(spec, number) for number in numbers) < wanted

    def leaving(
        self, demand: Demand, pool: CpuSet, missing: Callable[[Candidate], Missing | None]
    ) -> Candidate | None:
        """
        Find the best place that leaves what others, or the guest itself, need besides.

        Of what is missing each core in turn is left alone, or a PU of it where that is enough, until nothing is
        missing.

        Args:
            demand: The guest.
            pool: The CPUs that its vCPUs may come to.
            missing: What a place would leave somebody without.

        Returns:
            The best place that was found; None where there is none. Bounded: a guest that many others keep off may be
            refused for what was not tried.
        """
        first = self.in_pool(demand, pool)
        best: Candidate | None = None
        seen: set[int] = set()
        todo = [CpuSet()]
        most = _MOST_LEFT if self.objective.exact else _MOST_TRIED
        while todo and len(seen) < most:
            away = todo.pop(0)
            if away.bits in seen:
                continue
            seen.add(away.bits)
            one = self.in_pool(demand, pool - away)
            if one is None:
                continue
            need = missing(one)
            if need is not None:
                todo += [away | part for part in self._leave(need)]
                continue
            one = self.rescored(demand, one, pool)
            if best is None or _rank(one) < _rank(best):
                best = one
        if best is None or first is None or first.score.key == best.score.key:
            return best
        return attrs.evolve(best, proved=False)

    def _leave(self, need: Missing) -> Iterator[CpuSet]:
        """The least that could be left of what is missing, core by core."""
        rest = need.cpus
        while rest:
            core = self.board.cores_of(CpuSet([rest.first]))
            yield core if need.cores else CpuSet([max(core & rest)])
            rest -= core

    def rescored(self, demand: Demand, found: Candidate, pool: CpuSet) -> Candidate:
        """
        Work out what a place costs that was found with fewer CPUs to choose from.

        Args:
            demand: The guest.
            found: The place.
            pool: All CPUs that its vCPUs may come to.

        Returns:
            The same place with its cost among all of them.
        """
        spec = demand.spec
        if not spec.pinned:
            return found
        inside = among(self.board, spec, pool, CpuSet(found.order))
        wants, *_ = Wants.of(spec, self.objective, free=inside, reach=inside, vcpus=len(spec.pinned))
        again = self._scored(demand, wants, found, list(found.extras))
        return attrs.evolve(again, homes=found.homes, proved=found.proved)

    # -- dedicated vCPUs

    def _dedicated(self, demand: Demand, pool: CpuSet) -> Candidate | None:
        spec = demand.spec
        extras = spec.own_pus
        ways = Wants.of(spec, self.objective, free=pool, reach=pool, vcpus=len(spec.pinned))
        if not extras:
            return self._first(demand, ways)
        for wants in ways:
            found = self._with_others(demand, wants, extras)
            if found is not None:
                return found
        return None

    def _with_others(self, demand: Demand, wants: Wants, extras: int) -> Candidate | None:
        """A place with PUs for other threads."""
        board, objective = self.board, self.objective
        own = own_pool(board, demand, objective, CpuSet())
        plain = wants.unit == 1 and not wants.per_core
        if self._known(demand.spec) and plain and self._any_pu(wants, own):
            found = self._exact(demand, wants, extras=extras)
            if found is not None:
                return found
        known = self._known(demand.spec)
        homes = self._homes(demand, wants, own, extras)
        found = min(homes, key=_rank, default=None) if known else None
        if found is not None:
            return found
        alone = self._first(demand, (wants,))
        found = None if alone is None else self._beside(demand, wants, alone, extras)
        if found is None and not known:
            found = min(self._homes(demand, wants, own, extras), key=_rank, default=None)
        return found

    def _any_pu(self, wants: Wants, own: CpuSet) -> bool:
        """Whether every PU that a vCPU could have may be another thread's own."""
        rest = wants.free - own
        if not wants.whole:
            return not rest
        return not any(core <= wants.free for core in self.board.cores if not core.isdisjoint(rest))

    def _homes(self, demand: Demand, wants: Wants, own: CpuSet, extras: int) -> Iterator[Candidate]:
        """Places with all PUs for other threads on one node, each node in turn."""
        board = self.board
        for node in board.nodes:
            kept = self._least_missed(wants, own & node.cpus, extras)
            if len(kept) < extras:
                continue
            taken = board.cores_of(CpuSet(kept)) if wants.whole else CpuSet(kept)
            away = [extras * board.distance(node.number, other) for other in board.numbers]
            rest = attrs.evolve(wants, free=wants.free - taken)
            found = self._first(demand, (rest,), away=away)
            if found is not None:
                yield self._scored(demand, wants, found, kept)

    def _least_missed(self, wants: Wants, own: CpuSet, count: int) -> list[int]:
        """The PUs of a node whose loss costs vCPUs that come in groups, or on whole cores, least."""
        ranked: list[tuple[int, int, int]] = []
        for core in self.board.cores:
            pus = core & own
            if not pus:
                continue
            free = len(core & wants.free)
            for at, cpu in enumerate(pus):
                before, after = self._takes(wants, core, free - at), self._takes(wants, core, free - at - 1)
                if cpu not in wants.free:
                    before = after = 0
                ranked.append((before - after, -at, cpu))
        return [cpu for _, _, cpu in sorted(ranked)[:count]]

    def _takes(self, wants: Wants, core: CpuSet, free: int) -> int:
        """How many vCPUs a core takes with so many of its PUs free."""
        if free <= 0 or (wants.whole and free < len(core)):
            return 0
        free = min(free, wants.per_core) if wants.per_core else free
        return free - free % wants.unit

    def _beside(self, demand: Demand, wants: Wants, alone: Candidate, extras: int) -> Candidate | None:
        """PUs for other threads of those that are left, near the vCPUs, from cores that are broken already."""
        board = self.board
        taken = alone.chosen
        if wants.whole:
            taken = board.cores_of(taken)
        pool = own_pool(board, demand, self.objective, taken)
        if len(pool) < extras:
            return None
        counts = {node: alone.nodes.count(node) for node in alone.nodes}
        broken = board.cores_of(board.used | taken)
        ranked = [
            (
                sum(count * board.distance(node.number, other) for other, count in counts.items()),
                cpu not in broken,
                cpu,
            )
            for node in board.nodes
            for cpu in node.cpus & pool
        ]
        return self._scored(demand, wants, alone, [cpu for _, _, cpu in sorted(ranked)[:extras]])

    def _scored(self, demand: Demand, wants: Wants, found: Candidate, extras: list[int]) -> Candidate:
        return scored(
            self.board,
            demand,
            wants,
            self.objective,
            found.order,
            found.nodes,
            extras=extras,
            proved=False,  # the PUs of its other threads were chosen beside its vCPUs, or before them
        )

    def _known(self, spec: GuestSpec) -> bool:
        """Whether the exact search knows the levels, the host and the guest."""
        known = self.board.columns.layout is not None and len(spec.cells) + spec.own_pus <= MOST_CELLS
        return known and self.objective.exact

    def _exact(self, demand: Demand, wants: Wants, **more: object) -> Candidate | None:
        try:
            return exact(self.board, demand, wants, self.objective, **more)  # type: ignore[arg-type]  # see callers
        except TooLong:
            self.gave_up = True
            return self._any(demand, (wants,))

    def _first(
        self, demand: Demand, ways: tuple[Wants, ...], *, away: list[int] | None = None
    ) -> Candidate | None:
        """The best place of the first way that has one."""
        if not self._known(demand.spec):
            return self._any(demand, ways) or self._anywhere(demand, ways)
        for wants in ways:
            found = self._exact(demand, wants, away=away)
            if found is not None:
                return found
        return None

    def _anywhere(self, demand: Demand, ways: tuple[Wants, ...]) -> Candidate | None:
        """Any place at all, where those that are tried are none: the exact search finds what fits, in its own order."""
        spec, board = demand.spec, self.board
        if not spec.pinned or board.columns.layout is None or len(spec.cells) > MOST_CELLS:
            return None
        for wants in ways:
            try:
                found = exact(board, demand, wants, self.objective)
            except TooLong:
                self.gave_up = True
                continue
            if found is not None:
                again = scored(board, demand, wants, self.objective, found.order, found.nodes, proved=False)
                return attrs.evolve(again, homes=found.homes)
        return None

    def _any(self, demand: Demand, ways: tuple[Wants, ...]) -> Candidate | None:
        """The best of the places that are tried where the levels are not those of the exact search."""
        for wide in (False, True) if demand.pid is None and demand.spec.memory_bytes else (False,):
            for wants in ways:
                places = candidates(self.board, demand, wants, self.objective, wide=wide)
                best = min(places, key=_rank, default=None)
                if best is not None:
                    return best
        return None

    # -- floating vCPUs

    def _floating(self, demand: Demand, pool: CpuSet) -> Candidate | None:
        """A place where nobody is over-committed if there is one, else with as little as can be."""
        spec = demand.spec
        pools = [pool if kind is None else pool & kind.cpus for kind in kinds_for(self.board, spec)]
        pools = [each for each in pools if each]
        load = self.board.load
        # more vCPUs than a pool has PUs crowd it from the start
        least = [-(-spec.max_vcpus // len(each)) * WHOLE for each in pools]
        most = max((load[cpu] for each in pools for cpu in each), default=0)
        for ceiling in range(WHOLE, most + max(least, default=0) + WHOLE, WHOLE):
            for each in (each for each, crowded in zip(pools, least, strict=True) if ceiling >= crowded):
                places = min(spec.max_vcpus, len(each))
                free = self.board.room(each, ceiling)
                if len(free) < places or (places < spec.max_vcpus and spec.cells):
                    continue  # more vCPUs than CPUs: each cell floats over a node of its own
                ways = Wants.of(spec, self.objective, free=free, reach=each, vcpus=places)
                best = self._any(demand, ways)
                if best is not None:
                    return _crowded(best, ceiling // WHOLE)
        for each in pools if spec.cells else ():
            best = overcommitted(self.board, demand, self.objective, each)
            if best is not None:
                return _crowded(best, self._crowding(best, spec.max_vcpus))
        for each in pools if demand.pid is None and spec.memory_bytes and not spec.cells else ():
            best = min(squeezed(self.board, demand, self.objective, each), key=_rank, default=None)
            if best is not None:
                return _crowded(best, self._crowding(best, spec.max_vcpus))
        return None

    def _crowding(self, one: Candidate, vcpus: int) -> int:
        """How many vCPUs a PU a place comes to, on its busiest one."""
        busiest = max(self.board.load[cpu] for cpu in one.cpus)
        return -(-(busiest + WHOLE * vcpus // len(one.cpus)) // WHOLE)


def _crowded(one: Candidate, crowding: int) -> Candidate:
    """That nobody has to wait counts before all that a strategy wants of a shared guest."""
    levels = ("crowding", *one.score.levels)
    return attrs.evolve(one, score=attrs.evolve(one.score, crowding=crowding, levels=levels))


def _rank(one: Candidate) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return one.score.key, one.order
