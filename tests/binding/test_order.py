"""The order of changes never gives a CPU that belongs to one guest to two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.binding.order import Move, waves
from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError

GUESTS = "abcd"


@hs.composite
def shuffles(draw: hs.DrawFn) -> tuple[list[Move], dict[str, CpuSet], CpuSet]:
    """Guests whose dedicated threads move to other CPUs, and some that float; two CPUs are common."""
    count = draw(hs.integers(1, 8))
    new = draw(hs.permutations(range(count)))
    old = draw(hs.permutations(range(count)))
    names = draw(hs.lists(hs.sampled_from(GUESTS), min_size=count, max_size=count))
    moves = []
    for thread, (guest, here, there) in enumerate(zip(names, old, new, strict=True)):
        wide = draw(hs.booleans())
        before = CpuSet(range(count + 2)) if wide else CpuSet([here])
        moves.append(Move(guest=guest, thread=thread, old=before, new=CpuSet([there])))
    for thread in range(draw(hs.integers(0, 3))):
        mask = CpuSet(draw(hs.sets(hs.integers(0, count + 1), min_size=1)))
        moves.append(Move(guest="floats", thread=100 + thread, old=mask, new=CpuSet([count, count + 1])))
    owned = {name: CpuSet.union_of(m.new for m in moves if m.guest == name) for name in set(names)}
    return [move for move in moves if move.old != move.new], owned, CpuSet([count, count + 1])


@given(shuffles())
def test_no_cpu_is_given_to_two_guests(case: tuple[list[Move], dict[str, CpuSet], CpuSet]) -> None:
    """When a thread is moved onto its guest's own CPU, no thread of another guest is bound to that any more."""
    moves, owned, common = case
    now = {move.thread: (move.guest, move.old) for move in moves}
    for wave in waves(moves, owned, common):
        for move in wave:
            assert now[move.thread][1] == move.old
            mine = move.new & owned.get(move.guest, CpuSet())
            for guest, mask in now.values():
                if guest != move.guest and len(mask) == 1:
                    assert mask.isdisjoint(mine), (move, now)
        for move in wave:
            now[move.thread] = (move.guest, move.new)
    assert {move.thread: move.new for move in moves} == {thread: mask for thread, (_, mask) in now.items()}


def test_who_goes_first() -> None:
    """A guest that floats everywhere makes room before another one moves in; nothing else waits."""
    wide = Move(guest="b", thread=1, old=CpuSet.parse("0-3"), new=CpuSet.parse("2-3"))
    own = Move(guest="a", thread=2, old=CpuSet.parse("0-3"), new=CpuSet([0]))
    assert [[wide], [own]] == waves([own, wide], {"a": CpuSet([0])}, CpuSet())


def test_two_guests_that_swap() -> None:
    """Where two guests swap, one waits on a common CPU; where there is none, that is an error that names them."""
    moves = [
        Move(guest="a", thread=1, old=CpuSet([0]), new=CpuSet([1])),
        Move(guest="b", thread=2, old=CpuSet([1]), new=CpuSet([0])),
    ]
    owned = {"a": CpuSet([1]), "b": CpuSet([0])}
    steps = [[(move.guest, str(move.new)) for move in wave] for wave in waves(moves, owned, CpuSet([7]))]
    assert [[("a", "7")], [("b", "0")], [("a", "1")]] == steps
    with pytest.raises(RequestError, match="guests a, b swap CPUs"):
        waves(moves, owned, CpuSet())
    assert [] == waves([], {}, CpuSet())
