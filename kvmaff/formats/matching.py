"""
Which entry of a file is for which guest, and what the two say together.

Rules:

1. A UUID or an exact name means one guest; it goes before every pattern. Of several patterns the first in the file
   holds.
2. What runs is a fact: an entry may leave it out and may not contradict it.
3. A guest whose roles are in doubt shows neither how many vCPUs nor which IOThreads it has; the entry is believed.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import attrs

from kvmaff.errors import SpecError, SpecMismatch
from kvmaff.formats.fields import near_miss
from kvmaff.formats.specs import SpecEntry
from kvmaff.formats.tomltext import shown
from kvmaff.formats.trial import spec_problems
from kvmaff.guest.guest import Guest, Role
from kvmaff.guest.spec import MAX_VCPUS, GuestSpec, VcpuPolicy
from kvmaff.guest.vmm import cut_iothread

__all__ = ["MatchedSpecs", "means", "specs_for", "void_affinities"]

"""The kernel cuts a thread's name to so many bytes."""


@attrs.frozen(kw_only=True)
class MatchedSpecs:
    """
    The specs of all guests at hand.

    Attributes:
        running: Each running guest with its spec, in the order given.
        to_come: Specs of guests that do not run yet, in the order of the file.
        warnings: Entries that mean no guest, a sentence each.
    """

    running: tuple[tuple[Guest, GuestSpec], ...]
    to_come: tuple[GuestSpec, ...]
    warnings: tuple[str, ...]


def specs_for(
    entries: Iterable[SpecEntry], guests: Iterable[Guest], *, default: VcpuPolicy = VcpuPolicy.SHARED
) -> MatchedSpecs:
    """
    Give every guest its spec.

    Args:
        entries: What a file says.
        guests: The running guests that are to be placed.
        default: The vCPU policy where the file does not give one.

    Returns:
        The specs of the running guests and of those to come, and what was left over.

    Raises:
        SpecMismatch: An entry contradicts what runs, means several guests where it can mean only one, or competes with
            another one for a guest; says everything that is wrong.
        SpecError: An entry for a guest to come contradicts itself under that default; says all of the above, too.
    """
    known, present = tuple(entries), tuple(guests)
    problems: list[str] = []
    kind: type[SpecError] = SpecMismatch
    running, to_come, warnings = [], [], []
    for guest in present:
        best = _best(known, guest)
        entry = best[0] if best else None
        values, wrong = _running(entry, guest, default)
        if entry is not None:
            if len(best) > 1:
                others = " and ".join(str(other) for other in best[1:])
                problems.append(entry.problem(f"means {_called(guest)}, and so does {others}"))
            wrong = wrong or spec_problems(values)
            problems += [entry.problem(f"{what}; this is {_called(guest)}", field) for field, what in wrong]
        if not wrong:
            running.append((guest, GuestSpec(**values)))
    for entry in known:
        meant = [guest for guest in present if means(entry, guest)]
        if meant:
            problems += _several(entry, meant)
        elif entry.name is None or not entry.exact or entry.vcpus is None:
            warnings.append(entry.problem(f"means no running guest, and {_missing(entry)}"))
        else:
            values = {"vcpu_policy": default, **entry.given(), "name": entry.name, "uuid": entry.uuid}
            wrong = spec_problems(values)
            kind = SpecError if wrong else kind
            if any(guest.name == entry.name for guest in present):
                wrong.append(("uuid", "the guest that runs under this name does not show this UUID"))
            problems += [entry.problem(what, field) for field, what in wrong]
            if not wrong:
                to_come.append(GuestSpec(**values))
    if problems:
        raise kind.of(known[0].path, problems)
    return MatchedSpecs(running=tuple(running), to_come=tuple(to_come), warnings=tuple(warnings))


def void_affinities(entries: Iterable[SpecEntry], names: Collection[str]) -> tuple[str, ...]:
    """
    Find affinities that are no rule, since the guest is not there that they name; it may be misspelt.

    Args:
        entries: What a file says.
        names: The guests that are there: those that run, and those to come for which there is a place or is to be one.

    Returns:
        A sentence for each such guest of each entry.
    """
    found = []
    for entry in entries:
        for field in ("affinity", "anti_affinity"):
            for name in dict.fromkeys(one.guest for one in getattr(entry, field) or ()):
                if name not in names:
                    miss = near_miss(name, names)
                    found.append(
                        entry.problem(f"there is no guest {shown(name)}, so that it is no rule{miss}", field)
                    )
    return tuple(found)


def means(entry: SpecEntry, guest: Guest) -> bool:
    """
    Whether an entry is for a guest.

    Args:
        entry: The entry.
        guest: The guest.

    Returns:
        True where its UUID, else its name or pattern, is the guest's.
    """
    if entry.uuid is not None:
        return entry.uuid == guest.uuid
    if entry.exact:
        return entry.name == guest.name
    return entry.name is not None and fnmatch.fnmatchcase(guest.name, entry.name)


def _best(entries: Sequence[SpecEntry], guest: Guest) -> list[SpecEntry]:
    """Find the entry for a guest, and those with the same right to it; patterns give way in order."""
    found = [entry for entry in entries if means(entry, guest)]
    return [entry for entry in found if entry.exact] or found[:1]


def _several(entry: SpecEntry, meant: Sequence[Guest]) -> Iterator[str]:
    """Refuse to guess which guest an entry means that is for one."""
    if entry.exact and len(meant) > 1:
        pids = ", ".join(f"pid:{guest.pid}" for guest in meant)
        field, advice = (
            ("uuid", "") if entry.uuid else ("name", "; say which by uuid, or mean all by a pattern")
        )
        yield entry.problem(f"{len(meant)} running guests go by it: {pids}{advice}", field)


def _called(guest: Guest) -> str:
    return f'the running guest "{guest.name}" (pid {guest.pid})'


def _missing(entry: SpecEntry) -> str:
    if entry.name is None:
        return "a guest to come needs a name"
    return "a guest to come needs vcpus" if entry.exact else "a pattern stands for none to come"


def _running(
    entry: SpecEntry | None, guest: Guest, default: VcpuPolicy
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Lay what a file says over what runs: GuestSpec's fields, and each (field, contradiction)."""
    said = entry.given() if entry is not None else {}
    wrong: list[tuple[str, str]] = []
    low, high = said.get("vcpus", 1), said.get("max_vcpus", said.get("vcpus", MAX_VCPUS))
    indices = _indices(guest)
    if indices is None:
        count = said.get("vcpus") or max(1, min(len(guest.vcpus), high))
        top = count
    else:
        count, top = len(indices), max(indices) + 1
        if not low <= count <= high:
            field = "vcpus" if "vcpus" in said else "max_vcpus"
            wrong.append((field, f"{said[field]} is not what runs, {count} vCPUs"))
        elif top > high and "max_vcpus" in said:
            # vCPUs are plugged in and out one by one: the highest number may be above their count
            wrong.append(("max_vcpus", f"{high} is not above the number of a vCPU that runs, {top - 1}"))
    inside = sum(len(cell.vcpus) for cell in said.get("cells", ()))
    names, why = _iothreads(guest, said.get("iothreads"))
    if why:
        wrong.append(("iothreads", why))
    values = {
        "vcpu_policy": default,
        "max_vcpus": max(count, top, inside, guest.max_vcpus or 0),
        **said,
        "name": guest.name,
        "uuid": guest.uuid,
        "vcpus": count,
        "iothreads": names,
    }
    return values, wrong


def _indices(guest: Guest) -> list[int] | None:
    """Which vCPUs run; None where that is not known."""
    indices = [
        thread.index for thread in guest.vcpus if thread.index is not None and thread.index < MAX_VCPUS
    ]
    certain = guest.doubt is None and indices and len(indices) == len(guest.vcpus)
    return indices if certain else None


def _iothreads(guest: Guest, said: Sequence[str] | None) -> tuple[tuple[str, ...], str | None]:
    """Name a guest's IOThreads in order of their threads, and say what contradicts that."""
    known = [thread.iothread or "" for thread in guest.by_role(Role.IOTHREAD)]
    cut = [cut_iothread(name) for name in known]
    if said is None:
        names: list[str] = []
        for name in known:
            # two long names may be cut to the same one
            same = (f"{name}~{number}" for number in range(2, len(cut) + 2))
            names.append(next(each for each in (name, *same) if each not in names))
        return tuple(names), None
    if guest.doubt is not None and not cut:
        return tuple(said), None
    whole: dict[str, list[str]] = {}
    for name in said:
        whole.setdefault(cut_iothread(name), []).append(name)
    if Counter(cut) != Counter({name: len(names) for name, names in whole.items()}):
        return tuple(said), f"{', '.join(said) or 'none'} are not what runs, {', '.join(cut) or 'none'}"
    return tuple(whole[name].pop(0) for name in cut), None
