"""
Bind the threads of one guest, or of any process, to the CPUs that somebody names.

A request names threads by key: a vCPU number or range, ``emulator``, ``io:NAME``, ``io``, ``vcpu``, ``vhost``
or ``all``. The more particular key wins (``all=0-3 0=5`` puts vCPU 0 on 5); two of the same rank that name one
thread contradict each other. Keys that stand for whatever threads there are (``emulator``, ``all``) also reach those
that start while the others are being bound.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from kvmaff.binding.journal import Journal
from kvmaff.binding.report import Report
from kvmaff.binding.transaction import Transaction, Wish
from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, GuestNotVerified, RequestError, Unsupported
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, GuestThread, Role, number_list
from kvmaff.guest.vmm import Vmm
from kvmaff.host.reader import Host
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.tasks import PF_KTHREAD, Tasks

__all__ = ["is_key", "pin_guest", "pin_process"]

_ROUNDS = 32
_SETTLE = 0.02  # a new thread has its creator's name at first: 0.06-4 ms were seen

_Now = tuple[Wish, CpuSet | None]
"""A thread as it shall be, and the mask it has."""

_ROLE_KEYS = {
    "vcpu": Role.VCPU,
    "emulator": Role.EMULATOR,
    "io": Role.IOTHREAD,
    "vhost": Role.VHOST,
}
_VCPUS = re.compile(r"[0-9,-]+")


@attrs.frozen(kw_only=True)
class _Key:
    """One KEY=CPULIST: which threads it means, how particular it is, and their CPUs."""

    text: str
    rank: int
    means: Callable[[GuestThread], bool]
    cpus: CpuSet
    vcpus: tuple[int, ...] = ()  # that it names by number


def is_key(text: str) -> bool:
    """
    Whether a text can name threads of a guest.

    Args:
        text: The text before ``=``.

    Returns:
        True for a vCPU number or range, a role, ``io:NAME`` or ``all``.
    """
    return _rule(text) is not None


def pin_guest(
    host: Host,
    guest: Guest,
    wishes: Mapping[str, CpuSet | str],
    *,
    journal: Journal | None = None,
    vmms: Sequence[Vmm] = (),
) -> Report:
    """
    Bind a guest's threads, all of them or none.

    Args:
        host: The running machine.
        guest: The guest.
        wishes: For each key (see the module) the CPUs, as a set or a cpulist.
        journal: Where the record that undoes it is kept; None for the default folder.
        vmms: VMMs to know beside the built-in ones, as when the guest was found.

    Returns:
        The report; its ``ok`` is true.

    Raises:
        RequestError: The request cannot be carried out as it stands: all problems at once; nothing was changed.
        GuestNotVerified: The guest is not proved to be one.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed, and its report says what happened.
        Unsupported: The host is a recorded one.
    """
    _require_live(host)
    if not guest.verified:
        raise GuestNotVerified(
            f"pid {guest.pid} ({guest.name}) is not proved to be a guest: {guest.why}",
            pid=guest.pid,
            why=guest.why,
        )
    keys = _parse(host, guest, wishes)
    problems: list[str] = []
    chosen = _choose(guest, keys, problems)
    numbers = {thread.index for thread in guest.vcpus}
    problems += [
        _nothing(guest, key.text)
        for key in keys
        if not any(map(key.means, guest.threads)) or not numbers >= set(key.vcpus)
    ]
    if problems:
        raise RequestError.of(problems)

    def again() -> list[_Now]:
        for now in find_guests(host.root, vmms=vmms, pids=[guest.pid]):
            if now.start == guest.start and now.verified:
                problems: list[str] = []
                chosen = _choose(now, keys, problems)
                if problems:
                    raise RequestError.of(problems)
                masks = {thread.tid: thread.mask for thread in now.threads}
                return [(wish, masks[wish.tid]) for wish in chosen]
        return []

    command = f"pin {guest.name} " + " ".join(f"{key.text}={key.cpus}" for key in keys)
    return _bind_all(journal or Journal(), command, chosen, again)


def pin_process(
    host: Host, pid: int, cpus: CpuSet | str, *, tid: int | None = None, journal: Journal | None = None
) -> Report:
    """
    Bind any process on purpose, guest or not: what ``taskset -acp`` and ``taskset -cp`` do, with a way back.

    Args:
        host: The running machine.
        pid: The process; all its threads are bound, those too that start meanwhile.
        cpus: The CPUs, as a set or a cpulist.
        tid: Bind this thread of it only.
        journal: Where the record that undoes it is kept; None for the default folder.

    Returns:
        The report; its ``ok`` is true.

    Raises:
        RequestError: The process or thread is not there, or a CPU is not online; nothing was changed.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed.
        Unsupported: The host is a recorded one.
    """
    _require_live(host)
    problems: list[str] = []
    wanted = _cpus(host, f"pid {pid}", cpus, problems)
    with Proc(host.root) as proc:
        tasks = proc.tasks([pid])
        owner = proc.process_of(pid)
    start = next((task.start for task in tasks if task.tid == pid and task.alive), None)
    if owner not in (None, pid):
        problems.append(
            f"{pid} is a thread of process {owner}: say --pid {owner}:{pid} for it, --pid {owner} for all"
        )
    elif start is None:
        problems.append(
            f"process {pid} has ended and waits for its parent" if tasks else f"there is no process {pid}"
        )
    elif tid is not None and tid not in tasks.tids():
        problems.append(f"process {pid} has no thread {tid}; its threads: {_few(tasks.tids())}")
    if problems or wanted is None:
        raise RequestError.of(problems)

    def chosen(tasks: Tasks) -> list[Wish]:
        return [
            Wish(
                pid=pid,
                tid=task.tid,
                ino=task.ino,
                start=task.start,
                seen=tasks.seen,
                role=None,
                index=None,
                cpus=wanted,
            )
            for task in tasks
            if task.alive and (tid is None or task.tid == tid)
        ]

    def again() -> list[_Now]:
        with Proc(host.root) as proc:
            now = proc.tasks([pid])
            masks = dict(zip(now.tids(), proc.masks(now), strict=True))
        same = any(task.tid == pid and task.start == start for task in now)
        return [(wish, masks[wish.tid]) for wish in chosen(now)] if same else []

    kernel = tasks[0].flags & PF_KTHREAD
    command = f"pin --pid {pid}{'' if tid is None else f':{tid}'} {wanted}"
    more = None if tid is not None or kernel else again
    return _bind_all(journal or Journal(), command, chosen(tasks), more)


def _bind_all(
    journal: Journal, command: str, wishes: list[Wish], again: Callable[[], list[_Now]] | None
) -> Report:
    """
    Bind threads, then those that have started meanwhile, until there are none.

    A thread takes its creator's mask at its start: one that an unbound thread made while others were being bound
    would be missed by a single pass, as taskset misses it. It takes its creator's name, too, so that a vCPU that was
    plugged in meanwhile shows what it is a moment later.
    """
    with journal.locked(make=True) as folder, Transaction(folder, command) as transaction:
        transaction.bind(wishes)
        done = {(wish.tid, wish.start): wish.cpus for wish in wishes}
        seen = set(done)
        late: list[Wish] = []
        for _ in range(_ROUNDS if again else 0):
            assert again is not None
            now = again()
            late = [
                wish
                for wish, mask in now
                if mask not in (None, wish.cpus) and done.get((wish.tid, wish.start)) != wish.cpus
            ]
            fresh = {(wish.tid, wish.start) for wish, _ in now} - seen
            seen |= fresh
            if late:
                transaction.bind(late)
                done.update({(wish.tid, wish.start): wish.cpus for wish in late})
            elif fresh:
                time.sleep(_SETTLE)
            else:
                break
        if late:
            raise RequestError.of(
                ["it starts threads faster than they can be bound; stop it, or bind it again"]
            )
        return transaction.report()


def _require_live(host: Host) -> None:
    if not host.live:
        raise Unsupported(f"{host.root} is a recorded machine: nothing runs there that could be bound")


def _parse(host: Host, guest: Guest, wishes: Mapping[str, CpuSet | str]) -> list[_Key]:
    problems: list[str] = []
    keys = []
    if not wishes:
        problems.append("no thread is named: say KEY=CPULIST, as in 0=2 1=3 emulator=0-1")
    for given, value in wishes.items():
        text = str(given)  # 0 is as good as "0"
        rule = _rule(text)
        cpus = _cpus(host, text, value, problems)
        if rule is None:
            problems.append(
                f"{text!r} names no thread: a key is a vCPU number or range (0, 1-3), emulator, io, io:NAME, vcpu, "
                "vhost or all"
            )
        elif cpus is not None:
            vcpus = tuple(CpuSet.parse(text)) if _VCPUS.fullmatch(text) else ()
            keys.append(_Key(text=text, rank=rule[0], means=rule[1], cpus=cpus, vcpus=vcpus))
    if guest.doubt and any(key.text != "all" for key in keys):
        problems.append(f"guest {guest.name}: {guest.doubt}; until then only all=CPULIST can be bound")
    if problems:
        raise RequestError.of(problems)
    return keys


def _rule(text: str) -> tuple[int, Callable[[GuestThread], bool]] | None:
    if text == "all":
        return 0, lambda thread: thread.role is not Role.OTHER
    if text in _ROLE_KEYS:
        return 1, lambda thread: thread.role is _ROLE_KEYS[text]
    if text.startswith("io:") and text != "io:":
        name = text.removeprefix("io:")
        return 2, lambda thread: thread.role is Role.IOTHREAD and thread.iothread == name
    if _VCPUS.fullmatch(text):
        try:
            numbers = CpuSet.parse(text)
        except CpuTextError:
            return None
        return 2, lambda thread: thread.role is Role.VCPU and thread.index in numbers
    return None


def _cpus(host: Host, where: str, value: object, problems: list[str]) -> CpuSet | None:
    if not isinstance(value, CpuSet | str):
        problems.append(f"{where}: CPUs are a CpuSet or a cpulist such as '0-3', not {value!r}")
        return None
    try:
        cpus = value if isinstance(value, CpuSet) else CpuSet.parse(value)
    except CpuTextError as error:
        problems.append(f"{where}: {error}")
        return None
    topology = host.topology
    if not cpus:
        problems.append(f"{where}: no CPU is named")
        return None
    for state, what in (("offline", "switched off"), ("absent", "not in this machine")):
        wrong = CpuSet(cpu for cpu in cpus if topology.state_of(cpu) == state)
        if wrong:
            problems.append(f"{where}: CPU {wrong} is {what}; online are {topology.online}")
    return cpus if cpus <= topology.online else None


def _choose(guest: Guest, keys: Sequence[_Key], problems: list[str]) -> list[Wish]:
    """Give each thread the CPUs of the most particular key that means it."""
    wishes = []
    for thread in guest.threads:
        meant = [key for key in keys if key.means(thread)]
        if not meant:
            continue
        rank = max(key.rank for key in meant)
        best = [key for key in meant if key.rank == rank]
        if len({key.cpus for key in best}) > 1:
            named = " and ".join(f"{key.text}={key.cpus}" for key in best)
            index = "" if thread.index is None else f" {thread.index}"
            problems.append(f"{named} contradict each other for {thread.role}{index}")
        wishes.append(Wish.of(thread, guest.seen, best[0].cpus))
    return wishes


def _nothing(guest: Guest, key: str) -> str:
    """Say what there is instead of what a key asked for."""
    if key.startswith("io"):
        names = [thread.iothread or "" for thread in guest.by_role(Role.IOTHREAD)]
        have = f"its IOThreads: {', '.join(names)}" if names else "it has no named IOThread"
        hint = " (QEMU gives a thread no name when its IOThread's id is longer than 12 bytes)"
        return f"guest {guest.name} has no thread {key!r}; {have}{hint}"
    numbers = [thread.index for thread in guest.vcpus]
    if numbers == [None]:
        return f"guest {guest.name} runs all its vCPUs in one thread (tcg,thread=single): name it with vcpu=CPULIST"
    have = number_list(number for number in numbers if number is not None)
    return f"guest {guest.name} has no thread {key!r}; its vCPUs: {have or 'none'}"


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:16]))
    return shown if len(numbers) <= 16 else f"{shown} and {len(numbers) - 16} more"
