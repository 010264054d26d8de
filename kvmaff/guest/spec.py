"""
What a guest needs, whether it runs already or not.

Words with a fixed meaning: *dedicated*, one PU a vCPU and nobody else's; *shared*, every vCPU floats over the
guest's CPU set. A guest of which nothing is said is shared: that does no harm.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import attrs

__all__ = ["EmulatorPolicy", "GuestCell", "GuestSpec", "ThreadPolicy", "VcpuPolicy"]

MAX_VCPUS = 8192


class VcpuPolicy(enum.StrEnum):
    """How a guest's vCPUs get CPUs."""

    DEDICATED = "dedicated"
    """One PU a vCPU, used by nobody else."""
    SHARED = "shared"
    """All vCPUs float over the guest's CPU set, which other shared guests may use too."""


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
    """On one more PU of the guest's own; for dedicated guests."""
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


def _problems(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    """Each (field, what is wrong with it) of a spec."""
    if not spec.name or not spec.name.isprintable():
        yield "name", "is empty or not printable"
    if not 1 <= spec.vcpus <= MAX_VCPUS:
        yield "vcpus", f"is a number from 1 to {MAX_VCPUS}, not {spec.vcpus}"
    if not spec.vcpus <= spec.max_vcpus <= MAX_VCPUS:
        yield "max_vcpus", f"is a number from vcpus ({spec.vcpus}) to {MAX_VCPUS}, not {spec.max_vcpus}"
    if not 1 <= spec.threads <= 8:
        yield "threads", f"is the guest's threads a core, 1 to 8, not {spec.threads}"
    elif spec.max_vcpus % spec.threads:
        yield "threads", f"{spec.threads} threads a core do not divide {spec.max_vcpus} vCPUs"
    if spec.memory_bytes < 0:
        yield "memory_bytes", "is negative"
    if spec.vcpu_policy is VcpuPolicy.SHARED:
        if spec.thread_policy is not ThreadPolicy.PREFER:
            yield "thread_policy", f"{spec.thread_policy} needs the vCPU policy dedicated"
        if spec.emulator_policy is EmulatorPolicy.ISOLATE:
            yield "emulator_policy", "isolate needs the vCPU policy dedicated"
    if spec.thread_policy is ThreadPolicy.ISOLATE and spec.threads > 1:
        yield "thread_policy", f"isolate keeps siblings empty, the guest's threads={spec.threads} needs them"
    if spec.thread_policy is ThreadPolicy.REQUIRE and spec.max_vcpus % 2:
        yield "thread_policy", f"require fills pairs of siblings, which {spec.max_vcpus} vCPUs do not"
    if len(set(spec.iothreads)) != len(spec.iothreads):
        yield "iothreads", "names one twice"
    if any(node < 0 for node in spec.device_nodes):
        yield "device_nodes", "are NUMA node numbers from 0"
    if spec.cells:
        inside = [vcpu for cell in spec.cells for vcpu in cell.vcpus]
        if sorted(inside) != list(range(spec.max_vcpus)):
            yield "cells", f"must hold each of the vCPUs 0-{spec.max_vcpus - 1} once"
        if any(not cell.vcpus for cell in spec.cells):
            yield "cells", "has a cell without vCPUs"
        memory = sum(cell.memory_bytes for cell in spec.cells)
        if memory and spec.memory_bytes and memory != spec.memory_bytes:
            yield "cells", f"have {memory} bytes of memory together, the guest has {spec.memory_bytes}"


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
        vcpu_policy: How its vCPUs get CPUs.
        thread_policy: What dedicated vCPUs do with siblings.
        emulator_policy: Where its other threads run.

    Raises:
        ValueError: The fields contradict each other; the text names each field that does.
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
    vcpu_policy: VcpuPolicy = VcpuPolicy.SHARED
    thread_policy: ThreadPolicy = ThreadPolicy.PREFER
    emulator_policy: EmulatorPolicy = EmulatorPolicy.SHARE

    def __attrs_post_init__(self) -> None:
        problems = [f"{field}: {what}" for field, what in _problems(self)]
        if problems:
            raise ValueError(f"guest {self.name!r}: " + "; ".join(problems))

    def with_changes(self, **changes: Any) -> GuestSpec:
        """
        The same spec with other values in some fields.

        Args:
            **changes: Fields and values.

        Returns:
            The new spec.
        """
        return attrs.evolve(self, **changes)
