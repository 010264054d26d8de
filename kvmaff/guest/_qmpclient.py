"""The library's client within our limits. Imports qemu.qmp, so that it is imported by who uses it only."""

from __future__ import annotations

from qemu.qmp import Message, QMPClient
from qemu.qmp.message import DeserializationError, UnexpectedTypeError
from qemu.qmp.qmp_client import GreetingError, NegotiationError

__all__ = ["LONGEST_LINE", "MOST_BYTES", "Client", "TooMuchError", "what_peer_did"]

LONGEST_LINE = 1 << 21
"""Bytes: 8,192 vCPUs are 1.9 MB in query-cpus-fast's words."""
MOST_BYTES = 1 << 24
"""Bytes between two questions."""


class TooMuchError(Exception):
    """The peer said more than any QEMU would."""


class LongLineError(Exception):
    """The peer says more without an end of line than any QEMU would."""


class Client(QMPClient):
    """
    A client that a peer cannot fill with data.

    Args:
        name: What the library's log calls it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, LONGEST_LINE)
        self._left = MOST_BYTES
        self.events.event_filter = lambda _: False  # nobody reads events, which would be kept for who does

    def fresh(self) -> None:
        """Begin to count what the peer says anew: a question is asked."""
        self._left = MOST_BYTES

    async def _do_recv(self) -> Message:
        line = await self._line()
        if line.rstrip() == b"{":  # pretty=on: a value ends with a brace that is not indented
            lines = [line]
            while not line.startswith(b"}"):
                line = await self._line()
                if not line:
                    raise EOFError
                lines.append(line)
            line = b"".join(lines)
        return Message(line, eager=True)

    async def _line(self) -> bytes:
        try:
            line = await self._readline()
        except ValueError:  # asyncio's word for it
            raise LongLineError from None
        self._left -= len(line)
        if self._left < 0:
            raise TooMuchError
        return line


def what_peer_did(error: BaseException) -> str:
    """
    Say what a peer did, by what the library makes of it.

    Args:
        error: What the library raised; the peer's doing is somewhere below.

    Returns:
        Words that follow the peer's name.
    """
    chain = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or getattr(seen, "exc", None) or seen.__context__
    kinds = tuple(map(type, chain))

    def any_of(*wanted: type[BaseException]) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    if any_of(TooMuchError):
        return f"said more than {MOST_BYTES >> 20} MiB"
    if any_of(LongLineError):
        return f"said more than {LONGEST_LINE >> 20} MiB without an end of line"
    if any_of(EOFError, ConnectionResetError, BrokenPipeError):
        return "closed the connection"
    if any_of(GreetingError, NegotiationError, DeserializationError, UnexpectedTypeError, RecursionError):
        return "does not speak QMP"
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return f"cannot be connected to: {one.strerror}"
    return f"said what makes no sense ({kinds[0].__name__})"
