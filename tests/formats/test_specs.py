"""Guests' specs from a TOML file."""

from __future__ import annotations

import os
import pickle
import re
import string
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import SpecError
from kvmaff.formats.matching import specs_for
from kvmaff.formats.specs import SpecEntry, parse_rules, parse_specs, read_specs
from kvmaff.formats.tomltext import parse_document
from kvmaff.guest.spec import Affinity, EmulatorPolicy, GuestCell, GuestSpec, Place, ThreadPolicy, VcpuPolicy
from tests.formats.written import host_rules, problems_of, spec_lists, written_rules, written_specs

README = Path(__file__).resolve().parents[2] / "README.md"
FIELDS = [
    "name",
    "uuid",
    "vcpus",
    "max_vcpus",
    "threads",
    "memory",
    "policy",
    "emulator",
    "iothreads",
    "cell",
    "devices",
    "dedicated_vcpus",
    "iothread_policy",
    "page_size",
    "core_kind",
    "pool",
    "affinity",
    "anti_affinity",
]


@given(hs.data(), spec_lists())
def test_round_trip(data: hs.DataObject, specs: list[GuestSpec]) -> None:
    """However specs are written as TOML, they are read as the same specs of guests to come."""
    written = data.draw(written_specs(specs))
    matched = specs_for(parse_specs(written.text, "h.toml"), ())
    assert specs == list(matched.to_come)
    assert () == matched.warnings == matched.running


@given(hs.data(), spec_lists(least=1))
def test_lines_are_right(data: hs.DataObject, specs: list[GuestSpec]) -> None:
    """Every field's line is the line where it stands, whatever comments, quotes and long lists stand before it."""
    written = data.draw(written_specs(specs))
    for entry in parse_specs(written.text, "h.toml"):
        places = dict(entry.places)
        for (number, key), line in written.lines.items():
            if number == entry.number:
                assert f"h.toml:{line}" == places[key]


@given(hs.data(), spec_lists(least=1))
def test_a_wrong_value_is_named_with_its_line(data: hs.DataObject, specs: list[GuestSpec]) -> None:
    """A value of a wrong type is named with its field and the line where it stands; nothing else is."""
    written = data.draw(written_specs(specs))
    number, key = data.draw(hs.sampled_from([place for place in written.lines if place[1]]))
    line = written.lines[number, key]
    rows = written.text.split("\n")
    head = re.match(r"[^=]*=", rows[line - 1])
    assert head is not None
    # what stood there stays in a comment, or follows as a key of its own
    kept = "\n".join(rows[line - 1 :])[head.end() :]
    text = "\n".join([*rows[: line - 1], f"{head[0]} 1979-05-27", f"spare = {kept}"])
    found = problems_of(text)
    assert any(re.match(rf"h\.toml:{line}: guest {number}\b.*: {key}: .*date", each) for each in found)
    spare = [each for each in found if f"h.toml:{line + 1}: " in each and '"spare" is no key' in each]
    assert 1 == len(spare)
    assert 2 == len(found)


@given(hs.data(), spec_lists(least=1, most=2))
def test_any_damage_is_an_answer(data: hs.DataObject, specs: list[GuestSpec]) -> None:
    """A valid file with any damage is valid or a SpecError that names lines that exist, and nothing else."""
    text = data.draw(written_specs(specs)).text
    text += data.draw(hs.just("") | host_rules().flatmap(written_rules))
    for _ in range(data.draw(hs.integers(1, 3))):
        first = data.draw(hs.integers(0, len(text)))
        last = first + data.draw(hs.integers(0, 12))
        junk = data.draw(
            hs.sampled_from(
                [*"\"'[]{}=.,#\n\r\0\x1b\ud800", '"""', "'''", "[[guest]]\n", "true", "-1", "nan"]
            )
            | hs.text(max_size=5)
            | hs.sampled_from(FIELDS)
            | hs.just(text[first:last] * 2)
        )
        text = text[:first] + junk + text[last:]
    try:
        assert isinstance(parse_specs(text, "h.toml"), tuple)
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            place = re.match(r"h\.toml(?::(\d+))?: ", problem)
            assert place is not None
            assert 1 <= int(place[1] or 1) <= text.count("\n") + 1
            assert problem.isprintable()


@given(hs.text(alphabet=string.printable + "\0\x1b\xe9\ud800"))
def test_any_text_is_an_answer(text: str) -> None:
    """Any text whatever is guests or a SpecError, and so is any text as a file's name."""
    for body, where in ((text, "h.toml"), ("x = 1", text)):
        try:
            parse_specs(body, where)
        except SpecError as error:
            assert all(problem.isprintable() for problem in error.problems)


VALUES = hs.recursive(
    hs.sampled_from(
        [
            *("true", "-1", "0", "3", "1e9", "nan", "12:00:00"),
            *('"a"', '"0-1"', '"dedicated"', '"mixed"', '"1 GiB"', '"65:00.0"'),
        ]
    ),
    lambda inner: (
        hs.just('[{ guest = "a" }]')
        | hs.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | hs.dictionaries(hs.sampled_from(FIELDS), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(
    hs.lists(
        hs.dictionaries(hs.sampled_from([*FIELDS, "cell.vcpus", "nmae"]), VALUES, max_size=5), max_size=3
    ),
    hs.sampled_from(
        [
            "",
            "[defaults]\npolicy = 1\n",
            "defaults = 3\n",
            "guest = 4\n",
            "host = 3\npool = [1]\n",
            "pool = {}\n",
            f"[host]\novercommit = {'9' * 400}\nreserved = '9999'\n",
            "[[pool]]\nname = 'a'\n[[pool]]\nname = 'a'\ncpus = '0'\n[[pool]]\ncpus = '0'\n",
        ]
    ),
)
def test_any_value_in_any_field_is_an_answer(tables: list[dict[str, str]], head: str) -> None:
    """TOML with any value in any field is guests or a SpecError."""
    text = head
    for table in tables:
        text += "[[guest]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
    try:
        parse_specs(text, "h.toml")
    except SpecError as error:
        assert all(problem.startswith("h.toml") and problem.isprintable() for problem in error.problems)


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is missing, a folder, too large, not UTF-8 or oddly named is a SpecError that says which and why."""
    large, latin = tmp_path / "large", tmp_path / "latin"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    latin.write_bytes(b"# one\n# caf\xe9\n")
    cases = {
        str(tmp_path / "none"): "none: cannot be read: No such file or directory",
        str(tmp_path): ": cannot be read: Is a directory",
        str(large): "large: is larger than 1048576 bytes, so it is no file of guests",
        str(latin): "latin:2: is not UTF-8: invalid continuation byte",
        "a\0b": "a?b: is no name of a file: embedded null byte",
        "/dev/zero": "/dev/zero: is larger than 1048576 bytes, so it is no file of guests",
        "no\x1bfile": "no?file: cannot be read: No such file or directory",
    }
    for path, expected in cases.items():
        with pytest.raises(SpecError) as caught:
            read_specs(path)
        (problem,) = caught.value.problems
        assert problem.endswith(expected)
        assert path == caught.value.path
        assert caught.value.problems == pickle.loads(pickle.dumps(caught.value)).problems


def test_a_file_at_the_bound_is_read(tmp_path: Path) -> None:
    """A file of 1 MiB, with a byte order mark and the line ends of other systems, is read; so is an empty one."""
    file = tmp_path / "h.toml"
    head = b'\xef\xbb\xbf[[guest]]\r\nname = "a"\r\nvcpus = 3\r\n#'
    file.write_bytes(head + b"x" * ((1 << 20) - len(head)))
    (entry,) = read_specs(file)
    assert ("a", 3) == (entry.name, entry.vcpus)
    assert f"{file}:3" == dict(entry.places)["vcpus"]
    file.write_bytes(b"")
    assert () == read_specs(os.fspath(file))


def test_defaults_hold_unless_a_guest_says_otherwise() -> None:
    """[defaults] give policies; a guest that says shared drops those that are for dedicated guests only."""
    text = """
[defaults]
policy = "dedicated"
thread_policy = "isolate"
emulator = "housekeeping"
[[guest]]
name = "a"
[[guest]]
name = "b"
thread_policy = "require"
emulator = "isolate"
[[guest]]
name = "c"
policy = "shared"
"""
    found = [
        (entry.vcpu_policy, entry.thread_policy, entry.emulator_policy)
        for entry in parse_specs(text, "h.toml")
    ]
    expected = [
        (VcpuPolicy.DEDICATED, ThreadPolicy.ISOLATE, EmulatorPolicy.HOUSEKEEPING),
        (VcpuPolicy.DEDICATED, ThreadPolicy.REQUIRE, EmulatorPolicy.ISOLATE),
        (VcpuPolicy.SHARED, None, EmulatorPolicy.HOUSEKEEPING),
    ]
    assert expected == found


def test_a_default_that_is_called_as_a_policy_is_none() -> None:
    """A guest that says shared drops policies only: a pool or a trust domain may be called "isolate"."""
    text = """
[defaults]
iothread_policy = "isolate"
pool = "isolate"
trust_domain = "require"
[[guest]]
name = "a"
policy = "shared"
"""
    (entry,) = parse_specs(text, "h.toml")
    assert {"vcpu_policy": VcpuPolicy.SHARED, "pool": "isolate", "trust_domain": "require"} == entry.given()


def test_dedicated_vcpus_say_mixed() -> None:
    """Who names dedicated vCPUs is mixed, whatever the defaults; the last of 8192 may be one of them."""
    text = """
[defaults]
policy = "dedicated"
[[guest]]
name = "a"
vcpus = 4
dedicated_vcpus = "1-2"
[[guest]]
name = "b"
dedicated_vcpus = [8191]
"""
    found = [(entry.vcpu_policy, entry.dedicated_vcpus) for entry in parse_specs(text, "h.toml")]
    assert [(VcpuPolicy.MIXED, (1, 2)), (VcpuPolicy.MIXED, (8191,))] == found


def test_affinity_as_tables_of_its_own() -> None:
    """[[guest.affinity]] says the same as a list of tables, and a pattern's guests may be near to any name."""
    text = """
[[guest]]
name = "w*"
[[guest.affinity]]
guest = "guest"
level = "core"
[[guest.affinity]]
guest = "db"
"""
    (entry,) = parse_specs(text, "h.toml")
    assert (Affinity(guest="guest", level=Place.CORE), Affinity(guest="db")) == entry.affinity


def test_an_entry_is_a_value() -> None:
    """Entries of the same words are equal, hash alike and survive pickling; a part that is not given is None."""
    text = "[[guest]]\nname = 'a'\nmemory = '1 KiB'\n[[guest.cell]]\nvcpus = '0-1'\n"
    (one,), (two,) = parse_specs(text, "h.toml"), parse_specs(f"\n\n{text}", "h.toml")
    expected = SpecEntry(
        path="h.toml", number=1, name="a", memory_bytes=1024, cells=(GuestCell(vcpus=(0, 1), memory_bytes=0),)
    )
    assert expected == one == two == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(two)
    assert one.threads is None


@hypothesis.settings(max_examples=60)
@given(hs.data(), spec_lists(least=1))
def test_every_key_has_a_line(data: hs.DataObject, specs: list[GuestSpec]) -> None:
    """The scan for lines finds just the keys that tomllib finds, and no other."""
    document = parse_document(data.draw(written_specs(specs)).text, "h.toml")
    paths = {("guest",)}
    for place, guest in enumerate(document.data["guest"]):
        paths |= {("guest", place), *(("guest", place, key) for key in guest)}
        for number, cell in enumerate(guest.get("cell", ())):
            own = ("guest", place, "cell", number)
            paths |= {own, *((*own, key) for key in cell)}
    assert paths == set(document.lines)


def test_readme_example() -> None:
    """The example of the README is valid and shows every field."""
    found = re.search(r"^```toml\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    entries, rules = parse_specs(found[1], "README.md"), parse_rules(found[1], "README.md")
    given = {field for entry in entries for field in entry.given()}
    assert set(SpecEntry.__slots__) - {"path", "number", "name", "uuid", "places", "__weakref__"} == given
    assert {True, False} == {entry.exact for entry in entries}
    assert any(entry.uuid for entry in entries)
    assert () == specs_for(entries, ()).to_come[1:]
    assert rules.reserved
    assert rules.overcommit
    assert {entry.pool for entry in entries} >= {pool.name for pool in rules.pools} > set()
    assert all(pool.overcommit for pool in rules.pools)
