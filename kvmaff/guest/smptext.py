"""The text behind ``-smp``, or several of them, and the numbers in it: what QEMU's parser and its visitor refuse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Union

from kvmaff.guest.keyval import KeyvalError, pairs
from kvmaff.guest.smpfaults import SmpFault, SmpKind, clipped
from kvmaff.guest.smprules import LEVELS, SmpRules

__all__ = ["BITS", "FIELDS", "read_numbers"]

FIELDS = ("cpus", *LEVELS, "maxcpus")
"""All words, in QEMU's order."""
BITS = 1 << 32
"""QEMU's numbers are below."""
_LARGEST = (1 << 63) - 1
_MOST_FAULTS = 100
"""So many are told, and looked for near misses."""
_Tree = dict[str, Union[str, "_Tree"]]
"""Values by key; keys by key where a key has several parts."""


def read_numbers(texts: Iterable[str], rules: SmpRules) -> tuple[dict[str, int], list[SmpFault]]:
    """
    Take texts apart.

    Args:
        texts: Each that is given; of several with one word the last one holds.
        rules: The machine's rules.

    Returns:
        The numbers by word, in QEMU's order, and what is wrong with the texts.
    """
    said: _Tree = {}
    faults: list[SmpFault] = []
    for text in texts:
        one: _Tree = {}
        try:
            for pair in pairs(text, "cpus"):
                faults += _put(one, pair.key, pair.value)
        except KeyvalError as error:
            kind = SmpKind.HELP if error.help else SmpKind.SYNTAX
            faults.append(
                SmpFault(kind, error.message, f"at character {error.position + 1} of {clipped(text)}")
            )
        faults += _merged(said, one)
    if faults:
        return {}, faults[:_MOST_FAULTS]
    words = [word for word in FIELDS if word in {"cpus", "maxcpus", *rules.words}]
    numbers = {}
    for word in words:
        value = said.get(word)
        if isinstance(value, str):
            number = _number(value)
            if number is None:
                faults.append(
                    SmpFault(
                        SmpKind.NUMBER,
                        f"Parameter 'smp.{word}' expects integer",
                        f"not {clipped(value)}",
                    )
                )
            else:
                numbers[word] = number
    strange = [word for word, value in said.items() if word not in words or isinstance(value, dict)]
    faults += [_unexpected(word, words, rules) for word in strange[:_MOST_FAULTS]]
    if not faults:
        faults += [
            SmpFault(
                SmpKind.OVERFLOW,
                f"{word}={number} is no number of vCPUs, sockets or cores",
                "QEMU keeps 32 bits of it, and goes on with another number",
            )
            for word, number in numbers.items()
            if not 0 <= number < BITS
        ]
    return numbers, faults


def _put(tree: _Tree, key: Sequence[str], value: str) -> Iterator[SmpFault]:
    """Keep a value; a key is that of a value or of more keys, and not of both."""
    for at, part in enumerate(key):
        last = at == len(key) - 1
        old = tree.get(part)
        if old is not None and isinstance(old, str) is not last:
            text = f"Parameters '{'.'.join(key[: at + 1])}.*' used inconsistently"
            yield SmpFault(SmpKind.SYNTAX, text)
            return
        if last:
            tree[part] = value
        else:
            below = tree.setdefault(part, {})
            assert isinstance(below, dict)
            tree = below


def _merged(tree: _Tree, later: _Tree) -> Iterator[SmpFault]:
    """Add what a later option says."""
    left: list[tuple[str, _Tree, _Tree]] = [("smp", tree, later)]
    while left:
        path, tree, later = left.pop()
        for part, value in later.items():
            old = tree.get(part)
            if isinstance(old, dict) and isinstance(value, dict):
                left.append((f"{path}.{part}", old, value))
            elif old is not None and isinstance(old, str) is not isinstance(value, str):
                yield SmpFault(SmpKind.SYNTAX, f"Parameter '{path}.{part}' used inconsistently")
            else:
                tree[part] = value


def _unexpected(word: str, words: Sequence[str], rules: SmpRules) -> SmpFault:
    if word in words:
        return SmpFault(SmpKind.UNEXPECTED, f"Parameters 'smp.{word}.*' are unexpected")
    near = difflib.get_close_matches(word.lower(), words, n=1)
    newer = f"QEMU {'.'.join(map(str, rules.qemu))} has no {word}" if word in LEVELS else ""
    hint = newer or (f"{near[0]}?" if near else "")
    return SmpFault(SmpKind.UNEXPECTED, f"Parameter 'smp.{word}' is unexpected", hint)


_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))", re.ASCII)


def _number(text: str) -> int | None:
    """Read a number as C's strtoll does by base 0."""
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > 100:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    base = 16 if hexadecimal else 8 if octal else 10
    number = int(hexadecimal or octal or decimal, base)
    number = -number if sign == "-" else number
    return number if -_LARGEST - 1 <= number <= _LARGEST else None
