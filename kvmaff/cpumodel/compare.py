"""Two hosts held against each other: what guests lose on the way, either way."""

from __future__ import annotations

import attrs

from kvmaff.cpumodel.model import HostCpu, same_kind

__all__ = ["Comparison", "compare_hosts"]


@attrs.frozen(kw_only=True)
class Comparison:
    """
    What two hosts can give their guests.

    Attributes:
        first: One host.
        second: The other.
        only_first: What only the first can give.
        only_second: What only the second can give.
        unknown_first: What the second can give, and nobody knows of the first.
        unknown_second: The reverse.
        differences: (what, the first's, the second's) of what else a guest sees, or decides what guests can have.
    """

    first: HostCpu
    second: HostCpu
    only_first: frozenset[str]
    only_second: frozenset[str]
    unknown_first: frozenset[str]
    unknown_second: frozenset[str]
    differences: tuple[tuple[str, str, str], ...]

    @property
    def same(self) -> bool | None:
        """Whether a guest of the ``host`` model may move both ways: nothing that it sees differs; None: unknown."""
        if self.only_first or self.only_second or any(what in _SEEN for what, _, _ in self.differences):
            return False
        known = {self.first.source, self.second.source} == {"qmp"}
        return True if known and not (self.unknown_first or self.unknown_second) else None


_SEEN = ("vendor", "family", "model", "stepping", "phys_bits")


def compare_hosts(first: HostCpu, second: HostCpu) -> Comparison:
    """
    Compare two hosts.

    Args:
        first: One.
        second: The other.

    Returns:
        What only one of them can give its guests, of what guests can take along.

    Raises:
        RequestError: They are of different architectures, or run guests by different means.
    """
    same_kind((first, second))
    more, less = first.movable - second.movable, second.movable - first.movable
    unknown_second = frozenset(name for name in more if second.has(name) is None)
    unknown_first = frozenset(name for name in less if first.has(name) is None)
    told = []
    for what in (*_SEEN, "title", "kernel", "qemu", "source"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            told.append((what, _said(one), _said(other)))
    return Comparison(
        first=first,
        second=second,
        only_first=more - unknown_second,
        only_second=less - unknown_first,
        unknown_first=unknown_first,
        unknown_second=unknown_second,
        differences=tuple(told),
    )


def _said(value: object) -> str:
    if value is None:
        return "not known"
    return ".".join(map(str, value)) if isinstance(value, tuple) else str(value)
