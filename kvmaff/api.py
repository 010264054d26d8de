"""The calls that most programs need, each a line to the room that does the work."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

from kvmaff.binding.decided import last_decision
from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import pin_guest
from kvmaff.binding.pin import pin_process as pin_any
from kvmaff.binding.plan import Plan, make_plan
from kvmaff.binding.report import Report
from kvmaff.binding.survey import demands_of, free_memory, free_pages, held_by
from kvmaff.binding.undo import undo as undo_record
from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible, RequestError, WrongUsage
from kvmaff.formats.capture import Captured
from kvmaff.formats.capture import capture as write_capture
from kvmaff.formats.matching import specs_for
from kvmaff.formats.specs import SpecEntry, read_rules, read_specs
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.select import select_guest
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.guest.vmm import Vmm
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host, read_host
from kvmaff.placement.placement import Placement, Unplaced
from kvmaff.placement.request import Demand, HostRules, PlacementRequest
from kvmaff.placement.verify import verify

__all__ = [
    "DEFAULT_STRATEGY",
    "capture",
    "default_policy",
    "guests",
    "pin",
    "pin_process",
    "place",
    "plan",
    "read_host",
    "read_rules",
    "read_specs",
    "undo",
]

DEFAULT_STRATEGY = "numa"
"""Who decides where nothing else is said."""
_PLENTY = 1 << 62


def guests(host: Host, *, vmms: Sequence[Vmm] | None = None) -> tuple[Guest, ...]:
    """
    Find the guests that run on a host, with every thread by role.

    Args:
        host: The host.
        vmms: VMMs to know beside the built-in ones; None for those of the installed plug-ins.

    Returns:
        The guests in order of name, and what only claims to be one (``verified`` is false).

    Raises:
        HostReadError: There is no /proc.
        Unsupported: /proc is that of another pid namespace.
    """
    return find_guests(host.root, vmms=_vmms() if vmms is None else vmms)


def capture(
    path: str | os.PathLike[str], *, host: Host | None = None, command_lines: bool = False
) -> Captured:
    """
    Write a host into one file, for a later :func:`read_host` elsewhere.

    Args:
        path: The file; one that is there is replaced when the new one is whole.
        host: The host, read anew; None for this machine.
        command_lines: Keep the command lines of all processes, which may hold secrets.

    Returns:
        What the file holds.

    Raises:
        HostReadError: The machine cannot be read.
        RequestError: It is too large for a capture, or the file cannot be written, or something is there that is no
            plain file; nothing is left behind.
        Unsupported: /proc is that of another pid namespace.
    """
    return write_capture(path, root=host.root if host else "/", command_lines=command_lines, vmms=_vmms())


def pin(
    host: Host,
    guest: Guest | str,
    wishes: Mapping[str, CpuSet | str],
    *,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Bind a guest's threads, all of them or none.

    Args:
        host: The running machine.
        guest: The guest, or its name, ``uuid:…`` or ``pid:…``.
        wishes: CPUs (a set or a cpulist) by key: ``{"0": "4", "1-3": "5-7", "emulator": "0-1", "io:disk": "2"}``.
        state_dir: Where the record that undoes it is kept; by default /var/lib/kvmaff for root.

    Returns:
        The report, thread by thread.

    Raises:
        RequestError: The request cannot be carried out as it stands; nothing was changed.
        GuestNotFound: No guest goes by that name.
        AmbiguousGuest: Several do.
        GuestNotVerified: It is not proved to be a guest.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed. Its ``report`` says why.
        Unsupported: The host is a recorded one, or /proc is that of another pid namespace.
    """
    if not isinstance(guest, Guest | str):
        raise TypeError(f"a guest is a Guest or its name, 'uuid:…' or 'pid:…', not {guest!r}")
    if isinstance(guest, str):
        guest = select_guest(guests(host), guest)
    return pin_guest(host, guest, wishes, journal=_journal(state_dir), vmms=_vmms())


def pin_process(
    host: Host,
    pid: int,
    cpus: CpuSet | str,
    *,
    tid: int | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Bind any process on purpose, guest or not.

    Args:
        host: The running machine.
        pid: The process; all its threads are bound, those too that start meanwhile.
        cpus: The CPUs, as a set or a cpulist.
        tid: Bind this thread of it only.
        state_dir: Where the record that undoes it is kept.

    Returns:
        The report, thread by thread.

    Raises:
        RequestError: The process or thread is not there, or a CPU is not online; nothing was changed.
        JournalError: The record cannot be written; nothing was changed.
        BindingFailed: The kernel did not do all of it; nothing stays changed.
        Unsupported: The host is a recorded one, or /proc is that of another pid namespace.
    """
    return pin_any(host, pid, cpus, tid=tid, journal=_journal(state_dir))


def undo(
    number: int | None = None,
    *,
    force: bool = False,
    state_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """
    Put back what the last call of :func:`pin` changed, or what a given one did.

    Args:
        number: The record, as in the report's ``journal``; None for the newest.
        force: Also overwrite masks that somebody else has set since.
        state_dir: Where the records are.

    Returns:
        The report; without threads where there is nothing to undo.

    Raises:
        JournalError: The record cannot be believed; no mask was changed.
        RequestError: A newer record holds the same threads.
    """
    return undo_record(number, journal=_journal(state_dir), force=force)


def place(
    host: Host,
    guests: Sequence[Guest] = (),
    strategy: str = DEFAULT_STRATEGY,
    *,
    specs: Iterable[SpecEntry] = (),
    options: Mapping[str, object] | None = None,
    dedicated: bool = False,
    others: Sequence[Guest] = (),
    anew: bool = False,
    rules: HostRules | None = None,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Placement:
    """
    Decide where guests run; nothing is changed.

    Args:
        host: The machine, running or recorded.
        guests: The guests to place. Those that are not proved to be guests are passed over.
        strategy: Who decides: ``numa``, ``pack``, ``spread``, ``isolated`` or a plug-in's.
        specs: What guests need, as :func:`read_specs` gives it; of guests that do not run yet, too. A guest of which
            nothing is said is shared, but for strategies that say otherwise.
        options: The strategy's options.
        dedicated: Guests of which nothing is said are dedicated.
        others: Running guests that keep their CPUs.
        anew: Forget what was decided before, also for guests to come.
        rules: CPUs that are reserved, CPU pools, over-commit ratios; :func:`read_rules` reads them from specs' files.
            None for those of the last decision, unless it is forgotten.
        plugins: The plug-ins; None for all that are installed.
        state_dir: Where it was decided before what the others keep.

    Returns:
        A CPU set for every thread of every guest, verified.

    Raises:
        PlacementImpossible: A guest has no place; says for each why and what would work, and has the others' places.
        PlacementRefused: The strategy's answer breaks a rule, or a plug-in objects.
        WrongUsage: There is no such strategy or option, or several specs are for one guest to come.
        RequestError: There is no such strategy, and a plug-in that does not work could have had it.
        SpecError: A spec contradicts what runs (SpecMismatch), or itself.
        JournalError: What was decided before cannot be believed.
        PluginError: A plug-in failed.
    """
    manager = plugins or PluginManager.load()
    able, unable = _able(guests)
    matched = specs_for(specs, able, default=default_policy(manager, strategy, dedicated=dedicated))
    names = Counter(guest.name for guest in (*able, *others))
    running = [
        (guest, spec if names[guest.name] == 1 else spec.with_changes(name=f"pid:{guest.pid}"))
        for guest, spec in matched.running
    ]
    twice = [name for name, count in Counter(spec.name for spec in matched.to_come).items() if count > 1]
    if twice:
        raise WrongUsage.of([f"several specs say what the guest to come {name!r} needs" for name in twice])
    decided, before = None, HostRules()
    if host.live and not anew:
        decided, before = last_decision(_journal(state_dir))
    if decided is not None:  # what is decided anew for a guest to come takes the place of what was
        again = {spec.name for spec in matched.to_come}
        kept = tuple(one for one in decided.guests if one.spec.name not in again)
        decided = attrs.evolve(decided, guests=kept)
    rules = before if rules is None else rules
    request = PlacementRequest(
        host=host,
        demands=tuple(demands_of(host, running, matched.to_come)),
        held=tuple(held_by([guest for guest in others if guest.verified], decided, able)),
        memory=free_memory(host),
        pages=free_pages(host),
        reserved=rules.reserved,
        pools=rules.pools,
        overcommit=rules.overcommit,
    )
    try:
        placement = manager.decide(request, strategy, options)
    except PlacementImpossible as error:
        raise _impossible((*error.unplaced, *unable), error.placement) from None
    if unable:
        raise _impossible(unable, placement)
    return placement


def default_policy(plugins: PluginManager, strategy: str, *, dedicated: bool) -> VcpuPolicy:
    """
    The vCPU policy of guests of which nothing is said.

    Args:
        plugins: The plug-ins.
        strategy: Who decides.
        dedicated: Whether the caller wants them dedicated.

    Returns:
        That of the strategy, unless they are dedicated anyway.
    """
    known = plugins.strategies().get(strategy)
    return VcpuPolicy.DEDICATED if dedicated or not known else known.vcpu_policy


def plan(
    host: Host,
    placement: Placement | None = None,
    *,
    rules: HostRules | None = None,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Plan:
    """
    Compare a decision with the machine as it is now; nothing is changed.

    Args:
        host: The running machine.
        placement: The decision; None for what was decided and applied last.
        rules: What is so for the host beside the decision, and kept with it; None for what it was decided from, where
            it says that (``placement.basis``, with what plug-ins reserve), else for the rules of the last decision.
        plugins: The plug-ins; None for all that are installed.
        state_dir: Where decisions and records are kept.

    Returns:
        The plan: false, and without changes, where nothing differs. ``plan.apply()`` does it.

    Raises:
        RequestError: Nothing was decided yet, or a decided guest's vCPUs cannot be told apart.
        JournalError: What was decided cannot be believed.
    """
    manager = plugins or PluginManager.load()
    journal = _journal(state_dir)
    decided, known = placement, None
    if placement is None:
        decided, known = last_decision(journal)
    elif placement.basis is not None:
        asked = placement.basis.request
        known = HostRules(reserved=asked.reserved, overcommit=asked.overcommit, pools=asked.pools)
    rules = known if rules is None else rules
    if decided is None:
        raise RequestError.of([f"nothing was decided yet in {journal.folder}: decide with a strategy first"])
    made = make_plan(host, decided, vmms=tuple(manager.vmms().values()))
    if placement is None:
        _still_holds(host, made.placement, rules or HostRules())
    return attrs.evolve(made, rules=rules).bound_to(journal, manager.applied)


def _still_holds(host: Host, decided: Placement, rules: HostRules) -> None:
    """A host may have changed since it was decided: CPUs gone, isolated, or given to two by two decisions."""
    # memory was there when it was decided: what is free now is without what the guests have of it already
    sizes = {one.spec.page_bytes for one in decided.guests if one.spec.page_bytes}
    request = PlacementRequest(
        host=host,
        demands=tuple(Demand(spec=one.spec, pid=one.pid, start=one.start) for one in decided.guests),
        pages=tuple((node.number, size, _PLENTY) for node in host.topology.nodes for size in sorted(sizes)),
        reserved=rules.reserved,
        pools=rules.pools,
        overcommit=rules.overcommit,
    )
    broken = verify(request, decided)
    if broken:
        raise RequestError.of(
            [f"what was decided does not hold any more: {one.message}; decide anew" for one in broken]
        )


def _able(guests: Sequence[Guest]) -> tuple[list[Guest], tuple[Unplaced, ...]]:
    """Guests whose threads can be placed, and those that cannot; what has no vCPU is no guest to place."""
    able, unable = [], []
    for guest in guests:
        if guest.verified and guest.doubt:
            unable.append(Unplaced(name=guest.name, reasons=(guest.doubt,)))
        elif guest.verified and guest.vcpus:
            able.append(guest)
    return able, tuple(unable)


def _impossible(unplaced: tuple[Unplaced, ...], placement: Placement | None) -> PlacementImpossible:
    lines = [f"{one.name}: {reason}" for one in unplaced for reason in one.reasons]
    return PlacementImpossible("\n".join(lines), unplaced=unplaced, placement=placement)


def _vmms() -> tuple[Vmm, ...]:
    return tuple(PluginManager.load().vmms().values())


def _journal(state_dir: str | os.PathLike[str] | None) -> Journal:
    return Journal(None if state_dir is None else os.fspath(state_dir))
