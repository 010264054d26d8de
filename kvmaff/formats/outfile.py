"""Files that a user names for us to write."""

from __future__ import annotations

import os
import stat

from kvmaff.errors import RequestError
from kvmaff.kernel.files import put_path

__all__ = ["put_out", "replaceable"]


def replaceable(path: str) -> None:
    """
    Refuse a device, a FIFO or a link in a file's place: it is not ours to replace; root's /dev/null is one.

    Args:
        path: Where a file shall be.

    Raises:
        RequestError: Something else is there, or the path is none.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise RequestError.of([f"{path!r}: {getattr(error, 'strerror', None) or error}"]) from None
    if not stat.S_ISREG(mode):
        raise RequestError.of([f"{path}: is there and is no plain file; it is not replaced"])


def put_out(path: str, data: bytes, mode: int = 0o600) -> None:
    """
    Put a file in place.

    Args:
        path: Where.
        data: What it shall hold.
        mode: Who may read and write it.

    Raises:
        RequestError: It cannot be written, or something is there that is no plain file.
    """
    replaceable(path)
    try:
        put_path(path, data, mode)
    except OSError as error:
        raise RequestError.of([f"{path}: {error.strerror}"]) from error
