"""What running guests, and those to come, ask and hold."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

import kvmaff
from kvmaff.binding.survey import demands_of, held_by
from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, VcpuPolicy
from kvmaff.host.pci import PciDevice
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.testing import inputs_devices as st
from kvmaff.testing.trees import grid, write_files, write_tree

from ..placement.placements import place

HOST = grid(packages=2, cores=4)
SHARED, MIXED, DEDICATED = VcpuPolicy.SHARED, VcpuPolicy.MIXED, VcpuPolicy.DEDICATED


def guest(*vcpus: str, emulator: str = "0-7", name: str = "g") -> Guest:
    """A running guest whose vCPUs and emulator may run on these CPUs."""
    masks = [*((Role.VCPU, index, cpus) for index, cpus in enumerate(vcpus)), (Role.EMULATOR, None, emulator)]
    threads = tuple(
        GuestThread(
            pid=10,
            tid=10 + place,
            ino=1,
            start=1,
            role=role,
            index=index,
            name="t",
            mask=CpuSet.parse(cpus),
            cpu=None,
        )
        for place, (role, index, cpus) in enumerate(masks)
    )
    return Guest(
        name=name,
        uuid=None,
        pid=10,
        start=1,
        seen=2,
        vmm="qemu",
        kvm=True,
        verified=True,
        why=None,
        doubt=None,
        threads=threads,
    )


def decided(spec: GuestSpec, *vcpus: str, others: str, running: bool = False) -> Placement:
    """A decision for one guest."""
    demand = Demand(spec=spec, pid=10 if running else None, start=1 if running else None)
    made: GuestPlacement = place(HOST, demand, vcpus, others)
    return Placement(strategy="numa", guests=(made,))


def held(cpus: str, vcpus: int | None = None, domain: str | None = None) -> Held:
    """What the guest holds: alone, or with so many vCPUs that float there."""
    return Held(
        name="g",
        cpus=CpuSet.parse(cpus),
        dedicated=vcpus is None,
        vcpus=vcpus or 0,
        trust_domain=domain,
    )


@pytest.mark.parametrize(
    ("vcpus", "expected"),
    [
        (("0-3", "0-3"), [held("0-7", 2)]),
        (("0", "0"), [held("0-7", 2)]),  # both share a CPU that is not their own
        (("0", "1-2"), [held("0-7", 2)]),
        (("0", "1"), [held("0-1"), held("2-7", 0)]),  # somebody pinned each to a CPU of its own
    ],
)
def test_a_guest_that_nobody_decided_for(vcpus: tuple[str, ...], expected: list[Held]) -> None:
    """Every vCPU whose CPU is not its own counts as floating, also where its CPU is a single one."""
    assert expected == held_by([guest(*vcpus)], None)


def test_a_shared_guest_on_one_cpu() -> None:
    """A shared guest that was decided for floats with all its vCPUs, and be it over a single CPU."""
    last = decided(
        GuestSpec(name="g", vcpus=2, vcpu_policy=SHARED, trust_domain="red"),
        "3",
        "3",
        others="3",
        running=True,
    )
    assert [held("3", 2, "red")] == held_by([guest("3", "3", emulator="3")], last)


def test_a_mixed_guest() -> None:
    """Of a mixed guest the dedicated CPUs are its own, and what floats beside them counts."""
    spec = GuestSpec(name="g", vcpus=3, vcpu_policy=MIXED, dedicated_vcpus=(1,))
    last = decided(spec, "0", "2", "0", others="0", running=True)
    assert [held("2"), held("0", 2)] == held_by([guest("0", "2", "0", emulator="0")], last)


def test_guests_to_come() -> None:
    """A guest to come holds what was decided for it: its own CPUs, and what it floats over, with load and domain."""
    shared = GuestSpec(name="g", vcpus=2, max_vcpus=3, vcpu_policy=SHARED, trust_domain="red")
    assert [held("4-5", 3, "red")] == held_by([], decided(shared, *["4-5"] * 3, others="4-5"))
    mixed = GuestSpec(name="g", vcpus=2, vcpu_policy=MIXED, dedicated_vcpus=(0,))
    assert [held("1"), held("4-5", 1)] == held_by([], decided(mixed, "1", "4-5", others="4-5"))
    alone = GuestSpec(name="g", vcpus=1, vcpu_policy=DEDICATED, emulator_policy=EmulatorPolicy.HOUSEKEEPING)
    assert [held("1"), held("4-7", 0)] == held_by([], decided(alone, "1", others="4-7"))
    assert [] == held_by(
        [], decided(shared, *["4-5"] * 3, others="4-5", running=True)
    )  # it ran, and has ended
    assert [] == held_by(
        [], decided(shared, *["4-5"] * 3, others="4-5"), [guest("0", "0")]
    )  # it is placed anew


def test_what_is_decided_for_a_guest_to_come_counts() -> None:
    """Nobody of another trust domain is placed on the cores of a shared guest to come, nor more than a ratio allows."""
    spec = GuestSpec(name="g", vcpus=4, vcpu_policy=SHARED, trust_domain="red")
    outside = tuple(held_by([], decided(spec, *["4-7"] * 4, others="4-7")))
    manager = kvmaff.PluginManager.load()
    other = PlacementRequest(
        host=HOST, demands=(Demand(spec=GuestSpec(name="h", vcpus=4, trust_domain="blue")),), held=outside
    )
    assert CpuSet(range(4)) >= manager.decide(other, "numa", None).guests[0].cpus
    full = PlacementRequest(
        host=HOST,
        demands=(Demand(spec=GuestSpec(name="h", vcpus=5, trust_domain="red")),),
        held=outside,
        overcommit=1000,
    )
    with pytest.raises(PlacementImpossible):
        manager.decide(full, "numa", None)
    assert manager.decide(attrs.evolve(full, overcommit=2000), "numa", None)


def test_a_device_on_a_node_that_is_not_there(tmp_path: Path) -> None:
    """A device that a spec names is refused where its node is not there, like a device that is not there."""
    nodes = {"0000:65:00.0": 9, "0000:66:00.0": None, "0000:67:00.0": 1}
    write_tree(tmp_path, HOST)
    write_files(tmp_path, st.pci_files([PciDevice(address=one, node=nodes[one]) for one in nodes]))
    host = kvmaff.read_host(tmp_path)
    spec = GuestSpec(name="g", vcpus=1, devices=(*nodes, "0000:68:00.0"))
    (demand,) = demands_of(host, [], [spec])
    assert ((1, 9), ("0000:68:00.0",)) == (demand.devices, demand.absent)
    assert [
        "its device 0000:68:00.0 is not on this host",
        "its device is on NUMA node 9, which this host has not; it has 0, 1",
    ] == contradictions(PlacementRequest(host=host, demands=(demand,)), demand)
