"""
The rules about who else is there: dedicated CPUs, siblings, and the guests' other threads.

A fact is told once, under the guest whose right is broken: that another's emulator runs on a dedicated PU breaks
``dedicated`` for the owner, not ``emulator`` for the intruder.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvmaff.guest.spec import EmulatorPolicy, ThreadPolicy
from kvmaff.placement._legible import Case, Complaint, Place, Thread, cpus_text, names_text, union

__all__ = ["dedicated", "emulator", "siblings"]


def dedicated(case: Case) -> Iterator[Complaint]:
    """A dedicated vCPU has one PU, which no other vCPU, guest of the placement or guest outside it uses."""
    for place in case.places:
        if bits := place.bits & case.held_alone:
            yield place.complain(place.threads, bits, f"dedicated to {names_text(case.holders(bits))}")
        if not place.dedicated:
            continue
        several = [thread for thread in place.vcpus if thread.bits & (thread.bits - 1)]
        once = twice = 0
        for thread in place.vcpus:
            twice |= once & thread.bits
            once |= thread.bits
        if several:
            yield place.complain(several, union(several), "though a dedicated vCPU has exactly one PU")
        if twice:
            yield place.complain(place.vcpus, twice, "though no two dedicated vCPUs share a PU")
        if bits := case.used_by_others(place, place.vcpu_bits):
            yield place.complain(
                place.vcpus, bits, f"not alone: {names_text(case.placed_on(bits, but=place))} may run there"
            )
        if bits := place.vcpu_bits & case.held_too:
            yield place.complain(place.vcpus, bits, f"not alone: {names_text(case.holders(bits))} runs there")


def siblings(case: Case) -> Iterator[Complaint]:
    """Under require vCPUs fill whole groups of siblings; under isolate each has a core that nobody else uses."""
    for place in case.places:
        policy = place.spec.thread_policy
        if not place.dedicated or policy is ThreadPolicy.PREFER:
            continue
        if any(thread.bits & (thread.bits - 1) for thread in place.vcpus):
            continue  # it has broken the rule dedicated, and which core counts is not defined
        on_core: dict[int, list[Thread]] = {}
        for thread in place.vcpus:
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
            bits |= core & place.vcpu_bits
    if bits:
        yield place.complain(place.vcpus, bits, f"though require fills cores by groups of {size} siblings")
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
            yield place.complain(place.vcpus, apart, why)


def _isolate(case: Case, place: Place, on_core: dict[int, list[Thread]]) -> Iterator[Complaint]:
    cores = crowded = 0
    for core in on_core:
        cores |= core
        mine = core & place.vcpu_bits
        if mine & (mine - 1):
            crowded |= mine
    if crowded:
        yield place.complain(place.vcpus, crowded, "together on a core, though isolate keeps siblings empty")
    rest = cores & ~place.vcpu_bits
    if bits := place.other_bits & rest:
        yield place.complain(place.others, bits, "siblings of its vCPUs, which isolate keeps empty")
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
    """The emulator, IOThreads and vhost workers are where the emulator policy has them."""
    for place in case.places:
        policy = place.spec.emulator_policy
        if policy is EmulatorPolicy.SHARE:
            # without all vCPUs there is no saying what is outside
            if place.whole and (bits := place.other_bits & ~place.vcpu_bits):
                why = f"outside its vCPUs' {cpus_text(place.vcpu_bits)} (emulator policy share)"
                yield place.complain(place.others, bits, why)
            continue
        if place.dedicated and (bits := place.other_bits & place.vcpu_bits):
            yield place.complain(place.others, bits, f"its own vCPUs' PUs (emulator policy {policy})")
        if policy is EmulatorPolicy.HOUSEKEEPING:
            if bits := place.other_bits & case.isolated:
                yield place.complain(place.others, bits, "isolated (emulator policy housekeeping)")
            continue
        if bits := case.used_by_others(place, place.other_bits):
            names = names_text(case.placed_on(bits, but=place))
            yield place.complain(
                place.others, bits, f"not alone (emulator policy isolate): {names} may run there"
            )
        if bits := place.other_bits & case.held_too:
            names = names_text(case.holders(bits))
            yield place.complain(
                place.others, bits, f"not alone (emulator policy isolate): {names} runs there"
            )
