"""
debugfs, wherever it is mounted, and where it is not: a mount that nobody sees and that goes with its descriptor.

Source: fsopen(2), fsmount(2); Documentation/filesystems/debugfs.rst.
"""

from __future__ import annotations

import os

from kvmaff.kernel.native import lib

__all__ = ["open_debugfs"]

_USUAL = "/sys/kernel/debug"
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_debugfs(folder: str) -> int | None:
    """
    Open a folder of debugfs.

    Args:
        folder: Its path there.

    Returns:
        A descriptor for reading, which the caller closes; None where there is no such folder or nobody may look.
    """
    fd: int = _mounted()
    if fd < 0 and not _filtered():
        # not where it is mounted anyway: before Linux 6.1 a second mount resets the first one's mode and owner
        fd = lib.ps_open_debugfs()
    if fd < 0:
        return None
    try:
        return os.open(folder, _FLAGS | os.O_NOFOLLOW, dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _filtered() -> bool:
    """Whether system calls are filtered: a filter may end whoever mounts, as systemd's @mount group does."""
    try:
        with open("/proc/self/status", "rb") as file:
            return any(line.split()[1:2] != [b"0"] for line in file if line.startswith(b"Seccomp:"))
    except OSError:
        return True


def _mounted() -> int:
    """Open it in its usual place, if that is what is mounted there: -1 otherwise."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            found = [
                line.partition(b" - ")[2].split(b" ")[0]
                for line in file.read(1 << 24).splitlines()
                if line.split(b" ")[4:5] == [_USUAL.encode()]
            ]
        return os.open(_USUAL, _FLAGS) if found[-1:] == [b"debugfs"] else -1
    except OSError:
        return -1
