"""Two hosts held against each other, and features in words."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as hs

import kvmaff.testing.inputs_cpus as st
from kvmaff.cpumodel.compare import compare_hosts
from kvmaff.cpumodel.level import LEVELS, level_name, level_of
from kvmaff.cpumodel.words import in_words, level_in_words

from ..conftest import needs_qemu
from .conftest import models_of


@needs_qemu
@given(data=hs.data())
def test_both_ways(data: hs.DataObject) -> None:
    """What only one of them can give is what the other knows that it lacks; the other way round it is the same."""
    first, second = data.draw(st.host_cpus(models_of("tcg"), least=2, most=2))
    known = second.lacks - data.draw(hs.frozensets(hs.sampled_from(sorted(second.lacks)), max_size=9))
    second = attrs.evolve(second, lacks=known)
    found, back = compare_hosts(first, second), compare_hosts(second, first)
    assert (found.only_first, found.only_second) == (back.only_second, back.only_first)
    assert (found.unknown_first, found.unknown_second) == (back.unknown_second, back.unknown_first)
    assert found.only_first == first.movable & second.lacks
    assert first.movable == (first.movable & second.movable) | found.only_first | found.unknown_second
    assert compare_hosts(first, first).same
    assert compare_hosts(first, attrs.evolve(first, source="cpuinfo")).same is None
    assert compare_hosts(first, attrs.evolve(first, phys_bits=39)).same is False
    if found.only_first or found.unknown_second:
        assert not found.same


@needs_qemu
@given(data=hs.data())
def test_words(data: hs.DataObject) -> None:
    """Every feature is told once."""
    names = data.draw(hs.frozensets(hs.sampled_from(sorted(models_of("tcg").names))))
    said = in_words(names)
    assert sorted(names) == sorted(name for _, some in said for name in some)
    assert len(said) == len({words for words, _ in said})


@needs_qemu
def test_words_know_their_features() -> None:
    """What words are about are features that a QEMU has; few of what guests have are others."""
    models = models_of("tcg")
    told = {name for words, some in in_words(models.names) for name in some if words != "others"}
    assert {"aes", "avx512f", "vmx-ept", "npt", "sgx"} & models.names <= told | {"npt"}
    modern = models.get("Icelake-Server-v5").features
    assert len(modern - told) < 45


def test_levels() -> None:
    """Levels stand on each other, and what falling from one means is said."""
    every = frozenset[str]().union(*LEVELS)
    assert [0, 1, 2, 3, 4] == [level_of(frozenset[str]().union(*LEVELS[:count])) for count in range(5)]
    assert all(level_of(every - {name}) < 4 for name in every)
    assert "x86-64-v3" == level_name(3)
    assert () == level_in_words(2, 2)
    assert any("RHEL 9" in one for one in level_in_words(3, 1))
    assert not any("RHEL 9" in one for one in level_in_words(4, 3))


@needs_qemu
def test_levels_of_models() -> None:
    """The levels that QEMU's documentation gives its models (docs/system/cpu-models-x86-abi.csv)."""
    levels = {model.name: model.level for model in models_of("tcg").models}
    told = {
        "qemu64-v1": 1,
        "kvm64-v1": 1,
        "Conroe-v1": 1,
        "Penryn-v1": 1,
        "Nehalem-v1": 2,
        "Westmere-v2": 2,
        "SandyBridge-v1": 2,
        "IvyBridge-v2": 2,
        "Haswell-v4": 3,
        "Broadwell-v3": 3,
        "Skylake-Client-v4": 3,
        "Skylake-Server-v5": 4,
        "Cascadelake-Server-v4": 4,
        "Icelake-Server-v6": 4,
        "Snowridge-v2": 2,
        "Denverton-v2": 2,
        "KnightsMill-v1": 3,
        "Opteron_G3-v1": 1,
        "Opteron_G4-v1": 2,
        "EPYC-v3": 3,
        "EPYC-Milan-v1": 3,
        "Dhyana-v2": 3,
    }
    assert told == {name: levels[name] for name in told}
