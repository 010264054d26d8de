"""
A conversation with a QEMU over QMP, within limits of time and size; whose QEMU that is, is known already.

The library is qemu.qmp, the extra ``qmp``; it is loaded when somebody is connected to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kvmaff.errors import QmpError, QmpRefused, Unsupported
from kvmaff.guest.qmpsocket import what_went_wrong
from kvmaff.kernel.text import printable

if TYPE_CHECKING:
    from kvmaff.guest._qmpclient import Client

__all__ = ["Conversation", "client_class"]


class Conversation:
    """
    Questions and answers, one after the other.

    Args:
        client: The library's client, connected.
        pid: The QEMU's process.
        who: What errors call who answers.
        timeout: Seconds that each answer may take.
        owner: What errors call the QEMU that refuses something.

    Attributes:
        pid: The QEMU's process.
        owner: What errors call it.
    """

    def __init__(self, client: Client, *, pid: int, who: str, timeout: float, owner: str) -> None:
        self.pid = pid
        self._client = client
        self._who = who
        self.owner = owner
        self._timeout = timeout

    async def ask(self, command: str, **arguments: object) -> object:
        """
        Ask anything.

        Args:
            command: QMP's command.
            **arguments: Its arguments; ``_`` in a name stands for ``-``.

        Returns:
            The answer, unchecked.

        Raises:
            QmpRefused: QEMU refuses it.
            QmpError: There is no answer in time, or none that makes sense.
        """
        from qemu.qmp import ExecuteError  # noqa: PLC0415 - the extra

        said = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._client.fresh()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._client.execute(command, said or None)
        except TimeoutError:
            raise self._error(f"did not answer {command} within {self._timeout:g} s") from None
        except ExecuteError as error:
            reason = printable(str(error).encode(errors="replace"), 512)
            raise QmpRefused(
                f"{self.owner}: QEMU refuses {command}: {reason}",
                pid=self.pid,
                command=command,
                kind=printable(error.error_class.encode(errors="replace"), 64),
                reason=reason,
            ) from None
        except Exception as error:  # whatever the peer provokes in the library is its fault
            cause = await self._cause(error)
            raise self._error(f"{cause} when it was asked {command}") from error

    async def _cause(self, error: BaseException) -> str:
        """What the peer did; the library tells it to who disconnects."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.disconnect()
        except Exception as cause:  # noqa: BLE001 - this is what is asked for
            error = cause
        return what_went_wrong(error)

    def _error(self, what: str) -> QmpError:
        return QmpError(f"{self._who} {what}", pid=self.pid)


def client_class() -> type[Client]:
    """
    Load the library.

    Returns:
        The client within our limits.

    Raises:
        Unsupported: It is not installed.
    """
    try:
        from kvmaff.guest._qmpclient import Client  # noqa: PLC0415 - the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "qemu":
            raise
        raise Unsupported("asking QEMU needs qemu.qmp: pip install 'kvmaff[qmp]'") from None
    return Client
