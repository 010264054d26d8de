"""
What a guest should see of the place that it has: sockets, dies, cores, threads, NUMA cells and how far they are apart.

Rules (QEMU: hw/i386/topology.h, hw/core/numa.c; reference: the guest's scheduler believes what it sees):

1. Threads are the guest's threads a core; its vCPUs are numbered threads innermost, and are placed so.
2. A die is what shares an L3 in the guest. So a die of the guest is in one L3 group of the host: dies are as large as
   that allows and all alike. Where that would make each core a die of its own, there is one die and a note.
3. Cells of consecutive vCPUs and one size are sockets. Other cells are given vCPU by vCPU, in one socket.
4. The distance of two cells is that of their nodes, the largest of several; 11 at least, since the guest's kernel does
   not believe that another node is as near as the own.
5. A cell's memory is on the nodes on which its vCPUs are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.guest.guest import Role
from kvmaff.guest.smp import SmpTopology, read_smp
from kvmaff.guest.smprules import SmpRules
from kvmaff.guest.spec import GuestSpec
from kvmaff.host.reader import Host
from kvmaff.placement.placement import GuestPlacement

__all__ = ["GuestShape", "ShapeCell", "guest_shape"]

_LOCAL, _NEAREST, _FARTHEST = 10, 11, 254
_UNKNOWN = 20
_PIECE = 1 << 20
"""Memory is shared out among cells in whole MiB, or in whole pages."""


@attrs.frozen(kw_only=True)
class ShapeCell:
    """
    A NUMA cell of the guest.

    Attributes:
        vcpus: Its vCPUs, ascending.
        memory_bytes: Its memory.
        nodes: Numbers of the host's nodes that its memory is bound to; none where the host has one node or none.
    """

    vcpus: tuple[int, ...]
    memory_bytes: int
    nodes: tuple[int, ...]


@attrs.frozen(kw_only=True)
class GuestShape:
    """
    What a guest should see.

    Attributes:
        spec: What it needs.
        placed: Where it is.
        smp: Its sockets, dies, cores and threads.
        cells: Its NUMA cells; none for a guest without.
        distances: From each cell to each.
        memory_bytes: Its memory; 0 where it is not said.
        nodes: Numbers of the host's nodes that its memory is bound to; none where the host has one node or none.
        notes: What could not be shown as it is, a sentence each.
    """

    spec: GuestSpec
    placed: GuestPlacement
    smp: SmpTopology
    cells: tuple[ShapeCell, ...]
    distances: tuple[tuple[int, ...], ...]
    memory_bytes: int
    nodes: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def by_socket(self) -> bool:
        """Whether each cell is a socket."""
        return len(self.cells) > 1 and self.smp.sockets == len(self.cells)


def guest_shape(host: Host, placed: GuestPlacement, rules: SmpRules) -> GuestShape:
    """
    Say what a guest should see of its place.

    Args:
        host: The host.
        placed: Where the guest is.
        rules: What the machine type allows.

    Returns:
        The shape.

    Raises:
        RequestError: Cells need memory that is not said.
        SmpError: The machine type cannot show it: too many vCPUs.
    """
    spec = placed.spec
    notes: list[str] = []
    groups = _groups(host, placed)
    smp = _topology(spec, groups, rules, notes)
    notes += _unseen(host, placed)
    notes += _wide(host, placed, groups)
    memory = spec.memory_bytes or sum(cell.memory_bytes for cell in spec.cells)
    if spec.cells and not memory:
        raise RequestError.of(
            [f"guest {spec.name!r} has NUMA cells, and QEMU wants to know their memory: say memory"]
        )
    if not memory:
        notes.append("its memory is not said: QEMU gives it 128 MiB, libvirt wants to be told")
    cells = _cells(host, placed, memory)
    nodes = _nodes(host, placed, range(spec.max_vcpus))
    if len(host.topology.nodes) < 2:
        nodes = ()
    return GuestShape(
        spec=spec,
        placed=placed,
        smp=smp,
        cells=cells,
        distances=_distances(host, placed, cells),
        memory_bytes=memory,
        nodes=nodes,
        notes=tuple(notes),
    )


# -- CPUs


def _groups(host: Host, placed: GuestPlacement) -> list[int | None]:
    """For each vCPU the place of its L3 group; None where it is in none, or floats over several."""
    columns = host.columns
    found: list[int | None] = []
    for vcpu in range(placed.spec.max_vcpus):
        cpus = placed.cpus_of(Role.VCPU, vcpu)
        at = [place for place, group in enumerate(columns.l3) if cpus and cpus <= group]
        found.append(at[0] if at else None)
    return found


def _topology(
    spec: GuestSpec, groups: Sequence[int | None], rules: SmpRules, notes: list[str]
) -> SmpTopology:
    total, threads = spec.max_vcpus, spec.threads
    home = _home(spec)
    sockets = _sockets(home, threads)
    inside = total // sockets
    die = _largest(inside, threads, groups)
    dies = inside // die
    starts = range(0, total, inside)
    several = [
        len({*groups[start : start + inside]} - {None}) for start in starts
    ]  # L3 groups of each socket
    used = len({*groups} - {None})
    if "dies" not in rules.levels:
        if dies > 1:
            notes.append(
                f"machine type {rules.machine} has no dies: the guest does not see its {used} L3 groups"
            )
        dies = 1
    elif {dies} != {*several} and max(several) > 1:
        uneven = f"its vCPUs are spread unevenly over {used} L3 groups"
        if die == threads:
            notes.append(f"{uneven}, which no dies of equal size could show")
            dies = 1
        elif dies > 1:
            notes.append(
                f"{uneven}: {sockets * dies} dies of equal size are shown, so that none shares what it has not"
            )
        elif None not in groups:
            notes.append(f"{uneven}, which are not shown")
    made = SmpTopology(
        cpus=spec.vcpus,
        maxcpus=total,
        sockets=sockets,
        dies=dies,
        cores=inside // dies // threads,
        threads=threads,
    )
    return read_smp(made.format(), rules).topology  # by the machine's own rules and limits


def _unseen(host: Host, placed: GuestPlacement) -> Iterable[str]:
    """Siblings that the guest takes for cores, and cores that it takes for siblings."""
    spec, cores = placed.spec, host.topology.cores
    at = {cpu: place for place, core in enumerate(cores) for cpu in core}
    cpus = {vcpu: placed.cpus_of(Role.VCPU, vcpu) for vcpu in spec.pinned}
    real = {vcpu: at.get(cpu.first) for vcpu, cpu in cpus.items() if cpu}
    on: dict[int | None, list[int]] = {}
    for vcpu, place in real.items():
        on.setdefault(place, []).append(vcpu)
    for place, here in on.items():
        if place is not None and spec.threads == 1 < len(here):
            yield (
                f"vCPUs {here[0]} and {here[1]} are siblings of one core, which the guest does not see: say "
                "threads = 2, or thread_policy = isolate"
            )
            return
    for first in range(0, spec.max_vcpus, spec.threads):
        core = [vcpu for vcpu in range(first, first + spec.threads) if vcpu in real]
        if len({real[vcpu] for vcpu in core}) > 1:
            yield f"vCPUs {core[0]} and {core[1]} are on different cores, and the guest takes them for siblings"
            return


def _wide(host: Host, placed: GuestPlacement, groups: Sequence[int | None]) -> Iterable[str]:
    """Over how much vCPUs float of which the guest sees one; and cores of its own that two cells share."""
    spec, columns = placed.spec, host.columns
    floating = [placed.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in spec.floating if groups[vcpu] is None]
    over = CpuSet.union_of(floating)
    l3 = sum(not over.isdisjoint(group) for group in columns.l3)
    nodes = sum(not over.isdisjoint(node.cpus) for node in host.topology.nodes)
    if l3 > 1:
        whose = "vCPUs of it" if spec.pinned else "its vCPUs"
        yield f"{whose} float over {l3} L3 groups, which are not shown"
    if nodes > 1 and not spec.cells:
        yield f"its vCPUs float over {nodes} NUMA nodes, and without cells it sees one"
    home = _home(spec)
    for first in range(0, spec.max_vcpus if spec.cells else 0, spec.threads):
        if len(set(home[first : first + spec.threads])) > 1:
            yield (
                f"vCPUs {first} and {first + spec.threads - 1} are siblings of one core that the guest sees, and in "
                "different cells: give each cell whole cores"
            )
            return


def _home(spec: GuestSpec) -> list[int]:
    """For each vCPU the place of its cell."""
    home = [0] * spec.max_vcpus
    for at, cell in enumerate(spec.cells):
        for vcpu in cell.vcpus:
            home[vcpu] = at
    return home


def _sockets(home: Sequence[int], threads: int) -> int:
    """How many sockets: the cells, where each is as many consecutive vCPUs as any other, and whole cores."""
    cells = len(set(home))
    size = len(home) // cells
    runs = [set(home[start : start + size]) for start in range(0, len(home), size)]
    whole = len(runs) == cells and size % threads == 0
    return cells if whole and all(len(run) == 1 for run in runs) else 1


def _largest(inside: int, threads: int, groups: Sequence[int | None]) -> int:
    """The most vCPUs a die, so that each is in one L3 group; all of a socket where that is not known."""
    if None in groups:
        return inside
    for size in sorted(_divisors(inside), reverse=True):
        runs = (groups[start : start + size] for start in range(0, len(groups), size))
        if size % threads == 0 and all(len(set(run)) == 1 for run in runs):
            return size
    return inside


def _divisors(number: int) -> Iterable[int]:
    for one in range(1, math.isqrt(number) + 1):
        if number % one == 0:
            yield from {one, number // one}


# -- memory


def _nodes(host: Host, placed: GuestPlacement, vcpus: Iterable[int]) -> tuple[int, ...]:
    """The numbers of the nodes on which some vCPUs are."""
    cpus = [placed.cpus_of(Role.VCPU, vcpu) for vcpu in vcpus]
    return tuple(
        node.number
        for node in host.topology.nodes
        if any(one is not None and not one.isdisjoint(node.cpus) for one in cpus)
    )


def _cells(host: Host, placed: GuestPlacement, memory: int) -> tuple[ShapeCell, ...]:
    spec = placed.spec
    if not spec.cells:
        return ()
    sizes = [cell.memory_bytes for cell in spec.cells]
    if not all(sizes):
        sizes = _shared_out(memory - sum(sizes), sizes, spec.page_bytes or _PIECE)
    several = len(host.topology.nodes) > 1
    return tuple(
        ShapeCell(
            vcpus=cell.vcpus,
            memory_bytes=size,
            nodes=_nodes(host, placed, cell.vcpus) if several else (),
        )
        for cell, size in zip(spec.cells, sizes, strict=True)
    )


def _shared_out(rest: int, sizes: Sequence[int], piece: int) -> list[int]:
    """Give those of which nothing is said equal parts of the rest, in whole pieces; the last one has what is over."""
    without = [at for at, size in enumerate(sizes) if not size]
    part = rest // len(without) // piece * piece
    given = list(sizes)
    for at in without:
        given[at] = part
    given[without[-1]] += rest - part * len(without)
    return given


def _distances(host: Host, placed: GuestPlacement, cells: Sequence[ShapeCell]) -> tuple[tuple[int, ...], ...]:
    if len(cells) < 2:
        return ()
    nodes = {node.number: node for node in host.topology.nodes}
    homes = [_nodes(host, placed, cell.vcpus) for cell in cells]

    def far(one: int, other: int) -> int:
        if one == other:
            return _LOCAL
        told = [
            nodes[here].distance_to(there) or _UNKNOWN
            for here in homes[one]
            for there in homes[other]
            if here != there
        ]
        return min(max(told, default=_NEAREST), _FARTHEST) if max(told, default=0) > _LOCAL else _NEAREST

    return tuple(tuple(far(one, other) for other in range(len(cells))) for one in range(len(cells)))
