"""What the running guests ask of a placement, and what those outside it hold: the machine, turned into a request."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kvmaff.binding.decided import same_guest
from kvmaff.cpuset import CpuSet
from kvmaff.guest.devices import guest_devices
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.memory import memory_by_node
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.memory import meminfo
from kvmaff.host.pci import pci_devices
from kvmaff.host.reader import Host
from kvmaff.host.tree import open_tree
from kvmaff.placement.held import owned_cpus
from kvmaff.placement.placement import GuestPlacement, Placement, Score, ThreadPlacement
from kvmaff.placement.request import Demand, Held

__all__ = ["demands_of", "free_memory", "free_pages", "held_by", "place_by_masks"]


def demands_of(
    host: Host, placed: Sequence[tuple[Guest, GuestSpec]], to_come: Sequence[GuestSpec]
) -> list[Demand]:
    """
    What guests ask.

    Args:
        host: The machine.
        placed: Running guests with what they need.
        to_come: What guests need that do not run yet.

    Returns:
        A demand each, limited to the CPUs that the cgroups of all its threads grant; with the nodes that its memory and
        its devices are on.
    """
    demands = []
    several = len(host.topology.nodes) > 1  # with one node there is nothing to be near to
    with open_tree(host.root) as tree:
        cgroups = Cgroups(tree)
        for guest, spec in placed:
            allowed = host.topology.online
            for thread in guest.threads:
                if thread.role is not Role.OTHER:
                    grant = cgroups.granted(thread.pid, thread.tid)
                    allowed = allowed & grant.cpus if grant else allowed
            memory = memory_by_node(guest.pid, host.root) if several else ()
            found = guest_devices(guest.pid, host.root) if several else ()
            demands.append(
                _with_devices(
                    Demand(spec=spec, pid=guest.pid, start=guest.start, allowed=allowed, memory=memory),
                    found,
                    host,
                )
            )
    return demands + [_with_devices(Demand(spec=spec), (), host) for spec in to_come]


def _with_devices(demand: Demand, found: Sequence[str], host: Host) -> Demand:
    """
    Say on which nodes a guest's devices are, those found and those that its spec names.

    A node that the host has not is said of a device that is named, so that it is refused like one that is said to be
    there; a guest that runs has its devices wherever they are.
    """
    named = demand.spec.devices
    if not named and not found:
        return demand
    there = {device.address: device.node for device in pci_devices(host.root)} if named or found else {}
    told = {node.number for node in host.topology.nodes}
    nodes = {there.get(address) for address in named} if told else set()
    nodes |= {node for address in found if (node := there.get(address)) in told}
    return attrs.evolve(
        demand,
        devices=tuple(sorted(node for node in nodes if node is not None)),
        absent=tuple(address for address in named if address not in there),
    )


def held_by(guests: Sequence[Guest], decided: Placement | None, placed: Sequence[Guest] = ()) -> list[Held]:
    """
    What guests outside a request hold.

    Args:
        guests: The guests that run and keep their CPUs.
        decided: What was decided last: a guest's reserved places are its own before they are used, and before the
            guest runs.
        placed: The guests that run and are part of the request, whose old places do not count.

    Returns:
        What is theirs alone, and what they float over.
    """
    held = []
    known: dict[int, GuestPlacement] = {}
    for one in decided.guests if decided else ():
        found = same_guest(one, [*guests, *placed])
        if found is not None:
            known[found.pid] = one
        elif one.pid is None:
            # to come; the place of one that ran and has ended is free for others
            own = owned_cpus(one)
            held += _parts(one.spec.name, own, one.cpus, len(one.spec.floating), one.spec.trust_domain)
    for guest in guests:
        decision = known.get(guest.pid)
        own, floats = _held(guest, decision)
        domain = decision.spec.trust_domain if decision else None
        count = sum(thread.mask is not None and not thread.mask <= own for thread in guest.vcpus)
        held += _parts(guest.name, own, floats, count, domain)
    return held


def _parts(name: str, own: CpuSet, cpus: CpuSet, floating: int, domain: str | None) -> list[Held]:
    """What is a guest's alone, and what it uses besides, with the vCPUs that float there."""
    parts = []
    if own:
        parts.append(Held(name=name, cpus=own, dedicated=True, trust_domain=domain))
    if cpus - own:
        parts.append(Held(name=name, cpus=cpus - own, dedicated=False, vcpus=floating, trust_domain=domain))
    return parts


def _held(guest: Guest, decided: GuestPlacement | None) -> tuple[CpuSet, CpuSet]:
    masks = [thread.mask or CpuSet() for thread in guest.threads if thread.role is not Role.OTHER]
    if decided is not None:
        return owned_cpus(decided), CpuSet.union_of(masks) | decided.cpus
    vcpus = [thread.mask or CpuSet() for thread in guest.vcpus]
    # somebody pinned each vCPU to a CPU of its own: they meant it
    alone = bool(vcpus) and len(vcpus) == len(set(vcpus)) and all(len(mask) == 1 for mask in vcpus)
    return CpuSet.union_of(vcpus) if alone else CpuSet(), CpuSet.union_of(masks)


def place_by_masks(host: Host, guest: Guest, spec: GuestSpec) -> GuestPlacement | None:
    """
    Take where a guest is for its place.

    Args:
        host: The machine.
        guest: The guest.
        spec: What it needs.

    Returns:
        Its vCPUs where they are, its other threads where its strategy would let them be; None where its dedicated vCPUs
        have no CPU each, or a vCPU has no thread.
    """
    masks = {thread.index: thread.mask or CpuSet() for thread in guest.vcpus}
    if set(masks) != set(range(spec.max_vcpus)) or not all(masks.values()):
        return None
    pinned = [masks[vcpu] for vcpu in spec.pinned]
    own = CpuSet.union_of(pinned)
    if not pinned or any(len(mask) != 1 for mask in pinned) or len(own) < len(pinned):
        return None
    used = CpuSet.union_of(masks.values())
    others = [ThreadPlacement(role=role, index=None, cpus=used) for role in (Role.EMULATOR, Role.VHOST)]
    others += [
        ThreadPlacement(role=Role.IOTHREAD, index=number, cpus=used) for number in range(len(spec.iothreads))
    ]
    nodes = [node.number for node in host.columns.nodes if not node.cpus.isdisjoint(used)]
    told = {node.number for node in host.topology.nodes}
    return GuestPlacement(
        spec=spec,
        pid=guest.pid,
        start=guest.start,
        threads=(
            *(
                ThreadPlacement(role=Role.VCPU, index=vcpu, cpus=masks[vcpu])
                for vcpu in range(spec.max_vcpus)
            ),
            *others,
        ),
        nodes=tuple(sorted(told.intersection(nodes))),
        score=Score(distance=0, nodes=len(nodes), l3_groups=0, shared_cores=0, broken_cores=0),
        owned=own,
    )


def free_memory(host: Host) -> tuple[tuple[int, int], ...]:
    """
    The memory that guests to come could have.

    Args:
        host: The machine.

    Returns:
        (node, free bytes), with what the kernel could give up (file pages, reclaimable slabs) counted as free; nodes
        that do not tell are left out.
    """
    told = []
    with open_tree(host.root) as tree:
        for node in host.topology.nodes:
            told_of = meminfo(tree, node.number)
            if "MemFree" in told_of:
                total = told_of["MemFree"] - told_of.get("Shmem", 0)
                total += told_of.get("FilePages", 0) + told_of.get("SReclaimable", 0)
                told.append((node.number, max(total, 0)))
    return tuple(told)


def free_pages(host: Host) -> tuple[tuple[int, int, int], ...]:
    """
    The huge pages that guests to come could have.

    Args:
        host: The machine.

    Returns:
        (node, bytes a page, free pages), of sizes of which the node has any; of a machine without nodes, as node 0.
    """
    told = [(node.number, pages) for node in host.topology.nodes for pages in node.huge_pages]
    if not host.topology.nodes:
        told = [(0, pages) for pages in host.topology.huge_pages]
    return tuple((node, pages.size_bytes, pages.free) for node, pages in told if pages.total)
