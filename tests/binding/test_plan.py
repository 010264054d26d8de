"""From a decision to real guests: planned, applied, compared with the kernel, drifted, put back, undone."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import kvmaff
from kvmaff.binding.decided import last_decided
from kvmaff.binding.journal import Journal
from kvmaff.binding.plan import make_plan
from kvmaff.binding.undo import list_records, undo
from kvmaff.cpuset import CpuSet
from kvmaff.errors import BindingFailed, JournalError, PlacementImpossible, RequestError, Unsupported
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.vouched import vouch

from ..conftest import Qemu, kernel_masks, needs_qemu, needs_root, needs_two_cpus, qmp
from ..test_helpers import PinnedHere, narrow_cgroup

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])

pytestmark = needs_two_cpus


@pytest.fixture
def journal(state_dir: Path) -> Journal:
    """The journal of this test."""
    return Journal(str(state_dir))


@pytest.fixture
def plugins() -> PluginManager:
    """The plug-ins that are installed."""
    return PluginManager.load()


@contextlib.contextmanager
def microvms(*sizes: int, plugins: PluginManager) -> Iterator[Callable[[], tuple[Guest, ...]]]:
    """Microvms of this test, found also where they do not run on KVM."""
    with contextlib.ExitStack() as stack:
        vms = [
            stack.enter_context(Microvm.start(f"vm{n}", vcpus=size, mode=Mode.HALT, iothreads=["d0"]))
            for n, size in enumerate(sizes)
        ]
        for vmm in vouch(vms):
            plugins.register(PinnedHere(vmm), "vouched")
        yield lambda: find_guests(vmms=tuple(plugins.vmms().values()), pids=[vm.pid for vm in vms])


def masks_of(guests: tuple[Guest, ...]) -> dict[int, dict[int, frozenset[int]]]:
    """What the kernel says of the guests' threads."""
    return {guest.pid: kernel_masks(guest.pid) for guest in guests}


@pytest.mark.parametrize("strategy", ["pack", "spread", "numa"])
def test_shared_guests(host: Host, journal: Journal, plugins: PluginManager, strategy: str) -> None:
    """Several shared guests are placed, bound and compared with the kernel; the second plan is empty; undo restores."""
    with microvms(1, 1, 2, plugins=plugins) as look:
        before = masks_of(look())
        placement = kvmaff.place(host, look(), strategy, plugins=plugins)
        plan = kvmaff.plan(host, placement, plugins=plugins)
        report = plan.apply()
        assert report.ok
        assert bool(plan) == bool(report.threads)
        for placed, guest in zip(placement.guests, look(), strict=True):
            for thread in guest.threads:
                if thread.role is not Role.OTHER:
                    expected = placed.cpus_of(thread.role, thread.index)
                    assert expected == thread.mask == CpuSet(os.sched_getaffinity(thread.tid))
        assert not kvmaff.plan(host, placement, plugins=plugins)
        assert not kvmaff.plan(host, plugins=plugins)  # what was decided is kept
        assert undo(journal=journal).ok
        assert before == masks_of(look())
        with pytest.raises(RequestError, match="nothing was decided"):
            kvmaff.plan(host, plugins=plugins)


def test_dedicated_guests(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """Dedicated guests get CPUs of their own where there are enough, and where not, what is missing is said."""
    online = len(host.topology.online - host.isolation.unbalanced)
    with microvms(1, 1, plugins=plugins) as look:
        before = masks_of(look())
        placement = kvmaff.place(host, look(), "pack", dedicated=True, plugins=plugins)
        assert kvmaff.plan(host, placement, plugins=plugins).apply().ok
        pinned = [thread.mask for guest in look() for thread in guest.vcpus]
        assert 2 == len({mask for mask in pinned if mask and len(mask) == 1})
        assert undo(journal=journal).ok
        assert before == masks_of(look())
    with microvms(online + 1, plugins=plugins) as look:
        with pytest.raises(PlacementImpossible) as caught:
            kvmaff.place(host, look(), "pack", dedicated=True, plugins=plugins)
        assert f"needs {online + 1} dedicated vCPUs" in str(caught.value)
        assert f"{online} vCPUs would fit" in str(caught.value)


def test_isolated_guest(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """An isolated guest of one vCPU has a core of its own, and its other threads are kept off it."""
    with microvms(1, plugins=plugins) as look:
        before = masks_of(look())
        placement = kvmaff.place(host, look(), "isolated", plugins=plugins)
        assert kvmaff.plan(host, placement, plugins=plugins).apply().ok
        (guest,) = look()
        (vcpu,) = guest.vcpus
        assert vcpu.mask is not None
        assert 1 == len(vcpu.mask)
        for thread in (*guest.by_role(Role.EMULATOR), *guest.by_role(Role.IOTHREAD)):
            assert thread.mask is not None
            assert thread.mask.isdisjoint(vcpu.mask)
        assert undo(journal=journal).ok
        assert before == masks_of(look())


def test_isolated_needs_housekeeping(host: Host, plugins: PluginManager) -> None:
    """On a host whose every CPU would be taken, isolated says that no CPU is left for the emulator."""
    if host.isolation.unbalanced:
        pytest.skip("this host has isolated CPUs")
    with (
        microvms(len(host.topology.online), plugins=plugins) as look,
        pytest.raises(PlacementImpossible, match="housekeeping") as caught,
    ):
        kvmaff.place(host, look(), "isolated", plugins=plugins)
    if len(host.topology.online) == 2:
        assert "1 vCPU would fit" in str(caught.value)


@needs_qemu
def test_drift_and_hot_plug_lead_back(
    qemu: Callable[..., Qemu], host: Host, journal: Journal, plugins: PluginManager
) -> None:
    """What somebody changes since shows in the plan and apply puts it back; so does a vCPU that inherited a mask."""
    started = qemu("d,debug-threads=on", vcpus=2)
    look = lambda: find_guests(pids=[started.pid])  # noqa: E731 - the same shape as for microvms
    (guest,) = look()
    placement = kvmaff.place(host, look(), "spread", plugins=plugins)
    kvmaff.plan(host, placement, plugins=plugins).apply()
    decided = masks_of(look())
    os.sched_setaffinity(guest.vcpus[0].tid, ONE)
    os.sched_setaffinity(guest.pid, OTHER)
    plan = kvmaff.plan(host, plugins=plugins)
    assert {guest.vcpus[0].tid, guest.pid} == {change.thread.tid for change in plan.changes}
    assert plan.apply().ok
    assert decided == masks_of(look())
    assert not kvmaff.plan(host, plugins=plugins)
    assert 1 <= len(list_records(journal))


@needs_qemu
@pytest.mark.parametrize("dedicated", [False, True], ids=["shared", "dedicated"])
def test_a_vcpu_that_is_plugged_in(
    qemu: Callable[..., Qemu],
    host: Host,
    journal: Journal,
    plugins: PluginManager,
    tmp_path: Path,
    dedicated: bool,
) -> None:
    """A vCPU plugged in over QMP inherits the main thread's mask; plan shows it, apply gives it its reserved place."""
    path = tmp_path / "qmp"
    started = qemu(
        "hot,debug-threads=on",
        accel="tcg",
        vcpus=1,
        extra=("-smp", "1,maxcpus=2", "-qmp", f"unix:{path},server=on,wait=off"),
    )
    find = [started.pid]
    policy = 'policy = "dedicated"\nemulator = "share"' if dedicated else 'policy = "shared"'
    specs = parse_specs(f'[[guest]]\nname = "hot"\nmax_vcpus = 2\n{policy}\n', "h.toml")
    placement = kvmaff.place(host, find_guests(pids=find), "pack", specs=specs, plugins=plugins)
    kvmaff.plan(host, placement, plugins=plugins).apply()
    (guest,) = find_guests(pids=find)
    os.sched_setaffinity(guest.pid, ONE)  # what the chapter does: the process on the first vCPU's CPU
    (places,) = qmp(path, {"execute": "query-hotpluggable-cpus"})
    (free,) = [place for place in places if "qom-path" not in place]
    qmp(path, {"execute": "device_add", "arguments": {"driver": free["type"], "id": "c1", **free["props"]}})
    deadline = time.monotonic() + 20
    while len(guest.vcpus) < 2:
        assert time.monotonic() < deadline
        (guest,) = find_guests(pids=find)
    assert ONE == guest.vcpus[1].mask
    decided = placement.guests[0].cpus_of(Role.VCPU, 1)
    changes = {change.thread.tid: change.to for change in kvmaff.plan(host, plugins=plugins).changes}
    assert decided == changes.get(guest.vcpus[1].tid, guest.vcpus[1].mask)
    assert guest.pid in changes
    assert kvmaff.plan(host, plugins=plugins).apply().ok
    (guest,) = find_guests(pids=find)
    assert decided == guest.vcpus[1].mask
    assert not kvmaff.plan(host, plugins=plugins)
    while list_records(journal):
        assert undo(journal=journal).ok


def test_the_decision_of_others_stays(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """Deciding for one guest keeps what was decided for the others, and counts what they own as theirs."""
    with microvms(1, 1, plugins=plugins) as look:
        first, second = look()
        placement = kvmaff.place(host, [first], "pack", dedicated=True, others=[], plugins=plugins)
        kvmaff.plan(host, placement, plugins=plugins).apply()
        first, second = look()
        own = first.vcpus[0].mask
        for guest in (first, second):  # nobody floats over the other's CPU
            for thread in guest.threads:
                if thread.role is not Role.OTHER:
                    os.sched_setaffinity(thread.tid, own if guest is first else HERE - own)
        first, second = look()
        placement = kvmaff.place(host, [second], "pack", dedicated=True, others=[first], plugins=plugins)
        assert own is not None
        assert placement.guests[0].vcpu_cpus.isdisjoint(own)
        kvmaff.plan(host, placement, plugins=plugins).apply()
        decided = last_decided(journal)
        assert decided is not None
        assert {"vm0", "vm1"} == {guest.spec.name for guest in decided.guests}
        assert not kvmaff.plan(host, plugins=plugins)


def test_a_guest_to_come_keeps_its_place(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """What was decided for a guest that does not run is nobody else's meanwhile."""
    spec = kvmaff.GuestSpec(name="late", vcpus=1, vcpu_policy=VcpuPolicy.DEDICATED)
    request = kvmaff.PlacementRequest(host=host, demands=(kvmaff.Demand(spec=spec),))
    late = plugins.decide(request, "pack", None)
    kvmaff.plan(host, late, plugins=plugins).apply()
    with microvms(1, plugins=plugins) as look:
        placement = kvmaff.place(host, look(), "pack", dedicated=True, plugins=plugins)
        assert placement.guests[0].cpus.isdisjoint(late.guests[0].vcpu_cpus)
        kvmaff.plan(host, placement, plugins=plugins).apply()
        with pytest.raises(RequestError, match="record 2 decided later"):
            undo(1, journal=journal)
        decided = last_decided(journal)
        assert decided is not None
        assert {"late", "vm0"} == {guest.spec.name for guest in decided.guests}
        while list_records(journal):
            assert undo(journal=journal).ok
        assert last_decided(journal) is None


def test_guests_of_one_name_keep_their_decisions(
    host: Host, journal: Journal, plugins: PluginManager
) -> None:
    """Deciding for one of two guests of the same name forgets nothing of the other."""
    with (
        Microvm.start("twin", mode=Mode.HALT) as one,
        Microvm.start("twin", mode=Mode.HALT) as two,
    ):
        for vmm in vouch([one, two]):
            plugins.register(PinnedHere(vmm), "vouched")
        vmms = tuple(plugins.vmms().values())
        guests = find_guests(vmms=vmms, pids=[one.pid, two.pid])
        for guest in guests:
            others = [other for other in guests if other is not guest]
            placement = kvmaff.place(host, [guest], "numa", others=others, plugins=plugins)
            make_plan(host, placement, vmms=vmms, guests=guests).bound_to(journal, lambda _: None).apply()
        decided = last_decided(journal)
        assert decided is not None
        assert {one.pid, two.pid} == {guest.pid for guest in decided.guests}


@needs_qemu
def test_a_vcpu_without_a_place_is_said(
    qemu: Callable[..., Qemu], host: Host, plugins: PluginManager, state_dir: Path
) -> None:
    """A vCPU of a dedicated guest that nobody decided for is named by plan, not passed over."""
    started = qemu("more,debug-threads=on", accel="tcg", vcpus=2)
    (guest,) = find_guests(pids=[started.pid])
    spec = kvmaff.GuestSpec(name="more", vcpus=1, vcpu_policy=VcpuPolicy.DEDICATED, iothreads=("io1",))
    request = kvmaff.PlacementRequest(
        host=host, demands=(kvmaff.Demand(spec=spec, pid=guest.pid, start=guest.start),)
    )
    plan = make_plan(host, plugins.decide(request, "pack", None), guests=[guest])
    (said,) = plan.homeless
    assert "vCPU 1" in said
    assert not state_dir.exists()


def test_a_decision_that_does_not_hold_any_more(
    host: Host, journal: Journal, plugins: PluginManager, state_dir: Path
) -> None:
    """A kept decision that breaks a rule by now is refused with what is wrong, before anything is bound."""
    with microvms(1, plugins=plugins) as look:
        before = masks_of(look())
        placement = kvmaff.place(host, look(), "pack", dedicated=True, plugins=plugins)
        kvmaff.plan(host, placement, plugins=plugins).apply()
        assert undo(journal=journal).ok
        assert before == masks_of(look())
        kvmaff.plan(host, placement, plugins=plugins).apply()
        file = state_dir / "decided.json"
        cpu = str(placement.guests[0].vcpu_cpus)
        data = json.loads(file.read_text())
        assert cpu == data["guests"][0]["threads"][0]["cpus"]
        data["guests"][0]["threads"][0]["cpus"] = "4000"
        file.write_text(json.dumps(data))
        with pytest.raises(RequestError, match="does not hold any more.*4000"):
            kvmaff.plan(host, plugins=plugins)


def test_the_decision_survives_its_file(
    host: Host, journal: Journal, state_dir: Path, plugins: PluginManager
) -> None:
    """What is kept is what was decided; damage is an error that names the file, another boot forgets processes."""
    with microvms(2, plugins=plugins) as look:
        placement = kvmaff.place(host, look(), "numa", plugins=plugins)
        kvmaff.plan(host, placement, plugins=plugins).apply()
        assert placement == last_decided(journal)
        file = state_dir / "decided.json"
        assert 0o600 == file.stat().st_mode & 0o777
        whole = json.loads(file.read_text())
        file.write_text(json.dumps({**whole, "boot": "another"}))
        again = last_decided(journal)
        assert again is not None
        assert [None] == [guest.pid for guest in again.guests]
        assert placement.guests[0].threads == again.guests[0].threads
        for damaged in ("{", json.dumps({**whole, "guests": [1]}), json.dumps({**whole, "kvmaff": 99})):
            file.write_text(damaged)
            with pytest.raises(JournalError, match="decided.json: damaged"):
                last_decided(journal)


@needs_root
def test_a_plan_that_the_kernel_clips(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """A cgroup that grants less is seen before anything is bound; one that shrinks meanwhile leaves nothing changed."""
    with narrow_cgroup(ONE) as folder, microvms(1, 1, plugins=plugins) as look:
        first, _ = look()
        wide = kvmaff.place(host, look(), "numa", plugins=plugins)
        (folder / "cgroup.procs").write_text(str(first.pid))
        placement = kvmaff.place(host, look(), "numa", plugins=plugins)
        assert {ONE} == {thread.cpus for thread in placement.guests[0].threads}
        before = masks_of(look())
        if wide.guests[0].cpus != ONE:
            with pytest.raises(BindingFailed, match=str(folder)):
                make_plan(host, wide, vmms=tuple(plugins.vmms().values()), guests=look()).apply()
            assert before == masks_of(look())
        assert () == list_records(journal)
        os.kill(first.pid, 9)
        while (
            os.path.exists(f"/proc/{first.pid}/exe")
            and str(first.pid) in (folder / "cgroup.procs").read_text()
        ):
            pass


def test_a_recorded_host_is_planned_and_not_bound(host: Host) -> None:
    """A plan for a recorded machine cannot be applied."""
    recorded = attrs.evolve(host, root="/nowhere")
    empty = kvmaff.Placement(strategy="numa", guests=())
    with pytest.raises(Unsupported, match="recorded machine"):
        make_plan(recorded, empty, guests=()).apply()


def test_a_guest_to_come_is_bound_when_it_runs(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """A guest that was decided before it ran is found by its name when it does."""
    spec = kvmaff.GuestSpec(name="vm0", vcpus=1, vcpu_policy=VcpuPolicy.SHARED, iothreads=("d0",))
    request = kvmaff.PlacementRequest(host=host, demands=(kvmaff.Demand(spec=spec),))
    placement = plugins.decide(request, "pack", None)
    plan = kvmaff.plan(host, placement, plugins=plugins)
    assert (False, ("vm0",)) == (bool(plan), plan.absent)
    plan.apply()
    with microvms(1, plugins=plugins) as look:
        plan = kvmaff.plan(host, plugins=plugins)
        assert () == plan.absent
        assert plan.apply().ok
        assert {placement.guests[0].vcpu_cpus} == {thread.mask for thread in look()[0].vcpus}
        assert journal.exists()


def test_who_hears_of_it(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """Plug-ins are told what was applied, and one that fails undoes nothing."""
    heard: list[object] = []
    plugins.register(PinnedHere(applied=heard.append), "listener")
    plugins.register(PinnedHere(applied=lambda _: 1 / 0), "saboteur")
    with microvms(1, plugins=plugins) as look:
        placement = kvmaff.place(host, look(), "pack", plugins=plugins)
        report = kvmaff.plan(host, placement, plugins=plugins).apply()
        assert [report] == heard
        assert not kvmaff.plan(host, placement, plugins=plugins)
        assert journal.exists()
