"""
A file of guests that come and go: CSV with a header, of the columns time, id, vcpus, memory and lifetime.

Decision: time and lifetime are numbers in one unit, whatever it is; who has no lifetime stays.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from kvmaff.errors import SpecError
from kvmaff.formats.amounts import memory_bytes
from kvmaff.formats.fields import near_miss
from kvmaff.formats.tomltext import cleaned, read_text, shown
from kvmaff.guest.spec import MAX_VCPUS
from kvmaff.placement.workload import Arrival, Recorded

__all__ = ["parse_workload", "read_workload"]

MAX_BYTES = 64 << 20
MAX_GUESTS = 1_000_000
MAX_ID = 255
MOST_PROBLEMS = 100


_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)


def _time(text: str) -> float:
    if not _NUMBER.fullmatch(text) or abs(float(text)) > 1e15:
        raise ValueError
    return float(text)


def _lifetime(text: str) -> float:
    if not text:
        return math.inf
    if text.lower() == "inf":
        return math.inf
    value = _time(text)
    if value < 0:
        raise ValueError
    return value


def _vcpus(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= MAX_VCPUS:
        raise ValueError
    return int(text)


def _memory(text: str) -> int:
    if not text or text == "0":
        return 0
    return memory_bytes(int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text)


def _name(text: str) -> str:
    if not text or len(text) > MAX_ID or not text.isprintable():
        raise ValueError
    return text


_COLUMNS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "time": ("time", _time, "is a number, as 12.5, up to 1e15"),
    "id": ("name", _name, f"is a printable name of at most {MAX_ID} characters"),
    "vcpus": ("vcpus", _vcpus, f"is a number from 1 to {MAX_VCPUS}"),
    "memory": (
        "memory_bytes",
        _memory,
        'is a number of bytes, or a text such as "8 GiB"; empty where not said',
    ),
    "lifetime": ("lifetime", _lifetime, "is a number from 0; empty for who stays"),
}
_NEEDED = ("time", "id", "vcpus")


def read_workload(path: str | os.PathLike[str]) -> Recorded:
    """
    Read a file of arrivals.

    Args:
        path: The file.

    Returns:
        The guests, in the order of the file.

    Raises:
        SpecError: It cannot be read or is wrong; says everything that is, each with its line and column.
    """
    text = read_text(path, most=MAX_BYTES, what="file of arrivals")
    return parse_workload(text, os.fspath(path))


def parse_workload(text: str, where: str) -> Recorded:
    """
    Read arrivals from a text.

    Args:
        text: CSV.
        where: What to call it in messages.

    Returns:
        The guests.

    Raises:
        SpecError: As :func:`read_workload`.
    """
    file = cleaned(where)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    problems: list[str] = []
    guests: list[Arrival] = []
    seen: dict[str, int] = {}
    names: list[str] | None = None
    try:
        for row in lines:
            line = lines.line_num
            if not any(cell.strip() for cell in row):
                continue
            if names is None:
                names = [cell.strip().lower() for cell in row]
                problems += _header(names, f"{file}:{line}")
                if problems:
                    break
                continue
            if len(guests) == MAX_GUESTS:
                problems.append(f"{file}:{line}: there are more than {MAX_GUESTS} guests")
                break
            found, wrong = _row(names, row, f"{file}:{line}")
            problems += wrong
            if found is not None:
                first = seen.setdefault(found.name, line)
                if first != line:
                    problems.append(
                        f"{file}:{line}: id: {shown(found.name)} is the guest of line {first} already"
                    )
                guests.append(found)
            if len(problems) > MOST_PROBLEMS:
                problems.append(f"{file}: there is more that is wrong")
                break
    except csv.Error as error:
        problems.append(f"{file}:{lines.line_num}: is no CSV: {cleaned(str(error))}")
    if names is None and not problems:
        problems.append(f"{file}: is empty; its first line names the columns: {','.join(_COLUMNS)}")
    if problems:
        raise SpecError.of(where, problems)
    return Recorded(guests=tuple(guests))


def _header(names: list[str], where: str) -> list[str]:
    wrong = [
        f"{where}: there is no column {shown(name)}{near_miss(name, _COLUMNS)}"
        for name in dict.fromkeys(names)
        if name not in _COLUMNS
    ]
    wrong += [f"{where}: column {name} is there twice" for name in _COLUMNS if names.count(name) > 1]
    return wrong + [f"{where}: column {name} is missing" for name in _NEEDED if name not in names]


def _row(names: list[str], row: list[str], where: str) -> tuple[Arrival | None, list[str]]:
    if len(row) != len(names):
        return None, [f"{where}: has {len(row)} fields, the header has {len(names)}"]
    values: dict[str, Any] = {"lifetime": math.inf}
    wrong = []
    for name, cell in zip(names, row, strict=True):
        field, read, said = _COLUMNS[name]
        try:
            values[field] = read(cell.strip())
        except ValueError:
            wrong.append(f"{where}: {name}: {said}, not {shown(cell.strip())}")
    return (None if wrong else Arrival(**values)), wrong
