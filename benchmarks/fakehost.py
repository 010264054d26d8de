"""Starts ``fakehost.c``: a host full of processes called as VMMs are, all of them asleep and all of them ours."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _measure import HERE, compiled

VMMS = 200
OTHERS = 500
THREADS = 50
"""Of each VMM; fakehost.c has their names."""

_HOMES = ("/run", "/var/lib", "/opt", "/root")
_END_SECONDS = 30


@contextlib.contextmanager
def fakehost(work: Path, vmms: int = VMMS, others: int = OTHERS) -> Iterator[list[int]]:
    """
    Fill this machine with fake VMMs.

    Args:
        work: A private folder, for the program.
        vmms: How many.
        others: How many other processes.

    Yields:
        The process numbers of the fake VMMs: whatever is changed may be changed of these alone.

    Raises:
        RuntimeError: They did not come up.
    """
    home = _home()
    if home is None:
        home = tempfile.gettempdir()
        print(f"in {home} no executable is believed to be a VMM: guests will be doubted", file=sys.stderr)
    program = compiled(HERE / "fakehost.c", work)
    # a session of its own: Ctrl-C is ours to act on, and ends it by its standard input
    process = subprocess.Popen(
        [program, home, str(vmms), str(others)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        if process.stdout.readline().split() != [b"%d" % vmms, b"%d" % others]:
            raise RuntimeError("the fake host did not come up")
        yield [int(pid) for pid in process.stdout.readline().split()]
    finally:
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        finally:
            process.kill()  # nothing where it ended; its processes end with it
            process.stdout.close()


def _home() -> str | None:
    """Return a folder where only root can have put an executable, and where it may be executed."""
    if os.geteuid() != 0:
        return None
    for home in _HOMES:
        folder = Path(home).resolve()
        if not folder.is_dir() or os.statvfs(folder).f_flag & os.ST_NOEXEC:
            continue
        infos = [each.stat() for each in (folder, *folder.parents)]
        if all(info.st_uid == 0 and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for info in infos):
            return str(folder)
    return None
