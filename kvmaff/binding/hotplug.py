"""
Plug vCPUs into a running guest so that each is born where it was decided to be.

A new thread has the mask of the one that makes it, and a vCPU's is made by QEMU's main thread (measured with KVM and
TCG; QEMU system/cpus.c, qemu_init_vcpu). So the main thread goes where the vCPU belongs, where nobody else is yet,
plugs it in, and goes back: no moment passes in which the vCPU could run on anybody's CPU. All of it is on record like
any binding; a crash in between leaves a record that ``kvmaff undo`` restores. Threads that the main thread makes
meanwhile for other purposes are brought back to where it came from.

What was plugged in cannot be taken out without the guest's help: where a later vCPU is refused, the earlier ones stay,
and the report says so. So it does where a monitor fails while a vCPU is on its way: a new thread on the vCPU's CPUs is
left there then, since it can hardly be another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence

import attrs

from kvmaff.binding.decided import decision_in, last_decided
from kvmaff.binding.journal import Journal
from kvmaff.binding.newplaces import decided_in, free_slots, needed, places_of
from kvmaff.binding.plan import decided_for
from kvmaff.binding.report import Report
from kvmaff.binding.transaction import Transaction, Wish
from kvmaff.cpuset import CpuSet
from kvmaff.errors import (
    BindingFailed,
    GuestNotVerified,
    KvmaffError,
    QmpError,
    QmpRefused,
    RequestError,
    Unsupported,
)
from kvmaff.guest.guest import Guest, Role, number_list
from kvmaff.guest.monitor import TIMEOUT
from kvmaff.guest.plainly import to_its_end
from kvmaff.guest.qmp import Qmp, qmp_session
from kvmaff.guest.qmpanswers import Slot
from kvmaff.host.reader import Host
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
    path: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
    unbound: bool = False,
    journal: Journal | None = None,
    told: Callable[[Plugged], None] | None = None,
) -> HotplugReport:
    """
    Plug vCPUs in, in order of the guest's topology, each bound as it was decided.

    The folder of records is locked twice: before anybody is asked, and while vCPUs are plugged in. Each time it is
    waited for at most 5 s, without giving way to other tasks.

    Args:
        host: The running machine.
        guest: The guest, a QEMU with a QMP monitor.
        count: How many vCPUs.
        path: The monitor's UNIX socket, as the guest's process sees it; None for what its command line says.
        timeout: Seconds that each step with the monitor may take.
        unbound: Where nothing was decided for the guest, plug in all the same: the vCPUs may run where the main thread
            may.
        journal: Where records and decisions are kept; None for the default folder.
        told: Told of each vCPU when it is there and bound, also of the last one where the caller gives up meanwhile.

    Returns:
        The report; not ``ok`` where the guest refused some vCPU after others were plugged in, or where its monitor
        failed, so that nobody knows whether one was.

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
        raise RequestError.of(
            [f"the number of vCPUs to plug in is a whole number of at least 1, not {count!r}"]
        )
    journal = journal or Journal()
    needed(decided_in(last_decided(journal), guest), guest, unbound=unbound)  # before anybody is asked
    async with qmp_session(guest, path=path, timeout=timeout) as qmp:
        slots = await free_slots(qmp, guest, count)
        command = f"hotplug {guest.name} {count}"
        gave_up = None
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(journal.locked(make=True))
            # only now: who decides anew meanwhile waits until the vCPUs are where they belong
            decided = decided_in(decision_in(folder, journal.folder)[0], guest)
            needed(decided, guest, unbound=unbound)
            if decided is None:
                return await _unbound(qmp, guest, slots, told)
            places = places_of(host, guest, decided, slots)
            transaction = stack.enter_context(Transaction(folder, command))
            job = _Job(qmp, guest, decided, transaction, told)
            try:
                for slot, cpus in zip(slots, places, strict=True):
                    await job.plug(slot, cpus)
            except asyncio.CancelledError as error:
                gave_up = error  # what was begun has ended, and is not put back: its vCPU is there
            except BindingFailed as error:
                if not job.plugged:
                    raise
                # all that was bound has been put back, also vCPUs that are there and stay
                return job.again(stack.enter_context(Transaction(folder, command))).report(count, str(error))
            except KvmaffError as error:
                if not job.plugged and not job.doubtful:
                    raise
                return job.report(count, str(error))
        if gave_up is not None:
            raise gave_up
        return job.report(count)


class _Job:
    """Plugging in, vCPU by vCPU, within one transaction."""

    def __init__(
        self,
        qmp: Qmp,
        guest: Guest,
        decided: GuestPlacement,
        transaction: Transaction,
        told: Callable[[Plugged], None] | None,
    ) -> None:
        self._told = told
        self.plugged: list[Plugged] = []
        self.doubtful = False  # whether the last one may be there or come yet
        self._decided = decided
        self._qmp = qmp
        self._guest = guest
        self._transaction = transaction
        self._known: set[int] = set()  # threads that were there before the vCPU on its way
        self._first = {task.tid for task in self._threads()[0]}  # and before any was

    def again(self, transaction: Transaction) -> _Job:
        """Bind what is there anew, on a new record."""
        self._transaction = transaction
        tasks, _ = self._threads()
        decided = {one.tid: one for one in self.plugged if one.tid not in self._first}
        transaction.bind(
            [
                _wish(task, Role.VCPU, one.index, self._seen, one.decided)
                for task in tasks
                if (one := decided.get(task.tid)) is not None and one.decided is not None
            ]
        )
        return self

    async def plug(self, slot: Slot, cpus: CpuSet) -> None:
        """Plug one in; what has begun is ended, also where the caller gives up meanwhile."""
        main, home = self._main()
        decided = decided_for(self._decided, Role.EMULATOR, None)
        if decided is not None and decided != home:
            # it was left elsewhere, by somebody or by one of us that was killed
            home = decided
            self._transaction.bind([_wish(main, Role.EMULATOR, None, self._seen, home)])
        self._transaction.bind([_wish(main, Role.EMULATOR, None, self._seen, cpus)])
        there = len(self.plugged)
        try:
            await to_its_end(self._ask(slot, cpus))
        finally:
            self._back(main, home, cpus)
            for one in self.plugged[there:] if self._told else ():
                assert self._told is not None
                self._told(one)

    async def _ask(self, slot: Slot, cpus: CpuSet) -> None:
        try:
            await self._qmp.plug(slot)
            vcpus = await self._qmp.vcpus()
        except QmpRefused:
            raise
        except QmpError as error:
            self.doubtful = True
            raise self._unknown(slot, str(error)) from error
        tid = next((one.tid for one in vcpus if one.index == slot.index), None)
        # under single-threaded TCG there is one thread for all, which stays where it is
        single = len(vcpus) > 1 and len({one.tid for one in vcpus}) == 1
        if tid is None or (tid in self._known and not single):
            self.doubtful = True
            raise self._unknown(
                slot, f"pid {self._qmp.pid}: its QMP monitor took it, and tells no new thread"
            )
        born = read_masks([tid])[0][0]
        there = decided_for(self._decided, Role.VCPU, None) if single else cpus
        self.plugged.append(Plugged(index=slot.index, tid=tid, born=born, decided=there))

    def _unknown(self, slot: Slot, why: str) -> QmpError:
        return QmpError(
            f"{why}; so whether vCPU {slot.index} is there is not known. Where it is or comes yet, kvmaff plan shows "
            "whether it is where it belongs, and kvmaff apply puts it there",
            pid=self._qmp.pid,
        )

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
            if new is not None and new.decided is not None and task.tid not in self._known:
                wishes.append(_wish(task, Role.VCPU, new.index, self._seen, new.decided))
            elif task.tid not in self._known and mask == cpus != home and not self.doubtful:
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
        if error is not None and self.plugged:
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


async def _unbound(
    qmp: Qmp, guest: Guest, slots: Sequence[Slot], told: Callable[[Plugged], None] | None
) -> HotplugReport:
    """Plug in where nothing was decided."""
    plugged: list[Plugged] = []
    error = None
    for slot in slots:
        try:
            await qmp.plug(slot)
            tid = next((one.tid for one in await qmp.vcpus() if one.index == slot.index), None)
            if tid is None:
                raise QmpError(
                    f"pid {guest.pid}: its QMP monitor took it, and tells no new thread", pid=guest.pid
                )
        except QmpError as failed:
            if not plugged:
                raise
            numbers = number_list(one.index for one in plugged)
            error = f"vCPU {numbers} of guest {guest.name} was plugged in and stays; then: {failed}"
            break
        plugged.append(Plugged(index=slot.index, tid=tid, born=read_masks([tid])[0][0], decided=None))
        if told is not None:
            told(plugged[-1])
    return HotplugReport(
        guest=guest.name,
        pid=guest.pid,
        asked=len(slots),
        plugged=tuple(plugged),
        bound=Report(ok=True, threads=()),
        error=error,
    )


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
