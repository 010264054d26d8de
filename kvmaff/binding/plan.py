"""
From a decision to the machine: what differs from now, and doing it.

A plan looks at the guests anew: what counts is what the kernel says now. It is empty when nothing differs.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import attrs

from kvmaff.binding.decided import decided_text, merged_text, same_guest
from kvmaff.binding.journal import DECIDED, Journal
from kvmaff.binding.order import Move, waves
from kvmaff.binding.report import Outcome, Report, ThreadResult
from kvmaff.binding.transaction import Transaction, Wish
from kvmaff.binding.why import explain
from kvmaff.cpuset import CpuSet
from kvmaff.errors import BindingFailed, RequestError, Unsupported
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.guest.vmm import Vmm
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.reader import Host
from kvmaff.host.tree import open_tree
from kvmaff.kernel.masks import Raw
from kvmaff.placement.held import owned_cpus
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import HostRules

__all__ = ["Change", "Plan", "decided_for", "make_plan"]

_ROUNDS = 16


@attrs.frozen(kw_only=True)
class Change:
    """
    One thread whose mask is not what was decided.

    Attributes:
        guest: Its guest's name.
        thread: The thread, with the mask it has now.
        seen: Clock ticks after boot, sampled before it was looked at.
        to: The mask that was decided.
    """

    guest: str
    thread: GuestThread
    seen: int
    to: CpuSet


@attrs.frozen(kw_only=True)
class Plan:
    """
    What differs between a decision and the machine.

    Attributes:
        host: The machine.
        placement: The decision.
        changes: Threads whose masks differ; none where nothing does.
        absent: Names of decided guests that do not run.
        homeless: vCPUs that run and for which no place was decided, a sentence each.
        busy: CPUs that threads of other guests are bound to.
        rules: What is so for the host beside the decision, kept with it; None for what was so before.
        whole: Whether the decision takes the place of every earlier one, not only of those for its guests.
        vmms: VMMs to know beside the built-in ones.
        journal: Where the record that undoes it, and the decision, are kept; None for the default folder.
        applied: Told afterwards what was done; None for nobody.
    """

    host: Host
    placement: Placement
    changes: tuple[Change, ...]
    absent: tuple[str, ...] = ()
    homeless: tuple[str, ...] = ()
    busy: CpuSet = attrs.field(factory=CpuSet)
    rules: HostRules | None = None
    whole: bool = False
    vmms: tuple[Vmm, ...] = ()
    journal: Journal | None = None
    applied: Callable[[Report], None] | None = None

    def bound_to(self, journal: Journal, applied: Callable[[Report], None]) -> Plan:
        """
        The same plan with a place for its records and somebody to tell.

        Args:
            journal: Where :meth:`apply` keeps the record and the decision.
            applied: Told afterwards what was done.

        Returns:
            The plan.
        """
        return attrs.evolve(self, journal=journal, applied=applied)

    def __bool__(self) -> bool:
        return bool(self.changes)

    def apply(self) -> Report:
        """
        Do it: all of it or none of it, read back, and keep the decision.

        What the kernel would clip is refused before anything is changed: a mask that is put back is one that was set.
        The changes are made in an order that never gives a CPU that belongs to one guest to two: where guests change
        places for others' sake, one after the other, as ``placement.steps()`` says. Threads that start meanwhile are
        bound as decided too.

        Returns:
            The report; without threads where nothing differed.

        Raises:
            BindingFailed: The kernel did not do all of it; nothing stays changed.
            JournalError: The record cannot be written; nothing was changed.
            RequestError: Guests swap CPUs and none is free on which one could wait, there is no order in which they
                could change places, or they start threads faster than these can be bound; nothing stays changed.
            Unsupported: The host is a recorded one.
        """
        if not self.host.live:
            raise Unsupported(
                f"{self.host.root} is a recorded machine: nothing runs there that could be bound"
            )
        self._refuse_clipped()
        on_the_way = self._on_the_way()
        owned = {one.spec.name: owned_cpus(one) for one in self.placement.guests}
        ordered = [] if on_the_way else self._waves(self.changes, owned)
        command = f"apply {self.placement.strategy}: " + ", ".join(
            dict.fromkeys(change.guest for change in self.changes)
        )
        with (
            (self.journal or Journal()).locked(make=True) as folder,
            Transaction(folder, command, decided_text(folder)) as transaction,
        ):
            for state in on_the_way:
                self._bring(state, transaction)
            for wave in self._waves(self._now(), owned) if on_the_way else ordered:
                transaction.bind(wave)
            done = {(change.thread.tid, change.thread.start) for change in self.changes}
            later: list[Change] = []
            for _ in range(_ROUNDS):
                later = [one for one in self._now() if (one.thread.tid, one.thread.start) not in done]
                if not later:
                    break
                for wave in self._waves(later, owned):
                    transaction.bind(wave)
                done |= {(one.thread.tid, one.thread.start) for one in later}
            if later:
                raise RequestError.of(["guests start threads faster than they can be bound; apply it again"])
            text = merged_text(folder, self.placement, self.rules, whole=self.whole)
            if text != decided_text(folder):
                transaction.note()  # before it is kept: a decision is undone, too, where no mask had to change
                folder.put(DECIDED, text)
            report = transaction.report()
        if self.applied is not None:
            self.applied(report)
        return report

    def _now(self, state: Placement | None = None) -> tuple[Change, ...]:
        """Look again: what differs now, from the decision or from a state on the way to it."""
        to = state or self.placement
        pids = [one.pid for one in to.guests if one.pid is not None]
        guests = find_guests(self.host.root, vmms=self.vmms, pids=pids)
        return make_plan(self.host, to, vmms=self.vmms, guests=guests).changes

    def _on_the_way(self) -> tuple[Placement, ...]:
        """
        The states between now and the decision, where guests that run change places for others' sake.

        Raises:
            RequestError: There is no order that was found.
        """
        steps = self.placement.steps() if self.changes else ()
        if steps is None:
            names = ", ".join(one.guest for one in self.placement.moved())
            raise RequestError.of([f"no order was found in which {names} can change places"])
        running = {(one.pid, one.start): one for one in self.placement.guests}
        # a process that has ended since is no part of any state
        return tuple(
            attrs.evolve(
                step.state, guests=tuple(one for one in step.state.guests if (one.pid, one.start) in running)
            )
            for step in steps
        )

    def _bring(self, state: Placement, transaction: Transaction) -> None:
        """Bring all guests to a state; what belongs to one in it is nobody else's then."""
        owned = {one.spec.name: owned_cpus(one) for one in state.guests}
        for wave in self._waves(self._now(state), owned):
            transaction.bind(wave)

    def _refuse_clipped(self) -> None:
        """Raise where a thread's cgroup does not grant all of its CPUs, or one is not online."""
        refused = []
        with open_tree(self.host.root) as tree:
            cgroups = Cgroups(tree)
            online = tree.cpus("sys/devices/system/cpu/online") or self.host.topology.online
            for change in self.changes:
                thread = change.thread
                grant = cgroups.granted(thread.pid, thread.tid)
                if change.to <= (grant.cpus & online if grant else online):
                    continue
                refused.append(
                    ThreadResult(
                        pid=thread.pid,
                        tid=thread.tid,
                        role=thread.role,
                        index=thread.index,
                        before=thread.mask,
                        asked=change.to,
                        after=thread.mask,
                        outcome=Outcome.REFUSED,
                        why=explain(thread.pid, thread.tid, change.to, None, Raw.REFUSED, errno.EINVAL),
                    )
                )
        if refused:
            report = Report(ok=False, threads=tuple(sorted(refused, key=lambda one: (one.pid, one.tid))))
            raise BindingFailed("\n".join(report.problems), report=report)

    def _waves(self, changes: Sequence[Change], owned: dict[str, CpuSet]) -> list[list[Wish]]:
        by_thread = {change.thread.tid: change for change in changes}
        moves = [
            Move(guest=one.guest, thread=one.thread.tid, old=one.thread.mask or CpuSet(), new=one.to)
            for one in changes
        ]
        single = CpuSet.union_of(move.old for move in moves if len(move.old) == 1)
        common = (
            self.host.topology.online
            - self.host.isolation.unbalanced
            - CpuSet.union_of(owned.values())
            - single
            - self.busy
        )
        return [
            [Wish.of(by_thread[move.thread].thread, by_thread[move.thread].seen, move.new) for move in wave]
            for wave in waves(moves, owned, common)
        ]


def make_plan(
    host: Host, placement: Placement, *, vmms: Sequence[Vmm] = (), guests: Sequence[Guest] | None = None
) -> Plan:
    """
    Compare a decision with the machine as it is now.

    Args:
        host: The machine.
        placement: The decision.
        vmms: VMMs to know beside the built-in ones.
        guests: The guests as they are now; None to look.

    Returns:
        The plan. A guest that was decided before it ran is found by name and UUID, if that names one guest.

    Raises:
        RequestError: A decided guest runs but its vCPUs cannot be told apart.
    """
    running = find_guests(host.root, vmms=vmms) if guests is None else guests
    changes, absent, problems, homeless, known = [], [], [], [], []
    seen: set[int] = set()
    for decided in placement.guests:
        guest = same_guest(decided, running)
        if guest is None or guest.pid in seen:
            absent.append(decided.spec.name)
            known.append(decided)
            continue
        seen.add(guest.pid)
        known.append(attrs.evolve(decided, pid=guest.pid, start=guest.start))
        if guest.doubt:
            problems.append(f"guest {guest.name} (pid {guest.pid}): {guest.doubt}")
            continue
        for thread in guest.threads:
            to = decided_for(decided, thread.role, thread.index)
            if to is None and thread.role is Role.VCPU:
                homeless.append(
                    f"guest {guest.name}: vCPU {thread.index} (thread {thread.tid}) has no decided place"
                )
            if to is not None and thread.mask != to:
                changes.append(Change(guest=decided.spec.name, thread=thread, seen=guest.seen, to=to))
    if problems:
        raise RequestError.of(problems)
    others = [guest for guest in running if guest.pid not in seen]
    bound = (
        thread.mask for guest in others for thread in guest.threads if thread.mask and len(thread.mask) == 1
    )
    return Plan(
        host=host,
        placement=attrs.evolve(placement, guests=tuple(known)),
        changes=tuple(changes),
        absent=tuple(absent),
        homeless=tuple(homeless),
        busy=CpuSet.union_of(bound),
        vmms=tuple(vmms),
    )


def decided_for(decided: GuestPlacement, role: Role, index: int | None) -> CpuSet | None:
    """
    Where a thread belongs, also one of which nothing was said when it was decided.

    Args:
        decided: What was decided for its guest.
        role: What it is for.
        index: Which vCPU or IOThread it is; None for a vCPU thread that runs all.

    Returns:
        Its CPUs; None where no place was decided.
    """
    if role is Role.VCPU and index is None:
        index = 0  # one thread for all vCPUs
    found = decided.cpus_of(role, index)
    if found is None and role in (Role.IOTHREAD, Role.VHOST):
        return decided.cpus_of(Role.EMULATOR)  # one that was not there when it was decided
    if found is None and role is Role.VCPU and decided.spec.vcpu_policy is VcpuPolicy.SHARED:
        return decided.vcpu_cpus  # plugged in beyond what was said: it floats with the others
    return found
