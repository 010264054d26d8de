"""What was done, thread by thread, as frozen values."""

from __future__ import annotations

import enum

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role

__all__ = ["Outcome", "Report", "ThreadResult"]


class Outcome(enum.StrEnum):
    """What became of one thread."""

    SET = "set"
    """It has the mask that was asked, proved and read back."""
    KEPT = "kept"
    """It had that mask already."""
    CLIPPED = "clipped"
    """The kernel gave it fewer CPUs than asked."""
    GONE = "gone"
    """It ended meanwhile."""
    REFUSED = "refused"
    """It was not bound; ``why`` says who refused and what to do."""
    RESTORED = "restored"
    """It has the mask again that it had before."""

    @property
    def failed(self) -> bool:
        """Whether the thread has not what was asked although it lives."""
        return self in (Outcome.CLIPPED, Outcome.REFUSED)


@attrs.frozen(kw_only=True)
class ThreadResult:
    """
    What became of one thread.

    Attributes:
        pid: Its process.
        tid: Its number.
        role: What it is for; None for a thread of a process that is bound as any process.
        index: Which vCPU or IOThread it is, or None.
        before: Its mask before, or None where it could not be read.
        asked: The mask it was to have.
        after: Its mask now, or None where it is gone or could not be read.
        outcome: What became of it.
        why: A sentence for a person; empty where nothing is to be said.
    """

    pid: int
    tid: int
    role: Role | None
    index: int | None
    before: CpuSet | None
    asked: CpuSet
    after: CpuSet | None
    outcome: Outcome
    why: str = ""


@attrs.frozen(kw_only=True)
class Report:
    """
    What one call did.

    Attributes:
        ok: Whether every thread that still lives has what was asked.
        threads: Each thread's result.
        journal: Number of the record that undoes it, or None where nothing is left to undo.
        trouble: What went wrong beside the threads, a sentence each.
    """

    ok: bool
    threads: tuple[ThreadResult, ...]
    journal: int | None = None
    trouble: tuple[str, ...] = ()

    @property
    def changed(self) -> int:
        """How many threads have another mask now than before the call."""
        return sum(thread.after is not None and thread.after != thread.before for thread in self.threads)

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong, a sentence each."""
        threads = (
            f"thread {thread.tid}{_title(thread)}: {thread.outcome}: {thread.why}"
            for thread in self.threads
            if thread.outcome.failed
        )
        return (*threads, *self.trouble)


def _title(thread: ThreadResult) -> str:
    if thread.role is None:
        return ""
    return f" ({thread.role}{'' if thread.index is None else f' {thread.index}'})"
