"""Hosts and guests for ``bench_place.py``: whole hosts with guests on them, and ragged ones to ask a solver about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.spec import EmulatorPolicy, GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.future import SIZES
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.testing.trees import grid

GIB = 1 << 30
_SIZES = tuple(SIZES.elements())
_DISTANCES = ((12, 21), (11, 21), (12, 32), (11, 40), (16, 32))


def whole_host(random: Random, cpus: int, nodes: int) -> Host:
    """
    Make a host of two packages and two threads a core; no two are equal.

    Args:
        random: What the numbering, the L3 groups, the distances and the nodes' memory depend on.
        cpus: How many CPUs.
        nodes: How many nodes.

    Returns:
        The host.
    """
    host = grid(
        packages=2,
        nodes=nodes // 2,
        l3s=nodes // 2 * random.choice((1, 2, 4)),
        cores=cpus // 4,
        threads=2,
        adjacent=random.random() < 0.5,
    )
    inside, between = random.choice(_DISTANCES)
    half = nodes // 2

    def far(one: int, other: int) -> int:
        return 10 if one == other else inside if one // half == other // half else between

    told = tuple(
        attrs.evolve(
            node,
            memory_bytes=random.randrange(32 * GIB, 64 * GIB, 4096),
            distances=tuple((other, far(node.number, other)) for other in range(nodes)),
        )
        for node in host.topology.nodes
    )
    host = attrs.evolve(host, topology=attrs.evolve(host.topology, nodes=told))
    _ = host.columns  # reading a host makes them
    return host


def occupied(random: Random, topology: Topology, share: float, *, shared: float = 0.0) -> tuple[Held, ...]:
    """
    Fill a host with guests.

    Args:
        random: What goes where.
        topology: The host.
        share: How much of its PUs.
        shared: How many of the guests, of 1, float over their PUs and are not dedicated.

    Returns:
        The guests: three in four in blocks of PUs that follow one another in a node, the others anywhere.
    """
    lines = []
    for part in [node.cpus for node in topology.nodes if node.cpus] or [topology.online]:
        cores = [core for core in topology.cores if core <= part]
        lines.append([cpu for core in cores for cpu in core] or list(part))
    return tuple(
        Held(
            name=f"guest{number}",
            cpus=CpuSet(cpus),
            dedicated=random.random() >= shared,
            vcpus=len(cpus),
        )
        for number, cpus in enumerate(_taken(random, lines, round(sum(map(len, lines)) * share)))
    )


def _taken(random: Random, lines: Sequence[Sequence[int]], left: int) -> Iterator[list[int]]:
    """Take so many CPUs of some nodes, guest by guest."""
    free = {cpu: None for line in lines for cpu in line}  # a set in an order
    while left:
        size = min(random.choice(_SIZES), left)
        if random.random() < 0.75:
            line = random.choice(lines)
            at = random.randrange(len(line))
            cpus = [cpu for cpu in (*line[at:], *line[:at]) if cpu in free][:size]
        else:
            cpus = random.sample(list(free), size)
        for cpu in cpus:
            del free[cpu]
        left -= len(cpus)
        if cpus:
            yield cpus


def eight_vcpus(random: Random, nodes: int) -> GuestSpec:
    """
    Draw a guest of eight dedicated vCPUs.

    Args:
        random: What its policies, cells, memory and devices depend on.
        nodes: How many nodes the host has.

    Returns:
        The guest.
    """
    policy = random.choice(
        (ThreadPolicy.PREFER, ThreadPolicy.PREFER, ThreadPolicy.REQUIRE, ThreadPolicy.ISOLATE)
    )
    cells, memory = random.choice((0, 0, 1, 2)), random.choice((0, 4, 16)) * GIB
    return GuestSpec(
        name="new",
        vcpus=8,
        threads=1 if policy is ThreadPolicy.ISOLATE else random.choice((1, 2)),
        memory_bytes=memory,
        cells=in_cells([8 // cells] * cells, memory) if cells else (),
        device_nodes=(random.randrange(nodes),) if random.random() < 0.3 else (),
        vcpu_policy=VcpuPolicy.DEDICATED,
        thread_policy=policy,
    )


def in_cells(sizes: Sequence[int], memory: int = 0) -> tuple[GuestCell, ...]:
    """
    Make cells of vCPUs in a row.

    Args:
        sizes: How many vCPUs each has.
        memory: Bytes of memory together, of which each has the same.

    Returns:
        The cells.
    """
    cells, at = [], 0
    for size in sizes:
        cells.append(GuestCell(vcpus=tuple(range(at, at + size)), memory_bytes=memory // len(sizes)))
        at += size
    return tuple(cells)


def single(random: Random, cpus: int, nodes: int) -> PlacementRequest:
    """
    Ask for one guest of eight vCPUs on a host that is 70 % full.

    Args:
        random: What the host, the guests on it and the guest to come depend on.
        cpus: How many CPUs it has.
        nodes: How many nodes.

    Returns:
        The question.
    """
    host = whole_host(random, cpus, nodes)
    memory = ()
    if random.random() < 0.5:
        memory = tuple((number, random.randrange(2 * GIB, 32 * GIB)) for number in range(nodes))
    return PlacementRequest(
        host=host,
        demands=(Demand(spec=eight_vcpus(random, nodes)),),
        held=occupied(random, host.topology, 0.7),
        memory=memory,
    )


def for_nova(random: Random, free: Sequence[int], cells: Sequence[int]) -> PlacementRequest:
    """
    Ask for a guest whose vCPUs may go anywhere, but for its cells: what Nova can be asked, too.

    Args:
        random: What the host and the guests on it depend on.
        free: For each node how many of its 32 CPUs are free.
        cells: How many vCPUs each cell has.

    Returns:
        The question.
    """
    host = whole_host(random, 32 * len(free), len(free))
    spec = GuestSpec(name="new", vcpus=sum(cells), cells=in_cells(cells), vcpu_policy=VcpuPolicy.DEDICATED)
    held: list[Held] = []
    for node, count in zip(host.topology.nodes, free, strict=True):
        cores = [core for core in host.topology.cores if core <= node.cpus]
        for cpus in _taken(random, [[cpu for core in cores for cpu in core]], 32 - count):
            held.append(Held(name=f"guest{len(held)}", cpus=CpuSet(cpus), dedicated=True, vcpus=len(cpus)))
    return PlacementRequest(host=host, demands=(Demand(spec=spec),), held=tuple(held))


def ragged(random: Random, *, own_cpus: bool = True) -> PlacementRequest:
    """
    Ask for a dedicated guest on any host of 2 to 256 CPUs.

    Siblings may be offline, cores differ, L3 groups be uneven, be missing, or span nodes; nodes may have no CPU;
    distances may be any, differ by direction, or not be told; CPUs may be reserved, isolated, not granted, or shared.

    Args:
        random: What everything depends on.
        own_cpus: Whether the guest's emulator may want a PU of its own.

    Returns:
        The question.
    """
    cores, near_l3 = _ragged_cores(random)
    count = 1 + max(node for node, _, _ in cores)
    threads = [(core, at) for core, (_, _, size) in enumerate(cores) for at in range(size)]
    order = random.choice(("cores", "threads", "any"))
    if order == "threads":
        threads.sort(key=lambda one: one[::-1])
    elif order == "any":
        random.shuffle(threads)
    cpus: list[list[int]] = [[] for _ in cores]
    for cpu, (core, _) in enumerate(threads):
        cpus[core].append(cpu)
    offline = random.choice((0.0, 0.0, 0.1, 0.3))
    own = []
    for core, some in enumerate(cpus):
        on = CpuSet(cpu for cpu in some if random.random() >= offline)
        own.append(on or CpuSet(some if core == 0 else ()))
    online = CpuSet.union_of(own)
    node_cpus = [
        CpuSet.union_of(own[at] for at, core in enumerate(cores) if core[0] == n) for n in range(count)
    ]
    l3 = [
        CpuSet.union_of(own[at] for at, core in enumerate(cores) if (near_l3 and core[0], core[1]) == label)
        for label in dict.fromkeys((near_l3 and core[0], core[1]) for core in cores if core[1] >= 0)
    ]
    present = CpuSet(range(len(threads)))
    topology = Topology(
        possible=present,
        present=present,
        online=online,
        packages=(online,),
        dies=(),
        clusters=(),
        cores=_level(own),
        l2=(),
        l3=_level(l3) if random.random() < 0.85 else (),
        nodes=_ragged_nodes(random, node_cpus),
    )
    some = list(online)
    isolated = CpuSet(random.sample(some, len(some) // 4)) if random.random() < 0.1 else CpuSet()
    if random.random() < 0.5:  # whole cores
        isolated = CpuSet.union_of(core for core in own if not core.isdisjoint(isolated))
    isolated = isolated if isolated < online else CpuSet()
    host = Host(root="/generated", topology=topology, isolated=isolated, nohz_full=CpuSet())
    held = occupied(
        random, topology, random.choice((0.0, 0.2, 0.4, 0.6, 0.7, 0.9)), shared=random.choice((0.0, 0.0, 0.2))
    )
    taken = CpuSet.union_of(one.cpus for one in held)
    allowed = online - CpuSet(random.sample(some, len(some) // 8)) if random.random() < 0.1 else None
    free = (online if allowed is None else online & allowed) - taken - isolated
    cores_free = [(len(core & free), len(core)) for core in topology.cores or map(_alone, online)]
    numbers = [node.number for node in topology.nodes]
    memory = (0, 1, 4, 8, 16, 32, 64)
    running = random.random() < 0.15
    return PlacementRequest(
        host=host,
        demands=(
            Demand(
                spec=_ragged_guest(random, cores_free, numbers, own_cpus=own_cpus),
                pid=1000 if running else None,
                start=77 if running else None,
                allowed=allowed,
                memory=tuple((n, random.choice(memory) * GIB) for n in numbers) if running else (),
            ),
        ),
        held=held,
        reserved=CpuSet(random.sample(some, 1)) if random.random() < 0.15 else CpuSet(),
        memory=tuple((n, random.choice(memory) * GIB) for n in numbers if random.random() < 0.8)
        if random.random() < 0.4
        else (),
    )


def _ragged_cores(random: Random) -> tuple[list[tuple[int, int, int]], bool]:
    """Draw (node, L3 group, threads) for each core, and whether L3 groups end with the node; -1 is in none."""
    count = random.choice((1, 2, 2, 4, 4, 6, 8, 8))
    size = random.choice((2, 4, 8, 16, 32, 32, 32))
    kinds = random.choice(((2,), (2,), (2,), (2,), (1,), (4,), (1, 2), (1, 4), (1, 2, 4), (2, 3)))
    cores = []
    across = random.random() < 0.15  # sub-NUMA clusters
    for node in range(count):
        groups = random.choice((1, 1, 2, 2, 4))
        labels = [random.randrange(groups) for _ in range(size)] if random.random() < 0.3 else []
        left = random.choice((size, size, size, max(size // 2, 1)))
        at = 0
        while left > 0:
            threads = min(random.choice(kinds), left)
            label = labels[at] if labels else at * groups * max(kinds) // max(size, 1) % groups
            cores.append((node, node * 2 // count if across else label, threads))
            left -= threads
            at += 1
    if random.random() < 0.1:
        cores = [(node, label if random.random() < 0.8 else -1, threads) for node, label, threads in cores]
    return cores, not across


def _ragged_nodes(random: Random, cpus: Sequence[CpuSet]) -> tuple[NumaNode, ...]:
    """Give nodes numbers and distances; now and then the host tells of none, or of one more without CPUs."""
    if random.random() < 0.06:
        return ()
    every = [*cpus, CpuSet()] if random.random() < 0.1 else list(cpus)
    step = random.choice((1, 1, 1, 3))
    inside, between = random.choice(_DISTANCES)
    kind = random.choice(("packages", "packages", "any", "any, by direction", "ring", "silent"))
    half = max(len(every) // 2, 1)
    far: dict[tuple[int, int], int] = {}
    for one in range(len(every)):
        for other in range(one + 1):
            hops = min(one - other, len(every) - one + other)
            value = {
                "packages": inside if one // half == other // half else between,
                "ring": 10 + 6 * hops,
            }.get(kind, random.randint(11, 60))
            far[one, other] = far[other, one] = 10 if one == other else value
            if kind == "any, by direction" and one != other:
                far[other, one] = random.randint(11, 60)
    return tuple(
        NumaNode(
            number=at * step,
            cpus=own,
            memory_bytes=64 * GIB,
            distances=()
            if kind == "silent"
            else tuple((other * step, far[at, other]) for other in range(len(every))),
        )
        for at, own in enumerate(every)
    )


def _alone(cpu: int) -> CpuSet:
    return CpuSet([cpu])


def _ragged_guest(
    random: Random, cores: Sequence[tuple[int, int]], nodes: Sequence[int], *, own_cpus: bool
) -> GuestSpec:
    """Draw a guest that has a place, as far as its thread policy and what (free, all) PUs cores have decide that."""
    policy = random.choice(
        (ThreadPolicy.PREFER, ThreadPolicy.PREFER, ThreadPolicy.REQUIRE, ThreadPolicy.ISOLATE)
    )
    threads = 1 if policy is ThreadPolicy.ISOLATE else random.choice((1, 1, 2, 2, 4))
    unit = max(threads, 2 if policy is ThreadPolicy.REQUIRE else 1)
    if policy is ThreadPolicy.ISOLATE:
        room = sum(free == total for free, total in cores)
    else:
        room = sum(free - free % unit for free, _ in cores)
    most = random.choice((4, 8, 16, room // 2, room, room))
    vcpus = unit * random.randint(1, max(min(most, room + random.choice((0, 0, unit))) // unit, 1))
    memory = random.choice((0, 0, 1, 2, 5, 20)) * GIB
    cells: tuple[GuestCell, ...] = ()
    if random.random() < 0.35:
        cut = unit if random.random() < 0.8 else 1  # cells may tear siblings apart
        cuts = sorted({cut * random.randint(1, vcpus // cut) for _ in range(random.randint(0, 4))} | {vcpus})
        cells = in_cells([end - start for start, end in zip([0, *cuts], cuts, strict=False)])
        if memory and random.random() < 0.7:
            cells = tuple(
                attrs.evolve(cell, memory_bytes=random.choice((0, 1, 2, 4, 7)) * GIB) for cell in cells
            )
            memory = sum(cell.memory_bytes for cell in cells)
    emulators = [EmulatorPolicy.SHARE, EmulatorPolicy.SHARE, EmulatorPolicy.HOUSEKEEPING]
    if own_cpus and unit == 1 and policy is ThreadPolicy.PREFER:
        emulators.append(EmulatorPolicy.ISOLATE)  # else its own PU is not claimed to be the best
    return GuestSpec(
        name="new",
        vcpus=random.choice((vcpus, vcpus, max(vcpus - 1, 1))),
        max_vcpus=vcpus,
        threads=threads,
        memory_bytes=memory,
        cells=cells,
        device_nodes=(random.choice(nodes),) if nodes and random.random() < 0.25 else (),
        vcpu_policy=VcpuPolicy.DEDICATED,
        thread_policy=policy,
        emulator_policy=random.choice(emulators),
    )


def _level(groups: Sequence[CpuSet]) -> tuple[CpuSet, ...]:
    """Put groups in the order of their first CPU, those without CPUs left out."""
    return tuple(sorted((group for group in groups if group), key=lambda group: group.first))
