"""What the machine runs first: busybox, kernel modules and ``init.sh`` in a cpio archive."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from .kernels import Kernel

__all__ = ["initramfs"]

_INIT = Path(__file__).with_name("init.sh")
_FOLDER, _FILE, _PROGRAM = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFREG | 0o755


def initramfs(kernel: Kernel, busybox: Path, *, share: Path, agent: list[str]) -> bytes:
    """
    Return the archive. Not compressed: that would cost more time than it saves.

    Args:
        kernel: Whose modules are to be loaded.
        busybox: A static one.
        share: The folder that the machine and the host both write.
        agent: The command line of what runs when the host's files are there.
    """
    conf = f"SHARE={shlex.quote(str(share))}\nAGENT={shlex.quote(shlex.join(agent))}\n"
    entries = [(name, _FOLDER, b"") for name in ("bin", "dev", "proc", "sys", "modules")]
    entries += [
        ("bin/busybox", _PROGRAM, busybox.read_bytes()),
        ("init", _PROGRAM, _INIT.read_bytes()),
        ("lab.conf", _FILE, conf.encode()),
    ]
    entries += [(f"modules/{module.name}", _FILE, module.read_bytes()) for module in kernel.modules]
    return b"".join(_cpio([*entries, ("TRAILER!!!", 0, b"")]))


def _cpio(entries: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Yield an archive in the format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    for number, (name, mode, content) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        # ino mode uid gid nlink mtime filesize maj min rmaj rmin namesize chksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        yield head + bytes(-len(head) % 4)
        yield content + bytes(-len(content) % 4)
