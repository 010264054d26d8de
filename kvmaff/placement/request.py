"""What is to be decided: a host, guests, and what is taken already. A pure value: placement looks at nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.reader import Host
from kvmaff.placement.moves import Goal, Moves

if TYPE_CHECKING:
    from kvmaff.placement.placement import GuestPlacement

__all__ = ["Demand", "Held", "HostRules", "PlacementRequest", "Pool"]

_NO_MOVES = Moves()


@attrs.frozen(kw_only=True)
class Demand:
    """
    One guest that wants a place.

    Attributes:
        spec: What it needs.
        pid: The process of a running guest; None for one to come, whose memory is still to be found.
        start: The process's start; None for a guest to come.
        allowed: The CPUs that the cgroups of its threads grant; None for no limit.
        memory: (node, bytes) where a running guest's memory is already; empty where that is not known.
        devices: NUMA nodes that its devices hang on, as found; beside those that its spec names.
        absent: PCI addresses of devices that its spec names and the host has not.
        now: The place that it has; it keeps it unless it may be moved and somebody gains. None for one without.
    """

    spec: GuestSpec
    pid: int | None = None
    start: int | None = None
    allowed: CpuSet | None = None
    memory: tuple[tuple[int, int], ...] = ()
    devices: tuple[int, ...] = ()
    absent: tuple[str, ...] = ()
    now: GuestPlacement | None = None

    @property
    def memory_bytes(self) -> int:
        """How much memory it has, as far as that is known, or is to have."""
        known = sum(size for _, size in self.memory)
        return known or self.spec.memory_bytes or sum(cell.memory_bytes for cell in self.spec.cells)

    @property
    def device_nodes(self) -> tuple[int, ...]:
        """The NUMA nodes of its devices, said or found, each once."""
        return tuple(dict.fromkeys((*self.spec.device_nodes, *self.devices)))


@attrs.frozen(kw_only=True)
class Pool:
    """
    CPUs set apart for guests that name the pool.

    Attributes:
        name: What guests call it.
        cpus: Its CPUs; no two pools have one in common.
        overcommit: How many vCPUs of shared guests may float over a PU of it, in thousandths, on average over the pool;
            None for any number.
    """

    name: str
    cpus: CpuSet
    overcommit: int | None = None


@attrs.frozen(kw_only=True)
class HostRules:
    """
    What is so for a host whoever its guests are.

    Attributes:
        reserved: CPUs that no guest's thread may use.
        overcommit: As a pool's, for the CPUs that are in none.
        pools: Its CPU pools.
    """

    reserved: CpuSet = attrs.field(factory=CpuSet)
    overcommit: int | None = None
    pools: tuple[Pool, ...] = ()


@attrs.frozen(kw_only=True)
class Held:
    """
    CPUs that a guest outside this request uses.

    Attributes:
        name: Whose they are, for messages.
        cpus: The CPUs.
        dedicated: Whether they are nobody else's; else they are used by it and may be by others.
        vcpus: How many vCPUs it has on them, for their load.
        trust_domain: Its trust domain; None for that of all of which nothing is said.
    """

    name: str
    cpus: CpuSet
    dedicated: bool
    vcpus: int = 0
    trust_domain: str | None = None


def _number(least: int) -> Any:
    """A validator: a whole number, no truth value, from some other one."""

    def check(_request: object, field: attrs.Attribute[int], value: object) -> None:
        if type(value) is not int or value < least:
            raise ValueError(f"request: {field.name} is a whole number from {least}, not {value!r}")

    return check


def _of(kind: type, words: str) -> Any:
    """A validator: a value of a class."""

    def check(_request: object, field: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"request: {field.name} is {words}, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class PlacementRequest:
    """
    What is to be decided.

    Attributes:
        host: The machine.
        demands: The guests, running and to come, each with a different name.
        held: What guests outside this request use.
        reserved: CPUs that no guest's thread may use.
        memory: (node, free bytes) for guests to come; a node that is not named is not limited.
        pages: (node, bytes a page, free pages) of huge pages for guests to come; what is not named is not there.
        pools: CPU pools. Guests that name none are on the CPUs that are in none.
        overcommit: As a pool's, for the CPUs that are in none.
        moves: How many of the guests that have a place may get another one.
        goal: What counts where not all guests have a place.
        steps: After so many the search for moves ends with the best so far, after up to 13 times as many where many
            guests may be moved; never a clock, so that the same request has the same answer.
        seed: Where a search begins that cannot look at everything; from 0.
        options: The strategy's options, an attrs value of its own class; None for its defaults.

    Raises:
        TypeError: The moves or the goal are something else.
        ValueError: The steps or the seed are no whole number from 0.
    """

    host: Host
    demands: tuple[Demand, ...]
    held: tuple[Held, ...] = ()
    reserved: CpuSet = attrs.field(factory=CpuSet)
    memory: tuple[tuple[int, int], ...] = ()
    pages: tuple[tuple[int, int, int], ...] = ()
    pools: tuple[Pool, ...] = ()
    overcommit: int | None = None
    moves: Moves = attrs.field(default=_NO_MOVES, validator=_of(Moves, "a Moves, as Moves(guests=1)"))
    goal: Goal = attrs.field(default=Goal.VCPUS, validator=_of(Goal, "Goal.VCPUS or Goal.GUESTS"))
    steps: int = attrs.field(default=1 << 16, validator=_number(0))
    seed: int = attrs.field(default=0, validator=_number(0))
    options: Any = None
    _taken: tuple[int, int] | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _domains: frozenset[str | None] | None = attrs.field(default=None, init=False, eq=False, repr=False)

    @property
    def taken(self) -> tuple[int, int]:
        """The bits of the CPUs that guests outside have alone, and of those that they share."""
        if self._taken is None:
            alone = shared = 0
            for held in self.held:
                if held.dedicated:
                    alone |= held.cpus.bits
                else:
                    shared |= held.cpus.bits
            object.__setattr__(self, "_taken", (alone, shared))
        assert self._taken is not None
        return self._taken

    @property
    def domains(self) -> frozenset[str | None]:
        """The trust domains of guests outside."""
        if self._domains is None:
            object.__setattr__(self, "_domains", frozenset([held.trust_domain for held in self.held]))
        assert self._domains is not None
        return self._domains

    def usable(self, demand: Demand) -> CpuSet:
        """
        The CPUs that a guest's threads may use at all.

        Args:
            demand: The guest.

        Returns:
            Online, granted by its cgroups, not reserved, and in its pool or in none.
        """
        cpus = self.host.topology.online - self.reserved
        if self.pools:
            cpus -= CpuSet.union_of(pool.cpus for pool in self.pools if pool.name != demand.spec.pool)
        return cpus if demand.allowed is None else cpus & demand.allowed

    def pool_of(self, demand: Demand) -> CpuSet:
        """
        The CPUs of the pool that a guest's vCPUs are in.

        Args:
            demand: The guest.

        Returns:
            The CPUs of the pool that it names, none where there is no such pool; else those that are in none.
        """
        name = demand.spec.pool
        if name is None:
            rest = self.host.topology.online
            return rest - CpuSet.union_of(pool.cpus for pool in self.pools) if self.pools else rest
        return CpuSet.union_of(pool.cpus for pool in self.pools if pool.name == name)
