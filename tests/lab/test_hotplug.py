"""
vCPUs plugged into a guest with dedicated CPUs, on a real kernel of four nodes: each is born on its own CPU.

Every mask that the kernel tells while vCPUs come is compared with whose CPUs these are.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvmaff
from kvmaff.guest.guest import Guest
from kvmaff.guest.qmp import Qmp
from kvmaff.guest.qmpanswers import Slot

from ..conftest import kernel_masks, needs_qemu, qmp
from .guests import Guests
from .test_moves import FOUR

pytest.importorskip("qemu.qmp", reason="the extra qmp is not installed")
pytestmark = [needs_qemu, pytest.mark.inside(FOUR, timeout=120)]

SPECS = """
[[guest]]
name = "other"
policy = "dedicated"

[[guest]]
name = "web"
policy = "dedicated"
emulator = "share"
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Guests]:
    """A guest of two vCPUs that may have six, and one of four beside it."""
    with Guests(tmp_path) as guests:
        guests.start("web", vcpus=2, max_vcpus=6, paused=True)
        guests.start("other", vcpus=4, paused=True)
        guests.up()
        yield guests


def _guest(name: str) -> Guest:
    (found,) = [guest for guest in kvmaff.guests(kvmaff.read_host()) if guest.name == name]
    return found


def _run(*words: str) -> tuple[int, Any]:
    done = subprocess.run(["kvmaff", *words, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def _apply(tmp_path: Path) -> None:
    (tmp_path / "all.toml").write_text(SPECS)
    code, report = _run("apply", "--strategy", "numa", "--spec", str(tmp_path / "all.toml"))
    assert (0, True) == (code, report["ok"])


def test_each_on_its_own(started: Guests, state_dir: Path, tmp_path: Path) -> None:
    """Places up to maxcpus are kept free for it; four more vCPUs get them, one CPU each, and nobody else's."""
    _apply(tmp_path)
    others = {cpu for mask in kernel_masks(started.pid("other")).values() for cpu in mask}
    before = kernel_masks(started.pid("web"))
    main = before[started.pid("web")]
    assert 6 == len(main)  # the emulator shares the guest's six CPUs
    assert others.isdisjoint(main)
    # nobody else gets what is reserved: sixteen CPUs, of which four and six belong to somebody
    started.start("third", vcpus=7, paused=True)
    started.up()
    assert 1 == _run("place", "third", "--strategy", "numa", "--dedicated")[0]
    started.end("third")

    code, report = _run("hotplug", "web", "4")
    assert (0, True, []) == (code, report["ok"], report["errors"])
    assert [2, 3, 4, 5] == [one["vcpu"] for one in report["plugged"]]
    after = kernel_masks(started.pid("web"))
    for one in report["plugged"]:
        assert one["born"] == one["decided"] == kvmaff.CpuSet(after[one["tid"]]).cpulist
    vcpus = _guest("web").vcpus
    assert [0, 1, 2, 3, 4, 5] == [thread.index for thread in vcpus]
    masks = [after[thread.tid] for thread in vcpus]
    assert [1] * 6 == [len(mask) for mask in masks]
    assert main == frozenset().union(*masks)
    assert before == {tid: after[tid] for tid in before}
    assert others == {cpu for mask in kernel_masks(started.pid("other")).values() for cpu in mask}
    assert 0 == _run("plan")[0]
    assert [] == _run("plan")[1]["changes"]


def test_never_elsewhere(
    started: Guests, state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a vCPU is on its way no thread of the guest may run on another guest's CPU, nor on another vCPU's."""
    _apply(tmp_path)
    guest = _guest("web")
    others = {cpu for mask in kernel_masks(started.pid("other")).values() for cpu in mask}
    there = {cpu for thread in guest.vcpus for cpu in thread.mask or ()}
    seen: list[frozenset[int]] = []
    plug = Qmp.plug

    async def watched(self: Qmp, slot: Slot) -> None:
        seen.append(kernel_masks(guest.pid)[guest.pid])
        await plug(self, slot)
        masks = kernel_masks(guest.pid)
        assert all(others.isdisjoint(mask) for mask in masks.values())
        new = [mask for tid, mask in masks.items() if tid not in {thread.tid for thread in guest.threads}]
        assert all(there.isdisjoint(mask) for mask in new)
        assert len(new) == len(seen)

    monkeypatch.setattr(Qmp, "plug", watched)
    report = kvmaff.hotplug(kvmaff.read_host(), "web", 4)
    assert report.ok
    assert [frozenset(one.decided or ()) for one in report.plugged] == seen


def test_a_plain_device_add(started: Guests, state_dir: Path, tmp_path: Path) -> None:
    """A vCPU that somebody else plugs in has the main thread's mask, until apply puts it on its own CPU."""
    _apply(tmp_path)
    (slots,) = qmp(started.socket("web"), {"execute": "query-hotpluggable-cpus"})
    slot = next(one for one in reversed(slots) if "qom-path" not in one)
    device = {"driver": slot["type"], "id": "theirs", **slot["props"]}
    qmp(started.socket("web"), {"execute": "device_add", "arguments": device})
    deadline = time.monotonic() + 20
    while 3 != len(_guest("web").vcpus):
        assert time.monotonic() < deadline
    assert 6 == len(_guest("web").vcpus[2].mask or ())
    assert [2] == [one["index"] for one in _run("plan")[1]["changes"]]
    assert 0 == _run("apply")[0]
    masks = [thread.mask for thread in _guest("web").vcpus]
    assert [1] * 3 == [len(mask or ()) for mask in masks]
    assert 3 == len(set(masks))
    assert [3, 4] == [one["vcpu"] for one in _run("hotplug", "web", "2")[1]["plugged"]]
