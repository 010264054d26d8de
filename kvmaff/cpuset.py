"""
CpuSet, and the two texts that Linux has for it.

A *cpulist* is ``0-3,8``; a *cpumask* is ``ff,00000000``, 32 bits a group, the highest CPUs first.
Grammar and meaning are the kernel's (Documentation/admin-guide/kernel-parameters.rst, "cpu lists";
lib/bitmap-str.c), with these decisions of ours:

* a CPU is a number from 0 to 8191, as CONFIG_NR_CPUS allows at most 8192: a longer text is an error,
  never an allocation;
* what the kernel prints must parse: blank lines, trailing newlines and NUL bytes are an empty rest;
* what is ambiguous is an error: ``0-31:2`` is "every second" to taskset and nothing to the kernel.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kvmaff.errors import CpuTextError

__all__ = ["MAX_CPUS", "CpuSet"]

MAX_CPUS = 8192
"""CPU numbers lie below this: the largest CONFIG_NR_CPUS of any architecture."""

_NUMBER = re.compile(r"[0-9]+")
_HEX = re.compile(r"[0-9a-fA-F]+")
_KERNELS_MASK = re.compile(r"[0-9a-f]{1,8}(?:,[0-9a-f]{8}){0,255}")  # MAX_CPUS bits
_WORD_BYTES = 8


class CpuSet:
    """
    An immutable, ordered set of CPU numbers.

    Equal to another CpuSet of the same CPUs and to nothing else; iterates in ascending order.

    Args:
        cpus: Numbers from 0 to 8191, in any order, repeated or not.

    Attributes:
        bits: The set as a number whose bit n is CPU n.

    Raises:
        ValueError: A number is out of range.
        TypeError: Something is not an integer.
    """

    __slots__ = ("bits",)
    bits: int

    def __init__(self, cpus: Iterable[int] = ()) -> None:
        if isinstance(cpus, CpuSet):
            bits = cpus.bits
        else:
            bits = 0
            for cpu in cpus:
                if isinstance(cpu, bool) or not isinstance(cpu, int):
                    raise TypeError(f"a CPU is an integer, not {cpu!r}")
                if not 0 <= cpu < MAX_CPUS:
                    raise ValueError(f"a CPU is a number from 0 to {MAX_CPUS - 1}, not {cpu}")
                bits |= 1 << cpu
        object.__setattr__(self, "bits", bits)

    # -- construction from other shapes

    @classmethod
    def from_bits(cls, bits: int) -> CpuSet:
        """
        The set whose bit n is CPU n.

        Args:
            bits: Not negative, below 2**8192.

        Returns:
            The set.

        Raises:
            ValueError: The number is out of range.
        """
        if bits < 0 or bits >> MAX_CPUS:
            raise ValueError(f"CPU bits are a number from 0 below 2**{MAX_CPUS}")
        return _made(bits)

    @classmethod
    def union_of(cls, sets: Iterable[CpuSet]) -> CpuSet:
        """
        All CPUs of several sets.

        Args:
            sets: The sets; none give the empty set.

        Returns:
            Their union.
        """
        bits = 0
        for cpus in sets:
            bits |= cpus.bits
        return _made(bits)

    @classmethod
    def from_words(cls, words: bytes) -> CpuSet:
        """
        The set in the kernel's binary form, as sched_getaffinity(2) fills it in.

        Args:
            words: 64-bit words in the machine's byte order, the lowest CPUs first;
                a multiple of 8 bytes.

        Returns:
            The set.

        Raises:
            ValueError: The length is no multiple of 8, or a bit above CPU 8191 is set.
        """
        if len(words) % _WORD_BYTES:
            raise ValueError(f"a binary CPU mask is a multiple of 8 bytes, not {len(words)}")
        return cls.from_bits(int.from_bytes(_little(words), "little"))

    @classmethod
    def parse(cls, text: str | bytes, *, exclude: bool = False) -> CpuSet:
        """
        The set that a cpulist names.

        Args:
            text: ``0-3,8``, ``0-31:2/8`` (the first two of each eight), blank for no CPU; white space
                around numbers' commas, and trailing newlines and NUL bytes, are passed over.
            exclude: Accept libvirt's ``^n`` too, which takes CPU n out of what stands before it
                (libvirt, formatdomain "cpuset").

        Returns:
            The set.

        Raises:
            CpuTextError: The text is no cpulist; says where and why. It is a ValueError.
        """
        whole = _text(text)
        body = whole.rstrip(" \t\r\n\0")
        if not body.lstrip(" \t"):
            return cls.from_bits(0)
        bits = 0
        place = 0
        for part in body.split(","):
            start = place + len(part) - len(part.lstrip(" \t"))
            item = part.strip(" \t")
            if exclude and item.startswith("^"):
                cpu, rest = _number(whole, start + 1)
                if rest != start + len(item):
                    raise _list_error(whole, rest, "after '^' one CPU is taken out, not a range")
                bits &= ~(1 << cpu)
            else:
                bits |= _range(whole, start, start + len(item))
            place += len(part) + 1
        return cls.from_bits(bits)

    @classmethod
    def parse_mask(cls, text: str | bytes) -> CpuSet:
        """
        The set that a cpumask names.

        Args:
            text: Hexadecimal, in groups of 32 bits parted by commas (``ff,00000000``) or in one piece
                of any length (``3f``), blank for no CPU; ``0x`` in front, trailing newlines and NUL bytes are accepted.

        Returns:
            The set.

        Raises:
            CpuTextError: The text is no cpumask; says where and why. It is a ValueError.
        """
        whole = _text(text)
        if _KERNELS_MASK.fullmatch(whole):  # ten times faster, which counts at thousands of CPUs
            return cls.from_bits(int(whole.replace(",", ""), 16))
        body = whole.rstrip(" \t\r\n\0")
        place = len(body) - len(body.lstrip(" \t"))
        if body[place : place + 2] in ("0x", "0X"):
            place += 2
        elif not body[place:]:
            return cls.from_bits(0)
        groups = body[place:].split(",")
        bits = 0
        for group in groups:
            match = _HEX.match(group)
            if match is None or match.end() != len(group):
                at = place + (match.end() if match else 0)
                raise _mask_error(whole, at, "a hexadecimal digit belongs here")
            if len(groups) > 1 and len(group) > 8:
                raise _mask_error(whole, place, "a group between commas has at most 8 digits")
            if len(group) > MAX_CPUS // 4 and group.lstrip("0")[MAX_CPUS // 4 :]:
                raise _mask_error(whole, place, f"CPUs end at {MAX_CPUS - 1}")
            bits = bits << 32 | int(group, 16)
            if bits >> MAX_CPUS:
                raise _mask_error(whole, place, f"CPUs end at {MAX_CPUS - 1}")
            place += len(group) + 1
        return cls.from_bits(bits)

    # -- texts and shapes

    @property
    def cpulist(self) -> str:
        """The shortest cpulist without strides, as the kernel prints it; empty for no CPU."""
        parts = []
        for first, last in self.ranges():
            parts.append(str(first) if first == last else f"{first}-{last}")
        return ",".join(parts)

    def cpumask(self, cpus: int = 0) -> str:
        """
        The cpumask text, as the kernel prints it.

        Args:
            cpus: How many CPUs the mask is wide at least; the first group is cut to what that needs.

        Returns:
            Groups of 8 hexadecimal digits parted by commas; at least one digit.
        """
        width = max(cpus, self.bits.bit_length(), 1)
        groups = [f"{self.bits >> 32 * i & 0xFFFFFFFF:08x}" for i in range((width + 31) // 32)]
        top = (width - 1) % 32 // 4 + 1
        groups[-1] = groups[-1][-top:]
        return ",".join(reversed(groups))

    def to_words(self, words: int) -> bytes:
        """
        The kernel's binary form, for sched_setaffinity(2).

        Args:
            words: How many 64-bit words.

        Returns:
            8 * words bytes in the machine's byte order.

        Raises:
            ValueError: A CPU does not fit.
        """
        if self.bits >> 64 * words:
            raise ValueError(f"CPU {self.last} does not fit in {words} words of 64 bits")
        return _little(self.bits.to_bytes(8 * words, "little"))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """
        The runs of consecutive CPUs, in ascending order.

        Returns:
            An iterator of (first, last), both in the set.
        """
        bits, base = self.bits, 0
        while bits:
            gap = (bits & -bits).bit_length() - 1
            bits >>= gap
            run = (~bits & (bits + 1)).bit_length() - 1
            yield base + gap, base + gap + run - 1
            bits >>= run
            base += gap + run

    @property
    def first(self) -> int:
        """The lowest CPU. ValueError where there is none."""
        if not self.bits:
            raise ValueError("an empty CpuSet has no first CPU")
        return (self.bits & -self.bits).bit_length() - 1

    @property
    def last(self) -> int:
        """The highest CPU. ValueError where there is none."""
        if not self.bits:
            raise ValueError("an empty CpuSet has no last CPU")
        return self.bits.bit_length() - 1

    # -- the set itself

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges():
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __bool__(self) -> bool:
        return self.bits != 0

    def __contains__(self, cpu: object) -> bool:
        return isinstance(cpu, int) and cpu >= 0 and self.bits >> cpu & 1 == 1

    def __and__(self, other: CpuSet) -> CpuSet:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return _made(self.bits & other.bits)

    def __or__(self, other: CpuSet) -> CpuSet:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return _made(self.bits | other.bits)

    def __xor__(self, other: CpuSet) -> CpuSet:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return _made(self.bits ^ other.bits)

    def __sub__(self, other: CpuSet) -> CpuSet:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return _made(self.bits & ~other.bits)

    def __le__(self, other: CpuSet) -> bool:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return self.bits & ~other.bits == 0

    def __ge__(self, other: CpuSet) -> bool:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return other.bits & ~self.bits == 0

    def __lt__(self, other: CpuSet) -> bool:
        return self <= other and self.bits != other.bits

    def __gt__(self, other: CpuSet) -> bool:
        return self >= other and self.bits != other.bits

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CpuSet):
            return NotImplemented
        return self.bits == other.bits

    def __hash__(self) -> int:
        return hash((CpuSet, self.bits))

    def isdisjoint(self, other: CpuSet) -> bool:
        """
        Whether the two sets share no CPU.

        Args:
            other: The other set.

        Returns:
            True where they share none.
        """
        return self.bits & other.bits == 0

    def __str__(self) -> str:
        return self.cpulist

    def __repr__(self) -> str:
        return f"CpuSet.parse({self.cpulist!r})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a CpuSet does not change; make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a CpuSet does not change; make another one")

    def __reduce__(self) -> tuple[Any, ...]:
        return CpuSet.from_bits, (self.bits,)


def _text(text: object) -> str:
    if isinstance(text, bytes):
        return text.decode("ascii", "replace")
    if not isinstance(text, str):
        raise TypeError(f"CPUs are written as text such as '0-3,8', not {text!r}")
    return text


def _little(words: bytes) -> bytes:
    """Turn 64-bit words of this machine into little-endian ones, and back."""
    if sys.byteorder == "little":
        return words
    swapped = array("Q", words)
    swapped.byteswap()
    return swapped.tobytes()


def _range(text: str, start: int, end: int) -> int:
    """Return the bits of one item of a cpulist, which is text[start:end]."""
    first, at = _number(text, start)
    last, used, group = first, 1, 1
    if at < end and text[at] == "-":
        last, at = _number(text, at + 1)
        if last < first:
            raise _list_error(text, start, f"the range runs backwards, from {first} to {last}")
        if at < end and text[at] == ":":
            used, at = _number(text, at + 1)
            if at >= end or text[at] != "/":
                raise _list_error(text, at, "a stride is USED/GROUP, as in 0-31:1/2 for every second CPU")
            group, at = _number(text, at + 1)
            if not 0 < used <= group:
                raise _list_error(text, start, f"a stride takes 1 to {group} of each {group}, not {used}")
    if at != end:
        raise _list_error(text, at, "a comma or the end belongs here")
    if used == group:
        return (1 << last + 1) - (1 << first)
    # USED bits, repeated every GROUP bits: a sum of a geometric series, cut at the end of the range
    count = (last - first) // group + 1
    repeated = ((1 << group * count) - 1) // ((1 << group) - 1) * ((1 << used) - 1)
    return (repeated << first) & ((1 << last + 1) - 1)


def _number(text: str, start: int) -> tuple[int, int]:
    """Return the CPU number that begins at text[start], and where it ends."""
    match = _NUMBER.match(text, start)
    if match is None:
        raise _list_error(text, start, "a CPU number belongs here")
    digits = match[0].lstrip("0")
    if len(digits) > 4 or int(digits or "0") >= MAX_CPUS:
        raise _list_error(text, start, f"CPU numbers end at {MAX_CPUS - 1}")
    return int(digits or "0"), match.end()


def _list_error(text: str, at: int, why: str) -> CpuTextError:
    return _text_error("cpulist", text, at, why)


def _mask_error(text: str, at: int, why: str) -> CpuTextError:
    return _text_error("cpumask", text, at, why)


def _text_error(kind: str, text: str, at: int, why: str) -> CpuTextError:
    start = 0 if len(text) <= 80 else max(min(at - 40, len(text) - 80), 0)
    shown = f"{'…' if start else ''}{text[start : start + 80]}{'…' if start + 80 < len(text) else ''}"
    return CpuTextError(f"{shown!r} is no {kind}: at character {at + 1}, {why}", text=text, position=at)


_new = object.__new__
_set_bits: Callable[[CpuSet, int], None] = CpuSet.__dict__["bits"].__set__


def _made(bits: int) -> CpuSet:
    """The set of bits that are known to be in range: what every operation gives, and placing asks for dozens."""
    made = _new(CpuSet)
    _set_bits(made, bits)
    return made
