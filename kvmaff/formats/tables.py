"""The tables of a TOML file, gone through key by key; what is wrong is noted with its line, and nothing stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from kvmaff.formats.fields import near_miss, nearest
from kvmaff.formats.tomltext import Document, Path, shown

__all__ = ["Keys", "Tables"]

Keys = Mapping[str, tuple[str, Callable[[object], Any]]]
"""What a table may hold: for each key the field that it is for, and the check of its value."""


@attrs.define(kw_only=True)
class Tables:
    """
    One document, and what is wrong with it.

    Attributes:
        document: The document.
        path: The file's name, for messages.
        problems: Each with its line, which gives them the order of the file.
    """

    document: Document
    path: str
    problems: list[tuple[int, str]] = attrs.field(factory=list)

    def in_order(self) -> list[str]:
        """
        All problems.

        Returns:
            The sentences, in the order of the file.
        """
        return [what for _, what in sorted(self.problems, key=lambda found: found[0])]

    def note(self, path: Path, problem: str) -> None:
        """
        Note what is wrong.

        Args:
            path: The keys that lead there.
            problem: What is wrong there.
        """
        self.problems.append((self.document.line(*path) or 0, f"{self.document.at(*path)}: {problem}"))

    def one(self, name: str, known: Keys) -> dict[str, Any]:
        """
        Read a table that a file has once, ``[name]``, or not at all.

        Args:
            name: Its name.
            known: What it may hold.

        Returns:
            The values that are right, by field.
        """
        table = self.document.data.get(name, {})
        if not isinstance(table, dict):
            self.note((name,), f"{name}: is a table [{name}], not {shown(table)}")
            return {}
        self.unknown((name,), f"{name}: ", table, known)
        return self.values((name,), f"{name}: ", table, known)

    def values(self, path: Path, label: str, table: Mapping[str, Any], known: Keys) -> dict[str, Any]:
        """
        Check what a table holds.

        Args:
            path: The keys that lead to it.
            label: What its problems begin with.
            table: The table.
            known: What it may hold.

        Returns:
            The values that are right, by field.
        """
        values = {}
        for key, (field, check) in known.items():
            if key in table:
                try:
                    values[field] = check(table[key])
                except ValueError as error:
                    for what in error.args:
                        self.note((*path, key), f"{label}{key}: {what}")
        return values

    def unknown(self, path: Path, label: str, table: Mapping[str, Any], known: Iterable[str]) -> set[str]:
        """
        Note the keys of a table that nobody knows.

        Args:
            path: The keys that lead to it.
            label: What its problems begin with.
            table: The table.
            known: The keys that it may hold.

        Returns:
            The keys that may have been meant, of those that the table does not hold.
        """
        words, meant = list(known), set()
        for key in table:
            if key not in words:
                miss = near_miss(key, words) or f"; known are {', '.join(words)}"
                self.note((*path, key), f"{label}{shown(key)} is no key here{miss}")
                meant.add(nearest(key, words))
        return {key for key in meant if key is not None and key not in table}
