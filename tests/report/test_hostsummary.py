"""Host -> what a person reads at a glance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs
from rich.cells import cell_len
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.host.cgroup import Grant
from kvmaff.host.isolation import Isolation, Kept, KeptFrom
from kvmaff.host.reader import Host
from kvmaff.host.topology import CoreKind, HugePages, NumaNode, Topology
from kvmaff.report.hostsummary import five_lines, host_summary
from kvmaff.report.lines import bytes_words, has_strides, short_cpus, wrapped
from kvmaff.testing import inputs as st
from kvmaff.testing import inputs_hosts

MIB, GIB = 1 << 20, 1 << 30


def groups(*cpulists: str) -> tuple[CpuSet, ...]:
    """A level."""
    return tuple(CpuSet.parse(cpulist) for cpulist in cpulists)


def topology(online: str, cores: tuple[CpuSet, ...] = (), packages: tuple[CpuSet, ...] = ()) -> Topology:
    """A machine of which no more is told."""
    cpus = CpuSet.parse(online)
    return Topology(
        possible=cpus,
        present=cpus,
        online=cpus,
        packages=packages,
        dies=(),
        clusters=(),
        cores=cores,
        l2=(),
        l3=(),
        nodes=(),
    )


def host(machine: Topology, isolation: Isolation | None = None) -> Host:
    """A host that was not read from anywhere."""
    return Host(
        root="/made",
        topology=machine,
        isolated=CpuSet(),
        nohz_full=CpuSet(),
        isolation=isolation or Isolation(),
    )


def row(text: Text, label: str) -> str:
    """What stands beside a label, also over several lines."""
    lines = text.plain.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(f"{label} "))
    words = [lines[at][26:]]
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 26):
            break
        words.append(line.strip())
    return " ".join(words)


def smt(machine: Topology) -> str:
    """The fifth line."""
    return five_lines(machine)[4][1]


@given(inputs_hosts.topologies())
def test_five_lines_are_the_counts_of_the_sets(machine: Topology) -> None:
    """The chapter's five lines have the numbers that counting CPU by CPU gives."""
    lines = dict(five_lines(machine))
    assert len(lines) == 5
    assert lines["logical CPUs"].split()[0] == str(sum(1 for _ in machine.online))
    assert lines["packages"] == str(len(machine.packages))
    core_of = {cpu: core for core in machine.cores for cpu in core}
    cpus = [len(package) for package in machine.packages]
    cores = [len({core_of[cpu] for cpu in package if cpu in core_of}) for package in machine.packages]
    for label, numbers in (("logical CPUs per package", cpus), ("cores per package", cores)):
        words = lines[label].replace(",", " ").replace("and", " ").split()
        if label.startswith("cores") and not machine.cores:
            assert lines[label] == "not told by this machine"
        elif len(numbers) <= 4:
            expected = numbers[:1] if len(set(numbers)) == 1 else numbers
            assert [str(number) for number in expected] == words
        else:
            assert set(map(str, numbers)) <= set(words)
    sizes = Counter(len(core) for core in machine.cores)
    siblings = lines["Hyper-Threading (SMT)"]
    if not sizes:
        assert "not told" in siblings
    elif max(sizes) == 1:
        assert siblings.startswith("on, but ") or not siblings.startswith("on,")
        assert "1 thread per core" in siblings
    else:
        assert siblings.startswith(f"on, {max(sizes)} " if len(sizes) == 1 else "on, mixed: ")
        for size, times in sizes.items():
            assert len(sizes) == 1 or f"{times} of {size}" in siblings.replace("cores ", "").replace(
                "core ", ""
            )


@given(inputs_hosts.hosts() | inputs_hosts.overlapping(), hs.integers(0, 200))
def test_a_summary_of_any_machine_fits(machine: Host, width: int) -> None:
    """Any machine has a summary; no line is wider than the terminal, from 40 columns, or ends in blanks."""
    for line in host_summary(machine, width).plain.splitlines():
        assert cell_len(line) <= max(width, 40)
        assert line == line.rstrip()


@given(inputs_hosts.hosts())
def test_a_summary_names_every_node_and_what_is_not_online(machine: Host) -> None:
    """Each node has a line, as have offline CPUs, and isolated CPUs are named with who isolates them."""
    text = host_summary(machine, 500)
    nodes = machine.topology.nodes
    if 1 < len(nodes) <= 16:
        firsts = [line.split()[0] for line in text.plain.splitlines() if line[:2] == "  " and line.split()]
        assert {str(node.number) for node in nodes} <= set(firsts)
    assert ("offline CPUs" in text.plain) == bool(machine.topology.offline)
    for kept in machine.isolation.kept:
        said = rf"{re.escape(short_cpus(kept.cpus))} kept from .*{kept.what.value}.* by {re.escape(kept.by)}"
        assert re.search(said, row(text, "isolation"))
    assert bool(machine.isolation.kept) == ("none" != row(text, "isolation"))


@given(st.cpu_sets())
def test_short_cpus_are_the_cpus(cpus: CpuSet) -> None:
    """A cpulist for people parses to the same CPUs, and is never longer than the kernel's."""
    text = short_cpus(cpus)
    assert cpus == CpuSet.parse(text)
    assert len(text) <= len(str(cpus))


@given(hs.integers(0, 9), hs.integers(1, 4), hs.integers(1, 5), hs.integers(7, 60))
def test_regular_cpus_are_one_stride(first: int, used: int, gap: int, times: int) -> None:
    """CPUs at equal distances are one item, and the text says that it needs a legend."""
    cpus = CpuSet(first + n * (used + gap) + m for n in range(times) for m in range(used))
    text = short_cpus(cpus)
    assert "," not in text
    assert has_strides(text)
    assert not has_strides(str(cpus))


@given(hs.lists(hs.text(max_size=60)), hs.integers(1, 50))
def test_wrapping_loses_nothing(texts: list[str], width: int) -> None:
    """Wrapped words are the words, whatever they are, in lines that fit."""
    pieces = [("".join(char for char in text if char.isprintable()), "bold") for text in texts]
    lines = wrapped(pieces, width, Text("> "), Text("  "))
    written = "".join(line.plain[2:] for line in lines).replace(" ", "")
    assert written == "".join(text for text, _ in pieces).replace(" ", "")
    # a letter of two columns needs them
    assert all(cell_len(line.plain) <= max(width, 4) for line in lines)


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0.0 bytes"), (2 * MIB, "2.0 MiB"), (201447940096, "187.6 GiB"), (3 << 41, "6.0 TiB")],
)
def test_amounts(size: int, words: str) -> None:
    """An amount has one decimal and the largest unit that it reaches."""
    assert words == bytes_words(size)


def test_packages_that_differ() -> None:
    """Where packages differ, each is named, or how many are alike where they are many."""
    cores = groups(*(str(cpu) for cpu in range(20)))
    lines = dict(five_lines(topology("0-19", cores, groups("0-11", "12-19"))))
    assert ("12 and 8", "12 and 8") == (lines["cores per package"], lines["logical CPUs per package"])
    lines = dict(five_lines(topology("0-19", cores, groups("0-3", "4-7", "8-11", "12-15", "16", "17-19"))))
    assert "4 in 4 packages, 3 in 1 package, 1 in 1 package" == lines["cores per package"]
    lines = dict(five_lines(topology("0-19", cores)))
    assert "not told by this machine; 20 cores in all" == lines["cores per package"]
    lines = dict(five_lines(topology("0-19", cores, groups("0-15"))))
    assert "1; not told for 4 CPUs (16-19)" == lines["packages"]


def test_siblings() -> None:
    """SMT that is on, mixed, switched off, not there, and hidden by offline CPUs are told apart."""
    pairs, singles = groups("0,2", "1,3"), groups("0", "1")
    four, two = topology("0-3", pairs), topology("0-1", singles)
    half = attrs.evolve(two, present=CpuSet.parse("0-3"))
    mixed = topology("0-3", groups("0-1", "2", "3"))
    torn = attrs.evolve(mixed, present=CpuSet.parse("0-4"))
    for machine, said, words in (
        (four, "on", "on, 2 threads per core"),
        (mixed, "on", "on, mixed: 1 core of 2 threads, 2 of 1"),
        (torn, "on", "on, mixed: 1 core of 2 threads, 2 of 1 (of some, siblings may be offline)"),
        (two, "notsupported", "not there, 1 thread per core"),
        (two, "on", "1 thread per core, though smt/control says on"),
        (two, "off", "off (smt/control says off), 1 thread per core online"),
        (two, "forceoff", "off until the next boot (smt/control says forceoff), 1 thread per core online"),
        (two, "1", "off (smt/control says 1), 1 thread per core online"),
        (two, None, "off or not there, 1 thread per core"),
        (half, "on", "on, but 1 thread per core online: siblings may be among the offline CPUs"),
        (half, None, "1 thread per core online: siblings may be among the offline CPUs"),
        (half, "off", "off (smt/control says off), 1 thread per core online"),
        (topology("0-3"), None, "not told by this machine"),
        (topology("0-3"), "on", "smt/control says on; threads per core not told"),
    ):
        assert words == smt(attrs.evolve(machine, smt=said))


def test_levels_that_say_nothing_are_left_out() -> None:
    """Clusters that are the cores go unsaid; levels of the same CPUs share a row; kinds have their cores."""
    cores = groups("0-1", "2-3", "4", "5")
    machine = attrs.evolve(
        topology("0-5", cores, groups("0-5")),
        clusters=groups("0-1", "2-3", "4-5"),
        l2=groups("0-1", "2-3", "4-5"),
        books=groups("0-5"),
        kinds=(
            CoreKind(name="P", cpus=CpuSet.parse("0-3")),
            CoreKind(name="E", cpus=CpuSet.parse("4-5")),
        ),
    )
    text = host_summary(host(machine))
    assert "1, of 2 CPUs; 2 more are a core each" == row(text, "clusters")
    assert "3, of 2 CPUs each" == row(text, "L2 caches")
    assert "not told by this machine" == row(text, "L3 caches")
    assert "P: 2 cores, 4 CPUs (0-3) E: 2 cores, 2 CPUs (4-5)" == row(text, "core kinds")
    assert "books" not in text.plain
    plain = host_summary(host(attrs.evolve(machine, clusters=cores, l2=cores))).plain
    assert "clusters" not in plain
    assert "4, one per core" in plain
    some = host_summary(host(attrs.evolve(machine, clusters=cores[:1], l2=groups("0-3", "4", "5"))))
    assert "clusters" not in some.plain
    assert "3: 1 with 4 CPUs, 2 with 1 CPU each" == row(some, "L2 caches")
    both = attrs.evolve(machine, clusters=groups("0-3", "4-5"), l2=groups("0-3", "4-5"))
    assert "2: 1 with 4 CPUs, 1 with 2 CPUs" == row(host_summary(host(both)), "clusters and L2 caches")


def nodes(count: int, near: int = 12) -> tuple[NumaNode, ...]:
    """NUMA nodes of one CPU each, in pairs that are near to each other."""
    return tuple(
        NumaNode(
            number=number,
            cpus=CpuSet([number]),
            memory_bytes=GIB,
            distances=tuple(
                (other, 10 if other == number else near if other // 2 == number // 2 else 32)
                for other in range(count)
            ),
            huge_pages=(HugePages(size_bytes=2 * MIB, total=number, free=0),),
        )
        for number in range(count)
    )


def test_distances_of_few_and_of_many_nodes() -> None:
    """Equal distances are a sentence, those of 8 nodes a matrix, those of 32 are told by groups."""
    few = attrs.evolve(topology("0-7"), nodes=nodes(8))
    lines = host_summary(host(few)).plain.splitlines()
    at = lines.index("NUMA distances")
    assert "  from, to   0   1   2   3   4   5   6   7" == lines[at + 1]
    assert "         7  32  32  32  32  32  32  12  10" == lines[at + 9]
    many = host_summary(host(attrs.evolve(topology("0-31"), nodes=nodes(32))))
    said = row(many, "NUMA distances")
    assert "12 within each of 16 groups of 2 (0-1; 2-3; ... 30-31), 32 otherwise" == said
    equal = host_summary(host(attrs.evolve(few, nodes=nodes(8, near=32))))
    assert "32 between any two nodes" == row(equal, "NUMA distance")
    assert "12 within 0-1; 2-3; 4-5; 6-7, 32 otherwise" == row(host_summary(host(few), 40), "NUMA distances")


def far(count: int, distance: Callable[[int, int], int | None]) -> Text:
    """The summary, in 40 columns, of nodes that are so far from each other."""
    found = tuple(
        attrs.evolve(
            node,
            distances=tuple(
                (other, told) for other in range(count) if (told := distance(node.number, other)) is not None
            ),
        )
        for node in nodes(count)
    )
    return host_summary(host(attrs.evolve(topology(f"0-{count - 1}"), nodes=found)), 40)


def test_distances_that_are_no_groups() -> None:
    """A ring is no groups: what differs is told of few nodes, what there is of many; a node apart is said first."""

    def ring(one: int, other: int) -> int:
        return 10 if one == other else 12 if abs(one - other) in {1, 7} else 14

    said = row(far(8, ring), "NUMA distances")
    assert said.startswith("14 between two nodes, but: from 0: 12 to 1,7; from 1: 12 to 0,2; ")
    said = row(far(20, ring), "NUMA distances")
    assert "12 or 14 between two nodes (--json has them all)" == said

    def apart(one: int, other: int) -> int:
        if one == other:
            return 10
        return 11 if 16 in {one, other} else 12 if one // 8 == other // 8 else 40 if one < other else 50

    said = row(far(17, apart), "NUMA distances")
    assert (
        "11 between 16 and any other, 12 within 0-7; 8-15, 40 or 50 otherwise (--json has them all)" == said
    )
    said = row(far(20, lambda one, other: 12 if one // 10 == other // 10 else None), "NUMA distances")
    assert "12 within 0-9; 10-19, untold otherwise" == said


@given(hs.lists(hs.integers(0, 2), min_size=17, max_size=24), hs.integers(12, 18))
def test_groups_of_near_nodes_are_true(keys: list[int], between: int) -> None:
    """The sentence on many nodes gives every distance back, to one who reads it from its beginning."""
    count = len(keys)

    def distance(one: int, other: int) -> int:
        return 10 if one == other else 15 if keys[one] == keys[other] else between

    if len({distance(one, other) for one in range(count) for other in range(one)}) == 1:
        return
    said = row(far(count, distance), "NUMA distances")
    for one in range(count):
        for other in range(one):
            for clause in re.split(r", (?=\d\d )", said.removesuffix(" (--json has them all)")):
                told, where = clause.split(" ", 1)
                if match := re.fullmatch(r"between (\d+) and any other", where):
                    holds = int(match[1]) in {one, other}
                elif where.startswith("within "):
                    near = (CpuSet.parse(group) for group in where.removeprefix("within ").split("; "))
                    holds = any({one, other} <= set(group) for group in near)
                else:
                    holds = True
                if holds:
                    break
            assert str(distance(one, other)) in re.findall(r"\d+", told) + re.findall(r"or (\d+)", where)


def test_many_nodes_share_rows() -> None:
    """More than 16 nodes have a row for those of equal size; what differs in each has a range, or is summed."""
    equal = tuple(
        attrs.evolve(node, huge_pages=(HugePages(size_bytes=2 * MIB, total=8, free=8),)) for node in nodes(20)
    )
    odd = NumaNode(number=20, cpus=CpuSet(), memory_bytes=None)
    machine = attrs.evolve(topology("0-19"), nodes=(*equal, odd))
    lines = host_summary(host(machine)).plain.splitlines()
    at = lines.index("NUMA nodes                21")
    assert [
        "  nodes  memory each  2 MiB free/all  CPUs each",
        "     20      1.0 GiB             8/8          1  nodes 0-19: CPUs 0-19; node 0",
        "                                                 has 0",
        "      1     not told               -       none  node 20",
    ] == lines[at + 1 : at + 5]
    differing = tuple(attrs.evolve(node, memory_bytes=(node.number + 1) * GIB) for node in nodes(20))
    lines = host_summary(host(attrs.evolve(machine, nodes=differing))).plain.splitlines()
    assert [
        "  nodes          memory each  CPUs each",
        "     20  1.0 GiB to 20.0 GiB          1  nodes 0-19: CPUs 0-19; node 0 has 0",
    ] == lines[at + 1 : at + 3]


def test_what_is_granted_here() -> None:
    """CPUs and memory nodes that the cgroup withholds are said with the cgroup; all of them are not worth a row."""
    machine = host(attrs.evolve(topology("0-3"), nodes=nodes(4)))
    every = Grant(cgroup="/sys/fs/cgroup/x", cpus=CpuSet.parse("0-3"), nodes=(0, 1, 2, 3))
    assert "granted here" not in host_summary(machine, 80, every).plain
    for words, grant in (
        ("CPUs 1-2", attrs.evolve(every, cpus=CpuSet.parse("1-2"))),
        ("memory of nodes 0,3", attrs.evolve(every, nodes=(0, 3))),
        ("CPUs 1 and memory of node 2", attrs.evolve(every, cpus=CpuSet([1]), nodes=(2,))),
    ):
        said = row(host_summary(machine, 120, grant), "granted here")
        assert f"only {words}, by the cgroup /sys/fs/cgroup/x" == said


def test_nodes_with_what_they_have_and_lack() -> None:
    """A node's row has its memory, huge pages and CPUs; no memory, no CPUs and what is not told have words."""
    machine = attrs.evolve(
        topology("0-3"),
        nodes=(
            NumaNode(
                number=0,
                cpus=CpuSet.parse("0-3"),
                memory_bytes=0,
                huge_pages=(
                    HugePages(size_bytes=2 * MIB, total=9, free=4),
                    HugePages(size_bytes=GIB, total=0, free=0),
                ),
            ),
            NumaNode(number=4, cpus=CpuSet(), memory_bytes=3 * GIB),
            NumaNode(number=250, cpus=CpuSet(), memory_bytes=None),
        ),
    )
    text = host_summary(host(machine))
    assert [
        "  node    memory  2 MiB free/all  CPUs",
        "     0      none             4/9     4  0-3",
        "     4   3.0 GiB               -  none",
        "   250  not told               -  none",
    ] == text.plain.splitlines()[9:13]
    assert "9 of 2 MiB, 4 free" == row(text, "huge pages")
    (first, *_) = machine.nodes
    alone = host_summary(host(attrs.evolve(machine, nodes=(attrs.evolve(first, huge_pages=()),))))
    assert "1 (node 0), memory: none" == row(alone, "NUMA nodes")
    assert "huge pages" not in alone.plain


def test_what_is_not_as_usual() -> None:
    """Offline and possible CPUs, who keeps CPUs from what, and doubts are said."""
    machine = attrs.evolve(
        topology("0-5"), present=CpuSet.parse("0-7"), possible=CpuSet.parse("0-15"), nodes=()
    )
    four = CpuSet.parse("4-5")
    kept = (
        Kept(cpus=four, what=KeptFrom.TICK, by="nohz_full=4-5"),
        Kept(cpus=four, what=KeptFrom.RCU, by="nohz_full=4-5"),
        Kept(cpus=CpuSet([5]), what=KeptFrom.OUTSIDERS, by="/sys/fs/cgroup/vms"),
    )
    text = host_summary(host(machine, Isolation(kept=kept, doubts=("isolcpus=9 was asked in vain",))))
    assert "6 online (0-5); 2 more offline" == row(text, "logical CPUs")
    assert "2 (6-7)" == row(text, "offline CPUs")
    assert "8 more could be plugged in (8-15)" == row(text, "possible CPUs")
    assert (
        "4-5 kept from the tick and RCU callbacks by nohz_full=4-5 "
        "5 kept from other cgroups by /sys/fs/cgroup/vms"
    ) == row(text, "isolation")
    assert "isolcpus=9 was asked in vain" == row(text, "in doubt")
    assert "not told by this machine" == row(text, "NUMA nodes")
