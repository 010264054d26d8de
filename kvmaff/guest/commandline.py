"""The command line of a guest that runs, as its process has it now: what it says of itself, which is input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs

from kvmaff.errors import GuestNotFound
from kvmaff.guest.guest import Guest
from kvmaff.guest.smp import SmpReading, read_smp
from kvmaff.guest.smpfaults import SmpError
from kvmaff.guest.smprules import ANY_MACHINE
from kvmaff.kernel.scan import Proc

__all__ = ["command_line", "smp_said"]

_RULES = (ANY_MACHINE, attrs.evolve(ANY_MACHINE, qemu=(8, 2)))
"""Of a QEMU that runs it is not known how old it is; one before 9.0 passes over numbers that are 0."""

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


def smp_said(words: Sequence[bytes]) -> SmpReading | None:
    """
    Read what a command line says of a guest's CPUs. How many there can be is the same for all machine types.

    Args:
        words: The words.

    Returns:
        What ``-smp`` says; None where there is none, or none that a QEMU starts with.
    """
    texts = [
        value.decode("utf-8", "replace") for word, value in pairwise(words) if word in {b"-smp", b"--smp"}
    ]
    for rules in _RULES if texts else ():
        try:
            return read_smp(texts, rules)
        except SmpError:
            continue
    return None
