"""
The least that a dedicated guest's place can cost, proved by OR-tools' CP-SAT: whole hosts, from the request itself.

Nothing here comes from the search or its scoring. The rules and the levels are written down once more from what
``GuestSpec``, ``PlacementRequest`` and ``Score`` say; of kvmaff only these values are used, and what PUs are worth to
guests to come (future.py), which is the definition of the last level. The same levels can be worked out for an answer.

The solver gets no answer to begin with. Cores that are alike are one thing of which there are several: then it has to
say how many of them give one PU, how many two, and so on, and does not lose time on which. The distance is minimised
and fixed, then all other levels at once, as one sum whose weights keep them apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from itertools import combinations

import attrs
from ortools.sat.python import cp_model

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy
from kvmaff.placement.future import accept
from kvmaff.placement.request import PlacementRequest

Levels = tuple[int, int, int, int, int]
"""Distance, L3 groups, shared cores, broken cores, lost."""
PARTS = 100
"""A distance counts in so many parts of the firmware's unit until it is told."""
LEVELS = ("distance", "l3_groups", "shared_cores", "broken_cores", "lost")
_LIMITS = (
    (cp_model.AUTOMATIC_SEARCH, 3.0),
    (cp_model.FIXED_SEARCH, 60.0),
)
"""How to search, for how many seconds. Node by node is most often slower, but quick where the other never ends."""
_GROUPLESS = -1


class NotProvedError(Exception):
    """The solver ran out of time."""


@attrs.frozen
class Core:
    """
    What matters of a core; cores that have all the same are alike.

    Attributes:
        node: The number of its node.
        l3: The place of its L3 group among the host's.
        total: Its PUs.
        free: Those that the guest's vCPUs may have.
        spare: Those that its other threads could have, if they must have CPUs that are not its vCPUs' own.
    """

    node: int
    l3: int
    total: int
    free: int
    spare: int


class Question:
    """
    A request for one dedicated guest, in the solver's terms.

    Args:
        request: The request.
        strategy: The strategy's name: ``numa``, ``pack`` or ``isolated``.
    """

    def __init__(self, request: PlacementRequest, strategy: str) -> None:
        (self.demand,) = request.demands
        self.spec: GuestSpec = self.demand.spec
        self.vcpus = self.spec.max_vcpus
        self.own_cores = strategy == "isolated" or self.spec.thread_policy is ThreadPolicy.ISOLATE
        self.per_core = 1 if self.spec.thread_policy is ThreadPolicy.ISOLATE else None
        self.memory = dict(request.memory) if self.demand.pid is None else {}
        topology = request.host.topology
        self._told = {node.number: dict(node.distances) for node in topology.nodes}
        isolated = request.host.isolation.unbalanced & topology.online
        alone = CpuSet.union_of(held.cpus for held in request.held if held.dedicated)
        used = CpuSet.union_of(held.cpus for held in request.held)
        usable = (
            topology.online if self.demand.allowed is None else topology.online & self.demand.allowed
        ) - request.reserved
        only_isolated = strategy == "isolated" and isolated
        self.free = (usable - used) & isolated if only_isolated else usable - used - isolated
        self.cpus = _nodes(request)
        singles = topology.online - CpuSet.union_of(topology.cores)
        self.core_cpus = [*topology.cores, *(CpuSet([cpu]) for cpu in singles)]
        policy = self.spec.emulator_policy
        if strategy == "isolated" and policy is EmulatorPolicy.SHARE:
            policy = EmulatorPolicy.HOUSEKEEPING
        # a PU of the emulator's own counts as those of vCPUs do
        self.own = int(policy is EmulatorPolicy.ISOLATE)
        self.pus = self.vcpus + self.own
        self.needs_spare = policy is EmulatorPolicy.HOUSEKEEPING
        spare = usable - alone - isolated
        l3 = topology.l3 or tuple(self.cpus.values())
        self.cores = [
            Core(
                node=next(node for node, cpus in self.cpus.items() if core.first in cpus),
                l3=next((at for at, group in enumerate(l3) if core.first in group), _GROUPLESS),
                total=len(core),
                free=len(core & self.free),
                spare=len(core & spare),
            )
            for core in self.core_cpus
        ]
        far = strategy != "pack"
        self.near = {node: self._near(node) if far else 0 for node in self.cpus}

    def distance(self, one: int, other: int) -> int:
        """
        Tell how far a node is from another beyond local: what firmware says, 20 where it says nothing.

        Args:
            one: A node's number.
            other: Another's.

        Returns:
            The larger one of both directions.
        """
        if one == other:
            return 0
        both = (self._told.get(a, {}).get(b, 20) for a, b in ((one, other), (other, one)))
        return max(*(told - 10 for told in both), 1)

    def _near(self, node: int) -> int:
        """Tell what each vCPU on a node costs for what the guest has elsewhere."""
        far = sum(self.distance(node, device) for device in self.spec.device_nodes)
        there = self.demand.memory
        total = sum(size for _, size in there)
        parts = sum(size * self.distance(node, at) for at, size in there)
        return PARTS * far + ((PARTS * parts + total // 2) // total if total else 0)

    def group(self, core: Core) -> Hashable:
        """
        Tell which L3 group a core counts for.

        Args:
            core: The core.

        Returns:
            The group's name: one of several nodes counts once, unless these have others besides.
        """
        several = len({other.l3 for other in self.cores if other.node == core.node}) > 1
        return (core.node if several or core.l3 == _GROUPLESS else None, core.l3)

    def takes(self, core: Core, unit: int) -> list[int]:
        """
        Tell how many vCPUs may be on a core.

        Args:
            core: The core.
            unit: vCPUs that stay together.

        Returns:
            The numbers, from 0.
        """
        most = core.free if self.per_core is None else min(core.free, self.per_core)
        if self.own_cores and core.free < core.total:
            most = 0
        return list(range(0, most + 1, unit))

    def units(self) -> list[int]:
        """
        Tell how many vCPUs stay together on a core.

        Returns:
            The numbers; a later one counts only where there is no place with the one before.
        """
        threads = self.spec.threads
        if self.spec.thread_policy is ThreadPolicy.REQUIRE:
            return [max(threads, 2)]
        return [threads, 1] if threads > 1 else [1]

    def levels(self, chosen: CpuSet) -> Levels:
        """
        Work out what a place costs.

        Args:
            chosen: Its PUs.

        Returns:
            The levels.
        """
        taken = [(core, len(cpus & chosen)) for core, cpus in zip(self.cores, self.core_cpus, strict=True)]
        counts: Counter[int] = Counter()
        for core, take in taken:
            counts[core.node] += take
        lost = 0
        for key in {place for core in self.cores for place in _places(core)}:
            free = sum(core.free for core in self.cores if key in _places(core))
            take = sum(take for core, take in taken if key in _places(core))
            lost += accept(free) - accept(free - take)
        far = sum(
            counts[one] * counts[other] * self.distance(one, other)
            for one, other in combinations(self.cpus, 2)
        )
        return (
            told(PARTS * far + sum(self.near[node] * count for node, count in counts.items())),
            len({self.group(core) for core, take in taken if take}),
            sum(core.free < core.total for core, take in taken if take),
            sum(core.free == core.total > take for core, take in taken if take),
            lost,
        )


def told(parts: int) -> int:
    """
    Round a distance as a score tells it.

    Args:
        parts: The distance in parts of the firmware's unit.

    Returns:
        It in that unit.
    """
    return (parts + PARTS // 2) // PARTS


def least(question: Question) -> Levels | None:
    """
    Find the least that the guest's place can cost.

    Args:
        question: The question.

    Returns:
        The levels, or None where there is no place.

    Raises:
        NotProvedError: The solver ran out of time.
    """
    for unit in question.units():
        if question.vcpus % unit == 0:
            found = _Model(question, unit).least()
            if found is not None:
                return found
    return None


class _Model:
    """The question with vCPUs of which so many stay together."""

    def __init__(self, question: Question, unit: int) -> None:
        self.question = question
        self.model = cp_model.CpModel()
        self.alike = Counter(question.cores)
        self.unit = unit
        # how many of the cores that are alike give so many PUs each
        self.gives = {
            core: {
                take: self.model.new_int_var(0, count, f"{take} of {core}")
                for take in question.takes(core, unit)[1:]
            }
            for core, count in self.alike.items()
        }
        for core, gives in self.gives.items():
            self.model.add(sum(gives.values()) <= self.alike[core])
        self.taken = {
            core: sum(take * count for take, count in gives.items()) for core, gives in self.gives.items()
        }
        self.counts = {node: self._count(node) for node in question.cpus}
        self.model.add(sum(self.counts.values()) == question.pus)
        self.own = {node: self.model.new_bool_var(f"own PU on {node}") for node in self.counts}
        self.model.add(sum(self.own.values()) == question.own)
        for node, own in self.own.items():
            self.model.add(self.counts[node] >= own)
        self.model.add_decision_strategy(
            list(self.counts.values()), cp_model.CHOOSE_FIRST, cp_model.SELECT_MAX_VALUE
        )
        self._cells_and_memory()
        self._other_threads()

    def _count(self, node: int) -> cp_model.IntVar:
        count = self.model.new_int_var(0, self.question.pus, f"node {node}")
        self.model.add(count == sum(taken for core, taken in self.taken.items() if core.node == node))
        return count

    def _cells_and_memory(self) -> None:
        spec, model, memory = self.question.spec, self.model, self.question.memory
        place = {
            (at, node): model.new_bool_var(f"cell {at} on {node}")
            for at in range(len(spec.cells))
            for node in self.counts
        }
        for at, cell in enumerate(spec.cells):
            model.add_exactly_one(place[at, node] for node in self.counts)
            for other in range(at):  # siblings are on one core
                mine, others = (
                    {vcpu // self.unit for vcpu in one.vcpus} for one in (cell, spec.cells[other])
                )
                if mine & others:
                    for node in self.counts:
                        model.add(place[at, node] == place[other, node])
        by_cell = any(cell.memory_bytes for cell in spec.cells)
        for node, pus in self.counts.items():
            count = pus - self.own[node]
            if spec.cells:
                here = [(cell, place[at, node]) for at, cell in enumerate(spec.cells)]
                model.add(count == sum(len(cell.vcpus) * on for cell, on in here))
                if by_cell and node in memory:
                    model.add(sum(cell.memory_bytes * on for cell, on in here) <= memory[node])
            if spec.memory_bytes and not by_cell and node in memory:  # it is spread as the vCPUs are
                model.add(count <= memory[node] * self.question.vcpus // spec.memory_bytes)

    def _other_threads(self) -> None:
        """One CPU at least is left for threads that are to have CPUs of their own."""
        if not self.question.needs_spare:
            return
        left: cp_model.LinearExprT = sum(core.spare for core in self.question.cores)
        for core, gives in self.gives.items():
            for take, count in gives.items():
                left -= (core.spare if self.question.own_cores else min(take, core.spare)) * count
        self.model.add(left >= 1)

    def least(self) -> Levels | None:
        distance = self._solved(self._distance())
        if distance is None:
            return None
        groups, shared, broken, lost = self._groups(), *self._cores(), self._lost()
        cores = len(self.question.cores) + 1
        worth = 2 * accept(sum(core.free for core in self.question.cores)) + 1
        rest = self._solved(((groups * cores + shared) * cores + broken) * worth + lost)
        assert rest is not None
        rest, last = divmod(rest, worth)
        rest, third = divmod(rest, cores)
        first, second = divmod(rest, cores)
        return told(distance), first, second, third, last

    def _solved(self, what: cp_model.LinearExprT) -> int | None:
        """Find the least value and fix it; None where there is no answer."""
        self.model.minimize(what)
        for search, seconds in _LIMITS:
            solver = cp_model.CpSolver()
            solver.parameters.num_workers = 1
            solver.parameters.catch_sigint_signal = False  # or Ctrl-C would end Python unasked ever after
            solver.parameters.search_branching = search
            solver.parameters.max_time_in_seconds = seconds
            status = solver.solve(self.model)
            if status == cp_model.INFEASIBLE:
                return None
            if status == cp_model.OPTIMAL:
                found = round(solver.objective_value)
                self.model.add(what == found)
                return found
        raise NotProvedError

    def _distance(self) -> cp_model.LinearExprT:
        """The number of pairs on each two nodes is a product; all pairs of a node's vCPUs together are known."""
        question, model = self.question, self.model
        able = [
            node for node in self.counts if any(self.gives[core] for core in self.gives if core.node == node)
        ]
        pairs: dict[tuple[int, int], cp_model.IntVar] = {}
        for one, other in combinations(able, 2):
            product = model.new_int_var(0, question.pus**2 // 4, f"pairs {one} {other}")
            model.add_multiplication_equality(product, [self.counts[one], self.counts[other]])
            pairs[one, other] = pairs[other, one] = product
        for one in able:  # follows from the rest, but shortens the proof
            inside = model.new_int_var(0, question.pus**2, f"pairs {one}")
            model.add_multiplication_equality(inside, [self.counts[one], self.counts[one]])
            others = sum(pairs[one, other] for other in able if other != one)
            model.add(others + inside == question.pus * self.counts[one])
        return sum(question.near[node] * count for node, count in self.counts.items()) + sum(
            PARTS * question.distance(one, other) * pairs[one, other] for one, other in combinations(able, 2)
        )

    def _groups(self) -> cp_model.LinearExprT:
        members = defaultdict(list)
        for core, taken in self.taken.items():
            if self.gives[core]:
                members[self.question.group(core)].append((taken, core.free * self.alike[core]))
        used = []
        for name, some in members.items():
            used.append(self.model.new_bool_var(f"group {name}"))
            self.model.add(sum(taken for taken, _ in some) <= sum(room for _, room in some) * used[-1])
        return sum(used)

    def _cores(self) -> tuple[cp_model.LinearExprT, cp_model.LinearExprT]:
        shared: list[cp_model.IntVar] = []
        broken: list[cp_model.IntVar] = []
        for core, gives in self.gives.items():
            if core.free < core.total:
                shared += gives.values()
            else:
                broken += (count for take, count in gives.items() if take < core.total)
        return sum(shared), sum(broken)

    def _lost(self) -> cp_model.LinearExprT:
        total: cp_model.LinearExprT = 0
        for name in {place for core in self.alike for place in _places(core)}:
            here = [core for core in self.alike if name in _places(core)]
            free = sum(core.free * self.alike[core] for core in here)
            taken = self.model.new_int_var(0, min(free, self.question.pus), f"taken {name}")
            self.model.add(taken == sum(self.taken[core] for core in here))
            loses = [accept(free) - accept(free - take) for take in range(min(free, self.question.pus) + 1)]
            lost = self.model.new_int_var(0, loses[-1], f"lost {name}")
            self.model.add_element(taken, loses, lost)
            total += lost
        return total


def _places(core: Core) -> tuple[tuple[int, ...], ...]:
    """Name the node, and the L3 group as far as it is in that node, which both lose what a core gives."""
    return (core.node,), (core.node, core.l3)


def _nodes(request: PlacementRequest) -> Mapping[int, CpuSet]:
    """Give the online CPUs of each node that has some; those that no node names are one more."""
    topology = request.host.topology
    cpus: dict[int, CpuSet] = {}
    rest = topology.online
    for node in topology.nodes:
        if node.cpus & rest:
            cpus[node.number] = node.cpus & rest
            rest -= node.cpus
    if rest:
        cpus[max(cpus, default=-1) + 1] = rest
    return cpus
