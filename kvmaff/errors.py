"""
One tree of errors.

Every class is a :class:`KvmaffError` and also the builtin that it means, so that a caller may catch either.
What a program may want to know is in attributes, never only in the text; every error survives pickling,
since fleet work crosses processes.
"""

from __future__ import annotations

from typing import Any, Self

__all__ = [
    "AmbiguousGuest",
    "BindingFailed",
    "CpuTextError",
    "GuestNotFound",
    "GuestNotVerified",
    "HostReadError",
    "JournalError",
    "KvmaffError",
    "MicrovmError",
    "PlacementImpossible",
    "PlacementRefused",
    "PluginError",
    "QemuError",
    "QmpBusy",
    "QmpError",
    "QmpRefused",
    "RequestError",
    "SpecError",
    "SpecMismatch",
    "Unsupported",
    "WrongUsage",
]


class KvmaffError(Exception):
    """
    The root of everything that kvmaff raises on purpose.

    Args:
        message: What was wrong, where, and what to do, for the person at the shell.
        **details: The same as values; each becomes an attribute of the error.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        for name, value in details.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[KvmaffError], message: str, details: dict[str, Any]) -> KvmaffError:
    return cls(message, **details)


class CpuTextError(KvmaffError, ValueError):
    """
    A text that is no cpulist or cpumask.

    Attributes:
        text: The whole text.
        position: Index in it of the first character that does not fit.
    """

    text: str
    position: int


class HostReadError(KvmaffError, OSError):
    """
    A host that cannot be read.

    Attributes:
        path: The file or folder that is missing or makes no sense.
    """

    path: str


class GuestNotFound(KvmaffError, LookupError):
    """
    No running guest goes by that name.

    Attributes:
        selector: What was asked for.
        candidates: The selectors that would have found a guest.
    """

    selector: str
    candidates: tuple[str, ...]


class AmbiguousGuest(KvmaffError, LookupError):
    """
    Several running guests go by that name.

    Attributes:
        selector: What was asked for.
        candidates: One unambiguous selector for each of them.
    """

    selector: str
    candidates: tuple[str, ...]


class GuestNotVerified(KvmaffError, PermissionError):
    """
    The process looks like a guest, but nothing proves that it is one, so it is not bound.

    Attributes:
        pid: The process.
        why: What proof is missing.
    """

    pid: int
    why: str


class RequestError(KvmaffError, ValueError):
    """
    A request that cannot be carried out as it stands; nothing was changed.

    Attributes:
        problems: Everything that is wrong with it, one sentence each.
    """

    problems: tuple[str, ...]

    @classmethod
    def of(cls, problems: list[str]) -> Self:
        """
        The error for a list of problems.

        Args:
            problems: At least one sentence.

        Returns:
            The error, its text all the sentences, a line each.
        """
        return cls("\n".join(problems), problems=tuple(problems))


class WrongUsage(RequestError):
    """
    A request that is written wrongly whatever the machine is: a strategy, an option or a value of it that there is not.

    Attributes:
        problems: Everything that is wrong with it, one sentence each.
    """


class SpecError(KvmaffError, ValueError):
    """
    A file of guests' specs that cannot be used as it stands, or (:class:`SpecMismatch`) not with the guests that run.

    Attributes:
        path: The file.
        problems: Everything that is wrong with it, one sentence each; each names the file and the line or the field.
    """

    path: str
    problems: tuple[str, ...]

    @classmethod
    def of(cls, path: str, problems: list[str]) -> Self:
        """
        The error for a list of problems.

        Args:
            path: The file.
            problems: At least one sentence.

        Returns:
            The error, its text all the sentences, a line each.
        """
        return cls("\n".join(problems), path=path, problems=tuple(problems))


class SpecMismatch(SpecError):
    """
    Specs that contradict nothing but the guests that run.

    Attributes:
        path: The file.
        problems: Everything in which they do, one sentence each; each names the file and the line or the field.
    """


class JournalError(KvmaffError, OSError):
    """
    The record that undo needs cannot be written, read or trusted.

    Attributes:
        path: The file or folder.
    """

    path: str


class BindingFailed(KvmaffError, OSError):
    """
    The kernel did not do all that was asked; what had been done was put back.

    Attributes:
        report: The :class:`kvmaff.binding.report.Report`, thread by thread.
    """

    report: Any


class QemuError(KvmaffError, RuntimeError):
    """
    A QEMU binary that cannot be asked: it is not there, is none, does not start, or does not answer.

    Attributes:
        binary: Its path.
        why: What happened.
    """

    binary: str
    why: str


class QmpError(KvmaffError, OSError):
    """
    A guest's QMP monitor cannot be reached, or does not answer as QEMU does.

    Attributes:
        pid: The guest's process.
    """

    pid: int


class QmpBusy(QmpError):
    """
    A QMP monitor did not greet in time: it serves one client, and somebody else is that.

    Attributes:
        pid: The guest's process.
    """


class QmpRefused(QmpError):
    """
    QEMU answered that it does not do what it was asked.

    Attributes:
        pid: The guest's process.
        command: The command.
        kind: QEMU's class of error, such as ``GenericError`` or ``CommandNotFound``.
        reason: QEMU's words.
    """

    command: str
    kind: str
    reason: str


class MicrovmError(KvmaffError, RuntimeError):
    """A microvm of our own could not be started or did not answer."""


class Unsupported(KvmaffError, RuntimeError):
    """This machine or this installation lacks what the call needs."""


class PlacementImpossible(KvmaffError, ValueError):
    """
    Not every guest has a place.

    Attributes:
        unplaced: The guests without one, as :class:`kvmaff.placement.placement.Unplaced`, each with reasons.
        placement: The places of the others, or None.
    """

    unplaced: tuple[Any, ...]
    placement: Any


class PlacementRefused(KvmaffError, ValueError):
    """
    A strategy's answer breaks a rule, or a plug-in objects to it; it is not used.

    Attributes:
        strategy: The strategy.
        violations: Every broken rule, as :class:`kvmaff.placement.verify.Violation`.
    """

    strategy: str
    violations: tuple[Any, ...]


class PluginError(KvmaffError, RuntimeError):
    """
    A plug-in did what it may not, or gave what is not asked.

    Attributes:
        plugin: Its name.
    """

    plugin: str
