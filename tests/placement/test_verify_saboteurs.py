"""A placement that keeps every rule, and for each rule changes that break just that one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestCell, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.placement import GuestPlacement, Placement, ThreadPlacement
from kvmaff.placement.request import Demand, Held, PlacementRequest
from kvmaff.placement.verify import RULES, verify

from . import test_verify_saboteurs_where as where
from .placements import nodes_used, place

GIB = 1 << 30
ALL = CpuSet(range(34))
ONLINE = CpuSet(range(32))
HOST = Host(
    root="/generated",
    topology=Topology(
        possible=ALL,
        present=ALL,
        online=ONLINE,
        packages=(ONLINE,),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet([cpu, cpu + 1]) for cpu in range(0, 32, 2)),
        l2=(),
        l3=(),
        nodes=(
            NumaNode(number=0, cpus=CpuSet(range(16)), memory_bytes=8 * GIB),
            NumaNode(number=2, cpus=CpuSet(range(16, 32)), memory_bytes=8 * GIB),
        ),
    ),
    isolated=CpuSet([30, 31]),
    nohz_full=CpuSet(),
)


def spec(name: str, vcpus: int, **fields: Any) -> GuestSpec:
    """A dedicated guest, unless fields say otherwise."""
    policies = {"vcpu_policy": VcpuPolicy.DEDICATED, "emulator_policy": EmulatorPolicy.HOUSEKEEPING}
    return GuestSpec(name=name, vcpus=vcpus, **{**policies, **fields})


DB = Demand(spec=spec("db", 4, threads=2, thread_policy=ThreadPolicy.REQUIRE), pid=100, start=7)
RT = Demand(
    spec=spec("rt", 2, thread_policy=ThreadPolicy.ISOLATE, emulator_policy=EmulatorPolicy.ISOLATE),
    pid=101,
    start=8,
)
WEB = Demand(
    spec=GuestSpec(name="web", vcpus=3, iothreads=("a", "b"), memory_bytes=4 * GIB),
    allowed=CpuSet.parse("1-28,30-31"),
)
NUMA = Demand(
    spec=spec(
        "numa",
        4,
        cells=(GuestCell(vcpus=(0, 1), memory_bytes=2 * GIB), GuestCell(vcpus=(2, 3), memory_bytes=2 * GIB)),
    )
)
REQUEST = PlacementRequest(
    host=HOST,
    demands=(DB, RT, WEB, NUMA),
    held=(
        Held(name="old", cpus=CpuSet([24, 25]), dedicated=True),
        Held(name="legacy", cpus=CpuSet([26, 27]), dedicated=False, vcpus=2),
    ),
    reserved=CpuSet([0]),
    memory=((0, 8 * GIB), (2, 7 * GIB)),
)
GOOD = Placement(
    strategy="by hand",
    guests=(
        place(HOST, DB, ["2", "3", "4", "5"], "1,14-15"),
        place(HOST, RT, ["6", "8"], "10"),
        place(HOST, WEB, ["16-19"] * 3, "16-19"),
        place(HOST, NUMA, ["12", "13", "20", "21"], "14-15"),
    ),
)
VCPUS, OTHERS = "vcpus", "others"


def changed(guest: str, **fields: Any) -> Placement:
    """The good placement with other fields in one guest."""
    return attrs.evolve(
        GOOD, guests=tuple(attrs.evolve(g, **fields) if g.spec.name == guest else g for g in GOOD.guests)
    )


def of(guest: str) -> GuestPlacement:
    """A guest's place in the good placement."""
    return next(one for one in GOOD.guests if one.spec.name == guest)


def moved(guest: str, cpus: dict[Any, str]) -> Placement:
    """The good placement with other CPUs for a vCPU (its number), all of them, or all that are not vCPUs."""
    threads = []
    for thread in of(guest).threads:
        key = thread.index if thread.role is Role.VCPU else OTHERS
        to = cpus.get(key, cpus.get(VCPUS) if thread.role is Role.VCPU else None)
        threads.append(thread if to is None else attrs.evolve(thread, cpus=CpuSet.parse(to)))
    vcpus = CpuSet(cpu for thread in threads if thread.role is Role.VCPU for cpu in thread.cpus)
    return changed(guest, threads=tuple(threads), nodes=nodes_used(HOST.topology, vcpus))


def everything(cpus: str) -> dict[Any, str]:
    """All threads on some CPUs."""
    return {VCPUS: cpus, OTHERS: cpus}


def with_thread(guest: str, role: Role, index: int | None, cpus: str) -> Placement:
    """The good placement with one more thread."""
    more = ThreadPlacement(role=role, index=index, cpus=CpuSet.parse(cpus))
    return changed(guest, threads=(*of(guest).threads, more))


def without(guest: str, role: Role, index: int | None) -> Placement:
    """The good placement without a thread."""
    kept = tuple(t for t in of(guest).threads if (t.role, t.index) != (role, index))
    return changed(guest, threads=kept)


SABOTEURS: tuple[tuple[str, str | None, Placement, tuple[str, ...]], ...] = (
    ("shape", "db", changed("db", threads=("vCPU 0", *of("db").threads[1:])), ("threads[0]", "str")),
    ("shape", "web", changed("web", nodes="2"), ("nodes", "str")),
    ("shape", "web", changed("web", threads=list(of("web").threads)), ("threads", "list")),
    ("guests", "web", attrs.evolve(GOOD, guests=(*GOOD.guests[:2], GOOD.guests[3])), ("no place",)),
    ("guests", "web", attrs.evolve(GOOD, guests=(*GOOD.guests, of("web"))), ("2 places",)),
    (
        "guests",
        "who",
        attrs.evolve(GOOD, guests=(*GOOD.guests, attrs.evolve(of("rt"), spec=spec("who", 2)))),
        ("not in the request",),
    ),
    ("guests", "db", changed("db", pid=99), ("pid 100",)),
    ("guests", "db", changed("db", start=None), ("start 7",)),
    (
        "guests",
        "rt",
        changed("rt", spec=RT.spec.with_changes(thread_policy=ThreadPolicy.PREFER)),
        ("thread_policy",),
    ),
    ("guests", "web", changed("web", spec=WEB.spec.with_changes(memory_bytes=1)), ("memory_bytes",)),
    ("threads", "web", without("web", Role.VCPU, 2), ("vCPU 2",)),
    ("threads", "web", without("web", Role.IOTHREAD, 1), ("IOThread 1",)),
    ("threads", "db", without("db", Role.EMULATOR, None), ("emulator",)),
    ("threads", "rt", with_thread("rt", Role.EMULATOR, None, "10"), ("emulator", "CPU 10")),
    ("threads", "web", with_thread("web", Role.VCPU, 3, "16-19"), ("vCPU 3", "CPUs 16-19")),
    ("threads", "web", with_thread("web", Role.IOTHREAD, None, "16"), ("IOThread", "CPU 16")),
    ("threads", "db", with_thread("db", Role.OTHER, None, "1"), ("other", "CPU 1")),
    ("empty", "rt", moved("rt", {OTHERS: ""}), ("emulator", "without any CPU")),
    ("empty", "web", moved("web", {1: ""}), ("vCPU 1", "without any CPU")),
    ("online", "db", moved("db", {OTHERS: "1,32-33"}), ("emulator", "CPUs 32-33", "not online")),
    ("granted", "web", moved("web", everything("16-19,29")), ("vCPU 0-2", "CPU 29", "1-28,30-31")),
    ("reserved", "db", moved("db", {OTHERS: "0-1"}), ("emulator", "CPU 0")),
    ("isolated", "web", moved("web", everything("16-19,30")), ("vCPU 0-2", "CPU 30")),
    ("dedicated", "numa", moved("numa", {0: "11-12"}), ("vCPU 0", "CPUs 11-12")),
    ("dedicated", "numa", moved("numa", {1: "12"}), ("vCPU 0-1", "CPU 12")),
    ("dedicated", "numa", moved("web", everything("16-20")), ("vCPU 2", "CPU 20", "'web'")),
    ("dedicated", "db", moved("numa", {OTHERS: "5,14"}), ("vCPU 3", "CPU 5", "'numa'")),
    ("dedicated", "numa", moved("numa", {2: "26"}), ("vCPU 2", "CPU 26", "'legacy'")),
    ("dedicated", "web", moved("web", everything("16-19,24")), ("CPU 24", "'old'")),
    ("shared", "web", moved("web", {1: "16-18"}), ("vCPU 1", "CPUs 16-18", "CPUs 16-19")),
    ("siblings", "db", moved("db", {3: "11"}), ("vCPU 2-3", "CPUs 4,11")),
    ("siblings", "db", moved("db", {1: "4", 2: "3"}), ("vCPU 0-3", "CPUs 2-5")),
    ("siblings", "rt", moved("rt", {1: "7"}), ("vCPU 0-1", "CPUs 6-7")),
    ("siblings", "rt", moved("rt", {OTHERS: "9"}), ("emulator", "CPU 9")),
    ("siblings", "rt", moved("db", {OTHERS: "1,7"}), ("CPU 7", "'db'")),
    ("siblings", "rt", moved("rt", {1: "28"}), ("CPU 29", "'late'")),
    ("cells", "numa", moved("numa", {1: "22"}), ("vCPU 0-1", "CPUs 12,22", "nodes 0, 2", "cell 0")),
    ("memory", "web", changed("web", nodes=(0,)), ("CPUs 16-19", "node 2", "node 0")),
    ("memory", "web", changed("web", nodes=()), ("CPUs 16-19", "node 2", "no node")),
    ("memory", None, moved("numa", {0: "22", 1: "23"}), ("node 2", "'web'", "'numa'", str(8 * GIB))),
    ("emulator", "web", moved("web", {OTHERS: "22"}), ("emulator, IOThread 0-1, vhost", "CPU 22")),
    ("emulator", "rt", moved("rt", {OTHERS: "6"}), ("emulator", "CPU 6")),
    ("emulator", "rt", moved("rt", {OTHERS: "14"}), ("emulator", "CPU 14", "'db', 'numa'")),
    ("emulator", "rt", moved("rt", {OTHERS: "26"}), ("emulator", "CPU 26", "'legacy'")),
    ("emulator", "db", moved("db", {OTHERS: "1-2"}), ("emulator", "CPU 2")),
    ("emulator", "db", moved("db", {OTHERS: "31"}), ("emulator", "CPU 31")),
)


def test_good() -> None:
    """A placement that keeps every rule has no violation."""
    assert () == verify(REQUEST, GOOD)


def test_other_good() -> None:
    """Nor has one that is different where it may be: no vhost, vCPUs elsewhere, an order of its own."""
    lean = without("web", Role.VHOST, None)
    assert () == verify(REQUEST, lean)
    assert () == verify(REQUEST, attrs.evolve(GOOD, guests=GOOD.guests[::-1]))
    assert () == verify(REQUEST, moved("rt", {1: "22"}))


@pytest.mark.parametrize(
    ("rule", "guest", "placement", "words"),
    SABOTEURS,
    ids=[f"{rule}-{number}" for number, (rule, *_) in enumerate(SABOTEURS)],
)
def test_saboteur(rule: str, guest: str | None, placement: Placement, words: tuple[str, ...]) -> None:
    """A change that breaks one rule is reported under that rule alone, with the guest, its threads and its CPUs."""
    request = REQUEST
    if "'late'" in words:
        late = Held(name="late", cpus=CpuSet([29]), dedicated=False)
        request = attrs.evolve(REQUEST, held=(*REQUEST.held, late))
    violations = verify(request, placement)
    assert {(rule, guest)} == {(one.rule, one.guest) for one in violations}
    text = "\n".join(one.message for one in violations)
    assert [] == [word for word in (repr(guest) if guest else "", *words) if word not in text]


def test_every_rule_has_a_saboteur() -> None:
    """No rule is without one."""
    assert set(RULES) == {rule for rule, *_ in SABOTEURS} | {rule for _, rule, *_ in where.SABOTEURS}


def test_all_at_once() -> None:
    """Several broken rules are all reported, in order of the rules."""
    bad = moved("db", {OTHERS: "0,32"})
    bad = attrs.evolve(bad, guests=(*bad.guests[:2], *moved("web", {OTHERS: "22"}).guests[2:]))
    assert [("online", "db"), ("reserved", "db"), ("emulator", "web")] == [
        (one.rule, one.guest) for one in verify(REQUEST, bad)
    ]


# -- what is no violation, or one only on some machines


def test_a_strategy_may_promise_more() -> None:
    """A shared guest may be dedicated and its emulator kept apart; then it is held to that."""
    promised = WEB.spec.with_changes(
        vcpu_policy=VcpuPolicy.DEDICATED, emulator_policy=EmulatorPolicy.HOUSEKEEPING
    )
    demand = attrs.evolve(WEB, spec=promised)
    more = place(HOST, demand, ["16", "17", "18"], "1,22-23")
    guests = tuple(more if guest.spec.name == "web" else guest for guest in GOOD.guests)
    assert () == verify(REQUEST, attrs.evolve(GOOD, guests=guests))
    twice = attrs.evolve(more, threads=place(HOST, demand, ["16", "16", "18"], "1,22-23").threads)
    guests = tuple(twice if guest.spec.name == "web" else guest for guest in GOOD.guests)
    assert ["dedicated"] == [one.rule for one in verify(REQUEST, attrs.evolve(GOOD, guests=guests))]


def test_shared_cells() -> None:
    """A shared guest with NUMA cells has one set for each, so that both can be true."""
    cells = (GuestCell(vcpus=(0, 2)), GuestCell(vcpus=(1, 3)))
    demand = Demand(spec=GuestSpec(name="vnuma", vcpus=4, cells=cells))
    request = PlacementRequest(host=HOST, demands=(demand,))

    def rules(*vcpus: str) -> set[str]:
        placed = place(HOST, demand, vcpus, ",".join(vcpus))
        return {one.rule for one in verify(request, Placement(strategy="by hand", guests=(placed,)))}

    assert set() == rules("0-3", "16-19", "0-3", "16-19")
    assert set() == rules("0-3", "0-3", "0-3", "0-3")
    assert {"shared"} == rules("0-3", "16-19", "0-2", "16-19")
    assert {"cells"} == rules("0-3,16", "0-3,16", "0-3,16", "0-3,16")


def test_host_that_does_not_say() -> None:
    """Without nodes, cells may be anywhere; without cores, a PU has no siblings."""
    silent = attrs.evolve(HOST, topology=attrs.evolve(HOST.topology, nodes=(), cores=()))
    request = attrs.evolve(REQUEST, host=silent, memory=())
    guests = tuple(attrs.evolve(guest, nodes=()) for guest in moved("numa", {1: "22"}).guests)
    violations = verify(request, attrs.evolve(GOOD, guests=guests))
    assert {("siblings", "db")} == {(one.rule, one.guest) for one in violations}


def test_overlapping_nodes() -> None:
    """A CPU that two nodes name, as buggy firmware has it, is in the first: cells and memory are where that is."""
    first = NumaNode(number=1, cpus=CpuSet(range(16)), memory_bytes=8 * GIB)
    host = attrs.evolve(HOST, topology=attrs.evolve(HOST.topology, nodes=(HOST.topology.nodes[0], first)))
    cells = (GuestCell(vcpus=(0, 1), memory_bytes=3 * GIB),)
    demand = Demand(spec=spec("one", 2, cells=cells))
    request = PlacementRequest(host=host, demands=(demand,), memory=((0, 4 * GIB), (1, 0)))
    placed = attrs.evolve(place(host, demand, ["4", "5"], "1"), nodes=(0,))
    assert () == verify(request, Placement(strategy="by hand", guests=(placed,)))
    (only,) = verify(request, Placement(strategy="by hand", guests=(attrs.evolve(placed, nodes=(0, 1)),)))
    assert ("memory", "one") == (only.rule, only.guest)
    apart = attrs.evolve(place(host, demand, ["4", "20"], "1"), nodes=(0,))
    (only,) = verify(request, Placement(strategy="by hand", guests=(apart,)))
    assert ("cells", "one") == (only.rule, only.guest)  # no node names CPU 20: it is in none of the others


def test_only_who_is_in_the_way_is_named() -> None:
    """A message names the guests that are concerned, and many of them by number."""
    (only,) = verify(REQUEST, moved("web", everything("16-19,24")))
    assert "'old'" in only.message
    assert "'legacy'" not in only.message
    crowd = tuple(Held(name=f"held{number}", cpus=CpuSet([28]), dedicated=False) for number in range(9))
    (only,) = verify(attrs.evolve(REQUEST, held=crowd), moved("numa", {2: "28"}))
    assert "'held3' and 5 more" in only.message
    fewer = verify(REQUEST, moved("db", {3: "11"}))
    assert all("vCPU 2-3 on CPUs 4,11" in one.message for one in fewer)


@pytest.mark.parametrize(
    ("memory", "free", "fits"),
    [(3 * GIB, (GIB, 2 * GIB), True), (3 * GIB + 1, (GIB, 2 * GIB), False), (9 * GIB, (3 * GIB, None), True)],
)
def test_memory_goes_with_vcpus(memory: int, free: tuple[int, int | None], fits: bool) -> None:
    """Without cells memory is spread as vCPUs are, rounded up; a node of which nothing is said takes any."""
    demand = Demand(spec=spec("wide", 3, memory_bytes=memory))
    told = tuple((node, size) for node, size in zip((0, 2), free, strict=True) if size is not None)
    request = PlacementRequest(host=HOST, demands=(demand,), memory=told)
    placed = place(HOST, demand, ["4", "16", "17"], "1")
    violations = verify(request, Placement(strategy="by hand", guests=(placed,)))
    assert fits == (not violations)
    assert {"memory"} >= {one.rule for one in violations}
    runs = attrs.evolve(demand, pid=1, start=1)
    there = Placement(strategy="by hand", guests=(attrs.evolve(placed, pid=1, start=1),))
    assert () == verify(attrs.evolve(request, demands=(runs,)), there)
