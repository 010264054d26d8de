"""
What a guest needs, whether it runs already or not.

Words with a fixed meaning: *dedicated*, one PU a vCPU and nobody else's; *shared*, every vCPU floats over the
guest's CPU set; *mixed*, some are dedicated and the rest float. A guest of which nothing is said is shared: that does
no harm.
"""

from __future__ import annotations

import enum
from typing import Any

import attrs

from kvmaff.guest import specrules

__all__ = [
    "ANY_KIND",
    "MAX_VCPUS",
    "Affinity",
    "EmulatorPolicy",
    "GuestCell",
    "GuestSpec",
    "Place",
    "SpecContradiction",
    "ThreadPolicy",
    "VcpuPolicy",
]

MAX_VCPUS = 8192
_NUMBERS = tuple(range(MAX_VCPUS))
ANY_KIND = "any"
"""The core kind of a guest that may be on cores of several kinds at once."""


class VcpuPolicy(enum.StrEnum):
    """How a guest's vCPUs get CPUs."""

    DEDICATED = "dedicated"
    """One PU a vCPU, used by nobody else."""
    SHARED = "shared"
    """All vCPUs float over the guest's CPU set, which other shared guests may use too."""
    MIXED = "mixed"
    """Some vCPUs are dedicated (``dedicated_vcpus``), the others float beside them."""


class ThreadPolicy(enum.StrEnum):
    """What dedicated vCPUs do with SMT siblings."""

    PREFER = "prefer"
    """Siblings of one core together where that is to be had."""
    REQUIRE = "require"
    """vCPUs fill whole groups of siblings; a host without SMT cannot."""
    ISOLATE = "isolate"
    """One vCPU a core, its siblings kept empty."""


class EmulatorPolicy(enum.StrEnum):
    """Where a guest's emulator threads, IOThreads and vhost workers run."""

    SHARE = "share"
    """On the guest's own CPUs, beside its vCPUs."""
    ISOLATE = "isolate"
    """On one more PU of the guest's own; for guests with dedicated vCPUs."""
    HOUSEKEEPING = "housekeeping"
    """On the CPUs that belong to no guest alone and are not isolated."""


@attrs.frozen(kw_only=True)
class GuestCell:
    """
    One NUMA cell of a guest.

    Attributes:
        vcpus: Numbers of its vCPUs, ascending.
        memory_bytes: Its memory; 0 where not said.
    """

    vcpus: tuple[int, ...]
    memory_bytes: int = 0


class Place(enum.StrEnum):
    """What guests share, or keep for themselves, by their affinity."""

    NODE = "node"
    """A NUMA node."""
    L3 = "l3"
    """An L3 group."""
    CORE = "core"
    """A core."""


@attrs.frozen(kw_only=True)
class Affinity:
    """
    Where a guest's vCPUs are to be, or not to be, for the sake of another's.

    Attributes:
        guest: The other guest's name.
        level: What they share, or do not.
    """

    guest: str
    level: Place = Place.NODE


class SpecContradiction(ValueError):
    """
    Fields of a spec contradict each other.

    Args:
        name: The guest.
        problems: Each (field, what is wrong with it).

    Attributes:
        problems: The same.
    """

    def __init__(self, name: str, problems: tuple[tuple[str, str], ...]) -> None:
        super().__init__(f"guest {name!r}: " + "; ".join(f"{field}: {what}" for field, what in problems))
        self.problems = problems


@attrs.frozen(kw_only=True)
class GuestSpec:
    """
    What one guest needs.

    Attributes:
        name: The guest's name.
        uuid: Its UUID in lower case, or None.
        vcpus: vCPUs that it starts with.
        max_vcpus: vCPUs that it may have; all get places, so that hot-plug finds them. Default: ``vcpus``.
        threads: Threads a core that the guest sees; vCPUs 2k and 2k+1 are siblings with 2.
        memory_bytes: Its memory; 0 where not said.
        cells: Its NUMA cells; empty for a guest without.
        iothreads: Names of its IOThreads.
        device_nodes: NUMA nodes of the host that its devices hang on.
        devices: PCI addresses of its devices, whose nodes the host knows.
        vcpu_policy: How its vCPUs get CPUs.
        dedicated_vcpus: Under ``mixed``, the numbers of those that are dedicated, ascending.
        thread_policy: What dedicated vCPUs do with siblings.
        emulator_policy: Where its other threads run.
        iothread_policy: Where its IOThreads run, each by itself under ``isolate``; None: where the emulator does.
        page_bytes: The size of the pages that its memory is made of; 0 for the kernel's own.
        core_kind: The kind of core that its vCPUs run on, as the host names kinds; ``any``: of several kinds at once;
            None: of one kind, the fastest that has room.
        affinity: Guests to be near to: the places of one are all among those of the other. Void while the other has no
            place.
        anti_affinity: Guests to be apart from: they have no place in common.
        trust_domain: On a core on which it has a vCPU, no guest of another domain has any thread; guests of which
            nothing is said are one domain.
        pool: The host's CPU pool that its vCPUs are in; None for CPUs in no pool.

    Raises:
        SpecContradiction: The fields contradict each other; the text names each field that does. It is a ValueError.
    """

    name: str
    uuid: str | None = None
    vcpus: int
    max_vcpus: int = attrs.field(default=attrs.Factory(lambda self: self.vcpus, takes_self=True))
    threads: int = 1
    memory_bytes: int = 0
    cells: tuple[GuestCell, ...] = ()
    iothreads: tuple[str, ...] = ()
    device_nodes: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    vcpu_policy: VcpuPolicy = VcpuPolicy.SHARED
    dedicated_vcpus: tuple[int, ...] = ()
    thread_policy: ThreadPolicy = ThreadPolicy.PREFER
    emulator_policy: EmulatorPolicy = EmulatorPolicy.SHARE
    iothread_policy: EmulatorPolicy | None = None
    page_bytes: int = 0
    core_kind: str | None = None
    affinity: tuple[Affinity, ...] = ()
    anti_affinity: tuple[Affinity, ...] = ()
    trust_domain: str | None = None
    pool: str | None = None

    def __attrs_post_init__(self) -> None:
        problems = tuple(specrules.problems(self))
        if problems:
            raise SpecContradiction(self.name, problems)

    @property
    def pinned(self) -> tuple[int, ...]:
        """The vCPUs that are dedicated, ascending."""
        if self.vcpu_policy is VcpuPolicy.DEDICATED:
            return _NUMBERS[: self.max_vcpus]
        return self.dedicated_vcpus

    @property
    def floating(self) -> tuple[int, ...]:
        """The vCPUs that float, ascending."""
        if self.vcpu_policy is VcpuPolicy.DEDICATED:
            return ()
        pinned = frozenset(self.dedicated_vcpus)
        return tuple(vcpu for vcpu in range(self.max_vcpus) if vcpu not in pinned)

    @property
    def own_pus(self) -> int:
        """How many PUs of its own its other threads have: the emulator one, its IOThreads one each, where isolated."""
        own = int(self.emulator_policy is EmulatorPolicy.ISOLATE)
        return own + (len(self.iothreads) if self.iothread_policy is EmulatorPolicy.ISOLATE else 0)

    def with_changes(self, **changes: Any) -> GuestSpec:
        """
        The same spec with other values in some fields.

        Args:
            **changes: Fields and values.

        Returns:
            The new spec.
        """
        return attrs.evolve(self, **changes)
