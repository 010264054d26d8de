"""
Machines, and requests for places on them, as hypothesis strategies.

A machine is drawn as packages of nodes of cores, each a collection, so that it shrinks to fewer and plainer ones: a
core is a word with a letter for each of its threads (o online, i isolated, - offline), and CPU numbers are given last.
What the readers of /sys guarantee holds: a level is made of online CPUs, in order of first CPU, each in one group.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import attrs
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import (
    Affinity,
    EmulatorPolicy,
    GuestCell,
    GuestSpec,
    Place,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.host.isolation import Isolation, Kept, KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.topology import CoreKind, HugePages, NumaNode, Topology
from kvmaff.placement.request import Demand, Held, PlacementRequest, Pool
from kvmaff.testing.inputs_guests import dedicated_vcpus

__all__ = ["hosts", "overlapping", "placement_specs", "requests", "topologies"]

_GIB = 1 << 30
_CORES = (
    *("oo", "o", "oo", "oooo", "oo", "o", "oo", "oo", "oooo", "oo", "o", "oo", "ii", "i", "iiii"),
    *("o-", "-o", "oi", "ooo-", "o-o-", "oiio", "--", "-", "i-"),
)
_LEVELS = ("nodes", "l3", "l2", "cores", "clusters", "dies")
_KINDS = (
    ("P", "E", "LP-E"),
    ("capacity 1024", "capacity 718", "capacity 280"),
    ("5000 MHz", "4000 MHz", "2500 MHz"),
)
_SMT = (None, "on", "off", "forceoff", "notsupported", "notimplemented", "4")
_ISOLCPUS = (None, "", "domain,", "managed_irq,domain,", "nohz,domain,managed_irq,")
_DISTANCES = (21, 20, 11, 12, 16, 31, 40, 254)


@attrs.frozen
class _Core:
    """A core before its threads have numbers."""

    threads: str
    l3: int | None
    package: int
    node: int


def _cores() -> hs.SearchStrategy[list[tuple[str, int | None]]]:
    """Return the cores of a node: threads, and a label of the L3 (None: it has none)."""
    return hs.lists(
        hs.tuples(hs.sampled_from(_CORES), hs.sampled_from((0, 0, 1, 0, 1, 2, None))), min_size=1, max_size=5
    )


@hs.composite
def _machines(draw: hs.DrawFn) -> tuple[Topology, CpuSet]:
    """Return a strategy of (topology, isolated CPUs)."""
    packages = draw(hs.lists(hs.lists(_cores(), min_size=1, max_size=2), min_size=1, max_size=3))
    spanning = draw(hs.sampled_from((False, False, False, True)))  # a node may have CPUs of several packages
    cores: list[_Core] = []
    for package, parts in enumerate(packages):
        for at, members in enumerate(parts):
            node = at if spanning else 2 * package + at
            cores += [_Core(threads=word, l3=l3, package=package, node=node) for word, l3 in members]
    if "o" not in cores[0].threads:  # the CPU that booted is online, and isolcpus= cannot have it
        cores[0] = attrs.evolve(cores[0], threads="o" + cores[0].threads[1:])

    slots = draw(
        _numbered(
            [(core, thread) for core in range(len(cores)) for thread in range(len(cores[core].threads))]
        )
    )
    state = {cpu: cores[core].threads[thread] for cpu, (core, thread) in slots.items()}
    owner = {cpu: core for cpu, (core, _) in slots.items() if state[cpu] != "-"}
    online = CpuSet(owner)
    present = CpuSet(slots)

    across = draw(hs.sampled_from((False, False, True)))  # an L3 of several nodes, as with sub-NUMA clusters
    silent = draw(hs.lists(hs.sampled_from(_LEVELS), unique=True, max_size=3))  # levels that are not told
    pair = draw(hs.booleans())  # two cores of an L3 share an L2 and are a cluster, as E-cores do

    def level(name: str, label: dict[int, Hashable | None]) -> tuple[CpuSet, ...]:
        return _grouped({cpu: label[core] for cpu, core in owner.items()}) if name not in silent else ()

    l3 = {
        at: None if core.l3 is None else (core.package, -1 if across else core.node, core.l3)
        for at, core in enumerate(cores)
    }
    halves = {at: (l3[at], core.package, core.node, at // 2 if pair else at) for at, core in enumerate(cores)}
    dies = level("dies", {at: (core.package, core.node) for at, core in enumerate(cores)})
    sockets = _grouped({cpu: cores[core].package for cpu, core in owner.items()})
    nodes = draw(
        _nodes({cpu: cores[core].node for cpu, core in owner.items()}, {core.node for core in cores})
    )
    topology = Topology(
        possible=present | CpuSet(present.last + more for more in range(1, draw(hs.integers(0, 3)) + 1)),
        present=present,
        online=online,
        packages=sockets,
        dies=dies if any(die < socket for die in dies for socket in sockets) else (),
        clusters=level("clusters", dict(halves)),
        cores=level("cores", {at: at for at in range(len(cores))}),
        l2=level("l2", dict(halves)),
        l3=level("l3", dict(l3)),
        nodes=() if "nodes" in silent else nodes,
    )
    isolated = CpuSet(cpu for cpu, one in state.items() if one == "i")
    return draw(_detailed(topology)), isolated


@hs.composite
def _detailed(draw: hs.DrawFn, topology: Topology) -> Topology:
    """Return a strategy of a machine with what fewer machines have; drawn last, as placement asks for none of it."""
    if not draw(hs.booleans()):
        return topology
    units = topology.cores or tuple(CpuSet([cpu]) for cpu in topology.online)
    labels = draw(
        hs.just([0] * len(units)) | hs.lists(hs.integers(0, 2), min_size=len(units), max_size=len(units))
    )
    names = draw(hs.sampled_from(_KINDS[: 3 if len(topology.packages) == 1 else 2]))
    kinds = [
        CoreKind(
            name=names[label],
            cpus=CpuSet.union_of(unit for unit, own in zip(units, labels, strict=True) if own == label),
        )
        for label in sorted(set(labels))
    ]
    books = draw(hs.sampled_from((0, 0, 0, 0, 1, 2)))  # packages of a book, books of a drawer
    pages = hs.integers(0, 40).flatmap(
        lambda total: hs.tuples(
            hs.sampled_from((64 << 10, 2 << 20, _GIB, 16 * _GIB)), hs.just(total), hs.integers(0, total)
        )
    )
    sizes = hs.lists(pages, unique_by=lambda each: each[0], max_size=2).map(
        lambda some: tuple(
            HugePages(size_bytes=size, total=total, free=free) for size, total, free in sorted(some)
        )
    )
    return attrs.evolve(
        topology,
        books=_joined(topology.packages, books),
        drawers=_joined(_joined(topology.packages, books), books),
        kinds=tuple(kinds) if len(kinds) > 1 else (),
        smt=draw(hs.sampled_from(_SMT)),
        nodes=tuple(attrs.evolve(node, huge_pages=draw(sizes)) for node in topology.nodes),
        huge_pages=draw(sizes),
    )


def _joined(groups: tuple[CpuSet, ...], size: int) -> tuple[CpuSet, ...]:
    """Return the level above: some groups of a level together; none where the size is 0."""
    starts = range(0, len(groups), size) if size else ()
    return tuple(
        sorted((CpuSet.union_of(groups[at : at + size]) for at in starts), key=lambda group: group.first)
    )


@hs.composite
def _numbered(draw: hs.DrawFn, threads: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Return a strategy of CPU number -> (core, thread): cores in a row, or siblings far apart, or neither."""
    order = draw(hs.sampled_from(("cores", "threads", "any")))
    if order == "threads":
        threads = sorted(threads, key=lambda slot: (slot[1], slot[0]))
    elif order == "any":
        threads = draw(hs.permutations(threads))
    cpu, numbers = 0, {}
    gaps = draw(hs.dictionaries(hs.integers(0, len(threads) - 1), hs.integers(1, 80), max_size=2))
    for at, slot in enumerate(threads):
        cpu += gaps.get(at, 0)
        numbers[cpu] = slot
        cpu += 1
    return numbers


def _grouped(label: dict[int, Hashable | None]) -> tuple[CpuSet, ...]:
    """Return a level: the CPUs of each label, in order of first CPU; those without one are in no group."""
    groups: dict[Hashable, list[int]] = {}
    for cpu in sorted(label):
        if label[cpu] is not None:
            groups.setdefault(label[cpu], []).append(cpu)
    return tuple(CpuSet(cpus) for cpus in groups.values())


@hs.composite
def _nodes(draw: hs.DrawFn, node_of: dict[int, int], labels: Iterable[int]) -> tuple[NumaNode, ...]:
    """Return a strategy of the NUMA nodes; some have no CPU (online), some no memory."""
    memory = hs.sampled_from((4 * _GIB, 64 * _GIB, _GIB, 0, None))
    sizes = {label: draw(memory) for label in sorted(labels)}
    extra = draw(hs.lists(hs.sampled_from((16 * _GIB, _GIB, 0)), max_size=2))
    sizes |= {-1 - at: size for at, size in enumerate(extra)}
    skips = draw(hs.lists(hs.sampled_from((1, 1, 2, 7)), min_size=len(sizes), max_size=len(sizes)))
    order = (
        draw(hs.permutations(sorted(sizes, reverse=True)))
        if draw(hs.booleans())
        else sorted(sizes, reverse=True)
    )
    numbers, number = {}, -1
    for label, skip in zip(order, skips, strict=True):
        number += skip
        numbers[label] = number
    distances: dict[tuple[int, int], int] = {}
    told = draw(hs.sampled_from((True, True, False)))
    for one in numbers.values():
        for other in numbers.values():
            if one <= other:
                far = 10 if one == other else draw(hs.sampled_from(_DISTANCES))
                distances[one, other] = distances[other, one] = far
    return tuple(
        NumaNode(
            number=number,
            cpus=CpuSet(cpu for cpu, node in node_of.items() if node == label),
            memory_bytes=sizes[label],
            distances=tuple((other, distances[number, other]) for other in sorted(numbers.values()))
            if told
            else (),
        )
        for label, number in numbers.items()
    )


def topologies() -> hs.SearchStrategy[Topology]:
    """
    Machines: ragged cores, mixed SMT, sparse CPU and node numbers, levels that are not told, offline CPUs.

    Returns:
        A strategy; mostly of fewer than 32 CPUs.
    """
    return _machines().map(lambda machine: machine[0])


@hs.composite
def hosts(draw: hs.DrawFn) -> Host:
    """
    Machines with isolated CPUs, by the boot and by cgroups; at least one online CPU is not.

    Returns:
        A strategy; the hosts are not live.
    """
    topology, isolated = draw(_machines())
    flags = draw(hs.sampled_from(_ISOLCPUS)) if isolated else None
    nohz_full = isolated if draw(hs.booleans()) or "nohz" in (flags or "") else CpuSet()
    return Host(
        root="/generated",
        topology=topology,
        isolated=isolated,
        nohz_full=nohz_full,
        isolation=draw(_isolation(topology.online, isolated, flags, nohz_full)),
    )


@hs.composite
def _isolation(
    draw: hs.DrawFn, online: CpuSet, isolated: CpuSet, flags: str | None, nohz_full: CpuSet
) -> Isolation:
    """Return a strategy of who isolates: the words of a command line, the kernel unasked, a cgroup; in this order."""
    some = hs.just(CpuSet()) | hs.lists(hs.sampled_from(list(online)), unique=True, max_size=3).map(CpuSet)
    shown = "the kernel (/sys/devices/system/cpu/{})"
    boot = shown.format("isolated") if flags is None else f"isolcpus={flags}{isolated}"
    kept = [(isolated, KeptFrom.BALANCING, boot)]
    own = draw(some) - isolated
    if own < online - isolated:
        if draw(hs.booleans()):
            kept.append((own, KeptFrom.BALANCING, "/sys/fs/cgroup/guests"))
        kept.append((own, KeptFrom.OUTSIDERS, "/sys/fs/cgroup/guests"))
    tick = boot if "nohz" in boot else shown.format("nohz_full")
    if draw(hs.booleans()):
        tick = f"nohz_full={nohz_full}"
    kept += [(nohz_full, KeptFrom.TICK, tick), (nohz_full, KeptFrom.RCU, tick)]
    lazy = draw(some) - nohz_full
    kept.append((lazy, KeptFrom.RCU, f"rcu_nocbs={lazy}"))
    if "managed_irq" in boot:
        kept.append((isolated, KeptFrom.MANAGED_IRQ, boot))
    usual = draw(some) or online
    asked = draw(hs.booleans())
    kept.append(
        (online - usual, KeptFrom.IRQ, f"irqaffinity={usual}" if asked else "/proc/irq/default_smp_affinity")
    )
    return Isolation(kept=tuple(Kept(cpus=cpus, what=what, by=by) for cpus, what, by in kept if cpus))


@hs.composite
def overlapping(draw: hs.DrawFn) -> Host:
    """
    Machines some of whose NUMA nodes have the CPUs of others, too, as buggy firmware has it.

    Returns:
        A strategy; placement counts each CPU in the first node that has it.
    """
    host = draw(hosts())
    some = hs.lists(hs.sampled_from(list(host.topology.online)), unique=True).map(CpuSet)
    nodes = tuple(attrs.evolve(node, cpus=node.cpus | draw(some)) for node in host.topology.nodes)
    return attrs.evolve(host, topology=attrs.evolve(host.topology, nodes=nodes))


def placement_specs(name: str = "guest", *, vcpus: int = 6) -> hs.SearchStrategy[GuestSpec]:
    """
    What guests need, of all policies that do not contradict each other.

    Args:
        name: The guest's name.
        vcpus: How many vCPUs about at most, with those to be plugged in.

    Returns:
        A strategy.
    """
    return _specs(name, vcpus)


@hs.composite
def _specs(draw: hs.DrawFn, name: str, vcpus: int) -> GuestSpec:
    policy = draw(hs.sampled_from(VcpuPolicy))
    thread_policy, emulators = ThreadPolicy.PREFER, [EmulatorPolicy.SHARE, EmulatorPolicy.HOUSEKEEPING]
    if policy is not VcpuPolicy.SHARED:
        thread_policy = draw(hs.sampled_from(ThreadPolicy))
        emulators = list(EmulatorPolicy)
    threads = 1 if thread_policy is ThreadPolicy.ISOLATE else draw(hs.sampled_from((1, 1, 2, 4)))
    unit = max(threads, 2 if thread_policy is ThreadPolicy.REQUIRE else 1)
    most = unit * draw(hs.integers(1, max(vcpus // unit, 1)))
    own: tuple[int, ...] = ()
    if policy is VcpuPolicy.MIXED:
        # whole groups of siblings, so that any thread policy is to be had
        groups = draw(dedicated_vcpus(most // unit)) if most > unit else ()
        own = tuple(unit * group + at for group in groups for at in range(unit))
        policy = VcpuPolicy.MIXED if own else VcpuPolicy.DEDICATED
    cells: tuple[GuestCell, ...] = ()
    memory = draw(hs.sampled_from((0, _GIB, 2 * _GIB, 5 * _GIB + 1, 40 * _GIB)))
    if draw(hs.sampled_from((False, False, True))):
        cell_of = draw(hs.lists(hs.integers(0, 2), min_size=most, max_size=most))
        sizes = hs.sampled_from((0, _GIB, 3 * _GIB)) if draw(hs.booleans()) else hs.just(0)
        cells = tuple(
            GuestCell(vcpus=tuple(v for v in range(most) if cell_of[v] == cell), memory_bytes=draw(sizes))
            for cell in sorted(set(cell_of))
        )
        memory = sum(cell.memory_bytes for cell in cells) or memory
    page = draw(hs.sampled_from((0, 0, 0, 0, _GIB)))
    more: dict[str, Any] = {}
    if memory and not memory % (page or 1) and not any(cell.memory_bytes % (page or 1) for cell in cells):
        more["page_bytes"] = page
    if draw(hs.booleans()):
        more |= draw(_wishes(name))
        more["iothread_policy"] = draw(hs.sampled_from((None, *emulators)))
    return GuestSpec(
        name=name,
        vcpus=draw(hs.integers(1, most)),
        max_vcpus=most,
        threads=threads,
        memory_bytes=memory,
        cells=cells,
        iothreads=tuple(f"io{at}" for at in range(draw(hs.sampled_from((0, 0, 1, 2))))),
        device_nodes=tuple(draw(hs.lists(hs.integers(0, 4), max_size=1))),
        vcpu_policy=policy,
        thread_policy=thread_policy,
        emulator_policy=draw(hs.sampled_from(emulators)),
        dedicated_vcpus=own,
        **more,
    )


@hs.composite
def _wishes(draw: hs.DrawFn, name: str) -> dict[str, Any]:
    """What few guests ask: kinds of core, pools, trust domains, affinities."""
    number = int(name.removeprefix("guest") or 0) if name.startswith("guest") else 0
    others = [f"guest{at}" for at in range(3) if at != number] + ["other0"]
    one = hs.builds(Affinity, guest=hs.sampled_from(others), level=hs.sampled_from(Place))
    near = draw(hs.lists(one, max_size=1))
    apart = draw(hs.lists(one, max_size=1))
    return {
        "core_kind": draw(hs.sampled_from((None, None, "any", "P", "E"))),
        "pool": draw(hs.sampled_from((None, None, None, "fast"))),
        "trust_domain": draw(hs.sampled_from((None, None, "a", "b"))),
        "affinity": tuple(near),
        "anti_affinity": tuple(one for one in apart if one.guest not in {other.guest for other in near}),
    }


def requests(
    host: hs.SearchStrategy[Host] | None = None, *, guests: int = 5
) -> hs.SearchStrategy[PlacementRequest]:
    """
    What may be asked for on a machine: guests running and to come, beside what others hold.

    Args:
        host: The machines; any where not said.
        guests: How many guests at most.

    Returns:
        A strategy. What is dedicated to a guest outside the request is no other's there. Many requests cannot be met.
    """
    return _requests(hosts() if host is None else host, guests)


@hs.composite
def _requests(draw: hs.DrawFn, host: hs.SearchStrategy[Host], guests: int) -> PlacementRequest:
    machine = draw(host)
    online = list(machine.topology.online)
    some = hs.lists(hs.sampled_from(online), unique=True).map(CpuSet)
    demands = []
    for at, (running, limited) in enumerate(
        draw(
            hs.lists(
                hs.tuples(hs.booleans(), hs.sampled_from((False, False, True))), min_size=1, max_size=guests
            )
        )
    ):
        without = draw(some) if limited else CpuSet()
        demands.append(
            Demand(
                spec=draw(placement_specs(f"guest{at}")),
                pid=1000 + at if running else None,
                start=77 + at if running else None,
                allowed=(machine.topology.present - without) or machine.topology.present if limited else None,
            )
        )
    held: list[Held] = []
    taken = alone = CpuSet()
    for cpus, dedicated, vcpus in draw(
        hs.lists(hs.tuples(some, hs.booleans(), hs.integers(0, 4)), max_size=3)
    ):
        own = cpus - (taken if dedicated else alone)
        if own:
            held.append(Held(name=f"other{len(held)}", cpus=own, dedicated=dedicated, vcpus=vcpus))
            taken |= own
            alone |= own if dedicated else CpuSet()
    nodes = [node for node in machine.topology.nodes if node.memory_bytes is not None]
    limits = draw(
        hs.lists(hs.sampled_from((100, 100, 50, 0, None)), min_size=len(nodes), max_size=len(nodes))
    )
    if draw(hs.sampled_from((False, False, True))):
        held = [attrs.evolve(one, trust_domain=draw(hs.sampled_from((None, "a")))) for one in held]
    pools: tuple[Pool, ...] = ()
    if draw(hs.sampled_from((False, False, True))) and (inside := draw(some)):
        pools = (Pool(name="fast", cpus=inside, overcommit=draw(hs.sampled_from((None, 1000, 2500)))),)
    return PlacementRequest(
        host=machine,
        demands=tuple(demands),
        held=tuple(held),
        pools=pools,
        overcommit=draw(hs.sampled_from((None, None, 1000, 4000))),
        pages=tuple((node.number, _GIB, draw(hs.integers(0, 6))) for node in nodes[:2]),
        reserved=draw(hs.lists(hs.sampled_from(online), unique=True, max_size=2).map(CpuSet)),
        memory=tuple(
            (node.number, (node.memory_bytes or 0) * percent // 100)
            for node, percent in zip(nodes, limits, strict=True)
            if percent is not None
        ),
    )
