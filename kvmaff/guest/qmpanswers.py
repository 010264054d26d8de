"""
What a QMP monitor answers, checked field by field: it may be wrong, and a thread that it names is bound later.

A process in another pid namespace knows its threads by other numbers; they are told by ours here.

Rule: a thread belongs to the guest's process, now, by /proc; it is not the main thread, and no kernel worker is taken
for one by whoever uses it. All that is wrong with an answer is told at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

import attrs

from kvmaff.errors import QmpError
from kvmaff.guest.checked import MOST_WRONG, items, number, text
from kvmaff.guest.spec import MAX_VCPUS
from kvmaff.kernel.text import printable

__all__ = [
    "MonitorIoThread",
    "MonitorVcpu",
    "Slot",
    "iothreads_of",
    "slots_of",
    "stats_of",
    "vcpus_of",
]

_DIMENSIONS = (
    "drawer-id",
    "book-id",
    "socket-id",
    "die-id",
    "cluster-id",
    "module-id",
    "core-id",
    "thread-id",
)
"""Of a vCPU's place, outermost first; ``node-id`` follows from the others (QEMU qapi/machine.json)."""
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", re.ASCII)
_STAT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_MOST_IOTHREADS = 1 << 12


@attrs.frozen(kw_only=True)
class MonitorVcpu:
    """
    A vCPU by its monitor's word.

    Attributes:
        index: Its number.
        tid: Its thread, by our number; under ``tcg,thread=single`` that of all.
        path: Its object's path, which also its place has.
    """

    index: int
    tid: int
    path: str


@attrs.frozen(kw_only=True)
class MonitorIoThread:
    """
    An IOThread by its monitor's word.

    Attributes:
        name: Its id.
        tid: Its thread.
    """

    name: str
    tid: int


@attrs.frozen(kw_only=True)
class Slot:
    """
    A place for a vCPU.

    Attributes:
        index: The number that a vCPU there has.
        type: The type of CPU that fits.
        place: (dimension, number) pairs as ``device_add`` takes them, outermost first.
        path: Its vCPU's object's path; None where it is free.
    """

    index: int
    type: str
    place: tuple[tuple[str, int], ...]
    path: str | None


def vcpus_of(answer: object, pid: int) -> tuple[MonitorVcpu, ...]:
    """
    Check an answer to ``query-cpus-fast``.

    Args:
        answer: The answer.
        pid: The guest's process.

    Returns:
        The vCPUs in order of number.

    Raises:
        QmpError: It cannot be true; says all that is wrong.
    """
    wrong: list[str] = []
    found: dict[int, MonitorVcpu] = {}
    for where, item in items(answer, "vCPU", MAX_VCPUS, wrong):
        index = number(item, "cpu-index", MAX_VCPUS - 1, where, wrong)
        tid = number(item, "thread-id", (1 << 31) - 1, where, wrong)
        path = text(item, "qom-path", where, wrong)
        if index is None or tid is None or path is None:
            continue
        if index in found:
            wrong.append(f"{where}: there are two vCPUs {index}")
        found[index] = MonitorVcpu(index=index, tid=tid, path=path)
    threads = {one.tid for one in found.values()}
    if len(found) > len(threads) > 1:
        wrong.append("some of its vCPUs share a thread and some do not")
    if len({one.path for one in found.values()}) < len(found):
        wrong.append("two of its vCPUs are one object")
    if not found and not wrong:
        wrong.append("it has no vCPU")
    ours = _ours(pid, {f"vCPU {one.index}": one.tid for one in found.values()}, wrong)
    _refuse(pid, "query-cpus-fast", wrong)
    return tuple(attrs.evolve(found[index], tid=ours[found[index].tid]) for index in sorted(found))


def iothreads_of(answer: object, pid: int) -> tuple[MonitorIoThread, ...]:
    """
    Check an answer to ``query-iothreads``.

    Args:
        answer: The answer.
        pid: The guest's process.

    Returns:
        The IOThreads in order of name.

    Raises:
        QmpError: It cannot be true; says all that is wrong.
    """
    wrong: list[str] = []
    found: dict[str, MonitorIoThread] = {}
    for where, item in items(answer, "IOThread", _MOST_IOTHREADS, wrong):
        name = text(item, "id", where, wrong)
        tid = number(item, "thread-id", (1 << 31) - 1, where, wrong)
        if name is None or tid is None:
            continue
        if name in found:
            wrong.append(f"{where}: there are two IOThreads {name!r}")
        found[name] = MonitorIoThread(name=name, tid=tid)
    if len({one.tid for one in found.values()}) < len(found):
        wrong.append("two of its IOThreads share a thread")
    ours = _ours(pid, {f"IOThread {one.name!r}": one.tid for one in found.values()}, wrong)
    _refuse(pid, "query-iothreads", wrong)
    return tuple(attrs.evolve(found[name], tid=ours[found[name].tid]) for name in sorted(found))


def slots_of(answer: object, pid: int) -> tuple[Slot, ...]:
    """
    Check an answer to ``query-hotpluggable-cpus``.

    Args:
        answer: The answer.
        pid: The guest's process.

    Returns:
        The places in order of topology, threads innermost: QEMU tells them the other way round.

    Raises:
        QmpError: It cannot be true, or several vCPUs are plugged at once there; says all that is wrong.
    """
    wrong: list[str] = []
    found: dict[tuple[tuple[int, int], ...], Slot] = {}
    for where, item in items(answer, "place", MAX_VCPUS, wrong):
        kind, props = item.get("type"), item.get("props")
        path = text(item, "qom-path", where, wrong) if "qom-path" in item else None
        if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
            wrong.append(f"{where}: its type is none")
            continue
        if item.get("vcpus-count") != 1:
            wrong.append(
                f"{where}: not one vCPU is plugged there at once; such machines cannot be planned for"
            )
            continue
        if not isinstance(props, dict) or not (props.keys() & set(_DIMENSIONS)):
            wrong.append(f"{where}: it says no place")
            continue
        place = []
        for rank, name in enumerate(_DIMENSIONS):
            if name in props:
                place.append((rank, number(props, name, MAX_VCPUS, where, wrong) or 0))
        if tuple(place) in found:
            wrong.append(f"{where}: two are at one place")
        pairs = tuple((_DIMENSIONS[rank], number) for rank, number in place)
        found[tuple(place)] = Slot(index=0, type=kind, place=pairs, path=path)
    if len({tuple(rank for rank, _ in place) for place in found}) > 1:
        wrong.append("its places are told in different dimensions")
    _refuse(pid, "query-hotpluggable-cpus", wrong)
    return tuple(attrs.evolve(found[place], index=index) for index, place in enumerate(sorted(found)))


def stats_of(
    answer: object, pid: int, vcpus: Sequence[MonitorVcpu]
) -> dict[int, dict[str, int | tuple[int, ...]]]:
    """
    Check an answer to ``query-stats`` for vCPUs.

    Args:
        answer: The answer.
        pid: The guest's process.
        vcpus: Its vCPUs.

    Returns:
        By vCPU, by name, a count or a histogram.

    Raises:
        QmpError: It cannot be true; says all that is wrong.
    """
    wrong: list[str] = []
    number = {one.path: one.index for one in vcpus}
    found: dict[int, dict[str, int | tuple[int, ...]]] = {}
    for where, item in items(answer, "entry", 16 * MAX_VCPUS, wrong):
        path = item.get("qom-path")
        index = number.get(path) if isinstance(path, str) else None
        if index is None:
            wrong.append(f"{where}: it is about no vCPU")
            continue
        counts = found.setdefault(index, {})
        for place, stat in items(item.get("stats"), f"{where}, count", 1024, wrong):
            name, value = stat.get("name"), stat.get("value")
            if not isinstance(name, str) or not _STAT.fullmatch(name):
                wrong.append(f"{place}: its name is none")
            elif isinstance(value, bool | int):
                counts[name] = int(value)
            elif isinstance(value, list) and len(value) <= 1024 and all(type(one) is int for one in value):
                counts[name] = tuple(value)
            else:
                wrong.append(f"{place}: {name} is no count")
    _refuse(pid, "query-stats", wrong)
    return found


def _ours(pid: int, threads: dict[str, int], wrong: list[str]) -> dict[int, int]:
    """Our number of each thread that is the process's; which are not, or are its main thread, is wrong."""
    try:
        own = _numbers(pid)
    except OSError:
        wrong.append(f"process {pid} has ended")
        return {}
    wrong += [
        f"{what} is said to be thread {tid}, which is none of the process's"
        for what, tid in threads.items()
        if tid not in own
    ]
    wrong += [
        f"{what} is said to be the process's main thread"
        for what, tid in threads.items()
        if own.get(tid) == pid
    ]
    return own


def _numbers(pid: int) -> dict[int, int]:
    """Our number of each of a process's threads, by the number that it has in the process's pid namespace."""
    tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    try:
        if os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid"):
            return {tid: tid for tid in tids}
    except PermissionError:
        return {tid: tid for tid in tids}  # one of another user's; whose threads these are was looked at
    found = {}
    for tid in tids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{tid}/status", "rb") as file:
            told = next((line for line in file if line.startswith(b"NSpid:")), b"").split()
            if len(told) > 1:
                found[int(told[-1])] = tid
    return found


def _refuse(pid: int, command: str, wrong: Sequence[str]) -> None:
    if wrong:
        more = f"; and {len(wrong) - MOST_WRONG} more" if len(wrong) > MOST_WRONG else ""
        told = printable("; ".join(wrong[:MOST_WRONG]).encode(errors="replace"), 4096)
        raise QmpError(
            f"pid {pid}: what its QMP monitor answers to {command} cannot be true: {told}{more}", pid=pid
        )
