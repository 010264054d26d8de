"""What contradicts itself in a guest's spec."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.guest import specrules
from kvmaff.guest.spec import (
    Affinity,
    EmulatorPolicy,
    GuestCell,
    GuestSpec,
    Place,
    SpecContradiction,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.testing import inputs_guests as st

GIB = 1 << 30
FOUR = {"vcpus": 4, "max_vcpus": 4}
HALVES = (GuestCell(vcpus=(0, 1), memory_bytes=GIB), GuestCell(vcpus=(2, 3), memory_bytes=GIB))
DEDICATED, MIXED, SHARED = VcpuPolicy.DEDICATED, VcpuPolicy.MIXED, VcpuPolicy.SHARED


def mixed(*own: int) -> dict[str, Any]:
    """A guest of four vCPUs, some of them dedicated."""
    return {**FOUR, "vcpu_policy": MIXED, "dedicated_vcpus": own}


CONTRADICTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "no-name": ("name", {"name": ""}),
    "name-of-a-terminal": ("name", {"name": "\x1b[2J"}),
    "no-vcpus": ("vcpus", {"vcpus": 0}),
    "too-many-vcpus": ("vcpus", {"vcpus": 8193}),
    "fewer-at-most": ("max_vcpus", {"vcpus": 4, "max_vcpus": 3}),
    "too-many-at-most": ("max_vcpus", {"max_vcpus": 8193}),
    "no-threads": ("threads", {"threads": 0}),
    "too-many-threads": ("threads", {"threads": 9}),
    "threads-do-not-divide": ("threads", {"threads": 2, "vcpus": 3, "max_vcpus": 5}),
    "cells-miss-one": ("cells", {**FOUR, "cells": HALVES[:1]}),
    "cells-have-one-twice": (
        "cells",
        {**FOUR, "cells": (GuestCell(vcpus=(0, 1, 2)), GuestCell(vcpus=(2, 3)))},
    ),
    "cells-have-one-more": (
        "cells",
        {**FOUR, "cells": (GuestCell(vcpus=(0, 1, 2, 3, 4)),)},
    ),
    "cell-without-vcpus": ("cells", {"cells": (*HALVES, GuestCell(vcpus=()))}),
    "cells-do-not-sum": ("cells", {"cells": HALVES, "memory_bytes": 3 * GIB}),
    "cell-of-negative-memory": ("cells", {"cells": (GuestCell(vcpus=(0, 1, 2, 3), memory_bytes=-1),)}),
    "negative-memory": ("memory_bytes", {"memory_bytes": -1}),
    "mixed-without": ("dedicated_vcpus", {"vcpu_policy": MIXED, "dedicated_vcpus": ()}),
    "mixed-out-of-order": ("dedicated_vcpus", mixed(2, 1)),
    "mixed-twice": ("dedicated_vcpus", mixed(1, 1)),
    "mixed-beyond": ("dedicated_vcpus", mixed(3, 4)),
    "mixed-negative": ("dedicated_vcpus", mixed(-1, 2)),
    "mixed-is-all": ("dedicated_vcpus", mixed(0, 1, 2, 3)),
    "not-mixed": ("dedicated_vcpus", {"vcpu_policy": DEDICATED, "dedicated_vcpus": (0,)}),
    "shared-isolate": ("thread_policy", {"vcpu_policy": SHARED, "thread_policy": ThreadPolicy.ISOLATE}),
    "shared-require": ("thread_policy", {"vcpu_policy": SHARED, "thread_policy": ThreadPolicy.REQUIRE}),
    "shared-emulator": (
        "emulator_policy",
        {"vcpu_policy": SHARED, "emulator_policy": EmulatorPolicy.ISOLATE},
    ),
    "shared-iothreads": (
        "iothread_policy",
        {"vcpu_policy": SHARED, "iothread_policy": EmulatorPolicy.ISOLATE},
    ),
    "isolate-of-siblings": (
        "thread_policy",
        {"vcpu_policy": DEDICATED, "thread_policy": ThreadPolicy.ISOLATE, "threads": 2},
    ),
    "require-of-odd": (
        "thread_policy",
        {"vcpu_policy": DEDICATED, "thread_policy": ThreadPolicy.REQUIRE, "vcpus": 3, "max_vcpus": 3},
    ),
    "require-of-odd-mixed": ("thread_policy", {**mixed(1), "thread_policy": ThreadPolicy.REQUIRE}),
    "require-of-torn-siblings": (
        "thread_policy",
        {**mixed(1, 2), "thread_policy": ThreadPolicy.REQUIRE, "threads": 2},
    ),
    "iothread-twice": ("iothreads", {"iothreads": ("a", "b", "a")}),
    "negative-node": ("device_nodes", {"device_nodes": (0, -1)}),
    "kind-without-name": ("core_kind", {"core_kind": ""}),
    "domain-of-a-terminal": ("trust_domain", {"trust_domain": "a\n"}),
    "pool-without-name": ("pool", {"pool": ""}),
    "odd-page": ("page_bytes", {"page_bytes": 3 << 20}),
    "negative-page": ("page_bytes", {"page_bytes": -4096}),
    "large-page": ("page_bytes", {"page_bytes": 1 << 41}),
    "page-of-nothing": ("page_bytes", {"page_bytes": 1 << 21, "memory_bytes": 0, "cells": ()}),
    "page-does-not-divide": ("memory_bytes", {"page_bytes": 1 << 21, "memory_bytes": (1 << 21) + 1}),
    "page-does-not-divide-a-cell": (
        "cells",
        {"page_bytes": GIB, "memory_bytes": 0, "cells": (GuestCell(vcpus=(0,), memory_bytes=GIB // 2),)},
    ),
    "near-itself": ("affinity", {"name": "me", "affinity": (Affinity(guest="me"),)}),
    "apart-from-itself": ("anti_affinity", {"name": "me", "anti_affinity": (Affinity(guest="me"),)}),
    "near-and-apart": (
        "anti_affinity",
        {
            "affinity": (Affinity(guest="db", level=Place.L3),),
            "anti_affinity": (Affinity(guest="db", level=Place.NODE),),
        },
    ),
}
"""By name: the field that is named, and values of all fields that the contradiction hangs on."""

NAMES = hs.sampled_from(sorted(CONTRADICTIONS))


def named(spec: GuestSpec, changes: dict[str, Any]) -> set[str]:
    """The fields that are named where a spec is changed so."""
    with pytest.raises(SpecContradiction) as caught:
        spec.with_changes(**changes)
    assert all(f"{field}: {what}" in str(caught.value) for field, what in caught.value.problems)
    return {field for field, _ in caught.value.problems}


@given(st.guest_specs())
def test_a_valid_spec_has_no_problem(spec: GuestSpec) -> None:
    """What is valid has nothing to be said of it, and every vCPU is dedicated or floats."""
    assert [] == list(specrules.problems(spec))
    assert list(range(spec.max_vcpus)) == sorted((*spec.pinned, *spec.floating))


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_named(name: str) -> None:
    """Each contradiction is named under its field."""
    field, changes = CONTRADICTIONS[name]
    assert field in named(GuestSpec(name="a", vcpus=4), changes)


@given(NAMES, NAMES, st.guest_specs())
def test_two_contradictions_are_both_named(one: str, other: str, spec: GuestSpec) -> None:
    """Whatever else a spec says, of two contradictions that hang on different fields none hides the other."""
    (field, changes), (second, more) = CONTRADICTIONS[one], CONTRADICTIONS[other]
    together = {**more, **changes}
    if any(together[key] != more[key] for key in more):
        together, second = changes, field  # they want different values of one field
    assert {field, second} <= named(spec, together)


_SMALL = hs.integers(-2, 9)
_ANY_SPEC: dict[str, hs.SearchStrategy[Any]] = {
    "vcpus": _SMALL | hs.just(9000),
    "max_vcpus": _SMALL | hs.just(9000),
    "threads": _SMALL,
    "memory_bytes": _SMALL,
    "page_bytes": _SMALL,
    "cells": hs.lists(
        hs.builds(GuestCell, vcpus=hs.lists(_SMALL, max_size=4).map(tuple), memory_bytes=_SMALL), max_size=3
    ).map(tuple),
    "dedicated_vcpus": hs.lists(_SMALL, max_size=4).map(tuple),
    "vcpu_policy": hs.sampled_from(VcpuPolicy),
    "thread_policy": hs.sampled_from(ThreadPolicy),
    "emulator_policy": hs.sampled_from(EmulatorPolicy),
    "iothread_policy": hs.none() | hs.sampled_from(EmulatorPolicy),
    "affinity": hs.lists(hs.builds(Affinity, guest=hs.sampled_from("ab"), level=hs.sampled_from(Place))).map(
        tuple
    ),
    "anti_affinity": hs.lists(
        hs.builds(Affinity, guest=hs.sampled_from("ab"), level=hs.sampled_from(Place))
    ).map(tuple),
}


@given(hs.fixed_dictionaries(_ANY_SPEC))
def test_any_numbers_are_an_answer(values: dict[str, Any]) -> None:
    """Any numbers are a spec or a SpecContradiction that names fields which there are, and nothing else."""
    try:
        spec = GuestSpec(name="a", **values)
    except SpecContradiction as error:
        assert {field for field, _ in error.problems} <= {field.name for field in attrs.fields(GuestSpec)}
    else:
        assert spec.vcpus <= spec.max_vcpus == len(spec.pinned) + len(spec.floating)


@pytest.mark.parametrize("near", Place)
@pytest.mark.parametrize("apart", Place)
def test_near_and_apart(near: Place, apart: Place) -> None:
    """Who shares a core shares its L3 group and node; who shares a node may keep off the cores there."""
    order = [Place.CORE, Place.L3, Place.NODE]
    changes = {
        "affinity": (Affinity(guest="db", level=near),),
        "anti_affinity": (Affinity(guest="db", level=apart),),
    }
    spec = GuestSpec(name="a", vcpus=1)
    if order.index(apart) >= order.index(near):
        assert {"anti_affinity"} == named(spec, changes)
    else:
        changed = spec.with_changes(**changes)
        assert (near, apart) == (changed.affinity[0].level, changed.anti_affinity[0].level)
