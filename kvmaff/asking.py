"""
What a call asks, as a placement request: guests with what is said of them, what the others hold, what was decided.

Two kinds of guests are in a request: those that want a place, and, where guests may be moved for their sake, those that
have one. Everybody else holds what they have.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from kvmaff.binding.decided import last_decision, same_guest
from kvmaff.binding.journal import Journal
from kvmaff.binding.survey import demands_of, free_memory, free_pages, held_by, place_by_masks
from kvmaff.cpuset import CpuSet
from kvmaff.errors import WrongUsage
from kvmaff.formats.matching import specs_for
from kvmaff.formats.specs import SpecEntry
from kvmaff.guest.guest import Guest
from kvmaff.guest.spec import GuestSpec, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.placement import GuestPlacement, Placement, Unplaced
from kvmaff.placement.request import Demand, Held, HostRules, PlacementRequest
from kvmaff.placement.verify import verify

__all__ = ["Question", "journal_in", "placed_before", "question", "what_runs"]


@attrs.frozen(kw_only=True)
class Question:
    """
    What is asked.

    Attributes:
        request: The guests that can be placed, and what is taken.
        unable: Guests that cannot be told apart in their threads, with the reason.
        kept: Names of running guests that keep what they have although they could have been asked about, and why.
    """

    request: PlacementRequest
    unable: tuple[Unplaced, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()


def journal_in(state_dir: str | os.PathLike[str] | None) -> Journal:
    """
    The folder of records.

    Args:
        state_dir: Where; None for the default.

    Returns:
        It.
    """
    return Journal(None if state_dir is None else os.fspath(state_dir))


def question(
    host: Host,
    guests: Sequence[Guest],
    *,
    specs: Iterable[SpecEntry],
    default: VcpuPolicy,
    others: Sequence[Guest],
    anew: bool,
    rules: HostRules | None,
    moves: Moves | None,
    goal: Goal,
    state_dir: str | os.PathLike[str] | None,
) -> Question:
    """
    Ask for places.

    Args:
        host: The machine.
        guests: The running guests that want a place.
        specs: What guests need; of guests to come, too.
        default: The vCPU policy of guests of which nothing is said.
        others: Running guests that keep their CPUs, or, with a budget, may be moved if it was decided where they are.
        anew: Forget what was decided before.
        rules: What is so for the host; None for what was so for the last decision.
        moves: How many of the others may be moved; None for none, who are not part of the question then.
        goal: What counts where not all have a place.
        state_dir: Where decisions are kept.

    Returns:
        The question.

    Raises:
        WrongUsage: Several specs are for one guest to come.
        SpecError: A spec contradicts what runs, or itself.
        JournalError: What was decided before cannot be believed.
    """
    able, unable = _able(guests)
    matched = specs_for(specs, able, default=default)
    twice = [name for name, count in Counter(spec.name for spec in matched.to_come).items() if count > 1]
    if twice:
        raise WrongUsage.of([f"several specs say what the guest to come {name!r} needs" for name in twice])
    running = _called_apart(matched.running, [*able, *others])
    decided, before = None, HostRules()
    if host.live and not anew:
        decided, before = last_decision(journal_in(state_dir))
    if decided is not None:  # what is decided anew for a guest to come takes the place of what was
        again = {spec.name for spec in matched.to_come}
        kept = tuple(one for one in decided.guests if one.spec.name not in again)
        decided = attrs.evolve(decided, guests=kept)
    rules = before if rules is None else rules
    request = PlacementRequest(
        host=host,
        demands=tuple(demands_of(host, running, matched.to_come)),
        memory=free_memory(host),
        pages=free_pages(host),
        reserved=rules.reserved,
        pools=rules.pools,
        overcommit=rules.overcommit,
        moves=moves or Moves(),
        goal=goal,
    )
    there: list[tuple[Guest, GuestPlacement]] = []
    if moves is not None and decided is not None:
        names = {demand.spec.name for demand in request.demands}
        there = [(guest, one) for guest, one in placed_before(others, decided) if one.spec.name not in names]
    return _with_those(request, there, others, decided, able, unable)


def what_runs(
    host: Host,
    guests: Sequence[Guest],
    *,
    specs: Iterable[SpecEntry],
    rules: HostRules | None,
    moves: Moves,
    state_dir: str | os.PathLike[str] | None,
) -> Question:
    """
    Ask about the guests that run, each with the place that it has: as it was decided, else as its masks say.

    Args:
        host: The machine.
        guests: The guests that run.
        specs: What they need, of guests of which nothing was decided: a guest whose vCPUs have a CPU each counts as
            dedicated where nothing is said.
        rules: What is so for the host; None for what was so for the last decision.
        moves: How much may be moved.
        state_dir: Where decisions are kept.

    Returns:
        The question; guests whose place keeps no rules, or cannot be told, are not in it and hold what they have.

    Raises:
        SpecError: A spec contradicts what runs.
        JournalError: What was decided before cannot be believed.
    """
    able, unable = _able(guests)
    decided, before = last_decision(journal_in(state_dir)) if host.live else (None, HostRules())
    there = placed_before(able, decided)
    known = {guest.pid for guest, _ in there}
    rest = [guest for guest in able if guest.pid not in known]
    matched = specs_for(specs, rest, default=VcpuPolicy.DEDICATED)
    kept = []
    taken = {one.spec.name for _, one in there}
    for guest, spec in _called_apart(matched.running, able):
        one = place_by_masks(host, guest, spec)
        if one is None:
            kept.append((guest.name, "its vCPUs have no CPU each, and it was not decided where it is"))
        elif spec.name in taken:
            kept.append((guest.name, "it was decided where another guest of this name is"))
        else:
            there.append((guest, one))
            taken.add(spec.name)
    rules = before if rules is None else rules
    request = PlacementRequest(
        host=host,
        demands=(),
        memory=free_memory(host),
        pages=free_pages(host),
        reserved=rules.reserved,
        pools=rules.pools,
        overcommit=rules.overcommit,
        moves=moves,
    )
    asked = _with_those(request, there, able, decided, (), unable, over_floating=True)
    return attrs.evolve(asked, kept=tuple({**dict(kept), **dict(asked.kept)}.items()))


def _with_those(
    request: PlacementRequest,
    there: Sequence[tuple[Guest, GuestPlacement]],
    others: Sequence[Guest],
    decided: Placement | None,
    placed: Sequence[Guest],
    unable: tuple[Unplaced, ...],
    *,
    over_floating: bool = False,
) -> Question:
    """Add the guests that have a place; one whose place breaks a rule only holds what it has."""
    demands = demands_of(request.host, [(guest, one.spec) for guest, one in there], ())
    have = [
        attrs.evolve(demand, now=attrs.evolve(one, pid=guest.pid, start=guest.start))
        for demand, (guest, one) in zip(demands, there, strict=True)
    ]
    broken: dict[str, str] = {}
    while True:
        fine = tuple(one for one in have if one.spec.name not in broken)
        inside = {(one.pid, one.start) for one in fine}
        left = [guest for guest in others if guest.verified and (guest.pid, guest.start) not in inside]
        part = [*placed, *(guest for guest, _ in there if (guest.pid, guest.start) in inside)]
        held = tuple(held_by(left, decided, part))
        passed: tuple[tuple[str, str], ...] = ()
        if over_floating:
            held, passed = _without_floating(held, fine)
        asked = attrs.evolve(request, demands=fine, held=held)
        now = Placement(strategy="now", guests=tuple(one.now for one in fine if one.now is not None))
        found = verify(asked, now)
        if not found:
            break
        wrong = {one.guest: one.message for one in found if one.guest is not None}
        broken |= wrong or {one.spec.name: found[0].message for one in fine}
    return Question(
        request=attrs.evolve(asked, demands=(*request.demands, *fine)),
        unable=unable,
        kept=(*broken.items(), *passed),
    )


def _without_floating(
    held: Iterable[Held], there: Iterable[Demand]
) -> tuple[tuple[Held, ...], tuple[tuple[str, str], ...]]:
    """Pass over who floats over CPUs that belong to others: that is so wherever these go."""
    owned = CpuSet.union_of(one.now.owned for one in there if one.now is not None)
    left, passed = [], {}
    for one in held:
        if one.dedicated or one.cpus.isdisjoint(owned):
            left.append(one)
        else:
            passed[one.name] = f"it floats over {one.cpus & owned}, which belong to others"
    return tuple(left), tuple(passed.items())


def placed_before(guests: Sequence[Guest], decided: Placement | None) -> list[tuple[Guest, GuestPlacement]]:
    """
    Find the guests of which it was decided where they are.

    Args:
        guests: Running guests.
        decided: What was decided last.

    Returns:
        Each with its place; without those that cannot be told apart in their threads.
    """
    able = [guest for guest in guests if guest.verified and guest.vcpus and not guest.doubt]
    found: dict[int, tuple[Guest, GuestPlacement]] = {}
    for one in decided.guests if decided else ():
        guest = same_guest(one, able)
        if guest is not None:
            found.setdefault(guest.pid, (guest, one))
    return list(found.values())


def _called_apart(
    running: Iterable[tuple[Guest, GuestSpec]], present: Iterable[Guest]
) -> list[tuple[Guest, GuestSpec]]:
    """Guests of one name are called by their process."""
    names = Counter(guest.name for guest in present)
    return [
        (guest, spec if names[guest.name] == 1 else spec.with_changes(name=f"pid:{guest.pid}"))
        for guest, spec in running
    ]


def _able(guests: Sequence[Guest]) -> tuple[list[Guest], tuple[Unplaced, ...]]:
    """Guests whose threads can be placed, and those that cannot; what has no vCPU is no guest to place."""
    able, unable = [], []
    for guest in guests:
        if guest.verified and guest.doubt:
            unable.append(Unplaced(name=guest.name, reasons=(guest.doubt,)))
        elif guest.verified and guest.vcpus:
            able.append(guest)
    return able, tuple(unable)
