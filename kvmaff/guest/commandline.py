"""The command line of a guest that runs, as its process has it now: what it says of itself, which is input."""

from __future__ import annotations

from kvmaff.errors import GuestNotFound
from kvmaff.guest.guest import Guest
from kvmaff.kernel.scan import Proc

__all__ = ["command_line"]

_LONGEST = 1 << 21
"""A command line has at most so many bytes where the stack is 8 MiB (execve(2))."""


def command_line(guest: Guest, root: str = "/") -> tuple[str, ...]:
    """
    Read it.

    Args:
        guest: The guest.
        root: The machine that it runs on; ``/`` is this one.

    Returns:
        The words, the program first; what is no UTF-8 with the replacement character.

    Raises:
        GuestNotFound: It is gone.
    """
    with Proc(root) as proc:
        data = proc.read(f"{guest.pid}/cmdline", _LONGEST)
        # looked at afterwards: then the words cannot be those of a process that has the number since
        if not data or (guest.start and proc.start_of(guest.pid) != guest.start):
            raise GuestNotFound(
                f"guest {guest.name!r} (pid {guest.pid}) is gone, or its command line may not be read",
                selector=guest.name,
                candidates=(),
            )
    return tuple(word.decode("utf-8", "replace") for word in data.removesuffix(b"\0").split(b"\0"))
