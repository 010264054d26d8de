"""Pools, reserved CPUs and ratios outlive the file that said them; what was decided still holds, on real guests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import kvmaff
from kvmaff.binding.decided import last_decision
from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import pin_guest
from kvmaff.binding.undo import list_records, undo
from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError
from kvmaff.formats.specs import parse_rules, parse_specs
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.placement.request import HostRules, PlacementRequest, Pool

from ..conftest import Qemu, kernel_masks, needs_qemu, needs_two_cpus
from .test_plan import masks_of, microvms

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])
GIB = 1 << 30
SPEC = f"""
[host]
overcommit = 8
[[pool]]
name = "fast"
cpus = "{HERE}"
overcommit = 16
[defaults]
iothread_policy = "housekeeping"
pool = "fast"
[[guest]]
name = "vm0"
dedicated_vcpus = "1"
"""

pytestmark = needs_two_cpus


@pytest.fixture
def journal(state_dir: Path) -> Journal:
    """The journal of this test."""
    return Journal(str(state_dir))


@pytest.fixture
def plugins() -> PluginManager:
    """The plug-ins that are installed."""
    return PluginManager.load()


def test_a_mixed_guest_in_a_pool(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """Placed, applied, found to hold, pinned elsewhere, put back, undone: with nothing but what was kept."""
    specs, rules = parse_specs(SPEC, "p.toml"), parse_rules(SPEC, "p.toml")
    with microvms(2, plugins=plugins) as look:
        before = masks_of(look())
        placement = kvmaff.place(host, look(), "numa", specs=specs, rules=rules, plugins=plugins)
        assert kvmaff.plan(host, placement, plugins=plugins).apply().ok
        assert (placement, rules) == last_decision(journal)
        (placed,) = placement.guests
        (guest,) = look()
        own = placed.cpus_of(Role.VCPU, 1)
        assert own is not None
        assert 1 == len(own)
        for thread in guest.threads:
            if thread.role is not Role.OTHER:
                assert placed.cpus_of(thread.role, thread.index) == thread.mask
                assert (own == thread.mask) == ((thread.role, thread.index) == (Role.VCPU, 1))
        bound = masks_of(look())
        plan = kvmaff.plan(host, plugins=plugins)
        assert not plan
        assert 0 == plan.apply().changed
        assert (bound, (placement, rules)) == (masks_of(look()), last_decision(journal))
        assert 1 == len(list_records(journal))
        vmms = tuple(plugins.vmms().values())
        elsewhere = OTHER if own == ONE else ONE
        assert pin_guest(host, guest, {"1": elsewhere, "io": own}, journal=journal, vmms=vmms).ok
        plan = kvmaff.plan(host, plugins=plugins)
        assert {guest.vcpus[1].tid, guest.by_role(Role.IOTHREAD)[0].tid} == {
            change.thread.tid for change in plan.changes
        }
        assert plan.apply().ok
        assert bound == masks_of(look())
        while list_records(journal):
            assert undo(journal=journal).ok
        assert before == masks_of(look())
        assert (None, HostRules()) == last_decision(journal)


def test_who_comes_later_knows_the_rules(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """A guest that is decided for later keeps out of a pool of which the call says nothing, unless all is forgotten."""
    rules = HostRules(pools=(Pool(name="fast", cpus=OTHER),))
    with microvms(1, 2, plugins=plugins) as look:
        first, second = look()
        specs = parse_specs('[[guest]]\nname = "vm0"\npool = "fast"\n', "p.toml")
        placement = kvmaff.place(host, [first], "numa", specs=specs, rules=rules, plugins=plugins)
        assert OTHER == placement.guests[0].vcpu_cpus
        assert kvmaff.plan(host, placement, plugins=plugins).apply().ok
        first, second = look()
        for own, anew in ((HostRules(), False), (None, True)):
            free = kvmaff.place(host, [second], "numa", rules=own, anew=anew, plugins=plugins)
            assert OTHER <= free.guests[0].cpus
        later = kvmaff.place(host, [second], "numa", others=[first], plugins=plugins)
        assert later.guests[0].cpus.isdisjoint(OTHER)
        assert kvmaff.plan(host, later, plugins=plugins).apply().ok
        both, known = last_decision(journal)
        assert both is not None
        assert ({"vm0", "vm1"}, rules) == ({guest.spec.name for guest in both.guests}, known)
        assert not kvmaff.plan(host, plugins=plugins)
        with pytest.raises(RequestError, match="does not hold any more.*in its CPU pool 'fast'"):
            kvmaff.plan(host, rules=HostRules(), plugins=plugins)
        while list_records(journal):
            assert undo(journal=journal).ok


def test_a_placement_that_does_not_say_its_rules(
    host: Host, journal: Journal, plugins: PluginManager
) -> None:
    """Of a placement that nobody's search made, the rules are those that the call says, else those of before."""
    rules = HostRules(reserved=ONE)
    spec = kvmaff.GuestSpec(name="late", vcpus=1)
    request = kvmaff.PlacementRequest(host=host, demands=(kvmaff.Demand(spec=spec),), reserved=ONE)
    (late,) = plugins.decide(request, "pack", None).guests
    placement = kvmaff.Placement(strategy="mine", guests=(late,))
    for said, expected in ((None, HostRules()), (rules, rules), (None, rules)):
        kvmaff.plan(host, placement, rules=said, plugins=plugins).apply()
        assert (placement, expected) == last_decision(journal)
    assert not kvmaff.plan(host, plugins=plugins)
    with pytest.raises(RequestError, match="does not hold any more"):
        kvmaff.plan(host, rules=HostRules(reserved=host.topology.online), plugins=plugins)


@pytest.mark.parametrize("booted", [False, True])
def test_memory_is_not_asked_for_twice(
    host: Host, journal: Journal, plugins: PluginManager, state_dir: Path, booted: bool
) -> None:
    """What was decided for a guest with huge pages holds while no page is free, and after a reboot."""
    nodes = [node.number for node in host.topology.nodes]
    with microvms(1, plugins=plugins) as look:
        spec = kvmaff.GuestSpec(
            name="vm0", vcpus=1, iothreads=("d0",), memory_bytes=4096 * GIB, page_bytes=GIB
        )
        (guest,) = look() if booted else (None,)
        demand = kvmaff.Demand(spec=spec)
        if guest is not None:
            demand = kvmaff.Demand(spec=spec, pid=guest.pid, start=guest.start)
        pages = tuple((node, GIB, 4096) for node in nodes or [0])
        request = PlacementRequest(host=host, demands=(demand,), pages=pages)
        try:
            placement = plugins.decide(request, "numa", None)
        except kvmaff.PlacementImpossible as error:
            pytest.skip(f"this host has no place for it: {error}")
        kvmaff.plan(host, placement, plugins=plugins).apply()
        if booted:
            file = state_dir / "decided.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "boot": "another"}))
        plan = kvmaff.plan(host, plugins=plugins)
        assert () == plan.absent
        assert plan.apply().ok
        assert {placement.guests[0].vcpu_cpus} == {thread.mask for thread in look()[0].vcpus}
        assert not kvmaff.plan(host, plugins=plugins)
        assert journal.exists()


@needs_qemu
def test_a_mixed_qemu(
    qemu: Callable[..., Qemu], host: Host, journal: Journal, plugins: PluginManager
) -> None:
    """A mixed QEMU of three vCPUs and a housekeeping emulator is bound, found to hold, drifts, and is put back."""
    started = qemu("mixed,debug-threads=on", vcpus=3)
    before = kernel_masks(started.pid)
    text = '[[guest]]\nname = "mixed"\ndedicated_vcpus = "0"\nemulator = "housekeeping"\n'
    specs = parse_specs(text, "m.toml")
    look = lambda: find_guests(pids=[started.pid])  # noqa: E731 - as for microvms
    placement = kvmaff.place(host, look(), "numa", specs=specs, plugins=plugins)
    (placed,) = placement.guests
    assert VcpuPolicy.MIXED is placed.spec.vcpu_policy
    plan = kvmaff.plan(host, placement, plugins=plugins)
    assert plan.apply().ok
    bound = kernel_masks(started.pid)
    (guest,) = look()
    own, *floating = [thread.mask for thread in guest.vcpus]
    assert own is not None
    assert 1 == len(own)
    assert 1 == len(set(floating))
    assert all(mask is not None and mask.isdisjoint(own) for mask in floating)
    assert not kvmaff.plan(host, plugins=plugins)
    os.sched_setaffinity(guest.vcpus[0].tid, HERE)
    os.sched_setaffinity(guest.vcpus[2].tid, own)
    plan = kvmaff.plan(host, plugins=plugins)
    assert {guest.vcpus[0].tid, guest.vcpus[2].tid} == {change.thread.tid for change in plan.changes}
    assert plan.apply().ok
    assert bound == kernel_masks(started.pid)
    while list_records(journal):
        assert undo(journal=journal, force=True).ok  # the drift was nobody's call, and no record's
    after = kernel_masks(started.pid)
    assert {tid: mask for tid, mask in before.items() if tid in after} == after
