"""
What stands behind ``-smp``, right and wrong, as hypothesis strategies.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

from hypothesis import strategies as hs

from kvmaff.guest.smp import SmpTopology
from kvmaff.guest.smprules import LEVELS

__all__ = ["smp_texts", "smp_topologies"]

_WORDS = ("cpus", "maxcpus", "sockets", "dies", "cores", "threads")
_STRANGE = (
    "core",
    "Sockets",
    "clusters",
    "modules",
    "books",
    "drawers",
    "cpu",
    "a.b",
    "cores.x",
    "__x.y_z",
    "1",
    "",
    "x y",
)
_SIZES = (
    0,
    1,
    1,
    2,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    100,
    255,
    256,
    288,
    289,
    4096,
    65536,
    1 << 32,
    1 << 64,
)


def _numbers() -> hs.SearchStrategy[str]:
    small = hs.integers(1, 16)
    plain = hs.one_of(small, small, hs.sampled_from(_SIZES))
    odd = hs.sampled_from(
        ["", "x", "08", "010", "0x10", "0X0f", " 4", "4 ", "+4", "-1", "4,,5", "1e1", "0b1", "4=4", "0x", "٤"]
    )
    return hs.integers(0, 19).flatmap(lambda draw: odd if draw == 0 else plain.map(str))


@hs.composite
def _fitting(draw: hs.DrawFn) -> str:
    """Draw numbers of which a part is left out, or one is off."""
    counts = {
        word: draw(hs.sampled_from((1, 1, 2, 2, 3, 4))) for word in ("sockets", "dies", "cores", "threads")
    }
    most = 1
    for count in counts.values():
        most *= count
    said = {**counts, "maxcpus": most, "cpus": draw(hs.integers(1, most))}
    if draw(hs.integers(0, 5)) == 0:
        word = draw(hs.sampled_from(_WORDS))
        said[word] += draw(hs.sampled_from((-1, 1, 2)))
    left = draw(hs.lists(hs.sampled_from(_WORDS), max_size=4))
    words = draw(hs.permutations([word for word in _WORDS if word not in left]))
    return ",".join(f"{word}={said[word]}" for word in words)


@hs.composite
def _any(draw: hs.DrawFn) -> str:
    parts = []
    if draw(hs.booleans()):
        parts.append(draw(_numbers()))
    for _ in range(draw(hs.integers(0, 4))):
        word = draw(hs.sampled_from(_STRANGE if draw(hs.integers(0, 9)) == 0 else _WORDS))
        parts.append(f"{word}={draw(_numbers())}" if draw(hs.integers(0, 29)) else word)
    return ",".join(parts) + draw(hs.sampled_from(("", "", "", "", ",", ",,")))


def smp_texts() -> hs.SearchStrategy[str]:
    """
    Texts for ``-smp``.

    Returns:
        A strategy; about half of them are right.
    """
    return hs.one_of(_fitting(), _fitting(), _any())


@hs.composite
def smp_topologies(draw: hs.DrawFn, levels: tuple[str, ...] = LEVELS, most: int = 512) -> SmpTopology:
    """
    What guests see.

    Args:
        draw: From hypothesis.
        levels: The levels of which there may be several.
        most: At most so many vCPUs.

    Returns:
        A strategy.
    """
    counts, total = {}, 1
    for level in draw(hs.permutations(levels)):
        counts[level] = draw(hs.integers(1, max(1, min(12, most // total))))
        total *= counts[level]
    return SmpTopology(cpus=draw(hs.integers(1, total)), maxcpus=total, **counts)
