"""
Plug vCPUs into a running guest so that each is born where it was decided to be.

A new thread has the mask of the one that makes it, and a vCPU's is made by QEMU's main thread (measured with KVM and
TCG; QEMU system/cpus.c, qemu_init_vcpu). So the main thread goes where the vCPU belongs, where nobody else is yet,
plugs it in, and goes back: no moment passes in which the vCPU could run on anybody's CPU. All of it is on record like
any binding; a crash in between leaves a record that ``kvmaff undo`` restores. Threads that the main thread makes
meanwhile for other purposes are brought back to where it came from.

What was plugged in cannot be taken out without the guest's help: where a later vCPU is refused, the earlier ones stay,
and the report says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import attrs

from kvmaff.binding.decided import last_decided, lives, same_guest
from kvmaff.binding.journal import Journal
from kvmaff.binding.plan import decided_for
from kvmaff.binding.report import Report
from kvmaff.binding.transaction import Transaction, Wish
from kvmaff.cpuset import CpuSet
from kvmaff.errors import GuestNotVerified, KvmaffError, QmpError, RequestError, Unsupported
from kvmaff.guest.guest import Guest, Role, number_list
from kvmaff.guest.monitor import TIMEOUT
from kvmaff.guest.plainly import to_its_end
from kvmaff.guest.qmp import Qmp, qmp_session
from kvmaff.guest.qmpanswers import Slot
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.reader import Host
from kvmaff.host.tree import open_tree
from kvmaff.kernel.masks import read_masks
from kvmaff.kernel.scan import Proc
from kvmaff.kernel.tasks import Task
from kvmaff.placement.placement import GuestPlacement

__all__ = ["HotplugReport", "Plugged", "hotplug"]


@attrs.frozen(kw_only=True)
class Plugged:
    """
    A vCPU that was plugged in.

    Attributes:
        index: Its number.
        tid: Its thread.
        born: The CPUs on which the thread might run when it was first seen; None where it had ended by then.
        decided: The CPUs that were decided for it, which it has now; None where nothing was.
    """

    index: int
    tid: int
    born: CpuSet | None
    decided: CpuSet | None


@attrs.frozen(kw_only=True)
class HotplugReport:
    """
    What became of a wish for more vCPUs.

    Attributes:
        guest: The guest's name.
        pid: Its process.
        asked: How many vCPUs were wanted.
        plugged: Those that were plugged in, in order.
        bound: What was bound for it, thread by thread; its ``journal`` is the record that undoes it. Without threads
            where nothing was decided.
        error: Why not all of it was done; None where it was.
    """

    guest: str
    pid: int
    asked: int
    plugged: tuple[Plugged, ...]
    bound: Report
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether all vCPUs were plugged in and are where they belong."""
        return self.error is None and self.bound.ok


async def hotplug(
    host: Host,
    guest: Guest,
    count: int = 1,
    *,
    path: str | None = None,
    timeout: float = TIMEOUT,
    unbound: bool = False,
    journal: Journal | None = None,
) -> HotplugReport:
    """
    Plug vCPUs in, in order of the guest's topology, each bound as it was decided.

    The folder of records is locked meanwhile, for which it is waited at most 5 s, without giving way to other tasks.

    Args:
        host: The running machine.
        guest: The guest, a QEMU with a QMP monitor.
        count: How many vCPUs.
        path: The monitor's UNIX socket, as the guest's process sees it; None for what its command line says.
        timeout: Seconds that each step with the monitor may take.
        unbound: Where nothing was decided for the guest, plug in all the same: the vCPUs may run where the main thread
            may.
        journal: Where records and decisions are kept; None for the default folder.

    Returns:
        The report; not ``ok`` where the guest refused some vCPU after others were plugged in.

    Raises:
        RequestError: It cannot be done as it stands: all problems at once; nothing was changed.
        GuestNotVerified: The guest is not proved to be one.
        GuestNotFound: It has ended.
        QmpBusy: Somebody else is connected to its monitor.
        QmpError: It has no monitor, or one that refuses or cannot be believed; nothing was changed.
        BindingFailed: The main thread may not go where the first vCPU belongs; nothing stays changed.
        JournalError: The record cannot be written, or the decision not read; nothing was changed.
        Unsupported: The host is a recorded one, or qemu.qmp is not installed.
    """
    if not host.live:
        raise Unsupported(f"{host.root} is a recorded machine: nothing runs there")
    if not guest.verified:
        raise GuestNotVerified(
            f"pid {guest.pid} ({guest.name}) is not proved to be a guest: {guest.why}",
            pid=guest.pid,
            why=guest.why,
        )
    if type(count) is not int or count < 1:
        raise RequestError.of([f"the number of vCPUs to plug in is at least 1, not {count!r}"])
    journal = journal or Journal()
    decided = _decided(journal, guest)
    if decided is None and not unbound:
        problem = (
            f"nothing was decided for guest {guest.name}, so nobody knows where its new vCPUs belong: decide first "
            f"(kvmaff apply {guest.name} --strategy numa), or say --unbound to plug them in all the same"
        )
        raise RequestError.of([problem])
    if guest.doubt and decided is not None:
        raise RequestError.of([f"guest {guest.name} (pid {guest.pid}): {guest.doubt}"])
    async with qmp_session(guest, path=path, timeout=timeout) as qmp:
        slots = await _free(qmp, guest, count)
        if decided is None:
            return await _unbound(qmp, guest, slots)
        places = _places(host, guest, decided, slots)
        command = f"hotplug {guest.name} {count}"
        gave_up = None
        with journal.locked(make=True) as folder, Transaction(folder, command) as transaction:
            job = _Job(qmp, guest, transaction)
            try:
                for slot, cpus in zip(slots, places, strict=True):
                    await job.plug(slot, cpus)
            except asyncio.CancelledError as error:
                gave_up = error  # what was begun has ended, and is not put back: its vCPU is there
            except KvmaffError as error:
                if not job.plugged:
                    raise
                return job.report(count, str(error))
        if gave_up is not None:
            raise gave_up
        return job.report(count)


class _Job:
    """Plugging in, vCPU by vCPU, within one transaction."""

    def __init__(self, qmp: Qmp, guest: Guest, transaction: Transaction) -> None:
        self.plugged: list[Plugged] = []
        self._qmp = qmp
        self._guest = guest
        self._transaction = transaction
        self._known: set[int] = set()  # threads that were there before the vCPU on its way

    async def plug(self, slot: Slot, cpus: CpuSet) -> None:
        """Plug one in; what has begun is ended, also where the caller gives up meanwhile."""
        main, home = self._main()
        self._transaction.bind([_wish(main, Role.EMULATOR, None, self._seen, cpus)])
        try:
            await to_its_end(self._ask(slot, cpus))
        finally:
            self._back(main, home, cpus)

    async def _ask(self, slot: Slot, cpus: CpuSet) -> None:
        await self._qmp.plug(slot)
        tid = next((one.tid for one in await self._qmp.vcpus() if one.index == slot.index), None)
        if tid is None:
            raise QmpError(
                f"pid {self._qmp.pid}: vCPU {slot.index} was plugged in, but its QMP monitor does not tell its thread; "
                "kvmaff apply puts it where it belongs",
                pid=self._qmp.pid,
            )
        born = read_masks([tid])[0][0]
        self.plugged.append(Plugged(index=slot.index, tid=tid, born=born, decided=cpus))

    def _main(self) -> tuple[Task, CpuSet]:
        tasks, masks = self._threads()
        self._known = {task.tid for task in tasks}
        for task, mask in zip(tasks, masks, strict=True):
            if task.tid == self._guest.pid and task.start == self._guest.start and mask:
                return task, mask
        raise RequestError.of([f"guest {self._guest.name} (pid {self._guest.pid}) has ended"])

    def _back(self, main: Task, home: CpuSet, cpus: CpuSet) -> None:
        """Bring the main thread back, and with it what it made meanwhile that is no vCPU."""
        vcpus = {one.tid: one for one in self.plugged}
        wishes = [_wish(main, Role.EMULATOR, None, self._seen, home)]
        tasks, masks = self._threads()
        for task, mask in zip(tasks, masks, strict=True):
            new = vcpus.get(task.tid)
            if new is not None and new.decided is not None:
                wishes.append(_wish(task, Role.VCPU, new.index, self._seen, new.decided))
            elif task.tid not in self._known and mask == cpus != home:
                wishes.append(_wish(task, Role.EMULATOR, None, self._seen, home))
        self._transaction.bind(wishes)

    def _threads(self) -> tuple[list[Task], list[CpuSet | None]]:
        with Proc() as proc:
            found = proc.tasks([self._guest.pid])
            masks = proc.masks(found)
            self._seen = found.seen
            alive = [(task, mask) for task, mask in zip(found, masks, strict=True) if task.alive]
        return [task for task, _ in alive], [mask for _, mask in alive]

    def report(self, asked: int, error: str | None = None) -> HotplugReport:
        if error is not None:
            numbers = number_list(one.index for one in self.plugged)
            error = f"vCPU {numbers} of guest {self._guest.name} was plugged in and stays; then: {error}"
        return HotplugReport(
            guest=self._guest.name,
            pid=self._guest.pid,
            asked=asked,
            plugged=tuple(self.plugged),
            bound=self._transaction.report(),
            error=error,
        )


async def _unbound(qmp: Qmp, guest: Guest, slots: Sequence[Slot]) -> HotplugReport:
    """Plug in where nothing was decided."""
    plugged: list[Plugged] = []
    error = None
    for slot in slots:
        try:
            await qmp.plug(slot)
            tid = next((one.tid for one in await qmp.vcpus() if one.index == slot.index), 0)
        except QmpError as failed:
            if not plugged:
                raise
            numbers = number_list(one.index for one in plugged)
            error = f"vCPU {numbers} of guest {guest.name} was plugged in and stays; then: {failed}"
            break
        plugged.append(Plugged(index=slot.index, tid=tid, born=read_masks([tid])[0][0], decided=None))
    return HotplugReport(
        guest=guest.name,
        pid=guest.pid,
        asked=len(slots),
        plugged=tuple(plugged),
        bound=Report(ok=True, threads=()),
        error=error,
    )


def _decided(journal: Journal, guest: Guest) -> GuestPlacement | None:
    """What was decided for the very process; else by name, as long as that was for no other that still runs."""
    placement = last_decided(journal)
    decided = placement.guests if placement else ()
    for one in decided:
        if (one.pid, one.start) == (guest.pid, guest.start):
            return one
    return next((one for one in decided if not lives(one) and same_guest(one, [guest])), None)


async def _free(qmp: Qmp, guest: Guest, count: int) -> list[Slot]:
    """The first free places in order of topology, proved to be numbered as vCPUs are."""
    slots, vcpus = await qmp.slots(), await qmp.vcpus()
    numbers = {one.path: one.index for one in vcpus}
    taken = {slot.path: slot.index for slot in slots if slot.path is not None}
    if numbers != taken:
        raise QmpError(
            f"pid {guest.pid}: its vCPUs {number_list(numbers.values())} are not numbered by their places "
            f"({number_list(taken.values())}), so which number a new one will have cannot be told",
            pid=guest.pid,
        )
    free = [slot for slot in slots if slot.path is None]
    if count > len(free):
        left = (
            f"{len(free)} of its {len(slots)} places for vCPUs are free" if free else "it has no free place"
        )
        raise RequestError.of(
            [f"guest {guest.name} cannot have {count} vCPUs more: {left} (-smp …,maxcpus= at its start)"]
        )
    return free[:count]


def _places(host: Host, guest: Guest, decided: GuestPlacement, slots: Sequence[Slot]) -> list[CpuSet]:
    """Where each new vCPU belongs; all reasons why one cannot be there, at once."""
    with open_tree(host.root) as tree:
        grant = Cgroups(tree).granted(guest.pid, guest.pid)
        online = tree.cpus("sys/devices/system/cpu/online") or host.topology.online
    may = grant.cpus & online if grant else online
    problems, places = [], []
    for slot in slots:
        cpus = decided_for(decided, Role.VCPU, slot.index)
        if cpus is None:
            problems.append(
                f"guest {guest.name}: vCPU {slot.index} has no decided place; decide anew, with max_vcpus in its spec"
            )
        elif not cpus <= may:
            problems.append(
                f"guest {guest.name}: vCPU {slot.index} belongs on CPU {cpus}, of which {cpus - may} is not online or "
                "not granted by its cgroup; decide anew"
            )
        else:
            places.append(cpus)
    if problems:
        raise RequestError.of(problems)
    return places


def _wish(task: Task, role: Role, index: int | None, seen: int, cpus: CpuSet) -> Wish:
    return Wish(
        pid=task.pid,
        tid=task.tid,
        ino=task.ino,
        start=task.start,
        seen=seen,
        role=role,
        index=index,
        cpus=cpus,
    )
