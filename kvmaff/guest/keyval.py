"""
Texts of the form ``8,sockets=2`` as QEMU reads them.

QEMU has two grammars that look alike. The stricter, newer one (util/keyval.c) is that of ``-smp`` and ``-machine``
since 6.1: a key is a name, or names joined by dots; a comma in a value is doubled; the first value may stand
without its key. The older one (util/qemu-option.c), that of ``-chardev`` and ``-mon``, takes anything as a key; one
without a value is ``on``, with ``no`` before it ``off``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

__all__ = ["KeyvalError", "Pair", "escaped", "loose_pairs", "pairs"]

_PART = re.compile(r"(?:__[A-Za-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_NUMBER = re.compile("[0-9]+", re.ASCII)
_LONGEST = 127
"""Bytes of a part of a key."""
_HELP = ("help", "?")


@attrs.frozen
class Pair:
    """
    A key and its value.

    Attributes:
        key: Its key, in parts: without what is between dots.
        value: Its value, commas single again.
        position: Where the pair begins in the text.
    """

    key: tuple[str, ...]
    value: str
    position: int


class KeyvalError(ValueError):
    """
    A text that QEMU cannot take apart.

    Args:
        message: QEMU's own words.
        position: Index in the text of the pair that it is about.

    Attributes:
        message: The same.
        position: The same.
        help: Whether the text asks for help, with which QEMU ends.
    """

    def __init__(self, message: str, position: int, *, asks: bool = False) -> None:
        super().__init__(message)
        self.message, self.position, self.help = message, position, asks


def pairs(text: str, implied: str | None = None) -> Iterator[Pair]:
    """
    Take a text apart.

    Args:
        text: The text.
        implied: The key that the first value has where it stands alone.

    Yields:
        The pairs in order, also those of one key.

    Raises:
        KeyvalError: QEMU refuses the text.
    """
    at = 0
    while at < len(text):
        start = at
        end = _first(text, at, "=,")
        alone = end > at and text[end : end + 1] != "="
        if alone and text[at:end] in _HELP:
            raise KeyvalError("help is asked for, with which QEMU ends", start, asks=True)
        if alone and implied is not None:
            key: tuple[str, ...] = (implied,)
            value, at = text[at:end], end + 1
        else:
            key = _key(text, at, end)
            if end >= len(text) or text[end] != "=":
                raise KeyvalError(f"Expected '=' after parameter '{text[at:end]}'", start)
            value, at = _value(text, end + 1)
        implied = None
        yield Pair(key, value, start)


def loose_pairs(text: str, implied: str | None = None) -> Iterator[tuple[str, str]]:
    """
    Take a text of the older grammar apart; every text is one.

    Args:
        text: The text.
        implied: The key that the first value has where it stands alone.

    Yields:
        Each key and its value, in order, also those of one key; commas single again.
    """
    at = 0
    while at < len(text):
        end = _first(text, at, "=,")
        if text[end : end + 1] == "=":
            value, following = _value(text, end + 1)
            yield text[at:end], value
        elif implied is not None:
            value, following = _value(text, at)
            yield implied, value
        else:
            key, following = _value(text, at)
            yield (key[2:], "off") if key.startswith("no") else (key, "on")
        at, implied = following, None


def escaped(value: str) -> str:
    """
    Write a value so that it stays one.

    Args:
        value: The value.

    Returns:
        It, with commas doubled.
    """
    return value.replace(",", ",,")


def _first(text: str, at: int, stops: str) -> int:
    found = [place for place in (text.find(stop, at) for stop in stops) if place >= 0]
    return min(found, default=len(text))


def _key(text: str, at: int, end: int) -> tuple[str, ...]:
    """Return the parts of a key; a number may be one, but not the first."""
    key, place = text[at:end], 0
    parts: list[str] = []
    while True:
        part = _PART.match(key, place) or (_NUMBER.match(key, place) if parts else None)
        if part is None or key[part.end() : part.end() + 1] not in {"", "."}:
            raise KeyvalError(f"Invalid parameter '{key}'", at)
        if len(part[0]) > _LONGEST:
            whole = "" if part[0] == key else " fragment"
            raise KeyvalError(f"Parameter{whole} '{part[0]}' is too long", at)
        parts.append(part[0])
        place = part.end() + 1
        if part.end() == len(key):
            return tuple(parts)


def _value(text: str, at: int) -> tuple[str, int]:
    """Return a value and where the next pair begins."""
    value = []
    while at < len(text):
        end = _first(text, at, ",")
        value.append(text[at:end])
        if text[end : end + 2] != ",,":
            return "".join(value), end + 1
        value.append(",")
        at = end + 2
    return "".join(value), at
