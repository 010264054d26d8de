"""The rules about the host's order, about guests beside each other and about mixed guests: each broken alone."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import Affinity, EmulatorPolicy, GuestSpec, Place, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import CoreKind, NumaNode, Topology
from kvmaff.placement.moves import Moves
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import Demand, Held, PlacementRequest, Pool
from kvmaff.placement.verify import verify

from .placements import nodes_used, place

ALL = CpuSet(range(32))
HOST = Host(
    root="/generated",
    topology=Topology(
        possible=ALL,
        present=ALL,
        online=ALL,
        packages=(ALL,),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet([cpu, cpu + 1]) for cpu in range(0, 32, 2)),
        l2=(),
        l3=tuple(CpuSet(range(cpu, cpu + 8)) for cpu in range(0, 32, 8)),
        nodes=(
            NumaNode(number=0, cpus=CpuSet(range(16)), memory_bytes=1 << 33),
            NumaNode(number=1, cpus=CpuSet(range(16, 32)), memory_bytes=1 << 33),
        ),
        kinds=(CoreKind(name="P", cpus=CpuSet(range(24))), CoreKind(name="E", cpus=CpuSet(range(24, 32)))),
    ),
    isolated=CpuSet([1]),
    nohz_full=CpuSet(),
)


def demand(name: str, vcpus: int, **fields: Any) -> Demand:
    """A guest to come."""
    return Demand(spec=GuestSpec(name=name, vcpus=vcpus, **fields))


MIX = demand(
    "mix",
    4,
    vcpu_policy=VcpuPolicy.MIXED,
    dedicated_vcpus=(0, 1),
    thread_policy=ThreadPolicy.REQUIRE,
    iothreads=("a", "b"),
    iothread_policy=EmulatorPolicy.ISOLATE,
)
ISO = demand("iso", 2, vcpu_policy=VcpuPolicy.MIXED, dedicated_vcpus=(0,), thread_policy=ThreadPolicy.ISOLATE)
NEAR = demand(
    "near",
    2,
    core_kind="any",
    iothreads=("x",),
    iothread_policy=EmulatorPolicy.HOUSEKEEPING,
    affinity=(Affinity(guest="mix", level=Place.L3),),
)
RED = demand(
    "red",
    2,
    vcpu_policy=VcpuPolicy.DEDICATED,
    emulator_policy=EmulatorPolicy.HOUSEKEEPING,
    trust_domain="red",
)
LEAN = demand(
    "lean",
    2,
    vcpu_policy=VcpuPolicy.DEDICATED,
    core_kind="E",
    anti_affinity=(Affinity(guest="near", level=Place.L3),),
)
FAST = demand("fast", 4, pool="quick")
QUICK = Pool(name="quick", cpus=CpuSet(range(16, 24)), overcommit=500)
REQUEST = PlacementRequest(
    host=HOST,
    demands=(MIX, ISO, NEAR, RED, LEAN, FAST),
    pools=(QUICK,),
    overcommit=385,  # 5 vCPUs on 13 CPUs that are nobody's alone: one more would be too many
)


def put(demand: Demand, vcpus: tuple[str, ...], others: str, *ios: str) -> GuestPlacement:
    """A guest's place, its IOThreads each by itself."""
    found = place(HOST, demand, vcpus, others)
    threads = [
        attrs.evolve(thread, cpus=CpuSet.parse(ios[thread.index or 0]))
        if thread.role is Role.IOTHREAD
        else thread
        for thread in found.threads
    ]
    return attrs.evolve(found, threads=tuple(threads))


GOOD = Placement(
    strategy="by hand",
    guests=(
        put(MIX, ("2", "3", "4-7", "4-7"), "4-7", "8", "14"),
        put(ISO, ("28", "30-31"), "30-31"),
        put(NEAR, ("4-5", "4-5"), "4-5", "0"),
        put(RED, ("10", "11"), "0"),
        put(LEAN, ("24", "25"), "24-25"),
        put(FAST, ("16-19",) * 4, "16-19"),
    ),
)


def moved(guest: str, cpus: str, *keys: tuple[Role, int | None]) -> Placement:
    """The good placement with other CPUs for some threads of a guest; where none is named, for all but IOThreads."""

    def after(one: GuestPlacement) -> GuestPlacement:
        threads = tuple(
            attrs.evolve(thread, cpus=CpuSet.parse(cpus))
            if (thread.role, thread.index) in keys or (not keys and thread.role is not Role.IOTHREAD)
            else thread
            for thread in one.threads
        )
        vcpus = CpuSet(cpu for thread in threads if thread.role is Role.VCPU for cpu in thread.cpus)
        return attrs.evolve(one, threads=threads, nodes=nodes_used(HOST.topology, vcpus))

    return attrs.evolve(
        GOOD, guests=tuple(after(one) if one.spec.name == guest else one for one in GOOD.guests)
    )


def vcpu(index: int) -> tuple[Role, int | None]:
    """The key of a vCPU."""
    return Role.VCPU, index


def io(index: int) -> tuple[Role, int | None]:
    """The key of an IOThread."""
    return Role.IOTHREAD, index


EMULATOR = ((Role.EMULATOR, None), (Role.VHOST, None))
BLUE = Held(name="blue", cpus=CpuSet([13]), dedicated=False, trust_domain="blue")
AT_HOME = attrs.evolve(
    REQUEST,
    demands=tuple(
        attrs.evolve(one, now=guest) for one, guest in zip(REQUEST.demands, GOOD.guests, strict=True)
    ),
)
SABOTEURS: tuple[tuple[PlacementRequest, str, str | None, Placement, tuple[str, ...]], ...] = (
    (REQUEST, "pool", "fast", moved("fast", "15-19"), ("vCPU 0-3", "CPU 15", "'quick'")),
    (REQUEST, "pool", "near", moved("near", "4-5,20"), ("vCPU 0-1", "CPU 20", "not its own")),
    (REQUEST, "pool", "red", moved("red", "22", *EMULATOR), ("emulator", "CPU 22", "not its own")),
    (AT_HOME, "moves", None, moved("fast", "16-18"), ("'fast'", "1 guest,", "the budget of 0")),
    (
        attrs.evolve(AT_HOME, moves=Moves(guests=1, vcpus=3)),
        "moves",
        None,
        moved("fast", "16-18"),
        ("'fast'", "4 vCPUs", "the budget of 3"),
    ),
    (
        attrs.evolve(
            AT_HOME,
            demands=(*AT_HOME.demands[:-1], attrs.evolve(AT_HOME.demands[-1], memory=((1, 5),))),
            moves=Moves(guests=1, memory_bytes=4),
        ),
        "moves",
        None,
        moved("fast", "16-18"),
        ("'fast'", "5 bytes", "the budget of 4"),
    ),
    (
        attrs.evolve(REQUEST, overcommit=384),
        "overcommit",
        None,
        GOOD,
        ("5 vCPUs", "13 CPUs", "in no pool", "0.384"),
    ),
    (
        attrs.evolve(REQUEST, pools=(attrs.evolve(QUICK, overcommit=499),)),
        "overcommit",
        None,
        GOOD,
        ("4 vCPUs", "8 CPUs", "'quick'", "0.499"),
    ),
    (REQUEST, "core_kind", "lean", moved("lean", "12", vcpu(0), *EMULATOR), ("CPU 12", "'E'")),
    (REQUEST, "core_kind", "red", moved("red", "26", vcpu(1)), ("CPUs 10,26", "of the kinds")),
    (REQUEST, "trust_domain", "red", moved("red", "15", vcpu(1)), ("'mix'", "another trust domain")),
    (
        attrs.evolve(REQUEST, held=(BLUE,)),
        "trust_domain",
        "red",
        moved("red", "12", vcpu(1)),
        ("'blue'", "another trust domain"),
    ),
    (REQUEST, "affinity", "near", moved("near", "12-13"), ("vCPU 0-1", "CPUs 12-13", "l3", "'mix'")),
    (REQUEST, "affinity", "lean", moved("near", "4-5,30"), ("vCPU 0-1", "CPUs 24-25", "l3", "'near'")),
    (REQUEST, "shared", "mix", moved("mix", "4-6", vcpu(3)), ("vCPU 3", "CPUs 4-6", "mixed", "CPUs 4-7")),
    (REQUEST, "dedicated", "mix", moved("near", "3-5"), ("vCPU 1", "CPU 3", "'near'")),
    (REQUEST, "siblings", "mix", moved("mix", "12", vcpu(1)), ("vCPU 0-1", "CPUs 2,12")),
    (REQUEST, "siblings", "iso", moved("iso", "29-31", vcpu(1), *EMULATOR), ("vCPU 1", "CPU 29")),
    (REQUEST, "emulator", "iso", moved("iso", "28", *EMULATOR), ("CPU 28", "CPUs 30-31", "policy share")),
    (REQUEST, "emulator", "mix", moved("mix", "8", io(1)), ("IOThread 0-1", "CPU 8", "of its own")),
    (
        REQUEST,
        "emulator",
        "mix",
        moved("mix", "6", io(0)),
        ("IOThread 0", "CPU 6", "IOThread policy isolate"),
    ),
    (REQUEST, "emulator", "mix", moved("near", "4-5,8"), ("IOThread 0", "CPU 8", "'near'")),
    (REQUEST, "emulator", "near", moved("near", "1", io(0)), ("CPU 1", "IOThread policy housekeeping")),
)


def test_good() -> None:
    """A placement that keeps every rule has no violation."""
    assert () == verify(REQUEST, GOOD)


def test_other_good() -> None:
    """Nor has one that is wider than who it is near to, or one that need not be near, since the other has no place."""
    assert () == verify(REQUEST, moved("near", "4-5,12-13"))
    alone = attrs.evolve(REQUEST, demands=(NEAR,), overcommit=None)
    far = [one for one in moved("near", "12-13").guests if one.spec.name == "near"]
    assert () == verify(alone, Placement(strategy="by hand", guests=tuple(far)))


@pytest.mark.parametrize(
    ("demanded", "rule", "guest", "placement", "words"),
    SABOTEURS,
    ids=[f"{one[1]}-{number}" for number, one in enumerate(SABOTEURS)],
)
def test_saboteur(
    demanded: PlacementRequest, rule: str, guest: str | None, placement: Placement, words: tuple[str, ...]
) -> None:
    """A change that breaks one rule is reported under that rule alone, with the guest, its threads and its CPUs."""
    violations = verify(demanded, placement)
    assert {(rule, guest)} == {(one.rule, one.guest) for one in violations}
    text = "\n".join(one.message for one in violations)
    assert [] == [word for word in (repr(guest) if guest else "", *words) if word not in text]
