"""What a guest asks that the host cannot give, whoever else is there: all of it at once."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import (
    Affinity,
    GuestCell,
    GuestSpec,
    Place,
    SpecContradiction,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.host.topology import CoreKind, HugePages
from kvmaff.placement.contradictions import contradictions
from kvmaff.placement.request import Demand, Held, PlacementRequest, Pool
from kvmaff.strategies import numa
from kvmaff.testing import inputs_guests as st
from kvmaff.testing.trees import grid

GIB = 1 << 30


def host(**changes: Any) -> Any:
    """Two nodes of four cores without SMT and 64 GiB, four P cores and four E cores; no huge pages."""
    made = grid(packages=2, cores=4)
    kinds = (
        CoreKind(name="P", cpus=CpuSet(range(4))),
        CoreKind(name="E", cpus=CpuSet(range(4, 8))),
    )
    return attrs.evolve(made, topology=attrs.evolve(made.topology, **{"kinds": kinds, **changes}))


HOST = host()
(NUMA,) = numa.kvmaff_strategies()
POOLS = (Pool(name="fast", cpus=CpuSet([6, 7])), Pool(name="gone", cpus=CpuSet([40])))
DEDICATED = VcpuPolicy.DEDICATED
CELLS = (GuestCell(vcpus=(0,), memory_bytes=65 * GIB), GuestCell(vcpus=(1,), memory_bytes=GIB))

ASKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "memory": (
        {"memory_bytes": 200 * GIB},
        {},
        "wants 200 GiB of memory, this host has 128 GiB",
    ),
    "cell": (
        {"vcpus": 2, "cells": CELLS},
        {},
        "its largest cell wants 65 GiB of memory, no node has more than 64 GiB",
    ),
    "pages": (
        {"memory_bytes": 2 * GIB, "page_bytes": GIB},
        {},
        "wants its memory in pages of 1 GiB, of which this host has none; it has none",
    ),
    "node": (
        {"device_nodes": (7,)},
        {},
        "its device is on NUMA node 7, which this host has not; it has 0, 1",
    ),
    "device": ({}, {"absent": ("0000:65:00.0",)}, "its device 0000:65:00.0 is not on this host"),
    "vcpus": (
        {"vcpus": 40, "vcpu_policy": DEDICATED},
        {},
        "needs 40 dedicated vCPUs, this host has 8 CPUs online",
    ),
    "require": (
        {"vcpus": 2, "vcpu_policy": DEDICATED, "thread_policy": ThreadPolicy.REQUIRE},
        {},
        "thread policy require fills groups of 2 siblings, the cores of this host have 1 online",
    ),
    "isolate": (
        {"vcpus": 9, "vcpu_policy": DEDICATED, "thread_policy": ThreadPolicy.ISOLATE},
        {},
        "thread policy isolate needs 9 cores, this host has 8",
    ),
    "large-cell": (
        {"vcpus": 6, "vcpu_policy": DEDICATED, "cells": (GuestCell(vcpus=(0, 1, 2, 3, 4, 5)),)},
        {},
        "its cell 0 has 6 dedicated vCPUs, no node here has more than 4 CPUs",
    ),
    "kind": ({"core_kind": "Q"}, {}, "wants cores of kind 'Q', this host has P, E"),
    "pool": ({"pool": "slow"}, {}, "wants the CPU pool 'slow', which is not told; there are fast, gone"),
    "small-pool": (
        {"vcpus": 3, "vcpu_policy": DEDICATED, "pool": "fast"},
        {},
        "needs 3 dedicated vCPUs, its CPU pool 'fast' has 2 CPUs online",
    ),
    "small-kind": (
        {"vcpus": 5, "vcpu_policy": DEDICATED, "core_kind": "E"},
        {},
        "needs 5 dedicated vCPUs on cores of kind 'E', this host has 4 CPUs of it",
    ),
    "lonely": (
        {
            "vcpu_policy": DEDICATED,
            "thread_policy": ThreadPolicy.ISOLATE,
            "affinity": (Affinity(guest="old", level=Place.CORE),),
        },
        {},
        "wants the cores of old, and its thread policy isolate wants them for itself",
    ),
    "hermit": (
        {"affinity": (Affinity(guest="lone", level=Place.CORE),)},
        {},
        "wants the cores of lone, whose thread policy isolate wants them for itself",
    ),
    "dead-pool": ({"pool": "gone"}, {}, "its CPU pool 'gone', CPUs 40, has no CPU that is online here"),
    "domains": (
        {"trust_domain": "red", "affinity": (Affinity(guest="old", level=Place.CORE),)},
        {},
        "wants the cores of old, which is of another trust domain",
    ),
    "unwelcome": (
        {"affinity": (Affinity(guest="shy", level=Place.L3),)},
        {},
        "wants the l3 of shy, which keeps off the node of it",
    ),
    "unloved": (
        {"anti_affinity": (Affinity(guest="fond"),)},
        {},
        "keeps off the node of fond, which wants the core of it",
    ),
}
"""By name: fields of a spec, fields of its demand, and what is said of them."""
OTHERS = (
    Demand(spec=GuestSpec(name="shy", vcpus=1, anti_affinity=(Affinity(guest="g"),))),
    Demand(spec=GuestSpec(name="lone", vcpus=1, vcpu_policy=DEDICATED, thread_policy=ThreadPolicy.ISOLATE)),
    Demand(spec=GuestSpec(name="fond", vcpus=1, affinity=(Affinity(guest="g", level=Place.CORE),))),
)


def asked(fields: dict[str, Any], more: dict[str, Any]) -> tuple[PlacementRequest, Demand]:
    """A request of one guest, beside others that it may name."""
    demand = Demand(spec=GuestSpec(name="g", **{"vcpus": 1, **fields}), **more)
    held = (Held(name="old", cpus=CpuSet([0]), dedicated=False),)
    return PlacementRequest(host=HOST, demands=(demand, *OTHERS), held=held, pools=POOLS), demand


@pytest.mark.parametrize("name", ASKED)
def test_one(name: str) -> None:
    """What the host cannot give is one sentence, and of the other guests there is nothing to be said."""
    fields, more, said = ASKED[name]
    request, demand = asked(fields, more)
    assert said in contradictions(request, demand)
    if name not in {"vcpus", "isolate"}:  # who wants more CPUs than there are wants more cores as well
        assert [said] == contradictions(request, demand)


@given(hs.lists(hs.sampled_from(sorted(ASKED)), min_size=2, unique=True))
def test_several(names: list[str]) -> None:
    """Of several contradictions in different fields none hides another, and each is a reason of the refusal."""
    fields: dict[str, Any] = {}
    more: dict[str, Any] = {}
    said = []
    for name in names:
        own, extra, what = ASKED[name]
        if fields.keys() & own.keys():
            continue
        try:
            GuestSpec(name="g", **{"vcpus": 1, **fields, **own})
        except SpecContradiction:
            continue  # together they contradict each other, whatever the host
        fields |= own
        more |= extra
        said.append(what)
    request, demand = asked(fields, more)
    found = contradictions(request, demand)
    assert [] == [what for what in said if what not in found]
    with pytest.raises(PlacementImpossible) as caught:
        NUMA.place(request)
    reasons = {one.name: one.reasons for one in caught.value.unplaced}["g"]
    assert found == list(reasons[: len(found)])


def test_all_at_once() -> None:
    """One refusal names memory, node, device, vCPUs, siblings, kind, pool and huge pages, and says what would help."""
    names = ["node", "device", "vcpus", "kind", "pool"]
    fields: dict[str, Any] = {"thread_policy": ThreadPolicy.REQUIRE, "memory_bytes": 200 * GIB}
    more: dict[str, Any] = {}
    for name in names:
        fields |= ASKED[name][0]
        more |= ASKED[name][1]
    said = [ASKED[name][2] for name in [*names, "require", "memory"]]
    for page in (0, GIB):
        request, _ = asked({**fields, "page_bytes": page}, more)
        with pytest.raises(PlacementImpossible) as caught:
            NUMA.place(request)
        (only,) = [one for one in caught.value.unplaced if one.name == "g"]
        wanted = said if not page else [*said[:-1], ASKED["pages"][2]]
        assert [] == [what for what in wanted if what not in only.reasons]
        assert len(wanted) + 1 == len(only.reasons)
        assert "nothing like it would fit" == only.reasons[-1]


def test_pages_that_are_there() -> None:
    """Huge pages are counted whole: what all nodes have is the host's, and what is in use today is no contradiction."""
    nodes = tuple(
        attrs.evolve(node, huge_pages=(HugePages(size_bytes=GIB, total=4, free=0),))
        for node in HOST.topology.nodes
    )
    for wanted, expected in (
        (8, []),
        (9, ["wants 9 GiB in pages of 1 GiB, this host has 8 GiB"]),
    ):
        spec = GuestSpec(name="g", vcpus=1, memory_bytes=wanted * GIB, page_bytes=GIB)
        demand = Demand(spec=spec)
        request = PlacementRequest(host=host(nodes=nodes), demands=(demand,))
        assert expected == contradictions(request, demand)
    small = Demand(spec=GuestSpec(name="g", vcpus=1, memory_bytes=2 * GIB, page_bytes=2 << 20))
    request = PlacementRequest(host=host(nodes=nodes), demands=(small,))
    said = "wants its memory in pages of 2 MiB, of which this host has none; it has 1 GiB"
    assert [said] == contradictions(request, small)


def test_a_guest_that_runs_has_its_memory() -> None:
    """Of a running guest's memory nothing is said: it has it."""
    spec = GuestSpec(name="g", vcpus=1, memory_bytes=200 * GIB)
    running = Demand(spec=spec, pid=3, start=4)
    assert [] == contradictions(PlacementRequest(host=HOST, demands=(running,)), running)


def test_who_may_have_company() -> None:
    """A guest that keeps siblings empty may want the cores of nobody, or of others beside the vCPUs that float."""
    wants = (Affinity(guest="old", level=Place.CORE),)
    isolated = {"vcpus": 2, "thread_policy": ThreadPolicy.ISOLATE, "affinity": wants}
    mixed = {**isolated, "vcpu_policy": VcpuPolicy.MIXED, "dedicated_vcpus": (0,)}
    request, demand = asked(mixed, {})
    assert [] == contradictions(request, demand)
    request, demand = asked({**isolated, "vcpu_policy": DEDICATED}, {})
    assert [] == contradictions(attrs.evolve(request, held=()), demand)  # there is no such guest
    assert 1 == len(contradictions(request, demand))


def test_a_host_that_does_not_say() -> None:
    """What the host does not tell contradicts nothing: nodes, their memory, kinds of cores."""
    silent = host(nodes=(), kinds=())
    spec = GuestSpec(name="g", vcpus=1, memory_bytes=200 * GIB, device_nodes=(7,), core_kind="Q")
    demand = Demand(spec=spec)
    assert [] == contradictions(PlacementRequest(host=silent, demands=(demand,)), demand)


@given(st.guest_specs())
def test_any_guest(spec: GuestSpec) -> None:
    """Whatever a guest asks, what is said of it is printable, and each sentence is said once."""
    demand = Demand(spec=spec)
    found = contradictions(PlacementRequest(host=HOST, demands=(demand,), pools=POOLS), demand)
    assert sorted(set(found)) == sorted(found)
    assert all(one.isprintable() for one in found)
