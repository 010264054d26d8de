"""
What the compiled fit is held against: the same answers, found in the plainest way.

``twin`` tries every way to share vCPUs, or cells, among nodes, and has for each node a table of what each number of
vCPUs costs there; ``brute_force`` tries every combination of takes and knows nothing but ``cost_of``. Inside one node
both break ties as the engine says it does: of the answers that cost least, the one that takes most from the first L3
group, then from the second, and so on; among those, most from the first group's first core, and so on.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations, product

import attrs

from kvmaff.placement.future import ACCEPT

Cost = tuple[int, int, int, int, int]
"""Distance, L3 groups, shared cores, broken cores, lost."""
Inner = tuple[int, int, int, int]
"""The same inside a node."""

NOTHING: Inner = (0, 0, 0, 0)
REAL: tuple[int, ...] = tuple(array("i", ACCEPT))
ENDLESS = 1 << 40


@attrs.frozen
class Core:
    """One core: its L3 group, its PUs, how many of them are free, and its node."""

    group: int
    total: int
    free: int
    node: int = 0


@attrs.frozen
class Cell:
    """A guest's NUMA cell: how many vCPUs, which may be none, and what it needs of each resource."""

    vcpus: int
    need: tuple[int, ...] = ()


@attrs.frozen(kw_only=True)
class Answer:
    """What comes of a fit: the PUs taken of each core, the node of each cell, and the cost."""

    takes: tuple[int, ...]
    cells: tuple[int, ...] = ()
    cost: Cost
    proved: bool = True


UNKNOWN = Answer(takes=(), cost=(0, 0, 0, 0, 0), proved=False)
"""That the search ended before it found anything, or that there is nothing."""


@attrs.frozen(kw_only=True)
class Question:
    """All that a fit is asked; what is not said is one node without limits."""

    vcpus: int
    unit: int = 1
    per_core: int = 0
    whole: bool = False
    cores: tuple[Core, ...] = ()
    distance: tuple[tuple[int, ...], ...] = ((0,),)
    near: tuple[int, ...] = (0,)
    cap: tuple[int, ...] = (8192,)
    wide: tuple[int, ...] = (-1,)
    accept: tuple[int, ...] = REAL
    cells: tuple[Cell, ...] = ()
    have: tuple[tuple[int, ...], ...] = ()
    steps: int = ENDLESS

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.near)

    def ask(self, engine: Callable[..., object]) -> Answer | None:
        """Put it to something that is called as the compiled engine is."""
        found = engine(
            self.vcpus,
            self.unit,
            self.per_core,
            self.whole,
            self.nodes,
            len(self.cores),
            *(
                ints(getattr(core, name) for core in self.cores)
                for name in ("node", "group", "total", "free")
            ),
            longs(far for row in self.distance for far in row),
            longs(self.near),
            ints(self.cap),
            ints(self.wide),
            array("i", self.accept).tobytes(),
            [cell.vcpus for cell in self.cells],
            longs(amount for cell in self.cells for amount in cell.need),
            longs(amount for row in self.have for amount in row),
            self.steps,
        )
        if found is None:
            return None
        if found == ():
            return UNKNOWN
        pairs, cells, distance, inner, proved = found
        takes = [0] * len(self.cores)
        for core, taken in pairs:
            assert taken > 0
            assert takes[core] == 0
            takes[core] = taken
        return Answer(takes=tuple(takes), cells=tuple(cells), cost=(distance, *inner), proved=proved)

    def members(self, node: int) -> list[int]:
        """The cores of a node."""
        return [place for place, core in enumerate(self.cores) if core.node == node]


def ints(numbers: Iterator[int] | Sequence[int]) -> bytes:
    """A packed column of 32-bit integers."""
    return array("i", numbers).tobytes()


def longs(numbers: Iterator[int] | Sequence[int]) -> bytes:
    """A packed column of 64-bit integers."""
    return array("q", numbers).tobytes()


def possible_takes(question: Question, core: Core) -> list[int]:
    """How many PUs may be taken from a core."""
    return [
        take
        for take in range(core.free + 1)
        if take % question.unit == 0
        and (question.per_core == 0 or take <= question.per_core)
        and (take == 0 or not question.whole or core.free == core.total)
    ]


def by_node(question: Question, takes: Sequence[int]) -> list[int]:
    """How many vCPUs each node gets."""
    counts = [0] * question.nodes
    for core, take in zip(question.cores, takes, strict=True):
        counts[core.node] += take
    return counts


def apart(question: Question, counts: Sequence[int]) -> int:
    """The distances between vCPUs, and what they cost besides."""
    pairs = combinations(range(question.nodes), 2)
    far = sum(counts[one] * counts[other] * question.distance[one][other] for one, other in pairs)
    return far + sum(count * near for count, near in zip(counts, question.near, strict=True))


def cost_of(question: Question, takes: Sequence[int]) -> Cost:
    """What an answer costs, by the definition."""
    used = [(core, take) for core, take in zip(question.cores, takes, strict=True) if take]
    counts = by_node(question, takes)
    free: Counter[tuple[int, ...]] = Counter()
    taken: Counter[tuple[int, ...]] = Counter()
    for core, take in zip(question.cores, takes, strict=True):
        for place in ((core.node,), (core.node, core.group)):
            free[place] += core.free
            taken[place] += take
    lost = sum(question.accept[free[place]] - question.accept[free[place] - taken[place]] for place in free)
    return (
        apart(question, counts),
        len({_l3(question, core) for core, _ in used}),
        sum(core.free < core.total for core, _ in used),
        sum(core.free == core.total and take < core.total for core, take in used),
        lost,
    )


def _l3(question: Question, core: Core) -> tuple[str, int, int]:
    """The identity of a core's L3 group, which is one of the node or goes beyond it."""
    wide = question.wide[core.node]
    return ("wide", wide, 0) if wide >= 0 else ("node", core.node, core.group)


def allowed(question: Question, counts: Sequence[int], cells: Sequence[int]) -> bool:
    """Whether nodes may get so many vCPUs, and cells these nodes."""
    if any(count > cap for count, cap in zip(counts, question.cap, strict=True)):
        return False
    if not question.cells:
        return True
    if any(cell.vcpus % question.unit for cell in question.cells):
        return False  # siblings would be torn apart
    for node in range(question.nodes):
        here = [cell for cell, place in zip(question.cells, cells, strict=True) if place == node]
        if sum(cell.vcpus for cell in here) != counts[node]:
            return False
        have = question.have[node] if question.have else ()
        if any(sum(cell.need[one] for cell in here) > most for one, most in enumerate(have)):
            return False
    return True


def assignments(question: Question) -> Iterator[tuple[int, ...]]:
    """Every way to give cells nodes."""
    return product(range(question.nodes), repeat=len(question.cells))


def brute_force(question: Question) -> Answer | None:
    """The answer, from all combinations of takes; for a handful of cores."""
    order = list(dict.fromkeys(core.group for core in question.cores))

    def rank(takes: tuple[int, ...]) -> tuple[object, ...]:
        by_group = [
            sum(take for core, take in zip(question.cores, takes, strict=True) if core.group == one)
            for one in order
        ]
        # Once it is fixed what each group gives, the groups' cores no longer bear on one another,
        # so that comparing them in the order of the cores is comparing them group by group.
        most_first = ([-taken for taken in by_group], [-take for take in takes])
        return (cost_of(question, takes), *most_first)

    shares = {tuple(_shared(question, cells)): cells for cells in assignments(question)}
    answers = {}
    for takes in product(*(possible_takes(question, core) for core in question.cores)):
        if sum(takes) == question.vcpus:
            counts = tuple(by_node(question, takes))
            ways = assignments(question) if counts in shares or not question.cells else ()
            cells = next((cells for cells in ways if allowed(question, counts, cells)), None)
            if cells is not None:
                answers[takes] = cells
    best = min(answers, key=rank, default=None)
    return best and Answer(takes=best, cells=answers[best], cost=cost_of(question, best))


def _shared(question: Question, cells: Sequence[int]) -> list[int]:
    """How many vCPUs cells bring to each node."""
    counts = [0] * question.nodes
    for cell, place in zip(question.cells, cells, strict=True):
        counts[place] += cell.vcpus
    return counts


def twin(question: Question) -> Answer | None:
    """The answer, by trying every way to share vCPUs among nodes."""
    tables = [_table(question, node) for node in range(question.nodes)]
    best: tuple[Cost, tuple[int, ...], tuple[int, ...]] | None = None
    for counts, cells in _splits(question, [max(table) for table in tables]):
        if not all(count in table for count, table in zip(counts, tables, strict=True)):
            continue
        if not allowed(question, counts, cells):
            continue
        inner = NOTHING
        for count, table in zip(counts, tables, strict=True):
            inner = plus(inner, table[count][0])
        used = {wide for count, wide in zip(counts, question.wide, strict=True) if count and wide >= 0}
        cost = (apart(question, counts), inner[0] + len(used), *inner[1:])
        if best is None or cost < best[0]:
            best = cost, tuple(counts), cells
    if best is None:
        return None
    takes = [0] * len(question.cores)
    for node, count in enumerate(best[1]):
        for place, take in zip(question.members(node), tables[node][count][1], strict=True):
            takes[place] = take
    return Answer(takes=tuple(takes), cells=best[2], cost=best[0])


def _splits(question: Question, most: Sequence[int]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Every way to share vCPUs among nodes that have room for so many, with what cells get."""
    if question.cells:
        for cells in assignments(question):
            yield _shared(question, cells), cells
        return

    def share(node: int, left: int) -> Iterator[list[int]]:
        if node == question.nodes:
            if left == 0:
                yield []
            return
        if left > sum(most[node:]):
            return
        for count in range(0, min(left, most[node]) + 1, question.unit):
            yield from ([count, *rest] for rest in share(node + 1, left - count))

    for counts in share(0, question.vcpus):
        yield counts, ()


def _table(question: Question, node: int) -> dict[int, tuple[Inner, tuple[int, ...]]]:
    """For each number of vCPUs that a node can have: what it costs there, and the takes of its cores."""
    places = question.members(node)
    order = list(dict.fromkeys(question.cores[place].group for place in places))
    members = [
        [question.cores[place] for place in places if question.cores[place].group == one] for one in order
    ]
    open_pus = [sum(core.free for core in some) for some in members]
    wide = question.wide[node] >= 0

    def lost(free: int, take: int) -> int:
        return question.accept[free] - question.accept[free - take]

    @cache
    def in_group(group: int, index: int, vcpus: int) -> tuple[Inner, tuple[int, ...]] | None:
        """Least cost and negated takes of the cores from an index on; the group itself is free."""
        if index == len(members[group]):
            return None if vcpus else (NOTHING, ())
        core = members[group][index]
        found = []
        for take in possible_takes(question, core):
            rest = in_group(group, index + 1, vcpus - take) if take <= vcpus else None
            if rest is not None:
                shared = take > 0 and core.free < core.total
                broken = 0 < take < core.total and not shared
                found.append((plus((0, int(shared), int(broken), 0), rest[0]), (-take, *rest[1])))
        return min(found, default=None)

    @cache
    def in_groups(group: int, vcpus: int) -> tuple[Inner, tuple[int, ...]] | None:
        """Least cost and negated takes of the groups from one on."""
        if group == len(order):
            return None if vcpus else (NOTHING, ())
        found = []
        for take in range(min(vcpus, open_pus[group]) + 1):
            here = in_group(group, 0, take)
            rest = in_groups(group + 1, vcpus - take)
            if here is not None and rest is not None:
                own = (0 if wide else 1, 0, 0, lost(open_pus[group], take)) if take else NOTHING
                found.append((plus(plus(own, here[0]), rest[0]), (-take, *rest[1])))
        return min(found, default=None)

    table = {}
    for vcpus in range(min(sum(open_pus), question.vcpus) + 1):
        best = in_groups(0, vcpus)
        if best is None:
            continue
        taken = {}
        for group, negated in enumerate(best[1]):
            chosen = in_group(group, 0, -negated)
            assert chosen is not None
            mine = [place for place in places if question.cores[place].group == order[group]]
            taken |= dict(zip(mine, chosen[1], strict=True))
        cost = plus(best[0], (0, 0, 0, lost(sum(open_pus), vcpus)))
        table[vcpus] = cost, tuple(-taken[place] for place in places)
    return table


def plus(one: Inner, other: Inner) -> Inner:
    """Level by level."""
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def problems(question: Question, answer: Answer) -> list[str]:
    """What is wrong with an answer, whether or not there is a better one."""
    found = []
    if sum(answer.takes) != question.vcpus:
        found.append(f"{sum(answer.takes)} PUs are taken for {question.vcpus} vCPUs")
    for core, take in zip(question.cores, answer.takes, strict=True):
        if take not in possible_takes(question, core):
            found.append(f"{take} PUs are taken of {core}")
    if len(answer.cells) != len(question.cells):
        found.append(f"{len(answer.cells)} cells have nodes")
    elif not allowed(question, by_node(question, answer.takes), answer.cells):
        found.append("a node has more than it may have, or cells are not whole in their nodes")
    if answer.cost != cost_of(question, answer.takes):
        found.append(f"the cost is {cost_of(question, answer.takes)}, not {answer.cost}")
    return found
