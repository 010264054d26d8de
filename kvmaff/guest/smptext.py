"""The text behind ``-smp``, or several of them, and the numbers in it: what QEMU's parser and its visitor refuse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from kvmaff.guest.keyval import KeyvalError, pairs
from kvmaff.guest.smpfaults import SmpFault, SmpKind, clipped
from kvmaff.guest.smprules import LEVELS, SmpRules

__all__ = ["BITS", "FIELDS", "read_numbers"]

FIELDS = ("cpus", *LEVELS, "maxcpus")
"""All words, in QEMU's order."""
BITS = 1 << 32
"""QEMU's numbers are below."""
_LARGEST = (1 << 63) - 1


def read_numbers(texts: Iterable[str], rules: SmpRules) -> tuple[dict[str, int], list[SmpFault]]:
    """
    Take texts apart.

    Args:
        texts: Each that is given; of several with one word the last one holds.
        rules: The machine's rules.

    Returns:
        The numbers by word, in QEMU's order, and what is wrong with the texts.
    """
    said: dict[str, str] = {}
    branches: dict[str, str] = {}
    faults: list[SmpFault] = []
    for text in texts:
        try:
            for pair in pairs(text, "cpus"):
                stem, *rest = pair.key
                (branches if rest else said)[stem] = pair.value
                if stem in said and stem in branches:
                    faults.append(SmpFault(SmpKind.SYNTAX, f"Parameters '{stem}.*' used inconsistently"))
        except KeyvalError as error:
            kind = SmpKind.HELP if error.help else SmpKind.SYNTAX
            faults.append(
                SmpFault(kind, error.message, f"at character {error.position + 1} of {clipped(text)}")
            )
    if faults:
        return {}, faults
    words = [word for word in FIELDS if word in {"cpus", "maxcpus", *rules.words}]
    numbers = {}
    for word in words:
        if word in said:
            number = _number(said[word])
            if number is None:
                faults.append(
                    SmpFault(
                        SmpKind.NUMBER,
                        f"Parameter 'smp.{word}' expects integer",
                        f"not {clipped(said[word])}",
                    )
                )
            else:
                numbers[word] = number
    for word in (*said, *branches):
        if word in branches and word in words:
            faults.append(SmpFault(SmpKind.UNEXPECTED, f"Parameters 'smp.{word}.*' are unexpected"))
        elif word not in words:
            near = difflib.get_close_matches(word.lower(), words, n=1)
            newer = f"QEMU {'.'.join(map(str, rules.qemu))} has no {word}" if word in LEVELS else ""
            hint = newer or (f"{near[0]}?" if near else "")
            faults.append(SmpFault(SmpKind.UNEXPECTED, f"Parameter 'smp.{word}' is unexpected", hint))
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
