"""What a guest that has its place takes away from others: what is its alone, and what it floats over."""

from __future__ import annotations

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Held

__all__ = ["held_of", "owned_cpus"]


def owned_cpus(placed: GuestPlacement) -> CpuSet:
    """
    The CPUs that a placed guest has for itself alone.

    Args:
        placed: The guest's place.

    Returns:
        What its strategy gave it alone, its vCPUs' where they are dedicated, its emulator's where that has its own.
    """
    spec = placed.spec
    if not spec.pinned:
        return placed.owned
    vcpus = (placed.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in spec.pinned)
    own = placed.owned | CpuSet.union_of(vcpus)
    if placed.spec.emulator_policy is EmulatorPolicy.ISOLATE:
        own |= placed.cpus_of(Role.EMULATOR) or CpuSet()
    return own


def held_of(placed: GuestPlacement) -> tuple[Held, ...]:
    """
    What a placed guest holds where it is no part of a request.

    Its other threads on housekeeping CPUs hold nothing: they make room whenever a CPU becomes somebody's alone.

    Args:
        placed: The guest's place.

    Returns:
        What is its alone, and what its other vCPUs float over.
    """
    spec, own = placed.spec, owned_cpus(placed)
    floats = placed.vcpu_cpus - own
    held = []
    if own:
        held.append(Held(name=spec.name, cpus=own, dedicated=True, trust_domain=spec.trust_domain))
    if floats:
        held.append(
            Held(
                name=spec.name,
                cpus=floats,
                dedicated=False,
                vcpus=len(spec.floating),
                trust_domain=spec.trust_domain,
            )
        )
    return tuple(held)
