"""
A machine in one file: a tar archive of its sys and proc, compressed.

``kvmaff capture`` writes xz; gzip and bzip2 are read too, and one folder around sys and proc, as people pack recorded
machines. Nothing is unpacked to disk. The file comes from strangers: how much it may unpack to, of how many files, how
large and how deep, is bounded; whatever is no plain file or folder, or leads out of the archive, is refused.
"""

from __future__ import annotations

import bz2
import lzma
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from kvmaff.errors import HostReadError
from kvmaff.host.tarball import Refused, members
from kvmaff.host.tree import BIG, Tree
from kvmaff.kernel.text import printable

__all__ = ["DEEPEST", "MOST_BYTES", "MOST_FILES", "ArchiveTree"]

MOST_BYTES = 1 << 27
"""Bytes that an archive may unpack to."""
MOST_FILES = 1 << 17
"""Files and folders that it may have."""
DEEPEST = 24
"""How deep a file may lie."""
_MOST_PACKED = 1 << 26
_MOST_MEMORY = 1 << 28  # of the decompressor
_LONGEST = 1024  # characters of a path
_MOST_NAMES = 1 << 23  # characters of all paths
_Files = tuple[dict[str, bytes], dict[str, set[str]]]


class ArchiveTree(Tree):
    """
    The files in an archive.

    Args:
        root: The archive's path.

    Raises:
        HostReadError: It is no archive of a machine, or breaks a bound.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        try:
            fd = os.open(root, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                self._files, self._folders = _unpacked(file)
        except Refused as error:
            raise HostReadError(
                f"{root}: {error}; a capture is a file that kvmaff capture made", path=root
            ) from None
        except OSError as error:
            raise HostReadError(f"{root}: {error.strerror or error}", path=root) from error

    def read(self, path: str, limit: int = 1 << 16) -> bytes | None:
        """
        What a file holds.

        Args:
            path: Relative to the root.
            limit: Bytes that it may have at most.

        Returns:
            The bytes; None where it is missing or longer.
        """
        data = self._files.get(path)
        return None if data is None or len(data) > limit else data

    def names(self, path: str) -> list[str]:
        """
        What a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            The names, in no order; none where there is no such folder.
        """
        return list(self._folders.get(path.strip("/"), ()))

    def folders(self, path: str) -> list[str]:
        """
        What folders a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            Their names, in no order.
        """
        path = path.strip("/")
        return [name for name in self.names(path) if f"{path}/{name}".lstrip("/") in self._folders]


_last: dict[tuple[int, ...], _Files] = {}  # placing on a captured host opens it several times


def _unpacked(file: BinaryIO) -> _Files:
    info = os.fstat(file.fileno())
    if not stat.S_ISREG(info.st_mode):
        raise Refused("is no plain file")
    key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    if key not in _last:
        found = _unpack(file.read(_MOST_PACKED + 1))
        _last.clear()
        _last[key] = found
    return _last[key]


def _unpack(packed: bytes) -> _Files:
    if len(packed) > _MOST_PACKED:
        raise Refused(f"is longer than {_MOST_PACKED >> 20} MiB")
    files: dict[str, bytes] = {}
    folders: dict[str, set[str]] = {}
    for name, data in _named(members(_decompressed(packed))):
        parts = name.split("/")
        for depth, part in enumerate(parts):
            folders.setdefault("/".join(parts[:depth]), set()).add(part)
        if data is None:
            folders.setdefault(name, set())
        else:
            files[name] = data
    return _without_wrapper(files, folders)


def _decompressed(packed: bytes) -> bytes:
    if packed.startswith(b"\xfd7zXZ\0"):
        machine: Any = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
    elif packed.startswith(b"\x1f\x8b"):
        machine = zlib.decompressobj(31)
    elif packed.startswith(b"BZh"):
        machine = bz2.BZ2Decompressor()
    else:
        raise Refused("is neither a folder nor a compressed archive")
    try:
        data: bytes = machine.decompress(packed, MOST_BYTES + 1)
    except (lzma.LZMAError, zlib.error, OSError, ValueError, EOFError) as error:
        raise Refused(f"is damaged ({printable(str(error).encode(errors='replace'))})") from None
    if len(data) > MOST_BYTES:
        raise Refused(f"unpacks to more than {MOST_BYTES >> 20} MiB")
    if not machine.eof:
        raise Refused("is cut short")
    if machine.unused_data.strip(b"\0"):
        raise Refused("has more than one compressed stream; pack it by one xz, gzip or bzip2")
    return data


def _named(found: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, bytes | None]]:
    """Give what has a name that may be believed, and no more of it than the bounds allow."""
    names = 0
    for count, (raw, data) in enumerate(found):
        names += len(raw)
        name = raw.removeprefix("./").rstrip("/")
        shown = printable(os.fsencode(raw))
        parts = name.split("/")
        if count >= MOST_FILES or names > _MOST_NAMES:
            raise Refused(f"has more than {MOST_FILES} files, or names of more than {_MOST_NAMES >> 20} MiB")
        if data is None and name in ("", "."):
            continue
        if raw.startswith("/") or any(part in ("", ".", "..") for part in parts):
            raise Refused(f"has a file that leads out of it: {shown}")
        if len(parts) > DEEPEST or len(name) > _LONGEST:
            raise Refused(f"has a file deeper than {DEEPEST} folders or with too long a name: {shown}")
        if data is not None and len(data) > BIG:
            raise Refused(f"has a file of more than {BIG >> 20} MiB: {shown}")
        yield name, data


def _without_wrapper(files: dict[str, bytes], folders: dict[str, set[str]]) -> _Files:
    """Take off one folder that stands around sys and proc."""
    top = folders.get("", set())
    if "sys" in top or len(top) != 1:
        return files, folders
    wrapper = f"{next(iter(top))}/"
    return (
        {name.removeprefix(wrapper): data for name, data in files.items()},
        {
            name.removeprefix(wrapper) if name != wrapper[:-1] else "": names
            for name, names in folders.items()
            if name
        },
    )
