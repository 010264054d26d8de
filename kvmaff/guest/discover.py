"""
Processes -> guests.

Every process is examined each time: a process that was no guest a moment ago may have become one by exec(2)
or by opening /dev/kvm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, GuestThread, Role, number_list
from kvmaff.guest.proof import UNKNOWN_VMM, Evidence, examine
from kvmaff.guest.recorded import recorded_guests
from kvmaff.guest.spec import MAX_VCPUS
from kvmaff.guest.vmm import BUILTIN, QEMU, Vmm, roles_of
from kvmaff.kernel.scan import PF_KTHREAD, Proc, Task, Tasks
from kvmaff.kernel.text import printable

__all__ = ["find_guests"]

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
    known = (*vmms, *BUILTIN)
    with Proc(root) as proc:
        evidence = {}
        for pid in proc.pids() if pids is None else pids:
            found = examine(proc, pid, known)
            if found is not None:
                evidence[pid] = found
        tasks = proc.tasks(evidence)
        masks = proc.masks(tasks)
        threads: dict[int, list[tuple[Task, CpuSet | None]]] = {}
        for task, mask in zip(tasks, masks, strict=True):
            if task.alive:
                threads.setdefault(task.pid, []).append((task, mask))
        guests = [
            _guest(proc, pid, evidence[pid], own, tasks, known)
            for pid, own in threads.items()
            if not own[0][0].flags & PF_KTHREAD
        ]
    return tuple(sorted(guests, key=lambda guest: (guest.name, guest.pid)))


def _guest(
    proc: Proc,
    pid: int,
    evidence: Evidence,
    own: list[tuple[Task, CpuSet | None]],
    tasks: Tasks,
    known: tuple[Vmm, ...],
) -> Guest:
    # the main thread is first among the emulator's, also after thread numbers wrapped around
    own = sorted(own, key=lambda item: (item[0].tid != pid, item[0].tid))
    names = [task for task, _ in own]
    vmm = evidence.vmm or _by_threads(names, known)
    roles = roles_of(vmm or QEMU, names)
    threads = [
        GuestThread(
            pid=task.pid,
            tid=task.tid,
            ino=task.ino,
            start=task.start,
            role=role,
            index=index,
            name=task.name,
            mask=mask,
            cpu=task.cpu,
        )
        for (task, mask), (role, index) in zip(own, roles, strict=True)
    ]
    threads.sort(key=lambda thread: (_ORDER[thread.role], -1 if thread.index is None else thread.index))
    words = (proc.read(f"{pid}/cmdline", _CMDLINE) or b"").split(b"\0")
    name = _name(words, vmm or QEMU)
    return Guest(
        name=name or f"pid:{pid}",
        uuid=_uuid(words),
        pid=pid,
        start=names[0].start,
        seen=tasks.seen,
        vmm=evidence.vmm.name if evidence.vmm else UNKNOWN_VMM,
        kvm=evidence.kvm,
        verified=evidence.why is None,
        why=evidence.why,
        doubt=_doubt(evidence, threads, pid),
        threads=tuple(threads),
        max_vcpus=_max_vcpus(words),
    )


def _by_threads(names: Sequence[Task], known: tuple[Vmm, ...]) -> Vmm | None:
    """Guess whose way of naming an unknown VMM follows."""
    for vmm in known:
        if any(vmm.vcpu_index(task.name) is not None for task in names):
            return vmm
    return None


def _doubt(evidence: Evidence, threads: Sequence[GuestThread], pid: int) -> str | None:
    """Say why the roles are not certain: the vCPUs could be among what looks like the emulator."""
    advice = "start it with -name …,debug-threads=on"
    vcpus = [thread.index for thread in threads if thread.role is Role.VCPU]
    if len(set(vcpus)) != len(vcpus):
        return "several of its threads claim to be the same vCPU"
    main = next((thread.name for thread in threads if thread.tid == pid), "")
    unnamed = sum(thread.name == main and thread.tid != pid for thread in threads)
    if not vcpus and unnamed:
        return f"none of its threads is named as a vCPU, so they cannot be told apart; {advice}"
    missing = sorted(evidence.vcpus - {index for index in vcpus if index is not None})
    # QEMU keeps the descriptor of an unplugged vCPU; then no unnamed thread is left over
    if missing and unnamed >= len(missing):
        return f"no thread is named as vCPU {number_list(missing)}, so it cannot be told from the emulator's; {advice}"
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


def _max_vcpus(words: Sequence[bytes]) -> int | None:
    """Return QEMU's ``-smp …,maxcpus=N``; several options merge, the last one wins."""
    found = None
    for word, following in pairwise(words):
        if word in (b"-smp", b"--smp"):
            for part in following.split(b","):
                match = re.fullmatch(rb"maxcpus=([0-9]{1,4})", part)
                found = int(match[1]) if match and 0 < int(match[1]) <= MAX_VCPUS else found
    return found


def _uuid(words: Sequence[bytes]) -> str | None:
    found = None
    for word, following in pairwise(words):
        if word in (b"-uuid", b"--uuid"):
            found = following.decode("ascii", "replace").lower()
    return found if found and _UUID.fullmatch(found) else None
