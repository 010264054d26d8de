"""Files of ours: written whole or not at all, never through a link."""

from __future__ import annotations

import contextlib
import os

__all__ = ["put_file", "put_path"]


def put_file(folder: int, name: str, data: bytes, mode: int = 0o600) -> None:
    """
    Put a file on disk; another one of that name is replaced when the new one is whole.

    Args:
        folder: Descriptor of the folder.
        name: Its name there.
        data: What it shall hold.
        mode: Who may read and write it, whatever the umask.

    Raises:
        OSError: It cannot be written; then nothing has changed.
    """
    temporary = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)  # left by a crash
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def put_path(path: str, data: bytes, mode: int = 0o600) -> None:
    """
    The same by path.

    Args:
        path: Where; a link there is replaced, not followed.
        data: What it shall hold.
        mode: Who may read and write it.

    Raises:
        OSError: It cannot be written; then nothing has changed.
    """
    folder, name = os.path.split(os.path.abspath(path))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        put_file(fd, name, data, mode)
    finally:
        os.close(fd)
