"""One search: the guests that have a place so far, and what each that comes does to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import ANY_KIND, GuestSpec, ThreadPolicy
from kvmaff.placement.board import WHOLE, Board, User
from kvmaff.placement.candidates import cell_nodes
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.exact import pinned_cells
from kvmaff.placement.finder import Finder, Missing
from kvmaff.placement.objective import Objective
from kvmaff.placement.others import needs_housekeeping, needs_others, promised
from kvmaff.placement.placement import GuestPlacement, Unplaced
from kvmaff.placement.pool import affinities, left, pool_for
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.scoring import Candidate
from kvmaff.placement.splits import memory_needed
from kvmaff.placement.taken import Taken, finish, kept, known_nodes

__all__ = ["Search"]


class Search:
    """
    The state of one search.

    Args:
        request: What is to be decided.
        objective: What is wanted.

    Attributes:
        board: The host so far.
        unplaced: The guests without a place.
        taken: Those with one.
        needy: Those of them that need CPUs besides, which are still to be found.
        to_float: Those of them whose floating vCPUs have none yet.
    """

    def __init__(self, request: PlacementRequest, objective: Objective) -> None:
        self.request = request
        self.objective = objective
        self.board = Board(request)
        self.finder = Finder(self.board, objective)
        self.unplaced: list[Unplaced] = []
        self.taken: list[Taken] = []
        self.needy: list[Taken] = []
        self.to_float: list[Taken] = []

    def ordered(self) -> list[Demand]:
        """
        Put the guests in order.

        Returns:
            The guests in the order in which they are placed.
        """

        def rank(demand: Demand) -> tuple[bool, int, str]:
            spec = demand.spec
            return not spec.pinned, -(len(spec.pinned) or spec.max_vcpus), spec.name

        return sorted(self.request.demands, key=rank)

    def take(self, demand: Demand) -> list[str] | None:
        """
        Place one guest if it has a place.

        Args:
            demand: The guest.

        Returns:
            None where it has one now; else what contradicts itself, or is missing, as far as that is known already.
        """
        if not demand.spec.pinned:
            self._float_all()
        wrong = contradictions(self.request, demand)
        found = "" if wrong else self.fits(demand)
        if isinstance(found, str):
            return wrong or [found] * bool(found)
        self.note(demand, found)
        return None

    def refuse(self, demand: Demand, missing: list[str]) -> None:
        """
        Note why a guest has no place.

        Args:
            demand: The guest.
            missing: What :meth:`take` said.
        """
        self.unplaced.append(self._refusal(demand, missing))

    def fits(self, demand: Demand, inside: CpuSet | None = None) -> Candidate | str:
        """
        Look for the place of a guest beside those that have one.

        Args:
            demand: The guest.
            inside: CPUs that its vCPUs are to be on; None for any.

        Returns:
            The place; or what it would take from others, or nothing where it has no room.
        """
        spec = promised(demand.spec, self.objective)
        # whatever it takes, there would not be more room
        crowded = self._crowded(demand, CpuSet(), len(spec.floating))
        if crowded:
            return crowded
        pool = pool_for(self.board, demand, self.objective, floats=not spec.pinned)
        if inside is not None:
            pool &= inside
        found = self.finder.in_pool(demand, pool)
        if found is None:
            return ""
        missing = self._missing(demand, spec, found)
        if missing:
            rest = self.finder.leaving(demand, pool, lambda one: self._missing(demand, spec, one))
            return rest or missing.why
        return found

    def one(self, name: str) -> Taken:
        """
        Say where a guest is.

        Args:
            name: The guest; it has a place.

        Returns:
            The place.
        """
        return next(one for one in self.taken if one.spec.name == name)

    def without(self, name: str) -> Search:
        """
        The same search as if a guest were not there.

        Args:
            name: The guest, of this request or outside it.

        Returns:
            A search that knows everything else; this one is not changed.
        """
        return self._on(self.board.without(name), self.objective, but=name)

    def wanting(self, objective: Objective) -> Search:
        """
        The same search for a guest of which something else is wanted.

        Args:
            objective: What is wanted.

        Returns:
            A search on the same board; this one is not changed.
        """
        return self._on(self.board, objective)

    def _on(self, board: Board, objective: Objective, but: str | None = None) -> Search:
        other = copy.copy(self)
        other.board, other.objective, other.finder = board, objective, Finder(board, objective)
        other.unplaced = []
        other.taken = [one for one in self.taken if one.spec.name != but]
        other.needy = [one for one in self.needy if one.spec.name != but]
        other.to_float = [one for one in self.to_float if one.spec.name != but]
        return other

    # -- taking

    def keep(self, demand: Demand) -> None:
        """
        Leave a guest where it is.

        Args:
            demand: The guest; it has a place that keeps the rules.
        """
        self._add(kept(self.board, self.objective, demand))

    def note(self, demand: Demand, found: Candidate) -> None:
        """
        Give a guest a place.

        Args:
            demand: The guest.
            found: The place, as :meth:`fits` finds it.
        """
        spec = promised(demand.spec, self.objective)
        owned = self._owned(spec, found)
        cells = self._cells(demand, found)
        self._add(Taken(demand=demand, spec=spec, candidate=found, owned=owned, cells=cells))

    def _add(self, taken: Taken) -> None:
        demand, spec, found, owned = taken.demand, taken.spec, taken.candidate, taken.owned
        self.taken.append(taken)
        if needs_others(spec):
            self.needy.append(taken)
        self.board.take(
            User(
                name=spec.name,
                cpus=owned or found.cpus,
                on=found.cpus,
                alone=owned,
                vcpus=0 if spec.pinned else spec.max_vcpus,
                trust_domain=spec.trust_domain,
            )
        )
        if demand.pid is None:
            self.board.spend(spec, memory_needed(self.board, spec, found.cpus, taken.cells))
        if spec.pinned and spec.floating:
            self.to_float.append(taken)

    def _owned(self, spec: GuestSpec, candidate: Candidate) -> CpuSet:
        """The CPUs that nobody else may use: the PUs taken, and their cores where they are the guest's alone."""
        if not spec.pinned:
            return CpuSet()
        if self.objective.whole_cores:
            return self.board.cores_of(candidate.chosen)
        if spec.thread_policy is ThreadPolicy.ISOLATE:
            return self.board.cores_of(CpuSet(candidate.order)) | CpuSet(candidate.extras)
        return candidate.chosen

    def _cells(self, demand: Demand, found: Candidate) -> list[int]:
        """The node of each cell; one whose vCPUs all float is near the others, where there is memory."""
        spec, board = demand.spec, self.board
        loose = [at for at, cell in enumerate(pinned_cells(spec)) if not cell.vcpus] if spec.pinned else []
        if not loose:
            return cell_nodes(spec, found.nodes)
        counts = {node: found.nodes.count(node) for node in found.nodes}
        pool = pool_for(board, demand, self.objective, floats=True) - self._owned(spec, found)
        if found.homes and set(found.homes) <= set(board.nodes_of(pool)):
            return cell_nodes(spec, found.nodes, dict(zip(loose, found.homes, strict=True)))
        left_over = {number: board.free_memory(spec, number) for number in board.numbers}
        for cell, node in zip(pinned_cells(spec), known_nodes(spec, found), strict=True):
            if node is not None:
                left_over[node] -= cell.memory_bytes
        chosen: dict[int, int] = {}
        for at in loose:
            size = spec.cells[at].memory_bytes if demand.pid is None else 0
            able = [number for number in board.nodes_of(pool) if left_over[number] >= size]
            if not able:
                return []
            node = min(able, key=lambda one: (self._far(one, counts), one))
            left_over[node] -= size
            chosen[at] = node
        return cell_nodes(spec, found.nodes, chosen)

    def _far(self, node: int, counts: Mapping[int, int]) -> int:
        return sum(count * self.board.distance(node, other) for other, count in counts.items())

    # -- what is left for others

    def _missing(self, demand: Demand, spec: GuestSpec, found: Candidate) -> Missing | None:
        """Say what a place would leave somebody without, the guest itself too."""
        owned = self._owned(spec, found)
        needy = [(one.demand, one.spec, one.candidate) for one in self.needy]
        if needs_others(spec):
            needy.append((demand, spec, found))
        for other, its_spec, its_place in needy:
            whose = "its" if other is demand else f"guest {other.spec.name}'s"
            lost, cores = owned, its_spec.trust_domain != spec.trust_domain
            if cores:
                lost = self.board.cores_of(owned or found.cpus)
            if needs_housekeeping(its_spec) and not (house := left(self.board, other)) - lost:
                why = f"no housekeeping CPU would be left for {whose} emulator threads and IOThreads"
                return Missing(why=why, cpus=house, cores=cores)
            if its_spec.pinned and its_spec.floating:
                cells = self._cells(demand, found) if other is demand else self._cells_of(other)
                if its_spec.cells and not cells:
                    return Missing(
                        why=f"no node would have CPUs, and memory, for {whose} cells of floating vCPUs",
                        cpus=owned,
                    )
                pool = self._float_pool(other, its_place, (spec.name, found.cpus))
                before = self._float_sets(other, its_place, pool | owned, cells)
                for all_of_it, rest in zip(
                    before, self._float_sets(other, its_place, pool - lost, cells), strict=True
                ):
                    if not rest:
                        why = f"no CPU would be left for {whose} floating vCPUs"
                        return Missing(why=why, cpus=all_of_it & (lost | owned), cores=cores)
        why = self._crowded(demand, owned, len(spec.floating)) if spec.pinned else ""
        if not why:
            return None
        # a smaller core would be less of a loss; of single PUs any costs the same
        return Missing(why=why, cpus=found.chosen if owned != found.chosen else CpuSet(), cores=True)

    def _cells_of(self, demand: Demand) -> list[int]:
        return next(one.cells for one in self.taken if one.demand is demand)

    def _crowded(self, demand: Demand, owned: CpuSet, floating: int) -> str:
        """Say which pool would be over-committed beyond its ratio."""
        request, board = self.request, self.board
        rest = "CPUs in no pool" if request.pools else "the host's CPUs"
        limits = [(pool.name, pool.overcommit, f"CPU pool {pool.name!r}") for pool in request.pools]
        for name, limit, words in (*limits, (None, request.overcommit, rest)):
            mine = name == demand.spec.pool
            # a pool counts where a guest of the request is in it; PUs for other threads may be taken from any
            if limit is None or not (mine or any(one.spec.pool == name for one in self.taken)):
                continue
            inside = board.pool_named(name)
            room = len(inside - board.owned - owned - request.reserved - board.isolated)
            pending = sum(len(one.spec.floating) for one in self.to_float if one.spec.pool == name)
            total = board.floating(inside) + pending + (floating if mine else 0)
            if total * WHOLE > limit * room and total:
                return (
                    f"{total} vCPUs would float over {room} CPUs of {words}, more than its over-commit ratio of "
                    f"{limit / WHOLE:g} allows"
                )
        return ""

    # -- floating vCPUs of mixed guests

    def _float_all(self) -> None:
        for place, one in enumerate(self.to_float):
            one.floats = self._floats_of(one, self.to_float[place + 1 :])
            cpus = CpuSet.union_of(one.floats)
            spec = one.spec
            if not all(one.floats):  # guests that came later are in its way, which its affinities may say
                why = "no CPU is left for its floating vCPUs"
                self.unplaced.append(Unplaced(name=spec.name, reasons=(why,)))
                self.taken.remove(one)
                self.needy.remove(one)
                continue
            self.board.take(
                User(
                    name=spec.name,
                    cpus=cpus,
                    on=cpus,
                    alone=CpuSet(),
                    vcpus=len(spec.floating),
                    trust_domain=spec.trust_domain,
                )
            )
        self.to_float.clear()

    def _floats_of(self, one: Taken, later: Sequence[Taken]) -> tuple[CpuSet, ...]:
        """Where a guest's vCPUs float: wherever they may, but for a core for each of another trust domain to be."""
        pool = self._float_pool(one.demand, one.candidate)
        floats = self._float_sets(one.demand, one.candidate, pool, one.cells)
        others = [other for other in self.taken if other.spec.trust_domain != one.spec.trust_domain]
        for other in others:
            wanted = [left(self.board, other.demand)] if needs_housekeeping(other.spec) else []
            if other in later:
                mine = self._float_pool(other.demand, other.candidate)
                wanted += self._float_sets(other.demand, other.candidate, mine, other.cells)
            for cpus in wanted:
                if cpus - self.board.cores_of(CpuSet.union_of(floats)):
                    continue
                rest = cpus
                while rest:  # the last core without which nobody's set is empty
                    core = self.board.cores_of(CpuSet([max(rest)]))
                    fewer = self._float_sets(one.demand, one.candidate, pool - core, one.cells)
                    if all(fewer):
                        pool, floats = pool - core, fewer
                        break
                    rest -= core
        return tuple(floats)

    def _float_pool(
        self, demand: Demand, found: Candidate, comes: tuple[str, CpuSet] | None = None
    ) -> CpuSet:
        """The CPUs that a mixed guest's floating vCPUs may come to, beside its dedicated ones and who comes now."""
        pool = pool_for(self.board, demand, self.objective, floats=True) - found.chosen
        if comes is not None and comes[0] != demand.spec.name:
            pool -= CpuSet.union_of(cut.cpus for cut in affinities(self.board, demand.spec, [comes]))
        if self.board.kinds and demand.spec.core_kind != ANY_KIND:
            pinned = CpuSet(found.order)
            pool &= CpuSet.union_of(
                kind.cpus for kind in self.board.kinds if not kind.cpus.isdisjoint(pinned)
            )
        return pool

    def _float_sets(self, demand: Demand, found: Candidate, pool: CpuSet, cells: list[int]) -> list[CpuSet]:
        """The set of each floating vCPU: all of the pool on its cell's node; without cells, on the nearest nodes."""
        board, spec = self.board, demand.spec
        inside = {node.number: node.cpus & pool for node in board.nodes}
        if spec.cells:
            cell_of = {
                vcpu: node for cell, node in zip(spec.cells, cells, strict=True) for vcpu in cell.vcpus
            }
            return [inside[cell_of[vcpu]] for vcpu in spec.floating]
        counts = {node: found.nodes.count(node) for node in found.nodes}
        able = [number for number in inside if inside[number]]
        near = [number for number in able if number in counts]
        if not near:
            least = min((self._far(number, counts) for number in able), default=0)
            near = [number for number in able if self._far(number, counts) == least]
        return [CpuSet.union_of(inside[number] for number in near)] * len(spec.floating)

    # -- the end

    def finished(self) -> tuple[GuestPlacement, ...]:
        """
        Give all threads of all guests that have a place their CPUs.

        Returns:
            The guests, in order of the request; one that is left without a CPU for its other threads is in
            ``unplaced`` instead.
        """
        self._float_all()
        order = {demand.spec.name: place for place, demand in enumerate(self.request.demands)}
        guests = []
        for taken in sorted(self.taken, key=lambda one: order[one.spec.name]):
            house = left(self.board, taken.demand)
            if needs_housekeeping(taken.spec) and not house:
                why = "no housekeeping CPU is left for its emulator threads and IOThreads"
                self.unplaced.append(Unplaced(name=taken.spec.name, reasons=(why,)))
            else:
                guests.append(finish(self.board, self.objective, taken, house))
        return tuple(guests)

    def _refusal(self, demand: Demand, missing: list[str]) -> Unplaced:
        from kvmaff.placement.refusal import refusal  # noqa: PLC0415 - needed rarely, and it needs this

        return refusal(self, demand, missing)
