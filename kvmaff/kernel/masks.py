"""
Affinity masks, read and set in bulk.

Rule: what the kernel accepted is not what it did. Every mask that is set is read back, and the thread is
proved to be the same one before and after (procscan.h, ps_bind).
"""

from __future__ import annotations

import enum
import functools
import os
from collections.abc import Sequence

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import Unsupported
from kvmaff.kernel.native import ffi, lib

__all__ = ["Bind", "Bound", "Raw", "bind", "mask_words", "read_masks"]


class Raw(enum.Enum):
    """What became of one thread: enum ps_outcome of procscan.h."""

    UNTOUCHED = lib.PS_UNTOUCHED
    KEPT = lib.PS_KEPT
    SET = lib.PS_SET
    CLIPPED = lib.PS_CLIPPED
    GONE = lib.PS_GONE
    MOVED = lib.PS_MOVED
    REFUSED = lib.PS_REFUSED
    STRAY = lib.PS_STRAY


@attrs.frozen(kw_only=True)
class Bind:
    """
    One thread that shall be bound.

    Attributes:
        pid: Its process.
        tid: Its number.
        ino: Inode number of its /proc folder when it was looked at; 0 where not known.
        start: Its start, clock ticks after boot.
        expect: The mask it has now; another one means that somebody else is at work.
        want: The mask it shall have.
    """

    pid: int
    tid: int
    ino: int
    start: int
    expect: CpuSet
    want: CpuSet


@attrs.frozen(kw_only=True)
class Bound:
    """
    What became of it.

    Attributes:
        raw: The outcome.
        error: 0, or the errno.
        after: The mask it has now, as far as it was read; empty otherwise.
    """

    raw: Raw
    error: int
    after: CpuSet


@functools.cache
def mask_words() -> int:
    """
    How wide the running kernel's masks are.

    Returns:
        64-bit words; wide enough to hold every CPU that this kernel can have.

    Raises:
        Unsupported: The kernel hands out no mask at all.
    """
    words: int = lib.ps_mask_words()
    if words < 0:
        raise Unsupported(f"sched_getaffinity fails: {os.strerror(-words)}")
    return words


def read_masks(tids: Sequence[int]) -> list[tuple[CpuSet | None, int]]:
    """
    Read the masks of threads.

    Args:
        tids: Their numbers.

    Returns:
        For each its mask, or None, and 0 or the errno with which it could not be read.
    """
    words, count = mask_words(), len(tids)
    masks = ffi.new("uint64_t[]", max(count * words, 1))
    errors = ffi.new("int32_t[]", max(count, 1))
    lib.ps_masks(ffi.new("int32_t[]", list(tids) or 1), count, masks, words, errors)
    raw = bytes(ffi.buffer(masks))
    size = 8 * words
    return [
        (None, -errors[i]) if errors[i] else (CpuSet.from_words(raw[i * size : (i + 1) * size]), 0)
        for i in range(count)
    ]


def bind(proc: int, rows: Sequence[Bind], seen: int) -> list[Bound]:
    """
    Bind threads: prove, read, set, prove, read back, each in turn.

    Args:
        proc: Descriptor of /proc.
        rows: The threads, those of one process together.
        seen: Clock ticks after boot, sampled before the threads were looked at.

    Returns:
        One outcome each, in order.

    Raises:
        ValueError: A wanted CPU lies beyond what this kernel can have.
    """
    words, count = mask_words(), len(rows)
    if not count:
        return []
    items = ffi.new("struct ps_bind[]", count)
    for item, row in zip(items, rows, strict=True):
        item.pid, item.tid, item.ino, item.start = row.pid, row.tid, row.ino, row.start
    expect = ffi.from_buffer("uint64_t[]", b"".join(row.expect.to_words(words) for row in rows))
    want = ffi.from_buffer("uint64_t[]", b"".join(row.want.to_words(words) for row in rows))
    after = ffi.new("uint64_t[]", count * words)
    done = lib.ps_bind(proc, items, count, seen, expect, want, after, words)
    if done < 0:
        raise OSError(-done, os.strerror(-done))
    raw = bytes(ffi.buffer(after))
    size = 8 * words
    return [
        Bound(
            raw=Raw(items[i].outcome),
            error=-items[i].err,
            after=CpuSet.from_words(raw[i * size : (i + 1) * size]),
        )
        for i in range(count)
    ]
