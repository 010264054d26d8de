"""
In which order threads change places, so that no CPU that belongs to one guest is ever given to two.

A thread moves onto a CPU of its guest's own only when no other guest's thread is bound to that CPU any more. Threads
that merely float over it make room first wherever that can be arranged; where all guests float over all CPUs and
each is to get its own, somebody must begin. Where bound threads wait for each other in a circle, as when two guests
swap, one waits meanwhile on CPUs that belong to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError

__all__ = ["Move", "waves"]


@attrs.frozen(kw_only=True)
class Move:
    """
    One thread that changes places.

    Attributes:
        guest: Whose it is.
        thread: What tells it from the guest's other threads.
        old: Its mask now.
        new: Its mask then.
    """

    guest: str
    thread: int
    old: CpuSet
    new: CpuSet


def waves(moves: Sequence[Move], owned: Mapping[str, CpuSet], common: CpuSet) -> list[list[Move]]:
    """
    Order moves.

    Args:
        moves: The moves, a thread at most once.
        owned: CPUs that belong to each guest alone once all is done.
        common: CPUs on which a thread may wait: online, and nobody's alone before or after.

    Returns:
        Waves; the moves of one may be made in any order when those before it are done. A thread that has to wait moves
        twice.

    Raises:
        RequestError: Guests swap CPUs and there is no CPU on which one could wait.
    """
    left = list(moves)
    done: list[list[Move]] = []
    while left:
        ready = [move for move in left if not _blocked(move, left, owned)]
        ready = ready or [
            move for move in left if not _blocked(move, [one for one in left if _bound(one)], owned)
        ]
        if ready:
            done.append(ready)
            left = [move for move in left if move not in ready]
            continue
        if not common:
            names = ", ".join(sorted({move.guest for move in left}))
            raise RequestError.of(
                [f"guests {names} swap CPUs, and no CPU is free on which one could wait meanwhile"]
            )
        # whoever stands in most others' way waits
        blocker = max(filter(_bound, left), key=lambda move: (_blocks(move, left, owned), -move.thread))
        done.append([attrs.evolve(blocker, new=common)])
        left[left.index(blocker)] = attrs.evolve(blocker, old=common)
    return done


def _bound(move: Move) -> bool:
    """Whether a thread is bound to one CPU now, so that the CPU may be its guest's own."""
    return len(move.old) == 1


def _blocked(move: Move, left: Sequence[Move], owned: Mapping[str, CpuSet]) -> bool:
    mine = move.new & owned.get(move.guest, CpuSet())
    return bool(mine) and any(one.guest != move.guest and one.old & mine for one in left)


def _blocks(move: Move, left: Sequence[Move], owned: Mapping[str, CpuSet]) -> int:
    return sum(
        one.guest != move.guest and bool(move.old & one.new & owned.get(one.guest, CpuSet())) for one in left
    )
