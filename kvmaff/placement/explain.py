"""A placement in words."""

from __future__ import annotations

from kvmaff.guest.guest import Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.placement.placement import GuestPlacement, Placement, Score

__all__ = ["explain"]


def explain(placement: Placement) -> str:
    """
    Say what was decided.

    Args:
        placement: The placement.

    Returns:
        A few lines for each guest: its CPUs and what they cost.
    """
    lines = [f"strategy {placement.strategy}: {len(placement.guests)} guests placed"]
    for guest in placement.guests:
        lines += [f"{guest.spec.name}: {_vcpus(guest)}", f"  other threads on {guest.cpus_of(Role.EMULATOR)}"]
        lines += [f"  {_cost(guest.score)}", *(f"  {why}" for why in guest.why)]
    return "\n".join(lines)


def _vcpus(guest: GuestPlacement) -> str:
    vcpus = [thread for thread in guest.threads if thread.role is Role.VCPU]
    nodes = ", ".join(map(str, guest.nodes))
    where = f"node{'s' if len(guest.nodes) > 1 else ''} {nodes}" if guest.nodes else "no node"
    if guest.spec.vcpu_policy is VcpuPolicy.DEDICATED:
        return f"{len(vcpus)} dedicated vCPUs on {where}: " + " ".join(
            f"{one.index}={one.cpus}" for one in vcpus
        )
    return f"{len(vcpus)} shared vCPUs on {where}, floating over {guest.vcpu_cpus}"


def _cost(score: Score) -> str:
    words = [f"distance {score.distance}", f"{score.nodes} nodes", f"{score.l3_groups} L3 groups"]
    words += [f"{score.shared_cores} cores shared with others", f"{score.broken_cores} cores broken"]
    words += [f"{score.load / 1000:.2f} vCPUs on its busiest PU", f"{score.left} PUs left in its L3 groups"]
    words += [f"worth {score.lost} to guests to come"] if score.lost else []
    return ", ".join(words)
