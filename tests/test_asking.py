"""Calls turned into requests, with real guests: who wants a place, who has one, and who only holds CPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kvmaff
from kvmaff.asking import Question, question, what_runs
from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import pin_guest
from kvmaff.cpuset import CpuSet
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.guest import Guest
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.request import HostRules

from .binding.test_plan import microvms
from .conftest import needs_two_cpus

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])
NEW = parse_specs('[[guest]]\nname = "new"\nvcpus = 1\npolicy = "dedicated"', "n.toml")

pytestmark = needs_two_cpus


@pytest.fixture
def journal(state_dir: Path) -> Journal:
    """The journal of this test."""
    return Journal(str(state_dir))


@pytest.fixture
def plugins() -> PluginManager:
    """The plug-ins that are installed."""
    return PluginManager.load()


def asked(
    host: Host, others: tuple[Guest, ...], moves: Moves | None, rules: HostRules | None = None
) -> Question:
    """A place for a guest to come beside others."""
    return question(
        host,
        (),
        specs=NEW,
        default=VcpuPolicy.SHARED,
        others=others,
        anew=False,
        rules=rules,
        moves=moves,
        goal=Goal.GUESTS,
        state_dir=None,
    )


def test_who_was_placed_may_be_moved(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """With a budget a decided guest has its place and is part of the request; without, it holds its CPUs."""
    with microvms(1, plugins=plugins) as look:
        (guest,) = look()
        placement = kvmaff.place(host, look(), "pack", dedicated=True, plugins=plugins)
        assert kvmaff.plan(host, placement, plugins=plugins).apply().ok
        (place,) = placement.guests

        still = asked(host, look(), None)
        assert ["new"] == [demand.spec.name for demand in still.request.demands]
        assert [place.owned] == [held.cpus for held in still.request.held if held.dedicated]
        assert Moves() == still.request.moves

        movable = asked(host, look(), Moves(guests=2))
        assert {"new": None, "vm0": place} == {one.spec.name: one.now for one in movable.request.demands}
        assert () == movable.request.held
        assert (Moves(guests=2), Goal.GUESTS) == (movable.request.moves, movable.request.goal)
        assert guest.pid == movable.request.demands[1].pid

        # a place that breaks a rule by now is none; the guest holds it all the same
        broken = asked(host, look(), Moves(guests=2), HostRules(reserved=place.owned))
        assert ["new"] == [demand.spec.name for demand in broken.request.demands]
        assert [place.owned] == [held.cpus for held in broken.request.held if held.dedicated]
        ((name, why),) = broken.kept
        assert "vm0" == name
        assert "reserved" in why


def test_what_runs(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """A guest of which nothing was decided is where its vCPUs are bound, one a CPU; one that floats is left alone."""
    with microvms(1, 1, plugins=plugins) as look:
        first, second = look()
        vmms = tuple(plugins.vmms().values())
        assert pin_guest(host, first, {"0": OTHER}, journal=journal, vmms=vmms).ok

        found = what_runs(host, look(), specs=(), rules=None, moves=Moves(guests=1), state_dir=None)
        (demand,) = found.request.demands
        assert demand.now is not None
        assert ("vm0", first.pid, OTHER, OTHER) == (
            demand.spec.name,
            demand.pid,
            demand.now.vcpu_cpus,
            demand.now.owned,
        )

        # who floats over another one's CPU does so wherever that one goes
        over = parse_specs('[[guest]]\nname = "vm1"\npolicy = "shared"', "v.toml")
        found = what_runs(host, look(), specs=over, rules=None, moves=Moves(guests=1), state_dir=None)
        assert (["vm0"], ()) == ([one.spec.name for one in found.request.demands], found.request.held)
        ((name, why),) = found.kept
        assert ("vm1", True) == (name, f"floats over {OTHER}" in why)

        assert pin_guest(host, second, {"0": ONE}, journal=journal, vmms=vmms).ok
        cleaned = kvmaff.rebalance(host, look(), plugins=plugins)
        assert ((), (), ()) == (cleaned.gains, cleaned.steps, cleaned.left_alone)
        assert ["vm0", "vm1"] == [guest.spec.name for guest in cleaned.placement.guests]


def test_no_moves_is_as_ever(host: Host, journal: Journal, plugins: PluginManager) -> None:
    """With a budget of none the answer is that of a call without one, and the choice is one answer."""
    with microvms(1, plugins=plugins) as look:
        found = kvmaff.choices(host, (), "pack", specs=NEW, others=look(), moves=Moves(), plugins=plugins)
        (one,) = found
        assert ("new",) == tuple(each.name for each in one.unplaced) or one.placement is not None
        assert () == one.moved
