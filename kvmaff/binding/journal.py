"""
The record that undo needs, on disk before the first mask is changed.

Rules:

* one file a call, named by its number; the highest number is undone first;
* a file appears whole or not at all: written beside its place, fsync, renamed, and the folder fsynced;
* files are ours (0600 in a folder that nobody else may write), opened without following links, and what they
  say is checked field by field: a record that does not make sense is an error, never a guess;
* masks live as long as the kernel that runs: a record of another boot or of another pid namespace is foreign,
  and its thread numbers mean nothing here;
* one kvmaff at a time binds: the folder is locked (flock) from reading a record to removing it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator

from kvmaff.binding.record import Record, boot_id, from_data, pid_namespace, time_namespace, to_data
from kvmaff.errors import JournalError
from kvmaff.kernel.files import put_file
from kvmaff.kernel.scan import ticks_now

__all__ = ["DECIDED", "Folder", "Journal", "default_folder"]

DECIDED = "decided.json"
"""The file that keeps what was decided last."""

_LIMIT = 1 << 26
_NAME = re.compile(r"([0-9]{8,18})\.json")
_LAST = "last"
_WAIT = 5.0
_WHERE = " with --state-dir or KVMAFF_STATE_DIR"


def default_folder() -> str:
    """
    Where records are kept unless told otherwise.

    Returns:
        ``$KVMAFF_STATE_DIR``, else /var/lib/kvmaff for root, else ``$XDG_STATE_HOME``/kvmaff, which is
        ~/.local/state/kvmaff by default.
    """
    told = os.environ.get("KVMAFF_STATE_DIR")
    if told:
        return told
    if os.geteuid() == 0:
        return "/var/lib/kvmaff"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "kvmaff")


class Journal:
    """
    A folder of records.

    Args:
        folder: Its path; made, with 0700, when the first record is written.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = os.path.abspath(folder or default_folder())

    def exists(self) -> bool:
        """
        Whether the folder is there at all.

        Returns:
            True where something has that name.
        """
        return os.path.lexists(self.folder)

    @contextlib.contextmanager
    def locked(self, *, make: bool = False) -> Iterator[Folder]:
        """
        Open the folder, alone.

        Args:
            make: Make it where it is missing.

        Returns:
            A context manager that gives the open folder.

        Raises:
            JournalError: It is missing and is not to be made, cannot be made, is not ours alone to write, or
                another kvmaff holds it for longer than 5 seconds.
        """
        if make:
            self._make()
        try:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(self.folder, f"{error.strerror}; give a folder{_WHERE}") from error
        try:
            info = os.fstat(fd)
            if info.st_uid not in (0, os.geteuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise self._error(
                    self.folder,
                    "others than you and root may write there, so its records would not be believed; "
                    f"give a folder of your own{_WHERE}",
                )
            self._lock(fd)
            yield Folder(self.folder, fd)
        finally:
            os.close(fd)

    def _make(self) -> None:
        parent = os.path.dirname(self.folder)
        try:
            os.makedirs(parent, mode=0o755, exist_ok=True)
            os.mkdir(self.folder, mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise self._error(
                self.folder,
                f"{error.strerror}; undo needs it: give a folder{_WHERE}",
            ) from error

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._error(self.folder, "another kvmaff is at work; try again") from None
                time.sleep(0.02)
            else:
                return

    @staticmethod
    def _error(path: str, why: str) -> JournalError:
        return JournalError(f"{path}: {why}", path=path)


class Folder:
    """
    The records, while the folder is locked.

    Args:
        path: Its path, for messages.
        fd: Its descriptor.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def numbers(self) -> list[int]:
        """
        The records there are.

        Returns:
            Their numbers, the oldest first.
        """
        matches = map(_NAME.fullmatch, os.listdir(self._fd))
        return sorted(int(match[1]) for match in matches if match)

    def has(self, name: str) -> bool:
        """
        Whether the folder has a file.

        Args:
            name: Its name.

        Returns:
            True where something has that name.
        """
        return name in os.listdir(self._fd)

    def begin(self, command: str) -> Record:
        """
        Start a record, not yet written.

        Args:
            command: What was asked, for people.

        Returns:
            It, without threads.
        """
        return Record(
            number=self._next(),
            boot=boot_id(),
            namespace=pid_namespace(),
            timens=time_namespace(),
            time=int(time.time()),
            ticks=ticks_now(),
            command=command,
            entries=(),
        )

    def _next(self) -> int:
        """A number that no record had before: undoing record 3 must never undo somebody else's later call."""
        last = 0
        if self.has(_LAST):
            try:
                last = int(self.get(_LAST))
            except ValueError:
                last = 0  # damaged: the records themselves still count
        return max([last, *self.numbers()]) + 1

    def write(self, record: Record) -> None:
        """
        Put a record on disk, in place of an earlier one of its number.

        Args:
            record: The record.

        Raises:
            JournalError: It cannot be written; then nothing has changed.
        """
        self.put(_LAST, f"{record.number}\n")
        self.put(f"{record.number:08d}.json", json.dumps(to_data(record)) + "\n")

    def put(self, name: str, text: str) -> None:
        """
        Put a file on disk, whole or not at all.

        Args:
            name: Its name in the folder.
            text: What it shall hold.

        Raises:
            JournalError: It cannot be written; then nothing has changed.
        """
        data = text.encode()
        if len(data) > _LIMIT:
            path = f"{self.path}/{name}"
            raise JournalError(
                f"{path}: would be longer than {_LIMIT} bytes; bind fewer threads at once", path=path
            )
        try:
            put_file(self._fd, name, data)  # what a crash left under its temporary name is ours: the lock is
        except OSError as error:
            raise JournalError(
                f"{self.path}/{name}: {error.strerror}; nothing is bound without a record that undoes it: "
                f"give a folder{_WHERE}",
                path=f"{self.path}/{name}",
            ) from error

    def read(self, number: int) -> Record:
        """
        Read a record.

        Args:
            number: Its number.

        Returns:
            The record.

        Raises:
            JournalError: It is missing, not ours, damaged, or of another version of kvmaff.
        """
        name = f"{number:08d}.json"
        path = f"{self.path}/{name}"
        try:
            return from_data(json.loads(self.get(name)), number)
        except (ValueError, RecursionError) as error:
            raise JournalError(
                f"{path}: damaged, so nothing is undone from it: {error}. "
                f"Look at it, then remove it: kvmaff undo --discard {number}",
                path=path,
            ) from error

    def get(self, name: str) -> str:
        """
        What a file of the folder holds.

        Args:
            name: Its name.

        Returns:
            Its text.

        Raises:
            JournalError: It is missing, or not ours to believe.
            ValueError: It is too long or no text.
        """
        path = f"{self.path}/{name}"
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            why = "there is no such record; see kvmaff undo --list" if missing else error.strerror
            raise JournalError(f"{path}: {why}", path=path) from error
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()):
                raise JournalError(f"{path}: not a file of ours, so not believed", path=path)
            if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise JournalError(f"{path}: others may write to it, so it is not believed", path=path)
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise ValueError(f"longer than {_LIMIT} bytes")
        return data.decode()

    def remove(self, number: int) -> None:
        """
        Remove a record, for good.

        Args:
            number: Its number.

        Raises:
            JournalError: It cannot be removed.
        """
        self.drop(f"{number:08d}.json")

    def drop(self, name: str) -> None:
        """
        Remove a file.

        Args:
            name: Its name.

        Raises:
            JournalError: It cannot be removed.
        """
        try:
            os.unlink(name, dir_fd=self._fd)
            os.fsync(self._fd)
        except OSError as error:
            path = f"{self.path}/{name}"
            missing = isinstance(error, FileNotFoundError)
            why = "there is no such record; see kvmaff undo --list" if missing else error.strerror
            raise JournalError(f"{path}: {why}", path=path) from error
