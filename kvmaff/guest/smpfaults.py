"""What can be wrong with the text behind ``-smp``, as values and as an error."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from kvmaff.errors import WrongUsage

__all__ = ["SmpError", "SmpFault", "SmpKind", "clipped"]


_SHOWN = 200


def clipped(text: str) -> str:
    """
    Show a text in a message.

    Args:
        text: It.

    Returns:
        It in quotes, what is not printable escaped; of a long one the beginning.
    """
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"


class SmpKind(enum.StrEnum):
    """What is wrong with a text, in the order in which QEMU looks."""

    SYNTAX = "syntax"
    HELP = "help"
    NUMBER = "number"
    UNEXPECTED = "unexpected"
    OVERFLOW = "overflow"
    ZERO = "zero"
    UNSUPPORTED = "unsupported"
    PRODUCT = "product"
    MAXCPUS = "maxcpus"
    MIN_CPUS = "min_cpus"
    MAX_CPUS = "max_cpus"
    APIC_ID = "apic_id"


@attrs.frozen
class SmpFault:
    """
    One mistake.

    Attributes:
        kind: Its kind.
        text: QEMU's message for it, where QEMU has one.
        hint: What would be right; empty where that is not known.
    """

    kind: SmpKind
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.hint})" if self.hint else self.text


class SmpError(WrongUsage):
    """
    A text that QEMU would not start with, or not as it is meant.

    Attributes:
        text: The text.
        faults: Everything that is wrong with it; the first is what QEMU says.
        problems: The same, one sentence each.
    """

    text: str
    faults: tuple[SmpFault, ...]

    @classmethod
    def about(cls, text: str, faults: Iterable[SmpFault]) -> SmpError:
        """
        The error for some faults.

        Args:
            text: The text that they are in.
            faults: At least one.

        Returns:
            The error.
        """
        found = tuple(faults)
        lines = [f"-smp {clipped(text)}: {fault}" for fault in found]
        return cls("\n".join(lines), text=text, faults=found, problems=tuple(lines))
