"""What is to be decided: a host, guests, and what is taken already. A pure value: placement looks at nothing else."""

from __future__ import annotations

from typing import Any

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.reader import Host

__all__ = ["Demand", "Held", "PlacementRequest"]


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
    """

    spec: GuestSpec
    pid: int | None = None
    start: int | None = None
    allowed: CpuSet | None = None
    memory: tuple[tuple[int, int], ...] = ()


@attrs.frozen(kw_only=True)
class Held:
    """
    CPUs that a guest outside this request uses.

    Attributes:
        name: Whose they are, for messages.
        cpus: The CPUs.
        dedicated: Whether they are nobody else's; else they are used by it and may be by others.
        vcpus: How many vCPUs it has on them, for their load.
    """

    name: str
    cpus: CpuSet
    dedicated: bool
    vcpus: int = 0


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
        options: The strategy's options, an attrs value of its own class; None for its defaults.
    """

    host: Host
    demands: tuple[Demand, ...]
    held: tuple[Held, ...] = ()
    reserved: CpuSet = attrs.field(factory=CpuSet)
    memory: tuple[tuple[int, int], ...] = ()
    options: Any = None

    def usable(self, demand: Demand) -> CpuSet:
        """
        The CPUs that a guest's threads may use at all.

        Args:
            demand: The guest.

        Returns:
            Online, granted by its cgroups, and not reserved.
        """
        cpus = self.host.topology.online - self.reserved
        return cpus if demand.allowed is None else cpus & demand.allowed
