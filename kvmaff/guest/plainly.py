"""Asynchronous calls run to their end, with nothing left behind: from plain code, and where the caller gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["plainly", "to_its_end"]

_LOOK_SECONDS = 0.05
_T = TypeVar("_T")


def plainly(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """
    Run what is asynchronous to its end, wherever one is.

    Args:
        make: Makes it.

    Returns:
        What it returns. Where an event loop runs in this thread already, another thread runs it, and has ended then.
    """
    return _Aside(make).result() if _loop_runs() else asyncio.run(make())


async def to_its_end(what: Coroutine[Any, Any, None]) -> None:
    """
    Await something that must not be left half done, and has limits of its own.

    Args:
        what: It.

    Raises:
        CancelledError: The caller gave up meanwhile; it has ended all the same.
    """
    task = asyncio.ensure_future(what)
    gave_up: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            gave_up = error  # and may do so again
        except Exception:  # noqa: BLE001 - it is told below
            break
    if gave_up is None:
        task.result()
        return
    if not task.cancelled():
        task.exception()  # that the caller gave up is what is told
    raise gave_up


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Aside(Generic[_T]):
    """A coroutine in a thread of its own; it ends with the call, whatever ends that."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        self._make = make
        self._found: list[_T] = []
        self._error: BaseException | None = None
        self._begun = threading.Event()
        self._stop: Callable[[], object] = bool

    def result(self) -> _T:
        thread = threading.Thread(target=self._run, name="kvmaff-qmp")
        thread.start()
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        try:
            while thread.is_alive():
                thread.join(_LOOK_SECONDS)
                # asyncio.run takes a first Ctrl-C as a wish to cancel, which reaches nobody who does not wait for it
                if task is not None and task.cancelling() > cancels:
                    raise asyncio.CancelledError
        except BaseException:
            self._begun.wait()
            self._stop()
            thread.join()
            raise
        if self._error is not None:
            raise self._error
        return self._found[0]

    def _run(self) -> None:
        async def whole() -> _T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
            self._begun.set()
            return await self._make()

        try:
            self._found.append(asyncio.run(whole()))
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            self._error = error
            self._begun.set()
