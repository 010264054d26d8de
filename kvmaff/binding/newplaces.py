"""Where vCPUs that are to be plugged in belong: in the guest's topology, and on the host."""

from __future__ import annotations

from collections.abc import Sequence

from kvmaff.binding.decided import lives, same_guest
from kvmaff.binding.plan import decided_for
from kvmaff.cpuset import CpuSet
from kvmaff.errors import QmpError, RequestError
from kvmaff.guest.guest import Guest, Role, number_list
from kvmaff.guest.qmp import Qmp
from kvmaff.guest.qmpanswers import Slot
from kvmaff.guest.roles import DISAGREE
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.reader import Host
from kvmaff.host.tree import open_tree
from kvmaff.placement.placement import GuestPlacement, Placement

__all__ = ["decided_in", "free_slots", "needed", "places_of"]


def needed(decided: GuestPlacement | None, guest: Guest, *, unbound: bool) -> None:
    """
    Refuse where nobody knows where new vCPUs belong, and that matters.

    Args:
        decided: What was decided for the guest.
        guest: The guest.
        unbound: Whether it does not matter.

    Raises:
        RequestError: Nothing was decided.
    """
    if decided is None and not unbound:
        problem = (
            f"nothing was decided for guest {guest.name}, so nobody knows where its new vCPUs belong: decide first "
            f"(kvmaff apply {guest.name} --strategy numa), or say --unbound to plug them in all the same"
        )
        raise RequestError.of([problem])


def decided_in(placement: Placement | None, guest: Guest) -> GuestPlacement | None:
    """
    Find what was decided for a guest.

    Args:
        placement: The last decision.
        guest: The guest.

    Returns:
        What was decided for the very process; else by name, as long as that was for no other that still runs.
    """
    decided = placement.guests if placement else ()
    for one in decided:
        if (one.pid, one.start) == (guest.pid, guest.start):
            return one
    return next((one for one in decided if not lives(one) and same_guest(one, [guest])), None)


async def free_slots(qmp: Qmp, guest: Guest, count: int) -> list[Slot]:
    """
    Find the first free places in order of topology.

    Args:
        qmp: The guest's monitor.
        guest: The guest.
        count: How many.

    Returns:
        They; numbered as their vCPUs will be.

    Raises:
        RequestError: There are fewer.
        QmpError: Its vCPUs are not numbered by their places, or are other threads than their names or the kernel say.
    """
    slots, vcpus = await qmp.slots(), await qmp.vcpus()
    told = {one.index: one.tid for one in vcpus}
    wrong = [
        f"vCPU {thread.index} is thread {thread.tid} by {thread.source}, {told.get(thread.index)} by QMP"
        for thread in guest.vcpus
        if thread.index is not None and told.get(thread.index) != thread.tid
    ]
    if wrong:
        raise QmpError(f"guest {guest.name} (pid {guest.pid}): {DISAGREE}: {'; '.join(wrong)}", pid=guest.pid)
    numbers = {one.path: one.index for one in vcpus}
    taken = {slot.path: slot.index for slot in slots if slot.path is not None}
    if numbers != taken:
        raise QmpError(
            f"pid {guest.pid}: its vCPUs {number_list(numbers.values())} are not numbered by their places "
            f"({number_list(taken.values())}), so which number a new one will have cannot be told",
            pid=guest.pid,
        )
    free = [slot for slot in slots if slot.path is None]
    if count > len(free):
        left = (
            f"{len(free)} of its {len(slots)} places for vCPUs are free" if free else "it has no free place"
        )
        raise RequestError.of(
            [f"guest {guest.name} cannot have {count} vCPUs more: {left} (-smp …,maxcpus= at its start)"]
        )
    return free[:count]


def places_of(host: Host, guest: Guest, decided: GuestPlacement, slots: Sequence[Slot]) -> list[CpuSet]:
    """
    Find where new vCPUs belong.

    Args:
        host: The running machine.
        guest: The guest.
        decided: What was decided for it.
        slots: Their places in the guest.

    Returns:
        The CPUs of each.

    Raises:
        RequestError: One cannot be there; says all reasons at once.
    """
    with open_tree(host.root) as tree:
        grant = Cgroups(tree).granted(guest.pid, guest.pid)
        online = tree.cpus("sys/devices/system/cpu/online") or host.topology.online
    may = grant.cpus & online if grant else online
    problems, places = [], []
    for slot in slots:
        cpus = decided_for(decided, Role.VCPU, slot.index)
        if cpus is None:
            problems.append(
                f"guest {guest.name}: vCPU {slot.index} has no decided place; decide anew, with max_vcpus in its spec"
            )
        elif not cpus <= may:
            problems.append(
                f"guest {guest.name}: vCPU {slot.index} belongs on CPU {cpus}, of which {cpus - may} is not online or "
                "not granted by its cgroup; decide anew"
            )
        else:
            places.append(cpus)
    if problems:
        raise RequestError.of(problems)
    return places
