"""
Room for guests that have none, by moving guests that run.

Counts say who could make room for whom (exchange.py); the search says whether it can be done and where exactly. What is
done can be done in order: guests that run change places one after the other, each onto CPUs that are nobody's then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, permutations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec, ThreadPolicy
from kvmaff.placement.board import PARTS, Board
from kvmaff.placement.exact import pinned_cells
from kvmaff.placement.exchange import Counts, Exchange, Item, Part, Steps, exchanges
from kvmaff.placement.moves import Goal
from kvmaff.placement.objective import Objective
from kvmaff.placement.order import steps
from kvmaff.placement.packing import pack
from kvmaff.placement.placement import Placement
from kvmaff.placement.pool import pool_for
from kvmaff.placement.request import Demand
from kvmaff.placement.search import Search
from kvmaff.placement.taken import Taken

__all__ = ["Replan"]

_MANY = 3
"""For fewer moves the exchanges are all that there is."""
_MOST_MORE = 12
"""So many times the steps of one guest are at most had for packing anew."""
_COMPARED = 4
"""So many exchanges of as many guests are carried out, and the best is kept."""
_MOST_ORDERS = 24
"""So many orders of moves are tried for one exchange."""


class Replan:
    """
    Makes room by moving guests, within a budget.

    Args:
        search: The guests that have a place.

    Attributes:
        search: The same with what was done.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self._moved: set[str] = set()
        self._steps = Steps(search.request.steps)

    def admit(self, demand: Demand) -> bool:
        """
        Give a guest a place, moving others.

        Args:
            demand: The guest, that fits nowhere as it is.

        Returns:
            Whether it has a place now.
        """
        if not demand.spec.pinned:
            return False  # what floats takes nobody's place
        moves = self.search.request.moves
        counts, item = count(self.search, demand, self._moved)
        if item is None:
            return False
        done = [self.search.one(name) for name in self._moved]
        ways = exchanges(
            counts,
            item,
            self._steps,
            guests=moves.guests - len(done),
            vcpus=None if moves.vcpus is None else moves.vcpus - sum(one.spec.max_vcpus for one in done),
            memory_bytes=None
            if moves.memory_bytes is None
            else moves.memory_bytes - sum(one.demand.memory_bytes for one in done),
        )
        for found in ways:
            tried = (self._carried_out(demand, exchange) for exchange in found)
            # counts do not know L3 groups: of a few that can be done, that with the fewest
            able = list(islice((one for one in tried if one is not None), _COMPARED))
            if able:
                self._done(*min(able, key=lambda one: _cost(one[0], one[1], demand)))
                return True
        return False

    def pack(self, waiting: Sequence[Demand]) -> list[Demand]:
        """
        Give several guests places, moving many others: all that the budget still has.

        Args:
            waiting: The guests; each fits nowhere, even where a few others move.

        Returns:
            Those that have a place now.
        """
        request = self.search.request
        goal, moves = request.goal, request.moves
        able = [demand for demand in waiting if demand.spec.pinned]
        if not able or moves.guests < _MANY:
            return []
        counts, _ = count(self.search, able[0], ())
        counted = [(one, count(self.search, one, ())[1]) for one in able]
        items = [item for _, item in counted if item is not None]
        able = [one for one, item in counted if item is not None]
        if not able:
            return []
        done = [self.search.one(name) for name in self._moved]
        more = (
            min(moves.guests // _MANY - 1, _MOST_MORE) * request.steps
        )  # the more may move, the more there is to try
        self._steps.left = max(self._steps.left, 0) + more
        packed = pack(
            counts,
            items,
            {one.spec.name: one.spec.max_vcpus if goal is Goal.VCPUS else 1 for one in able},
            frozenset(self._moved),
            self._steps,
            guests=moves.guests - len(done),
            vcpus=None if moves.vcpus is None else moves.vcpus - sum(one.spec.max_vcpus for one in done),
            memory_bytes=None
            if moves.memory_bytes is None
            else moves.memory_bytes - sum(one.demand.memory_bytes for one in done),
            seed=request.seed,
        )
        before = {item.name: item.at for item in counts.items}
        places = {name: nodes for name, nodes in packed.items() if before.get(name) != nodes}
        admitted = [one for one in able if one.spec.name in places]
        if not admitted:
            return []
        movers = [self.search.one(name).demand for name in places if name in before]
        running = [one for one in movers if one.now is not None]
        others = [*admitted, *(one for one in movers if one.now is None)]
        others.sort(key=lambda one: -len(one.spec.pinned))
        start = self.search
        for one in others:
            start = start.without(one.spec.name)
        inside = {name: self._cpus(nodes) for name, nodes in places.items()}
        found = self._at_once(start, running, others, inside)
        if found is None:
            return []
        self._done(found, running)
        return admitted

    # -- doing it

    def _carried_out(self, demand: Demand, exchange: Exchange) -> tuple[Search, list[Demand]] | None:
        """What counts say, one guest after the other, if it can be done; and who that runs is moved."""
        places = dict(exchange.places)
        inside = {name: self._cpus(nodes) for name, nodes in places.items()}
        movers = [self.search.one(name).demand for name in places if name != demand.spec.name]
        running = [one for one in movers if one.now is not None]
        others = [demand, *(one for one in movers if one.now is None)]
        others.sort(key=lambda one: -len(one.spec.pinned))
        start = self.search
        for one in others[:]:
            if one is not demand:
                start = start.without(one.spec.name)
        for at, order in enumerate(permutations(running)):
            if at == _MOST_ORDERS:
                break
            done = self._in_order(start, order, others, inside)
            if done is not None:
                return done, running
        if len(running) > 1:  # where one waits meanwhile, they may change places all the same
            done = self._at_once(start, running, others, inside)
            if done is not None:
                return done, running
        return None

    def _done(self, search: Search, running: Iterable[Demand]) -> None:
        self.search = search
        self._moved |= {one.spec.name for one in running}

    def _at_once(
        self, search: Search, running: Sequence[Demand], others: Iterable[Demand], inside: dict[str, CpuSet]
    ) -> Search | None:
        """All leave, then each has its place; if there is an order in which that can be done."""
        for demand in running:
            search = search.without(demand.spec.name)
        for demand in sorted(running, key=lambda one: -len(one.spec.pinned)):
            if not _placed(search, demand, inside):
                return None
        guests = search.without("").finished()
        there = tuple(one for one in search.request.demands if one.now is not None)
        asked = attrs.evolve(search.request, demands=there)
        placement = Placement(strategy="order", guests=guests)
        if len(guests) < len(search.taken) or steps(asked, placement) is None:
            return None
        for demand in others:
            if not _placed(search, demand, inside):
                return None
        return search

    def _in_order(
        self,
        search: Search,
        order: Sequence[Demand],
        others: Iterable[Demand],
        inside: dict[str, CpuSet],
    ) -> Search | None:
        """Each moves while those after it are still where they were."""
        for demand in order:
            search = search.without(demand.spec.name)
            if not _placed(search, demand, inside):
                return None
        for demand in others:
            search = search.without(demand.spec.name)
            if not _placed(search, demand, inside):
                return None
        return search

    def _cpus(self, nodes: Iterable[int]) -> CpuSet:
        of = self.search.board.nodes
        return CpuSet.union_of(of[place].cpus for place in set(nodes))


def _placed(search: Search, demand: Demand, inside: dict[str, CpuSet]) -> bool:
    found = search.fits(demand, inside[demand.spec.name])
    if isinstance(found, str):
        return False
    search.note(demand, found)
    return True


def _cost(search: Search, running: Iterable[Demand], demand: Demand) -> tuple[int, int]:
    """How far from what they want those are that come and go; and how many L3 groups all guests use."""
    names = {demand.spec.name, *(one.spec.name for one in running)}
    scores = [(one.spec.name in names, one.candidate.score) for one in search.taken]
    return sum(score.distance for mine, score in scores if mine), sum(score.l3_groups for _, score in scores)


# -- counting


def count(search: Search, demand: Demand, moved: Iterable[str]) -> tuple[Counts, Item | None]:
    """
    Put a host in counts: free PUs of each node, whole free cores, memory.

    Args:
        search: The guests that have a place.
        demand: The guest that wants one.
        moved: Guests that were moved before, and are not again.

    Returns:
        The counts, and the guest; None for one that cannot be counted.
    """
    board, objective = search.board, search.objective
    ruler = _Ruler(board, objective, demand)
    fixed = set(moved)
    items = tuple(ruler.item(one, fixed=one.spec.name in fixed) for one in search.taken if one.spec.pinned)
    free = tuple(
        ruler.amounts(pus & ~board.used.bits, board.memory_left(demand.spec, node))
        for node, pus in zip(board.numbers, ruler.nodes, strict=True)
    )
    far = tuple(tuple(board.distance(one, other) for other in board.numbers) for one in board.numbers)
    return Counts(free=free, items=items, far=far), ruler.wanted(demand)


class _Ruler:
    """What a guest takes, and gives back, as seen by the guest for which room is made."""

    def __init__(self, board: Board, objective: Objective, demand: Demand) -> None:
        self.board, self.objective = board, objective
        # what it could have if nobody were there
        empty = board.emptied()
        pool = pool_for(empty, demand, objective, floats=False).bits
        self.nodes = [node.cpus.bits & pool for node in board.nodes]
        self.pool = pool
        cores = [core for core in board.columns.cores if core & pool]
        self.size = max((core.bit_count() for core in cores), default=1)
        self.page = demand.spec.page_bytes
        self.cores = cores if self.size > 1 else []

    def amounts(self, pus: int, memory: int) -> tuple[int, ...]:
        """Count some PUs of one node: PUs, cores that are whole, memory."""
        whole = sum(core & ~pus == 0 for core in self.cores if core & pus)
        return pus.bit_count(), whole, memory

    def wanted(self, demand: Demand) -> Item | None:
        parts = self._parts(demand)
        most = [pus.bit_count() for pus in self.nodes]
        if any(part.need[0] > max(most, default=0) for part in parts):
            return None  # no node could ever hold it
        return Item(name=demand.spec.name, parts=parts)

    def item(self, taken: Taken, *, fixed: bool) -> Item:
        demand, owned, board = taken.demand, taken.owned.bits, self.board
        open_pus = self.pool & ~(board.used.bits & ~owned)
        frees: dict[int, tuple[int, ...]] = {}
        memory = self._memory(demand)
        where = _homes(taken)
        for at, (number, node) in enumerate(zip(board.numbers, self.nodes, strict=True)):
            mine = owned & node
            back = sum(size for home, size in zip(where, memory, strict=True) if home == number)
            if mine or back:
                whole = sum(core & ~open_pus == 0 for core in self.cores if core & mine)
                # a core that it shares with another guest is whole only when that goes, too: counted, and tried later
                torn = sum(
                    core & ~open_pus != 0 and core & ~self.pool == 0 for core in self.cores if core & mine
                )
                frees[at] = (mine.bit_count(), whole + torn, back)
        places = {number: at for at, number in enumerate(board.numbers)}
        parts = self._parts(demand)
        nodes = [places[home] for home in where]
        spread = len(nodes) != len(parts)
        return Item(
            name=taken.spec.name,
            parts=parts,
            at=() if spread else tuple(nodes),
            frees=frees,
            fixed=fixed or not frees,
            charged=demand.now is not None,
            vcpus=taken.spec.max_vcpus,
            memory_bytes=demand.memory_bytes,
        )

    def _parts(self, demand: Demand) -> tuple[Part, ...]:
        spec, board = demand.spec, self.board
        near = board.near(demand) if self.objective.near else [0] * len(board.nodes)
        parts = []
        for size, memory in zip(_sizes(spec), self._memory(demand), strict=True):
            cost = tuple(
                (size * away + PARTS // 2) // PARTS if size <= pus.bit_count() else None
                for away, pus in zip(near, self.nodes, strict=True)
            )
            need = (*self._needs(spec, size), memory)
            parts.append(Part(need=need, cost=cost, size=size))
        return tuple(parts)

    def _needs(self, spec: GuestSpec, size: int) -> tuple[int, int]:
        """PUs and whole cores, never more than are needed."""
        if spec.thread_policy is ThreadPolicy.ISOLATE:
            return size, size if self.cores else 0
        unit = max(spec.threads, 2) if spec.thread_policy is ThreadPolicy.REQUIRE else 1
        if self.objective.whole_cores or unit == self.size > 1:
            return size, -(-size // self.size) if self.cores else 0
        return size, 0

    def _memory(self, demand: Demand) -> list[int]:
        """What each part needs of the memory that guests to come share."""
        spec = demand.spec
        sizes = _sizes(spec)
        if demand.pid is not None or spec.page_bytes != self.page:
            return [0] * len(sizes)
        if spec.cells:
            return [cell.memory_bytes for cell in spec.cells]
        return [spec.memory_bytes]


def _sizes(spec: GuestSpec) -> list[int]:
    """PUs of its own for each part: a cell, or all that is dedicated."""
    if spec.cells:
        return [len(cell.vcpus) for cell in pinned_cells(spec)]
    return [len(spec.pinned)]


def _homes(taken: Taken) -> list[int]:
    """The node number of each part; of a guest without cells, where most of it is."""
    if taken.spec.cells:
        return taken.cells
    nodes = taken.candidate.nodes
    return [max(set(nodes), key=lambda number: (nodes.count(number), -number))]
