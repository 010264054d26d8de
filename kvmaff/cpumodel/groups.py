"""
Hosts put into groups within which guests move, so that no host's guests lose more than a budget.

A group is as good as the intersection of its hosts. Any part of a group that keeps the budget keeps it too, so that
the fewest groups are a partition, found exactly (over subsets) for up to 14 kinds of hosts of a vendor; for more of
them the two groups that lose least together are joined, again and again. Hosts that can give the same are always
together.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kvmaff.cpumodel.level import level_of
from kvmaff.cpumodel.model import HostCpu, same_kind
from kvmaff.errors import RequestError

__all__ = ["Grouping", "group_hosts"]

_EXACT = 14
"""Kinds of hosts; 3 to that power steps."""


@attrs.frozen(kw_only=True)
class Grouping:
    """
    Hosts in groups.

    Attributes:
        groups: The groups, the largest first; within one, hosts in the order they were given.
        fewest: Whether it is proved that there are no fewer groups within the budget, nor as many that lose less.
    """

    groups: tuple[tuple[HostCpu, ...], ...]
    fewest: bool


def group_hosts(
    hosts: Sequence[HostCpu],
    *,
    budget: int = 0,
    names: frozenset[str] | None = None,
    keep_level: bool = False,
    cross_vendor: bool = False,
) -> Grouping:
    """
    Put hosts into the fewest groups within a budget.

    Args:
        hosts: The hosts.
        budget: How many features guests on any host may do without; 0 puts together only what is the same.
        names: The features that count, as those that a QEMU has names for; None for all.
        keep_level: Never let a host's guests fall below the psABI level that the host has.
        cross_vendor: Allow hosts of different vendors in one group.

    Returns:
        The groups.

    Raises:
        RequestError: There is no host, they are of different architectures, or the budget is negative.
    """
    if not hosts:
        raise RequestError.of(["groups are of hosts: none is given"])
    if budget < 0:
        raise RequestError.of([f"the budget is a number of features from 0, not {budget}"])
    same_kind(hosts)
    by_vendor: dict[str, list[HostCpu]] = {}
    for host in hosts:
        by_vendor.setdefault("" if cross_vendor else host.vendor, []).append(host)
    groups: list[tuple[HostCpu, ...]] = []
    fewest = True
    for vendor in sorted(by_vendor):
        kinds = _kinds(by_vendor[vendor], names)
        judge = _Judge(kinds, budget, keep_level=keep_level)
        exact = len(kinds) <= _EXACT
        masks = _partition(judge) if exact else _joined(judge)
        # one group cannot be fewer; and where no two kinds go together, no more of them do
        fewest &= exact or len(masks) in {1, len(kinds)}
        for mask in masks:
            chosen = {id(host) for kind, (_, some) in enumerate(kinds) if mask >> kind & 1 for host in some}
            groups.append(tuple(host for host in hosts if id(host) in chosen))
    place = {id(host): at for at, host in enumerate(hosts)}
    groups.sort(key=lambda group: (-len(group), place[id(group[0])]))
    return Grouping(groups=tuple(groups), fewest=fewest)


_Kind = tuple[frozenset[str], list[HostCpu]]


def _kinds(hosts: Sequence[HostCpu], names: frozenset[str] | None) -> list[_Kind]:
    """Hosts by what they can give, in an order that is the features' and not the hosts'."""
    found: dict[frozenset[str], list[HostCpu]] = {}
    for host in hosts:
        found.setdefault(host.movable if names is None else host.movable & names, []).append(host)
    return sorted(found.items(), key=lambda kind: (-len(kind[0]), sorted(kind[0])))


class _Judge:
    """Says what a group of kinds loses; a group is a number with a bit for each kind."""

    def __init__(self, kinds: Sequence[_Kind], budget: int, *, keep_level: bool) -> None:
        self.count = len(kinds)
        self._sets = [features for features, _ in kinds]
        self._weights = [len(some) for _, some in kinds]
        self._levels = [level_of(features) for features in self._sets]
        self._budget = budget
        self._keep_level = keep_level

    def loss(self, mask: int) -> int | None:
        """How many features its hosts lose together; None where one loses more than it may."""
        kinds = [kind for kind in range(self.count) if mask >> kind & 1]
        shared = frozenset.intersection(*(self._sets[kind] for kind in kinds))
        lost = [len(self._sets[kind]) - len(shared) for kind in kinds]
        if max(lost) > self._budget:
            return None
        if self._keep_level and max(self._levels[kind] for kind in kinds) > level_of(shared):
            return None
        return sum(self._weights[kind] * one for kind, one in zip(kinds, lost, strict=True))


def _partition(judge: _Judge) -> list[int]:
    """The fewest groups, and of these what loses least: the best way to part each set of kinds, smaller ones first."""
    whole = (1 << judge.count) - 1
    losses = [None, *(judge.loss(mask) for mask in range(1, whole + 1))]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # groups, features lost, the group of the lowest kind
    for mask in range(1, whole + 1):
        lowest = mask & -mask
        rest = mask ^ lowest
        found: tuple[int, int, int] | None = None
        part = rest
        while True:
            group = part | lowest
            loss = losses[group]
            if loss is not None:
                groups, lost, _ = best[mask ^ group]
                one = (groups + 1, lost + loss, group)
                found = one if found is None else min(found, one)
            if not part:
                break
            part = (part - 1) & rest
        assert found is not None  # a kind alone loses nothing
        best.append(found)
    masks = []
    mask = whole
    while mask:
        masks.append(best[mask][2])
        mask ^= masks[-1]
    return masks


def _joined(judge: _Judge) -> list[int]:
    """Groups joined two by two, those first that lose least together."""
    groups = [1 << kind for kind in range(judge.count)]
    losses = dict.fromkeys(groups, 0)
    pairs = {
        (one, other): judge.loss(one | other) for at, one in enumerate(groups) for other in groups[at + 1 :]
    }
    while True:
        able = [
            (loss - losses[one] - losses[other], one, other)
            for (one, other), loss in pairs.items()
            if loss is not None
        ]
        if not able:
            return groups
        _, one, other = min(able)
        both = one | other
        losses[both] = pairs[one, other] or 0
        groups = [group for group in groups if group not in (one, other)]
        pairs = {pair: loss for pair, loss in pairs.items() if not {one, other} & set(pair)}
        pairs |= {(group, both): judge.loss(group | both) for group in groups}
        groups.append(both)
