"""A tree that remembers what was read of it: what a capture has to hold, by construction."""

from __future__ import annotations

from kvmaff.host.tree import Tree

__all__ = ["RecordingTree"]


class RecordingTree(Tree):
    """
    A tree seen through a glass that keeps what passes.

    Args:
        source: The tree that is read.
    """

    def __init__(self, source: Tree) -> None:
        super().__init__(source.root)
        self._source = source
        self.files: dict[str, bytes] = {}
        """What was read, by path; what was missing is not in it."""
        self.numbered_folders: set[str] = set()
        """Numbered folders that were seen, read or not: cpu7, node1."""

    def close(self) -> None:
        """Close the tree that is read."""
        self._source.close()

    def read(self, path: str, limit: int = 1 << 16) -> bytes | None:
        """
        What a file holds.

        Args:
            path: Relative to the root.
            limit: Bytes that it may have at most.

        Returns:
            The bytes; None where the source has none.
        """
        data = self._source.read(path, limit)
        if data is not None:
            self.files[path] = data
        return data

    def names(self, path: str) -> list[str]:
        """
        What a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            The names, in no order; none where there is no such folder.
        """
        return self._source.names(path)

    def folders(self, path: str) -> list[str]:
        """
        What folders a folder holds.

        Args:
            path: Relative to the root.

        Returns:
            Their names, in no order.
        """
        return self._source.folders(path)

    def numbered(self, path: str, prefix: str, limit: int) -> list[int]:
        """
        The numbers n for which a folder has an entry PREFIXn.

        Args:
            path: The folder, relative to the root.
            prefix: What stands before the number.
            limit: Numbers from here on are not believed.

        Returns:
            The numbers in ascending order.
        """
        numbers = super().numbered(path, prefix, limit)
        self.numbered_folders.update(f"{path}/{prefix}{number}" for number in numbers)
        return numbers
