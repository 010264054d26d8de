"""Words and lines that several pictures of a host share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.cells import cell_len, chop_cells
from rich.text import Text

from kvmaff.cpuset import CpuSet

__all__ = [
    "STRIDES",
    "UNTOLD",
    "Rows",
    "bytes_words",
    "count",
    "drawn",
    "has_strides",
    "short_cpus",
    "wrapped",
]

STRIDES = "every fourth CPU from a to b"
"""What ``a-b:1/4`` means, to be said below a text that has strides."""
UNTOLD = "not told by this machine"
"""What is said of a level that the machine does not tell."""
Rows = list[tuple[str, list[str]]]
"""(label, what stands beside it, a line or more each)."""
_LABEL = 26
_FEW_RANGES = 6
_ATOMS = re.compile(r"[^\s,]*,|[^\s,]+|\s+")
_STRIDE = re.compile(r"\d-\d+:\d+/\d")


def short_cpus(cpus: CpuSet) -> str:
    """
    Write CPUs as a cpulist that a person can read.

    Args:
        cpus: The CPUs.

    Returns:
        The cpulist; one of many ranges at equal distances has the kernel's strides, as ``0-110:1/2``.
    """
    ranges = list(cpus.ranges())
    if len(ranges) <= _FEW_RANGES:
        return str(cpus)
    words, at = [], 0
    while at < len(ranges):
        first, last = ranges[at]
        end = at + 1
        while (
            end < len(ranges)
            and ranges[end][1] - ranges[end][0] == last - first
            and ranges[end][0] - ranges[end - 1][0] == ranges[at + 1][0] - first
        ):
            end += 1
        if end - at > 2:
            words.append(f"{first}-{ranges[end - 1][1]}:{last - first + 1}/{ranges[at + 1][0] - first}")
            at = end
        else:
            words.append(str(first) if first == last else f"{first}-{last}")
            at += 1
    return min(",".join(words), str(cpus), key=len)


def has_strides(text: str) -> bool:
    """
    Say whether a text needs the legend of strides.

    Args:
        text: What is shown.

    Returns:
        Whether it has strides.
    """
    return _STRIDE.search(text) is not None


def bytes_words(size: int) -> str:
    """
    Write an amount of memory.

    Args:
        size: Bytes.

    Returns:
        ``187.6 GiB``, with one decimal.
    """
    unit = next((power for power in (40, 30, 20, 10) if size >= 1 << power), 0)
    return f"{size / (1 << unit):.1f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit // 10]}"


def wrapped(pieces: Iterable[tuple[str, str]], width: int, first: Text, others: Text) -> list[Text]:
    """
    Break words into lines, at blanks and after commas.

    Args:
        pieces: (text, style); the text may be a stranger's, and is not looked into.
        width: The columns there are.
        first: What begins the first line.
        others: What begins the others.

    Returns:
        The lines.
    """
    lines, used, gap = [Text().append_text(first)], cell_len(first.plain), ""
    room = max(width - cell_len(others.plain), 1)
    fresh = True
    for text, style in pieces:
        for atom in _ATOMS.findall(text):
            if atom.isspace():
                gap = atom
                continue
            parts = [atom] if cell_len(atom) <= room else chop_cells(atom, room)
            for part in parts:
                if not fresh and used + cell_len(gap + part) > width:
                    lines.append(Text().append_text(others))
                    used, gap = cell_len(others.plain), ""
                lines[-1].append(gap).append(part, style)
                used += cell_len(gap + part)
                gap, fresh = "", False
    return lines


def count(number: int, word: str) -> str:
    """
    A number of things, in words.

    Args:
        number: How many.
        word: What one of them is called.

    Returns:
        ``1 core``, ``2 cores``.
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def drawn(rows: Rows, width: int) -> list[Text]:
    """
    Draw rows that have a label.

    Args:
        rows: The rows.
        width: The columns there are.

    Returns:
        The lines.
    """
    lines = []
    for label, words in rows:
        head = Text(label.ljust(_LABEL), style="bold")
        for text in words:
            lines += wrapped([(text, "")], width, head, Text(" " * _LABEL))
            head = Text(" " * _LABEL)
    return lines
