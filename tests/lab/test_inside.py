"""Tests that run in a machine: with fixtures, with reports as if they ran here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kvmaff

from ..conftest import Qemu, needs_qemu
from .environment import CHECKOUT
from .machine import Machine

MACHINE = Machine.parse("2x2", append="isolcpus=3")


@pytest.mark.inside(MACHINE)
def test_it_is_the_machine() -> None:
    """The kernel is the one that was booted, and the file is the one that stands here."""
    assert "isolcpus=3" in Path("/proc/cmdline").read_text()
    assert "3" == str(kvmaff.read_host().isolated)
    assert "kvmaff-lab" == os.uname().nodename


@pytest.mark.inside(MACHINE)
@pytest.mark.parametrize("text", ["a b", "ü/[x]", "::"])
def test_parameters(text: str, tmp_path: Path) -> None:
    """Parameters and pytest's own fixtures are as ever; files go to memory."""
    assert str(tmp_path).startswith("/run/tmp/")
    (tmp_path / "file").write_text(text)
    assert text == (tmp_path / "file").read_text()


@needs_qemu
@pytest.mark.inside(MACHINE, timeout=120)
def test_a_guest_in_the_machine(qemu: Callable[..., Qemu]) -> None:
    """The fixtures of all tests work too: a QEMU in the machine, and kvmaff, which sees its threads."""
    guest = qemu("inside", accel="tcg,thread=multi", vcpus=2).guest()
    assert "inside" == guest.name
    vcpus = [thread for thread in guest.threads if thread.index is not None and thread.role == "vcpu"]
    assert ["0-2", "0-2"] == [str(thread.mask) for thread in vcpus]


_STRANGE = """
import os, pathlib, time
import pytest
from tests.lab import Machine

ONE = Machine()

@pytest.mark.inside(ONE)
def test_fails():
    print("said in the machine")
    assert 1 == len(os.sched_getaffinity(0)) + 1

@pytest.mark.inside(ONE)
def test_skips():
    pytest.skip("for a reason")

@pytest.fixture
def broken():
    yield
    raise ValueError("in the teardown")

@pytest.mark.inside(ONE)
def test_teardown(broken):
    pass

@pytest.mark.inside(ONE, timeout=2)
def test_hangs():
    time.sleep(600)

@pytest.mark.inside(ONE)
def test_panics():
    pathlib.Path("/proc/sysrq-trigger").write_text("c")

@pytest.mark.inside(ONE)
def test_passes():
    assert ONE.cpus == os.cpu_count()

@pytest.mark.lab(ONE)
def test_drives_and_fails(lab):
    assert 1 == lab.run("true").code

@pytest.mark.inside(Machine(cpu="Nosuch"))
def test_no_machine():
    pass
"""


def _pytest(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text("from tests.lab.conftest import *\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_strange.py").write_text(text)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:randomly",
            "-p",
            "no:cacheprovider",
            "-rA",
            "test_strange.py",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
    )


def test_reports(bootable: None, tmp_path: Path) -> None:
    """Whatever happens inside is reported here, with the reason, and the tests after it run all the same."""
    done = _pytest(tmp_path, _STRANGE)
    summary = done.stdout[done.stdout.index("short test summary info") :]
    for line in (
        "FAILED test_strange.py::test_fails - assert 1 == (1 + 1)",
        "SKIPPED [1] test_strange.py:15: for a reason",
        "ERROR test_strange.py::test_teardown - ValueError: in the teardown",
        "FAILED test_strange.py::test_hangs - TimeoutError: the test took longer than 2 s",
        "FAILED test_strange.py::test_panics - Failed: the pytest inside ended",
        "PASSED test_strange.py::test_passes",
        "FAILED test_strange.py::test_drives_and_fails",
        "FAILED test_strange.py::test_no_machine",
    ):
        assert line in summary
    assert "said in the machine" in done.stdout
    assert "console of the machine" in done.stdout
    assert "Kernel panic - not syncing: sysrq" in done.stdout
    assert "unable to find CPU model 'Nosuch'" in done.stdout


def test_what_is_missing_is_asked_for_once(tmp_path: Path) -> None:
    """Where a kernel cannot be had, which may take minutes to find out, other machines do not try again."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/qemu-system-x86_64").symlink_to("/bin/true")
    for name, said in (
        ("apt-cache", "echo busybox-static"),
        ("apt-get", f"echo x >>{tmp_path}/asked"),
        ("dpkg-deb", ":"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    text = """
import pytest
from tests.lab import Machine
@pytest.mark.inside(Machine(cores=2))
def test_inside(): pass
@pytest.mark.parametrize("cores", [pytest.param(n, marks=pytest.mark.lab(Machine(cores=n))) for n in (3, 4)])
def test_lab(lab, cores): pass
def test_bootable(bootable): pass
"""
    done = _pytest(tmp_path, text, PATH=str(tmp_path / "bin"), KVMAFF_LAB_CACHE=str(tmp_path / "cache"))
    assert 0 == done.returncode, done.stdout
    assert "4 skipped" in done.stdout
    assert "no lab: no package linux-image-6.1." in done.stdout
    assert ["x"] == (tmp_path / "asked").read_text().split()


def test_no_lab(tmp_path: Path) -> None:
    """Where no machine can be booted, tests of either kind skip, with the reason."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/qemu-system-x86_64").symlink_to("/bin/true")
    text = """
import pytest
from tests.lab import Machine
@pytest.mark.inside(Machine())
def test_inside(): pass
@pytest.mark.lab(Machine())
def test_lab(lab): pass
"""
    cache = str(tmp_path / "cache")
    done = _pytest(tmp_path, text, PATH=str(tmp_path / "bin"), KVMAFF_LAB_CACHE=cache)
    assert 0 == done.returncode, done.stdout
    assert "2 skipped" in done.stdout
    assert "no lab: apt-get, apt-cache, dpkg-deb not found" in done.stdout
