"""The threads of guests in a drawn machine: by PU, or by a part of it where PU by PU would be too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, GuestThread, Role, number_list
from kvmaff.report.lines import count

__all__ = ["Detail", "Pieces", "Threads", "details"]

Pieces = list[tuple[str, str]]
"""(text, style), to be wrapped."""
_AROUND = (Role.EMULATOR, Role.OTHER)  # where such a thread ran last says little, unless it is bound there


@attrs.frozen(kw_only=True)
class Detail:
    """
    How much a tree says of threads.

    Attributes:
        lines: How long the tree may be, or None for any length.
        own_lines: PUs of a core that carry threads have lines of their own.
        last: Where threads that may run elsewhere ran last is said.
        deepest: How deep the parts are that threads are said of; None for PUs.
        names: Guests are named; otherwise they are counted.
    """

    lines: int | None
    own_lines: bool = False
    last: bool = False
    deepest: int | None = None
    names: bool = True


def details(depth: int, few: int, most: int) -> Iterator[Detail]:
    """
    Give less and less detail.

    Args:
        depth: How deep a tree is.
        few: How many lines it may have where PUs have lines of their own.
        most: How many it may have otherwise.

    Returns:
        The details; the last may be as long as it is.
    """
    yield Detail(lines=few, own_lines=True, last=True)
    yield Detail(lines=most, last=True)
    yield Detail(lines=most)
    for names in (True, False):
        for deepest in range(depth - 1, 0, -1):
            yield Detail(lines=most, deepest=deepest, names=names)
    yield Detail(lines=None, deepest=0, names=False)


class Threads:
    """
    The threads that a tree shows.

    Args:
        guests: Whose they are.
        online: The CPUs that are drawn.
    """

    def __init__(self, guests: Sequence[Guest], online: CpuSet) -> None:
        self.bound: dict[int, list[tuple[int, str, GuestThread]]] = {}
        self.last: dict[int, list[tuple[int, str, GuestThread]]] = {}
        for number, guest in enumerate(guests):
            name = guest.name if guest.verified else f"{guest.name} (?)"
            for thread in guest.threads:
                if thread.mask is not None and len(thread.mask) == 1:
                    if thread.mask.first in online:
                        self.bound.setdefault(thread.mask.first, []).append((number, name, thread))
                elif thread.cpu is not None and thread.cpu in online and thread.role not in _AROUND:
                    self.last.setdefault(thread.cpu, []).append((number, name, thread))

    def of(self, cpu: int, *, last: bool) -> Pieces:
        """
        Name the threads of a CPU.

        Args:
            cpu: The CPU.
            last: Name those that ran there last, too.

        Returns:
            ``  bound: web vcpu 0``; nothing where there is none.
        """
        pieces: Pieces = []
        if cpu in self.bound:
            pieces.append((f"  bound: {_named(self.bound[cpu])}", "cyan"))
        if last and cpu in self.last:
            pieces.append((f"  last: {_named(self.last[cpu])}", "dim cyan"))
        return pieces

    def within(self, cpus: CpuSet, *, names: bool) -> str:
        """
        Say which threads are bound to CPUs of a part.

        Args:
            cpus: The part's CPUs.
            names: Name guests; otherwise they are counted.

        Returns:
            ``vcpu 0-7 of web, db``, or ``16 threads of 2 guests``; empty where there is none.
        """
        found = sorted(chain.from_iterable(self.bound.get(cpu, ()) for cpu in cpus), key=_whose)
        if not found:
            return ""
        if not names:
            return (
                f"{count(len(found), 'thread')} of {count(len({number for number, _, _ in found}), 'guest')}"
            )
        by_words: dict[str, list[str]] = {}
        for (_, name, _), same in groupby(found, key=_whose):
            words = _roles([thread for _, _, thread in same])
            by_words.setdefault(words, []).append(name)
        return "; ".join(f"{words} of {', '.join(those)}" for words, those in by_words.items())

    def legend(self, detail: Detail) -> Iterator[tuple[str, str]]:
        """
        Say what the words beside CPUs mean.

        Args:
            detail: How much was said.

        Returns:
            (word, meaning).
        """
        folded = detail.deepest is not None
        if self.bound and folded:
            yield (
                "bound",
                "threads of guests that may run on one CPU only, which is there (kvmaff guests has which)",
            )
        elif self.bound:
            yield "bound", "threads of guests that may run nowhere else"
        if self.last and detail.last:
            yield "last", "threads of guests that ran there last, and may run elsewhere"
        elif self.last:
            many = count(sum(map(len, self.last.values())), "more thread")
            yield "left out", f"{many} of guests that may run on several CPUs (kvmaff guests has them)"


def _whose(found: tuple[int, str, GuestThread]) -> tuple[int, str, Role]:
    return found[0], found[1], found[2].role


def _named(threads: Iterable[tuple[int, str, GuestThread]]) -> str:
    return ", ".join(
        f"{name} {_roles([thread for _, _, thread in same])}"
        for (_, name, _), same in groupby(threads, key=_whose)
    )


def _roles(threads: Sequence[GuestThread]) -> str:
    """Threads of one guest and role."""
    indices = number_list(thread.index for thread in threads if thread.index is not None)
    many = f" x{len(threads)}" if not indices and len(threads) > 1 else ""
    return f"{threads[0].role}{f' {indices}' if indices else many}"
