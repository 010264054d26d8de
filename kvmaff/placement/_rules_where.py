"""The rules about the host's order and about other guests: CPU pools, core kinds, trust domains, affinities."""

from __future__ import annotations

from collections.abc import Iterator

from kvmaff.guest.guest import Role
from kvmaff.guest.spec import ANY_KIND, EmulatorPolicy, ThreadPolicy
from kvmaff.guest.spec import Place as Level
from kvmaff.placement._legible import Case, Complaint, Place, names_text

__all__ = ["affinity", "core_kind", "overcommit", "pool", "trust_domain"]


def pool(case: Case) -> Iterator[Complaint]:
    """A guest's vCPUs are in its CPU pool, or in none; its other threads are in no other pool."""
    pools = case.request.pools
    for place in case.places:
        mine = others = 0
        for one in pools:
            if one.name == place.spec.pool:
                mine = one.cpus.bits
            else:
                others |= one.cpus.bits
        if place.spec.pool is not None and (bits := place.vcpu_bits & ~mine):
            yield place.complain(place.vcpus, bits, f"not in its CPU pool {place.spec.pool!r}")
        elif bits := place.bits & others:
            yield place.complain((*place.vcpus, *place.others), bits, "in a CPU pool that is not its own")


def overcommit(case: Case) -> Iterator[Complaint]:
    """In no CPU pool do more vCPUs float than its over-commit ratio allows, where guests of it have a place."""
    request = case.request
    if request.overcommit is None and not request.pools:
        return
    rest = case.online
    if request.overcommit is None and all(one.overcommit is None for one in request.pools):
        return
    limits = [(one.name, one.cpus.bits & case.online, one.overcommit) for one in request.pools]
    for _, bits, _ in limits:
        rest &= ~bits
    owned = case.held_alone
    for place in case.places:
        owned |= _alone(case, place)
    for name, bits, limit in [*limits, (None, rest, request.overcommit)]:
        here = [place for place in case.places if place.spec.pool == name]
        if limit is None or not here:
            continue
        room = (bits & ~owned & ~request.reserved.bits & ~case.isolated).bit_count()
        total = sum(len(place.floating) for place in here)
        for held in request.held:
            count = held.cpus.bits & case.online
            if not held.dedicated and held.vcpus and count:
                total += -(-held.vcpus * (count & bits).bit_count() // count.bit_count())
        if total * 1000 > limit * room:
            where = "CPUs in no pool" if name is None else f"CPU pool {name!r}"
            yield (
                None,
                f"{total} vCPUs float over {room} CPUs of {where}; its over-commit ratio is {limit / 1000:g}",
            )


def _alone(case: Case, place: Place) -> int:
    """Return the CPUs over which nobody else's vCPUs may float: dedicated PUs, siblings kept empty, others' own PUs."""
    spec, bits = place.spec, place.pinned_bits
    if spec.thread_policy is ThreadPolicy.ISOLATE:
        bits = case.cores_of(bits)
    for thread in place.others:
        own = spec.iothread_policy if thread.role is Role.IOTHREAD else None
        if (own or spec.emulator_policy) is EmulatorPolicy.ISOLATE:
            bits |= thread.bits
    return bits


def core_kind(case: Case) -> Iterator[Complaint]:
    """A guest's vCPUs are on cores of one kind, of that which it wants, unless it says that any will do."""
    kinds = case.request.host.topology.kinds
    for place in case.places if len(kinds) > 1 else ():
        wanted = place.spec.core_kind
        if wanted == ANY_KIND:
            continue
        used = [kind for kind in kinds if kind.cpus.bits & place.vcpu_bits]
        if wanted is not None:
            wrong = place.vcpu_bits
            for kind in kinds:
                if kind.name == wanted:
                    wrong &= ~kind.cpus.bits
            if wrong:
                yield place.complain(place.vcpus, wrong, f"not of the core kind {wanted!r}")
        elif len(used) > 1:
            names = " and ".join(kind.name for kind in used)
            yield place.complain(place.vcpus, place.vcpu_bits, f"cores of the kinds {names}")


def trust_domain(case: Case) -> Iterator[Complaint]:
    """On a core on which a guest of one trust domain has a vCPU, no guest of another has any thread."""
    held = case.request.held
    domains = case.request.domains.union([place.spec.trust_domain for place in case.places])
    for place in case.places if len(domains) > 1 else ():
        mine = place.spec.trust_domain
        cores = case.cores_of(place.vcpu_bits)
        for other in case.places:
            if other is not place and other.spec.trust_domain != mine and (bits := cores & other.bits):
                yield place.complain(
                    place.vcpus, case.cores_of(bits), f"cores of {other.name!r}, of another trust domain"
                )
        # of a guest outside, any CPU may be a vCPU's
        theirs = [
            (one, case.cores_of(one.cpus.bits & case.online)) for one in held if one.trust_domain != mine
        ]
        strangers = [(one, bits & place.bits) for one, bits in theirs if bits & place.bits]
        if strangers:
            names = names_text([one.name for one, _ in strangers])
            bits = 0
            for _, some in strangers:
                bits |= some
            threads = (*place.vcpus, *place.others)
            yield place.complain(threads, bits, f"cores of {names}, of another trust domain")


def affinity(case: Case) -> Iterator[Complaint]:
    """Of two guests that are to be near, the places of one are among the other's; those to be apart share none."""
    if not any(place.spec.affinity or place.spec.anti_affinity for place in case.places):
        return
    theirs: dict[str, int] = {place.name: place.vcpu_bits for place in case.places}
    for held in case.request.held:
        theirs[held.name] = theirs.get(held.name, 0) | held.cpus.bits & case.online
    for place in case.places:
        for one in place.spec.affinity:
            bits = theirs.get(one.guest, 0)
            away = place.vcpu_bits & ~_around(case, bits, one.level)
            if bits and away and bits & ~_around(case, place.vcpu_bits, one.level):
                yield place.complain(
                    place.vcpus, away, f"away from the {one.level} of {one.guest!r}, which it wants"
                )
        for one in place.spec.anti_affinity:
            bits = theirs.get(one.guest, 0)
            if bits and (near := place.vcpu_bits & _around(case, bits, one.level)):
                yield place.complain(
                    place.vcpus, near, f"on the {one.level} of {one.guest!r}, which it keeps off"
                )


def _around(case: Case, bits: int, level: Level) -> int:
    """Return all CPUs of the places in which some CPUs are."""
    if level is Level.CORE:
        return case.cores_of(bits)
    groups = [group.bits for group in case.request.host.topology.l3] if level is Level.L3 else []
    if not groups:
        # CPUs of which the host tells no node are in one together
        rest = case.online
        for _, cpus in case.nodes:
            rest &= ~cpus
        groups = [*(cpus for _, cpus in case.nodes), rest]
    found = bits
    for group in groups:
        if group & bits:
            found |= group
    return found
