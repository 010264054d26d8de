"""Whatever masks guests start from: after apply the kernel has what was decided, after undo what was there before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as hs

import kvmaff
from kvmaff.binding.journal import Journal
from kvmaff.binding.undo import list_records, undo
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Role
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.vouched import vouch

from ..conftest import kernel_masks, needs_two_cpus
from ..test_helpers import PinnedHere

HERE = sorted(os.sched_getaffinity(0))
SIZES = (1, 2)
MASKS = hs.frozensets(hs.sampled_from(HERE), min_size=1)

pytestmark = needs_two_cpus


@pytest.fixture(scope="module")
def vms() -> Iterator[tuple[Microvm, ...]]:
    """Two microvms for all examples."""
    with contextlib.ExitStack() as stack:
        yield tuple(
            stack.enter_context(Microvm.start(f"vm{n}", vcpus=size, mode=Mode.HALT, iothreads=["d0"]))
            for n, size in enumerate(SIZES)
        )


@pytest.fixture(scope="module")
def plugins(vms: tuple[Microvm, ...]) -> PluginManager:
    """The plug-ins that are installed, and one by which the microvms are found also where they do not run on KVM."""
    manager = PluginManager.load()
    for vmm in vouch(vms):
        manager.register(PinnedHere(vmm), "vouched")
    return manager


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    strategy=hs.sampled_from(["pack", "spread", "numa"]),
    chosen=hs.lists(hs.integers(0, len(SIZES) - 1), min_size=1, max_size=len(SIZES), unique=True),
    data=hs.data(),
)
def test_there_and_back(
    host: Host,
    vms: tuple[Microvm, ...],
    plugins: PluginManager,
    strategy: str,
    chosen: list[int],
    data: hs.DataObject,
) -> None:
    """Place, plan and apply bind every placed thread and no other; a second plan is empty; undo restores every mask."""

    def masks() -> dict[int, frozenset[int]]:
        return {tid: mask for vm in vms for tid, mask in kernel_masks(vm.pid).items()}

    tids = sorted(masks())
    assert sum(SIZES) + 2 * len(SIZES) <= len(tids)  # each has its vCPUs, an emulator thread and an IOThread
    before = dict(zip(tids, data.draw(hs.tuples(*[MASKS] * len(tids)), label="masks"), strict=True))
    for tid, mask in before.items():
        os.sched_setaffinity(tid, mask)
    assert before == masks()

    vmms = tuple(plugins.vmms().values())
    guests = [guest for n in chosen for guest in find_guests(vmms=vmms, pids=[vms[n].pid])]
    assert [vms[n].pid for n in chosen] == [guest.pid for guest in guests]
    with tempfile.TemporaryDirectory() as folder:
        state = os.path.join(folder, "records")
        journal = Journal(state)
        placement = kvmaff.place(host, guests, strategy, plugins=plugins, state_dir=state)
        placed = {guest.pid: guest for guest in placement.guests}
        decided = {
            thread.tid: frozenset(placed[guest.pid].cpus_of(thread.role, thread.index) or ())
            for guest in guests
            for thread in guest.threads
            if thread.role is not Role.OTHER
        }
        for n in chosen:
            assert {vms[n].pid, *vms[n].vcpu_tids, *vms[n].iothread_tids.values()} <= set(decided)
        expected = {**before, **decided}
        differ = {tid for tid in tids if expected[tid] != before[tid]}

        plan = kvmaff.plan(host, placement, plugins=plugins, state_dir=state)
        assert differ == {change.thread.tid for change in plan.changes}
        report = plan.apply()
        assert report.ok
        assert differ == {thread.tid for thread in report.threads}
        assert expected == masks()
        assert not kvmaff.plan(host, placement, plugins=plugins, state_dir=state)
        assert not kvmaff.plan(host, plugins=plugins, state_dir=state)

        records = len(list_records(journal))
        assert 1 == records  # also where only the decision is new
        for left in reversed(range(records)):
            assert undo(journal=journal).ok
            assert left == len(list_records(journal))
        assert before == masks()


def test_roles_of_the_microvms(vms: tuple[Microvm, ...], plugins: PluginManager) -> None:
    """The guests of these examples have vCPUs, an IOThread and an emulator thread, each found by its role."""
    for size, vm in zip(SIZES, vms, strict=True):
        (guest,) = find_guests(vmms=tuple(plugins.vmms().values()), pids=[vm.pid])
        roles = [thread.role for thread in guest.threads]
        assert (size, 1, True) == (
            roles.count(Role.VCPU),
            roles.count(Role.IOTHREAD),
            Role.EMULATOR in roles,
        )
