"""``python -m tests.lab``, as people use it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .__main__ import main
from .environment import CHECKOUT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command; it stands behind --"),
        (["--"], "no command; it stands behind --"),
        (["kvmaff", "demo"], "unrecognized arguments: kvmaff demo"),
        (["--topo", "4y4", "--", "true"], "a machine is NODESxCPUS, as 4x4, or CPUS, as 8, not '4y4'"),
        (["--kernel", "5.10", "--", "true"], "a kernel is one of 6.1, 6.12, not '5.10'"),
        (["--memory", "much", "--", "true"], "argument --memory: invalid int value: 'much'"),
        (["--timeout", "nan", "--", "true"], "argument --timeout: a number of seconds above 0"),
        (["--timeout", "inf", "--", "true"], "argument --timeout: a number of seconds above 0"),
        (["--boot-timeout", "0", "--", "true"], "argument --boot-timeout: a number of seconds above 0"),
        (["--boot-timeout", "soon", "--", "true"], "argument --boot-timeout: a number of seconds above 0"),
        (["--topo", "129x1", "--", "true"], "a machine has at most 128 nodes, not 129"),
        (["--offline", "0", "--", "true"], "all but CPU 0 can be offline, not 0"),
    ],
)
def test_wrong_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage ends with 2 before anything is booted, and is said."""
    assert 2 == main(words)
    assert message in capsys.readouterr().err


def _words(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.lab", *words]


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _words(*words), cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300
    )


def test_help() -> None:
    """Help shows an example."""
    done = _run("--help")
    assert 0 == done.returncode
    assert "python -m tests.lab --topo 4x4 --append isolcpus=4,5 -- kvmaff demo" in done.stdout


def test_the_commands_own(bootable: None) -> None:
    """The command's output and exit code are handed on, apart from what the lab says."""
    words = ("--topo", "2x2", "--append", "isolcpus=2", "--append", "isolcpus=3", "--kernel", "6.12")
    done = _run(*words, "--console", "--", "sh", "-c", "cat /proc/cmdline; echo err >&2; exit 7")
    assert 7 == done.returncode
    assert done.stdout.endswith(" isolcpus=2 isolcpus=3\n")
    assert 1 == done.stdout.count("\n")
    assert "\nerr\n" in done.stderr
    assert done.stderr.startswith("lab: 4 CPUs (2x1x1x2), 2 nodes, Linux 6.12, isolcpus=2 isolcpus=3: 6.12.")


def test_any_interpreter() -> None:
    """The library takes the standard library alone; only what joins it to pytest takes more."""
    folder = CHECKOUT / "tests/lab"
    taken = {"conftest", "batch", "reporter"}
    names = [f.stem for f in folder.glob("*.py") if not f.stem.startswith("test_") and f.stem not in taken]
    imports = "".join(f"import tests.lab.{name}\n" for name in names)
    done = subprocess.run(
        [sys.executable, "-S", "-c", imports], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


def test_nowhere_to_write(bootable: None, tmp_path: Path) -> None:
    """A full disk, behind standard output or where the machine's files go, is said and is 1."""
    with open("/dev/full", "wb") as full:
        words = _words("--topo", "1", "--", "echo", "hi")
        done = subprocess.run(
            words, cwd=CHECKOUT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert 1 == done.returncode
    assert done.stderr.endswith("lab: what the command says cannot be passed on: No space left on device\n")
    limited = [
        "sh",
        "-c",
        'ulimit -f 100 && trap "" XFSZ && exec "$@"',
        "sh",
        *_words("--topo", "1", "--", "true"),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(limited, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert done.stderr.endswith("File too large\n")
    assert 1 == done.stderr.count("\n")
    assert [] == list(tmp_path.iterdir())


def test_does_not_boot(bootable: None) -> None:
    """A machine that does not come up in time is 1."""
    done = _run("--topo", "1", "--boot-timeout", "0.5", "--", "true")
    assert 1 == done.returncode
    assert "not up within 0.5 s" in done.stderr


def test_interrupted(bootable: None, tmp_path: Path) -> None:
    """Ctrl-C, which reaches the whole process group, leaves no process and no file."""
    words = _words("--topo", "1", "--", "sh", "-c", "echo ready; sleep 600")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        words, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as running:
        assert running.stdout is not None
        assert b"ready\n" == running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        assert 130 == running.wait(30)
    deadline = time.monotonic() + 10
    marker = str(tmp_path).encode()
    while any(marker in _cmdline(one) for one in Path("/proc").iterdir() if one.name.isdecimal()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [] == list(tmp_path.iterdir())


def _cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
