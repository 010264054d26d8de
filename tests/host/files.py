"""Writes the files of a small machine."""

from __future__ import annotations

from pathlib import Path

V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below a root, by path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def machine(root: Path, online: str = "0-7", files: dict[str, str | bytes] | None = None) -> Path:
    """Write a machine that names its CPUs, and more files."""
    return write(root, {"sys/devices/system/cpu/online": online, **(files or {})})
