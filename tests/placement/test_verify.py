"""verify finds what a plain twin finds, for any answer; and it reads any answer at all."""

from __future__ import annotations

from typing import Any, NoReturn

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy, GuestSpec, ThreadPolicy, VcpuPolicy
from kvmaff.host.reader import Host
from kvmaff.host.topology import NumaNode, Topology
from kvmaff.placement.placement import GuestPlacement, Placement, ThreadPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.verify import RULES, Violation, verify
from kvmaff.testing import inputs_hosts as st

from .placements import any_placements, place
from .verify_twin import broken


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # many parts are drawn
@given(hs.data())
def test_agrees_with_the_twin(data: hs.DataObject) -> None:
    """For any answer, the rules that are broken and the guests concerned are those that a CPU-by-CPU twin finds."""
    request = data.draw(st.requests(guests=3))
    placement = data.draw(any_placements(request))
    violations = verify(request, placement)
    assert broken(request, placement) == {(one.rule, one.guest) for one in violations}


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(hs.data())
def test_same_answer_again(data: hs.DataObject) -> None:
    """The same arguments give the same violations, ordered by rule; each once, in words that name the guest."""
    request = data.draw(st.requests(guests=3))
    placement = data.draw(any_placements(request))
    violations = verify(request, placement)
    again = PlacementRequest(
        **{field.name: getattr(request, field.name) for field in attrs.fields(PlacementRequest) if field.init}
    )
    assert violations == verify(again, attrs.evolve(placement, guests=tuple(placement.guests)))
    at = [RULES.index(one.rule) for one in violations]
    assert sorted(at) == at
    assert len(set(violations)) == len(violations)
    assert all(one.guest is None or repr(one.guest) in one.message for one in violations)


# -- anything at all


class Hostile:
    """A value that nobody should touch."""

    def _no(self, *args: object) -> NoReturn:
        raise RuntimeError(f"touched with {args}")

    __eq__ = __hash__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = __getattr__ = _no


class OtherSet(CpuSet):
    """A CpuSet that is not quite one."""

    __slots__ = ()
    __and__ = __or__ = __sub__ = __len__ = __iter__ = Hostile._no


def _unset(kind: Any) -> object:
    return kind.__new__(kind)


NONSENSE = (
    *(
        object(),
        1.5,
        float("nan"),
        b"0-3",
        "0-3",
        [0, 1],
        {0: 1},
        {3},
        -1,
        True,
        10**5000,
        Hostile(),
        Hostile,
    ),
    *(OtherSet([1]), (None,), ([],), ("0",), (-1,), (True,), ((),)),
    *(_unset(kind) for kind in (CpuSet, Placement, GuestPlacement, ThreadPlacement, GuestSpec)),
)


def small() -> tuple[PlacementRequest, Placement]:
    """A request and an answer to it that keeps every rule."""
    cpus = CpuSet(range(8))
    topology = Topology(
        possible=cpus,
        present=cpus,
        online=cpus,
        packages=(cpus,),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet([cpu, cpu + 1]) for cpu in range(0, 8, 2)),
        l2=(),
        l3=(cpus,),
        nodes=(NumaNode(number=0, cpus=cpus, memory_bytes=1 << 30),),
    )
    host = Host(root="/generated", topology=topology, isolated=CpuSet(), nohz_full=CpuSet())
    one = Demand(
        spec=GuestSpec(
            name="one",
            vcpus=2,
            iothreads=("io",),
            vcpu_policy=VcpuPolicy.DEDICATED,
            emulator_policy=EmulatorPolicy.HOUSEKEEPING,
        ),
        pid=5,
        start=6,
    )
    two = Demand(spec=GuestSpec(name="two", vcpus=3))
    request = PlacementRequest(host=host, demands=(one, two))
    guests = (place(host, one, ["0", "1"], "2-7"), place(host, two, ["2-5"] * 3, "2-5"))
    return request, Placement(strategy="by hand", guests=guests)


PATHS = (
    *(("strategy",), ("guests",), ("guests", "0")),
    *(("guests", "0", field.name) for field in attrs.fields(GuestPlacement)),
    *(("guests", "0", "threads", at) for at in ("0", "2", "3")),
    *(("guests", "0", "threads", at, field) for at in ("0", "2", "3") for field in ("role", "index", "cpus")),
    ("guests", "0", "score", "distance"),
    ("guests", "0", "spec", "uuid"),
)


def put(whole: Any, path: tuple[str, ...], value: object) -> Any:
    """The same with a value at a path of fields and places."""
    if not path:
        return value
    if isinstance(whole, tuple):
        at = int(path[0])
        return (*whole[:at], put(whole[at], path[1:], value), *whole[at + 1 :])
    return attrs.evolve(whole, **{path[0]: put(getattr(whole, path[0]), path[1:], value)})


def _right(field: str, value: object) -> bool:
    """Whether it may stand there after all, as far as its type goes."""
    return (
        (field == "distance" and type(value) is int and 0 <= value < 1 << 62)
        or (field == "strategy" and type(value) is str)
        or (field == "why" and type(value) is tuple and [str] == [type(one) for one in value])
    )


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_nonsense_anywhere(path: tuple[str, ...]) -> None:
    """Whatever stands in a field, verify raises nothing and touches nothing of it, and says what is wrong."""
    request, placement = small()
    rule = "guests" if {"pid", "start", "uuid"} & set(path) else "shape"
    for value in NONSENSE:
        violations = verify(request, put(placement, path, value))
        expected = set() if _right(path[-1], value) else {rule}
        assert expected == {rule} & {one.rule for one in violations}, type(value)
        assert all(type(one) is Violation and type(one.message) is str for one in violations)


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_nonsense_instead_of_an_answer(value: Any) -> None:
    """What is no Placement at all is a violation of the rule shape, and of no other."""
    request, _ = small()
    assert {("shape", None)} == {(one.rule, one.guest) for one in verify(request, value)}


def test_one_wrong_thread_hides_nothing() -> None:
    """Beside a thread of which nothing can be read, what others do wrong is found; nothing is said twice."""
    request, placement = small()
    wrong = put(placement, ("guests", "1", "threads", "3", "cpus"), "2-5")
    wrong = put(wrong, ("guests", "1", "threads", "4", "cpus"), CpuSet([9]))
    violations = verify(request, wrong)
    assert [("shape", "two"), ("online", "two")] == [(one.rule, one.guest) for one in violations[:2]]
    assert {"shape", "online"} == {one.rule for one in violations}


# -- many


def test_a_large_host() -> None:
    """500 guests of four vCPUs on 2,048 CPUs: nothing is wrong, or all that was made wrong is found."""
    cpus = CpuSet(range(2048))
    topology = Topology(
        possible=cpus,
        present=cpus,
        online=cpus,
        packages=(cpus,),
        dies=(),
        clusters=(),
        cores=tuple(CpuSet([cpu, cpu + 1]) for cpu in range(0, 2048, 2)),
        l2=(),
        l3=(),
        nodes=tuple(
            NumaNode(number=node, cpus=CpuSet(range(128 * node, 128 * node + 128)), memory_bytes=None)
            for node in range(16)
        ),
    )
    host = Host(root="/generated", topology=topology, isolated=CpuSet(), nohz_full=CpuSet())
    demands = tuple(
        Demand(
            spec=GuestSpec(
                name=f"guest{number}",
                vcpus=4,
                threads=2,
                vcpu_policy=VcpuPolicy.DEDICATED,
                thread_policy=ThreadPolicy.REQUIRE,
                emulator_policy=EmulatorPolicy.HOUSEKEEPING,
            )
        )
        for number in range(500)
    )
    request = PlacementRequest(host=host, demands=demands)
    guests = tuple(
        place(host, demand, [CpuSet([4 * at + vcpu]) for vcpu in range(4)], CpuSet(range(2000, 2048)))
        for at, demand in enumerate(demands)
    )
    assert () == verify(request, Placement(strategy="by hand", guests=guests))
    everywhere = tuple(
        attrs.evolve(
            guest,
            threads=tuple(
                attrs.evolve(thread, cpus=cpus) if thread.role is Role.EMULATOR else thread
                for thread in guest.threads
            ),
        )
        for guest in guests
    )
    violations = verify(request, Placement(strategy="by hand", guests=everywhere))
    names = {demand.spec.name for demand in demands}
    for rule in ("dedicated", "emulator"):
        assert names == {one.guest for one in violations if one.rule == rule}
    assert all(len(one.message) < 300 for one in violations)
