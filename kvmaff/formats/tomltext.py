"""
TOML text -> its values, and the line on which each of them stands.

Rules:

1. tomllib alone says what is TOML and what it means. The scan here only finds lines, in text that tomllib took.
2. A line is exact or not given: what stands inside an inline table or an array has no line of its own.
3. Nothing of the text reaches a message unless it is printable.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from kvmaff.errors import SpecError
from kvmaff.kernel.text import printable

__all__ = ["Document", "Path", "cleaned", "parse_document", "read_text", "shown"]

Path = tuple[str | int, ...]
"""The way to a value: keys, and numbers from 0 in an array of tables."""

MAX_BYTES = 1 << 20
MAX_KEY_PARTS = 32
# a string that does not end takes what is left, or each quote in it would be looked at as another beginning
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)|"(?:\\.|[^"\\\n])*"?|'''
    r"""'''.*?(?:'{3,5}|\Z)|'[^'\n]*'?|"""
    r"""(?P<nothing>\#[^\n]*|[ \t\r]+)|[\[\]{}=.\n]|[^\s"'\#\[\]{}=.]+""",
    re.DOTALL,
)
_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@attrs.frozen(kw_only=True)
class Document:
    """
    A TOML document.

    Attributes:
        where: What it is called in messages; printable.
        data: Its values.
        lines: The line, from 1, of each key and table that has one.
    """

    where: str
    data: Mapping[str, Any]
    lines: Mapping[Path, int]

    def line(self, *path: str | int) -> int | None:
        """
        Find the line of a value.

        Args:
            *path: The way to it.

        Returns:
            Its line, else that of the table that lacks it or of what it is written inside, else None.
        """
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                return line
        return None

    def at(self, *path: str | int) -> str:
        """
        Say where a value stands.

        Args:
            *path: The way to it.

        Returns:
            ``FILE:LINE``, or ``FILE`` where it has no line.
        """
        line = self.line(*path)
        return f"{self.where}:{line}" if line else self.where


@attrs.frozen(kw_only=True)
class _Statement:
    """One ``[table]``, ``[[table]]`` or ``key = value``: ``brackets`` is 1, 2 or 0."""

    line: int
    brackets: int
    key: str
    parts: int


def read_text(path: str | os.PathLike[str], *, most: int = MAX_BYTES, what: str = "file of guests") -> str:
    """
    Read a file that people write.

    Args:
        path: The file.
        most: How many bytes it may have.
        what: What it is, for messages.

    Returns:
        Its text.

    Raises:
        SpecError: It cannot be read, is larger than that, or is not UTF-8.
    """
    name = os.fspath(path)
    where = cleaned(name)
    try:
        with open(name, "rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise SpecError.of(name, [f"{where}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # open() on a name with a NUL byte
        raise SpecError.of(name, [f"{where}: is no name of a file: {cleaned(str(error))}"]) from error
    if len(raw) > most:
        raise SpecError.of(name, [f"{where}: is larger than {most} bytes, so it is no {what}"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError.of(name, [f"{where}:{line}: is not UTF-8: {error.reason}"]) from error


def parse_document(text: str, where: str) -> Document:
    """
    Parse TOML.

    Args:
        text: The text.
        where: What to call it in messages.

    Returns:
        The document.

    Raises:
        SpecError: The text is no TOML, or nested too deeply.
    """
    name, where = where, cleaned(where)
    # tomllib takes time by the square of a key's parts: an hour for 1 MiB of dots
    statements = list(_statements(text))
    for statement in statements:
        if statement.parts > MAX_KEY_PARTS:
            why = f"a key of {statement.parts} parts; none here has more than {MAX_KEY_PARTS}"
            raise SpecError.of(name, [f"{where}:{statement.line}: {why}"])
    try:
        data = tomllib.loads(f"{text}\n")  # so that what is wrong in the last line is in a line
        return Document(where=where, data=data, lines=_lines(statements))
    except RecursionError:  # without the 1000 frames of its cause
        raise SpecError.of(name, [f"{where}: is nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError, and int() on more digits than it takes
        raise SpecError.of(name, [_syntax(str(error), where, statements)]) from error


def cleaned(text: str) -> str:
    """
    Make a text fit for a terminal.

    Args:
        text: The text, of whatever origin.

    Returns:
        The same, everything that is not printable replaced by ``?``.
    """
    return printable(text.encode("utf-8", "replace"), 4096)


def shown(value: object) -> str:
    """
    Show a value of a document in a message.

    Args:
        value: The value.

    Returns:
        A short printable text.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        # str() of more than 4300 digits is an error, and no one reads 20 of them
        return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    if isinstance(value, str):
        cut = cleaned(value[:41])
        return f'"{cut}"' if len(cut) <= 40 else f'"{cut[:37]}..."'
    if isinstance(value, float):
        return str(value)
    if isinstance(value, list):
        return "a list"
    return "a table" if isinstance(value, dict) else "a date or time"


def _syntax(message: str, where: str, statements: list[_Statement]) -> str:
    """Say what tomllib says, the place first."""
    match = _PLACE.fullmatch(message)
    if match is None:
        return f"{where}: {cleaned(message.partition(';')[0])}"  # behind it stands advice for programmers
    what = cleaned(match[1])
    if match[2] is None:
        return f"{where}: at the end of the file: {what}"
    line = int(match[2])
    if what == "Cannot overwrite a value":
        # all before this place is sound, so the last statement that begins before it is the one
        begun = [statement for statement in statements if statement.line <= line]
        what = f"{shown(begun[-1].key)} is there already ({what})" if begun else what
    return f"{where}:{line}: column {match[3]}: {what}"


def _statements(text: str) -> Iterator[_Statement]:
    """Find the statements of a sound document; of any other, whatever looks like one."""
    line, depth = 1, 0
    first: int | None = None  # the line of the statement at hand
    brackets = parts = begin = 0
    key: str | None = None
    for token in _TOKEN.finditer(f"{text}\n"):
        word = token[0]
        if word == "\n" and not depth:
            if first is not None:
                yield _Statement(line=first, brackets=brackets, key=key or "", parts=parts)
            first = key = None
        elif word != "\n" and token["nothing"] is None:
            if first is None:
                first, begin, brackets, parts = line, token.start(), 0, 1
            if key is None:
                if word == "[" and brackets < 2 and text[begin : token.start()] == "[" * brackets:
                    brackets += 1
                elif word == ("]" if brackets else "="):
                    key = text[begin + brackets : token.start()].strip()
                parts += word == "."
            depth = max(0, depth + (word in {"[", "{"}) - (word in {"]", "}"}))
        line += word.count("\n")


def _lines(statements: list[_Statement]) -> dict[Path, int]:
    """Give each key and table the line where it is first named."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for statement in statements:
        place: Path = () if statement.brackets else table
        keys = _keys(statement.key)
        for left, key in enumerate(keys, 1 - len(keys)):
            place = (*place, key)
            lines.setdefault(place, statement.line)
            if statement.brackets == 2 and not left:
                counts[place] = counts.get(place, 0) + 1
            if place in counts:
                place = (*place, counts[place] - 1)
                lines.setdefault(place, statement.line)
        if statement.brackets:
            table = place
    return lines


def _keys(text: str) -> list[str]:
    """Take a dotted key apart; by tomllib, since keys may be quoted and escaped."""
    node: Any = tomllib.loads(f"{text} = 0")
    keys = []
    while isinstance(node, dict):
        ((key, node),) = node.items()
        keys.append(key)
    return keys
