"""Nothing is left behind, however the one that wanted it ends; any program stands in for QEMU here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KEEPER = str(Path(__file__).with_name("keeper.py"))

# A parent that starts a keeper of "sleep", says the keeper's number, and waits
PARENT = """
import os, subprocess, sys, time
keeper = subprocess.Popen([sys.executable, "-IS", sys.argv[1], str(os.getpid()), "sleep", "600"], stdin=subprocess.PIPE)
if sys.argv[2] == "held":  # a stranger that holds the pipe, so that its end says nothing
    subprocess.Popen(["sleep", "20"], pass_fds=[keeper.stdin.fileno()])
print(keeper.pid, flush=True)
time.sleep(600)
"""


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def _kept(keeper: int) -> int:
    """Return the process that a keeper keeps, when it is itself."""
    _until(lambda: [one for one in _children(keeper) if Path(f"/proc/{one}/comm").read_text() == "sleep\n"])
    (kept,) = _children(keeper)
    return kept


@pytest.mark.parametrize("held", ["held", "free"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_parent_ends(how: signal.Signals, held: str) -> None:
    """However the parent ends, keeper and program end too; also when a stranger holds the pipe."""
    words = [sys.executable, "-c", PARENT, KEEPER, held]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        keeper = int(parent.stdout.readline())
        kept = _kept(keeper)
        strangers = [one for one in _children(parent.pid) if one != keeper]
        parent.send_signal(how)
        parent.wait(10)
        _until(lambda: _gone(kept))
        _until(lambda: _gone(keeper))
        for one in strangers:
            os.kill(one, signal.SIGKILL)


def _start(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-IS", KEEPER, str(os.getpid()), *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_keeper_is_killed() -> None:
    """The kernel ends the program when the keeper itself is killed."""
    with _start("sleep", "600") as keeper:
        kept = _kept(keeper.pid)
        keeper.kill()
        keeper.wait(10)
        _until(lambda: _gone(kept))


def test_hung_up() -> None:
    """The end of the pipe is the end of the program, and the keeper says by which signal."""
    with _start("sleep", "600") as keeper:
        _kept(keeper.pid)
        assert keeper.stdin is not None
        keeper.stdin.close()
        assert 128 + signal.SIGKILL == keeper.wait(10)


def test_ends_by_itself() -> None:
    """The program's exit code is the keeper's; a program that is not there is said to be missing."""
    with _start("sh", "-c", "exit 7") as keeper:
        assert 7 == keeper.wait(10)
    with _start("/no/such/program") as keeper:
        assert 127 == keeper.wait(10)
        assert keeper.stderr is not None
        assert b"/no/such/program: No such file or directory\n" == keeper.stderr.read()
