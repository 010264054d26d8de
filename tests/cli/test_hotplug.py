"""``kvmaff hotplug`` and ``kvmaff guests --ask`` as a person types them, on a real QEMU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvmaff.cli.app import app

from ..conftest import Qemu, needs_qemu, needs_root, qmp

pytest.importorskip("qemu.qmp", reason="the extra qmp is not installed")
pytestmark = [needs_qemu, needs_root]


@pytest.fixture
def started(qemu: Callable[..., Qemu], tmp_path: Path) -> Qemu:
    """A QEMU of two vCPUs that may have four, without thread names."""
    smp = ("-cpu", "qemu64", "-smp", "2,maxcpus=4")
    extra = ("-qmp", f"unix:{tmp_path}/q,server=on,wait=off", *smp)
    return qemu("web,debug-threads=off", accel="tcg", vcpus=2, extra=extra)


def _run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_plug(started: Qemu, state_dir: Path) -> None:
    """Decided, plugged in, told by QMP, and again: each step says what it did, in words and as JSON."""
    me = f"pid:{started.pid}"
    code, _, said = _run("hotplug", me)
    assert 1 == code
    assert "decide first (kvmaff apply web --strategy numa)" in said
    assert 0 == _run("apply", me, "--strategy", "pack")[0]
    code, shown, _ = _run("hotplug", me)
    assert 0 == code
    assert "web: 1 of 1 vCPUs plugged in" in shown
    code, shown, _ = _run("hotplug", me, "1", "--json")
    answer = json.loads(shown)
    assert (0, True, 1, []) == (code, answer["ok"], answer["asked"], answer["errors"])
    (one,) = answer["plugged"]
    assert 3 == one["vcpu"]
    assert one["born"] == one["decided"]
    assert started.pid == answer["pid"]
    code, shown, said = _run("hotplug", me, "--json")
    assert (1, False) == (code, json.loads(shown)["ok"])
    assert "it has no free place" in said
    (guest,) = _guests(started)
    assert [(n, "qmp") for n in range(4)] == [
        (thread["index"], thread["source"]) for thread in guest["threads"] if thread["role"] == "vcpu"
    ]
    assert "iothread io1" in _run("guests", "--threads")[1]
    assert ["io1"] == [thread["iothread"] for thread in guest["threads"] if thread["iothread"]]


def test_asked_or_not(started: Qemu, tmp_path: Path) -> None:
    """Who is not asked leaves the guest in doubt; who is held says so in words."""
    (guest,) = _guests(started, "--ask", "never")
    assert guest["doubt"] is not None
    assert "qmp" in guest["doubt"]
    _, _, said = _run("hotplug", f"pid:{started.pid}", "--qmp", f"{tmp_path}/nowhere", "--unbound")
    assert f"{tmp_path}/nowhere cannot be connected to: No such file or directory" in said
    assert 2 == len(qmp(tmp_path / "q", {"execute": "query-cpus-fast"})[0])


@pytest.mark.parametrize(
    "words",
    [["hotplug"], ["hotplug", "web", "0"], ["hotplug", "web", "x"], ["hotplug", "web", "--timeout", "0"]],
)
def test_wrong_usage(words: list[str]) -> None:
    """What is typed wrongly is refused before anybody is asked."""
    assert 2 == _run(*words)[0]


def _guests(started: Qemu, *words: str) -> list[dict[str, Any]]:
    code, shown, _ = _run("guests", "--json", *words)
    assert 0 == code
    return [guest for guest in json.loads(shown) if guest["pid"] == started.pid]
