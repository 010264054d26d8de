"""
Every thread of a machine: whose it is, where it may run and where it ran last.

On the running machine the kernel is asked; a capture has them written down. What costs a file for each thread (user,
parent, command line) is read for those threads only that somebody wants to see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import HostReadError
from kvmaff.fields import Fields
from kvmaff.host.tree import BIG, open_tree
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.tasks import PF_KTHREAD, PF_NO_SETAFFINITY, Task
from kvmaff.kernel.text import printable

__all__ = ["THREADS_FILE", "Thread", "read_threads", "threads_text", "with_details"]

THREADS_FILE = "kvmaff/threads.json"
"""Where a capture has them."""
_CMDLINE = 4096
_LONGEST = 512


@attrs.frozen(kw_only=True)
class Thread:
    """
    One thread.

    Attributes:
        pid: Its process.
        tid: Its number.
        name: Its comm, made printable.
        flags: The kernel's PF flags.
        cpu: The CPU it ran on last, or None.
        mask: The CPUs it may run on, or None where that could not be read.
        ppid: Its process's parent; None where it was not read.
        uid: Its real user; None where it was not read.
        args: Its command line, made printable; None where it was not read, empty for a kernel thread.
    """

    pid: int
    tid: int
    name: str
    flags: int
    cpu: int | None
    mask: CpuSet | None
    ppid: int | None = None
    uid: int | None = None
    args: str | None = None

    @property
    def kernel(self) -> bool:
        """Whether it is the kernel's own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def fixed(self) -> bool:
        """Whether nobody may change its mask (PF_NO_SETAFFINITY)."""
        return bool(self.flags & PF_NO_SETAFFINITY)


def read_threads(root: str) -> list[Thread]:
    """
    Read the threads of a machine, without details.

    Args:
        root: ``/``, or the root of a recorded machine.

    Returns:
        The threads, process by process; of a capture with what details it has.

    Raises:
        HostReadError: There is no /proc, or the capture is damaged or has no threads.
        Unsupported: /proc is that of another pid namespace.
    """
    if root != "/":
        with open_tree(root) as tree:
            data = tree.read(THREADS_FILE, BIG)
        if data is not None:
            return _parsed(data, f"{root}/{THREADS_FILE}")
        if not os.path.isdir(os.path.join(root, "proc")):
            raise _unrecorded(root)
    with Proc(root) as proc:
        pids = proc.pids()
        if root != "/" and not pids:
            raise _unrecorded(root)
        tasks = proc.tasks(pids)
        return [
            _thread(task, mask) for task, mask in zip(tasks, proc.masks(tasks), strict=True) if task.alive
        ]


def with_details(threads: Iterable[Thread], root: str) -> list[Thread]:
    """
    Add user, parent and command line to threads of a machine.

    Args:
        threads: The threads.
        root: ``/``, or the root of a recorded machine.

    Returns:
        The same threads; what cannot be read stays None.
    """
    found = list(threads)
    if root != "/" and not os.path.isdir(os.path.join(root, "proc")):
        return found  # a capture, which has what it has
    with Proc(root) as proc:
        return [thread if thread.uid is not None else _detailed(proc, thread) for thread in found]


def threads_text(threads: Iterable[Thread], *, command_lines: bool) -> str:
    """
    Write threads down.

    Args:
        threads: The threads.
        command_lines: Write their command lines, too.

    Returns:
        JSON.
    """
    data = []
    for thread in threads:
        fields = attrs.asdict(thread, recurse=False)
        fields["mask"] = None if thread.mask is None else str(thread.mask)
        fields["args"] = thread.args if command_lines else None
        data.append(fields)
    return json.dumps({"threads": data})


def _unrecorded(root: str) -> HostReadError:
    return HostReadError(f"{root}: nobody recorded what ran there (kvmaff capture does)", path=root)


def _thread(task: Task, mask: CpuSet | None) -> Thread:
    return Thread(pid=task.pid, tid=task.tid, name=task.name, flags=task.flags, cpu=task.cpu, mask=mask)


def _detailed(proc: Proc, thread: Thread) -> Thread:
    told = {}
    for line in (proc.read(f"{thread.pid}/task/{thread.tid}/status") or b"").splitlines():
        key, _, value = line.partition(b":")
        if key in (b"PPid", b"Uid") and value.split() and value.split()[0].isdigit():
            told[key] = int(value.split()[0])
    raw = proc.read(f"{thread.pid}/cmdline", _CMDLINE)
    args = None if raw is None else printable(raw.rstrip(b"\0").replace(b"\0", b" "), _LONGEST)
    return attrs.evolve(thread, ppid=told.get(b"PPid"), uid=told.get(b"Uid"), args=args)


def _parsed(data: bytes, path: str) -> list[Thread]:
    try:
        items = Fields(json.loads(data), "the file").items("threads")
        return [_recorded(Fields(item, f"thread {place}")) for place, item in enumerate(items)]
    except (ValueError, RecursionError) as error:
        raise HostReadError(f"{path}: {error}", path=path) from None


def _recorded(fields: Fields) -> Thread:
    args = fields.text_or_none("args")
    return Thread(
        pid=fields.number("pid", least=1),
        tid=fields.number("tid", least=1),
        name=printable(fields.text("name").encode(errors="replace")),
        flags=fields.number("flags"),
        cpu=fields.number_or_none("cpu"),
        mask=fields.cpus_or_none("mask"),
        ppid=fields.number_or_none("ppid"),
        uid=fields.number_or_none("uid"),
        args=None if args is None else printable(args.encode(errors="replace"), _LONGEST),
    )
