"""
What each field of a guest's spec may hold.

A check takes a value as TOML gives it and returns what it means, or raises ValueError with a sentence for each
thing that is wrong. Decisions: true is no number; names are compared with what guests show of themselves, so they are
printable and no longer than that. Amounts have a file of their own.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.formats.tomltext import shown
from kvmaff.guest.spec import MAX_VCPUS, Affinity, Place
from kvmaff.host.pci import pci_address

__all__ = [
    "affinities",
    "cpus",
    "device_nodes",
    "devices",
    "guest_name",
    "iothreads",
    "is_pattern",
    "near_miss",
    "nearest",
    "number",
    "text",
    "uuid",
    "vcpus",
    "word",
]

_Word = TypeVar("_Word", bound=enum.StrEnum)

MAX_NAME = 128
MAX_NODES = 1024
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def nearest(wrong: str, words: Iterable[str]) -> str | None:
    """
    Find what may have been meant.

    Args:
        wrong: What was written.
        words: What may be written.

    Returns:
        The word that is nearest, or None where no word is near.
    """
    return next(iter(difflib.get_close_matches(wrong[:MAX_NAME], list(words), 1)), None)


def near_miss(wrong: str, words: Iterable[str]) -> str:
    """
    Suggest what was meant.

    Args:
        wrong: What was written.
        words: What may be written.

    Returns:
        ``; did you mean "…"?``, or nothing where no word is near.
    """
    near = nearest(wrong, words)
    return f'; did you mean "{near}"?' if near else ""


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


def vcpus(value: object) -> tuple[int, ...]:
    """
    Check a list of vCPUs.

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


def devices(value: object) -> tuple[str, ...]:
    """
    Check PCI addresses.

    Args:
        value: The value.

    Returns:
        The addresses as the kernel writes them, in order.

    Raises:
        ValueError: It is no list of different addresses.
    """
    return _items(value, "a list of PCI addresses", _address)


def cpus(value: object) -> CpuSet:
    """
    Check a cpulist.

    Args:
        value: The value.

    Returns:
        The CPUs.

    Raises:
        ValueError: It is none, or names no CPU.
    """
    if not isinstance(value, str):
        raise ValueError(f'is a cpulist such as "0-3,8", not {shown(value)}')  # noqa: TRY004 - as everywhere here
    try:
        found = CpuSet.parse(value)
    except CpuTextError as error:
        raise ValueError(str(error)) from error
    if not found:
        raise ValueError("names no CPU")
    return found


def affinities(value: object) -> tuple[Affinity, ...]:
    """
    Check what a guest wants to be near to, or apart from.

    Args:
        value: Tables with ``guest``, and ``level`` where it is not a node.

    Returns:
        Each.

    Raises:
        ValueError: Something is wrong; says everything that is.
    """
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ValueError(f'is a list of tables such as {{ guest = "db", level = "l3" }}, not {shown(value)}')
    found, wrong = [], []
    for place, table in enumerate(value, 1):
        try:
            found.append(_affinity(table))
        except ValueError as error:
            wrong += [f"item {place}: {each}" for each in error.args]
    if wrong:
        raise ValueError(*wrong)
    return tuple(dict.fromkeys(found))


def _affinity(table: dict[str, object]) -> Affinity:
    wrong = [
        f"{shown(key)} is no key here{near_miss(key, _AFFINITY) or '; known are guest, level'}"
        for key in table
        if key not in _AFFINITY
    ]
    values: dict[str, Any] = {}
    for key, check in _AFFINITY.items():
        if key in table:
            try:
                values[key] = check(table[key])
            except ValueError as error:
                wrong += [f"{key}: {each}" for each in error.args]
    if "guest" not in table:
        wrong.append("guest: is missing; the other guest's name")
    elif is_pattern(values.get("guest", "")):
        wrong.append("guest: is a name, no pattern")
    if wrong:
        raise ValueError(*wrong)
    return Affinity(**values)


def text(value: object) -> str:
    """
    Check a word of the user's own.

    Args:
        value: The value.

    Returns:
        The text.

    Raises:
        ValueError: It is empty, too long, or not printable.
    """
    word = _text(value)
    if len(word) > MAX_NAME:
        raise ValueError(f"is longer than {MAX_NAME} characters: {shown(word)}")
    return word


def _address(value: object) -> str:
    return pci_address(_text(value))


def _text(value: object) -> str:
    """Check a text that a terminal shows as it is."""
    if not isinstance(value, str):
        raise ValueError(f"is a text, not {shown(value)}")  # noqa: TRY004 - all that is wrong in a file is one error
    if not value or not value.isprintable():
        raise ValueError(f"is empty or not printable: {shown(value)}")
    return value


_AFFINITY: dict[str, Callable[[object], Any]] = {"guest": guest_name, "level": word(Place)}
