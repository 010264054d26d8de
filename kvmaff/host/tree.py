"""
Files below a root: this machine's / or a recorded machine's folder.

Rule: a recorded tree comes from strangers. Its files are read to a bound, never through a link in the last
step, never waiting (a FIFO), and what does not parse is "not told", never a traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, HostReadError

__all__ = ["Tree"]

_LIMIT = 1 << 16
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Tree:
    """
    A root folder that holds ``sys`` and ``proc``; a context manager.

    Args:
        root: Its path; ``/`` is this machine.

    Raises:
        HostReadError: It is no folder, or it may not be opened.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostReadError(
                f"{root}: {error.strerror}; a root is / or a folder that holds sys and proc", path=root
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def text(self, path: str) -> str | None:
        """
        What a file holds.

        Args:
            path: Relative to the root.

        Returns:
            Its text, white space and NUL bytes at both ends cut off; None where it is missing, no plain file, may not
            be read, or is longer than 64 KiB.
        """
        try:
            fd = os.open(path, _FLAGS, dir_fd=self._fd)
        except OSError:
            return None
        data = b""
        try:
            # one read is not a whole file: procfs and sysfs give a page at a time
            while len(data) <= _LIMIT and (chunk := os.read(fd, _LIMIT)):
                data += chunk
        except OSError:
            return None
        finally:
            os.close(fd)
        if len(data) > _LIMIT:
            return None
        return data.decode("ascii", "replace").strip(" \t\r\n\0")

    def number(self, path: str) -> int | None:
        """
        The whole number in a file.

        Args:
            path: Relative to the root.

        Returns:
            It, or None where there is none.
        """
        text = self.text(path)
        if text is None or len(text) > 20:
            return None
        try:
            return int(text)
        except ValueError:
            return None

    def cpus(self, *lists: str, masks: Sequence[str] = ()) -> CpuSet | None:
        """
        The CPUs that the first readable one of several files names.

        Args:
            *lists: Files that hold a cpulist, relative to the root.
            masks: Files that hold a cpumask, asked after those.

        Returns:
            The CPUs, or None where no file tells.
        """
        for path in (*lists, *masks):
            text = self.text(path)
            if text is None:
                continue
            try:
                return CpuSet.parse(text) if path in lists else CpuSet.parse_mask(text)
            except CpuTextError:
                continue
        return None

    def numbered(self, path: str, prefix: str, limit: int) -> list[int]:
        """
        The numbers n for which a folder has an entry PREFIXn.

        Args:
            path: The folder, relative to the root.
            prefix: What stands before the number.
            limit: Numbers from here on are not believed.

        Returns:
            The numbers in ascending order; none where the folder is missing.
        """
        try:
            fd = os.open(path, _FLAGS | os.O_DIRECTORY, dir_fd=self._fd)
        except OSError:
            return []
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        tails = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        digits = [tail for tail in tails if re.fullmatch("0|[1-9][0-9]{0,4}", tail)]
        return sorted(number for number in map(int, digits) if number < limit)
