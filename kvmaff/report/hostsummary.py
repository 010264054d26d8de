"""
What a machine is, at a glance.

Rule: a number that differs from part to part is never averaged, and what the machine does not tell is called so.
Rule: whoever prints it takes the lines as they are: none is wider than was asked, from 40 columns up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import number_list
from kvmaff.host.cgroup import Grant
from kvmaff.host.isolation import Isolation
from kvmaff.host.reader import Host
from kvmaff.host.topology import Topology
from kvmaff.report.hostnodes import all_huge_pages, node_rows, page_words
from kvmaff.report.lines import STRIDES, UNTOLD, Rows, count, drawn, has_strides, short_cpus

__all__ = ["five_lines", "host_summary"]

_NARROWEST = 40
_LEVELS = (
    ("drawers", "drawers"),
    ("books", "books"),
    ("dies", "dies"),
    ("clusters", "clusters"),
    ("l3", "L3"),
    ("l2", "L2"),
)


def host_summary(host: Host, width: int = 80, grant: Grant | None = None) -> Text:
    """
    Show a host at a glance.

    Args:
        host: The host.
        width: The columns there are; fewer than 40 are taken for 40.
        grant: What the one who looks is granted of it, said where it is not all.

    Returns:
        Paragraphs of lines: the chapter's five, the levels, the NUMA nodes, and what is not as usual.
    """
    topology, width = host.topology, max(width, _NARROWEST)
    paragraphs = [
        drawn([(label, [words]) for label, words in five_lines(topology)], width),
        drawn([*_levels(topology), *_kinds(topology)], width),
        [*node_rows(topology, width), *drawn([*_huge_pages(topology)], width)],
        drawn([*_numbers(topology), *_isolation(host.isolation), *_granted(topology, grant)], width),
    ]
    lines = [line for paragraph in paragraphs if paragraph for line in (Text(), *paragraph)][1:]
    if any(has_strides(line.plain) for line in lines):
        lines += [Text(), Text(f"a-b:1/4 is {STRIDES}", style="dim")]
    return Text("\n").join(lines)


def five_lines(topology: Topology) -> tuple[tuple[str, str], ...]:
    """
    Say what every script counts first: CPUs, packages, cores and CPUs in each, and whether cores have siblings.

    Args:
        topology: The machine.

    Returns:
        (label, words) five times.
    """
    online, packages, cores = topology.online, topology.packages, topology.cores
    shown = f"({short_cpus(online)})"
    some = f"{len(online)} online {shown}; {len(topology.offline)} more offline"
    in_packages = _each([sum(not core.isdisjoint(package) for core in cores) for package in packages])
    in_all = f"{UNTOLD}; {count(len(cores), 'core')} in all"
    return (
        ("logical CPUs", some if topology.offline else f"{len(online)} {shown}"),
        ("packages", f"{len(packages)}{_left_out(packages, online)}" if packages else UNTOLD),
        ("cores per package", (in_packages if packages else in_all) if cores else UNTOLD),
        ("logical CPUs per package", _each([len(package) for package in packages]) or UNTOLD),
        ("Hyper-Threading (SMT)", _smt(topology)),
    )


def _each(numbers: Sequence[int]) -> str:
    """One number where all are equal; all of them where they are few; else how often each occurs."""
    if len(set(numbers)) <= 1:
        return "".join(map(str, numbers[:1]))
    if len(numbers) <= 4:
        return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    counts = sorted(Counter(numbers).items(), reverse=True)
    return ", ".join(f"{number} in {count(times, 'package')}" for number, times in counts)


def _smt(topology: Topology) -> str:
    sizes = sorted(Counter(map(len, topology.cores)).items(), reverse=True)
    said = f"smt/control says {topology.smt}"
    if not sizes:
        return UNTOLD if topology.smt is None else f"{said}; threads per core not told"
    most = sizes[0][0]
    if most > 1:
        if len(sizes) == 1:
            return f"on, {most} threads per core{_left_out(topology.cores, topology.online)}"
        (size, times), *others = sizes
        mixed = f"on, mixed: {count(times, 'core')} of {size} threads"
        mixed += "".join(f", {times} of {size}" for size, times in others)
        return f"{mixed} (of some, siblings may be offline)" if topology.offline else mixed
    one = "1 thread per core"
    if topology.smt in ("off", "forceoff", "1"):
        forced = " until the next boot" if topology.smt == "forceoff" else ""
        return f"off{forced} ({said}), {one} online"
    if topology.smt == "notsupported":
        return f"not there, {one}"
    if topology.offline:
        on = "on, but " if topology.smt == "on" else ""
        return f"{on}{one} online: siblings may be among the offline CPUs"
    if topology.smt == "on":
        return f"{one}, though {said}"
    return f"off or not there, {one}"


def _levels(topology: Topology) -> Rows:
    """Rows for levels that part the CPUs otherwise than packages and cores do; caches in any case."""
    rows: dict[tuple[CpuSet, ...], list[str]] = {}
    everything = (topology.online,)
    for name, label in _LEVELS:
        groups: tuple[CpuSet, ...] = getattr(topology, name)
        plain = groups in (topology.cores, topology.packages, everything)
        if groups and (name in ("l2", "l3") or not plain):
            told = tuple(group for group in groups if name != "clusters" or group not in topology.cores)
            if told:
                rows.setdefault(told, []).append(label)
    shown = [(_joined(labels), [_groups(groups, topology, labels)]) for groups, labels in rows.items()]
    untold = [label for label, groups in (("L3", topology.l3), ("L2", topology.l2)) if not groups]
    return [*shown, *([(_joined(untold), [UNTOLD])] if untold else [])]


def _joined(levels: Sequence[str]) -> str:
    return " and ".join(levels) + (" caches" if levels[-1].startswith("L") else "")


def _groups(groups: Sequence[CpuSet], topology: Topology, labels: Sequence[str]) -> str:
    if groups == topology.packages:
        words = f"{len(groups)}, one per package"
    elif groups == topology.cores:
        words = f"{len(groups)}, one per core"
    else:
        sizes = sorted(Counter(map(len, groups)).items(), reverse=True)
        parts = [f"{times} with {count(size, 'CPU')}{' each' * (times > 1)}" for size, times in sizes]
        one = f"{len(groups)}, of {count(sizes[0][0], 'CPU')}{' each' * (len(groups) > 1)}"
        words = one if len(parts) == 1 else f"{len(groups)}: {', '.join(parts)}"
    if "clusters" not in labels:
        return words + _left_out(groups, topology.online)
    single = sum(group in topology.cores for group in topology.clusters)
    more = f"; {single} more {'are' if single > 1 else 'is'} a core{' each' * (single > 1)}" if single else ""
    return words + more + _left_out(topology.clusters, topology.online)


def _kinds(topology: Topology) -> Rows:
    lines = []
    for kind in topology.kinds:
        inside = sum(not core.isdisjoint(kind.cpus) for core in topology.cores)
        cores = f"{count(inside, 'core')}, " if inside else ""
        lines.append(f"{kind.name}: {cores}{count(len(kind.cpus), 'CPU')} ({short_cpus(kind.cpus)})")
    return [("core kinds", lines)] if lines else []


def _huge_pages(topology: Topology) -> Rows:
    told = all_huge_pages(topology)
    if not told:
        return []
    words = "; ".join(
        f"{pages.total} of {page_words(pages.size_bytes)}, {pages.free} free" for pages in told if pages.total
    )
    none = f"none set aside (sizes: {', '.join(page_words(pages.size_bytes) for pages in told)})"
    return [("huge pages", [words or none])]


def _numbers(topology: Topology) -> Rows:
    rows: Rows = []
    if topology.offline:
        rows.append(("offline CPUs", [f"{len(topology.offline)} ({short_cpus(topology.offline)})"]))
    more = topology.possible - topology.present
    if more:
        rows.append(("possible CPUs", [f"{len(more)} more could be plugged in ({short_cpus(more)})"]))
    return rows


def _isolation(isolation: Isolation) -> Rows:
    """A line for each who keeps CPUs from something; what the same one keeps the same CPUs from shares one."""
    kept: dict[tuple[CpuSet, str], list[str]] = {}
    for one in isolation.kept:
        kept.setdefault((one.cpus, one.by), []).append(one.what.value)
    lines = [
        f"{short_cpus(cpus)} kept from {' and '.join(whats)} by {by}" for (cpus, by), whats in kept.items()
    ]
    doubts: Rows = [("in doubt", list(isolation.doubts))] if isolation.doubts else []
    return [("isolation", lines or ["none"]), *doubts]


def _granted(topology: Topology, grant: Grant | None) -> Rows:
    if grant is None:
        return []
    all_nodes = tuple(node.number for node in topology.nodes if node.memory_bytes != 0)
    words = [] if grant.cpus == topology.online else [f"CPUs {short_cpus(grant.cpus)}"]
    if grant.nodes is not None and not set(all_nodes) <= set(grant.nodes):
        words.append(f"memory of node{'s' * (len(grant.nodes) > 1)} {number_list(grant.nodes)}")
    return [("granted here", [f"only {' and '.join(words)}, by the cgroup {grant.cgroup}"])] if words else []


def _left_out(groups: Sequence[CpuSet], online: CpuSet) -> str:
    rest = online - CpuSet.union_of(groups)
    return f"; not told for {count(len(rest), 'CPU')} ({short_cpus(rest)})" if rest else ""
