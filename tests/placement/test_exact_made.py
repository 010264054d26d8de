"""Dedicated guests on hosts made by hand: which nodes they get, what memory and cells do to that, who is refused."""

from __future__ import annotations

from itertools import permutations, product

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.future import accept
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import numa, pack

STRATEGIES = {strategy.name: strategy for module in (pack, numa) for strategy in module.kvmaff_strategies()}
GIB = 1 << 30
plain = pytest.mark.parametrize("name", STRATEGIES)


def placed(name: str, request: PlacementRequest) -> GuestPlacement | None:
    """The only guest's place, which keeps every rule; None where it is refused, with reasons."""
    try:
        placement = STRATEGIES[name].place(request)
    except PlacementImpossible as error:
        assert all(one.reasons for one in error.unplaced)
        return None
    assert () == verify(request, placement)
    (found,) = placement.guests
    assert not found.why  # it is proved
    return found


def host(rooms: list[int], far: dict[tuple[int, int], int] | None = None, *, smt: int = 1) -> Host:
    """Nodes of so many cores each; 21 apart where not said. CPUs are numbered node by node."""
    cores, nodes, first = [], [], 0
    for number, room in enumerate(rooms):
        cpus = CpuSet(range(first, first + room * smt))
        cores += [CpuSet(range(cpu, cpu + smt)) for cpu in range(first, first + room * smt, smt)]
        first += room * smt
        pairs = [(min(number, other), max(number, other)) for other in range(len(rooms))]
        nodes.append(
            NumaNode(
                number=number,
                cpus=cpus,
                memory_bytes=64 * GIB,
                distances=tuple(
                    (other, 10 if other == number else (far or {}).get(pairs[other], 21))
                    for other in range(len(rooms))
                ),
            )
        )
    everything = CpuSet(range(first))
    topology = Topology(
        possible=everything,
        present=everything,
        online=everything,
        packages=(everything,),
        dies=(),
        clusters=(),
        cores=tuple(cores),
        l2=(),
        l3=(),
        nodes=tuple(nodes),
    )
    return Host(root="/made", topology=topology, isolated=CpuSet(), nohz_full=CpuSet())


def wanting(where: Host, spec: GuestSpec, *memory: int) -> PlacementRequest:
    """A request for one guest; nodes with so much free memory, in GiB."""
    free = tuple((node, amount * GIB) for node, amount in enumerate(memory))
    return PlacementRequest(host=where, demands=(Demand(spec=spec),), memory=free)


def guest(vcpus: int, *cells: tuple[int, int], **rest: object) -> GuestSpec:
    """A dedicated guest; its cells as (vCPUs, GiB)."""
    first, made = 0, []
    for size, memory in cells:
        made.append(GuestCell(vcpus=tuple(range(first, first + size)), memory_bytes=memory * GIB))
        first += size
    return GuestSpec(
        name="guest",
        vcpus=vcpus,
        cells=tuple(made),
        vcpu_policy=VcpuPolicy.DEDICATED,
        **rest,  # type: ignore[arg-type]
    )


def counts(found: GuestPlacement, where: Host) -> list[int]:
    """How many of its vCPUs each node has."""
    return [len(found.vcpu_cpus & node.cpus) for node in where.topology.nodes]


def of_sockets(*socket: int) -> dict[tuple[int, int], int]:
    """Distances of nodes in these sockets: 12 inside one, 32 between two."""
    numbered = list(enumerate(socket))
    return {(one, other): 12 if here == there else 32 for one, here in numbered for other, there in numbered}


@plain
def test_the_fewest_nodes_are_not_the_nearest(name: str) -> None:
    """Four nodes of one socket are nearer to one another than three of two."""
    where = host([2, 2, 2, 2, 3, 3], of_sockets(0, 0, 0, 0, 1, 1))
    found = placed(name, wanting(where, guest(8)))
    assert found is not None
    assert [2, 2, 2, 2, 0, 0] == counts(found, where)
    assert 6 * 4 * 2 == found.score.distance


@plain
def test_a_node_that_could_be_left_out(name: str) -> None:
    """A node near both saves more distance than two far nodes alone have."""
    where = host([8, 8, 1], {(0, 1): 110, (0, 2): 11, (1, 2): 11})
    found = placed(name, wanting(where, guest(10)))
    assert found is not None
    assert 3 == len(found.nodes)
    assert 8 * 100 + 8 + 1 == found.score.distance


@plain
@pytest.mark.parametrize(
    ("memory", "vcpus"),
    [
        pytest.param((64, 64), {8, 0}, id="enough in one node"),
        pytest.param((4, 4), {4}, id="half in each"),
        pytest.param((6, 3), {6, 2}, id="six of eight, although eight CPUs are free"),
        pytest.param((7, 0), None, id="too little in all"),
        pytest.param((3, 4), None, id="just too little"),
    ],
)
def test_memory_is_a_hard_limit(name: str, memory: tuple[int, int], vcpus: set[int] | None) -> None:
    """Memory is where the vCPUs are, so that a guest may need more nodes than its vCPUs do."""
    where = host([8, 8])
    found = placed(name, wanting(where, guest(8, memory_bytes=8 * GIB), *memory))
    assert (vcpus is None) == (found is None)
    if found is not None and vcpus is not None:
        assert vcpus == set(counts(found, where))


@plain
@pytest.mark.parametrize(
    ("cells", "memory", "expected"),
    [
        pytest.param([(4, 9), (4, 2)], (3, 9), [4, 4], id="the hungry cell where the memory is"),
        pytest.param([(4, 2), (4, 9)], (3, 9), [4, 4], id="whichever comes first"),
        pytest.param([(4, 2), (4, 7)], (3, 9), [0, 8], id="both where there is enough for both"),
        pytest.param([(4, 5), (4, 5)], (9, 4), None, id="enough in all is not enough in each"),
        pytest.param([(2, 5), (6, 5)], (5, 5), [2, 6], id="unequal cells"),
        pytest.param([(9, 1), (1, 1)], (9, 9), None, id="a cell larger than any node"),
    ],
)
def test_memory_of_cells(
    name: str, cells: list[tuple[int, int]], memory: tuple[int, int], expected: list[int] | None
) -> None:
    """A cell's memory is on its node."""
    where = host([8, 8])
    found = placed(name, wanting(where, guest(sum(size for size, _ in cells), *cells), *memory))
    assert (expected is None) == (found is None)
    if found is not None and expected is not None:
        assert sorted(expected) == sorted(counts(found, where))


@plain
def test_unequal_cells_in_any_order(name: str) -> None:
    """Cells of 1, 2 and 3 vCPUs have places on such nodes in whatever order they are given."""
    for sizes in permutations((1, 2, 3)):
        for rooms in permutations((1, 2, 3)):
            where = host(list(rooms))
            spec = guest(6, *((size, 0) for size in sizes))
            found = placed(name, wanting(where, spec))
            assert found is not None
            assert list(rooms) == counts(found, where)


def test_what_nova_places_wrongly() -> None:
    """Free CPUs 1, 1, 1 and cells of 1, 1, 2 vCPUs do not go together."""
    assert None is placed("numa", wanting(host([1, 1, 1]), guest(4, (1, 0), (1, 0), (2, 0))))


def test_three_cells_on_three_nodes_all_of_them() -> None:
    """Nodes of 1 to 4 CPUs, cells of 1 to 4 vCPUs: a place in each of the 4,096 cases in which there is one."""
    hosts = {rooms: host(list(rooms)) for rooms in product(range(1, 5), repeat=3)}
    ways = list(product(range(3), repeat=3))
    for sizes in product(range(1, 5), repeat=3):
        spec = guest(sum(sizes), *((size, 0) for size in sizes))
        sums = {
            tuple(sum(s for s, at in zip(sizes, way, strict=True) if at == n) for n in range(3))
            for way in ways
        }
        for rooms, where in hosts.items():
            expected = any(all(some <= room for some, room in zip(one, rooms, strict=True)) for one in sums)
            assert expected == (placed("numa", wanting(where, spec)) is not None), (rooms, sizes)


@plain
@pytest.mark.parametrize("policy", [ThreadPolicy.REQUIRE, ThreadPolicy.PREFER])
def test_siblings_in_two_cells(name: str, policy: ThreadPolicy) -> None:
    """Where siblings are in different cells these are in one node; only who requires them is refused otherwise."""
    spec = GuestSpec(
        name="guest",
        vcpus=4,
        threads=2,
        cells=(GuestCell(vcpus=(0, 2)), GuestCell(vcpus=(1, 3))),
        vcpu_policy=VcpuPolicy.DEDICATED,
        thread_policy=policy,
    )
    found = placed(name, wanting(host([1, 2], smt=2), spec))
    assert found is not None
    assert (1,) == found.nodes
    torn = placed(name, wanting(host([1, 1], smt=2), spec))
    assert (policy is ThreadPolicy.REQUIRE) == (torn is None)


@plain
def test_what_is_lost_is_what_others_could_have_had(name: str) -> None:
    """Of two nodes the tighter one is taken; its CPUs, an L3 group and a node, were worth so much."""
    found = placed(name, wanting(host([7, 3]), guest(3)))
    assert found is not None
    assert (1,) == found.nodes
    assert 2 * accept(3) == found.score.lost


@plain
def test_distances_that_differ_by_direction(name: str) -> None:
    """Where firmware says so, the larger distance counts, whichever node comes first."""
    for far, near in ((0, 1), (1, 0)):
        where = host([2, 2, 2])
        rows = [{other: 10 if other == one else 30 for other in range(3)} for one in range(3)]
        rows[far][near], rows[0][2], rows[2][0] = 14, 20, 20
        nodes = tuple(
            attrs.evolve(node, distances=tuple(row.items()))
            for node, row in zip(where.topology.nodes, rows, strict=True)
        )
        where = attrs.evolve(where, topology=attrs.evolve(where.topology, nodes=nodes))
        found = placed(name, wanting(where, guest(4)))
        assert found is not None
        assert ((0, 2), 40) == (found.nodes, found.score.distance)


@plain
def test_more_cells_than_the_search_knows(name: str) -> None:
    """A guest of very many cells has a place all the same."""
    found = placed(name, wanting(host([300]), guest(257, *[(1, 0)] * 257)))
    assert found is not None


@plain
def test_more_memory_than_there_is_anywhere(name: str) -> None:
    """A cell that asks for more bytes than 64 bits count is refused where memory is limited."""
    assert None is placed(name, wanting(host([4, 4]), guest(2, (1, 1 << 40), (1, 1)), 9, 9))


@plain
def test_a_pu_for_the_emulator_takes_no_memory(name: str) -> None:
    """Where memory allows a node just the guest's vCPUs, its emulator's own PU may be beside them all the same."""
    spec = GuestSpec(
        name="new",
        vcpus=8,
        memory_bytes=8 * GIB,
        cells=(GuestCell(vcpus=(0, 1, 2, 3)), GuestCell(vcpus=(4, 5, 6, 7))),
        vcpu_policy=VcpuPolicy.DEDICATED,
        emulator_policy=EmulatorPolicy.ISOLATE,
    )
    request = PlacementRequest(
        host=host([10, 10]), demands=(Demand(spec=spec),), memory=((0, 8 * GIB), (1, 4 * GIB))
    )
    found = placed(name, request)
    assert found is not None
    assert (0, (0,)) == (found.score.distance, found.nodes)
    assert CpuSet(range(10)) >= (found.cpus_of(Role.EMULATOR) or CpuSet())
