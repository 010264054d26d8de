"""
What contradicts itself in a guest's spec, whatever the host.

Rule: every contradiction is named, under the field that should change. Values come from files and from command lines;
their types were looked at where they were read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmaff.guest.spec import GuestSpec

__all__ = ["problems", "torn"]

_MOST_VCPUS = 8192
_MOST_THREADS = 8
_LARGEST_PAGE = 1 << 40
_WIDER = {"core": ("core", "l3", "node"), "l3": ("l3", "node"), "node": ("node",)}
"""What two guests share besides, who share that."""


def problems(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    """
    Find what contradicts itself.

    Args:
        spec: The spec.

    Yields:
        Each (field, what is wrong with it).
    """
    yield from _counts(spec)
    yield from _policies(spec)
    if len(set(spec.iothreads)) != len(spec.iothreads):
        yield "iothreads", "names one twice"
    if any(node < 0 for node in spec.device_nodes):
        yield "device_nodes", "are NUMA node numbers from 0"
    for field in ("core_kind", "trust_domain", "pool"):
        word = getattr(spec, field)
        if word is not None and (not word or not word.isprintable()):
            yield field, "is empty or not printable"
    yield from _memory(spec)
    yield from _affinity(spec)


def _counts(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    if not spec.name or not spec.name.isprintable():
        yield "name", "is empty or not printable"
    if not 1 <= spec.vcpus <= _MOST_VCPUS:
        yield "vcpus", f"is a number from 1 to {_MOST_VCPUS}, not {spec.vcpus}"
    if not spec.vcpus <= spec.max_vcpus <= _MOST_VCPUS:
        yield "max_vcpus", f"is a number from vcpus ({spec.vcpus}) to {_MOST_VCPUS}, not {spec.max_vcpus}"
    if not 1 <= spec.threads <= _MOST_THREADS:
        yield "threads", f"is the guest's threads a core, 1 to {_MOST_THREADS}, not {spec.threads}"
    elif spec.max_vcpus % spec.threads:
        yield "threads", f"{spec.threads} threads a core do not divide {spec.max_vcpus} vCPUs"
    if spec.cells:
        inside = Counter(vcpu for cell in spec.cells for vcpu in cell.vcpus)
        missing = [vcpu for vcpu in range(min(max(spec.max_vcpus, 0), _MOST_VCPUS)) if vcpu not in inside]
        if missing or max(inside.values(), default=0) > 1 or len(inside) != spec.max_vcpus:
            yield "cells", f"must hold each of the vCPUs 0-{spec.max_vcpus - 1} once"
        if any(not cell.vcpus for cell in spec.cells):
            yield "cells", "has a cell without vCPUs"


def _policies(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    shared, mixed = spec.vcpu_policy == "shared", spec.vcpu_policy == "mixed"
    pinned = spec.dedicated_vcpus if mixed else tuple(range(max(spec.max_vcpus, 0)))
    if mixed:
        if not spec.dedicated_vcpus:
            yield "dedicated_vcpus", "names the vCPUs that are dedicated; the vCPU policy mixed needs some"
        elif sorted(set(spec.dedicated_vcpus)) != list(spec.dedicated_vcpus):
            yield "dedicated_vcpus", "are vCPU numbers, ascending, each once"
        elif not 0 <= spec.dedicated_vcpus[0] <= spec.dedicated_vcpus[-1] < spec.max_vcpus:
            yield "dedicated_vcpus", f"are of the vCPUs 0-{spec.max_vcpus - 1}"
        elif len(spec.dedicated_vcpus) == spec.max_vcpus:
            yield "dedicated_vcpus", "are all of them; that is the vCPU policy dedicated"
    elif spec.dedicated_vcpus:
        yield "dedicated_vcpus", f"need the vCPU policy mixed, not {spec.vcpu_policy}"
    if shared:
        if spec.thread_policy != "prefer":
            yield "thread_policy", f"{spec.thread_policy} needs the vCPU policy dedicated"
        if spec.emulator_policy == "isolate":
            yield "emulator_policy", "isolate needs the vCPU policy dedicated"
        if spec.iothread_policy == "isolate":
            yield "iothread_policy", "isolate needs the vCPU policy dedicated"
    if spec.thread_policy == "isolate" and spec.threads > 1:
        yield "thread_policy", f"isolate keeps siblings empty, the guest's threads={spec.threads} needs them"
    if spec.thread_policy == "require":
        if len(pinned) % 2:
            whose = "dedicated vCPUs" if mixed else "vCPUs"
            yield "thread_policy", f"require fills pairs of siblings, which {len(pinned)} {whose} do not"
        elif mixed and spec.threads > 1 and torn(spec):
            yield "thread_policy", "require keeps siblings together, of which dedicated_vcpus holds only some"


def torn(spec: GuestSpec) -> bool:
    """
    Whether of some core that a guest sees only a part is dedicated.

    Args:
        spec: What it needs.

    Returns:
        True where siblings cannot all be together.
    """
    counts = Counter(vcpu // spec.threads for vcpu in spec.pinned)
    return any(count % spec.threads for count in counts.values())


def _memory(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    page = spec.page_bytes
    if spec.memory_bytes < 0:
        yield "memory_bytes", "is negative"
    if any(cell.memory_bytes < 0 for cell in spec.cells):
        yield "cells", "have memory that is negative"
    cells = sum(cell.memory_bytes for cell in spec.cells)
    if cells and spec.memory_bytes and cells != spec.memory_bytes:
        yield "cells", f"have {cells} bytes of memory together, the guest has {spec.memory_bytes}"
    if not page:
        return
    if not 0 < page <= _LARGEST_PAGE or page & (page - 1):
        yield "page_bytes", f"is a power of two up to {_LARGEST_PAGE}, not {page}"
    elif not spec.memory_bytes and not cells:
        yield "page_bytes", "needs the guest's memory: how many pages are wanted is not known"
    else:
        if spec.memory_bytes % page:
            yield "memory_bytes", f"{spec.memory_bytes} bytes are no whole number of pages of {page}"
        odd = [cell.memory_bytes for cell in spec.cells if cell.memory_bytes % page]
        if odd:
            yield "cells", f"have memory of {odd[0]} bytes, no whole number of pages of {page}"


def _affinity(spec: GuestSpec) -> Iterator[tuple[str, str]]:
    for field in ("affinity", "anti_affinity"):
        for one in getattr(spec, field):
            if one.guest == spec.name:
                yield field, "names the guest itself"
    for near in spec.affinity:
        for apart in spec.anti_affinity:
            if near.guest == apart.guest and apart.level in _WIDER[near.level]:
                yield (
                    "anti_affinity",
                    f"keeps it off the {apart.level} of {near.guest}, whose {near.level} its affinity wants",
                )
