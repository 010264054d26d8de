"""What holds for every strategy, and what each one is for."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import ANY_KIND, EmulatorPolicy, GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.placement.verify import verify
from kvmaff.strategies import isolated, numa, pack, spread
from kvmaff.testing import inputs_hosts as st

STRATEGIES = {
    strategy.name: strategy
    for module in (pack, spread, numa, isolated)
    for strategy in module.kvmaff_strategies()
}


def _place(name: str, request: PlacementRequest) -> Placement:
    return STRATEGIES[name].place(request)


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=st.requests())
def test_every_answer_keeps_the_rules(name: str, request: PlacementRequest) -> None:
    """Whatever the host and the guests, the answer passes verify, or says of each guest without a place why."""
    try:
        placement = _place(name, request)
    except PlacementImpossible as error:
        names = {demand.spec.name for demand in request.demands}
        assert error.unplaced
        assert all(one.reasons and all(one.reasons) and one.name in names for one in error.unplaced)
        placed = {guest.spec.name for guest in error.placement.guests}
        assert not placed & {one.name for one in error.unplaced}
        rest = tuple(demand for demand in request.demands if demand.spec.name in placed)
        request, placement = attrs.evolve(request, demands=rest), error.placement
    assert () == verify(request, placement)
    assert placement.explain().startswith(f"strategy {name}")


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=st.requests())
def test_the_same_request_has_the_same_answer(name: str, request: PlacementRequest) -> None:
    """Nothing but the request counts, not even the order of its guests."""

    def answer(request: PlacementRequest) -> object:
        try:
            return {guest.spec.name: guest for guest in _place(name, request).guests}
        except PlacementImpossible as error:
            return sorted(one.name for one in error.unplaced), {
                g.spec.name: g for g in error.placement.guests
            }

    first = answer(request)
    assert first == answer(request)
    assert first == answer(attrs.evolve(request, demands=tuple(reversed(request.demands))))


@pytest.mark.parametrize("name", ["pack", "spread", "numa"])
@given(host=st.hosts(), vcpus=hs.integers(1, 40))
def test_a_shared_guest_always_has_a_place(name: str, host: Host, vcpus: int) -> None:
    """A shared guest is refused only where no CPU is left that is not isolated."""
    request = PlacementRequest(host=host, demands=(Demand(spec=GuestSpec(name="g", vcpus=vcpus)),))
    if host.topology.online - host.isolation.unbalanced:
        assert 1 == len(_place(name, request).guests)
    else:
        with pytest.raises(PlacementImpossible):
            _place(name, request)


@pytest.mark.parametrize("name", ["pack", "spread", "numa"])
@given(
    host=st.overlapping(),
    vcpus=hs.integers(1, 8),
    policy=hs.sampled_from([VcpuPolicy.DEDICATED, VcpuPolicy.SHARED]),
)
def test_nodes_that_overlap(name: str, host: Host, vcpus: int, policy: VcpuPolicy) -> None:
    """Where buggy firmware has CPUs in several nodes, an answer keeps the rules all the same."""
    guest = GuestSpec(name="g", vcpus=vcpus, vcpu_policy=policy)
    request = PlacementRequest(host=host, demands=(Demand(spec=guest),))
    try:
        placement = _place(name, request)
    except PlacementImpossible:
        return
    assert () == tuple(verify(request, placement))


@given(host=st.hosts(), data=hs.data())
def test_a_dedicated_guest_of_one_node_is_not_refused(host: Host, data: hs.DataObject) -> None:
    """Where some node has enough free CPUs for a plain dedicated guest, numa and pack place it in one node."""
    nodes = [node.cpus - host.isolation.unbalanced for node in host.topology.nodes]
    most = max((len(cpus) for cpus in nodes), default=0)
    if most:
        guest = spec("g", data.draw(hs.integers(1, most)), core_kind=ANY_KIND)
        for name in ("numa", "pack"):
            (found,) = _place(name, PlacementRequest(host=host, demands=(Demand(spec=guest),))).guests
            assert 1 == len(found.nodes)


@pytest.mark.parametrize("name", ["pack", "spread", "numa"])
@given(
    host=st.hosts(),
    vcpus=hs.integers(1, 40),
    policy=hs.sampled_from(ThreadPolicy),
    threads=hs.sampled_from([1, 2]),
)
def test_never_refuses_what_fits(
    name: str, host: Host, vcpus: int, policy: ThreadPolicy, threads: int
) -> None:
    """A dedicated guest is refused just when counting core by core says that it does not fit."""
    if policy is ThreadPolicy.ISOLATE:
        threads = 1
    vcpus *= 2 if policy is ThreadPolicy.REQUIRE or threads == 2 else 1
    guest = spec("g", vcpus, thread_policy=policy, threads=threads, core_kind=ANY_KIND)
    pool = host.topology.online - host.isolation.unbalanced
    told = CpuSet.union_of(host.topology.cores)
    cores = [*host.topology.cores, *(CpuSet([cpu]) for cpu in host.topology.online - told)]
    count = {
        ThreadPolicy.PREFER: lambda core: len(core & pool),
        ThreadPolicy.REQUIRE: lambda core: len(core & pool) // 2 * 2,
        ThreadPolicy.ISOLATE: lambda core: int(core <= pool),
    }[policy]
    fits = sum(map(count, cores)) >= vcpus
    request = PlacementRequest(host=host, demands=(Demand(spec=guest),))
    if fits:
        assert 1 == len(_place(name, request).guests)
    else:
        with pytest.raises(PlacementImpossible):
            _place(name, request)


def machine(
    *,
    nodes: int = 2,
    l3_per_node: int = 2,
    cores_per_l3: int = 2,
    threads: int = 2,
    isolated: str = "",
    distances: list[list[int]] | None = None,
) -> Host:
    """A regular machine; siblings are adjacent numbers."""
    size = cores_per_l3 * threads
    count = nodes * l3_per_node * size
    groups = [CpuSet(range(start, start + size)) for start in range(0, count, size)]
    per_node = l3_per_node * size
    rows = distances or [[10 if a == b else 21 for b in range(nodes)] for a in range(nodes)]
    online = CpuSet(range(count))
    topology = Topology(
        possible=online,
        present=online,
        online=online,
        packages=(online,),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet(range(start, start + threads)) for start in range(0, count, threads)),
        l2=(),
        l3=tuple(groups),
        nodes=tuple(
            NumaNode(
                number=number,
                cpus=CpuSet(range(number * per_node, (number + 1) * per_node)),
                memory_bytes=1 << 34,
                distances=tuple(enumerate(rows[number])),
            )
            for number in range(nodes)
        ),
    )
    return Host(root="/nowhere", topology=topology, isolated=CpuSet.parse(isolated), nohz_full=CpuSet())


def spec(name: str, vcpus: int, **changes: object) -> GuestSpec:
    """A dedicated guest."""
    return GuestSpec(name=name, vcpus=vcpus, **{"vcpu_policy": VcpuPolicy.DEDICATED, **changes})


def placed(name: str, host: Host, *specs: GuestSpec, **more: object) -> list[GuestPlacement]:
    """The places of guests to come."""
    demands = tuple(Demand(spec=one) for one in specs)
    return list(_place(name, PlacementRequest(host=host, demands=demands, **more)).guests)


def cpus(guest: GuestPlacement) -> list[int]:
    """The CPU of each vCPU of a dedicated guest."""
    return [thread.cpus.first for thread in guest.threads if thread.role is Role.VCPU]


def test_pack_fills_cores_and_keeps_holes() -> None:
    """Pack puts siblings together, in one L3 group, and the next guest where the hole is smallest that it fits."""
    host = machine(l3_per_node=3)
    one, two, three = placed("pack", host, spec("a", 6), spec("b", 2), spec("c", 1))
    assert [0, 1, 2, 3, 4, 5] == cpus(one)
    assert [6, 7] == cpus(two)
    assert [8] == cpus(three)


def test_spread_takes_a_core_each_and_the_emptier_node() -> None:
    """Spread gives vCPUs cores of their own while there are any, L3 groups in turn, guests the emptier node."""
    one, two = placed("spread", machine(), spec("a", 4), spec("b", 2))
    assert {0, 2, 4, 6} == set(cpus(one))
    assert {8, 12} == set(cpus(two))
    (five,) = placed("spread", machine(), spec("a", 5))
    assert {0, 2, 4, 6} < set(cpus(five))


def test_numa_goes_to_the_devices() -> None:
    """Numa puts a guest on its devices' node, and pack does not care."""
    near = spec("a", 2, device_nodes=(1,))
    assert (1,) == placed("numa", machine(), near)[0].nodes
    assert (0,) == placed("pack", machine(), near)[0].nodes


def test_numa_goes_to_the_memory() -> None:
    """Numa puts a running guest where most of its memory is, and pack does not care."""
    demand = Demand(spec=spec("a", 2), pid=7, start=7, memory=((0, 1 << 30), (1, 3 << 30)))
    request = PlacementRequest(host=machine(), demands=(demand,))
    assert (1,) == _place("numa", request).guests[0].nodes
    assert (0,) == _place("pack", request).guests[0].nodes


def test_the_fewest_nodes_are_not_the_nearest() -> None:
    """A guest takes four near nodes rather than three far ones: distance counts before their number."""
    rows = [
        [10, 12, 12, 12, 32, 32],
        [12, 10, 12, 12, 32, 32],
        [12, 12, 10, 12, 32, 32],
        [12, 12, 12, 10, 32, 32],
    ]
    rows += [[32, 32, 32, 32, 10, 12], [32, 32, 32, 32, 12, 10]]
    host = machine(nodes=6, l3_per_node=1, cores_per_l3=4, threads=1, distances=rows)
    held = Held(name="other", cpus=CpuSet.parse("0,4,8,12"), dedicated=True)
    (guest,) = placed("numa", host, spec("a", 12), held=(held,))
    assert (0, 1, 2, 3) == guest.nodes


def test_isolated_is_the_chapters_case() -> None:
    """With isolcpus=4,5 on one core a guest of two vCPUs gets them in order, its other threads the nearest CPUs."""
    host = machine(nodes=4, l3_per_node=1, isolated="4-5")
    (guest,) = placed("isolated", host, spec("iaas", 2, iothreads=("disk",)))
    assert [4, 5] == cpus(guest)
    assert CpuSet.parse("6-7") == guest.cpus_of(Role.EMULATOR) == guest.cpus_of(Role.IOTHREAD, 0)


def test_isolated_says_what_would_work() -> None:
    """Where isolated CPUs do not suffice, the reasons say what there is and what would work."""
    host = machine(nodes=1, isolated="4-5")
    with pytest.raises(PlacementImpossible) as caught:
        placed("isolated", host, spec("big", 3))
    text = str(caught.value)
    for words in (
        "needs 3 dedicated vCPUs on whole cores",
        "isolated CPUs 4-5",
        "2 vCPUs would fit",
        "anywhere=yes",
    ):
        assert words in text
    manager = PluginManager.load()
    request = PlacementRequest(host=host, demands=(Demand(spec=spec("big", 3)),))
    (guest,) = manager.decide(request, "isolated", {"anywhere": "yes"}).guests
    assert {0, 1, 2} == set(cpus(guest))


def test_whole_cores_are_nobody_elses() -> None:
    """A core of an isolated guest is its own, the PU too that it does not use."""
    host = machine(nodes=1, l3_per_node=1, cores_per_l3=4)
    one, two = placed("isolated", host, spec("a", 3), spec("b", 1))
    cores = [{cpu // 2 for cpu in cpus(guest)} for guest in (one, two)]
    assert not cores[0] & cores[1]
    assert CpuSet.parse("6-7") == one.cpus_of(Role.EMULATOR)


@pytest.mark.parametrize("name", STRATEGIES)
def test_thread_policies(name: str) -> None:
    """Require fills pairs of siblings, isolate leaves them empty, guest threads are siblings in order."""
    host = machine(nodes=1, l3_per_node=1, cores_per_l3=8)
    want = (
        spec("req", 4, thread_policy=ThreadPolicy.REQUIRE, threads=2),
        spec("iso", 3, thread_policy=ThreadPolicy.ISOLATE),
        spec("two", 2, threads=2),
    )
    require, isolate, two = placed(name, host, *want)
    assert all(a // 2 == b // 2 for a, b in [cpus(require)[:2], cpus(require)[2:], cpus(two)])
    assert 3 == len({cpu // 2 for cpu in cpus(isolate)})
    lonely = {cpu // 2 for cpu in cpus(isolate)}
    assert not lonely & {cpu // 2 for guest in (require, two) for cpu in cpus(guest)}


def test_emulator_policies() -> None:
    """Share is on the guest's own CPUs, isolate on one more of its own, housekeeping on what is left."""
    host = machine(nodes=1)
    share, own, house = placed(
        "pack",
        host,
        spec("s", 2),
        spec("i", 2, emulator_policy=EmulatorPolicy.ISOLATE),
        spec("h", 1, emulator_policy=EmulatorPolicy.HOUSEKEEPING),
    )
    assert share.vcpu_cpus == share.cpus_of(Role.EMULATOR)
    assert 1 == len(own.cpus_of(Role.EMULATOR) or ())
    assert own.vcpu_cpus.isdisjoint(own.cpus_of(Role.EMULATOR) or CpuSet())
    taken = share.cpus | own.cpus | house.vcpu_cpus
    assert host.topology.online - taken == house.cpus_of(Role.EMULATOR)


def test_no_housekeeping_cpu_left() -> None:
    """A guest that would leave no CPU for anybody's emulator threads is refused, and told so."""
    host = machine(nodes=1, l3_per_node=1)
    with pytest.raises(PlacementImpossible, match="no housekeeping CPU would be left for its emulator"):
        placed("pack", host, spec("all", 4, emulator_policy=EmulatorPolicy.HOUSEKEEPING))


def test_cells_and_memory() -> None:
    """Unequal cells each get a node with room and memory; what is too much is refused with what each node has."""
    host = machine()
    cells = (
        GuestCell(vcpus=(0, 1, 2, 3, 4), memory_bytes=3 << 30),
        GuestCell(vcpus=(5,), memory_bytes=1 << 30),
    )
    guest = spec("c", 6, cells=cells, memory_bytes=4 << 30)
    (found,) = placed("numa", host, guest, memory=((0, 2 << 30), (1, 8 << 30)))
    assert {cpu // 8 for cpu in cpus(found)[:5]} == {1}
    with pytest.raises(PlacementImpossible, match=r"4\.0 GiB of memory"):
        placed("numa", host, guest, memory=((0, 2 << 30), (1, 2 << 30)))


def test_maximum_vcpus_have_places() -> None:
    """vCPUs that may be plugged in later have places of their own from the start."""
    (guest,) = placed("pack", machine(), spec("hot", 2, max_vcpus=4))
    assert 4 == len(set(cpus(guest)))


def test_what_others_hold() -> None:
    """CPUs that others own or use are not dedicated to a guest, and the refusal names whose they are."""
    host = machine(nodes=1, l3_per_node=1)
    held = (
        Held(name="alone", cpus=CpuSet([0]), dedicated=True),
        Held(name="floats", cpus=CpuSet([1, 2]), dedicated=False, vcpus=2),
    )
    (guest,) = placed("pack", host, spec("a", 1), held=held)
    assert [3] == cpus(guest)
    with pytest.raises(PlacementImpossible) as caught:
        placed("pack", host, spec("a", 2), held=held)
    assert "0 belong to alone alone" in str(caught.value)
    assert "1-2 used by floats" in str(caught.value)


def test_overcommit_is_even() -> None:
    """Shared guests beyond the CPUs double up evenly before any CPU has three."""
    host = machine(nodes=1)
    guests = placed("spread", host, *(GuestSpec(name=f"g{n}", vcpus=4) for n in range(4)))
    load = [sum(cpu in guest.vcpu_cpus for guest in guests) for cpu in host.topology.online]
    assert [2] * 8 == load


def test_2048_cpus_and_500_guests() -> None:
    """A host of 2,048 CPUs takes 500 guests, verified."""
    rows = [[10 if a == b else 12 if a // 4 == b // 4 else 32 for b in range(16)] for a in range(16)]
    host = machine(nodes=16, l3_per_node=8, cores_per_l3=8, distances=rows)
    sizes = (1, 2, 4, 8)
    demands = tuple(Demand(spec=spec(f"g{n}", sizes[n % 4])) for n in range(500))
    request = PlacementRequest(host=host, demands=demands)
    placement = _place("numa", request)
    assert 500 == len(placement.guests)
    assert () == verify(request, placement)
    assert 0 == sum(guest.score.distance for guest in placement.guests)


def test_spread_spreads_units_and_whole_cores() -> None:
    """Guests with sibling vCPUs, and those with cores of their own, go to the emptier L3 groups too."""
    host = machine(nodes=1, l3_per_node=4)
    guests = placed("spread", host, *(spec(name, 2, threads=2) for name in "abc"))
    assert 3 == len({cpus(guest)[0] // 4 for guest in guests})
    guests = placed("spread", host, *(spec(name, 1, thread_policy=ThreadPolicy.ISOLATE) for name in "abc"))
    assert 3 == len({cpus(guest)[0] // 4 for guest in guests})


def test_pack_leaves_the_emptier_node_alone() -> None:
    """Of two nodes that cost the same, pack takes the one with less left."""
    held = Held(name="other", cpus=CpuSet.parse("12-15"), dedicated=True)
    (guest,) = placed("pack", machine(), spec("a", 4), held=(held,))
    assert [8, 9, 10, 11] == cpus(guest)


def test_memory_may_want_more_nodes() -> None:
    """A guest whose vCPUs fit in one node is shared by two where its memory needs that."""
    host = machine(l3_per_node=1)
    memory = ((0, 3 << 30), (1, 3 << 30))
    (guest,) = placed("numa", host, spec("a", 2, memory_bytes=5 << 30), memory=memory)
    assert (0, 1) == guest.nodes
    (guest,) = placed("numa", host, GuestSpec(name="b", vcpus=5, memory_bytes=5 << 30), memory=memory)
    assert (0, 1) == guest.nodes


def test_a_device_on_a_node_that_is_not_there() -> None:
    """A device on a node that the host has not is said, not ignored."""
    with pytest.raises(PlacementImpossible, match="NUMA node 77, which this host has not; it has 0, 1"):
        placed("numa", machine(), spec("a", 1, device_nodes=(77,)))


def test_what_a_guest_owns() -> None:
    """A placement says which CPUs are the guest's alone: also siblings kept empty and cores of its own."""
    host = machine(nodes=1)
    (guest,) = placed("pack", host, spec("a", 2, thread_policy=ThreadPolicy.ISOLATE))
    assert CpuSet.parse("0-3") == guest.owned
    (guest,) = placed("isolated", host, spec("a", 3))
    assert CpuSet.parse("0-3") == guest.owned
