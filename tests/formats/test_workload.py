"""Arrivals in a CSV: what is written is read, and everything that is wrong is said with its line and column."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import SpecError
from kvmaff.formats.workload import parse_workload, read_workload
from kvmaff.placement.workload import Arrival, Poisson

HEAD = "time,id,vcpus,memory,lifetime\n"

NAMES = hs.text(hs.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)
TIMES = hs.floats(0, 1e9)
ARRIVALS = hs.builds(
    Arrival,
    time=TIMES,
    name=NAMES,
    vcpus=hs.integers(1, 512),
    memory_bytes=hs.just(0) | hs.integers(1, 1 << 50),
    lifetime=TIMES | hs.just(math.inf),
)


@given(
    hs.lists(ARRIVALS, unique_by=lambda one: one.name, max_size=8),
    hs.permutations(["time", "id", "vcpus", "memory", "lifetime"]),
    hs.sampled_from([str.upper, str.lower, str.title]),
)
def test_what_is_written_is_read(guests: list[Arrival], order: list[str], case: object) -> None:
    """Any guests, columns in any order and case, come back as they were."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow([case(name) for name in order])  # type: ignore[operator]
    for one in guests:
        cells = {
            "time": repr(one.time),
            "id": one.name,
            "vcpus": one.vcpus,
            "memory": one.memory_bytes or "",
            "lifetime": "" if math.isinf(one.lifetime) else repr(one.lifetime),
        }
        rows.writerow([cells[name] for name in order])
    assert tuple(guests) == parse_workload(out.getvalue(), "w.csv").guests


def test_a_made_up_workload_comes_back() -> None:
    """A seeded workload written down is the same workload."""
    made = Poisson(cpus=64, count=50, memory_per_vcpu=1 << 30).arrivals(3)
    text = HEAD + "".join(f"{g.time!r},{g.name},{g.vcpus},{g.memory_bytes},{g.lifetime!r}\n" for g in made)
    assert made == parse_workload(text, "w.csv").arrivals(7)


def test_units_and_what_may_be_left_out(tmp_path: Path) -> None:
    """Memory may have a unit, columns that are not needed may be missing, and so may lines be empty."""
    file = tmp_path / "w.csv"
    file.write_text("\ufeffid, vCPUs ,TIME,memory\n\na,4,0.5,8 GiB\n , ,,\nb,1,2,\n")
    assert (
        Arrival(time=0.5, name="a", vcpus=4, memory_bytes=8 << 30, lifetime=math.inf),
        Arrival(time=2, name="b", vcpus=1, lifetime=math.inf),
    ) == read_workload(file).guests


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "w.csv: is empty"),
        ("\n\n", "w.csv: is empty"),
        ("time,id\n", "w.csv:1: column vcpus is missing"),
        ("time,id,vcpu\n", 'there is no column "vcpu"; did you mean "vcpus"?'),
        ("time,id,vcpus,time\n", "w.csv:1: column time is there twice"),
        ("time;id;vcpus\n", "w.csv:1: column time is missing"),
        (HEAD + "1,a,1,\n", "w.csv:2: has 4 fields, the header has 5"),
        (HEAD + "1,a,1,,,\n", "w.csv:2: has 6 fields, the header has 5"),
        (HEAD + "x,a,1,,\n", 'w.csv:2: time: is a number, as 12.5, up to 1e15, not "x"'),
        (HEAD + "nan,a,1,,\n", "w.csv:2: time: "),
        (HEAD + "inf,a,1,,\n", "w.csv:2: time: "),
        (HEAD + ",a,1,,\n", "w.csv:2: time: "),
        (HEAD + "1,,1,,\n", "w.csv:2: id: "),
        (HEAD + f"1,{'a' * 256},1,,\n", "w.csv:2: id: "),
        (HEAD + "1,a\x1b,1,,\n", "w.csv:2: id: "),
        (HEAD + "1,a,0,,\n", "w.csv:2: vcpus: is a number from 1 to"),
        (HEAD + "1,a,-1,,\n", "w.csv:2: vcpus: "),
        (HEAD + "1,a,1.5,,\n", "w.csv:2: vcpus: "),
        (HEAD + "1,a,٣,,\n", "w.csv:2: vcpus: "),
        (HEAD + "1,a,99999999999999999999,,\n", "w.csv:2: vcpus: "),
        (HEAD + "1,a,1,8 GB,\n", "w.csv:2: memory: "),
        (HEAD + "1,a,1,-5,\n", "w.csv:2: memory: "),
        (HEAD + "1,a,1,much,\n", "w.csv:2: memory: "),
        (HEAD + f"1,a,1,{'9' * 30},\n", "w.csv:2: memory: "),
        (HEAD + "1,a,1,,-1\n", "w.csv:2: lifetime: is a number from 0"),
        (HEAD + "1,a,1,,nan\n", "w.csv:2: lifetime: "),
        (HEAD + "1,a,1,,long\n", "w.csv:2: lifetime: "),
        (HEAD + "1,a,1,,\n2,a,1,,\n", 'w.csv:3: id: "a" is the guest of line 2 already'),
        (HEAD + '1,"a,1,,\n', "is no CSV"),
        (HEAD + "x,,0,-,-1\n" * 200, "w.csv: there is more that is wrong"),
    ],
)
def test_what_is_wrong(text: str, said: str) -> None:
    """Each mistake is said with file, line and column."""
    with pytest.raises(SpecError) as caught:
        parse_workload(text, "w.csv")
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_all_of_it() -> None:
    """All that is wrong is said, not the first."""
    with pytest.raises(SpecError) as caught:
        parse_workload(HEAD + "x,,0,8 GB,-1\n1,a,1,,\n1,a,1\n", "w.csv")
    fields = [problem.split(":")[1:3] for problem in caught.value.problems]
    assert [["2", " time"], ["2", " id"], ["2", " vcpus"], ["2", " memory"], ["2", " lifetime"]] == fields[:5]
    assert 6 == len(fields)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there, or is no text, is an error of its own."""
    with pytest.raises(SpecError, match="cannot be read"):
        read_workload(tmp_path / "none.csv")
    (tmp_path / "bin.csv").write_bytes(HEAD.encode() + b"\xff\xfe")
    with pytest.raises(SpecError, match="is not UTF-8"):
        read_workload(tmp_path / "bin.csv")
