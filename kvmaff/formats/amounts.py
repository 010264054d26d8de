"""
What the fields of a spec that are amounts may hold: memory, pages, ratios.

Decision: "8 GB" is 8 * 10**9 bytes to some and 8 * 2**30 to others, so it is nobody's.
"""

from __future__ import annotations

import re

from kvmaff.formats.tomltext import shown

__all__ = ["memory_bytes", "page_bytes", "ratio"]

MAX_MEMORY = (1 << 63) - 1
MAX_PAGE = 1 << 40
_UNITS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_MEMORY = re.compile(r"([0-9]{1,19})[ ]?([A-Za-z]*)")


def memory_bytes(value: object, *, least: int = 1) -> int:
    """
    Check an amount of memory.

    Args:
        value: A number of bytes, or a text with a unit: ``8 GiB``.
        least: The least that it may be; 0 where none at all is an answer, too.

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
    if not least <= amount <= MAX_MEMORY:
        raise ValueError(
            f"is from {least} byte{'' if least == 1 else 's'} to {MAX_MEMORY}, not {shown(value)}"
        )
    return amount


def page_bytes(value: object) -> int:
    """
    Check the size of huge pages.

    Args:
        value: A number of bytes, or a text with a unit: ``1 GiB``.

    Returns:
        Bytes.

    Raises:
        ValueError: It is none.
    """
    size = memory_bytes(value)
    if size & (size - 1) or size > MAX_PAGE:
        raise ValueError(f'is a power of two up to 1 TiB, such as "2 MiB", not {shown(value)}')
    return size


def ratio(value: object) -> int:
    """
    Check an over-commit ratio.

    Args:
        value: A number from 0.001 to 1000, such as 4 or 1.5.

    Returns:
        Thousandths.

    Raises:
        ValueError: It is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # a whole number of a file may be too large to be made a float
    if not number or not 0.001 <= value <= 1000:  # type: ignore[operator]  # it is a number
        raise ValueError(f"is how many vCPUs a CPU takes, from 0.001 to 1000, not {shown(value)}")
    return round(value * 1000)  # type: ignore[operator]  # it is a number
