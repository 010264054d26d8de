"""
Guests that change places on a real kernel, for one that comes or for their own sake: the order holds at every step.

Four nodes of four CPUs. The kernel is asked after each wave of changes whose threads may run where.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import kvmaff
from kvmaff.binding.transaction import Transaction
from kvmaff.guest.guest import Guest
from kvmaff.placement.moves import Moves

from ..conftest import kernel_masks, needs_qemu
from .guests import Guests
from .machine import Machine, Node

FOUR = Machine(
    sockets=4,
    cores=2,
    threads=2,
    nodes=tuple(Node(cpus=f"{first}-{first + 3}") for first in range(0, 16, 4)),
    # whoever needs something on node 0 or 1 gains nothing on the others
    distances=((10, 20, 60, 60), (20, 10, 60, 60), (60, 60, 10, 20), (60, 60, 20, 10)),
)
SMALL = {"one": 1, "two": 2, "three": 2, "four": 2}
SPECS = """
[defaults]
policy = "dedicated"

[[guest]]
name = "*"
"""
BIG = """
[[guest]]
name = "big"
policy = "dedicated"
[[guest.cell]]
vcpus = "0-3"
"""
NEAR = """
[[guest]]
name = "left"
policy = "dedicated"
device_nodes = [1]

[[guest]]
name = "right"
policy = "dedicated"
device_nodes = [0]
"""

pytestmark = [needs_qemu, pytest.mark.inside(FOUR, timeout=120)]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Guests]:
    """A yard for guests; none of them executes anything."""
    with Guests(tmp_path) as guests:
        yield guests


def _start(guests: Guests, wanted: Mapping[str, int]) -> None:
    for name, vcpus in wanted.items():
        guests.start(name, vcpus=vcpus, paused=True)
    guests.up()


@pytest.fixture
def waves(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, set[int]]]:
    """After each wave of changes, by guest: the CPUs that its bound vCPUs have."""
    seen: list[dict[str, set[int]]] = []
    bind: Callable[..., None] = Transaction.bind

    def watched(self: Transaction, wishes: Sequence[Any]) -> None:
        bind(self, wishes)
        seen.append({guest.name: _bound(guest) for guest in kvmaff.guests(kvmaff.read_host())})

    monkeypatch.setattr(Transaction, "bind", watched)
    return seen


def _bound(guest: Guest) -> set[int]:
    masks = kernel_masks(guest.pid)
    return {cpu for thread in guest.vcpus if len(masks[thread.tid]) == 1 for cpu in masks[thread.tid]}


def _run(*words: str) -> tuple[int, Any]:
    done = subprocess.run(["kvmaff", *words, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def _named(*names: str) -> list[Guest]:
    found = {guest.name: guest for guest in kvmaff.guests(kvmaff.read_host())}
    return [found[name] for name in names]


def _nobody_twice(waves: Sequence[dict[str, set[int]]]) -> None:
    for state in waves:
        for (one, cpus), (other, others) in combinations(state.items(), 2):
            assert cpus.isdisjoint(others), f"{one} and {other} have {cpus & others} at once"


def test_room_by_moving(
    started: Guests, state_dir: Path, tmp_path: Path, waves: list[dict[str, set[int]]]
) -> None:
    """Spread over four nodes two guests leave no whole one; one moves, and the large guest has a node of its own."""
    small = tuple(SMALL)
    _start(started, SMALL)
    before = [kernel_masks(guest.pid) for guest in _named(*small)]
    (tmp_path / "all.toml").write_text(SPECS)
    (tmp_path / "big.toml").write_text(BIG)
    code, report = _run("apply", "--strategy", "spread", "--spec", str(tmp_path / "all.toml"))
    assert (0, True) == (code, report["ok"])
    there = {guest.name: _bound(guest) for guest in _named(*small)}
    assert 4 == len({min(cpus) // 4 for cpus in there.values()})

    _start(started, {"big": 4})
    (big,) = _named("big")
    floating = kernel_masks(big.pid)
    words = ["place", "--strategy", "numa", "--spec", str(tmp_path / "big.toml"), "--max-moves"]
    assert 1 == _run(*words, "0")[0]
    code, answer = _run(*words, "3")
    assert 0 == code
    assert [(0, ["big"]), (1, [])] == [(one["moves"], one["unplaced"]) for one in answer["choices"]]
    (moved,) = answer["moved"]
    assert [moved["guest"]] == [step["guest"] for step in answer["steps"]]
    # nothing was changed so far
    assert there == {guest.name: _bound(guest) for guest in _named(*small)}

    others = _named(*small)
    placement = kvmaff.place(
        kvmaff.read_host(),
        [big],
        "numa",
        specs=kvmaff.read_specs(tmp_path / "big.toml"),
        others=others,
        moves=Moves(guests=3),
    )
    assert kvmaff.plan(kvmaff.read_host(), placement).apply().ok
    assert len(waves) > 1
    _nobody_twice(waves)
    now = {guest.name: _bound(guest) for guest in _named(*small, "big")}
    assert [moved["guest"]] == [name for name in small if now[name] != there[name]]
    assert 1 == len({cpu // 4 for cpu in now["big"]})
    assert 4 == len(now["big"])
    assert kvmaff.undo().ok
    assert there == {guest.name: _bound(guest) for guest in _named(*small)}
    assert kvmaff.undo().ok
    assert before == [kernel_masks(guest.pid) for guest in _named(*small)]
    assert floating == kernel_masks(big.pid)


def test_two_change_places(
    started: Guests, state_dir: Path, tmp_path: Path, waves: list[dict[str, set[int]]]
) -> None:
    """Two guests, each where the other one's device is: one waits elsewhere while the other one goes."""
    names = ("left", "right")
    for name, node in (("left", 1), ("right", 0)):  # their memory is there, too
        started.start(name, vcpus=4, node=node, paused=True)
    started.up()
    before = [kernel_masks(guest.pid) for guest in _named(*names)]
    (tmp_path / "near.toml").write_text(NEAR)
    for place, name in enumerate(names):
        wishes = {str(vcpu): str(4 * place + vcpu) for vcpu in range(4)}
        assert kvmaff.pin(kvmaff.read_host(), name, wishes).ok
    waves.clear()

    specs = ["--spec", str(tmp_path / "near.toml")]
    code, answer = _run("rebalance", *specs, "--max-moves", "1")
    assert (0, []) == (code, answer["gains"])  # one alone would have to be in the other's place
    code, answer = _run("rebalance", *specs)
    assert 0 == code
    assert (
        set(names) == {gain["guest"] for gain in answer["gains"]} == {one["guest"] for one in answer["moved"]}
    )
    assert [True, False, False] == [step["waits"] for step in answer["steps"]]
    assert before != [kernel_masks(guest.pid) for guest in _named(*names)]

    host = kvmaff.read_host()
    found = kvmaff.rebalance(host, _named(*names), specs=kvmaff.read_specs(tmp_path / "near.toml"))
    assert kvmaff.plan(host, found.placement).apply().ok
    _nobody_twice(waves)
    assert [set(range(4, 8)), set(range(4))] == [_bound(guest) for guest in _named(*names)]
    for _ in range(3):
        assert kvmaff.undo().ok
    assert before == [kernel_masks(guest.pid) for guest in _named(*names)]
