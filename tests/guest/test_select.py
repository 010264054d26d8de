"""Which guest a selector means."""

from __future__ import annotations

import pytest

from kvmaff.errors import AmbiguousGuest, GuestNotFound, GuestNotVerified
from kvmaff.guest.guest import Guest
from kvmaff.guest.select import select_guest


def _guest(name: str, pid: int, uuid: str | None = None, why: str | None = None) -> Guest:
    return Guest(
        name=name,
        uuid=uuid,
        pid=pid,
        start=1,
        seen=2,
        vmm="qemu",
        kvm=True,
        verified=why is None,
        why=why,
        doubt=None,
        threads=(),
    )


UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
GUESTS = (
    _guest("web", 10, UUID),
    _guest("db", 11),
    _guest("db", 12),
    _guest("pid:10", 13),
    _guest("fake", 14, why="it calls itself so"),
)


def test_by_name_uuid_and_pid() -> None:
    """A guest is found by its name, its UUID in any case, and its process; a prefix is never a name."""
    assert 10 == select_guest(GUESTS, "web").pid
    assert 10 == select_guest(GUESTS, f"uuid:{UUID.upper()}").pid
    assert 12 == select_guest(GUESTS, "pid:12").pid
    assert "web" == select_guest(GUESTS, "pid:10").name


def test_unknown_lists_what_there_is() -> None:
    """An unknown name is answered with the names there are, the unproved ones left out."""
    with pytest.raises(GuestNotFound, match="'nope'.*db, pid:10, web") as caught:
        select_guest(GUESTS, "nope")
    assert ("db", "pid:10", "web") == caught.value.candidates
    with pytest.raises(GuestNotFound, match="none is running"):
        select_guest((), "web")
    with pytest.raises(GuestNotFound, match="none that is proved, and 1 that are not"):
        select_guest(GUESTS[4:], "web")
    with pytest.raises(GuestNotFound):
        select_guest(GUESTS, "uuid:")


def test_ambiguous_lists_the_candidates() -> None:
    """A name of two guests is answered with a selector for each."""
    with pytest.raises(AmbiguousGuest, match="pid:11, pid:12") as caught:
        select_guest(GUESTS, "db")
    assert ("pid:11", "pid:12") == caught.value.candidates


def test_an_impostor_takes_no_name_away() -> None:
    """What only claims the name of a proved guest does not make it ambiguous."""
    fake = _guest("web", 99, why="it calls itself so")
    assert 10 == select_guest((fake, *GUESTS), "web").pid


def test_unproved_is_never_selected() -> None:
    """What only calls itself a guest is refused, with the reason and the way to bind it on purpose."""
    with pytest.raises(GuestNotVerified, match="it calls itself so.*--pid 14") as caught:
        select_guest(GUESTS, "fake")
    assert 14 == caught.value.pid
