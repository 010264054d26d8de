"""What a guest sees of its place: never an L3 that is not there, siblings as siblings, cells as far apart as nodes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kvmaff.errors import RequestError
from kvmaff.guest.guest import Role
from kvmaff.guest.smp import SmpPlace
from kvmaff.guest.smpfaults import SmpError
from kvmaff.guest.smprules import smp_rules
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.shape import guest_shape

from ..formats.shapes import host, placed, placed_guests

RULES = smp_rules("pc-q35-7.2")


@settings(max_examples=80)
@given(placed_guests())
def test_what_is_shown_is_so(guest: GuestPlacement) -> None:
    """vCPUs of one die share an L3, if several dies are shown; of one core a core; cells have nodes and memory."""
    shape = guest_shape(host(), guest, RULES)
    spec, smp = guest.spec, shape.smp
    assert (spec.vcpus, spec.max_vcpus, spec.threads) == (smp.cpus, smp.maxcpus, smp.threads)
    dies: dict[tuple[int, int], set[object]] = {}
    for vcpu in range(spec.max_vcpus):
        place, cpus = smp.place(vcpu), guest.cpus_of(Role.VCPU, vcpu)
        assert cpus
        groups = [group for group in host().topology.l3 if cpus <= group]
        dies.setdefault((place.socket, place.die), set()).add(groups[0] if groups else None)
    if smp.dies > 1:
        assert all(len(groups) == 1 and None not in groups for groups in dies.values())
    assert shape.memory_bytes == sum(cell.memory_bytes for cell in shape.cells) or not shape.cells
    for cell, asked in zip(shape.cells, spec.cells, strict=True):
        assert asked.vcpus == cell.vcpus
        nodes = {
            node.number
            for node in host().topology.nodes
            for vcpu in cell.vcpus
            if not node.cpus.isdisjoint(guest.cpus_of(Role.VCPU, vcpu) or node.cpus - node.cpus)
        }
        assert sorted(nodes) == list(cell.nodes)
    for one, row in enumerate(shape.distances):
        assert [10 if one == other else shape.distances[other][one] for other in range(len(row))] == list(row)
        assert all(11 <= far <= 254 for other, far in enumerate(row) if other != one)


def dedicated(vcpus: int, **more: object) -> GuestSpec:
    """A guest of dedicated vCPUs."""
    return GuestSpec(
        **{"name": "g", "vcpus": vcpus, "vcpu_policy": VcpuPolicy.DEDICATED, "memory_bytes": 1 << 30, **more}
    )


@pytest.mark.parametrize(
    ("spec", "counts", "notes"),
    [
        # 8 PUs an L3 group
        (dedicated(8, threads=2), (1, 1, 4, 2), 0),
        (dedicated(16, threads=2), (1, 2, 4, 2), 0),
        (dedicated(16), (1, 2, 8, 1), 1),
        (dedicated(12, threads=2), (1, 3, 2, 2), 1),
        (dedicated(9), (1, 1, 9, 1), 2),
        (
            dedicated(
                32,
                threads=2,
                cells=(GuestCell(vcpus=tuple(range(16))), GuestCell(vcpus=tuple(range(16, 32)))),
            ),
            (2, 2, 4, 2),
            0,
        ),
        (dedicated(6, cells=(GuestCell(vcpus=(0, 2)), GuestCell(vcpus=(1, 3, 4, 5)))), (1, 1, 6, 1), 1),
        (dedicated(4, max_vcpus=16, threads=2), (1, 2, 4, 2), 0),
    ],
)
def test_examples(spec: GuestSpec, counts: tuple[int, ...], notes: int) -> None:
    """Sockets, dies, cores, threads; what cannot be shown as it is, is said."""
    shape = guest_shape(host(), placed(spec), RULES)
    assert counts == (shape.smp.sockets, shape.smp.dies, shape.smp.cores, shape.smp.threads)
    assert notes == len(shape.notes), shape.notes


def test_cells_that_share_a_core_are_told() -> None:
    """QEMU takes siblings in two cells; no machine has them."""
    halves = (GuestCell(vcpus=(0, 3)), GuestCell(vcpus=(1, 2)))
    notes = guest_shape(host(), placed(dedicated(4, threads=2, cells=halves)), RULES).notes
    assert any("vCPUs 0 and 1 are siblings of one core that the guest sees" in note for note in notes)


def test_what_a_guest_floats_over_is_told() -> None:
    """Of several L3 groups and nodes that its vCPUs float over a guest sees one."""
    spec = GuestSpec(name="g", vcpus=host().topology.online.last + 1, memory_bytes=1 << 30)
    notes = guest_shape(host(), placed(spec), RULES).notes
    assert any("float over" in note and "L3 groups, which are not shown" in note for note in notes)
    assert any("NUMA nodes, and without cells it sees one" in note for note in notes)


def test_those_that_float_beside_others_are_told_too() -> None:
    """Though of the dedicated ones the L3 group is known."""
    count = host().topology.online.last + 1
    spec = GuestSpec(
        name="g", vcpus=count, memory_bytes=1 << 30, vcpu_policy=VcpuPolicy.MIXED, dedicated_vcpus=(0,)
    )
    notes = guest_shape(host(), placed(spec), RULES).notes
    assert 1 == len([note for note in notes if "L3 groups, which are not shown" in note]), notes
    assert not any("float" in note for note in guest_shape(host(), placed(dedicated(8)), RULES).notes)


def test_vcpus_of_one_guest_core_are_siblings() -> None:
    """Threads innermost, as they were placed."""
    guest = placed(dedicated(8, threads=2))
    shape = guest_shape(host(), guest, RULES)
    cores = [
        {guest.cpus_of(Role.VCPU, shape.smp.index(SmpPlace(core=core, thread=thread))) for thread in (0, 1)}
        for core in range(4)
    ]
    assert all(
        any(set(map(str, core)) == set(map(str, real)) for real in host().topology.cores)
        for core in [[str(cpu.first) for cpu in core if cpu] for core in cores]
    )


def test_memory_is_shared_out_in_whole_pages() -> None:
    """Cells of which nothing is said have equal parts; the sum is the guest's."""
    cells = tuple(GuestCell(vcpus=(vcpu,)) for vcpu in range(3))
    shape = guest_shape(host(), placed(dedicated(3, cells=cells, memory_bytes=(1 << 30) + 4096)), RULES)
    assert [341 << 20, 341 << 20, (342 << 20) + 4096] == [cell.memory_bytes for cell in shape.cells]


def test_what_a_machine_cannot_show() -> None:
    """Memory of cells that nobody said; more vCPUs than the machine type has; a machine without dies."""
    cells = (GuestCell(vcpus=(0,)), GuestCell(vcpus=(1,)))
    with pytest.raises(RequestError, match="say memory"):
        guest_shape(host(), placed(dedicated(2, cells=cells, memory_bytes=0)), RULES)
    with pytest.raises(SmpError, match="max CPUs"):
        guest_shape(host(), placed(dedicated(2)), smp_rules("none", (7, 2)))
    shape = guest_shape(host(), placed(dedicated(16)), smp_rules("microvm", (7, 2)))
    assert 1 == shape.smp.dies
    assert any("has no dies" in note for note in shape.notes)
