"""``kvmaff cpu`` and ``kvmaff capture`` as people and programs use them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet

from ..conftest import Qemu, needs_qemu, needs_two_cpus
from ..host.files import machine
from ..host.test_occupants import THREADS, THREADS_FILE
from .test_cli import answer, run

HERE = CpuSet(os.sched_getaffinity(0))


def _isolated(root: Path, count: int) -> Path:
    files: dict[str, str | bytes] = {
        "sys/devices/system/cpu/isolated": "5",
        "proc/cmdline": "isolcpus=5",
        "proc/interrupts": "   CPU4 CPU5\n 36: 9 0 MSI 1-edge  nic\n",
        THREADS_FILE: json.dumps({"threads": THREADS[:count]}),
    }
    return machine(root, files=files)


def test_whether_an_isolated_cpu_is_clean(tmp_path: Path) -> None:
    """The verdict is there for people and programs, with who isolated it and what is in the way."""
    clean, dirty = _isolated(tmp_path / "clean", 2), _isolated(tmp_path / "dirty", len(THREADS))
    out = run("cpu", "5", "--root", str(clean)).stdout
    assert all(
        word in out for word in ("CPU 5; online, isolated", "isolcpus=5", "isolated and clean", "cpuhp/5")
    )
    out = run("cpu", "5", "--root", str(dirty)).stdout
    assert all(
        word in out for word in ("not clean", "kswapd0 (13) may run elsewhere", "taskset -pc CPULIST 13")
    )
    (one,) = answer("cpu", "5", "--root", str(dirty))["cpus"]
    assert (5, True, False) == (one["cpu"], one["isolated"], one["clean"])
    assert [{"cpus": "5", "from": "load balancing", "by": "isolcpus=5"}] == one["isolation"]
    assert [10, 11] == [thread["tid"] for thread in one["own"]]


def test_several_cpus_and_wrong_ones(tmp_path: Path) -> None:
    """A cpulist gives a block each; what is no cpulist is wrong usage, a CPU that is not there cannot be done."""
    root = str(_isolated(tmp_path, 2))
    assert [4, 5] == [one["cpu"] for one in answer("cpu", "4-5", "--root", root)["cpus"]]
    for words in (("five",), ("",), ("5", "--pid", "x"), ("5", "--pid", "0"), ()):
        assert 2 == run("cpu", *words, "--root", root).returncode
    done = run("cpu", "5,77", "--root", root)
    assert (1, "kvmaff: CPU 77 is not there: this machine has 0-7\n") == (done.returncode, done.stderr)
    assert ["CPU 77 is not there: this machine has 0-7"] == answer("cpu", "77", "--root", root, code=1)[
        "errors"
    ]
    assert "process 99999999 is not there" in run("cpu", str(HERE.first), "--pid", "99999999").stderr


@needs_two_cpus
def test_why_a_process_may_not_run_there() -> None:
    """--pid says why a process may not run on a CPU, and nothing where it may."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        os.sched_setaffinity(process.pid, {HERE.first})
        first, last = answer("cpu", f"{HERE.first},{HERE.last}", "--pid", str(process.pid))["cpus"]
    finally:
        process.kill()
        process.wait()
    assert None is first["why_not"]
    assert f"its mask is {HERE.first}:" in last["why_not"]
    assert process.pid in {thread["tid"] for thread in first["bound"]}


@needs_qemu
def test_a_guests_threads_are_named(qemu: Callable[..., Qemu], state_dir: Path) -> None:
    """A bound vCPU is shown as the guest's, on the live machine and in a capture of it."""
    guest = qemu("web", vcpus=2)
    pid = f"pid:{guest.pid}"
    assert 0 == run("pin", pid, f"0={HERE.first}").returncode
    capture = state_dir.parent / "host.tar.xz"
    done = answer("capture", str(capture))
    assert (str(capture), True) == (done["path"], done["guests"] >= 1)
    for root in ("/", str(capture)):
        (one,) = answer("cpu", str(HERE.first), "--root", root)["cpus"]
        assert "web vcpu 0" in {thread["guest"] for thread in one["bound"]}
    assert any(found["pid"] == guest.pid for found in answer("guests", "--root", str(capture)))
    placed = answer("place", pid, "--root", str(capture))
    assert [guest.pid] == [one["pid"] for one in placed["guests"]]


@pytest.mark.parametrize("words", [("apply",), ("pin", "x", "0=0")])
def test_nothing_is_bound_on_a_capture(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Commands that bind take no other machine."""
    assert 2 == run(*words, "--root", str(tmp_path)).returncode


def test_a_capture_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is not there, or a folder in its place, is said in a line."""
    done = run("capture", str(tmp_path / "nowhere" / "file"))
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert 2 == run("capture", str(tmp_path)).returncode
    assert 2 == run("capture").returncode
