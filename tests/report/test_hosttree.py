"""Host -> its levels, drawn one inside the other."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as hs
from rich.cells import cell_len

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.host.isolation import Isolation, Kept, KeptFrom
from kvmaff.host.reader import Host, read_host
from kvmaff.host.topology import CoreKind, NumaNode, Topology
from kvmaff.report.hostsummary import host_summary
from kvmaff.report.hosttree import host_tree
from kvmaff.report.parts import Part, nested
from kvmaff.testing import inputs_hosts as st

from ..conftest import HOSTS
from .test_hostsummary import groups, host, topology

RECORDED = sorted(HOSTS.glob("*.tar.xz"))
CORES = re.compile(
    r"(?:(\d+) x )?(?:.* )?core(?: \([^)]*\))?(?: of (?P<size>\d+) PUs?)?"
    r"(?:, siblings (?P<step>\d+|adjacent)(?: apart)?)?(?:(?:: | )(?P<cpus>[\d,:/ -]+))?"
)


def vm(name: str, *threads: tuple[Role, int | None, str, int | None], verified: bool = True) -> Guest:
    """A guest whose threads are (role, index, mask, CPU it ran on last)."""
    return Guest(
        name=name,
        uuid=None,
        pid=7,
        start=1,
        seen=2,
        vmm="qemu",
        kvm=True,
        verified=verified,
        why=None if verified else "nobody knows",
        doubt=None,
        threads=tuple(
            GuestThread(
                pid=7,
                tid=at,
                ino=at,
                start=1,
                role=role,
                index=index,
                name="x",
                mask=CpuSet.parse(mask),
                cpu=cpu,
            )
            for at, (role, index, mask, cpu) in enumerate(threads, 7)
        ),
    )


def grid(packages: int, l3: int, cores: int) -> Topology:
    """A machine of equal parts, two PUs a core, siblings far apart, a NUMA node a package."""
    count = packages * l3 * cores
    pairs = [CpuSet([core, core + count]) for core in range(count)]

    def level(size: int) -> tuple[CpuSet, ...]:
        return tuple(CpuSet.union_of(pairs[start : start + size]) for start in range(0, count, size))

    return attrs.evolve(
        topology(f"0-{2 * count - 1}", tuple(pairs), level(l3 * cores)),
        l2=tuple(pairs),
        l3=level(cores),
        nodes=tuple(
            NumaNode(number=number, cpus=cpus, memory_bytes=number + 1 << 30)
            for number, cpus in enumerate(level(l3 * cores))
        ),
    )


def parts_of(part: Part) -> Iterator[Part]:
    """A part and all inside of it."""
    yield part
    for inside in part.parts:
        yield from parts_of(inside)


def drawn(machine: Host, *guests: Guest, width: int = 80) -> list[str]:
    """The lines of a tree."""
    return host_tree(machine, guests, width).plain.splitlines()


def cores_read(lines: list[str]) -> list[CpuSet]:
    """The cores that a tree without "each" stands for, as a person would take them."""
    found, above = [], {0: CpuSet.parse(lines[0].partition(": ")[2])}
    for line in lines[1 : lines.index("") if "" in lines else None]:
        text = line.lstrip("│├└─ ").partition("  [")[0]
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 3
        match = CORES.fullmatch(text)
        if match is None:
            listed = text.partition(" PU")[2].partition(": ")[2]
            above[depth] = CpuSet.parse(listed) if listed else above[depth - 1]
            continue
        cpus = (
            [CpuSet.parse(one) for one in match["cpus"].split("  ")] if match["cpus"] else [above[depth - 1]]
        )
        if not match["size"] or len(cpus) > 1:
            found += cpus
            continue
        assert len(cpus[0]) == int(match["size"]) * int(match[1])
        step = 1 if match["step"] in {None, "adjacent"} else int(match["step"])
        while cpus[0]:
            found.append(CpuSet(cpus[0].first + n * step for n in range(int(match["size"]))))
            assert found[-1] <= cpus[0]
            cpus[0] -= found[-1]
    return found


@given(st.hosts() | st.overlapping())
def test_what_holds_what(made: Host) -> None:
    """Parts lie inside of each other and side by side, and every group of CPUs is a part or the sum of several."""
    machine = made.topology
    whole = nested(machine)
    assert machine.online == whole.cpus
    for part in parts_of(whole):
        if part.parts:
            assert part.cpus == CpuSet.union_of(inside.cpus for inside in part.parts)
            assert len(part.cpus) == sum(len(inside.cpus) for inside in part.parts)
        assert [inside.cpus.first for inside in part.parts] == sorted(
            inside.cpus.first for inside in part.parts
        )
    named: dict[str, list[CpuSet]] = {}
    for part in parts_of(whole):
        for level, number in part.levels:
            key = level.removeprefix("part of ") + ("" if number is None else f" {number}")
            named.setdefault(key, []).append(part.cpus)
    assert machine.packages == tuple(sorted(named["package"], key=lambda cpus: cpus.first))
    assert list(machine.cores) == sorted(named.get("core", []), key=lambda cpus: cpus.first)
    for node in machine.nodes:
        assert node.cpus == CpuSet.union_of(named.get(f"NUMA node {node.number}", []))
    assert CpuSet.union_of(machine.l3) == CpuSet.union_of(named.get("L3", []))


@given(st.hosts())
def test_every_core_is_drawn_once(machine: Host) -> None:
    """A person who reads the tree and unfolds what is folded finds the cores of the machine, each once."""
    lines = drawn(machine, width=10_000)
    assume(machine.topology.cores)
    assume(not any("each: " in line for line in lines))
    assert sorted(map(str, machine.topology.cores)) == sorted(map(str, cores_read(lines)))


@given(st.hosts() | st.overlapping(), hs.integers(0, 200), hs.booleans())
def test_a_tree_of_any_machine_fits(machine: Host, width: int, ascii_only: bool) -> None:
    """Any machine can be drawn, in lines that fit from 40 columns, end in no blanks, and are ASCII where asked."""
    guests = [
        vm("имя" * 30, (Role.VCPU, 3, str(machine.topology.online.first), 0), verified=False),
        vm("[bold]", (Role.VCPU, 0, str(machine.topology.online), machine.topology.online.last)),
    ]
    for text in (
        host_tree(machine, guests, width, ascii_only=ascii_only).plain,
        host_tree(machine, (), width, ascii_only=ascii_only).plain,
    ):
        for line in text.splitlines():
            assert cell_len(line) <= max(width, 40)
            assert line == line.rstrip()
    assert text.isascii() or not ascii_only


@given(st.hosts())
def test_isolated_and_offline_cpus_are_marked(machine: Host) -> None:
    """A legend and marks are there exactly where a CPU is isolated; offline CPUs have a line of their own."""
    lines = drawn(machine, width=10_000)
    tree = lines[: lines.index("")] if "" in lines else lines
    legend = lines[len(tree) :]
    assert bool(machine.isolation.unbalanced) == any("isolated" in line for line in tree)
    assert bool(machine.isolation.unbalanced) == any(line.startswith("isolated ") for line in legend)
    for kept in machine.isolation.kept:
        assert any(f"kept from {kept.what} by " in line and kept.by in line for line in legend)
    assert bool(machine.topology.offline) == any("offline: " in line for line in tree)


def test_two_cpus() -> None:
    """The smallest machine is three lines."""
    machine = attrs.evolve(topology("0-1", groups("0", "1"), groups("0-1")), l3=groups("0-1"))
    assert ["2 PUs online: 0-1", "└─ package + L3", "   └─ 2 x core of 1 PU"] == drawn(host(machine))


def test_a_hybrid() -> None:
    """Cores of two kinds are named and not folded together; the clusters of E cores share an L2."""
    machine = attrs.evolve(
        topology("0-7", groups("0-1", "2-3", "4", "5", "6", "7"), groups("0-7")),
        l3=groups("0-7"),
        l2=groups("0-1", "2-3", "4-7"),
        clusters=groups("0-1", "2-3", "4-7"),
        kinds=(
            CoreKind(name="P", cpus=CpuSet.parse("0-3")),
            CoreKind(name="capacity 512", cpus=CpuSet.parse("4-7")),
        ),
    )
    assert [
        "8 PUs online: 0-7",
        "└─ package + L3",
        "   ├─ 2 x L2 + P core of 2 PUs, siblings adjacent: 0-3",
        "   └─ cluster + L2, 4 PUs: 4-7",
        "      └─ 4 x core (capacity 512) of 1 PU",
    ] == drawn(host(machine))


def test_offline_cpus_and_nodes_without_cpus() -> None:
    """What has no online CPU stands at the end; a core that lost a sibling is not like the others."""
    machine = attrs.evolve(
        topology("0-2,4-5", groups("0,4", "1,5", "2"), groups("0-2,4-5")),
        present=CpuSet.parse("0-7"),
        nodes=(
            NumaNode(number=0, cpus=CpuSet.parse("0-2,4-5"), memory_bytes=None),
            NumaNode(number=2, cpus=CpuSet(), memory_bytes=1 << 30),
            NumaNode(number=3, cpus=CpuSet(), memory_bytes=1 << 31),
        ),
    )
    assert [
        "5 PUs online: 0-2,4-5",
        "├─ package + NUMA node 0, 5 PUs: 0-2,4-5",
        "│  ├─ 2 x core of 2 PUs, siblings 4 apart: 0-1,4-5",
        "│  └─ core 2",
        "├─ NUMA nodes 2-3 (3.0 GiB), no CPU online",
        "└─ offline: 3 CPUs (3,6-7)",
    ] == drawn(host(machine))


def test_nodes_and_packages_hold_each_other_either_way() -> None:
    """A node may hold packages, a package nodes; a node that crosses packages is drawn in parts; nodes may overlap."""
    cores = groups(*map(str, range(4)))
    two = topology("0-3", cores, groups("0-1", "2-3"))

    def lines(*cpulists: str) -> list[str]:
        found = tuple(
            NumaNode(number=number, cpus=CpuSet.parse(cpus), memory_bytes=None)
            for number, cpus in enumerate(cpulists)
        )
        return drawn(host(attrs.evolve(two, nodes=found)))[1:]

    assert [
        "└─ NUMA node 0",
        "   ├─ package, 2 PUs: 0-1",
        "   │  └─ 2 x core of 1 PU",
        "   └─ package, 2 PUs: 2-3",
        "      └─ 2 x core of 1 PU",
    ] == lines("0-3")
    assert "│  ├─ NUMA node 0 + core 0" == lines("0", "1", "2-3")[1]
    crossing = lines("0,2", "1,3")
    assert ["│  ├─ part of NUMA node 0 + core 0", "│  └─ part of NUMA node 1 + core 1"] == crossing[1:3]
    assert "├─ package + NUMA nodes 0-1, 2 PUs: 0-1" == lines("0-1", "0-1", "2-3")[0]
    assert "├─ package + part of NUMA node 1, 2 PUs: 0-1" == lines("0", "0-2")[0]
    pairs = attrs.evolve(two, cores=groups("0-1", "2-3"))
    across = attrs.evolve(pairs, nodes=(NumaNode(number=3, cpus=CpuSet.parse("1-2"), memory_bytes=None),))
    assert [
        "├─ package + core, 2 PUs: 0-1",
        "│  ├─ PU 0",
        "│  └─ part of NUMA node 3, 1 PU: 1",
    ] == drawn(host(across))[1:4]


def test_isolated_cores_are_not_folded_with_others() -> None:
    """Marks part cores that are alike otherwise; a legend says what they mean, and whose doing it is."""
    four = CpuSet.parse("4-7,12-15")
    kept = (
        Kept(cpus=four, what=KeptFrom.BALANCING, by="isolcpus=4-7,12-15"),
        Kept(cpus=CpuSet.parse("6,14,15"), what=KeptFrom.TICK, by="nohz_full=6,14,15"),
    )
    assert [
        "16 PUs online: 0-15",
        "└─ package + NUMA node 0 (1.0 GiB) + L3",
        "   ├─ 4 x L2 + core of 2 PUs, siblings 8 apart: 0-3,8-11",
        "   ├─ 2 x L2 + core of 2 PUs, siblings 8 apart: 4-5,12-13  [isolated]",
        "   ├─ L2 + core 6,14  [isolated, no-tick]",
        "   └─ L2 + core 7,15  [isolated, no-tick 15]",
        "",
        "isolated  kept from load balancing by isolcpus=4-7,12-15",
        "no-tick   kept from the tick by nohz_full=6,14,15",
    ] == drawn(host(grid(1, 1, 8), Isolation(kept=kept)))


def test_threads_of_guests() -> None:
    """A PU has the threads that are bound to it, and those that ran there last; names are never markup."""
    web = vm(
        "web",
        (Role.VCPU, 0, "0", 0),
        (Role.VCPU, 1, "4", 1),
        (Role.EMULATOR, None, "1", 1),
        (Role.EMULATOR, None, "1", 1),
        (Role.EMULATOR, None, "0-7", 2),
        (Role.IOTHREAD, 0, "2-3", None),
    )
    odd = vm("[red]x[/]", (Role.VCPU, 0, "0-7", 4), (Role.VCPU, 1, "0-7", 99), verified=False)
    machine = host(grid(1, 1, 4))
    text = host_tree(machine, [web, odd])
    assert [
        "8 PUs online: 0-7",
        "└─ package + NUMA node 0 (1.0 GiB) + L3",
        "   ├─ L2 + core 0,4",
        "   │  ├─ PU 0  bound: web vcpu 0",
        "   │  └─ PU 4  bound: web vcpu 1  last: [red]x[/] (?) vcpu 0",
        "   ├─ L2 + core 1,5",
        "   │  └─ PU 1  bound: web emulator x2",
        "   └─ 2 x L2 + core of 2 PUs, siblings 4 apart: 2-3,6-7",
        "",
        "bound  threads of guests that may run nowhere else",
        "last   threads of guests that ran there last, and may run elsewhere",
        "(?)    not proved to be a guest",
    ] == text.plain.splitlines()
    single = attrs.evolve(topology("0-1", groups("0", "1")), l3=groups("0-1"))
    lines = drawn(host(single), vm("web", (Role.VCPU, 0, "0", 0)))
    assert "   ├─ core 0  bound: web vcpu 0" == lines[2]
    assert "bound  threads of guests that may run nowhere else" == lines[-1]


@pytest.mark.parametrize(("packages", "l3", "cores"), [(2, 8, 16), (1, 1, 256), (64, 1, 4), (4, 16, 16)])
def test_large_machines_are_folded(packages: int, l3: int, cores: int) -> None:
    """Machines of 512 and 2,048 CPUs stay below 60 lines, also with a few PUs that are isolated or carry guests."""
    machine = grid(packages, l3, cores)
    assert len(machine.online) in {512, 2048}
    assert len(drawn(host(machine))) < 30
    some = CpuSet.union_of(machine.cores[4:8])
    kept = Isolation(kept=(Kept(cpus=some, what=KeptFrom.BALANCING, by="isolcpus=4-7"),))
    lines = drawn(host(machine, kept), vm("web", (Role.VCPU, 0, "6", 6)))
    assert len(lines) < 60
    assert any("core" in line and line.endswith("[isolated]") for line in lines)


def test_a_machine_of_512_cpus() -> None:
    """Equal L3 groups share a line that lists them all."""
    assert [
        "512 PUs online: 0-511",
        "├─ package + NUMA node 0 (1.0 GiB), 256 PUs: 0-127,256-383",
        "│  └─ 8 x L3 of 32 PUs: 0-15,256-271  16-31,272-287  32-47,288-303  48-63,",
        "│     │  304-319  64-79,320-335  80-95,336-351  96-111,352-367  112-127,368-383",
        "│     └─ each: 16 x L2 + core of 2 PUs, siblings 256 apart",
    ] == drawn(host(grid(2, 8, 16)))[:5]


def test_many_folded_parts_are_not_all_listed() -> None:
    """Of more than 24 parts, two and the last are listed; as ASCII, without the one character that is not."""
    machine = host(grid(1, 30, 2))
    line = next(line for line in drawn(machine, width=200) if "30 x L3" in line)
    assert "└─ 30 x L3 of 4 PUs: 0-1,60-61  2-3,62-63  …  58-59,118-119" == line.strip()
    plain = host_tree(machine, (), 200, ascii_only=True).plain
    assert "`- 30 x L3 of 4 PUs: 0-1,60-61  2-3,62-63  ...  58-59,118-119" in plain
    (line,) = (line for line in drawn(host(grid(1, 24, 2)), width=800) if "24 x L3" in line)
    assert 24 == line.count(",") == line.count("  ") + 1 - line.index("└") // 2


def fleet(count: int, mask: str | None = None) -> list[Guest]:
    """Guests of 8 vCPUs, each on CPUs of its own; bound there where no mask is said."""
    return [
        vm(
            f"guest-{number:03}",
            *((Role.VCPU, at, mask or str(number * 8 + at), number * 8 + at) for at in range(8)),
        )
        for number in range(count)
    ]


def test_threads_move_to_the_line_of_their_core() -> None:
    """Where PUs with lines of their own would be too many, their core's line has them, and nothing is left out."""
    lines = drawn(host(grid(1, 1, 16)), *fleet(4), width=120)
    assert "   ├─ L2 + core 0,16  PU 0 bound: guest-000 vcpu 0  PU 16 bound: guest-002 vcpu 0" == lines[2]
    assert ["", "bound  threads of guests that may run nowhere else"] == lines[18:]
    lines = drawn(host(grid(1, 1, 16)), *fleet(4, "0-31"), width=120)
    assert "   ├─ L2 + core 0,16  PU 0 last: guest-000 vcpu 0  PU 16 last: guest-002 vcpu 0" == lines[2]
    assert 20 == len(lines)


def test_guests_of_a_machine_of_512_cpus() -> None:
    """Bound threads are told by node where they are many; where threads ran last is left out, and that is said."""
    machine = host(grid(8, 4, 8))
    lines = drawn(machine, *fleet(64), width=100)
    assert len(lines) < 64
    text = " ".join(line.strip("│├└─ ") for line in lines)
    assert (
        "package + NUMA node 0 (1.0 GiB), 64 PUs: 0-31,256-287  bound: vcpu 0-7 of guest-000, guest-001, guest-002, "
        "guest-003, guest-032, guest-033, guest-034, guest-035 4 x L3 of 16 PUs: "
    ) in text
    assert [1] * 64 == [text.count(f"guest-{number:03}") for number in range(64)]
    assert (
        "bound  threads of guests that may run on one CPU only, which is there (kvmaff guests has which)"
        == lines[-1]
    )
    floating = drawn(machine, *fleet(64, "0-511"))
    assert [
        *drawn(machine),
        "",
        "left out  512 more threads of guests that may run on several CPUs (kvmaff guests",
    ] == (floating[:-1])


def test_few_bound_threads_among_many_that_are_not() -> None:
    """Where leaving out where threads ran last is enough, bound threads keep their PUs."""
    lines = drawn(host(grid(8, 4, 8)), vm("web", (Role.VCPU, 0, "0", 0)), *fleet(64, "0-511"), width=120)
    assert any(line.endswith("L2 + core 0,256  PU 0 bound: web vcpu 0") for line in lines)
    assert "bound     threads of guests that may run nowhere else" in lines
    assert lines[-1].startswith("left out  512 more threads")


def test_guests_of_a_machine_of_2048_cpus() -> None:
    """Guests that are too many to be named are counted, and parts that carry as many share a line."""
    lines = drawn(host(grid(16, 8, 8)), *fleet(256))
    assert len(lines) < 20
    assert any(line.endswith("each bound: 16 threads of 2 guests") for line in lines)
    some = drawn(host(grid(16, 8, 8)), *fleet(3), width=120)
    assert any(line.endswith("PU 23 bound: guest-002 vcpu 7") or "core 23,1047" in line for line in some)
    flat = attrs.evolve(topology("0-511", groups(*map(str, range(512)))), packages=(), nodes=())
    lines = drawn(host(flat), *fleet(64))
    assert "512 PUs online: 0-511  bound: 512 threads of 64 guests" == lines[0]
    assert "└─ 512 x core of 1 PU" == lines[1]


@given(st.hosts() | st.overlapping(), hs.integers(1, 40), hs.booleans())
def test_a_tree_with_many_guests_stays_short(machine: Host, times: int, bound: bool) -> None:
    """However many guests there are, the tree is not longer than it may be, and counts every bound thread."""
    online = machine.topology.online
    guests = [
        vm(
            f"g{number}",
            *((Role.VCPU, at, str(cpu if bound else online), cpu) for at, cpu in enumerate(online)),
        )
        for number in range(times)
    ]
    lines = drawn(machine, *guests, width=10_000)
    assert len(lines) <= max(64, len(drawn(machine, width=10_000))) + 10
    assert bound == any("bound: " in line for line in lines) or len(online) == 1


@pytest.mark.skipif(not RECORDED, reason="the recorded machines are not beside this checkout")
@pytest.mark.parametrize("archive", RECORDED, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_recorded_machines(archive: Path, tmp_path: Path) -> None:
    """Every recorded machine has a summary and a tree that fit a terminal."""
    with tarfile.open(archive) as packed:
        # Debian 12's own Python has no filters yet; the archives are ours
        packed.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    machine = read_host(tmp_path / archive.name.removesuffix(".tar.xz"))
    lines = drawn(machine)
    assert len(lines) < 40
    assert lines[0] == f"{len(machine.topology.online)} PUs online: {machine.topology.online}"
    assert all(len(line) <= 80 for line in [*lines, *host_summary(machine).plain.splitlines()])
