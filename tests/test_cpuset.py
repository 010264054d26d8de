"""CpuSet: a frozenset of CPU numbers with Linux's texts."""

from __future__ import annotations

import operator
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import MAX_CPUS, CpuSet
from kvmaff.testing import inputs as st


@given(st.cpu_sets())
def test_cpulist_round_trip(cpus: CpuSet) -> None:
    """What is printed as a cpulist parses to the same set."""
    assert cpus == CpuSet.parse(str(cpus))
    assert cpus == CpuSet.parse(str(cpus).encode() + b"\n\0")


@given(st.cpu_sets(), hs.integers(0, MAX_CPUS))
def test_cpumask_round_trip(cpus: CpuSet, width: int) -> None:
    """What is printed as a cpumask, however wide, parses to the same set."""
    assert cpus == CpuSet.parse_mask(cpus.cpumask(width))
    assert cpus == CpuSet.parse_mask("0x" + cpus.cpumask().replace(",", ""))


@given(st.cpu_sets())
def test_words_round_trip(cpus: CpuSet) -> None:
    """The kernel's binary form has the set's bits in words of the machine's byte order."""
    words = cpus.to_words(MAX_CPUS // 64)
    assert cpus == CpuSet.from_words(words)
    assert cpus.bits & (1 << 64) - 1 == int.from_bytes(words[:8], sys.byteorder)


@given(st.cpulist_texts())
def test_written_cpulists(case: tuple[str, frozenset[int]]) -> None:
    """Every text of the grammar names just the CPUs it says."""
    text, named = case
    assert sorted(named) == list(CpuSet.parse(text))


@given(st.cpu_sets(), st.cpu_sets())
def test_algebra_agrees_with_frozenset(one: CpuSet, other: CpuSet) -> None:
    """Every operator gives what frozenset gives."""
    plain, plain_other = frozenset(one), frozenset(other)
    for combine in (operator.and_, operator.or_, operator.xor, operator.sub):
        assert combine(plain, plain_other) == frozenset(combine(one, other))
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        assert compare(plain, plain_other) == compare(one, other)
    assert plain.isdisjoint(plain_other) == one.isdisjoint(other)
    assert len(plain) == len(one)
    assert bool(plain) == bool(one)
    assert sorted(plain) == list(one)
    assert all(cpu in one for cpu in plain)
    assert all((cpu in plain) == (cpu in one) for cpu in range(-2, 70))
    if plain:
        assert (min(plain), max(plain)) == (one.first, one.last)


@given(st.cpu_sets())
def test_value(cpus: CpuSet) -> None:
    """Equal sets hash alike, survive pickling, and cannot be changed."""
    twin = CpuSet(list(cpus))
    assert twin == cpus
    assert hash(twin) == hash(cpus)
    assert cpus == pickle.loads(pickle.dumps(cpus))
    assert cpus == eval(repr(cpus), {"CpuSet": CpuSet})
    with pytest.raises(AttributeError):
        cpus.bits = 0
    with pytest.raises(AttributeError):
        del cpus.bits
    with pytest.raises(AttributeError):
        cpus.anything = 1


@given(hs.text(alphabet="0123456789,-:/^ \n\0xaf", max_size=14))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    """No text is anything but a set or a ValueError that names the text and a place in it."""
    for parse in (CpuSet.parse, CpuSet.parse_mask, lambda t: CpuSet.parse(t, exclude=True)):
        try:
            parse(text)
        except ValueError as error:
            assert text == error.text
            assert 0 <= error.position <= len(text)
            assert repr(text) in str(error)


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("3-1", 0, "runs backwards"),
        ("0,a", 2, "a CPU number belongs here"),
        ("1,", 2, "a CPU number belongs here"),
        ("1,,2", 2, "a CPU number belongs here"),
        ("0-31:2", 6, "USED/GROUP"),
        ("0-3:5/4", 0, "1 to 4 of each 4"),
        ("0-3:0/2", 0, "1 to 2 of each 2"),
        ("8192", 0, "end at 8191"),
        ("0-99999999999999999999", 2, "end at 8191"),
        ("\u0663", 0, "a CPU number belongs here"),
        ("1_0", 1, "a comma or the end"),
        ("-1", 0, "a CPU number belongs here"),
        ("1 2", 1, "a comma or the end"),
        ("^3", 0, "a CPU number belongs here"),
        ("0x3", 1, "a comma or the end"),
        ("1\n2", 1, "a comma or the end"),
    ],
)
def test_malformed_cpulist(text: str, position: int, why: str) -> None:
    """A malformed cpulist is a ValueError that names the text, the place and the reason."""
    with pytest.raises(ValueError, match=why) as caught:
        CpuSet.parse(text)
    assert position == caught.value.position
    assert repr(text) in str(caught.value)
    assert f"character {position + 1}," in str(caught.value)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("g", 0),
        ("ff,", 3),
        ("f,,f", 2),
        ("123456789,0", 0),
        ("0x", 2),
        ("1" + "0" * 2048, 0),
        ("f f", 1),
    ],
)
def test_malformed_cpumask(text: str, position: int) -> None:
    """A malformed cpumask is a ValueError that names the place."""
    with pytest.raises(ValueError, match="is no cpumask") as caught:
        CpuSet.parse_mask(text)
    assert position == caught.value.position


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-4,^3", "0-2,4"), ("^3,0-4", "0-4"), ("0-7,^0,^7,9", "1-6,9"), ("0,^0", ""), ("0-4, ^3", "0-2,4")],
)
def test_exclusion_on_request(text: str, cpus: str) -> None:
    """libvirt's ^n takes a CPU out of what stands before it, and only where it was asked for."""
    assert CpuSet.parse(cpus) == CpuSet.parse(text, exclude=True)
    with pytest.raises(ValueError, match="is no cpulist"):
        CpuSet.parse(text)


@pytest.mark.parametrize("text", ["0-3,^", "0-3,^1-2", "^", "0-3,^9999"])
def test_malformed_exclusion(text: str) -> None:
    """^ takes one CPU."""
    with pytest.raises(ValueError, match="is no cpulist"):
        CpuSet.parse(text, exclude=True)


@pytest.mark.parametrize("text", ["", " ", "\n", "\0", " \n\0", "\t"])
def test_blank(text: str) -> None:
    """A blank line names no CPU, as the kernel prints it for isolated and offline."""
    assert CpuSet() == CpuSet.parse(text)
    assert CpuSet() == CpuSet.parse_mask(text)


@pytest.mark.parametrize(
    ("bad", "error"), [([-1], ValueError), ([8192], ValueError), (["1"], TypeError), ([True], TypeError)]
)
def test_bad_numbers(bad: list[object], error: type[Exception]) -> None:
    """Only integers from 0 to 8191 are CPUs."""
    with pytest.raises(error):
        CpuSet(bad)
    with pytest.raises(ValueError, match="2\\*\\*8192"):
        CpuSet.from_bits(1 << MAX_CPUS)
    with pytest.raises(ValueError, match="does not fit"):
        CpuSet([64]).to_words(1)
    with pytest.raises(ValueError, match="multiple of 8"):
        CpuSet.from_words(b"1")


def test_other_types_are_not_equal() -> None:
    """A CpuSet equals CpuSets only, and combines with nothing else."""
    assert CpuSet([1]) != frozenset([1])
    with pytest.raises(TypeError):
        CpuSet([1]) | {1}
    with pytest.raises(TypeError):
        assert CpuSet([1]) <= {1}
    with pytest.raises(ValueError, match="no first CPU"):
        _ = CpuSet().first
    with pytest.raises(ValueError, match="no last CPU"):
        _ = CpuSet().last


def test_a_long_malformed_text_shows_the_place() -> None:
    """The message of a long text shows the part around the place, not only the beginning."""
    text = "0," * 5000 + "x" + ",1" * 5000
    with pytest.raises(ValueError, match="x,1") as caught:
        CpuSet.parse(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", [None, 3, ["0"]])
def test_no_text(text: object) -> None:
    """What is no text is a TypeError that shows how CPUs are written."""
    for parse in (CpuSet.parse, CpuSet.parse_mask):
        with pytest.raises(TypeError, match="0-3,8"):
            parse(text)


def test_union_of() -> None:
    """The union of many sets is that of all, and of none the empty set."""
    assert CpuSet([1, 2, 3]) == CpuSet.union_of([CpuSet([1]), CpuSet([2, 3]), CpuSet()])
    assert CpuSet() == CpuSet.union_of([])
