"""
What a guest asks that no machine like this can give, whoever else is there.

Rule: every contradiction is named, not the first; where there is one, nothing is searched.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmaff.guest.spec import ANY_KIND, GuestSpec, Place, ThreadPolicy
from kvmaff.host.topology import Topology
from kvmaff.placement.request import Demand, PlacementRequest

__all__ = ["contradictions"]

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_INSIDE = {
    Place.CORE: (Place.CORE, Place.L3, Place.NODE),
    Place.L3: (Place.L3, Place.NODE),
    Place.NODE: (Place.NODE,),
}
"""The places that guests have in common who have that in common."""


def contradictions(request: PlacementRequest, demand: Demand) -> list[str]:
    """
    Find what contradicts the host, or another guest's wishes.

    Args:
        request: The host and all guests.
        demand: The guest.

    Returns:
        A sentence for each.
    """
    topology, spec = request.host.topology, demand.spec
    return [
        *_devices(topology, demand),
        *_cpus(topology, spec),
        *_kinds(topology, spec),
        *_pools(request, spec),
        *(_memory(topology, request, spec) if demand.pid is None else ()),
        *_guests(request, spec),
    ]


def _devices(topology: Topology, demand: Demand) -> Iterator[str]:
    if not demand.device_nodes and not demand.absent:
        return
    for address in demand.absent:
        yield f"its device {address} is not on this host"
    told = sorted(node.number for node in topology.nodes)
    for node in demand.device_nodes if told else ():
        if node not in told:
            have = ", ".join(map(str, told))
            yield f"its device is on NUMA node {node}, which this host has not; it has {have}"


def _cpus(topology: Topology, spec: GuestSpec) -> Iterator[str]:
    pinned = len(spec.pinned)
    if pinned > len(topology.online):
        yield f"needs {pinned} dedicated vCPUs, this host has {len(topology.online)} CPUs online"
    if spec.thread_policy is ThreadPolicy.REQUIRE:
        size = max(spec.threads, 2)
        if not any(len(core) >= size for core in topology.cores):
            per_core = topology.threads_per_core or 1
            yield (
                f"thread policy require fills groups of {size} siblings, the cores of this host have {per_core} online"
            )
    elif spec.thread_policy is ThreadPolicy.ISOLATE and topology.cores and pinned > len(topology.cores):
        yield f"thread policy isolate needs {pinned} cores, this host has {len(topology.cores)}"
    if topology.nodes and spec.cells:
        largest = max(len(node.cpus) for node in topology.nodes)
        own = frozenset(spec.pinned)
        for number, cell in enumerate(spec.cells):
            count = len(own.intersection(cell.vcpus))
            if count > largest:
                yield f"its cell {number} has {count} dedicated vCPUs, no node here has more than {largest} CPUs"


def _kinds(topology: Topology, spec: GuestSpec) -> Iterator[str]:
    kinds = {kind.name: kind.cpus & topology.online for kind in topology.kinds}
    if len(kinds) < 2 or spec.core_kind in (None, ANY_KIND):
        return
    pinned = len(spec.pinned)
    if spec.core_kind not in kinds:
        yield f"wants cores of kind {spec.core_kind!r}, this host has {', '.join(kinds)}"
    elif pinned > (count := len(kinds[spec.core_kind])):
        yield f"needs {pinned} dedicated vCPUs on cores of kind {spec.core_kind!r}, this host has {count} CPUs of it"


def _pools(request: PlacementRequest, spec: GuestSpec) -> Iterator[str]:
    names = [pool.name for pool in request.pools]
    online = request.host.topology.online
    if spec.pool is not None and spec.pool not in names:
        have = f"there are {', '.join(names)}" if names else "there is none"
        yield f"wants the CPU pool {spec.pool!r}, which is not told; {have}"
    pinned = len(spec.pinned)
    for pool in request.pools if spec.pool is not None else ():
        if pool.name != spec.pool:
            continue
        count = len(pool.cpus & online)
        if not count:
            yield f"its CPU pool {pool.name!r}, CPUs {pool.cpus}, has no CPU that is online here"
        elif pinned > count:
            yield f"needs {pinned} dedicated vCPUs, its CPU pool {pool.name!r} has {count} CPUs online"


def _memory(topology: Topology, request: PlacementRequest, spec: GuestSpec) -> Iterator[str]:
    wanted = spec.memory_bytes or sum(cell.memory_bytes for cell in spec.cells)
    if not wanted:
        return
    largest = max((cell.memory_bytes for cell in spec.cells), default=0)
    if spec.page_bytes:
        have: dict[int, int] = {}
        sizes: set[int] = set()
        for node in topology.nodes:
            for pages in node.huge_pages:
                if pages.total:
                    sizes.add(pages.size_bytes)
                if pages.size_bytes == spec.page_bytes:
                    have[node.number] = pages.size_bytes * pages.total
        for number, size, free in request.pages:  # what is free exists, whatever the host tells besides
            if free:
                sizes.add(size)
            if size == spec.page_bytes:
                have[number] = max(have.get(number, 0), size * free)
        what = f"in pages of {_size(spec.page_bytes)}"
        if not any(have.values()):
            kinds = ", ".join(_size(size) for size in sorted(sizes)) or "none"
            yield f"wants its memory {what}, of which this host has none; it has {kinds}"
            return
    else:
        told = [node.memory_bytes for node in topology.nodes]
        if not told or None in told:
            return
        have, what = {node.number: node.memory_bytes or 0 for node in topology.nodes}, "of memory"
    total, most = sum(have.values()), max(have.values())
    if wanted > total:
        yield f"wants {_size(wanted)} {what}, this host has {_size(total)}"
    if spec.cells and largest > most:
        yield f"its largest cell wants {_size(largest)} {what}, no node has more than {_size(most)}"


def _guests(request: PlacementRequest, spec: GuestSpec) -> Iterator[str]:
    if not spec.affinity and not spec.anti_affinity:
        return
    others = {demand.spec.name: demand.spec for demand in request.demands}
    there = {held.name for held in request.held} | others.keys()
    domains = {held.name: held.trust_domain for held in request.held}
    domains |= {name: other.trust_domain for name, other in others.items()}
    for near in spec.affinity:
        if near.level is Place.CORE and domains.get(near.guest, spec.trust_domain) != spec.trust_domain:
            yield f"wants the cores of {near.guest}, which is of another trust domain"
        if near.level is Place.CORE and near.guest in there and _alone_on_cores(spec):
            yield f"wants the cores of {near.guest}, and its thread policy isolate wants them for itself"
        if near.level is Place.CORE and near.guest in others and _alone_on_cores(others[near.guest]):
            yield f"wants the cores of {near.guest}, whose thread policy isolate wants them for itself"
        for apart in others[near.guest].anti_affinity if near.guest in others else ():
            if apart.guest == spec.name and apart.level in _INSIDE[near.level]:
                yield f"wants the {near.level} of {near.guest}, which keeps off the {apart.level} of it"
    for apart in spec.anti_affinity:
        for near in others[apart.guest].affinity if apart.guest in others else ():
            if near.guest == spec.name and apart.level in _INSIDE[near.level]:
                yield f"keeps off the {apart.level} of {apart.guest}, which wants the {near.level} of it"


def _alone_on_cores(spec: GuestSpec) -> bool:
    """Whether nobody else is on any core of a guest; of a mixed one somebody may be where its other vCPUs float."""
    return spec.thread_policy is ThreadPolicy.ISOLATE and not spec.floating


def _size(count: int) -> str:
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}" if count % unit else f"{count // unit} {name}"
    return f"{count} bytes"
