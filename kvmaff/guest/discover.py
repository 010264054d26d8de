"""
Processes -> guests.

Every process is examined each time: a process that was no guest a moment ago may have become one by exec(2)
or by opening /dev/kvm. What is kept between two looks are names of threads that were there before, and the value of a
guest of which nothing has changed.

A QMP monitor is asked only where neither names nor the kernel tell vCPU threads apart, or where the caller wants that:
it serves one client, who may be on the way.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.askmonitors import AskMonitors, Question, Said, ask_monitors
from kvmaff.guest.commandline import smp_said
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.guest.holders import How
from kvmaff.guest.monitor import Monitors, monitors_said
from kvmaff.guest.proof import UNKNOWN_VMM, Evidence, Examiner
from kvmaff.guest.recorded import recorded_guests
from kvmaff.guest.roles import Told, clash_of, doubt_of, roles_by_monitor, roles_of
from kvmaff.guest.vmm import BUILTIN, QEMU, Vmm
from kvmaff.kernel.scan import Proc, Scanner
from kvmaff.kernel.tasks import PF_KTHREAD, Task, Tasks
from kvmaff.kernel.text import printable

__all__ = ["Discovery", "Look", "find_guests"]

_CMDLINE = 1 << 18
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ASK_SECONDS = 1.0
_AGAIN_SECONDS = 30.0
_ORDER = {role: place for place, role in enumerate(Role)}


def find_guests(
    root: str = "/",
    *,
    vmms: Sequence[Vmm] = (),
    pids: Sequence[int] | None = None,
    ask: AskMonitors = AskMonitors.IN_DOUBT,
) -> tuple[Guest, ...]:
    """
    Find the running guests, and what only claims to be one.

    Args:
        root: ``/``, or the root of a recorded machine, whose capture says what was found and proved then.
        vmms: VMMs to know beside the built-in ones.
        pids: Look at these processes only; None for all.
        ask: Whose QMP monitors are asked; on a recorded machine nobody's.

    Returns:
        The guests, in order of name and process; a guest that ends meanwhile is left out.

    Raises:
        HostReadError: There is no /proc, or a capture is damaged.
    """
    recorded = None if root == "/" else recorded_guests(root)
    if recorded is not None:
        return tuple(guest for guest in recorded.guests if pids is None or guest.pid in pids)
    with Discovery(root, vmms=vmms, stats=True, ask=ask) as discovery:
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
    until: (
        float  # before that (s, monotonic) looking again could tell no more as long as no thread has changed
    )


@attrs.frozen(kw_only=True)
class _Seen:
    """A guest's process before its monitor is asked."""

    evidence: Evidence
    vmm: Vmm
    own: list[tuple[Task, CpuSet | None]]
    seen: int
    start: int
    words: list[bytes]
    vcpus: dict[int, int] | None
    told: list[Told]
    doubt: str | None
    max_vcpus: int | None
    vcpus_said: int

    @property
    def tasks(self) -> list[Task]:
        return [task for task, _ in self.own]


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
        ask: Whose QMP monitors are asked. One that did not answer is asked again when a thread of its guest has
            changed, or after half a minute.
        stats: Read when each thread started and where it ran last, which binding a thread needs, at half as much again
            for each thread that was not there before. Where it ran last is told of such threads only.

    Raises:
        HostReadError: There is no /proc.
        Unsupported: /proc is that of another pid namespace.
    """

    def __init__(
        self,
        root: str = "/",
        *,
        vmms: Sequence[Vmm] = (),
        threads: int = 1,
        stats: bool = False,
        ask: AskMonitors = AskMonitors.IN_DOUBT,
    ) -> None:
        self._ask = ask if root == "/" else AskMonitors.NEVER
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
        fresh: dict[int, tuple[_Seen, bytes, bytes]] = {}
        now = time.monotonic()
        first = 0
        for pid, count in look.tasks.counts.items():
            place, first = first, first + count
            rows = look.tasks.raw(place, count)
            raw = look.tasks.masks.raw_of(place, count) if self._proc.live else b""
            old = self._known.get(pid)
            folders = self._examiner.holders.folders(pid)
            if (
                old
                and now < old.until
                and (old.rows, old.masks, old.evidence, old.folders)
                == (rows, raw, look.evidence[pid], folders)
            ):
                known[pid] = old
                continue
            own = [(task, masks[at]) for at in range(place, place + count) if (task := look.tasks[at]).alive]
            if own and not own[0][0].flags & PF_KTHREAD:
                fresh[pid] = self._seen(pid, look.evidence[pid], own, look.tasks), rows, raw
        answers = self._answers({pid: seen for pid, (seen, _, _) in fresh.items()})
        for pid, (seen, rows, raw) in fresh.items():
            answer = answers.get(pid)
            known[pid] = _Known(
                rows=rows,
                masks=raw,
                evidence=seen.evidence,
                folders=self._examiner.holders.folders(pid),
                guest=_guest(pid, seen, answer),
                until=_until(seen, answer, now),
            )
        self._known = known
        return tuple(sorted((one.guest for one in known.values()), key=lambda guest: (guest.name, guest.pid)))

    def _look(self, pids: Sequence[int] | None, *, claims: bool, always: bool) -> Look:
        processes = self._proc.pids() if pids is None else sorted({pid for pid in pids if 0 < pid < 1 << 31})
        evidence, changed = self._examiner.examine(processes, claims=claims, always=always)
        for pid in changed:
            self._known.pop(pid, None)
        return Look(evidence=evidence, tasks=self._scanner.scan(evidence, anew=changed))

    def _seen(
        self, pid: int, evidence: Evidence, own: list[tuple[Task, CpuSet | None]], tasks: Tasks
    ) -> _Seen:
        # the main thread is first among the emulator's, also after thread numbers wrapped around
        own = sorted(own, key=lambda item: (item[0].tid != pid, item[0].tid))
        names = [task for task, _ in own]
        vmm = evidence.vmm or self._by_threads(names) or QEMU
        words = (self._proc.read(f"{pid}/cmdline", _CMDLINE) or b"").split(b"\0")
        smp = smp_said(words)
        vcpus = self._examiner.holders.vcpus(pid)
        told = roles_of(vmm, names, vcpus)
        doubt = doubt_of(
            vmm,
            names,
            told,
            vcpus,
            held=lambda: self._examiner.vcpu_descriptors(pid),
            most=smp.topology.maxcpus if smp else None,
        )
        return _Seen(
            evidence=evidence,
            vmm=vmm,
            own=own,
            seen=tasks.seen,
            start=(names[0].start if names[0].tid == pid else 0) or self._proc.start_of(pid),
            words=words,
            vcpus=vcpus,
            told=told,
            doubt=doubt,
            max_vcpus=dict(smp.given).get("maxcpus") if smp else None,
            vcpus_said=smp.topology.cpus if smp else 1,
        )

    def _answers(self, seen: Mapping[int, _Seen]) -> dict[int, Said | str]:
        """What monitors say of those guests of which it must be known; a claim is never asked."""
        questions = []
        for pid, one in seen.items() if self._ask is not AskMonitors.NEVER else ():
            if one.evidence.why is None and (one.doubt or self._ask is AskMonitors.ALWAYS):
                monitors = monitors_said([os.fsdecode(word) for word in one.words])
                if monitors != Monitors():
                    # a QEMU that waits for its monitor has its main thread and that for RCU, and no vCPU yet
                    users = sum(told.role not in {Role.VHOST, Role.OTHER} for told in one.told)
                    begun = users >= one.vcpus_said + 2
                    questions.append(Question(pid=pid, start=one.start, monitors=monitors, begun=begun))
        return ask_monitors(questions, _ASK_SECONDS)

    def _by_threads(self, names: Sequence[Task]) -> Vmm | None:
        """Guess whose way of naming an unknown VMM follows."""
        for vmm in self._vmms:
            if any(vmm.vcpu_index(task.name) is not None for task in names):
                return vmm
        return None


def _until(seen: _Seen, answer: Said | str | None, now: float) -> float:
    """Until when what was found stays so, as long as no thread changes."""
    if isinstance(answer, str):
        return now + _AGAIN_SECONDS
    # a vCPU that never ran has no thread yet by the kernel's word
    settled = answer is not None or seen.vcpus is None or (bool(seen.vcpus) and 0 not in seen.vcpus.values())
    return math.inf if settled else now


def _guest(pid: int, seen: _Seen, answer: Said | str | None) -> Guest:
    told, doubt, unanswered = seen.told, seen.doubt, None
    if isinstance(answer, Said):
        doubt = clash_of(seen.tasks, told, seen.vcpus, answer)
        told = told if doubt else roles_by_monitor(seen.tasks, answer)
    elif answer is not None:
        unanswered = answer
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
            iothread=None if one.iothread is None else printable(os.fsencode(one.iothread)),
        )
        for (task, mask), one in zip(seen.own, told, strict=True)
    ]
    threads.sort(key=lambda thread: (_ORDER[thread.role], -1 if thread.index is None else thread.index))
    return Guest(
        name=_name(seen.words, seen.vmm) or f"pid:{pid}",
        uuid=_uuid(seen.words),
        pid=pid,
        start=seen.start,
        seen=seen.seen,
        vmm=seen.evidence.vmm.name if seen.evidence.vmm else UNKNOWN_VMM,
        kvm=seen.evidence.kvm,
        verified=seen.evidence.why is None,
        why=seen.evidence.why,
        doubt=f"{doubt}; {unanswered}" if doubt and unanswered else doubt,
        unanswered=unanswered,
        threads=tuple(threads),
        max_vcpus=seen.max_vcpus,
    )


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
