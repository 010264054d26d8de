"""Groups of hosts: the budget, the fewest by brute force, the order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpumodel.groups import group_hosts
from kvmaff.cpumodel.level import LEVELS, level_of
from kvmaff.cpumodel.model import HostCpu
from kvmaff.errors import RequestError

from ..conftest import at_most

NAMES = tuple("abcdefgh")


def host(name: str, features: frozenset[str], vendor: str = "GenuineIntel", arch: str = "x86_64") -> HostCpu:
    """A host that can give some features."""
    return HostCpu(
        name=name,
        arch=arch,
        accel="kvm",
        source="qmp",
        qemu=(7, 2, 0),
        kernel="6.1",
        vendor=vendor,
        family=6,
        model=1,
        stepping=0,
        title="",
        features=features,
    )


def groups_of_hosts(most: int) -> hs.SearchStrategy[list[HostCpu]]:
    """Some hosts of two vendors."""
    sets = hs.lists(
        hs.tuples(hs.frozensets(hs.sampled_from(NAMES)), hs.sampled_from(["GenuineIntel", "AuthenticAMD"])),
        min_size=1,
        max_size=most,
    )
    return sets.map(
        lambda some: [host(f"h{at}", features, vendor) for at, (features, vendor) in enumerate(some)]
    )


def losses(group: Sequence[HostCpu]) -> list[int]:
    """What each host of a group loses."""
    shared = frozenset.intersection(*(one.movable for one in group))
    return [len(one.movable - shared) for one in group]


def partitions(hosts: Sequence[HostCpu]) -> Iterator[list[list[HostCpu]]]:
    """All ways to put hosts into groups."""
    if not hosts:
        yield []
        return
    first, *rest = hosts
    for parts in partitions(rest):
        yield [[first], *parts]
        for at, part in enumerate(parts):
            yield [*parts[:at], [first, *part], *parts[at + 1 :]]


@given(hosts=groups_of_hosts(6), budget=hs.integers(0, 8))
@at_most(150)
def test_as_few_as_can_be(hosts: list[HostCpu], budget: int) -> None:
    """No way to part them within the budget has fewer groups, nor as many that lose less."""
    found = group_hosts(hosts, budget=budget)
    assert found.fewest
    allowed = [
        (len(parts), sum(sum(losses(part)) for part in parts))
        for parts in partitions(hosts)
        if all(len({one.vendor for one in part}) == 1 and max(losses(part)) <= budget for part in parts)
    ]
    assert min(allowed) == (len(found.groups), sum(sum(losses(group)) for group in found.groups))


@given(hosts=groups_of_hosts(40), budget=hs.integers(0, 8), data=hs.data())
def test_budget_and_order(hosts: list[HostCpu], budget: int, data: hs.DataObject) -> None:
    """Every host is in one group and within the budget, with all that are the same, whatever the order of hosts."""
    found = group_hosts(hosts, budget=budget)
    assert sorted(one.name for group in found.groups for one in group) == sorted(one.name for one in hosts)
    assert all(max(losses(group)) <= budget for group in found.groups)
    assert all(len({one.vendor for one in group}) == 1 for group in found.groups)
    place = {one.name: at for at, group in enumerate(found.groups) for one in group}
    kinds = {(one.vendor, one.movable): place[one.name] for one in hosts}
    assert all(place[one.name] == kinds[one.vendor, one.movable] for one in hosts)
    other = group_hosts(data.draw(hs.permutations(hosts)), budget=budget)
    assert {frozenset(one.name for one in group) for group in found.groups} == {
        frozenset(one.name for one in group) for group in other.groups
    }
    if budget == 0:
        assert len(kinds) == len(found.groups)


def test_levels() -> None:
    """A level can be kept whatever the budget."""
    second = LEVELS[0] | LEVELS[1]
    hosts = [host("old", LEVELS[0]), host("new", second), host("newer", second | {"x"})]
    assert 1 == len(group_hosts(hosts, budget=20).groups)
    kept = group_hosts(hosts, budget=20, keep_level=True).groups
    assert [["new", "newer"], ["old"]] == [[one.name for one in group] for group in kept]
    assert all(level_of(one.features) == one.level for group in kept for one in group)


def test_what_counts() -> None:
    """Only features that a QEMU has names for count; vendors are mixed where that was said."""
    hosts = [
        host("a", frozenset("ab")),
        host("b", frozenset("ac")),
        host("c", frozenset("a"), "AuthenticAMD"),
    ]
    assert 3 == len(group_hosts(hosts).groups)
    assert 2 == len(group_hosts(hosts, names=frozenset("a")).groups)
    assert 1 == len(group_hosts(hosts, names=frozenset("a"), cross_vendor=True).groups)


def test_mistakes() -> None:
    """No host, hosts of different architectures, and a budget below nothing."""
    with pytest.raises(RequestError, match="none is given"):
        group_hosts([])
    with pytest.raises(RequestError, match="from 0"):
        group_hosts([host("a", frozenset())], budget=-1)
    with pytest.raises(RequestError, match=r"different architectures.*i386: b; x86_64: a"):
        group_hosts([host("a", frozenset()), host("b", frozenset(), arch="i386")])
