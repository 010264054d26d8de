"""
The rules that look at one guest at a time: who is placed, and where its threads may be at all.

Each takes a :class:`~kvmaff.placement._legible.Case` and gives complaints, in order of the placement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from kvmaff.guest.guest import Role
from kvmaff.placement._legible import (
    Case,
    Complaint,
    Place,
    cpus_text,
    nodes_text,
    union,
    who,
)
from kvmaff.placement._promise import differences, same

__all__ = [
    "cells",
    "empty",
    "granted",
    "guests",
    "isolated",
    "memory",
    "online",
    "reserved",
    "shape",
    "shared",
    "threads",
]


def shape(case: Case) -> Iterator[Complaint]:
    """The placement and its parts are of the right types."""
    yield from case.shape


def guests(case: Case) -> Iterator[Complaint]:
    """Every guest of the request has one place, promises what was asked or more, and nobody else has one."""
    demands = {demand.spec.name: demand for demand in case.request.demands}
    seen = Counter(entry.spec.name for entry in case.entries)
    for entry in case.entries:
        name = entry.spec.name
        demand = demands.get(name)
        if demand is None:
            yield name, f"guest {name!r}: is not in the request"
            continue
        if wrong := differences(demand.spec, entry.spec):
            yield name, f"guest {name!r}: its spec promises less or something else: {', '.join(wrong)}"
        if not same((demand.pid, demand.start), (entry.pid, entry.start)):
            asked = f"pid {demand.pid}, start {demand.start}"
            yield name, f"guest {name!r}: is not the process of the request, which has {asked}"
    for name in demands:
        if seen[name] > 1:
            yield name, f"guest {name!r}: has {seen[name]} places"
        elif case.readable and not seen[name]:
            yield name, f"guest {name!r}: has no place"


def threads(case: Case) -> Iterator[Complaint]:
    """Each vCPU to the maximum, the emulator and each IOThread has one place, vhost at most one, nothing else."""
    for place in case.places:
        if not place.whole:
            continue
        if _as_usual(place):
            continue
        wanted: set[tuple[Role, int | None]] = {(Role.VCPU, vcpu) for vcpu in range(place.spec.max_vcpus)}
        wanted |= {(Role.IOTHREAD, at) for at in range(len(place.spec.iothreads))}
        wanted.add((Role.EMULATOR, None))
        welcome: set[tuple[Role, int | None]] = {(Role.VHOST, None)}
        if not place.spec.iothreads:
            welcome.add((Role.IOTHREAD, None))  # a running guest may have some that nothing names
        seen = Counter((thread.role, thread.index) for thread in place.threads)
        start = f"guest {place.name!r}:"
        if missing := wanted - seen.keys():
            yield place.name, f"{start} {who(missing)} without a place"
        if twice := {key for key, count in seen.items() if count > 1}:
            yield place.name, f"{start} {who(twice)} with more than one place, on {_where(place, twice)}"
        if more := seen.keys() - wanted - welcome:
            yield (
                place.name,
                f"{start} {who(more)} on {_where(place, more)}, a thread that is not to be placed",
            )


def _as_usual(place: Place) -> bool:
    """Whether its threads are those of the spec, in the order in which we give them; most placements are ours."""
    spec = place.spec
    count = len(spec.iothreads)
    if len(place.vcpus) != spec.max_vcpus or len(place.others) != count + 2:
        return False
    emulator, *ios, vhost = place.others
    return (
        emulator.role is Role.EMULATOR
        and emulator.index is None
        and vhost.role is Role.VHOST
        and vhost.index is None
        and all(thread.role is Role.IOTHREAD and thread.index == at for at, thread in enumerate(ios))
        and [thread.index for thread in place.vcpus] == list(range(spec.max_vcpus))
    )


def _where(place: Place, keys: Collection[tuple[Role, int | None]]) -> str:
    return cpus_text(union(thread for thread in place.threads if (thread.role, thread.index) in keys))


def empty(case: Case) -> Iterator[Complaint]:
    """Every thread has a CPU."""
    for place in case.places:
        nowhere = [thread for thread in place.threads if not thread.bits]
        if nowhere:
            yield place.name, f"guest {place.name!r}: {who(nowhere)} without any CPU"


def online(case: Case) -> Iterator[Complaint]:
    """Every CPU of every thread is online."""
    for place in case.places:
        if bits := place.bits & ~case.online:
            yield place.complain(place.threads, bits, "not online")


def granted(case: Case) -> Iterator[Complaint]:
    """A guest's threads stay on the CPUs that their cgroups grant."""
    for place in case.places:
        allowed = place.demand.allowed
        if allowed is not None and (bits := place.bits & ~allowed.bits):
            yield place.complain(place.threads, bits, f"while its cgroups grant {cpus_text(allowed.bits)}")


def reserved(case: Case) -> Iterator[Complaint]:
    """No thread uses a reserved CPU."""
    for place in case.places:
        if bits := place.bits & case.request.reserved.bits:
            yield place.complain(place.threads, bits, "reserved, for no guest")


def isolated(case: Case) -> Iterator[Complaint]:
    """A thread with several CPUs has no isolated one: nothing balances load there, all of it would stay on one."""
    for place in case.places:
        if place.bits & case.isolated:
            floating = [thread for thread in place.threads if thread.bits & (thread.bits - 1)]
            if bits := union(floating) & case.isolated:
                yield place.complain(
                    floating, bits, "isolated, though it has several: its load would stay on one"
                )


def shared(case: Case) -> Iterator[Complaint]:
    """All vCPUs of a guest that float have one and the same set; where it has NUMA cells, all of a cell."""
    for place in case.places:
        floating = frozenset(place.floating)
        for cell in place.cells if floating else ():
            vcpus = [thread for thread in cell if thread in floating]
            sets = Counter(thread.bits for thread in vcpus if thread.bits)
            if len(sets) > 1:
                common = max(sets, key=lambda bits: (sets[bits], bits))
                odd = [thread for thread in vcpus if thread.bits and thread.bits != common]
                kind = "mixed" if place.pinned else "shared"
                why = f"while others of this {kind} guest have {cpus_text(common)}"
                yield place.complain(odd, union(odd), why)


def cells(case: Case) -> Iterator[Complaint]:
    """All vCPUs of a guest's NUMA cell are in one NUMA node; where the host tells no nodes there is no rule."""
    if not case.nodes:
        return
    for place in case.places:
        if not place.spec.cells:
            continue
        for number, vcpus in enumerate(place.cells):
            bits = union(vcpus) & case.online  # an offline CPU is in no node, and has its own rule
            used = case.nodes_of(bits)
            # CPUs of which the host tells no node count as one more
            if len(used) + (sum(count for _, count in used) < bits.bit_count()) > 1:
                where = nodes_text(node for node, _ in used)
                yield place.complain(vcpus, bits, f"{where}, though all are of its cell {number}")


def memory(case: Case) -> Iterator[Complaint]:
    """The nodes named are those that the vCPUs use; the memory of guests to come is free on them."""
    need: Counter[tuple[int, int]] = Counter()
    names: dict[tuple[int, int], list[str]] = {}
    for place in case.places:
        used = tuple([node for node, _ in case.nodes_of(place.vcpu_bits)])
        if place.whole and place.nodes is not None and place.nodes != used:
            where = f"its vCPUs, on {cpus_text(place.vcpu_bits)}, use {nodes_text(used)}"
            yield place.name, f"guest {place.name!r}: {where}; it says {nodes_text(place.nodes)}"
        if place.demand.pid is None:
            for node, size in sorted(_memory_of(case, place).items()):
                key = place.spec.page_bytes, node
                need[key] += size
                names.setdefault(key, []).append(f"{place.name!r} {size}")
    free = {(0, node): amount for node, amount in case.request.memory}
    free |= {(size, node): size * count for node, size, count in case.request.pages}
    for (page, node), wanted in sorted(need.items()):
        # of small pages no limit may be told; what is not told of huge ones is not there
        have = free.get((page, node), 0 if page else wanted)
        if wanted > have:
            what = f"memory in pages of {page} free" if page else "memory free"
            what = f"node {node} has {have} bytes of {what}"
            yield None, f"{what}; {' + '.join(names[page, node])} are {wanted}"


def _memory_of(case: Case, place: Place) -> Counter[int]:
    """
    Return the bytes that a guest to come needs on each node.

    A cell's memory is on the cell's node. Memory of which no cell is told is spread as its vCPUs are: by the CPUs
    they have in each node, which for dedicated vCPUs is their number, and of a mixed guest by the dedicated ones;
    rounded up for each node, to whole pages.
    """
    if not place.spec.memory_bytes and not any(cell.memory_bytes for cell in place.spec.cells):
        return Counter()
    sizes = [cell.memory_bytes for cell in place.spec.cells]
    parts = [union(vcpus) for vcpus in place.cells]
    if not any(sizes):
        sizes, parts = [place.spec.memory_bytes], [place.pinned_bits or place.vcpu_bits]
    page = place.spec.page_bytes or 1
    need: Counter[int] = Counter()
    for size, bits in zip(sizes, parts, strict=True):
        used = case.nodes_of(bits)
        total = sum(count for _, count in used)
        for node, count in used:
            need[node] += -(-size * count // (total * page)) * page
    return need
