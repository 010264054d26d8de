"""
The levels of a machine, one inside the other, and what is special about its PUs.

Rule 1: what holds what is found from the sets alone: a NUMA node may hold packages, and a package several nodes.
Rule 2: a group that crosses a core or one of an outer level is drawn in parts, each called so: every online PU is drawn
once, and no core is cut.
Rule 3: parts are folded only where they are alike in everything that is drawn. Cores fold always, larger parts only
where the tree would be longer than a screen or so, the smallest first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise

import attrs
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, GuestThread, Role, number_list
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.report.lines import STRIDES, bytes_words, count, has_strides, short_cpus, wrapped

__all__ = ["Part", "host_tree", "nested"]

_NARROWEST = 40
_LONG = 32  # lines of a tree before larger parts are folded
_LISTED = 24  # folded parts whose CPUs are listed one by one
_CORE = "core"
_NODE = "NUMA node"
_LEVELS = (
    ("drawers", "drawer"),
    ("books", "book"),
    ("packages", "package"),
    ("nodes", _NODE),
    ("dies", "die"),
    ("l3", "L3"),
    ("clusters", "cluster"),
    ("l2", "L2"),
    ("cores", _CORE),
)
_RANK = {level: rank for rank, (_, level) in enumerate(_LEVELS)}
_TAGS = {
    KeptFrom.BALANCING: "isolated",
    KeptFrom.OUTSIDERS: "own-cgroup",
    KeptFrom.TICK: "no-tick",
    KeptFrom.RCU: "no-rcu",
    KeptFrom.MANAGED_IRQ: "no-managed-irq",
    KeptFrom.IRQ: "no-irq",
}
_AROUND = (Role.EMULATOR, Role.OTHER)  # where such a thread ran last says little, unless it is bound there
_UNICODE = ("├─ ", "└─ ", "│  ", "   ", "…")
_ASCII = ("|- ", "`- ", "|  ", "   ", "...")
_Pieces = list[tuple[str, str]]


@attrs.frozen(kw_only=True)
class Part:
    """
    A part of a machine.

    Attributes:
        levels: What it is, the outermost first, NUMA nodes with their number; nothing for a PU and no more.
        cpus: Its online CPUs.
        parts: What it consists of, in order of first CPU; nothing where its PUs are all that is told.
    """

    levels: tuple[tuple[str, int | None], ...]
    cpus: CpuSet
    parts: tuple[Part, ...] = ()


class _Building:
    """A part that may still get others inside."""

    def __init__(self, cpus: CpuSet, *levels: tuple[str, int | None]) -> None:
        self.cpus = cpus
        self.levels = list(levels)
        self.holder: dict[int, _Building] = {}  # CPU -> the part inside that has it

    def put(self, cpus: CpuSet, level: tuple[str, int | None]) -> None:
        inside = {id(one): one for cpu in cpus if (one := self.holder.get(cpu))}.values()
        for one in inside:
            if cpus == one.cpus:
                one.levels.append(level)
                return
            if cpus < one.cpus:
                one.put(cpus, level)
                return
        crossed = [one for one in inside if not one.cpus <= cpus]
        if crossed:
            part = (f"part of {level[0].removeprefix('part of ')}", level[1])
            for one in crossed:
                one.put(one.cpus & cpus, part)
            rest = cpus - CpuSet.union_of(one.cpus for one in crossed)
            if rest:
                self.put(rest, part)
            return
        new = _Building(cpus, level)
        new.holder = {cpu: self.holder[cpu] for cpu in cpus if cpu in self.holder}
        self.holder.update(dict.fromkeys(cpus, new))

    def finished(self, *, top: bool = False) -> Part:
        inside = {one.cpus.first: one for one in self.holder.values()}
        parts = [one.finished() for one in inside.values()]
        if parts or top:
            parts += [Part(levels=(), cpus=CpuSet([cpu])) for cpu in self.cpus if cpu not in self.holder]
        levels = sorted(self.levels, key=lambda level: _RANK[level[0].removeprefix("part of ")])
        if any(level == _CORE for level, _ in levels):  # a cluster of one core says nothing
            levels = [level for level in levels if level[0] != "cluster"]
        return Part(
            levels=tuple(levels),
            cpus=self.cpus,
            parts=tuple(sorted(parts, key=lambda part: part.cpus.first)),
        )


def nested(topology: Topology) -> Part:
    """
    Find what holds what.

    Args:
        topology: The machine.

    Returns:
        All of it; groups of the same CPUs are one part of several levels.
    """
    machine = _Building(topology.online)
    for name, level in (_LEVELS[-1], *_LEVELS[:-1]):
        for group in getattr(topology, name):
            if isinstance(group, CpuSet):
                machine.put(group, (level, None))
            elif group.cpus:
                machine.put(group.cpus, (level, group.number))
    return machine.finished(top=True)


def host_tree(host: Host, guests: Sequence[Guest] = (), width: int = 80, *, ascii_only: bool = False) -> Text:
    """
    Draw a host.

    Args:
        host: The host.
        guests: Whose threads to show; names are shown as they are.
        width: The columns there are; fewer than 40 are taken for 40.
        ascii_only: Draw with ``|-``.

    Returns:
        Lines: the tree, and what its marks mean.
    """
    return _Drawing(host, guests, max(width, _NARROWEST), _ASCII if ascii_only else _UNICODE).text()


@attrs.frozen
class _Fold:
    """
    Parts that are alike.

    Attributes:
        parts: The parts.
        among: How many parts of the line above they are in, as many in each.
        depth: How deep in the tree they are.
    """

    parts: Sequence[Part]
    among: int
    depth: int

    @property
    def each(self) -> int:
        return len(self.parts) // self.among


class _Drawing:
    """A tree being drawn."""

    def __init__(self, host: Host, guests: Sequence[Guest], width: int, guides: Sequence[str]) -> None:
        self.topology = host.topology
        self.isolation = host.isolation
        self.width = width
        self.guides = guides
        self.guests = guests
        self.busy = {cpu: words for cpu, words in _busy(guests).items() if cpu in self.topology.online}
        kept = ((tag, self.isolation.kept_from(what)) for what, tag in _TAGS.items())
        self.tags = {tag: cpus for tag, cpus in kept if cpus}
        self.tags_of = {
            cpu: tuple(tag for tag, cpus in self.tags.items() if cpu in cpus) for cpu in self.topology.online
        }
        self.kind_of = {cpu: kind.name for kind in self.topology.kinds for cpu in kind.cpus}
        self.nodes = {node.number: node for node in self.topology.nodes}
        self.likeness: dict[CpuSet, int] = {}
        self.numbers: dict[Hashable, int] = {}

    def text(self) -> Text:
        machine = nested(self.topology)
        self._compare(machine)
        head = f"{count(len(self.topology.online), 'PU')} online: {short_cpus(self.topology.online)}"
        root = wrapped([(head, "bold")], self.width, Text(), Text(self.guides[2], style="dim"))
        lines: list[Text] = []
        for most in range(_depth(machine), -1, -1):
            lines = list(self._lines(_Fold([machine], 1, 0), most, ""))
            if len(lines) <= _LONG:
                break
        return Text("\n").join([*root, *lines, *self._legend(" ".join(line.plain for line in lines))])

    # -- what is alike

    def _compare(self, part: Part) -> int:
        """Give a part a number that parts like it have, too."""
        likeness: Hashable
        levels = tuple(level for level, _ in part.levels)
        if part.parts:
            memory = tuple(
                bool(self.nodes[number].memory_bytes) for _, number in part.levels if number is not None
            )
            likeness = (levels, memory, tuple(sorted(map(self._compare, part.parts))))
        else:
            what = tuple((self.tags_of[cpu], self.kind_of.get(cpu)) for cpu in part.cpus)
            alone = part.cpus if any(cpu in self.busy for cpu in part.cpus) else None
            likeness = (levels, what, alone)
        found = self.numbers.setdefault(likeness, len(self.numbers))
        self.likeness[part.cpus] = found
        return found

    def _folds(self, fold: _Fold, most: int) -> Iterator[_Fold]:
        """Fold what is inside of parts; what is larger than a core only where it is deeper than ``most``."""
        groups: dict[Hashable, list[Part]] = {}
        for part in chain.from_iterable(part.parts for part in fold.parts):
            larger = part.parts or any(number is not None for _, number in part.levels)
            apart = larger and fold.depth + 1 <= most
            groups.setdefault(part.cpus if apart else self.likeness[part.cpus], []).append(part)
        for alike in groups.values():
            yield _Fold(alike, len(fold.parts), fold.depth + 1)

    # -- lines

    def _lines(self, fold: _Fold, most: int, prefix: str) -> Iterator[Text]:
        inside: list[_Fold | _Pieces] = [*self._folds(fold, most)]
        if not fold.depth:  # all of the machine
            inside += self._apart()
        elif not fold.parts[0].parts:
            inside = self._pus(fold.parts[0])
        tee, corner, bar, blank, _ = self.guides
        for at, one in enumerate(inside):
            below = prefix + (blank if at == len(inside) - 1 else bar)
            head = Text(prefix + (corner if at == len(inside) - 1 else tee), style="dim")
            if isinstance(one, _Fold):
                deeper = list(self._lines(one, most, below))
                rest = Text(below + (bar if deeper else blank), style="dim")
                # the only ones inside have the CPUs of the line above
                alone = len(inside) == 1 and fold.among == 1 and len(fold.parts) == 1
                yield from wrapped(self._words(one, alone=alone), self.width, head, rest)
                yield from deeper
            else:
                yield from wrapped(one, self.width, head, Text(below + blank, style="dim"))

    def _words(self, fold: _Fold, *, alone: bool) -> _Pieces:
        first, size = fold.parts[0], len(fold.parts[0].cpus)
        union = CpuSet.union_of(part.cpus for part in fold.parts)
        small = not first.levels or (not first.parts and first.levels[-1][0] == _CORE)
        step = _step(fold.parts) if small else None
        pieces: _Pieces = [(self._name(fold), "bold" if first.parts else "")]
        if len(fold.parts) > 1:
            between = "" if step is None else f"siblings {'adjacent' if step == 1 else f'{step} apart'}"
            pieces.append((f" of {count(size, 'PU')}" if first.levels else "", ""))
            pieces.append((f", {between}" if between else "", ""))
            listed = short_cpus(union) if step or size == 1 else self._list(fold.parts)
            if fold.among == 1 and not (alone and (step or size == 1)):
                pieces.append((f": {listed}", ""))
        elif small:
            pieces.append((f" {short_cpus(union)}", ""))
        elif not alone:
            pieces.append((f", {count(size, 'PU')}: {short_cpus(union)}", ""))
        if not first.parts:
            pieces += self._marks(union)
            if size == 1:
                pieces += [piece for cpu in union for piece in self.busy.get(cpu, ())]
        return pieces

    def _name(self, fold: _Fold) -> str:
        first = fold.parts[0]
        words = []
        for level, same in groupby(first.levels, key=lambda named: named[0]):
            numbers = [number for _, number in same if number is not None]
            if not numbers:
                words.append(self._core_name(first) if level == _CORE else level)
            elif len(fold.parts) == 1:
                memory = _memory(self.nodes[number] for number in numbers) if level == _NODE else ""
                words.append(f"{level}{'s' * (len(numbers) > 1)} {number_list(numbers)}{memory}")
            elif fold.among == 1:
                every = [number for part in fold.parts for named, number in part.levels if named == level]
                shown = number_list(number for number in every if number is not None)
                words.append(f"{level} ({shown})")
            else:
                words.append(level)
        name = " + ".join(words)
        times = f"{fold.each} x {name}" if name else count(fold.each, "PU")
        if fold.among > 1:
            return f"each: {name if name and fold.each == 1 else times}"
        return (name or "PU") if fold.each == 1 else times

    def _core_name(self, core: Part) -> str:
        kinds = {self.kind_of.get(cpu) for cpu in core.cpus}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is None:
            return _CORE
        return f"{kind} {_CORE}" if " " not in kind else f"{_CORE} ({kind})"

    def _list(self, parts: Sequence[Part]) -> str:
        words = [short_cpus(part.cpus) for part in parts]
        if len(words) > _LISTED:
            words = [*words[:2], self.guides[4], words[-1]]
        return "  ".join(words)

    def _marks(self, cpus: CpuSet) -> _Pieces:
        marks = []
        for tag, tagged in self.tags.items():
            if tagged & cpus:
                marks.append(tag if cpus <= tagged else f"{tag} {short_cpus(tagged & cpus)}")
        return [(f"  [{', '.join(marks)}]", "yellow")] if marks else []

    def _pus(self, part: Part) -> list[_Fold | _Pieces]:
        """The PUs of a core that carry threads, a line each; the line of the core itself serves a single one."""
        if len(part.cpus) == 1:
            return []
        return [[(f"PU {cpu}", ""), *self.busy[cpu]] for cpu in part.cpus if cpu in self.busy]

    def _apart(self) -> list[_Fold | _Pieces]:
        """What has no online CPU: NUMA nodes of memory only, and offline CPUs."""
        bare = [node for node in self.topology.nodes if not node.cpus]
        lines: list[_Fold | _Pieces] = []
        if bare:
            numbers = number_list(node.number for node in bare)
            label = f"{_NODE}{'s' * (len(bare) > 1)} {numbers}{_memory(bare)}"
            lines.append([(label, "bold"), (", no CPU online", "")])
        if self.topology.offline:
            offline = short_cpus(self.topology.offline)
            lines.append([(f"offline: {count(len(self.topology.offline), 'CPU')} ({offline})", "red")])
        return lines

    def _legend(self, drawn: str) -> Iterator[Text]:
        rows = []
        for what, tag in _TAGS.items():
            by = dict.fromkeys(one.by for one in self.isolation.kept if one.what is what)
            if by:
                rows.append((tag, f"kept from {what.value} by {', '.join(by)}"))
        for label, words in (
            ("bound", "threads of guests that may run nowhere else"),
            ("last", "threads of guests that ran there last, and may run elsewhere"),
        ):
            if any(text.startswith(f"  {label}: ") for pieces in self.busy.values() for text, _ in pieces):
                rows.append((label, words))
        if self.busy and not all(guest.verified for guest in self.guests):
            rows.append(("(?)", "not proved to be a guest"))
        if has_strides(drawn):
            rows.append(("a-b:1/4", STRIDES))
        span = max((len(label) for label, _ in rows), default=0) + 2
        if rows:
            yield Text()
        for label, words in rows:
            head = Text(label.ljust(span), style="dim")
            yield from wrapped([(words, "dim")], self.width, head, Text(" " * span))


def _busy(guests: Iterable[Guest]) -> dict[int, _Pieces]:
    """By CPU, the threads that are bound to it, and those that ran there last."""
    here: dict[tuple[int, bool], list[tuple[str, GuestThread]]] = {}
    for guest in guests:
        name = guest.name if guest.verified else f"{guest.name} (?)"
        for thread in guest.threads:
            if thread.mask is not None and len(thread.mask) == 1:
                here.setdefault((thread.mask.first, False), []).append((name, thread))
            elif thread.cpu is not None and thread.role not in _AROUND:
                here.setdefault((thread.cpu, True), []).append((name, thread))
    busy: dict[int, _Pieces] = {}
    for (cpu, last), threads in sorted(here.items(), key=lambda item: item[0]):
        words = []
        for (name, role), same in groupby(threads, key=lambda item: (item[0], item[1].role)):
            found = [thread.index for _, thread in same]
            indices = number_list(index for index in found if index is not None)
            many = f" x{len(found)}" if not indices and len(found) > 1 else ""
            words.append(f"{name} {role}{f' {indices}' if indices else many}")
        label = "  last: " if last else "  bound: "
        busy.setdefault(cpu, []).append((label + ", ".join(words), "dim cyan" if last else "cyan"))
    return busy


def _step(cores: Sequence[Part]) -> int | None:
    """How far the siblings of every core are apart, where that is the same everywhere."""
    steps = {after - before for core in cores for before, after in pairwise(core.cpus)}
    return steps.pop() if len(steps) == 1 else None


def _depth(part: Part) -> int:
    return 1 + max(map(_depth, part.parts), default=-1)


def _memory(nodes: Iterable[NumaNode]) -> str:
    told = [node.memory_bytes for node in nodes]
    if None in told:
        return ""
    return f" ({bytes_words(sum(size or 0 for size in told)) if any(told) else 'no memory'})"
