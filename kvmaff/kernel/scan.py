"""
Processes and threads, listed in bulk.

Rules:

* a thread is (tid, d_ino, start): any other thread that gets its number differs in one of the last two;
* start times count clock ticks after boot. A thread that started before tick ``seen``, sampled before it was
  looked at, is known for ever by its start alone: a later owner of its number started at ``seen`` or later;
* below a recorded root nothing is asked of the running kernel: what a tid means there is not ours.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, overload

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, HostReadError, Unsupported
from kvmaff.kernel.masks import read_masks
from kvmaff.kernel.native import ffi, lib
from kvmaff.kernel.text import printable

__all__ = ["PF_KTHREAD", "PF_NO_SETAFFINITY", "PF_WORKER", "Proc", "Task", "Tasks", "ticks_now"]

PF_KTHREAD = 0x00200000
"""Flag of a kernel thread (include/linux/sched.h)."""
PF_NO_SETAFFINITY = 0x04000000
"""Flag of a thread whose mask nobody may change."""
PF_WORKER = 0x00004000 | 0x00000010
"""Flags of a kernel worker inside a process: PF_USER_WORKER (vhost, kvm-nx-lpage) and PF_IO_WORKER."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TICKS = os.sysconf("SC_CLK_TCK")


def ticks_now() -> int:
    """
    The time in the unit of start times.

    Returns:
        Clock ticks after boot, suspended time included (proc(5), stat field 22).
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


@attrs.frozen(kw_only=True)
class Task:
    """
    One thread at the moment it was looked at.

    Attributes:
        pid: Its process.
        tid: Its number.
        ino: Inode number of its /proc folder.
        start: Clock ticks after boot; 0 where it could not be read.
        name: Its comm, made printable.
        flags: The kernel's PF flags.
        state: One letter, as in proc(5); empty where it could not be read.
        cpu: The CPU it ran on last, or None.
        error: 0, or the errno with which it could not be read.
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


class Tasks(Sequence[Task]):
    """
    Threads in one packed array; a :class:`Task` is made when one is taken.

    Args:
        rows: The array of ``struct ps_task``.
        count: How many of its rows count.
        seen: Ticks, sampled before the first of them was looked at.
        errors: errno by process, where its threads could not be listed although it may be there.
    """

    def __init__(self, rows: Any, count: int, seen: int, errors: dict[int, int] | None = None) -> None:
        self.rows = rows
        self.seen = seen
        self.errors = errors or {}
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"thread {index} of {self._count}")
        row = self.rows[index % self._count]
        return Task(
            pid=row.pid,
            tid=row.tid,
            ino=row.ino,
            start=row.start,
            name=printable(bytes(ffi.buffer(row.comm, row.comm_len))),
            flags=row.flags,
            state=chr(row.state) if row.state else "",
            cpu=row.cpu if row.cpu >= 0 else None,
            error=-row.err,
        )

    def tids(self) -> list[int]:
        """
        The thread numbers, without making a value for each thread.

        Returns:
            One for each thread, in order.
        """
        return [self.rows[i].tid for i in range(self._count)]


class Proc:
    """
    A /proc folder, open; a context manager.

    Args:
        root: ``/`` for the running machine, or the root of a recorded one.

    Raises:
        HostReadError: There is no proc folder.
        Unsupported: /proc is that of another pid namespace.
    """

    def __init__(self, root: str = "/") -> None:
        self.live = root == "/"
        path = os.path.join(root, "proc")
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostReadError(f"{path}: {error.strerror}", path=path) from error
        if self.live and self._self() != os.getpid():
            os.close(self.fd)
            raise Unsupported(
                "/proc shows another pid namespace than this process lives in: its numbers name other threads here. "
                "Mount the namespace's own (mount -t proc proc /proc, or unshare --mount-proc)"
            )

    def _self(self) -> int:
        try:
            return int(os.readlink("self", dir_fd=self.fd))
        except (OSError, ValueError):
            return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def pids(self) -> list[int]:
        """
        The processes.

        Returns:
            Their numbers, in ascending order; those this user may see.

        Raises:
            HostReadError: They cannot be listed.
        """
        try:
            ids, _ = self._list(".")
        except OSError as error:
            raise HostReadError(f"/proc: {error.strerror}", path="/proc") from error
        return sorted(ids)

    def tasks(self, pids: Iterable[int]) -> Tasks:
        """
        The threads of processes.

        Args:
            pids: The processes; those that are gone have no threads.

        Returns:
            Their threads, process by process, in order of number: the main thread is the first of each
            unless numbers have wrapped around.
        """
        seen = ticks_now()
        found, errors = [], {}
        for pid in pids:
            try:
                ids, inos = self._list(f"{pid}/task")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESRCH):
                    errors[pid] = error.errno or errno.EIO
                continue
            found += [(pid, tid, ino) for tid, ino in sorted(zip(ids, inos, strict=True))]
        rows = ffi.new("struct ps_task[]", max(len(found), 1))
        for row, (pid, tid, ino) in zip(rows, found, strict=False):
            row.pid, row.tid, row.ino = pid, tid, ino
        lib.ps_stat(self.fd, rows, len(found))
        return Tasks(rows, len(found), seen, errors)

    def masks(self, tasks: Tasks) -> list[CpuSet | None]:
        """
        The affinity of threads.

        Args:
            tasks: The threads.

        Returns:
            One set each: what the kernel lets it run on now (below a recorded root, what its status says);
            None where it could not be read.
        """
        if not self.live:
            return [self.status_mask(task.pid, task.tid) for task in tasks]
        return [mask for mask, _ in read_masks(tasks.tids())]

    def read(self, path: str, limit: int = 1 << 16) -> bytes | None:
        """
        What a file below /proc holds.

        Args:
            path: Relative to it.
            limit: Bytes to read at most.

        Returns:
            The bytes, or None where it is gone or may not be read.
        """
        try:
            fd = os.open(path, _FLAGS, dir_fd=self.fd)
        except OSError:
            return None
        data = b""
        try:
            # one read is not a whole file: procfs gives a page or so at a time
            while len(data) < limit and (chunk := os.read(fd, limit - len(data))):
                data += chunk
        except OSError:
            return None
        finally:
            os.close(fd)
        return data

    def status_mask(self, pid: int, tid: int) -> CpuSet | None:
        """
        The mask in a thread's status, which keeps CPUs that went offline.

        Args:
            pid: The process.
            tid: The thread.

        Returns:
            The mask, or None where it cannot be read.
        """
        status = self.read(f"{pid}/task/{tid}/status") or b""
        for line in status.splitlines():
            if line.startswith(b"Cpus_allowed_list:"):
                try:
                    return CpuSet.parse(line.partition(b":")[2].strip())
                except CpuTextError:
                    return None
        return None

    def _list(self, path: str) -> tuple[list[int], list[int]]:
        cap = 1024
        while True:
            ids, inos = ffi.new("int32_t[]", cap), ffi.new("uint64_t[]", cap)
            count = lib.ps_list(self.fd, path.encode(), ids, inos, cap)
            if count < 0:
                raise OSError(-count, os.strerror(-count))
            if count <= cap:
                return ffi.unpack(ids, count), ffi.unpack(inos, count)
            cap = count + 256
