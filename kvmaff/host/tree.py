"""
Files below a root: this machine's /, a recorded machine's folder, or a capture file.

Rule: a recorded tree comes from strangers. Its files are read to a bound, never through a link in the last
step, never waiting (a FIFO), and what does not parse is "not told", never a traceback.
"""

from __future__ import annotations

import abc
import errno
import os
import re
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, HostReadError
from kvmaff.kernel.text import printable

__all__ = ["BIG", "FolderTree", "Tree", "open_tree"]

_LIMIT = 1 << 16
BIG = 1 << 24
"""Bytes to read at most of files that grow with mounts or interrupts."""
_PAGE = 4096
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


def open_tree(root: str) -> Tree:
    """
    Open a machine's files.

    Args:
        root: ``/`` for this machine, a folder that holds ``sys`` and ``proc``, or a capture file.

    Returns:
        The tree; a context manager.

    Raises:
        HostReadError: There is no such thing, it may not be opened, or it is no capture file.
    """
    try:
        is_file = stat.S_ISREG(os.stat(root).st_mode)
    except (OSError, ValueError):
        is_file = False  # a folder or nothing: opening it says what is wrong
    if not is_file:
        return FolderTree(root)
    from kvmaff.host.archive import ArchiveTree  # noqa: PLC0415 - unpacking takes 10 ms to import

    return ArchiveTree(root)


class Tree(abc.ABC):
    """
    The files below a root; a context manager.

    What stores them says how one is read (:meth:`read`) and what a folder holds (:meth:`names`).

    Args:
        root: Where they are; ``/`` is this machine.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._lists: dict[str, CpuSet] = {}
        self._masks: dict[str, CpuSet] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was opened and remembered."""
        self._lists.clear()
        self._masks.clear()

    @abc.abstractmethod
    def read(self, path: str, limit: int = _LIMIT) -> bytes | None:
        """
        What a file holds.

        Args:
            path: Relative to the root.
            limit: Bytes that it may have at most.

        Returns:
            The bytes; None where it is missing, no plain file, may not be read, or is longer.
        """

    @abc.abstractmethod
    def names(self, path: str) -> list[str]:
        """
        What a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            The names, in no order; none where there is no such folder.
        """

    @abc.abstractmethod
    def folders(self, path: str) -> list[str]:
        """
        What folders a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            Their names, in no order.
        """

    def text(self, path: str, limit: int = _LIMIT) -> str | None:
        """
        The text of a file.

        Args:
            path: Relative to the root.
            limit: Bytes that it may have at most.

        Returns:
            The text, white space and NUL bytes at both ends cut off; None where :meth:`read` gives none.
        """
        data = self.read(path, limit)
        return None if data is None else data.decode("ascii", "replace").strip(" \t\r\n\0")

    def number(self, path: str) -> int | None:
        """
        The whole number in a file.

        Args:
            path: Relative to the root.

        Returns:
            It, or None where there is none.
        """
        data = self.read(path)
        digits = (data or b"").strip(b" \t\r\n\0")
        return int(digits) if len(digits) <= 20 and digits.removeprefix(b"-").isdigit() else None

    def cpus(self, *lists: str) -> CpuSet | None:
        """
        The CPUs that the first readable one of several files names.

        Args:
            *lists: Files that hold a cpulist, relative to the root.

        Returns:
            The CPUs, or None where no file tells.
        """
        for path in lists:
            found = self._parsed(path, self._lists, CpuSet.parse)
            if found is not None:
                return found
        return None

    def mask(self, path: str) -> CpuSet | None:
        """
        The CPUs in a file that holds a cpumask.

        Args:
            path: Relative to the root.

        Returns:
            The CPUs, or None where it does not tell.
        """
        return self._parsed(path, self._masks, CpuSet.parse_mask)

    def _parsed(self, path: str, known: dict[str, CpuSet], parse: Callable[[str], CpuSet]) -> CpuSet | None:
        text = self.text(path)
        if text is None:
            return None
        found = known.get(text)  # a core's siblings are those of its L2 cache, too
        if found is None:
            try:
                found = known[text] = parse(text)
            except CpuTextError:
                return None
        return found

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
        tails = [name[len(prefix) :] for name in self.names(path) if name.startswith(prefix)]
        digits = [tail for tail in tails if _NUMBER.fullmatch(tail)]
        return sorted(number for number in map(int, digits) if number < limit)


class FolderTree(Tree):
    """
    A root folder that holds ``sys`` and ``proc``.

    Args:
        root: Its path; ``/`` is this machine.

    Raises:
        HostReadError: It is no folder, or it may not be opened.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._beneath: Callable[[int, bytes, int], int] | None = None
        if root != "/":
            from kvmaff.kernel.native import lib  # noqa: PLC0415 - this machine is read without

            self._beneath = lib.ps_open_beneath
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            shown = printable(os.fsencode(root), 512)
            why = getattr(error, "strerror", None) or error
            raise HostReadError(
                f"{shown}: {why}; a root is /, a folder that holds sys and proc, or a file made by kvmaff capture",
                path=root,
            ) from error

    def close(self) -> None:
        """Close the folder."""
        super().close()
        os.close(self._fd)

    def read(self, path: str, limit: int = _LIMIT) -> bytes | None:
        """
        What a file holds.

        Args:
            path: Relative to the root.
            limit: Bytes that it may have at most.

        Returns:
            The bytes; None where it is missing, no plain file, may not be read, or is longer.
        """
        fd = self._open(path, _FLAGS)
        if fd < 0:
            return None
        try:
            data = os.read(fd, _PAGE)
            # sysfs gives a page at a time, so that less is the end; procfs ends where it likes
            if len(data) == _PAGE or not path.startswith("sys/"):
                while len(data) <= limit and (chunk := os.read(fd, limit + 1 - len(data))):
                    data += chunk
        except OSError:
            return None
        finally:
            os.close(fd)
        return None if len(data) > limit else data

    def names(self, path: str) -> list[str]:
        """
        What a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            The names, in no order; none where there is no such folder.
        """
        return [name for name, _ in self._entries(path)]

    def folders(self, path: str) -> list[str]:
        """
        What folders a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            Their names, in no order.
        """
        return [name for name, is_folder in self._entries(path) if is_folder]

    def _entries(self, path: str) -> list[tuple[str, bool]]:
        fd = self._open(path, _FLAGS | os.O_DIRECTORY)
        if fd < 0:
            return []
        try:
            with os.scandir(fd) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except OSError:
            return []
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        """Return a descriptor, or less than 0. In a recorded tree no link on the way leads out of it."""
        if self._beneath is not None:
            fd: int = self._beneath(self._fd, path.encode("utf-8", "surrogateescape"), flags)
            if fd != -errno.ENOSYS:
                return fd
            self._beneath = None  # a kernel before 5.6, or a sandbox: then the last step at least is no link
        try:
            return os.open(path, flags, dir_fd=self._fd)
        except (OSError, ValueError):
            return -1
