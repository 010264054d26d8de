"""A decision on disk: whatever was decided is read as it was."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.binding.decided import last_decided, last_decision, merged_text
from kvmaff.binding.journal import DECIDED, Journal
from kvmaff.cpuset import CpuSet
from kvmaff.errors import JournalError
from kvmaff.guest.spec import Affinity, GuestSpec, Place
from kvmaff.placement.placement import Placement, Score
from kvmaff.placement.request import Demand, HostRules, Pool
from kvmaff.testing import inputs_guests as st
from kvmaff.testing.trees import grid

from ..formats.written import host_rules
from ..placement.placements import place

HOST = grid(packages=2, cores=4)
SCORE = Score(
    distance=3, nodes=2, l3_groups=1, shared_cores=0, broken_cores=4, levels=("distance", "l3_groups")
)


def kept(
    folder: Path, placement: Placement, rules: HostRules | None = None, *, whole: bool = False
) -> Journal:
    """The folder in which a decision is kept."""
    journal = Journal(folder=str(folder))
    with journal.locked() as locked:
        text = merged_text(locked, placement, rules, whole=whole)
    file = folder / DECIDED
    file.write_text(text)
    file.chmod(0o600)
    return journal


def decided(*specs: GuestSpec) -> Placement:
    """A decision for guests to come."""
    guests = [place(HOST, Demand(spec=spec), ["0-3,5"] * spec.max_vcpus, "7") for spec in specs]
    more = {"score": SCORE, "owned": CpuSet([7]), "why": ("the search was too long",)}
    return Placement(strategy="numa", guests=tuple(attrs.evolve(guest, **more) for guest in guests))


@given(
    st.guest_spec_lists(),
    hs.lists(
        hs.builds(Affinity, guest=hs.sampled_from(("far", "off")), level=hs.sampled_from(Place)), max_size=2
    ),
)
def test_round_trip(specs: list[GuestSpec], apart: list[Affinity]) -> None:
    """Every field of every spec, place and score comes back as it was kept."""
    specs = [spec.with_changes(anti_affinity=tuple(apart), affinity=()) for spec in specs[:1]] + specs[1:]
    placement = decided(*specs)
    with tempfile.TemporaryDirectory() as folder:
        assert placement == last_decided(kept(Path(folder), placement))


@given(host_rules())
def test_rules(rules: HostRules) -> None:
    """The rules of the host come back as they were kept, and stay until others are said or all is decided anew."""
    first, second = decided(GuestSpec(name="a", vcpus=1)), decided(GuestSpec(name="b", vcpus=1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert (first, rules) == last_decision(kept(folder, first, rules))
        both, known = last_decision(kept(folder, second))
        assert both is not None
        assert (["b", "a"], rules) == ([guest.spec.name for guest in both.guests], known)
        assert HostRules() == last_decision(kept(folder, second, HostRules()))[1]
        assert rules == last_decision(kept(folder, second, rules))[1]
        assert (first, HostRules()) == last_decision(kept(folder, first, whole=True))


@pytest.mark.parametrize(
    "change",
    [
        {"reserved": "3-1"},
        {"reserved": 3},
        {"overcommit": 0},
        {"overcommit": 1.5},
        {"pools": {}},
        {"pools": [{"name": "a", "cpus": "", "overcommit": None}]},
        {"pools": [{"name": "a", "cpus": "1"}]},
        {"pools": [{"name": "a", "cpus": one, "overcommit": None} for one in ("1", "2")]},
        {"pools": [{"name": one, "cpus": "1", "overcommit": None} for one in "ab"]},
    ],
)
def test_damaged_rules(tmp_path: Path, change: dict[str, object]) -> None:
    """Rules that are not what they should be are damage."""
    rules = HostRules(pools=(Pool(name="a", cpus=CpuSet([1])),))
    journal = kept(tmp_path, decided(GuestSpec(name="a", vcpus=2)), rules)
    file = tmp_path / DECIDED
    whole = json.loads(file.read_text())
    file.write_text(json.dumps({**whole, "rules": {**whole["rules"], **change}}))
    with pytest.raises(JournalError, match="decided.json: damaged"):
        last_decision(journal)


def test_an_older_file(tmp_path: Path) -> None:
    """A file of another version is refused with what to do."""
    journal = kept(tmp_path, decided(GuestSpec(name="a", vcpus=2)))
    file = tmp_path / DECIDED
    whole = json.loads(file.read_text())
    del whole["rules"]
    file.write_text(json.dumps({**whole, "kvmaff": 2}))
    with pytest.raises(JournalError, match=r"version 2, not 3: written by another kvmaff\. Decide anew"):
        last_decided(journal)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vcpu_policy", "mixd"),
        ("dedicated_vcpus", [9]),
        ("dedicated_vcpus", "1"),
        ("iothread_policy", 3),
        ("page_bytes", 3),
        ("affinity", [{"guest": "a"}]),
        ("anti_affinity", [{"guest": "a", "level": "l2"}]),
        ("trust_domain", ["red"]),
        ("devices", [1]),
        ("pool", ""),
    ],
)
def test_damage(tmp_path: Path, field: str, value: object) -> None:
    """A field that is not what it should be, or is missing, is damage, and the message names the file."""
    journal = kept(tmp_path, decided(GuestSpec(name="a", vcpus=2)))
    file = tmp_path / DECIDED
    whole = json.loads(file.read_text())
    spec = whole["guests"][0]["spec"]
    for damaged in ({**spec, field: value}, {key: spec[key] for key in spec if key != field}):
        whole["guests"][0]["spec"] = damaged
        file.write_text(json.dumps(whole))
        with pytest.raises(JournalError, match="decided.json: damaged"):
            last_decided(journal)
