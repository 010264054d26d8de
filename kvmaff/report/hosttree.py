"""
The levels of a machine, drawn, and what is special about its PUs.

Rule 1: every online PU is drawn once, and no core is cut.
Rule 2: parts are folded only where they are alike in everything that is drawn. Cores fold always, larger parts only
where the tree would be longer than a screen or so, the smallest first.
Rule 3: where that is not enough, less is said of the threads of guests, and the legend says what was left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, pairwise

import attrs
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, number_list
from kvmaff.host.isolation import KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode
from kvmaff.report.lines import STRIDES, bytes_words, count, has_strides, short_cpus, wrapped
from kvmaff.report.parts import CORE, NODE, Part, nested
from kvmaff.report.treethreads import Detail, Pieces, Threads, details

__all__ = ["host_tree"]

_NARROWEST = 40
_LONG = 32  # lines of a tree before larger parts are folded
_LONGEST = 64  # lines of it before less is said of threads
_LISTED = 24  # folded parts whose CPUs are listed one by one
_TAGS = {
    KeptFrom.BALANCING: "isolated",
    KeptFrom.OUTSIDERS: "own-cgroup",
    KeptFrom.TICK: "no-tick",
    KeptFrom.RCU: "no-rcu",
    KeptFrom.MANAGED_IRQ: "no-managed-irq",
    KeptFrom.IRQ: "no-irq",
}
_UNICODE = ("├─ ", "└─ ", "│  ", "   ", "…")
_ASCII = ("|- ", "`- ", "|  ", "   ", "...")


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
        self.threads = Threads(guests, host.topology.online)
        self.detail = Detail(lines=None, own_lines=True, last=True)
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
        depth = _depth(machine)
        busy = bool(self.threads.bound or self.threads.last)
        lines: list[Text] | None = None
        for detail in details(depth, _LONG, _LONGEST) if busy else (self.detail,):
            self.detail = detail
            lines = self._drawn(machine, depth)
            if lines is not None:
                break
        drawn = lines or []
        return Text("\n").join([*drawn, *self._legend(" ".join(line.plain for line in drawn))])

    def _drawn(self, machine: Part, depth: int) -> list[Text] | None:
        """Draw with as little folded as makes no long tree; None where it is longer than it may be."""
        self._compare(machine, 0)
        head = f"{count(len(self.topology.online), 'PU')} online: {short_cpus(self.topology.online)}"
        pieces = [(head, "bold"), *self._carried(machine, 0, 1)]
        root = wrapped(pieces, self.width, Text(), Text(self.guides[2], style="dim"))
        fold = _Fold([machine], 1, 0)
        for most in range(depth, -1, -1):
            limit = _LONG if most else self.detail.lines
            stop = None if limit is None else limit + 1
            lines = list(islice(self._lines(fold, most, ""), stop))
            if limit is None or len(lines) <= limit:
                return [*root, *lines]
        return None

    # -- what is alike

    def _compare(self, part: Part, depth: int) -> int:
        """Give a part a number that parts like it have, too."""
        likeness: Hashable
        levels = tuple(level for level, _ in part.levels)
        carried = "".join(text for text, _ in self._carried(part, depth, 1))
        alone = part.cpus if carried and self.detail.names else carried
        if part.parts:
            memory = tuple(
                bool(self.nodes[number].memory_bytes) for _, number in part.levels if number is not None
            )
            inside = tuple(sorted(self._compare(one, depth + 1) for one in part.parts))
            likeness = (levels, memory, inside, alone)
        else:
            what = tuple((self.tags_of[cpu], self.kind_of.get(cpu)) for cpu in part.cpus)
            likeness = (levels, what, alone)
        found = self.numbers.setdefault(likeness, len(self.numbers))
        self.likeness[part.cpus] = found
        return found

    def _carried(self, part: Part, depth: int, times: int) -> Pieces:
        """What is said of threads at a part itself, of which there are several alike or one."""
        deepest = self.detail.deepest
        if deepest is not None and depth > deepest:
            return []
        if part.parts if deepest is None else part.parts and depth < deepest:
            return []
        if not part.parts and self.detail.names:
            alone = len(part.cpus) == 1
            found = [(cpu, self.threads.of(cpu, last=self.detail.last)) for cpu in part.cpus]
            return [
                (text if alone else f"  PU {cpu} {text.strip()}", style)
                for cpu, pieces in found
                for text, style in pieces
            ]
        words = self.threads.within(part.cpus, names=self.detail.names)
        return [(f"  {'each ' * (times > 1)}bound: {words}", "cyan")] if words else []

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
        inside: list[_Fold | Pieces] = [*self._folds(fold, most)]
        if not fold.depth:  # all of the machine
            inside += self._apart()
        elif not fold.parts[0].parts:
            inside = self._pus(fold.parts[0])
        tee, corner, bar, blank, _ = self.guides
        for at, one in enumerate(inside):
            below = prefix + (blank if at == len(inside) - 1 else bar)
            head = Text(prefix + (corner if at == len(inside) - 1 else tee), style="dim")
            if isinstance(one, _Fold):
                lines = self._lines(one, most, below)
                deeper = next(lines, None)
                rest = Text(below + (blank if deeper is None else bar), style="dim")
                # the only ones inside have the CPUs of the line above
                alone = len(inside) == 1 and fold.among == 1 and len(fold.parts) == 1
                yield from wrapped(self._words(one, alone=alone), self.width, head, rest)
                if deeper is not None:
                    yield deeper
                yield from lines
            else:
                yield from wrapped(one, self.width, head, Text(below + blank, style="dim"))

    def _words(self, fold: _Fold, *, alone: bool) -> Pieces:
        first, size = fold.parts[0], len(fold.parts[0].cpus)
        union = CpuSet.union_of(part.cpus for part in fold.parts)
        small = not first.levels or (not first.parts and first.levels[-1][0] == CORE)
        step = _step(fold.parts) if small else None
        pieces: Pieces = [(self._name(fold), "bold" if first.parts else "")]
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
        if first.parts or size == 1 or not self.detail.own_lines:
            pieces += self._carried(first, fold.depth, len(fold.parts))
        return pieces

    def _name(self, fold: _Fold) -> str:
        first = fold.parts[0]
        words = []
        for level, same in groupby(first.levels, key=lambda named: named[0]):
            numbers = [number for _, number in same if number is not None]
            if not numbers:
                words.append(self._core_name(first) if level == CORE else level)
            elif len(fold.parts) == 1:
                memory = _memory(self.nodes[number] for number in numbers) if level == NODE else ""
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
            return CORE
        return f"{kind} {CORE}" if " " not in kind else f"{CORE} ({kind})"

    def _list(self, parts: Sequence[Part]) -> str:
        words = [short_cpus(part.cpus) for part in parts]
        if len(words) > _LISTED:
            words = [*words[:2], self.guides[4], words[-1]]
        return "  ".join(words)

    def _marks(self, cpus: CpuSet) -> Pieces:
        marks = []
        for tag, tagged in self.tags.items():
            if tagged & cpus:
                marks.append(tag if cpus <= tagged else f"{tag} {short_cpus(tagged & cpus)}")
        return [(f"  [{', '.join(marks)}]", "yellow")] if marks else []

    def _pus(self, part: Part) -> list[_Fold | Pieces]:
        """The PUs of a core that carry threads, a line each; the line of the core itself serves a single one."""
        if len(part.cpus) == 1 or not self.detail.own_lines:
            return []
        found = [(cpu, self.threads.of(cpu, last=self.detail.last)) for cpu in part.cpus]
        return [[(f"PU {cpu}", ""), *pieces] for cpu, pieces in found if pieces]

    def _apart(self) -> list[_Fold | Pieces]:
        """What has no online CPU: NUMA nodes of memory only, and offline CPUs."""
        bare = [node for node in self.topology.nodes if not node.cpus]
        lines: list[_Fold | Pieces] = []
        if bare:
            numbers = number_list(node.number for node in bare)
            label = f"{NODE}{'s' * (len(bare) > 1)} {numbers}{_memory(bare)}"
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
        rows += self.threads.legend(self.detail)
        if " (?)" in drawn and not all(guest.verified for guest in self.guests):
            rows.append(("(?)", "not proved to be a guest"))
        if has_strides(drawn):
            rows.append(("a-b:1/4", STRIDES))
        span = max((len(label) for label, _ in rows), default=0) + 2
        if rows:
            yield Text()
        for label, words in rows:
            head = Text(label.ljust(span), style="dim")
            yield from wrapped([(words, "dim")], self.width, head, Text(" " * span))


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
