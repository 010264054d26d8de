"""
Processes -> guests.

Every process is examined each time: a process that was no guest a moment ago may have become one by exec(2)
or by opening /dev/kvm. What is kept between two looks are names of threads that were there before, and the value of a
guest of which nothing has changed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.commandline import smp_said
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.guest.holders import How
from kvmaff.guest.proof import UNKNOWN_VMM, Evidence, Examiner
from kvmaff.guest.recorded import recorded_guests
from kvmaff.guest.roles import doubt_of, roles_of
from kvmaff.guest.vmm import BUILTIN, QEMU, Vmm
from kvmaff.kernel.scan import Proc, Scanner
from kvmaff.kernel.tasks import PF_KTHREAD, Task, Tasks
from kvmaff.kernel.text import printable

__all__ = ["Discovery", "Look", "find_guests"]

_CMDLINE = 1 << 18
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ORDER = {role: place for place, role in enumerate(Role)}


def find_guests(
    root: str = "/", *, vmms: Sequence[Vmm] = (), pids: Sequence[int] | None = None
) -> tuple[Guest, ...]:
    """
    Find the running guests, and what only claims to be one.

    Args:
        root: ``/``, or the root of a recorded machine, whose capture says what was found and proved then.
        vmms: VMMs to know beside the built-in ones.
        pids: Look at these processes only; None for all.

    Returns:
        The guests, in order of name and process; a guest that ends meanwhile is left out.

    Raises:
        HostReadError: There is no /proc, or a capture is damaged.
    """
    recorded = None if root == "/" else recorded_guests(root)
    if recorded is not None:
        return tuple(guest for guest in recorded.guests if pids is None or guest.pid in pids)
    with Discovery(root, vmms=vmms, stats=True) as discovery:
        return discovery.find(pids)


@attrs.frozen(kw_only=True)
class Look:
    """
    The processes that are or claim to be guests, at one moment.

    Attributes:
        evidence: What speaks for each being one, by process.
        tasks: Their threads; nothing is made of a thread until somebody takes it.
    """

    evidence: dict[int, Evidence]
    tasks: Tasks


@attrs.frozen(kw_only=True)
class _Known:
    """A guest as it was found, and what it was found from."""

    rows: bytes
    masks: bytes
    evidence: Evidence
    folders: tuple[str, ...] | None
    guest: Guest
    settled: bool  # whether looking again could tell more although no thread has changed


class Discovery:
    """
    Finds guests again and again, each time for what has changed; a context manager.

    Several Python threads may use one; they look one after the other. A thread that gives itself another name when it
    has lived for long keeps, here, the one by which it was known; only the main thread's is read each time.
    A guest whose main thread has ended while others run on can be found by debugfs only.

    Args:
        root: ``/``, or the root of a recorded machine.
        vmms: VMMs to know beside the built-in ones.
        threads: How many threads of ours share the work; two are worth it for the first look at thousands of threads.
            Each has a copy of this process's descriptors for these milliseconds, and closes it.
        stats: Read when each thread started and where it ran last, which binding a thread needs, at half as much again
            for each thread that was not there before. Where it ran last is told of such threads only.

    Raises:
        HostReadError: There is no /proc.
        Unsupported: /proc is that of another pid namespace.
    """

    def __init__(
        self, root: str = "/", *, vmms: Sequence[Vmm] = (), threads: int = 1, stats: bool = False
    ) -> None:
        self._vmms = (*vmms, *BUILTIN)
        self._lock = threading.Lock()
        self._proc = Proc(root)
        try:
            self._examiner = Examiner(self._proc, self._vmms)
            self._scanner = Scanner(self._proc, threads=threads, stats=stats)
        except BaseException:
            self._proc.close()
            raise
        self._known: dict[int, _Known] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._examiner.holders.close()
        self._proc.__exit__(kind, error, trace)

    @property
    def holders(self) -> How:
        """How the last look found out who holds a KVM VM."""
        return self._examiner.holders.how

    def look(self) -> Look:
        """
        Look at every thread of every guest, and make nothing of it.

        Returns:
            The guests' processes and threads, without those that only call themselves a guest.

        Raises:
            HostReadError: /proc cannot be listed.
        """
        with self._lock:
            return self._look(None, claims=False, always=False)

    def find(self, pids: Sequence[int] | None = None) -> tuple[Guest, ...]:
        """
        Find the running guests, and what only claims to be one.

        Args:
            pids: Look at these processes only; None for all.

        Returns:
            The guests, in order of name and process; a guest that ends meanwhile is left out. One of which nothing has
            changed since the last time is the same value.

        Raises:
            HostReadError: /proc cannot be listed.
        """
        with self._lock:
            return self._find(pids)

    def _find(self, pids: Sequence[int] | None) -> tuple[Guest, ...]:
        look = self._look(pids, claims=True, always=True)
        masks = look.tasks.masks if self._proc.live else self._proc.masks(look.tasks)
        known: dict[int, _Known] = {}
        first = 0
        for pid, count in look.tasks.counts.items():
            place, first = first, first + count
            rows = look.tasks.raw(place, count)
            raw = look.tasks.masks.raw_of(place, count) if self._proc.live else b""
            old = self._known.get(pid)
            folders = self._examiner.holders.folders(pid)
            if (
                old
                and old.settled
                and (old.rows, old.masks, old.evidence, old.folders)
                == (rows, raw, look.evidence[pid], folders)
            ):
                known[pid] = old
                continue
            own = [(task, masks[at]) for at in range(place, place + count) if (task := look.tasks[at]).alive]
            if own and not own[0][0].flags & PF_KTHREAD:
                guest, settled = self._guest(pid, look.evidence[pid], own, look.tasks)
                known[pid] = _Known(
                    rows=rows,
                    masks=raw,
                    evidence=look.evidence[pid],
                    folders=folders,
                    guest=guest,
                    settled=settled,
                )
        self._known = known
        return tuple(sorted((one.guest for one in known.values()), key=lambda guest: (guest.name, guest.pid)))

    def _look(self, pids: Sequence[int] | None, *, claims: bool, always: bool) -> Look:
        processes = self._proc.pids() if pids is None else sorted({pid for pid in pids if 0 < pid < 1 << 31})
        evidence, changed = self._examiner.examine(processes, claims=claims, always=always)
        for pid in changed:
            self._known.pop(pid, None)
        return Look(evidence=evidence, tasks=self._scanner.scan(evidence, anew=changed))

    def _guest(
        self, pid: int, evidence: Evidence, own: list[tuple[Task, CpuSet | None]], tasks: Tasks
    ) -> tuple[Guest, bool]:
        # the main thread is first among the emulator's, also after thread numbers wrapped around
        own = sorted(own, key=lambda item: (item[0].tid != pid, item[0].tid))
        names = [task for task, _ in own]
        vmm = evidence.vmm or self._by_threads(names) or QEMU
        words = (self._proc.read(f"{pid}/cmdline", _CMDLINE) or b"").split(b"\0")
        smp = smp_said(words)
        vcpus = self._examiner.holders.vcpus(pid)
        told = roles_of(vmm, names, vcpus)
        threads = [
            GuestThread(
                pid=task.pid,
                tid=task.tid,
                ino=task.ino,
                start=task.start,
                role=one.role,
                index=one.index,
                name=task.name,
                mask=mask,
                cpu=task.cpu,
                source=one.source,
            )
            for (task, mask), one in zip(own, told, strict=True)
        ]
        threads.sort(key=lambda thread: (_ORDER[thread.role], -1 if thread.index is None else thread.index))
        guest = Guest(
            name=_name(words, vmm) or f"pid:{pid}",
            uuid=_uuid(words),
            pid=pid,
            start=(names[0].start if names[0].tid == pid else 0) or self._proc.start_of(pid),
            seen=tasks.seen,
            vmm=evidence.vmm.name if evidence.vmm else UNKNOWN_VMM,
            kvm=evidence.kvm,
            verified=evidence.why is None,
            why=evidence.why,
            doubt=doubt_of(
                vmm,
                names,
                told,
                vcpus,
                held=lambda: self._examiner.vcpu_descriptors(pid),
                most=smp.topology.maxcpus if smp else None,
            ),
            threads=tuple(threads),
            max_vcpus=dict(smp.given).get("maxcpus") if smp else None,
        )
        return guest, vcpus is None or (bool(vcpus) and 0 not in vcpus.values())

    def _by_threads(self, names: Sequence[Task]) -> Vmm | None:
        """Guess whose way of naming an unknown VMM follows."""
        for vmm in self._vmms:
            if any(vmm.vcpu_index(task.name) is not None for task in names):
                return vmm
        return None


def _name(words: Sequence[bytes], vmm: Vmm) -> str | None:
    """Return the guest's name from the command line: ``-name guest=G,…``, where ``,,`` is a comma; ``--id G``."""
    found = None
    options = {option.encode() for option in vmm.name_options}
    for word, following in pairwise(words):
        if word in options:
            found = following
        elif word.startswith(b"--") and word.partition(b"=")[0] in options and b"=" in word:
            found = word.partition(b"=")[2]
    if not found:
        return None
    parts = found.replace(b",,", b"\0").split(b",")
    name = b"" if b"=" in parts[0] else parts[0]
    for part in parts:
        key, _, value = part.partition(b"=")
        if key == b"guest":
            name = value
    return printable(name.replace(b"\0", b",")) or None


def _uuid(words: Sequence[bytes]) -> str | None:
    found = None
    for word, following in pairwise(words):
        if word in (b"-uuid", b"--uuid"):
            found = following.decode("ascii", "replace").lower()
    return found if found and _UUID.fullmatch(found) else None
