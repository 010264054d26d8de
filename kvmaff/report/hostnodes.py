"""
The NUMA nodes of a machine, at a glance: a row each, or, of many nodes, a row for those that have equally much.

Rule: what is said of many distances is true of each; what does not fit into a sentence is in ``--json``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import number_list
from kvmaff.host.topology import HugePages, NumaNode, Topology
from kvmaff.report.lines import UNTOLD, bytes_words, drawn, short_cpus, wrapped

__all__ = ["all_huge_pages", "node_rows", "page_words"]

_MANY = 16  # nodes that have a row each
_GROUPS = 8  # groups of near nodes that are named one by one
_Far = Mapping[int, Mapping[int, int | None]]


def node_rows(topology: Topology, width: int) -> list[Text]:
    """
    Show the NUMA nodes and how far they are from each other.

    Args:
        topology: The machine.
        width: The columns there are.

    Returns:
        The lines.
    """
    nodes = topology.nodes
    if len(nodes) < 2:
        words = [f"1 (node {node.number}), memory: {_memory(node)}" for node in nodes]
        return drawn([("NUMA nodes", words or [UNTOLD])], width)
    sizes = [pages.size_bytes for pages in all_huge_pages(topology) if pages.total]
    if len(nodes) > _MANY:
        columns, texts = _folded(nodes, sizes)
    else:
        columns = [
            ["node", *(str(node.number) for node in nodes)],
            ["memory", *map(_memory, nodes)],
            *([f"{page_words(size)} free/all", *(_pages(node, size) for node in nodes)] for size in sizes),
            ["CPUs", *(str(len(node.cpus) or "none") for node in nodes)],
        ]
        texts = [short_cpus(node.cpus) for node in nodes]
    if sum(max(map(cell_len, column)) + 2 for column in columns) > width - 14:
        del columns[2:-1]  # the machine's own sums stand below
    spans = [max(map(cell_len, column)) for column in columns]
    lines = drawn([("NUMA nodes", [str(len(nodes))])], width)
    for at, row in enumerate(zip(*columns, strict=True)):
        cells = "".join(f"  {cell:>{span}}" for cell, span in zip(row, spans, strict=True))
        head = Text(cells if at else cells.rstrip(), style="" if at else "dim")
        text = f"  {texts[at - 1]}" if at else ""
        lines += wrapped([(text, "")], width, head, Text(" " * (cell_len(cells) + 2)))
    return [*lines, *_distances(nodes, width)]


def _folded(nodes: Sequence[NumaNode], sizes: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Columns of nodes that have equally much, and which those are."""
    groups: list[list[NumaNode]] = []
    keys: tuple[Callable[[NumaNode], Hashable], ...] = (
        lambda node: (len(node.cpus), _memory(node), *(_pages(node, size) for size in sizes)),
        lambda node: (len(node.cpus), _memory(node)),
        lambda node: len(node.cpus),
    )
    for key in keys:
        by: dict[Hashable, list[NumaNode]] = {}
        for node in nodes:
            by.setdefault(key(node), []).append(node)
        groups = list(by.values())
        if len(groups) <= _MANY:
            break
    columns = [
        ["nodes", *(str(len(group)) for group in groups)],
        ["memory each", *map(_memories, groups)],
        ["CPUs each", *(str(len(group[0].cpus) or "none") for group in groups)],
    ]
    alike = [(size, [{_pages(node, size) for node in group} for group in groups]) for size in sizes]
    columns[2:2] = [
        [f"{page_words(size)} free/all", *(each.pop() for each in told)]
        for size, told in alike
        if all(len(each) == 1 for each in told)
    ]
    return columns, list(map(_which, groups))


def _which(group: Sequence[NumaNode]) -> str:
    words = f"node{'s' * (len(group) > 1)} {number_list(node.number for node in group)}"
    cpus = CpuSet.union_of(node.cpus for node in group)
    if not cpus:
        return words
    first = f"; node {group[0].number} has {short_cpus(group[0].cpus)}" if len(group) > 1 else ""
    return f"{words}: CPUs {short_cpus(cpus)}{first}"


def _memories(group: Sequence[NumaNode]) -> str:
    told = sorted({node.memory_bytes or 0 for node in group})
    if any(node.memory_bytes is None for node in group):
        return "not told"
    least, most = bytes_words(told[0]), bytes_words(told[-1])
    return _memory(group[0]) if least == most else f"{least} to {most}"


def _distances(nodes: Sequence[NumaNode], width: int) -> Iterator[Text]:
    """One sentence where all are equal, a matrix where it has room, else groups, or what differs from the usual."""
    rows = {node.number: dict(node.distances) for node in nodes}
    between = [rows[one].get(other) for one in rows for other in rows if one != other]
    if all(far is None for far in between):
        return
    if len(set(between)) == 1:
        yield from drawn([("NUMA distance", [f"{between[0]} between any two nodes"])], width)
        return
    table = [["from, to", *map(str, rows)]]
    table += [[str(one), *(str(row.get(other, "-")) for other in rows)] for one, row in rows.items()]
    span = max(len(cell) for line in table for cell in line[1:]) + 2
    many = len(nodes) > _MANY
    if 10 + span * len(rows) <= width and not many:
        yield Text("NUMA distances", style="bold")
        for at, line in enumerate(table):
            cells = f"  {line[0]:>8}" + "".join(f"{cell:>{span}}" for cell in line[1:])
            yield Text(cells, style="" if at else "dim")
        return
    words, exact = _near(rows)
    if many or exact:
        yield from drawn([("NUMA distances", [words])], width)
        return
    usual = Counter(between).most_common(1)[0][0]
    others = []
    for one, row in rows.items():
        by: dict[int | None, list[int]] = {}
        for other in rows:
            if other != one and row.get(other) != usual:
                by.setdefault(row.get(other), []).append(other)
        said = [f"{_far(far)} to {number_list(to)}" for far, to in by.items()]
        others += [f"from {one}: {', '.join(said)}"] if said else []
    yield from drawn(
        [("NUMA distances", [f"{_far(usual)} between two nodes, but:", "; ".join(others)])], width
    )


def _near(rows: _Far) -> tuple[str, bool]:
    """
    Say which nodes are near to each other.

    Nodes that are equally far from all others are said first. Of the others, those up to a distance are a group where
    being so near is mutual and carries over; the nearest distances of which that is true have their groups named.
    """
    words, left = [], list(rows)
    for one in rows:
        both = {rows[one].get(other) for other in rows if other != one}
        both |= {row.get(one) for other, row in rows.items() if other != one}
        if len(both) == 1 and len(left) > 2:
            words.append(f"{_far(both.pop())} between {one} and any other")
            left.remove(one)
    rest = sorted(
        {rows[one].get(other) for one in left for other in left if one != other},
        key=lambda far: (far is None, far or 0),
    )
    while len(rest) > 1 and rest[0] is not None:
        groups = _groups(rows, left, rest[0])
        if groups is None:
            break
        words.append(f"{rest.pop(0)} within {_group_words(groups)}")
    told = list(map(_far, rest))
    others = " or ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    words.append(f"{others} {'otherwise' if words else 'between two nodes'}")
    return ", ".join(words) + (" (--json has them all)" if len(told) > 1 else ""), len(told) == 1


def _groups(rows: _Far, left: Sequence[int], most: int) -> list[list[int]] | None:
    """The groups of nodes that are at most so far from each other; None where such nodes are no groups."""
    near = {
        one: [other for other in left if other == one or _at_most(rows[one].get(other), most)] for one in left
    }
    if any(near[other] != near[one] for one in left for other in near[one]):
        return None
    return [near[one] for one in left if near[one][0] == one and len(near[one]) > 1]


def _at_most(far: int | None, most: int) -> bool:
    return far is not None and far <= most


def _group_words(groups: Sequence[Sequence[int]]) -> str:
    named = list(map(number_list, groups))
    sizes = {len(group) for group in groups}
    if len(named) > _GROUPS:
        each = f" of {sizes.pop()}" if len(sizes) == 1 else ""
        return f"each of {len(named)} groups{each} ({named[0]}; {named[1]}; ... {named[-1]})"
    return "; ".join(named) if len(named) > 1 else named[0]


def _far(far: int | None) -> str:
    return "untold" if far is None else str(far)


def all_huge_pages(topology: Topology) -> list[HugePages]:
    """
    Find the machine's huge pages.

    Args:
        topology: The machine.

    Returns:
        What it tells by size, or the sums of its nodes' where only they tell.
    """
    sums = {pages.size_bytes: pages for pages in topology.huge_pages}
    if not sums:
        for pages in (pages for node in topology.nodes for pages in node.huge_pages):
            size, so_far = pages.size_bytes, sums.get(pages.size_bytes)
            total, free = (so_far.total, so_far.free) if so_far else (0, 0)
            sums[size] = HugePages(size_bytes=size, total=total + pages.total, free=free + pages.free)
    return [sums[size] for size in sorted(sums)]


def page_words(size: int) -> str:
    """
    Write the size of a page.

    Args:
        size: Bytes.

    Returns:
        ``2 MiB``.
    """
    return bytes_words(size).replace(".0 ", " ")


def _pages(node: NumaNode, size: int) -> str:
    return next((f"{each.free}/{each.total}" for each in node.huge_pages if each.size_bytes == size), "-")


def _memory(node: NumaNode) -> str:
    if node.memory_bytes is None:
        return "not told"
    return bytes_words(node.memory_bytes) if node.memory_bytes else "none"
