"""
Affinity masks, read and set in bulk.

Rule: what the kernel accepted is not what it did. Every mask that is set is read back, and the thread is
proved to be the same one before and after (procscan.h, ps_bind).
Rule: a batch and what became of it are packed; a value is made of a row when somebody takes it.
"""

from __future__ import annotations

import enum
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Self, overload

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import Unsupported
from kvmaff.kernel.native import ffi, lib
from kvmaff.kernel.tasks import Tasks

__all__ = ["Batch", "Bind", "Bound", "Bounds", "Raw", "bind", "mask_words", "read_masks"]


class Raw(enum.Enum):
    """What became of one thread: enum ps_outcome of procscan.h."""

    UNTOUCHED = lib.PS_UNTOUCHED
    KEPT = lib.PS_KEPT
    SET = lib.PS_SET
    CLIPPED = lib.PS_CLIPPED
    GONE = lib.PS_GONE
    MOVED = lib.PS_MOVED
    REFUSED = lib.PS_REFUSED
    UNSURE = lib.PS_UNSURE
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


_BIND = ffi.sizeof("struct ps_bind")
_OUTCOME = struct.Struct(f"@{ffi.offsetof('struct ps_bind', 'outcome')}xii")


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


class Batch:
    """
    Threads and the masks that they shall have, packed, in order of process and thread.

    Args:
        rows: The array of ``struct ps_bind``.
        count: How many.
        want: Their masks in the kernel's binary form.
        expect: The masks they have now; None where any is to be replaced.
        order: Where each row stood in what was given; None where nothing was moved.
    """

    def __init__(
        self, rows: Any, count: int, want: bytes, expect: bytes | None, order: Sequence[int] | None = None
    ) -> None:
        self.rows = rows
        self.count = count
        self.want = want
        self.expect = expect
        self.order = order

    @classmethod
    def of(cls, rows: Sequence[Bind]) -> Self:
        """
        Pack values.

        Args:
            rows: The threads, in any order, none twice.

        Returns:
            The batch.

        Raises:
            ValueError: A wanted CPU lies beyond what this kernel can have.
        """
        order = sorted(range(len(rows)), key=lambda place: (rows[place].pid, rows[place].tid))
        items = ffi.new("struct ps_bind[]", max(len(rows), 1))
        for item, place in zip(items, order, strict=False):
            row = rows[place]
            item.pid, item.tid, item.ino, item.start = row.pid, row.tid, row.ino, row.start
        want, expect = (
            _words(rows[place].want for place in order),
            _words(rows[place].expect for place in order),
        )
        return cls(items, len(rows), want, expect, order)

    @classmethod
    def of_tasks(cls, tasks: Tasks, want: Sequence[CpuSet], expect: Sequence[CpuSet] | None = None) -> Self:
        """
        Pack what was scanned, without a value for each thread.

        Args:
            tasks: The threads, all of them.
            want: A mask for each.
            expect: The mask that each has now; None to replace any.

        Returns:
            The batch.

        Raises:
            ValueError: A wanted CPU lies beyond what this kernel can have, or there is not one mask for each.
        """
        count = len(tasks)
        if len(want) != count or (expect is not None and len(expect) != count):
            raise ValueError(f"{count} threads need {count} masks each")
        items = ffi.new("struct ps_bind[]", max(count, 1))
        lib.ps_prepare(tasks.rows, count, items)
        return cls(items, count, _words(want), None if expect is None else _words(expect))


def _words(masks: Iterable[CpuSet]) -> bytes:
    """Masks in the kernel's binary form; one that is the same object again costs next to nothing."""
    words = mask_words()
    known: dict[int, tuple[CpuSet, bytes]] = {}  # holds each, so that no other gets its id meanwhile
    found = []
    for mask in masks:
        pair = known.get(id(mask))
        if pair is None:
            pair = known[id(mask)] = (mask, mask.to_words(words))
        found.append(pair[1])
    return b"".join(found)


class Bounds(Sequence[Bound]):
    """
    What became of a batch; a value is made when one is taken.

    Args:
        batch: The batch, its rows filled in.
        after: The masks afterwards, in the order of its rows.
        done: How many have what was wanted.
    """

    def __init__(self, batch: Batch, after: Any, done: int) -> None:
        self.done = done
        self._count = batch.count
        self._rows = bytes(ffi.buffer(batch.rows))  # the batch may be bound again
        self._after = after
        self._places = None
        if batch.order is not None:
            self._places = {given: place for place, given in enumerate(batch.order)}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Bound: ...
    @overload
    def __getitem__(self, index: slice) -> list[Bound]: ...
    def __getitem__(self, index: int | slice) -> Bound | list[Bound]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"thread {index} of {len(self)}")
        place = index % len(self)
        if self._places is not None:
            place = self._places[place]
        outcome, error = _OUTCOME.unpack_from(self._rows, place * _BIND)
        size = 8 * mask_words()
        raw = bytes(ffi.buffer(self._after)[place * size : (place + 1) * size])
        return Bound(raw=Raw(outcome), error=-error, after=CpuSet.from_words(raw))


def bind(proc: int, batch: Batch | Sequence[Bind], seen: int) -> Bounds:
    """
    Bind threads, process by process: prove, read, set, read back, prove again.

    Args:
        proc: Descriptor of /proc.
        batch: The threads, packed or not.
        seen: Clock ticks after boot, sampled before the threads were looked at.

    Returns:
        One outcome each, in the order they were given in.

    Raises:
        ValueError: A wanted CPU lies beyond what this kernel can have, or a thread stands there twice.
    """
    if not isinstance(batch, Batch):
        batch = Batch.of(batch)
    words = mask_words()
    after = ffi.new("uint64_t[]", batch.count * words or 1)
    want = ffi.from_buffer("uint64_t[]", batch.want)
    expect = ffi.NULL if batch.expect is None else ffi.from_buffer("uint64_t[]", batch.expect)
    done = lib.ps_bind(proc, batch.rows, batch.count, seen, expect, want, after, words)
    if done < 0:
        raise ValueError("a thread stands in the batch twice")
    return Bounds(batch, after, done)
