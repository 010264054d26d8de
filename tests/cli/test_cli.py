"""The command as people and programs use it: a process of its own, its output and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.host.reader import Host
from kvmaff.testing.microvm import Microvm, Mode

from ..conftest import Qemu, as_nobody, kernel_masks, needs_qemu, needs_root, needs_two_cpus
from ..guest.test_discover import impostor

HERE = CpuSet(os.sched_getaffinity(0))
ONE, OTHER = CpuSet([HERE.first]), CpuSet([HERE.last])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done


def answer(*words: str, code: int = 0) -> Any:
    """Run the command with --json and take its answer."""
    done = run(*words, "--json")
    assert code == done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "command",
    [
        *("apply", "capture", "cpu", "demo", "guests", "pin", "place", "plan", "plugins", "strategies"),
        *("rebalance", "simulate", "topology", "undo"),
    ],
)
def test_help_shows_an_example(command: str) -> None:
    """Every command's help shows an example that begins with the command, and names --json."""
    done = run(command, "--help")
    assert 0 == done.returncode
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"    kvmaff {command}") and line.count("kvmaff") == 1 for line in lines)
    assert "\\b" not in done.stdout
    assert "--json" in done.stdout


def test_help_and_version() -> None:
    """The group lists its commands and exit codes, and knows its version."""
    done = run("--help")
    assert all(word in done.stdout for word in ("demo", "guests", "pin", "topology", "undo", "2 wrong usage"))
    assert "0." in run("--version").stdout


def test_topology(host: Host) -> None:
    """topology --json has the contract's keys, the values of this machine, and groups in order of first CPU."""
    data = answer("topology")
    assert {
        *("possible", "present", "online", "isolated", "nohz_full"),
        *(
            "drawers",
            "books",
            "packages",
            "dies",
            "clusters",
            "cores",
            "l2",
            "l3",
            "kinds",
            "smt",
            "offline",
            "granted",
        ),
        *("nodes", "huge_pages", "isolation", "doubts"),
    } == set(data)
    assert Path("/sys/devices/system/cpu/online").read_text().strip() == data["online"]
    assert [str(core) for core in host.topology.cores] == data["cores"]
    for node in data["nodes"].values():
        assert {"cpus", "memory_bytes", "distances", "huge_pages"} == set(node)
    assert "logical CPUs" in run("topology").stdout


def test_topology_of_a_recorded_machine(tmp_path: Path) -> None:
    """--root reads a recorded machine; what is not there is exit code 2 and a message with the path, what is none 1."""
    cpu = tmp_path / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    (cpu / "online").write_text("0-511")
    assert "0-511" == answer("topology", "--root", str(tmp_path))["online"]
    assert (
        "logical CPUs              512 (0-511)"
        == run("topology", "--root", str(tmp_path)).stdout.splitlines()[0]
    )
    done = run("topology", "--root", str(tmp_path), "--tree")
    assert (0, "") == (done.returncode, done.stderr)
    assert ["512 PUs online: 0-511", "└─ 512 PUs"] == done.stdout.splitlines()
    done = run("topology", "--root", str(tmp_path / "nothing"))
    assert (2, "") == (done.returncode, done.stdout)
    assert str(tmp_path / "nothing") in done.stderr
    (tmp_path / "empty").mkdir()
    done = run("topology", "--root", str(tmp_path / "empty"))
    assert (1, "") == (done.returncode, done.stdout)
    assert str(tmp_path / "empty") in done.stderr


def test_topology_tree_has_guests() -> None:
    """topology --tree shows a running guest's vCPU on the CPU that it ran on last."""
    with Microvm.start("in-the-tree", vcpus=1, mode=Mode.HALT) as vm:
        if not vm.kvm:
            pytest.skip(str(vm.why))
        done = run("topology", "--tree")
    assert 0 == done.returncode
    assert (
        f"{len(CpuSet.parse(Path('/sys/devices/system/cpu/online').read_text()))} PUs online: " in done.stdout
    )
    assert "in-the-tree vcpu 0" in done.stdout


@needs_qemu
@needs_two_cpus
def test_pin_and_undo_a_qemu(qemu: Callable[..., Qemu], state_dir: Path) -> None:
    """The way of the README: find a QEMU, pin it by name, list, undo; the kernel agrees at every step."""
    started = qemu("web,debug-threads=on")
    before = kernel_masks(started.pid)
    (guest,) = [guest for guest in answer("guests") if guest["pid"] == started.pid]
    assert {"name", "uuid", "pid", "start", "vmm", "kvm", "verified", "threads"} <= set(guest)
    assert ("web", "qemu", True) == (guest["name"], guest["vmm"], guest["verified"])
    for thread in guest["threads"]:
        assert {"tid", "role", "index", "name", "mask", "cpu", "source", "iothread"} == set(thread)
        assert CpuSet(before[thread["tid"]]) == CpuSet.parse(thread["mask"])

    data = answer("pin", "web", f"0={ONE}", f"1-3={OTHER}", f"emulator={ONE}", f"io:io1={OTHER}")
    assert data["ok"]
    assert data["changed"] == len(data["threads"])
    for thread in data["threads"]:
        assert {"tid", "role", "index", "before", "asked", "after", "outcome", "why"} == set(thread)
        expected = ONE if (thread["role"], thread["index"]) in {("vcpu", 0), ("emulator", None)} else OTHER
        assert str(expected) == thread["asked"] == thread["after"]
        assert set(expected) == os.sched_getaffinity(thread["tid"])
    (record,) = answer("undo", "--list")
    assert (1, True) == (record["number"], record["usable"])
    assert "pin web 0=" in run("undo", "--list").stdout
    data = answer("undo")
    assert data["ok"]
    assert {"restored"} == {thread["outcome"] for thread in data["threads"]}
    assert before == kernel_masks(started.pid)
    assert [] == answer("undo")["threads"]
    assert "nothing to undo" in run("undo").stdout
    assert "nothing to undo" in run("undo", "--list").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pin"], 2, "name a guest"),
        (["pin", "web"], 2, "say KEY=CPULIST"),
        (["pin", "web", "0"], 2, "'0' is no KEY=CPULIST"),
        (["pin", "web", "0=a", "x=1"], 2, "'a' is no cpulist"),
        (["pin", "web", "0=a", "x=1"], 2, "'x' is no vCPU"),
        (["pin", "web", "0=1", "0=2"], 2, "named twice"),
        (["pin", "web", "0=0-31:2"], 2, "USED/GROUP"),
        (["pin", "--pid", "x", "1"], 2, "no PID or PID:TID"),
        (["pin", "--pid", "1"], 2, "say one CPULIST"),
        (["pin", "--pid", "1", "1", "2"], 2, "say one CPULIST"),
        (["pin", "--pid", "4999999", "0"], 1, "no process 4999999"),
        (["pin", "no such guest", "0=0"], 1, "no guest 'no such guest'"),
        (["pin", "pid:4999999", "0=0"], 1, "no guest 'pid:4999999'"),
        (["undo", "0"], 2, "0"),
        (["undo", "77"], 1, "kvmaff undo --list"),
        (["undo", "--discard", "77"], 1, "kvmaff undo --list"),
        (["undo", "--list", "3"], 2, "stand alone"),
        (["undo", "--list", "--discard", "3"], 2, "stand alone"),
        (["nonsense"], 2, "nonsense"),
        (["topology", "--nonsense"], 2, "--nonsense"),
        (["demo", "--guests", "0"], 2, "--guests"),
    ],
)
def test_bad_input(words: list[str], code: int, said: str, state_dir: Path) -> None:
    """Wrong usage is 2, what cannot be done is 1; the reason is on standard error and nothing is touched."""
    state_dir.mkdir(mode=0o700)
    done = run(*words)
    assert (code, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert [] == list(state_dir.iterdir())


def test_errors_as_json(state_dir: Path) -> None:
    """With --json a refusal is JSON too: not ok, nothing changed, every reason."""
    data = answer("pin", "--pid", str(os.getpid()), "8000", code=1)
    assert (False, 0, []) == (data["ok"], data["changed"], data["threads"])
    assert ["CPU 8000 is not in this machine"] == [
        error.split(": ")[1].split(";")[0] for error in data["errors"]
    ]


@needs_two_cpus
def test_ambiguous_name(state_dir: Path) -> None:
    """Two guests of one name: the error lists the candidates and nothing is bound."""
    with Microvm.start("twin", mode=Mode.HALT) as one, Microvm.start("twin", mode=Mode.HALT) as two:
        if not one.kvm:
            pytest.skip(f"{one.why}: not found without vouching, which a process of its own cannot do")
        before = kernel_masks(one.pid), kernel_masks(two.pid)
        done = run("pin", "twin", f"0={ONE}")
        assert 1 == done.returncode
        assert f"pid:{one.pid}" in done.stderr
        assert f"pid:{two.pid}" in done.stderr
        assert before == (kernel_masks(one.pid), kernel_masks(two.pid))
        assert 0 == run("pin", f"pid:{two.pid}", f"0={ONE}").returncode
        assert before[0] == kernel_masks(one.pid)
        assert 0 == run("undo").returncode


@needs_two_cpus
def test_a_non_guest_named_as_a_guest(state_dir: Path) -> None:
    """Neither a process that is no guest nor one that calls itself QEMU is bound by that name."""
    with impostor() as pid:
        before = kernel_masks(pid)
        for selector in (f"pid:{pid}", "g"):
            done = run("pin", selector, f"all={ONE}")
            assert 1 == done.returncode
            assert "not proved to be a guest" in done.stderr or "no guest" in done.stderr
        shown = run("guests")
        assert f"pid {pid} (g) is not proved" in shown.stderr
        assert before == kernel_masks(pid)
    done = run("pin", f"pid:{os.getpid()}", f"all={ONE}")
    assert 1 == done.returncode
    assert "no guest" in done.stderr


@needs_root
@needs_qemu
def test_an_unprivileged_user(qemu: Callable[..., Qemu]) -> None:
    """Another user sees hosts and guests, is told what needs root, and may bind nothing."""
    started = qemu("seen,debug-threads=on", accel="tcg")
    before = kernel_masks(started.pid)
    code, out, err = as_nobody("run('guests')")
    assert 0 == code
    assert "seen" in out
    assert "vcpu 0-3" in out
    assert "try as root" in err
    code, out, err = as_nobody(
        f"run('pin', 'pid:{started.pid}', 'all={ONE}', '--state-dir', '/tmp/kvmaff-none')"
    )
    assert 1 == code
    assert "not proved to be a guest" in err
    assert not os.path.exists("/tmp/kvmaff-none")
    assert before == kernel_masks(started.pid)


@pytest.mark.parametrize("arguments", [(), ("--guests", "1", "--vcpus", "5")])
def test_demo(arguments: tuple[str, ...], state_dir: Path) -> None:
    """The demo goes the whole way, agrees with the kernel, restores, and leaves no process and no record."""
    data = answer("demo", *arguments, "--seconds", "0.5")
    assert data["ok"]
    assert data["restored"]
    assert data["kvm"] or data["why"].startswith("not KVM")
    count, vcpus = (1, 5) if arguments else (3, 2)
    assert count == len(data["guests"]) == len(data["pinned"]) == len(data["undone"])
    for guest, bound, pinned in zip(data["guests"], data["bound"], data["pinned"], strict=True):
        assert vcpus == sum(thread["role"] == "vcpu" for thread in guest["threads"])
        assert not os.path.exists(f"/proc/{guest['pid']}")
        masks = {thread["tid"]: thread["mask"] for thread in bound["threads"]}
        for thread in pinned["threads"]:
            assert thread["after"] == thread["asked"] == masks[thread["tid"]]
    if data["kvm"]:
        assert data["milliseconds"]["demo-1"]["guest"] > 0  # its vCPUs spin in guest mode
    assert not state_dir.exists()


def test_demo_for_people() -> None:
    """What the demo prints names the host, the guests, the commands, and what the kernel said."""
    out = run("demo", "--seconds", "0.2").stdout
    for words in (
        "logical CPUs",
        "demo-3",
        "kvmaff pin demo-1 0=",
        "threads have the mask that was asked",
        "every mask is",
    ):
        assert words in out
    assert out.rstrip().endswith("nothing is left behind")


def test_a_closed_pipe(state_dir: Path) -> None:
    """A reader that goes away, as head does, makes no traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kvmaff", "guests", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()
