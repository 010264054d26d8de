"""What options of several commands hold, read and checked."""

from __future__ import annotations

import re

import click

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.formats.amounts import memory_bytes

__all__ = ["cpulist", "memory", "memory_or_none", "name_and_value", "qemu_version", "standard_input"]


def name_and_value(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """
    Read NAME=VALUE, given as often as there are options.

    Args:
        _context: click's.
        _parameter: The option.
        values: What was written.

    Returns:
        The values by name.

    Raises:
        BadParameter: One has no ``=``.
    """
    pairs = [value.partition("=") for value in values]
    wrong = [value for value, (_, equals, _) in zip(values, pairs, strict=True) if not equals]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is no NAME=VALUE")
    return {name: value for name, _, value in pairs}


def qemu_version(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """
    Read the version of a QEMU.

    Args:
        _context: click's.
        _parameter: The option.
        value: What was written, as 7.2 or 7.2.22.

    Returns:
        Major and minor; None where nothing was.

    Raises:
        BadParameter: It is none.
    """
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.[0-9]{1,3})?", value, re.ASCII)
    if found is None:
        raise click.BadParameter(f"{value!r} is no version, as 7.2")
    return int(found[1]), int(found[2])


def cpulist(_context: click.Context, _parameter: click.Parameter, value: str) -> CpuSet:
    """
    Read a cpulist.

    Args:
        _context: click's.
        _parameter: The option.
        value: What was written.

    Returns:
        The CPUs.

    Raises:
        BadParameter: It is none.
    """
    try:
        return CpuSet.parse(value)
    except CpuTextError as error:
        raise click.BadParameter(str(error)) from None


def memory(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """
    Read an amount of memory.

    Args:
        _context: click's.
        _parameter: The option.
        value: What was written; None where nothing was.

    Returns:
        Bytes, or None.

    Raises:
        BadParameter: It is none, or its unit means different things to different people.
    """
    return _memory(value, least=1)


def memory_or_none(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """
    Read an amount of memory that may be 0.

    Args:
        _context: click's.
        _parameter: The option.
        value: What was written; None where nothing was.

    Returns:
        Bytes, or None.

    Raises:
        BadParameter: It is none, or its unit means different things to different people.
    """
    return _memory(value, least=0)


def _memory(value: str | None, *, least: int) -> int | None:
    if value is None:
        return None
    try:
        # what is too long for a number is no amount either, and int() would refuse some of it
        plain = value.isascii() and value.isdigit() and len(value) < 20
        return memory_bytes(int(value) if plain else value, least=least)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def standard_input(file: str) -> str:
    """
    Say which file is meant.

    Args:
        file: Its name; ``-`` for standard input.

    Returns:
        A name that can be opened.
    """
    return "/dev/stdin" if file == "-" else file
