"""
A tar archive that came from strangers, read in one pass.

The standard library's reader trusts its input more than we may: headers that point backwards or pile up keep it busy
for hours. Here every byte is looked at once, and what is no plain file or folder is refused by name.

Format: POSIX.1-2001 pax (ustar headers, ``x`` records of path and size), and GNU's long names, as
``tar``, ``bsdtar`` and Python write them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kvmaff.kernel.text import printable

__all__ = ["Refused", "members"]

_BLOCK = 512
_LONGEST = 1 << 16  # bytes of a header's own records
_MOST_RECORDS = 64  # of one header
_FILE, _FOLDER, _RECORDS, _DEFAULTS, _NAME = b"0", b"5", b"x", b"g", b"L"


class Refused(Exception):
    """Why an archive is not believed."""


def members(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """
    Read an archive.

    Args:
        data: The archive, not compressed.

    Returns:
        An iterator of (name as it stands there, content), with None for a folder.

    Raises:
        Refused: It is damaged, or has something else than plain files and folders.
    """
    at = 0
    said: dict[str, str] = {}
    before: list[bytes] = []  # what stands in front of a member
    while at < len(data):
        header = data[at : at + _BLOCK]
        if not header.strip(b"\0"):
            return
        kind, name, size = _header(header)
        if kind in (_FILE, _FOLDER):
            name = said.pop("path", name)
            size = _number(said.pop("size"), 10) if "size" in said else size
            said.clear()
            before = []
        elif kind in before:
            raise Refused("is damaged (several headers of one kind in front of a file)")
        else:
            before.append(kind)
        at += _BLOCK
        content = data[at : at + size]
        if len(content) < size:
            raise Refused("is cut short")
        at += (size + _BLOCK - 1) // _BLOCK * _BLOCK
        if kind in (_RECORDS, _DEFAULTS, _NAME) and size > _LONGEST:
            raise Refused("is damaged (a header of more than 64 KiB)")
        if kind == _RECORDS:
            said |= _records(content)
        elif kind == _NAME:
            said["path"] = os.fsdecode(content.rstrip(b"\0"))
        elif kind == _FOLDER or (kind == _FILE and name.endswith("/")):
            yield name, None
        elif kind == _FILE:
            yield name, content
        elif kind != _DEFAULTS:
            raise Refused(f"has something else than plain files and folders: {printable(os.fsencode(name))}")
    raise Refused("is cut short")


def _header(header: bytes) -> tuple[bytes, str, int]:
    """Return type, name and size; the checksum tells damage, and that it is a tar at all."""
    blank = header[:148] + b" " * 8 + header[156:]
    if len(header) < _BLOCK or sum(blank) != _number(header[148:156].decode("latin-1")):
        raise Refused("is damaged (a header's checksum is wrong)")
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    kind = header[156:157].replace(b"\0", _FILE)
    return (
        kind,
        os.fsdecode(prefix + b"/" + name if prefix else name),
        _number(header[124:136].decode("latin-1")),
    )


def _number(text: str, base: int = 8) -> int:
    digits = text.strip(" \0")
    if (
        not digits.isascii()
        or not digits.isdigit()
        or len(digits) > 12
        or (base == 8 and set(digits) & {"8", "9"})
    ):
        raise Refused("is damaged (a number makes no sense)")
    return int(digits, base)


def _records(content: bytes) -> dict[str, str]:
    """Return what ``LENGTH KEY=VALUE`` records say of path and size."""
    said: dict[str, str] = {}
    at = 0
    for _ in range(_MOST_RECORDS):
        if at == len(content):
            return said
        space = content.find(b" ", at, at + 8)
        length = content[at:space] if space > 0 else b""
        record = content[space + 1 : at + int(length)] if length.isdigit() else b""
        if not record.endswith(b"\n"):
            raise Refused("is damaged (a header's record makes no sense)")
        key, _, value = record[:-1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise Refused("has something else than plain files and folders: a sparse file")
        if key in (b"path", b"size"):
            said[key.decode()] = os.fsdecode(value)
        at += int(length)
    raise Refused("is damaged (too many records in a header)")
