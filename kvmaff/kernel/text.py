"""What other processes call themselves, made fit to be shown."""

from __future__ import annotations

import functools

__all__ = ["printable"]


@functools.lru_cache(maxsize=4096)  # thousands of threads have a few names
def printable(raw: bytes, limit: int = 128) -> str:
    """
    Text that a terminal shows as it is.

    Names, thread names and command lines are whatever their owner wrote: an escape sequence in one must not reach
    the terminal of the root user who lists guests.

    Args:
        raw: The bytes.
        limit: How many characters to keep.

    Returns:
        The text as UTF-8, everything that is not printable replaced by ``?``.
    """
    text = raw[: 4 * limit].decode("utf-8", "replace")[:limit]
    return "".join(char if char.isprintable() and char != "\ufffd" else "?" for char in text)
