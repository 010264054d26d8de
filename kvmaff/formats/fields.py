"""
What each field of a guest's spec may hold.

A check takes a value as TOML gives it and returns what it means, or raises ValueError with a sentence for each
thing that is wrong. Decisions: true is no number; "8 GB" is 8 * 10**9 bytes to some and 8 * 2**30 to others, so it
is nobody's; names are compared with what guests show of themselves, so they are printable and no longer than that.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.formats.tomltext import shown
from kvmaff.guest.spec import MAX_VCPUS

__all__ = [
    "cell_vcpus",
    "device_nodes",
    "guest_name",
    "iothreads",
    "is_pattern",
    "memory_bytes",
    "near_miss",
    "number",
    "uuid",
    "word",
]

_Word = TypeVar("_Word", bound=enum.StrEnum)

MAX_NAME = 128
MAX_NODES = 1024
MAX_MEMORY = (1 << 63) - 1
_UNITS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_MEMORY = re.compile(r"([0-9]{1,19})[ ]?([A-Za-z]*)")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def near_miss(wrong: str, words: Iterable[str]) -> str:
    """
    Suggest what was meant.

    Args:
        wrong: What was written.
        words: What may be written.

    Returns:
        ``; did you mean "…"?``, or nothing where no word is near.
    """
    near = difflib.get_close_matches(wrong[:MAX_NAME], words, 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def number(least: int, most: int) -> Callable[[object], int]:
    """
    Make the check of a whole number.

    Args:
        least: The lowest that is right.
        most: The highest.

    Returns:
        The check.
    """

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"is a whole number from {least} to {most}, not {shown(value)}")
        return value

    return check


def word(words: type[_Word]) -> Callable[[object], _Word]:
    """
    Make the check of one of a few words.

    Args:
        words: The words.

    Returns:
        The check.
    """

    def check(value: object) -> _Word:
        for one in words:
            if value == one.value:
                return one
        known = ", ".join(f'"{one}"' for one in words)
        miss = near_miss(value, [str(one) for one in words]) if isinstance(value, str) else ""
        raise ValueError(f"is one of {known}, not {shown(value)}{miss}")

    return check


def is_pattern(name: str) -> bool:
    """
    Tell a pattern from an exact name.

    Args:
        name: What a file gives as a name.

    Returns:
        Whether it holds one of the characters ``*?[``.
    """
    return any(char in name for char in "*?[")


def guest_name(value: object) -> str:
    """
    Check a guest's name, or a pattern of names.

    Args:
        value: The value.

    Returns:
        The name.

    Raises:
        ValueError: It is none.
    """
    name = _text(value)
    if len(name) > MAX_NAME:
        raise ValueError(f"is longer than {MAX_NAME} characters, where guests' names are cut: {shown(name)}")
    if name.startswith(("uuid:", "pid:")) and not is_pattern(name):
        raise ValueError(f'is no selector; for a UUID write uuid = "...", and not name = {shown(name)}')
    return name


def uuid(value: object) -> str:
    """
    Check a UUID.

    Args:
        value: The value.

    Returns:
        The UUID in lower case.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str) or not _UUID.fullmatch(value.lower()):
        example = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        raise ValueError(f'is a UUID such as "{example}", not {shown(value)}')
    return value.lower()


def memory_bytes(value: object) -> int:
    """
    Check an amount of memory.

    Args:
        value: A number of bytes, or a text with a unit: ``8 GiB``.

    Returns:
        Bytes.

    Raises:
        ValueError: It is none, or its unit means different things to different people.
    """
    said = f'is a number of bytes, or a text such as "8 GiB" or "512 MiB", not {shown(value)}'
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value)
        if match is None:
            raise ValueError(said)
        unit = match[2]
        if unit not in _UNITS:
            meant = f"{unit[0].upper()}iB" if unit else "B"
            if unit[1:].lower() in {"", "b", "ib"} and meant in _UNITS:
                sort = "has a unit that is read as 1000s and as 1024s" if unit[1:] in {"", "b", "B"} else said
                raise ValueError(f'{sort}; for 1024s write "{match[1]} {meant}"')
            raise ValueError(f"{said}; units are {', '.join(_UNITS)}")
        amount = int(match[1]) << _UNITS[unit]
    else:
        amount = 0 if isinstance(value, bool) or not isinstance(value, int) else value
        if value is not amount:
            raise ValueError(said)
    if not 1 <= amount <= MAX_MEMORY:
        raise ValueError(f"is from 1 byte to {MAX_MEMORY}, not {shown(value)}")
    return amount


def iothreads(value: object) -> tuple[str, ...]:
    """
    Check the names of IOThreads.

    Args:
        value: The value.

    Returns:
        The names, in order.

    Raises:
        ValueError: It is no list of different names.
    """
    return _items(value, "a list of IOThreads' names", _text)


def device_nodes(value: object) -> tuple[int, ...]:
    """
    Check the NUMA nodes of devices.

    Args:
        value: The value.

    Returns:
        The numbers, in order.

    Raises:
        ValueError: It is no list of different nodes.
    """
    return _items(value, "a list of NUMA nodes' numbers", number(0, MAX_NODES - 1))


def cell_vcpus(value: object) -> tuple[int, ...]:
    """
    Check the vCPUs of a guest's NUMA cell.

    Args:
        value: A list of numbers, or a text such as ``0-3,5``.

    Returns:
        The numbers, ascending.

    Raises:
        ValueError: It is neither, or names no vCPU, or one twice.
    """
    if isinstance(value, str):
        try:
            found = tuple(CpuSet.parse(value))
        except CpuTextError as error:
            raise ValueError(str(error)) from error
    else:
        found = tuple(sorted(_items(value, 'a list such as "0-3,5" or [0, 1]', number(0, MAX_VCPUS - 1))))
    if not found:
        raise ValueError("names no vCPU")
    return found


_Item = TypeVar("_Item", int, str)


def _items(value: object, what: str, check: Callable[[object], _Item]) -> tuple[_Item, ...]:
    """Check a list, all its items at once."""
    if not isinstance(value, list):
        raise ValueError(f"is {what}, not {shown(value)}")  # noqa: TRY004 - all that is wrong in a file is one error
    found: dict[_Item, int] = {}
    wrong = []
    for place, item in enumerate(value, 1):
        try:
            known = check(item)
        except ValueError as error:
            wrong += [f"item {place} {each}" for each in error.args]
            continue
        if known in found:
            wrong.append(f"item {place}, {shown(known)}, is item {found[known]} again")
        found.setdefault(known, place)
    if wrong:
        raise ValueError(*wrong)
    return tuple(found)


def _text(value: object) -> str:
    """Check a text that a terminal shows as it is."""
    if not isinstance(value, str):
        raise ValueError(f"is a text, not {shown(value)}")  # noqa: TRY004 - all that is wrong in a file is one error
    if not value or not value.isprintable():
        raise ValueError(f"is empty or not printable: {shown(value)}")
    return value
