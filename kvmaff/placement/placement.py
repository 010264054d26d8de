"""What was decided, as a frozen value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.basis import Basis
from kvmaff.placement.moves import Admission, Moved

if TYPE_CHECKING:
    from kvmaff.placement.explain import Explanation
    from kvmaff.placement.order import Step

__all__ = ["GuestPlacement", "Placement", "Remedy", "Removal", "Score", "ThreadPlacement", "Unplaced"]


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
    What a guest's place costs; each level an integer, None where the strategy does not ask for it.

    The PUs that its other threads have for themselves count as its vCPUs do.

    Attributes:
        distance: Sum over pairs of the guest's vCPUs of the distance between their nodes beyond local, plus each
            vCPU's distance beyond local to the guest's devices and to the memory that it has already; in the
            firmware's unit, rounded.
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
        crowding: Of a shared guest, how many vCPUs a PU its place was looked for with; 1: nobody is over-committed.
        levels: The names of those that count, what counts most first.
    """

    distance: int
    nodes: int
    l3_groups: int
    shared_cores: int
    broken_cores: int
    load: int | None = None
    left: int | None = None
    node_load: int | None = None
    l3_load: int | None = None
    core_load: int | None = None
    node_left: int | None = None
    lost: int | None = None
    crowding: int | None = None
    levels: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[int, ...]:
        """The levels that count, in order: what two places of a guest are compared by; smaller is better."""
        return tuple(getattr(self, level) or 0 for level in self.levels)


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
class Removal:
    """
    What a rule took away from a guest that has no place.

    Attributes:
        rule: The rule: ``cgroup``, ``reserved``, ``pool``, ``isolated``, ``dedicated``, ``used``, ``trust_domain``,
            ``affinity``, ``anti_affinity``, ``core_kind``; ``cores`` for PUs that its thread policy cannot use;
            ``memory`` for nodes without the memory that even one vCPU needs there.
        by: The guest for whose sake it is, or None.
        cpus: The CPUs.
        nodes: Numbers of the NUMA nodes of which, with the rules before, it leaves nothing.
        l3_groups: The L3 groups of other nodes of which it leaves nothing.
    """

    rule: str
    by: str | None
    cpus: CpuSet
    nodes: tuple[int, ...] = ()
    l3_groups: tuple[CpuSet, ...] = ()


@attrs.frozen(kw_only=True)
class Remedy:
    """
    One change with which a guest would have a place.

    Attributes:
        what: What is changed: ``thread_policy``, ``emulator_policy``, ``iothread_policy`` (or both, with a ``+``),
            ``core_kind``, ``page_bytes``, ``cells``, ``memory``, ``affinity``, ``pool``, ``option``, ``guest``
            (another one is out of the way), ``vcpus`` (without cells), ``vcpu_policy``.
        to: The new value; for ``guest`` its name.
        text: The same in words.
    """

    what: str
    to: str
    text: str


@attrs.frozen(kw_only=True)
class Unplaced:
    """
    A guest for which there is no place.

    Attributes:
        name: The guest.
        reasons: What is missing, and what would work, a sentence each.
        removed: What each rule took away, in order of the rules.
        remedies: Each single change with which it would fit, the smallest first.
    """

    name: str
    reasons: tuple[str, ...]
    removed: tuple[Removal, ...] = ()
    remedies: tuple[Remedy, ...] = ()


@attrs.frozen(kw_only=True)
class Placement:
    """
    A CPU set for every thread of every guest.

    Attributes:
        strategy: Who decided.
        guests: The guests' places, in order of the request.
        basis: What it was decided from, where the one search decided; else None.
        admission: How many of the guests to come have a place, and how many could have one at most, where the one
            search decided.
    """

    strategy: str
    guests: tuple[GuestPlacement, ...]
    basis: Basis | None = attrs.field(default=None, eq=False, repr=False)
    admission: Admission | None = attrs.field(default=None, eq=False)

    def explain(self) -> str:
        """
        The decision in words.

        Returns:
            A few lines for each guest: its CPUs, what they cost level by level, the runner-up and what that would cost
            more.
        """
        from kvmaff.placement.explain import explain  # noqa: PLC0415 - words are needed rarely

        return explain(self)

    def explained(self) -> tuple[Explanation, ...]:
        """
        The same as data.

        Returns:
            An explanation for each guest, in order of the guests.
        """
        from kvmaff.placement.explain import explained  # noqa: PLC0415 - the same

        return explained(self)

    def moved(self) -> tuple[Moved, ...]:
        """
        The guests that had another place before.

        Returns:
            They, in order of the request; none where it is not known from what was decided.
        """
        from kvmaff.placement.order import moved  # noqa: PLC0415 - the same

        return () if self.basis is None else moved(self.basis.request, self)

    def steps(self) -> tuple[Step, ...] | None:
        """
        An order in which guests change places, so that every state on the way keeps all rules.

        Returns:
            The steps, none where nobody is moved; None where no order was found.
        """
        from kvmaff.placement.order import steps  # noqa: PLC0415 - the same

        return () if self.basis is None else steps(self.basis.request, self)
