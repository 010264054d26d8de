"""
What the compiled fit is held against: the same answers, found in the plainest way.

``twin`` tries every take of every core, and remembers; ``brute_force`` tries every combination of
takes and knows nothing but ``cost_of``. Both break ties as the engine says it does: of the answers
that cost least, the one that takes most from the first group, then from the second, and so on;
among those, most from the first group's first core, and so on.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Cost = tuple[int, int, int, int]
Answer = tuple[list[int], Cost] | None


@attrs.frozen
class Core:
    """One core: its L3 group, its PUs, and how many of them are free."""

    group: int
    total: int
    free: int


@attrs.frozen(kw_only=True)
class Question:
    """All that a fit is asked."""

    vcpus: int
    unit: int = 1
    per_core: int = 0
    whole: bool = False
    cores: tuple[Core, ...] = ()

    def ask(self, engine: Callable[..., Answer]) -> Answer:
        """Put it to something that is called as the compiled engine is."""
        return engine(
            self.vcpus,
            self.unit,
            self.per_core,
            self.whole,
            [core.group for core in self.cores],
            [core.total for core in self.cores],
            [core.free for core in self.cores],
        )

    @property
    def group_order(self) -> list[int]:
        """The groups, as they appear."""
        return list(dict.fromkeys(core.group for core in self.cores))


def possible_takes(question: Question, core: Core) -> list[int]:
    """How many PUs may be taken from a core."""
    return [
        take
        for take in range(core.free + 1)
        if take % question.unit == 0
        and (question.per_core == 0 or take <= question.per_core)
        and (take == 0 or not question.whole or core.free == core.total)
    ]


def cost_of(cores: Iterable[Core], takes: Sequence[int]) -> Cost:
    """What an answer costs, by the definition."""
    pairs = list(zip(cores, takes, strict=True))
    used = [(core, take) for core, take in pairs if take]
    groups = {core.group for core, _ in used}
    return (
        len(groups),
        sum(core.free < core.total for core, _ in used),
        sum(core.free == core.total and take < core.total for core, take in used),
        sum(core.free - take for core, take in pairs if core.group in groups),
    )


def brute_force(question: Question) -> Answer:
    """The answer, from all combinations; for a handful of cores."""
    order = question.group_order

    def rank(takes: tuple[int, ...]) -> tuple[object, ...]:
        by_group = [
            sum(take for core, take in zip(question.cores, takes, strict=True) if core.group == one)
            for one in order
        ]
        # Once it is fixed what each group gives, the groups' cores no longer bear on one another,
        # so that comparing them in the order of the cores is comparing them group by group.
        most_first = ([-taken for taken in by_group], [-take for take in takes])
        return (cost_of(question.cores, takes), *most_first)

    answers = [
        takes
        for takes in product(*(possible_takes(question, core) for core in question.cores))
        if sum(takes) == question.vcpus
    ]
    if not answers:
        return None
    best = min(answers, key=rank)
    return list(best), cost_of(question.cores, best)


def twin(question: Question) -> Answer:
    """The answer, by trying each core's takes once for each number of vCPUs still to place."""
    order = question.group_order
    members = [[core for core in question.cores if core.group == one] for one in order]

    @cache
    def in_group(group: int, index: int, vcpus: int) -> tuple[Cost, tuple[int, ...]] | None:
        """Least cost and negated takes of the cores from an index on; the group itself is free."""
        if index == len(members[group]):
            return None if vcpus else ((0, 0, 0, 0), ())
        core = members[group][index]
        found = []
        for take in possible_takes(question, core):
            rest = in_group(group, index + 1, vcpus - take) if take <= vcpus else None
            if rest is not None:
                _, shared, broken, _ = cost_of([core], [take])
                here = (0, shared, broken, core.free - take)
                found.append((plus(here, rest[0]), (-take, *rest[1])))
        return min(found, default=None)

    @cache
    def in_groups(group: int, vcpus: int) -> tuple[Cost, tuple[int, ...]] | None:
        """Least cost and negated takes of the groups from one on."""
        if group == len(order):
            return None if vcpus else ((0, 0, 0, 0), ())
        found = []
        for take in range(vcpus + 1):
            here = in_group(group, 0, take)
            rest = in_groups(group + 1, vcpus - take)
            if here is not None and rest is not None:
                cost = plus((1, 0, 0, 0), here[0]) if take else (0, 0, 0, 0)
                found.append((plus(cost, rest[0]), (-take, *rest[1])))
        return min(found, default=None)

    best = in_groups(0, question.vcpus)
    if best is None:
        return None
    takes = [0] * len(question.cores)
    for group, negated in enumerate(best[1]):
        places = [at for at, core in enumerate(question.cores) if core.group == order[group]]
        chosen = in_group(group, 0, -negated)
        assert chosen is not None
        for place, take in zip(places, chosen[1], strict=True):
            takes[place] = -take
    return takes, best[0]


def plus(one: Cost, other: Cost) -> Cost:
    """Level by level."""
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])
