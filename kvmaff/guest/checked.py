"""What QMP answers, looked at field by field: it is input, and what is wrong with it is collected."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["MOST_WRONG", "flag", "items", "number", "text"]

MOST_WRONG = 6
"""Mistakes that are told of one answer."""


def items(answer: object, what: str, most: int, wrong: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """
    Go through a list of mappings.

    Args:
        answer: What should be one.
        what: What to call an item.
        most: How many there may be.
        wrong: Where what is wrong is put; only so many mistakes are looked for.

    Yields:
        Each item that is a mapping, with what to call it.
    """
    if not isinstance(answer, list):
        wrong.append(f"{what}: there is no list")
        return
    if len(answer) > most:
        wrong.append(f"{what}: there are {len(answer)}, more than {most}")
        return
    for place, item in enumerate(answer):
        if len(wrong) > MOST_WRONG:
            return
        if isinstance(item, dict):
            yield f"{what} {place} of the list", item
        else:
            wrong.append(f"{what} {place} of the list is no mapping")


def number(item: dict[str, object], key: str, most: int, where: str, wrong: list[str]) -> int | None:
    """
    Take a whole number.

    Args:
        item: The mapping.
        key: Its key.
        most: The highest that it may be; the lowest is 0.
        where: What to call the mapping.
        wrong: Where what is wrong is put.

    Returns:
        The number; None where there is none.
    """
    value = item.get(key)
    if type(value) is not int or not 0 <= value <= most:
        said = repr(value) if value is None or type(value) is int else "something else"
        wrong.append(f"{where}: {key!r} is a number from 0 to {most}, not {said[:32]}")
        return None
    return value


def text(item: dict[str, object], key: str, where: str, wrong: list[str]) -> str | None:
    """
    Take a text.

    Args:
        item: The mapping.
        key: Its key.
        where: What to call the mapping.
        wrong: Where what is wrong is put.

    Returns:
        The text; None where there is none that a terminal shows as it is.
    """
    value = item.get(key)
    if not isinstance(value, str) or not value or len(value) > 512 or not value.isprintable():
        wrong.append(f"{where}: {key!r} is no printable text of at most 512 characters")
        return None
    return value


def flag(item: dict[str, object], key: str, where: str, wrong: list[str]) -> bool:
    """
    Take a yes or no.

    Args:
        item: The mapping.
        key: Its key; where it is missing, that is a no.
        where: What to call the mapping.
        wrong: Where what is wrong is put.

    Returns:
        It.
    """
    value = item.get(key, False)
    if not isinstance(value, bool):
        wrong.append(f"{where}: {key!r} is no true or false")
    return value is True
