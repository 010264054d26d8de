"""The strategy as it is installed: found by its entry point, asked through kvmaff's public names."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as hs

from kvmaff import (
    CpuSet,
    Demand,
    EmulatorPolicy,
    GuestCell,
    GuestPlacement,
    GuestSpec,
    Held,
    Host,
    NumaNode,
    Placement,
    PlacementImpossible,
    PlacementRequest,
    PluginManager,
    RequestError,
    Role,
    ThreadPolicy,
    Topology,
    VcpuPolicy,
)
from kvmaff.testing.inputs_hosts import requests

GIB = 1 << 30
L3 = tuple(CpuSet(range(first, first + 8)) for first in (0, 8, 16, 24))


def host(**more: Any) -> Host:
    """Two NUMA nodes of two L3 groups each, of four cores of two PUs: 0-7, 8-15, 16-23, 24-31."""
    cpus = CpuSet(range(32))
    nodes = tuple(
        NumaNode(
            number=n, cpus=L3[2 * n] | L3[2 * n + 1], memory_bytes=8 * GIB, distances=((n, 10), (1 - n, 21))
        )
        for n in (0, 1)
    )
    topology = Topology(
        possible=cpus,
        present=cpus,
        online=cpus,
        packages=tuple(node.cpus for node in nodes),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet([cpu, cpu + 1]) for cpu in range(0, 32, 2)),
        l2=(),
        l3=more.pop("l3", L3),
        nodes=nodes,
    )
    return Host(
        root="/recorded", topology=topology, isolated=more.pop("isolated", CpuSet()), nohz_full=CpuSet()
    )


def guest(name: str, vcpus: int, policy: str = "dedicated", **more: Any) -> Demand:
    """A guest to come."""
    spec = GuestSpec(name=name, vcpus=vcpus, vcpu_policy=VcpuPolicy(policy), **more)
    return Demand(spec=spec)


def decide(*demands: Demand, on: Host | None = None, spill: object = None, **more: Any) -> Placement:
    """What kvmaff decides by this strategy; verified, as every strategy's answer is."""
    request = PlacementRequest(host=on or host(), demands=demands, **more)
    return PluginManager.load().decide(request, "cache-aware", None if spill is None else {"spill": spill})


def groups(placed: GuestPlacement, l3: tuple[CpuSet, ...] = L3) -> list[int]:
    """The L3 groups that a guest's vCPUs may use."""
    return [n for n, group in enumerate(l3) if group & placed.vcpu_cpus]


def test_it_is_found_by_its_entry_point() -> None:
    """pip installed it, kvmaff finds it, and nothing is wrong with it."""
    (point,) = entry_points(group="kvmaff", name="cache-aware")
    assert "kvmaff_cache_aware" == point.value
    (info,) = [plugin for plugin in PluginManager.load().plugins if plugin.name == "cache-aware"]
    assert ("kvmaff-cache-aware", ("kvmaff_strategies",), ("cache-aware",), None) == (
        info.distribution,
        info.hooks,
        info.strategies,
        info.error,
    )


@pytest.mark.parametrize("policy", ["dedicated", "shared"])
def test_one_l3_group_each_and_balanced(policy: str) -> None:
    """Four guests on four L3 groups have one each; four more make two each."""
    placement = decide(*(guest(f"g{n}", 4, policy) for n in range(4)))
    assert [[0], [1], [2], [3]] == sorted(groups(placed) for placed in placement.guests)
    placement = decide(*(guest(f"g{n}", 4, policy) for n in range(8)))
    assert [[n] for n in (0, 0, 1, 1, 2, 2, 3, 3)] == sorted(groups(placed) for placed in placement.guests)


def test_what_others_hold_counts() -> None:
    """The least loaded group counts guests outside the request, dedicated and shared ones."""
    held = (
        Held(name="a", cpus=CpuSet([0, 2]), dedicated=True, vcpus=2),
        Held(name="b", cpus=L3[1], dedicated=False, vcpus=3),
        Held(name="c", cpus=L3[2] | L3[3], dedicated=False, vcpus=2),
        Held(name="d", cpus=L3[3], dedicated=False, vcpus=1),
    )
    assert [2] == groups(decide(guest("g", 2, "shared"), held=held).guests[0])


def test_a_shared_guest_floats_over_its_group() -> None:
    """A shared guest may use every CPU of its group that belongs to nobody alone."""
    dedicated, shared = decide(
        guest("d", 26, "dedicated", max_vcpus=26), guest("s", 2, "shared"), spill="yes"
    ).guests
    assert groups(shared) == [n for n in groups(shared) if not L3[n] <= dedicated.cpus][:1]
    (group,) = groups(shared)
    assert L3[group] - dedicated.cpus == shared.vcpu_cpus


def test_a_guest_larger_than_any_group() -> None:
    """It has no place, and the reasons say what each group has and which option would help; with that it has one."""
    with pytest.raises(PlacementImpossible) as caught:
        decide(guest("big", 10), guest("small", 2))
    (one,) = caught.value.unplaced
    assert "big" == one.name
    assert (
        "its 10 dedicated vCPUs fit in no L3 group; of CPUs for it, 0-7 has 8, 8-15 has 8, 16-23 has 8, 24-31 has 8",
        "it would fit with option spill=yes of strategy cache-aware, over several L3 groups",
    ) == one.reasons
    assert ["small"] == [placed.spec.name for placed in caught.value.placement.guests]
    big, small = decide(guest("big", 10), guest("small", 2), spill="yes").guests
    assert groups(big) in ([0, 1], [2, 3])
    assert 1 == len(groups(small))


def test_no_room_at_all() -> None:
    """What fits nowhere has no place with the option either, and the reasons do not promise it."""
    with pytest.raises(PlacementImpossible) as caught:
        decide(guest("huge", 40), spill="yes")
    (one,) = caught.value.unplaced
    assert "its 40 dedicated vCPUs fit in no L3 group" in one.reasons[0]
    assert 2 <= len(one.reasons)
    assert not any("spill" in reason for reason in one.reasons)


def test_siblings() -> None:
    """prefer keeps siblings together, require fills cores, isolate keeps siblings empty for everybody."""
    alone, paired, other = decide(
        guest("i", 3, thread_policy=ThreadPolicy.ISOLATE),
        guest("r", 4, thread_policy=ThreadPolicy.REQUIRE, threads=2),
        guest("s", 40, "shared"),
        spill="yes",
    ).guests
    cores = host().topology.cores
    assert [1, 1, 1] == [len(core & alone.vcpu_cpus) for core in cores if core & alone.vcpu_cpus]
    assert [2, 2] == [len(core & paired.vcpu_cpus) for core in cores if core & paired.vcpu_cpus]
    around = CpuSet.union_of(core for core in cores if core & alone.vcpu_cpus)
    assert not around & (paired.cpus | other.cpus)


def test_emulator_policies() -> None:
    """share is on the guest's own CPUs, isolate on one more in its L3, housekeeping on what belongs to nobody alone."""
    more = {"iothreads": ("disk",)}
    share, isolate, house = decide(
        guest("a", 4, **more),
        guest("b", 4, emulator_policy=EmulatorPolicy.ISOLATE, **more),
        guest("c", 4, emulator_policy=EmulatorPolicy.HOUSEKEEPING, **more),
    ).guests
    for placed in (share, isolate, house):
        assert placed.cpus_of(Role.EMULATOR) == placed.cpus_of(Role.IOTHREAD, 0)
    assert share.vcpu_cpus == share.cpus_of(Role.EMULATOR)
    own = isolate.cpus_of(Role.EMULATOR) or CpuSet()
    assert 1 == len(own)
    assert own <= L3[groups(isolate)[0]] - isolate.vcpu_cpus
    everything = CpuSet(range(32))
    assert everything - share.vcpu_cpus - isolate.cpus - house.vcpu_cpus == house.cpus_of(Role.EMULATOR)


def test_room_for_the_emulator_is_looked_for() -> None:
    """With emulator policy isolate, a group that has one PU more than needed is taken before one that has not."""
    held = (Held(name="h", cpus=CpuSet([8]), dedicated=False, vcpus=5),)
    small = host(l3=(CpuSet(range(7)), CpuSet(range(7, 16)), CpuSet(range(16, 23)), CpuSet(range(23, 30))))
    (placed,) = decide(guest("g", 7, emulator_policy=EmulatorPolicy.ISOLATE), on=small, held=held).guests
    assert placed.cpus <= CpuSet(range(7, 16))


def test_isolated_cpus_are_left_alone() -> None:
    """No thread is put on isolated CPUs, and groups count without them."""
    placement = decide(
        guest("d", 4), guest("s", 2, "shared"), on=host(isolated=CpuSet(range(2, 24))), spill="yes"
    )
    for placed in placement.guests:
        assert placed.cpus <= CpuSet([0, 1, *range(24, 32)])


def test_reserved_and_granted() -> None:
    """Reserved CPUs and CPUs that the guest's cgroup does not grant are not used."""
    demand = attrs.evolve(guest("g", 4), allowed=L3[0] | CpuSet([8, 9]), pid=7, start=9)
    (placed,) = decide(demand, reserved=CpuSet([0, 1])).guests
    assert placed.cpus <= CpuSet(range(2, 8))
    assert (7, 9) == (placed.pid, placed.start)


def test_devices_break_ties() -> None:
    """Among groups of equal load, one near the guest's devices is taken."""
    assert [2] == groups(decide(guest("g", 4, device_nodes=(1,))).guests[0])


def test_memory() -> None:
    """Guests to come go where their memory is free, and share what is."""
    memory = ((0, 3 * GIB), (1, 5 * GIB))
    demands = [guest(f"g{n}", 2, memory_bytes=2 * GIB) for n in range(3)]
    placement = decide(*demands, memory=memory)
    assert [(0,), (1,), (1,)] == sorted(placed.nodes for placed in placement.guests)
    with pytest.raises(PlacementImpossible):
        decide(*demands, guest("g3", 2, memory_bytes=2 * GIB), memory=memory)


def test_cells() -> None:
    """A guest with NUMA cells keeps each in one node; spilled, too."""
    cells = (GuestCell(vcpus=tuple(range(6))), GuestCell(vcpus=tuple(range(6, 12))))
    (placed,) = decide(guest("g", 12, cells=cells), spill="yes").guests
    for cell in cells:
        cpus = CpuSet.union_of(placed.cpus_of(Role.VCPU, vcpu) or CpuSet() for vcpu in cell.vcpus)
        assert any(cpus <= node.cpus for node in host().topology.nodes)


def test_a_machine_that_tells_no_l3() -> None:
    """NUMA nodes stand in for L3 groups, and the explanation says so."""
    placement = decide(guest("a", 12), guest("b", 12), on=host(l3=()))
    assert [(0,), (1,)] == sorted(placed.nodes for placed in placement.guests)
    assert "no L3 is told" in placement.guests[0].why[-1]


def test_a_shared_guest_on_a_small_machine() -> None:
    """Where there is one group only, a shared guest of more vCPUs than CPUs floats over it."""
    (placed,) = decide(guest("g", 12, "shared"), reserved=CpuSet(range(8, 32))).guests
    assert L3[0] == placed.vcpu_cpus


def test_the_readme_explains_the_options() -> None:
    """The README's table has every option, with its default and the very sentence that it says of itself."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", readme, re.MULTILINE)
    options = attrs.fields(PluginManager.load().strategies()["cache-aware"].options)
    words = {True: "yes", False: "no"}
    assert [(one.name, words[one.default], one.metadata["help"]) for one in options] == rows


def test_wrong_options() -> None:
    """The option has a type and a name, and errors say which."""
    with pytest.raises(
        RequestError, match="option 'spill' of strategy 'cache-aware' is yes or no, not 'perhaps'"
    ):
        decide(guest("g", 1), spill="perhaps")


@settings(max_examples=150, deadline=None)
@given(requests(), hs.booleans())
def test_every_answer_keeps_the_rules(request: PlacementRequest, spill: bool) -> None:
    """On any machine and for any guests: a placement that keeps every rule, or reasons; and the same one again."""
    manager = PluginManager.load()
    answers: list[object] = []
    for _ in range(2):
        try:
            answers.append(manager.decide(request, "cache-aware", {"spill": spill}))
        except PlacementImpossible as error:
            assert all(one.reasons for one in error.unplaced)
            answers.append((error.unplaced, error.placement))
    assert answers[0] == answers[1]
    event("placed" if isinstance(answers[0], Placement) else "impossible")
    placement = answers[0] if isinstance(answers[0], Placement) else answers[0][1]
    if not spill and request.host.topology.l3:
        for placed in placement.guests:
            l3 = request.host.topology.l3
            rest = placed.vcpu_cpus - CpuSet.union_of(l3)
            assert 1 == len(groups(placed, l3)) + bool(rest)
