"""What was decided, as a frozen value."""

from __future__ import annotations

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import GuestSpec

__all__ = ["GuestPlacement", "Placement", "Score", "ThreadPlacement", "Unplaced"]


@attrs.frozen(kw_only=True)
class ThreadPlacement:
    """
    The CPUs of one thread, or of all threads of a role.

    Attributes:
        role: The role.
        index: Which vCPU or IOThread; None for every thread of the role (emulator, vhost).
        cpus: The CPUs.
    """

    role: Role
    index: int | None
    cpus: CpuSet


@attrs.frozen(kw_only=True)
class Score:
    """
    What a guest's place costs; each level an integer, the first counting most.

    Attributes:
        distance: Sum over pairs of the guest's vCPUs of the distance between their nodes beyond local, plus each
            vCPU's distance beyond local to the guest's devices and to the memory that it has already; in the
            firmware's unit.
        nodes: NUMA nodes used.
        l3_groups: L3 groups used; cores that the host names none for are a group of their node. One of several nodes
            counts once, unless these have others besides: then once a node.
        shared_cores: Cores used that others use too, or that are not all to be had (reserved, isolated, not granted).
        broken_cores: Other cores of which a part is used.
        load: vCPUs on the busiest PU used, in thousandths.
        node_left: Free PUs left over in the nodes used.
        lost: What its PUs were worth to guests to come, in their L3 groups and nodes (future.py).
        left: Free PUs left over in the L3 groups used.
        node_load: vCPUs of all guests on the busiest node used, in thousandths of its PUs.
        l3_load: The same for the busiest L3 group used.
        core_load: The same for the busiest core used, in thousandths of a vCPU.
    """

    distance: int
    nodes: int
    l3_groups: int
    shared_cores: int
    broken_cores: int
    load: int
    left: int
    node_load: int = 0
    l3_load: int = 0
    core_load: int = 0
    node_left: int = 0
    lost: int = 0


@attrs.frozen(kw_only=True)
class GuestPlacement:
    """
    One guest's place.

    Attributes:
        spec: What it needs.
        pid: The process of a running guest, or None.
        start: The process's start, or None.
        threads: CPUs of vCPUs 0 to ``max_vcpus`` - 1, of the emulator, of each IOThread, of vhost workers.
        nodes: The NUMA nodes that its vCPUs use, ascending.
        score: What it costs.
        why: Why this place, a sentence each.
        owned: CPUs that nobody else may use: its dedicated PUs, its emulator's own, siblings that are kept empty.
    """

    spec: GuestSpec
    pid: int | None
    start: int | None
    threads: tuple[ThreadPlacement, ...]
    nodes: tuple[int, ...]
    score: Score
    why: tuple[str, ...] = ()
    owned: CpuSet = attrs.field(factory=CpuSet)

    def cpus_of(self, role: Role, index: int | None = None) -> CpuSet | None:
        """
        The CPUs of a thread.

        Args:
            role: Its role.
            index: Which one; a role that is placed as a whole answers for each.

        Returns:
            The CPUs, or None where the placement does not say.
        """
        whole = None
        for thread in self.threads:
            if thread.role is role:
                if thread.index == index:
                    return thread.cpus
                if thread.index is None:
                    whole = thread.cpus
        return whole

    @property
    def vcpu_cpus(self) -> CpuSet:
        """All CPUs that its vCPUs may use."""
        return CpuSet.union_of(thread.cpus for thread in self.threads if thread.role is Role.VCPU)

    @property
    def cpus(self) -> CpuSet:
        """All CPUs that any of its threads may use."""
        return CpuSet.union_of(thread.cpus for thread in self.threads)


@attrs.frozen(kw_only=True)
class Unplaced:
    """
    A guest for which there is no place.

    Attributes:
        name: The guest.
        reasons: What is missing, and what would work, a sentence each.
    """

    name: str
    reasons: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Placement:
    """
    A CPU set for every thread of every guest.

    Attributes:
        strategy: Who decided.
        guests: The guests' places, in order of the request.
    """

    strategy: str
    guests: tuple[GuestPlacement, ...]

    def explain(self) -> str:
        """
        The decision in words.

        Returns:
            A few lines for each guest: its CPUs, what they cost, and why.
        """
        from kvmaff.placement.explain import explain  # noqa: PLC0415 - words are needed rarely

        return explain(self)
