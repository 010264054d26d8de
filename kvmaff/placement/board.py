"""
The host while guests are being placed: who owns which PU, and how loaded each is.

Loads count in thousandths of a vCPU a PU. CPUs count as sets; nothing here depends on how they are numbered. What only
some guests need (a load for each CPU) is worked out when it is first asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.columns import far_apart
from kvmaff.placement.fit import HostCores, NodeCores
from kvmaff.placement.machine import PARTS, Machine
from kvmaff.placement.request import Demand, PlacementRequest

__all__ = ["ENDLESS", "MOST_CELLS", "PARTS", "WHOLE", "Board", "User"]

MOST_CELLS = 256
"""NUMA cells of a guest that it knows."""
WHOLE = 1000
"""The load of one vCPU on a PU of its own."""
ENDLESS = 1 << 62
"""More memory than any node has."""


@attrs.frozen(kw_only=True)
class User:
    """
    Who uses some CPUs.

    Attributes:
        name: The guest.
        cpus: The CPUs of its vCPUs and of what it has alone; of a guest outside the request, all that it uses.
        on: The CPUs of its vCPUs; of a guest outside the request, all that it uses.
        alone: Those that are nobody else's.
        vcpus: How many vCPUs float over the others.
        trust_domain: Its trust domain.
    """

    name: str
    cpus: CpuSet
    on: CpuSet
    alone: CpuSet
    vcpus: int
    trust_domain: str | None


class Board:
    """
    The state of one search.

    Args:
        request: What is to be decided.
    """

    def __init__(self, request: PlacementRequest) -> None:
        topology = request.host.topology
        self.request = request
        self.online = topology.online
        self.isolated = request.host.isolation.unbalanced & topology.online
        self.columns = request.host.columns
        self._machine = Machine(request.host)  # the same one for all boards that are made of this one
        self.nodes = self.columns.nodes
        self.numbers = [node.number for node in self.nodes]
        self.l3 = self.columns.l3
        self.kinds = topology.kinds if len(topology.kinds) > 1 else ()
        self.memory: dict[int, dict[int, int]] = {0: dict(request.memory)}
        for node, size, free in request.pages:
            self.memory.setdefault(size, {})[node] = size * free
        owned, shared = request.taken
        self.owned = CpuSet.from_bits(owned & self.online.bits)  # what belongs to one guest alone
        self.used = CpuSet.from_bits((owned | shared) & self.online.bits)  # by anybody, dedicated or not
        domains = {*request.domains, *(demand.spec.trust_domain for demand in request.demands)}
        self.strange = domains != {None}  # whether trust domains matter at all
        self._given: list[User] = []
        self.loads: dict[int, int] | None = None  # see load
        self.spent: dict[str, tuple[int, Mapping[int, int]]] = {}  # by guest: page size, bytes by node

    # -- what the machine is

    @property
    def cores(self) -> tuple[CpuSet, ...]:
        """All cores; a CPU of which the host tells none is one of its own."""
        return self._machine.cores

    @property
    def shape(self) -> dict[int, NodeCores]:
        """The cores of each node, by its number."""
        return self._machine.shape

    @property
    def alone(self) -> dict[int, HostCores]:
        """Each node as if it were the host."""
        return self._machine.alone

    @property
    def together(self) -> HostCores:
        """All nodes and how far they are apart, for the search over them; only where there are not too many."""
        return self._machine.together

    @property
    def together_finely(self) -> HostCores:
        """The same with distances in parts of the firmware's unit, as far as the search takes such numbers."""
        return self._machine.together_finely

    @cached_property
    def _places(self) -> dict[int, int]:
        """The place of each node that is laid out, by number."""
        return {number: at for at, number in enumerate(self.numbers)} if self.columns.distance else {}

    @cached_property
    def affine(self) -> list[GuestSpec]:
        """The guests of the request that say whom they are to be near to, or apart from."""
        specs = (demand.spec for demand in self.request.demands)
        return [spec for spec in specs if spec.affinity or spec.anti_affinity]

    def pool_named(self, name: str | None) -> CpuSet:
        """
        The online CPUs of a pool.

        Args:
            name: The pool; None for the CPUs that are in none.

        Returns:
            Its CPUs.
        """
        pools = self.request.pools
        if name is None:
            return self.online - CpuSet.union_of(pool.cpus for pool in pools)
        return self.online & CpuSet.union_of(pool.cpus for pool in pools if pool.name == name)

    def distance(self, one: int, other: int) -> int:
        """
        How far two nodes are beyond local.

        Args:
            one: A node's number.
            other: Another's; it may be one without CPUs.

        Returns:
            0 for the same node; the firmware's distance less 10 otherwise, the larger one where it differs by
            direction.
        """
        if one == other:
            return 0
        places = self._places
        if one in places and other in places:
            return self._machine.far[places[one] * len(places) + places[other]]
        told = {node.number: node.distances for node in self.request.host.topology.nodes}
        pair = far_apart([one, other], [told.get(one, ()), told.get(other, ())])
        return memoryview(pair).cast("q")[1]

    def near(self, demand: Demand) -> list[int]:
        """
        How far a vCPU on each node is from a guest's devices and from the memory that it has.

        Args:
            demand: The guest.

        Returns:
            For each node the sum, in hundredths of the firmware's unit: of memory mostly a part is elsewhere, and
            nodes may be one unit apart.
        """
        total = sum(size for _, size in demand.memory)
        devices = demand.device_nodes
        if not total and not devices:
            return [0] * len(self.nodes)
        far = []
        for node in self.numbers:
            away = PARTS * sum(self.distance(node, device) for device in devices)
            if total:
                there = sum(size * self.distance(node, where) for where, size in demand.memory)
                away += (PARTS * there + total // 2) // total
            far.append(away)
        return far

    def nodes_of(self, cpus: CpuSet) -> list[int]:
        """
        The numbers of the nodes that have any of some CPUs.

        Args:
            cpus: The CPUs.

        Returns:
            The numbers, in order of the nodes.
        """
        return [node.number for node in self.nodes if not node.cpus.isdisjoint(cpus)]

    def cores_of(self, cpus: CpuSet) -> CpuSet:
        """
        All PUs of the cores that have any of some CPUs.

        Args:
            cpus: The CPUs.

        Returns:
            The PUs.
        """
        return CpuSet.from_bits(self.columns.cores_of(cpus.bits))

    # -- what is taken

    @property
    def users(self) -> list[User]:
        """Who uses CPUs: those outside the request, then those that have been given a place."""
        return [*self._others, *self._given]

    @cached_property
    def _others(self) -> list[User]:
        """Those outside the request, of whom most searches only want to know what they have together."""
        users = []
        for held in self.request.held:
            cpus = held.cpus & self.online
            users.append(
                User(
                    name=held.name,
                    cpus=cpus,
                    on=cpus,
                    alone=cpus if held.dedicated else CpuSet(),
                    vcpus=0 if held.dedicated else held.vcpus,
                    trust_domain=held.trust_domain,
                )
            )
        return users

    def without(self, name: str) -> Board:
        """
        The same host as if a guest were not there.

        Args:
            name: The guest.

        Returns:
            A board of its own; this one is not changed.
        """
        others, given = (
            [user for user in users if user.name != name] for users in (self._others, self._given)
        )
        other = copy.copy(self)
        other.__dict__.update(_others=others, _given=given, loads=None)
        other.owned = CpuSet.union_of(user.alone for user in other.users)
        other.used = CpuSet.union_of(user.cpus for user in other.users)
        other.memory = {size: dict(left) for size, left in self.memory.items()}
        other.spent = {whose: paid for whose, paid in self.spent.items() if whose != name}
        size, needed = self.spent.get(name, (0, {}))
        for node, amount in needed.items():
            if node in other.memory.get(size, {}):
                other.memory[size][node] += amount
        return other

    def emptied(self) -> Board:
        """
        The same host as if none of the guests that were given a place were there.

        Returns:
            A board of its own; this one is not changed.
        """
        other = copy.copy(self)
        other.__dict__.update(_given=[], loads=None)
        other.owned = CpuSet.union_of(user.alone for user in self._others)
        other.used = CpuSet.union_of(user.cpus for user in self._others)
        return other

    def take(self, user: User) -> None:
        """
        Note who uses CPUs.

        Args:
            user: The guest and its CPUs.
        """
        self._given.append(user)
        self.used |= user.cpus
        self.owned |= user.alone
        if self.loads is not None:
            _burden(self.loads, user)

    @property
    def load(self) -> Mapping[int, int]:
        """The load of each online CPU."""
        if self.loads is None:
            self.loads = dict.fromkeys(self.online, 0)
            for user in self.users:
                _burden(self.loads, user)
        return self.loads

    def weight(self, cpus: CpuSet) -> int:
        """
        The load of CPUs together.

        Args:
            cpus: The CPUs.

        Returns:
            Thousandths of a vCPU.
        """
        return sum(map(self.load.__getitem__, cpus))

    def room(self, pool: CpuSet, ceiling: int) -> CpuSet:
        """
        PUs with room for a whole vCPU each, below a load.

        Loads may be fractions, where guests float over more PUs than they have vCPUs; so an L3 group's room counts
        as a whole, and its least loaded PUs stand for it.

        Args:
            pool: The PUs to look at.
            ceiling: The load that none may exceed.

        Returns:
            As many PUs as there is room for.
        """
        free: list[int] = []
        load = self.load
        for group in (*(group & pool for group in self.l3), pool - CpuSet.union_of(self.l3)):
            loads = sorted((load[cpu], cpu) for cpu in group)
            count = sum(max(ceiling - each, 0) for each, _ in loads) // WHOLE
            free += [cpu for each, cpu in loads[:count] if each < ceiling]
        return CpuSet(free)

    # -- memory

    def free_memory(self, spec: GuestSpec, node: int) -> int:
        """
        The memory for a guest to come on a node, in the pages that it wants.

        Args:
            spec: What it needs.
            node: The node's number.

        Returns:
            Bytes; of a node of which no small pages are told, more than there is anywhere.
        """
        if spec.page_bytes:
            return self.memory.get(spec.page_bytes, {}).get(node, 0)
        return self.memory[0].get(node, ENDLESS)

    def memory_left(self, spec: GuestSpec, node: int) -> int:
        """
        The same, for sums: never more than what no node has.

        Args:
            spec: What it needs.
            node: The node's number.

        Returns:
            Bytes.
        """
        return min(self.free_memory(spec, node), ENDLESS)

    def spend(self, spec: GuestSpec, needed: Mapping[int, int]) -> None:
        """
        Take memory.

        Args:
            spec: What the guest needs.
            needed: Bytes by node number.
        """
        self.spent[spec.name] = (spec.page_bytes, needed)
        left = self.memory.setdefault(spec.page_bytes, {})
        for node, amount in needed.items():
            if node in left:
                left[node] -= amount

    # -- floating vCPUs

    def floating(self, cpus: CpuSet) -> int:
        """
        How many vCPUs float over CPUs.

        Args:
            cpus: The CPUs.

        Returns:
            Their sum, a guest's by how much of what it floats over they are, rounded up.
        """
        total = 0
        for user in self.users:
            floats = user.cpus - user.alone
            if user.vcpus and floats:
                total += -(-user.vcpus * len(floats & cpus) // len(floats))
        return total


def _burden(load: dict[int, int], user: User) -> None:
    for cpu in user.alone:
        load[cpu] = max(load[cpu], WHOLE)
    floats = user.cpus - user.alone
    share = WHOLE * user.vcpus // max(len(floats), 1)
    for cpu in floats if share else ():
        load[cpu] += share
