"""Discovery's questions to QMP monitors: many guests at once, each within a limit, and no answer is an answer."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs

from kvmaff.errors import KvmaffError
from kvmaff.guest.monitor import Monitor, Monitors

__all__ = ["AskMonitors", "Question", "Said", "ask_monitors"]

_AT_ONCE = 64


class AskMonitors(enum.StrEnum):
    """Which guests' QMP monitors discovery asks."""

    NEVER = "never"
    """None's."""
    IN_DOUBT = "in-doubt"
    """Those of guests whose vCPU threads neither their names nor the kernel tell apart."""
    ALWAYS = "always"
    """Every guest's that has one, to compare what it says with what names and the kernel say."""


@attrs.frozen(kw_only=True)
class Question:
    """
    A guest to ask about.

    Attributes:
        pid: Its process.
        start: Its start, clock ticks after boot.
        monitors: Its monitors.
        begun: Whether it is sure that it waits for none of them any more.
    """

    pid: int
    start: int
    monitors: Monitors
    begun: bool = False


@attrs.frozen(kw_only=True)
class Said:
    """
    What a monitor said of its guest's threads.

    Attributes:
        vcpus: Thread by vCPU number; all the same under ``tcg,thread=single``.
        iothreads: IOThread's id by thread.
    """

    vcpus: Mapping[int, int]
    iothreads: Mapping[int, str]


def ask_monitors(questions: Sequence[Question], timeout: float) -> dict[int, Said | str]:
    """
    Ask guests' monitors which thread is which.

    A monitor for which its QEMU may wait (``server=on`` without ``wait=off``) is not connected to: it would begin.

    Args:
        questions: The guests.
        timeout: Seconds that each step with each may take; guests are asked at the same time, 64 at once.

    Returns:
        By process what was said, or why nothing was, in words that follow what is in doubt.
    """
    found: dict[int, Said | str] = {}
    able: list[tuple[Question, tuple[Monitor, ...]]] = []
    for one in questions:
        free = tuple(monitor for monitor in one.monitors.sockets if one.begun or not monitor.waits)
        if free:
            able.append((one, free))
        elif one.monitors.sockets:
            found[one.pid] = (
                "its QMP monitor is one that it may be waiting for (no wait=off), so it is not asked"
            )
        else:
            found[one.pid] = "; ".join(f"its QMP monitor {why}" for why in dict.fromkeys(one.monitors.others))
    if able:
        found |= _all(able, timeout)
    return found


def _all(able: Sequence[tuple[Question, tuple[Monitor, ...]]], timeout: float) -> dict[int, Said | str]:
    # most hosts never need it, and asyncio takes longer to load than they to be read
    import asyncio  # noqa: PLC0415

    from kvmaff.guest.plainly import plainly  # noqa: PLC0415
    from kvmaff.guest.qmp import open_qmp  # noqa: PLC0415

    async def every() -> dict[int, Said | str]:
        few = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question, monitors: tuple[Monitor, ...]) -> Said | str:
            try:
                async with few, open_qmp(question.pid, question.start, monitors, timeout=timeout) as qmp:
                    vcpus = await qmp.vcpus()
                    iothreads = await qmp.iothreads()
            except KvmaffError as error:
                return str(error)
            both = {vcpu.tid for vcpu in vcpus} & {thread.tid for thread in iothreads}
            if both:
                return f"its QMP monitor says that thread {min(both)} is a vCPU's and an IOThread's"
            return Said(
                vcpus={vcpu.index: vcpu.tid for vcpu in vcpus},
                iothreads={thread.tid: thread.name for thread in iothreads},
            )

        answers = await asyncio.gather(*(one(*each) for each in able))
        return {question.pid: answer for (question, _), answer in zip(able, answers, strict=True)}

    return plainly(every)
