"""The README's Python is run as it stands, on guests of our own in a pid namespace of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvmaff
from kvmaff.hooks.manager import PluginManager

from .conftest import needs_qemu, needs_root, needs_two_cpus

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

SCRIPT = """
import os, sys
from kvmaff.testing.microvm import Microvm, Mode
with Microvm.start("web", vcpus=2, mode=Mode.HALT) as vm:
    if not vm.kvm:
        print("SKIP", vm.why)
        sys.exit()
    before = {tid: os.sched_getaffinity(tid) for tid in map(int, os.listdir(f"/proc/{vm.pid}/task"))}
    names = {}
    for block in sys.argv[1:]:
        exec(block, names)
    assert {tid: os.sched_getaffinity(tid) for tid in before} != before or not names["plan"]
    names["kvmaff"].undo()
    assert {tid: os.sched_getaffinity(tid) for tid in before} == before
    assert names["report"].ok
"""


@needs_root
@needs_two_cpus
def test_python_of_the_readme(state_dir: Path) -> None:
    """The five lines decide and bind every guest there is, the lines by hand pin one, and undo restores."""
    _, decide, again, _, smp, emit, look, room, by_hand, _ = BLOCKS
    done = subprocess.run(
        [
            "unshare",
            "--pid",
            "--fork",
            "--mount-proc",
            sys.executable,
            "-c",
            SCRIPT,
            decide,
            again,
            smp,
            emit,
            look,
            room,
            by_hand,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=state_dir.parent,
    )
    assert (state_dir.parent / "host.tar.xz").exists() or "SKIP" in done.stdout, done.stderr
    assert 0 == done.returncode, done.stderr
    if done.stdout.startswith("SKIP"):
        pytest.skip(done.stdout)
    assert "strategy spread: 1 guests placed" in done.stdout
    assert "web vcpu 0" in done.stdout
    assert state_dir.exists()


@needs_qemu
def test_cpu_models_of_the_readme(tmp_path: Path) -> None:
    """The lines on CPU models give a -cpu and what is lost."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[0]],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KVMAFF_CACHE_DIR": str(tmp_path)},
    )
    text, loss = done.stdout.splitlines()
    assert text.endswith(",enforce")
    assert loss.startswith("this host [")


QMP_SCRIPT = """
import sys
from tests.conftest import start_qemu
smp = ("-cpu", "qemu64", "-smp", "2,maxcpus=4")
qemu = start_qemu("web", accel="tcg", vcpus=2, extra=("-qmp", f"unix:{sys.argv[1]}/q,server=on,wait=off", *smp))
try:
    names = {}
    for block in sys.argv[2:]:
        exec(block, names)
    assert names["report"].ok
    assert [(2, True), (3, True)] == [(one.index, one.born == one.decided) for one in names["done"].plugged]
    print(len(qemu.guest().vcpus))
finally:
    qemu.process.kill()
    qemu.process.wait()
"""


@needs_root
@needs_two_cpus
@needs_qemu
def test_more_vcpus(state_dir: Path) -> None:
    """The lines about hot-plug give a guest that was decided for all the vCPUs that it may have."""
    pytest.importorskip("qemu.qmp", reason="the extra qmp is not installed")
    _, decide, _, hotplug, *_ = BLOCKS
    alone = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", QMP_SCRIPT]
    done = subprocess.run(
        [*alone, str(state_dir.parent), decide, hotplug],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert 0 == done.returncode, done.stderr
    assert "4" == done.stdout.splitlines()[-1]


def test_a_strategy_in_ten_lines() -> None:
    """The README's strategy is contributed, asked and verified like any other."""
    *_, code = BLOCKS
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(code, names)
    plugin = type("Quiet", (), {"kvmaff_strategies": staticmethod(names["kvmaff_strategies"])})()
    manager = PluginManager()
    manager.register(plugin, "quiet")
    host = kvmaff.read_host()
    demand = kvmaff.Demand(spec=kvmaff.GuestSpec(name="g", vcpus=1))
    placement = manager.decide(kvmaff.PlacementRequest(host=host, demands=(demand,)), "quiet", None)
    assert "quiet" == placement.strategy
    assert 1 == len(placement.guests[0].vcpu_cpus)


def test_commands_of_the_readme_exist() -> None:
    """Every kvmaff command that the README shows is one."""
    from kvmaff.cli.app import app

    shells = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    shown = set(re.findall(r"^kvmaff ([a-z]+)", shells, re.MULTILINE))
    assert {"topology", "guests", "pin", "undo", "place", "plan", "apply"} <= shown
    assert shown <= set(app.commands)
