"""What a file of guests' specs says of the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.cpuset import CpuSet
from kvmaff.formats.specs import parse_rules, parse_specs, read_rules
from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.request import HostRules, Pool

from .written import host_rules, problems_of, spec_lists, written_rules, written_specs

RATIO = "is how many vCPUs a CPU takes, from 0.001 to 1000"


@given(hs.data(), host_rules(), spec_lists(most=2))
def test_round_trip(data: hs.DataObject, rules: HostRules, specs: list[GuestSpec]) -> None:
    """However rules are written, before or after guests, they are read as the same, and the guests stay as they are."""
    text, guests = data.draw(written_rules(rules)), data.draw(written_specs(specs)).text
    alone = parse_specs(guests, "h.toml")
    for both in (f"{text}\n{guests}", f"{guests}\n{text}"):
        assert rules == parse_rules(both, "h.toml")
        assert alone == parse_specs(both, "h.toml")


def test_a_file(tmp_path: Path) -> None:
    """A file's rules are read beside its guests; a file without any has none."""
    file = tmp_path / "h.toml"
    file.write_text(
        """[host]
reserved = "0,8"
overcommit = 4
[[pool]]
name = "fast"
cpus = "2-3"
overcommit = 1.5
[[guest]]
name = "a"
pool = "fast"
"""
    )
    expected = HostRules(
        reserved=CpuSet([0, 8]),
        overcommit=4000,
        pools=(Pool(name="fast", cpus=CpuSet([2, 3]), overcommit=1500),),
    )
    assert expected == read_rules(file)
    file.write_text("")
    assert HostRules() == read_rules(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("host = 1", "h.toml:1: host: is a table [host], not 1"),
        ("[[host]]", "h.toml:1: host: is a table [host], not a list"),
        (
            "[host]\noverhead = 1",
            'h.toml:2: host: "overhead" is no key here; known are reserved, overcommit',
        ),
        ("[host]\nreserve = '1'", 'h.toml:2: host: "reserve" is no key here; did you mean "reserved"?'),
        ("[host]\nreserved = [1]", 'h.toml:2: host: reserved: is a cpulist such as "0-3,8", not a list'),
        ("[host]\nreserved = ''", "h.toml:2: host: reserved: names no CPU"),
        (
            "[host]\nreserved = '0-x'",
            "h.toml:2: host: reserved: '0-x' is no cpulist: at character 3, a CPU number belongs here",
        ),
        ("[host]\novercommit = 0", f"h.toml:2: host: overcommit: {RATIO}, not 0"),
        ("[host]\novercommit = true", f"h.toml:2: host: overcommit: {RATIO}, not true"),
        ("[host]\novercommit = nan", f"h.toml:2: host: overcommit: {RATIO}, not nan"),
        ("[host]\novercommit = '4'", f'h.toml:2: host: overcommit: {RATIO}, not "4"'),
        (
            f"[host]\novercommit = {'9' * 400}",
            f"h.toml:2: host: overcommit: {RATIO}, not a number of more than 20 digits",
        ),
        ("[pool]\nname = 'a'", "h.toml:1: pool: is written [[pool]], one such table a pool"),
        ("pool = [1]", "h.toml:1: pool: is written [[pool]], one such table a pool"),
        ("[[pool]]\nname = 'a'", "h.toml:1: pool 1: cpus: is missing"),
        ("\n[[pool]]\ncpus = '1'", "h.toml:2: pool 1: name: is missing"),
        (
            "[[pool]]\nname = 'a'\ncpu = '1'\ncpus = '1'",
            'h.toml:3: pool 1: "cpu" is no key here; did you mean "cpus"?',
        ),
        (
            "[[pool]]\nname = 'a'\ncpus = '1'\n[[pool]]\nname = 'a'\ncpus = '2'",
            'h.toml:5: pool 2: name: "a" is pool 1\'s already',
        ),
        (
            "[[pool]]\nname = 'a'\ncpus = '1-3'\n[[pool]]\nname = 'b'\ncpus = '3-4'",
            "h.toml:6: pool 2: cpus: 3 are pool 1's already",
        ),
    ],
)
def test_what_is_wrong(text: str, problem: str) -> None:
    """What is wrong with the host's rules is one problem with its line and its table."""
    assert [problem] == problems_of(text)


def test_all_at_once() -> None:
    """Mistakes in [host], in pools and in guests are all said, in the order of the file; one hides no other."""
    text = """[[pool]]
name = ""
cpus = "0-3"
[[guest]]
name = "a"
pools = "b"
[host]
overcommit = -1
[[pool]]
name = "b"
cpus = "3"
overcommit = "2"
"""
    expected = [
        'h.toml:2: pool 1: name: is empty or not printable: ""',
        'h.toml:6: guest 1 ("a"): "pools" is no key here; did you mean "pool"?',
        f"h.toml:8: host: overcommit: {RATIO}, not -1",
        "h.toml:11: pool 2: cpus: 3 are pool 1's already",
        f'h.toml:12: pool 2: overcommit: {RATIO}, not "2"',
    ]
    assert expected == problems_of(text)
