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
    for root in (_mounted, lib.ps_open_debugfs):
        fd: int = root()
        if fd < 0:
            continue
        try:
            return os.open(folder, _FLAGS | os.O_NOFOLLOW, dir_fd=fd)
        except OSError:
            continue
        finally:
            os.close(fd)
    return None


def _mounted() -> int:
    """Open it in its usual place, if that is what is mounted there: -1 otherwise."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            found = [
                line.partition(b" - ")[2].split(b" ")[0]
                for line in file.read(1 << 20).splitlines()
                if line.split(b" ")[4:5] == [_USUAL.encode()]
            ]
        return os.open(_USUAL, _FLAGS) if found[-1:] == [b"debugfs"] else -1
    except OSError:
        return -1
