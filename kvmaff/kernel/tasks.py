"""
Threads in bulk: one packed array, and a value made of a row when somebody takes it.

A value for each of ten thousand threads costs as much as asking the kernel for all of them; most are never looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, overload

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.kernel.native import ffi, lib
from kvmaff.kernel.text import printable

__all__ = [
    "PF_IO_WORKER",
    "PF_KTHREAD",
    "PF_NO_SETAFFINITY",
    "PF_USER_WORKER",
    "Masks",
    "Task",
    "Tasks",
]

PF_KTHREAD = 0x00200000
"""Flag of a kernel thread (include/linux/sched.h)."""
PF_NO_SETAFFINITY = 0x04000000
"""Flag of a thread whose mask nobody may change."""
PF_USER_WORKER = 0x00004000
"""Flag of a kernel worker inside a process, since Linux 6.4: vhost, kvm-nx-lpage."""
PF_IO_WORKER = 0x00000010
"""Flag of an io_uring worker, called iou-*, inside a process, since Linux 5.12; before, of a vCPU in guest mode."""

_ROW = ffi.sizeof("struct ps_task")
_FIELDS = struct.Struct("@QQ8xIiiii4x2xBB68s")  # struct ps_task, but for since, mask_err, told and settled
_INTS = _ROW // 4
_NAME = ffi.sizeof(ffi.typeof("struct ps_task").fields[-1][1].type)


@attrs.frozen(kw_only=True)
class Task:
    """
    One thread at the moment it was looked at.

    Attributes:
        pid: Its process.
        tid: Its number.
        ino: Inode number of its /proc folder.
        start: Clock ticks after boot; 0 where it was not read.
        name: Its comm, made printable.
        flags: The kernel's PF flags; 0 where they were not read, which a kernel worker's are.
        state: One letter, as in proc(5); empty where it was not read.
        cpu: The CPU it ran on last, or None.
        error: 0, or the errno with which it could not be read; ESRCH: it has ended.
    """

    pid: int
    tid: int
    ino: int
    start: int
    name: str
    flags: int
    state: str
    cpu: int | None
    error: int

    @property
    def alive(self) -> bool:
        """Whether it could be read and has not ended (a zombie has)."""
        return self.error == 0 and self.state not in ("Z", "X")


class Masks(Sequence[CpuSet | None]):
    """
    Affinity masks in one packed array; a CpuSet is made when one is taken.

    Args:
        raw: The masks, one behind the other, in the kernel's binary form.
        words: 64-bit words of each.
        count: How many there are.
        errors: For each 0, or the errno with which it could not be read.
    """

    def __init__(self, raw: Any, words: int, count: int, errors: Sequence[int]) -> None:
        self.raw = raw
        self.words = words
        self._count = count
        self._errors = errors
        self._made: dict[bytes, CpuSet] = {}  # thousands of threads have a few masks

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> CpuSet | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[CpuSet | None]: ...
    def __getitem__(self, index: int | slice) -> CpuSet | list[CpuSet | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        place = _place(index, self._count)
        if self._errors[place]:
            return None
        raw = self.words_of(place)
        if raw not in self._made:
            self._made[raw] = CpuSet.from_words(raw)
        return self._made[raw]

    def words_of(self, place: int) -> bytes:
        """
        One mask in the kernel's binary form.

        Args:
            place: Which one.

        Returns:
            Its bytes, zeros where it could not be read: equal where masks are equal.
        """
        return self.raw_of(place, 1)

    def raw_of(self, first: int, count: int) -> bytes:
        """
        Some masks in the kernel's binary form: equal where nothing has changed.

        Args:
            first: The first.
            count: How many.

        Returns:
            Their bytes.
        """
        size = 8 * self.words
        return bytes(ffi.buffer(self.raw)[first * size : (first + count) * size])


class Tasks(Sequence[Task]):
    """
    Threads in one packed array, process by process, those of a process in order of number.

    Args:
        rows: The array of ``struct ps_task``.
        count: How many of its rows count.
        seen: Clock ticks after boot, sampled before the first of them was looked at.
        errors: errno by process, where its threads could not be listed although it may be there.
        counts: For each process that was asked for, in ascending order, how many of them are its own.
        masks: Their masks in the kernel's binary form; None where they were not read.
        words: 64-bit words of each mask.
    """

    def __init__(
        self,
        rows: Any,
        count: int,
        seen: int,
        *,
        errors: dict[int, int],
        counts: dict[int, int],
        masks: Any = None,
        words: int = 0,
    ) -> None:
        self.rows = rows
        self.seen = seen
        self.errors = errors
        self.counts = counts
        self._count = count
        self._raw = memoryview(ffi.buffer(rows))[: count * _ROW]
        self._masks = (masks, words)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        # a field at a time of cffi's costs four times as much as all of them at once
        ino, start, flags, pid, tid, cpu, err, state, length, comm = _FIELDS.unpack_from(
            self._raw, _place(index, self._count) * _ROW
        )
        return Task(
            pid=pid,
            tid=tid,
            ino=ino,
            start=start,
            name=printable(comm[:length]),
            flags=flags,
            state=chr(state) if state else "",
            cpu=cpu if cpu >= 0 else None,
            error=-err,
        )

    @property
    def masks(self) -> Masks:
        """
        What the kernel lets each of them run on, None where that could not be read.

        Raises:
            ValueError: They were not read.
        """
        raw, words = self._masks
        if raw is None:
            raise ValueError("the masks of these threads were not read")
        return Masks(raw, words, self._count, self._column("mask_err"))

    def tids(self) -> list[int]:
        """
        The thread numbers, without making a value for each thread.

        Returns:
            One for each thread, in order.
        """
        return self._column("tid").tolist()

    def names(self) -> list[bytes]:
        """
        The names as they are, without making a value for each thread.

        Returns:
            One for each thread, in order: raw bytes that may hold anything.
        """
        text = _uncleared("char[]", (_NAME + 1) * self._count or 1)
        used = lib.ps_names(self.rows, self._count, text)
        return bytes(ffi.buffer(text, used)).split(b"\0")[:-1]

    def raw(self, first: int, count: int) -> bytes:
        """
        Some rows as they are: equal where nothing has changed.

        Args:
            first: The first row.
            count: How many.

        Returns:
            Their bytes.
        """
        return bytes(self._raw[first * _ROW : (first + count) * _ROW])

    def _column(self, field: str) -> memoryview:
        """One 32-bit field of all rows, not copied."""
        return self._raw.cast("i")[ffi.offsetof("struct ps_task", field) // 4 :: _INTS]


_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


def _place(index: int, count: int) -> int:
    if not -count <= index < count:
        raise IndexError(f"thread {index} of {count}")
    return index % count
