"""What every test shares: hypothesis profiles, and guests of our own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import pytest

from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.host.reader import Host, read_host

hypothesis.settings.register_profile("default", deadline=None, max_examples=150)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=400, derandomize=True)
hypothesis.settings.register_profile(
    "quick", deadline=None, max_examples=20, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def at_most(examples: int) -> hypothesis.settings:
    """
    Have no more examples than so many, nor than the profile has: where each takes long and more prove no more.

    Args:
        examples: How many.

    Returns:
        What decorates the test.
    """
    return hypothesis.settings(max_examples=min(examples, hypothesis.settings.default.max_examples))


# shells start what runs in the background with SIGINT ignored, and programs that tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

QEMU = "qemu-system-x86_64"
HOSTS = Path(__file__).resolve().parents[2] / "shared" / "hosts"

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="this process may run on one CPU only"
)


@attrs.frozen(kw_only=True)
class Qemu:
    """A QEMU that a test started."""

    process: subprocess.Popen[bytes]
    accel: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def guest(self) -> Guest:
        """The guest as discovery sees it now."""
        (found,) = find_guests(pids=[self.pid])
        return found


def _named_vcpus(pid: int) -> int:
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            count += (task / "comm").read_text().startswith(("CPU ", "ALL CPUs"))
    return count


def start_qemu(name: str, *, accel: str = "kvm", vcpus: int = 4, extra: tuple[str, ...] = ()) -> Qemu:
    """Start a paused QEMU and wait until its vCPU threads are named; under TCG where KVM creates no vCPU."""
    for kind in dict.fromkeys((accel, "tcg")):
        process = subprocess.Popen(
            [
                QEMU,
                *("-accel", kind, "-smp", str(vcpus), "-m", "32", "-S", "-nodefaults", "-display", "none"),
                *("-name", f"{name},debug-threads=on" if "=" not in name else name),
                *("-object", "iothread,id=io1", *extra),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        expected = 1 if "thread=single" in kind else vcpus
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if "debug-threads=off" in name or _named_vcpus(process.pid) == expected:
                time.sleep(0.3 if "debug-threads=off" in name else 0.05)
                if process.poll() is None:
                    return Qemu(process=process, accel=kind)
            time.sleep(0.02)
        process.kill()
        process.wait()
    raise AssertionError(f"QEMU did not start its {vcpus} vCPUs")


def qmp(path: Path, *commands: dict[str, Any]) -> list[Any]:
    """What a QEMU answers to commands on its QMP socket."""
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        with connection.makefile("rw") as stream:
            stream.readline()  # the greeting
            for command in ({"execute": "qmp_capabilities"}, *commands):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
                answers.append(answer["return"])
    return answers[1:]


@pytest.fixture
def qemu() -> Iterator[Callable[..., Qemu]]:
    """Start QEMUs; all end with the test."""
    started: list[Qemu] = []

    def start(*args: str, **options: object) -> Qemu:
        started.append(start_qemu(*args, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of the test's own, for this process and its children."""
    folder = tmp_path / "records"
    monkeypatch.setenv("KVMAFF_STATE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def host() -> Host:
    """This machine."""
    return read_host()


def kernel_masks(pid: int) -> dict[int, frozenset[int]]:
    """What the kernel says of every thread of a process, by the standard library alone."""
    masks = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            masks[int(task)] = frozenset(os.sched_getaffinity(int(task)))
    return masks


_NOBODY = """
import ctypes, json, os, sys, tempfile
from kvmaff.api import *
from kvmaff.deciding import *
from kvmaff.binding.pin import *
from kvmaff.cli.app import app
from kvmaff.formats.plain import *
from kvmaff.guest.discover import *
from click.testing import CliRunner
def run(*words):
    done = CliRunner().invoke(app, words)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return [done.exit_code, done.stdout, done.stderr]
with tempfile.TemporaryDirectory() as state:  # imports what comes late, as root; changes nothing
    here = ",".join(map(str, os.sched_getaffinity(0)))
    run("pin", "--pid", str(os.getpid()), here, "--state-dir", state + "/s"), run("guests"), run("topology")
os.setgroups([]), os.setgid(65534), os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again, as a process that always was nobody's
print(json.dumps(eval(sys.argv[1])))
"""


def as_nobody(expression: str) -> Any:
    """
    What an expression gives when another user than root evaluates it.

    The interpreter may lie where that user cannot read: so all is imported first, and then the rights are dropped.
    """
    done = subprocess.run(
        [sys.executable, "-c", _NOBODY, expression], capture_output=True, text=True, cwd="/", check=False
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)
