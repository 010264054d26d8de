"""
The rules about who else is there: dedicated CPUs, siblings, and the guests' other threads.

A fact is told once, under the guest whose right is broken: that another's emulator runs on a dedicated PU breaks
``dedicated`` for the owner, not ``emulator`` for the intruder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, ThreadPolicy
from kvmaff.placement._legible import Case, Complaint, Place, Thread, cpus_text, names_text, union

__all__ = ["dedicated", "emulator", "siblings"]


def dedicated(case: Case) -> Iterator[Complaint]:
    """A dedicated vCPU has one PU, which no other vCPU, guest of the placement or guest outside it uses."""
    for place in case.places:
        if bits := place.bits & case.held_alone:
            yield place.complain(place.threads, bits, f"dedicated to {names_text(case.holders(bits))}")
        if not place.pinned:
            continue
        several = [thread for thread in place.pinned if thread.bits & (thread.bits - 1)]
        once = twice = 0
        for thread in place.pinned:
            twice |= once & thread.bits
            once |= thread.bits
        if several:
            yield place.complain(several, union(several), "though a dedicated vCPU has exactly one PU")
        if twice:
            yield place.complain(place.pinned, twice, "though no two dedicated vCPUs share a PU")
        if bits := union(place.floating) & place.pinned_bits:
            yield place.complain(place.floating, bits, "its own dedicated vCPUs' PUs")
        if bits := case.used_by_others(place, place.pinned_bits):
            yield place.complain(
                place.pinned, bits, f"not alone: {names_text(case.placed_on(bits, but=place))} may run there"
            )
        if bits := place.pinned_bits & case.held_too:
            yield place.complain(
                place.pinned, bits, f"not alone: {names_text(case.holders(bits))} runs there"
            )


def siblings(case: Case) -> Iterator[Complaint]:
    """Under require vCPUs fill whole groups of siblings; under isolate each has a core that nobody else uses."""
    for place in case.places:
        policy = place.spec.thread_policy
        if not place.pinned or policy is ThreadPolicy.PREFER:
            continue
        if any(thread.bits & (thread.bits - 1) for thread in place.pinned):
            continue  # it has broken the rule dedicated, and which core counts is not defined
        on_core: dict[int, list[Thread]] = {}
        for thread in place.pinned:
            if thread.bits:
                on_core.setdefault(case.core_of(thread.bits), []).append(thread)
        if policy is ThreadPolicy.REQUIRE:
            if place.whole:  # else there is no saying which are missing from a group
                yield from _require(place, on_core)
        else:
            yield from _isolate(case, place, on_core)


def _require(place: Place, on_core: dict[int, list[Thread]]) -> Iterator[Complaint]:
    size = max(place.spec.threads, 2)
    bits = 0
    for core, vcpus in on_core.items():
        if len(vcpus) % size or core.bit_count() < size:
            bits |= core & place.pinned_bits
    if bits:
        yield place.complain(place.pinned, bits, f"though require fills cores by groups of {size} siblings")
    if place.spec.threads > 1:
        groups: dict[int, dict[int, int]] = {}  # what the guest sees as a core -> host core -> PUs there
        for core, vcpus in on_core.items():
            for thread in vcpus:
                if thread.index is not None:
                    group = groups.setdefault(thread.index // place.spec.threads, {})
                    group[core] = group.get(core, 0) | thread.bits
        apart = 0
        for group in groups.values():
            if len(group) > 1:
                for pus in group.values():
                    apart |= pus
        if apart:
            why = f"apart, though each {place.spec.threads} are siblings in the guest"
            yield place.complain(place.pinned, apart, why)


def _isolate(case: Case, place: Place, on_core: dict[int, list[Thread]]) -> Iterator[Complaint]:
    cores = crowded = 0
    for core in on_core:
        cores |= core
        mine = core & place.pinned_bits
        if mine & (mine - 1):
            crowded |= mine
    if crowded:
        yield place.complain(place.pinned, crowded, "together on a core, though isolate keeps siblings empty")
    rest = cores & ~place.pinned_bits
    if bits := place.other_bits & rest:
        yield place.complain(place.others, bits, "siblings of its vCPUs, which isolate keeps empty")
    if bits := union(place.floating) & rest:
        yield place.complain(place.floating, bits, "siblings of its vCPUs, which isolate keeps empty")
    if bits := case.used_by_others(place, rest):
        names = names_text(case.placed_on(bits, but=place))
        yield _sibling(place, bits, names)
    if bits := rest & (case.held_alone | case.held_too):
        yield _sibling(place, bits, names_text(case.holders(bits)))


def _sibling(place: Place, bits: int, names: str) -> Complaint:
    return place.name, (
        f"guest {place.name!r}: {cpus_text(bits)}, siblings of its vCPUs that isolate keeps empty, used by {names}"
    )


def emulator(case: Case) -> Iterator[Complaint]:
    """The emulator, IOThreads and vhost workers are where the emulator policy, and IOThreads' own, has them."""
    for place in case.places:
        spec = place.spec
        if spec.iothread_policy is None:
            yield from _others(case, place, place.others, spec.emulator_policy, "emulator policy")
            continue
        ios = [thread for thread in place.others if thread.role is Role.IOTHREAD]
        rest = [thread for thread in place.others if thread.role is not Role.IOTHREAD]
        yield from _others(case, place, rest, spec.emulator_policy, "emulator policy")
        yield from _others(case, place, ios, spec.iothread_policy, "IOThread policy")
        if spec.iothread_policy is EmulatorPolicy.ISOLATE:
            once = twice = 0
            for thread in ios:
                twice |= once & thread.bits
                once |= thread.bits
            if bits := twice | once & union(rest):
                yield place.complain(
                    place.others, bits, "though under isolate each IOThread has a PU of its own"
                )


def _others(
    case: Case, place: Place, threads: Sequence[Thread], policy: EmulatorPolicy, name: str
) -> Iterator[Complaint]:
    bits = union(threads)
    if policy is EmulatorPolicy.SHARE:
        # of a mixed guest the vCPUs that float; without all vCPUs there is no saying what is outside
        inside = union(place.floating) or place.vcpu_bits
        if place.whole and bits & ~inside:
            why = f"outside its vCPUs' {cpus_text(inside)} ({name} share)"
            yield place.complain(threads, bits & ~inside, why)
        return
    if bits & place.pinned_bits:
        yield place.complain(threads, bits & place.pinned_bits, f"its own vCPUs' PUs ({name} {policy})")
    if policy is EmulatorPolicy.HOUSEKEEPING:
        if bits & case.isolated:
            yield place.complain(threads, bits & case.isolated, f"isolated ({name} housekeeping)")
        return
    if found := bits & union(place.floating):
        yield place.complain(threads, found, f"not alone ({name} isolate): its own vCPUs may run there")
    if found := case.used_by_others(place, bits):
        names = names_text(case.placed_on(found, but=place))
        yield place.complain(threads, found, f"not alone ({name} isolate): {names} may run there")
    if found := bits & case.held_too:
        names = names_text(case.holders(found))
        yield place.complain(threads, found, f"not alone ({name} isolate): {names} runs there")
