"""Which guest is meant: by its name, ``uuid:…`` or ``pid:…``."""

from __future__ import annotations

from collections.abc import Sequence

from kvmaff.errors import AmbiguousGuest, GuestNotFound, GuestNotVerified
from kvmaff.guest.guest import Guest

__all__ = ["select_guest"]


def select_guest(guests: Sequence[Guest], selector: str) -> Guest:
    """
    Find the one guest that a selector means.

    A selector that begins with ``pid:`` or ``uuid:`` is never taken as a name, whatever guests call themselves.

    Args:
        guests: The guests to choose from.
        selector: A name, ``uuid:UUID`` or ``pid:PID``.

    Returns:
        The guest, proved to be one.

    Raises:
        GuestNotFound: None goes by that name.
        AmbiguousGuest: Several do.
        GuestNotVerified: The one that does is not proved to be a guest.
    """
    if selector.startswith("pid:"):
        found = [guest for guest in guests if selector == f"pid:{guest.pid}"]
    elif selector.startswith("uuid:"):
        found = [guest for guest in guests if guest.uuid and selector.lower() == f"uuid:{guest.uuid}"]
    else:
        found = [guest for guest in guests if guest.name == selector]
    # what only claims the name of a proved guest does not take it away
    found = [guest for guest in found if guest.verified] or found
    if not found:
        candidates = tuple(sorted({guest.name for guest in guests if guest.verified}))
        others = len([guest for guest in guests if not guest.verified])
        known = ", ".join(candidates) if candidates else "none is running"
        if others:
            known = f"{', '.join(candidates) or 'none that is proved'}, and {others} that are not (see kvmaff guests)"
        raise GuestNotFound(
            f"no guest {selector!r}; guests here: {known}", selector=selector, candidates=candidates
        )
    if len(found) > 1:
        candidates = tuple(f"pid:{guest.pid}" for guest in found)
        raise AmbiguousGuest(
            f"{len(found)} guests go by {selector!r}; say which: {', '.join(candidates)}",
            selector=selector,
            candidates=candidates,
        )
    guest = found[0]
    if not guest.verified:
        raise GuestNotVerified(
            f"pid {guest.pid} ({guest.name}) is not proved to be a guest: {guest.why}. It is not bound; "
            f"to bind it as any process, on purpose: kvmaff pin --pid {guest.pid} CPULIST",
            pid=guest.pid,
            why=guest.why,
        )
    return guest
