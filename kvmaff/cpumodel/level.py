"""
The x86-64 psABI's levels, by which distributions say what CPU they need.

Source: the psABI's chapter "Low Level System Information", table of micro-architecture levels; QEMU names its features
as here (docs/system/cpu-models-x86-abi.csv says the same of its models). What only an operating system turns on
(``OSFXSR``, ``OSXSAVE``) follows from the feature behind it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

__all__ = ["LEVELS", "level_name", "level_of"]

LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"}),
    frozenset({"cx16", "lahf-lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"}),
    frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
"""What each level adds to the one below it; ``pni`` is SSE3, ``abm`` has LZCNT."""


def level_of(features: AbstractSet[str]) -> int:
    """
    Say which level a CPU reaches.

    Args:
        features: Its features by QEMU's names.

    Returns:
        1 to 4; 0 where it is below the first.
    """
    for level, needs in enumerate(LEVELS):
        if not needs <= features:
            return level
    return len(LEVELS)


def level_name(level: int) -> str:
    """
    Name a level.

    Args:
        level: 0 to 4.

    Returns:
        As compilers and distributions do.
    """
    return f"x86-64-v{level}" if level else "below x86-64-v1"
