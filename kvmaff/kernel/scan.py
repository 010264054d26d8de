"""
Processes and threads, listed in bulk.

Rules:

* a thread is (tid, d_ino, start): any other thread that gets its number differs in one of the last two;
* start times count clock ticks after boot. A thread that started before tick ``seen``, sampled before it was
  looked at, is known for ever by its start alone: a later owner of its number started at ``seen`` or later;
* a name that was read soon after its thread was first seen is read again: a new thread has its creator's until it gives
  itself one (0.06-4 ms were seen);
* below a recorded root nothing is asked of the running kernel: what a tid means there is not ours.

Whoever scans by another way than /proc (a BPF task iterator, say) fills the same rows in :class:`Scanner`'s place.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, HostReadError, Unsupported
from kvmaff.kernel.masks import mask_words, read_masks
from kvmaff.kernel.native import ffi, lib
from kvmaff.kernel.tasks import Tasks

__all__ = ["Proc", "Scanner", "ticks_now"]

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE_NS = 20_000_000
_WORKERS = ffi.new("char[]", b"vhost-\0kvm-\0iou-\0io_\0")
"""How names of kernel workers inside a process begin; a flag of the kernel's says whether one is."""
_WEIGHT = 8  # threads that a process is thought to have that was never seen
_TRIES = 8
_LINKS_ROOM = 1 << 16


def ticks_now() -> int:
    """
    The time in the unit of start times.

    Returns:
        Clock ticks after boot, suspended time included (proc(5), stat field 22).
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


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
            self.close()
            raise Unsupported(
                "/proc shows another pid namespace than this process lives in: its numbers name other threads here. "
                "Mount the namespace's own (mount -t proc proc /proc, or unshare --mount-proc)"
            )

    def _self(self) -> int:
        """Our number there; 0 where we have another one in a pid namespace below it, were it by chance the same."""
        for line in (self.read("self/status") or b"").splitlines():
            if line.startswith(b"NSpid:") and len(line.split()) > 2:
                return 0
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
        self.close()

    def close(self) -> None:
        """Close it; a second time does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

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
        The threads of processes, with all that their stat says, without masks.

        Args:
            pids: The processes; those that are gone have no threads.

        Returns:
            Their threads, process by process in ascending order, in order of number: the main thread is the first of
            each unless numbers have wrapped around.

        Raises:
            HostReadError: They start threads faster than these can be listed.
        """
        return Scanner(self, stats=True, masks=False).scan(pids)

    def links(self, pids: Sequence[int], name: str) -> Iterator[tuple[bytes, int]]:
        """
        A link of each process, such as ``exe``.

        Args:
            pids: The processes.
            name: The link.

        Returns:
            For each where it leads, and 0; or nothing and the errno with which it could not be read.
        """
        rest = ffi.new("int32_t[]", list(pids) or 1)
        errors = ffi.new("int32_t[]", len(pids) or 1)
        text = ffi.new("char[]", _LINKS_ROOM)
        at = 0
        while at < len(pids):
            count = lib.ps_links(self.fd, rest + at, len(pids) - at, name.encode(), text, _LINKS_ROOM, errors)
            found = bytes(ffi.buffer(text)).split(b"\0", count)
            for place in range(count):
                yield found[place], -errors[place]
            at += count

    def holders(self, pids: Sequence[int], link: str) -> dict[int, int | OSError]:
        """
        Which processes hold a descriptor that leads somewhere, such as to a KVM VM.

        Args:
            pids: The processes.
            link: What the descriptor's link says.

        Returns:
            By process its first such descriptor, or the error with which that could not be looked at; nothing for
            those that hold none or are gone.
        """
        fds, errors = ffi.new("int32_t[]", len(pids) or 1), ffi.new("int32_t[]", len(pids) or 1)
        numbers = ffi.new("int32_t[]", list(pids) or 1)
        lib.ps_holds(self.fd, numbers, len(pids), link.encode(), fds, errors)
        found: dict[int, int | OSError] = {}
        for pid, fd, error in zip(
            pids, ffi.unpack(fds, len(pids)), ffi.unpack(errors, len(pids)), strict=True
        ):
            if fd >= 0:
                found[pid] = fd
            elif error and -error not in (errno.ENOENT, errno.ESRCH):
                found[pid] = OSError(-error, os.strerror(-error))
        return found

    def masks(self, tasks: Tasks) -> Sequence[CpuSet | None]:
        """
        The affinity of threads whose masks were not read with them.

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

    def start_of(self, pid: int) -> int:
        """
        When a process started.

        Args:
            pid: The process.

        Returns:
            Clock ticks after boot; 0 where there is none.
        """
        numbers = (self.read(f"{pid}/stat") or b"").rpartition(b")")[2].split()
        return int(numbers[19]) if len(numbers) > 19 and numbers[19].isdigit() else 0

    def process_of(self, tid: int) -> int | None:
        """
        The process that a thread belongs to: /proc answers for threads as if they were processes.

        Args:
            tid: The thread.

        Returns:
            Its number, or None where there is none.
        """
        for line in (self.read(f"{tid}/status") or b"").splitlines():
            if line.startswith(b"Tgid:"):
                number = line.partition(b":")[2].strip()
                return int(number) if number.isdigit() else None
        return None

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


class Scanner:
    """
    Looks at the threads of processes again and again.

    The first look reads every name. A later one lists all threads, but reads a name only where a thread is new, or was
    new so lately that it may have changed its name since, which is a twentieth of the work. Masks are read each time.

    Args:
        proc: The open /proc.
        threads: How many threads of ours share the work. Two are worth it for a first look at thousands.
        stats: Read start, flags, state and last CPU too, at half as much again for each name that is read. A thread
            that was seen before keeps its start and flags; its state and last CPU are not told again.
        masks: Read masks; only of the running machine.
    """

    def __init__(self, proc: Proc, *, threads: int = 1, stats: bool = False, masks: bool = True) -> None:
        self._proc = proc
        self._threads = threads
        self._stats = stats
        self._words = mask_words() if masks and proc.live else 0
        self._last: Tasks | None = None
        self._lasted = 0  # the longest look: by that a thread may be younger than its row says

    def scan(self, pids: Iterable[int], anew: Collection[int] = ()) -> Tasks:
        """
        Look at the threads of processes.

        Args:
            pids: The processes; those that are gone have no threads.
            anew: Those of them to read anew, whatever is known: exec(2) keeps a thread's number and inode number.

        Returns:
            Their threads, process by process in ascending order, in order of number.

        Raises:
            HostReadError: They start threads faster than these can be listed.
        """
        wanted = sorted({pid for pid in pids if 0 < pid < 1 << 31})
        # held here until the sweep is over; what fails or is interrupted is followed by a look at everything
        last, self._last = self._last, None
        known = last.counts if last else {}
        weights = ffi.new("int32_t[]", [known.get(pid, 0) or _WEIGHT for pid in wanted] or 1)
        sweep, _kept = self._sweep(wanted, anew, last)
        sweep.weights = weights
        if not known:
            lib.ps_weigh(self._proc.fd, sweep.pids, len(wanted), weights)
        for number in range(_TRIES):
            tasks = self._try(sweep, wanted)
            if tasks is not None:
                self._last = tasks
                self._lasted = max(self._lasted, time.monotonic_ns() - sweep.now)
                return tasks
            lib.ps_weigh(self._proc.fd, sweep.pids, len(wanted), weights)
            for place, pid in enumerate(wanted):
                if not weights[place]:  # also where a file system counts no links
                    count = lib.ps_list(self._proc.fd, b"%d/task" % pid, ffi.NULL, ffi.NULL, 0)
                    weights[place] = max(count, 0)
                weights[place] = (weights[place] + _WEIGHT) << number
        raise HostReadError("/proc: processes start threads faster than these can be listed", path="/proc")

    def _sweep(self, wanted: list[int], anew: Collection[int], last: Tasks | None) -> tuple[Any, list[Any]]:
        """Return what to do, and what must live as long as that is used: cffi frees it otherwise."""
        sweep = ffi.new("struct ps_sweep *")
        kept = [ffi.new("int32_t[]", wanted or 1), ffi.new("int32_t[]", len(wanted) or 1)]
        sweep.pids, sweep.counts = kept
        sweep.n = len(wanted)
        if last:
            sweep.old, sweep.old_count = last.rows, len(last)
        if anew:
            kept.append(ffi.new("uint8_t[]", [pid in anew for pid in wanted] or 1))
            sweep.anew = kept[-1]
        sweep.workers = _WORKERS
        sweep.now, sweep.settle = time.monotonic_ns(), _SETTLE_NS + self._lasted
        sweep.words = self._words
        sweep.what = lib.PS_STATS if self._stats else 0
        sweep.threads = self._threads
        return sweep, kept

    def _try(self, sweep: Any, wanted: list[int]) -> Tasks | None:
        """Return the threads, or None where there is not room for them."""
        seen = ticks_now()
        cap = sum(lib.ps_room(sweep.weights[place]) for place in range(len(wanted)))
        # every row and mask that counts is written: zeros first would cost a tenth of the work
        rows = _uncleared("struct ps_task[]", cap or 1)
        masks = _uncleared("uint64_t[]", cap * self._words or 1) if self._words else None
        sweep.rows, sweep.cap = rows, cap
        sweep.masks = ffi.NULL if masks is None else masks
        count = lib.ps_sweep(self._proc.fd, sweep)
        if count == -errno.ENOSPC:
            return None
        if count < 0:
            raise HostReadError(f"/proc: {os.strerror(-count)}", path="/proc")
        counts = dict(zip(wanted, ffi.unpack(sweep.counts, len(wanted)), strict=True))
        errors = {
            pid: -found
            for pid, found in counts.items()
            if found < 0 and -found not in (errno.ENOENT, errno.ESRCH)
        }
        return Tasks(
            rows,
            count,
            seen,
            errors=errors,
            counts={pid: found for pid, found in counts.items() if found > 0},
            masks=masks,
            words=self._words,
        )


_uncleared = ffi.new_allocator(should_clear_after_alloc=False)
