"""What is wrong with a file of guests' specs is said: all of it, with the line and the field."""

from __future__ import annotations

import re
import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from tests.formats.written import problems_of

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
LONG = f'"{"n" * 37}..."'
TABLES = 'is a list of tables such as { guest = "db", level = "l3" }'
MEMORY = 'memory: is a number of bytes, or a text such as "8 GiB" or "512 MiB"'


def test_three_mistakes_are_three_problems() -> None:
    """Three mistakes in one file are all said, in the order of the file, each with its line and guest."""
    text = """
[[guest]]
name = "db"
memory = "8 GB"
vcpu = 4

[[guest]]
name = "w*"
policy = "dedicatd"
"""
    words = '"dedicated", "shared", "mixed", not "dedicatd"; did you mean "dedicated"?'
    expected = [
        'h.toml:4: guest 1 ("db"): memory: has a unit that is read as 1000s and as 1024s; for 1024s write "8 GiB"',
        'h.toml:5: guest 1 ("db"): "vcpu" is no key here; did you mean "vcpus"?',
        f'h.toml:9: guest 2 ("w*"): policy: is one of {words}',
    ]
    assert expected == problems_of(text)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("vcpus = true", "vcpus: is a whole number from 1 to 8192, not true"),
        ("vcpus = 2.0", "vcpus: is a whole number from 1 to 8192, not 2.0"),
        ("vcpus = 0", "vcpus: is a whole number from 1 to 8192, not 0"),
        ("vcpus = 8193", "vcpus: is a whole number from 1 to 8192, not 8193"),
        (
            f"vcpus = 0x{'f' * 5000}",
            "vcpus: is a whole number from 1 to 8192, not a number of more than 20 digits",
        ),
        ("max_vcpus = []", "max_vcpus: is a whole number from 1 to 8192, not a list"),
        ("threads = 9", "threads: is a whole number from 1 to 8, not 9"),
        ("memory = -1", f"memory: is from 1 byte to {2**63 - 1}, not -1"),
        ("memory = '9999999 TiB'", f'memory: is from 1 byte to {2**63 - 1}, not "9999999 TiB"'),
        ("memory = true", 'memory: is a number of bytes, or a text such as "8 GiB" or "512 MiB", not true'),
        ("memory = '8G'", 'memory: has a unit that is read as 1000s and as 1024s; for 1024s write "8 GiB"'),
        (
            "memory = '8 gib'",
            f'{MEMORY}, not "8 gib"; for 1024s write "8 GiB"',
        ),
        (
            "memory = '8 apples'",
            f'{MEMORY}, not "8 apples"; units are B, KiB, MiB, GiB, TiB',
        ),
        (
            "memory = '1.5 GiB'",
            'memory: is a number of bytes, or a text such as "8 GiB" or "512 MiB", not "1.5 GiB"',
        ),
        ("policy = 1", 'policy: is one of "dedicated", "shared", "mixed", not 1'),
        (
            "thread_policy = 'isolated'",
            'thread_policy: is one of "prefer", "require", "isolate", not "isolated"; did you mean "isolate"?',
        ),
        ("emulator = 'x'", 'emulator: is one of "share", "isolate", "housekeeping", not "x"'),
        ("iothreads = 'io1'", 'iothreads: is a list of IOThreads\' names, not "io1"'),
        ("iothreads = ['a', 'b', 'a']", 'iothreads: item 3, "a", is item 1 again'),
        (r'iothreads = ["\u001b[2J"]', 'iothreads: item 1 is empty or not printable: "?[2J"'),
        ("device_nodes = [0, true]", "device_nodes: item 2 is a whole number from 0 to 1023, not true"),
        ("uuid = 'db'", f'uuid: is a UUID such as "{UUID}", not "db"'),
        ("uuid = {}", f'uuid: is a UUID such as "{UUID}", not a table'),
        (
            "iothread_policy = 'no'",
            'iothread_policy: is one of "share", "isolate", "housekeeping", not "no"',
        ),
        ("devices = '65:00.0'", 'devices: is a list of PCI addresses, not "65:00.0"'),
        ("devices = ['65:00.0', '0000:65:00.0']", 'devices: item 2, "0000:65:00.0", is item 1 again'),
        (
            "devices = ['eth0']",
            (
                "devices: item 1 'eth0' is no PCI address; one looks like 0000:65:00.0, or 65:00.0 in domain 0000"
            ),
        ),
        ("dedicated_vcpus = ''", "dedicated_vcpus: names no vCPU"),
        ("vcpus = 4\ndedicated_vcpus = '3-4'", "dedicated_vcpus: are of the vCPUs 0-3"),
        (
            "vcpus = 2\ndedicated_vcpus = '0-1'",
            "dedicated_vcpus: are all of them; that is the vCPU policy dedicated",
        ),
        (
            "policy = 'dedicated'\ndedicated_vcpus = '0'",
            "dedicated_vcpus: need the vCPU policy mixed, not dedicated",
        ),
        (
            "policy = 'mixed'",
            "dedicated_vcpus: names the vCPUs that are dedicated; the vCPU policy mixed needs some",
        ),
        (
            "page_size = '3 MiB'",
            'page_size: is a power of two up to 1 TiB, such as "2 MiB", not "3 MiB"',
        ),
        (
            "page_size = '2 MiB'",
            "page_size: needs the guest's memory: how many pages are wanted is not known",
        ),
        (
            "page_size = 1024\nmemory = 1025",
            "memory: 1025 bytes are no whole number of pages of 1024",
        ),
        ("core_kind = ''", 'core_kind: is empty or not printable: ""'),
        ("trust_domain = 3", "trust_domain: is a text, not 3"),
        (f"pool = '{'n' * 129}'", f"pool: is longer than 128 characters: {LONG}"),
        ("affinity = 'web'", f'affinity: {TABLES}, not "web"'),
        ("affinity = ['web']", f"affinity: {TABLES}, not a list"),
        ("affinity = [{guest = 'web'}, {}]", "affinity: item 2: guest: is missing; the other guest's name"),
        ("affinity = [{guest = 'w*'}]", "affinity: item 1: guest: is a name, no pattern"),
        ("affinity = [{guest = ['w']}]", "affinity: item 1: guest: is a text, not a list"),
        ("anti_affinity = [{guest = 'db'}]", "anti_affinity: names the guest itself"),
        (
            "anti_affinity = [{guest = 'a', level = 'l2'}]",
            'anti_affinity: item 1: level: is one of "node", "l3", "core", not "l2"',
        ),
        (
            "anti_affinity = [{guest = 'a', lvl = 'l3'}]",
            'anti_affinity: item 1: "lvl" is no key here; did you mean "level"?',
        ),
        (
            "affinity = [{guest = 'a', level = 'core'}]\nanti_affinity = [{guest = 'a'}]",
            "anti_affinity: keeps it off the node of a, whose core its affinity wants",
        ),
        ("cell = 3", "cell: is written [[guest.cell]], one such table a cell"),
        ("vcpus = 3\nthreads = 2", "threads: 2 threads a core do not divide 3 vCPUs"),
        (
            "vcpus = 3\nthread_policy = 'require'",
            "thread_policy: require fills pairs of siblings, which 3 vCPUs do not",
        ),
        ("max_vcpus = 3\nthreads = 2", "threads: 2 threads a core do not divide 3 vCPUs"),
        (
            "threads = 2\nthread_policy = 'isolate'",
            "thread_policy: isolate keeps siblings empty, the guest's threads=2 needs them",
        ),
        ("policy = 'shared'\nemulator = 'isolate'", "emulator: isolate needs the vCPU policy dedicated"),
        ("vcpus = 4\ncell = [{vcpus = '0-2'}]", "cell: must hold each of the vCPUs 0-3 once"),
        ("[[guest.cell]]\nvcpus = '1-2'", "cell: must hold each of the vCPUs 0-1 once"),
        ("[[guest.cell]]\nmemory = 1", 'cell 1: vcpus: is missing; a list such as "0-3,5"'),
        (
            "[[guest.cell]]\nvcpus = '0-x'",
            "cell 1: vcpus: '0-x' is no cpulist: at character 3, a CPU number belongs here",
        ),
        ("[[guest.cell]]\nvcpus = []", "cell 1: vcpus: names no vCPU"),
        ("[[guest.cell]]\nvcpus = [1, 1]", "cell 1: vcpus: item 2, 1, is item 1 again"),
        ("[[guest.cell]]\nvcpu = 1\nvcpus = [0]", 'cell 1: "vcpu" is no key here; did you mean "vcpus"?'),
    ],
)
def test_what_is_wrong_in_a_field(line: str, problem: str) -> None:
    """A wrong field is one problem with its guest and its words, on a line of that guest."""
    (found,) = problems_of(f'[[guest]]\nname = "db"\n{line}\n')
    place, _, rest = found.partition(': guest 1 ("db"): ')
    assert problem == rest
    assert re.fullmatch(r"h\.toml:[1-5]", place)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[guest]]\nname = ''", 'h.toml:2: guest 1: name: is empty or not printable: ""'),
        ("[[guest]]\nname = 3", "h.toml:2: guest 1: name: is a text, not 3"),
        (
            '[[guest]]\nname = "\\u001b[31mroot\\u0007"',
            'h.toml:2: guest 1 ("?[31mroot?"): name: is empty or not printable: "?[31mroot?"',
        ),
        (
            f"[[guest]]\nname = '{'n' * 129}'",
            f"h.toml:2: guest 1 ({LONG}): name: is longer than 128 characters, where guests' names are cut: {LONG}",
        ),
        (
            "[[guest]]\nname = 'pid:3'",
            'h.toml:2: guest 1 ("pid:3"): name: is no selector; for a UUID write uuid = "...", and not name = "pid:3"',
        ),
        (
            "\n[[guest]]\nvcpus = 3",
            'h.toml:2: guest 1: has neither a name nor a uuid; name = "*" is every guest',
        ),
        (
            "[[guest]]\nname = 'a'\n[[guest]]\nname = 'a'",
            'h.toml:4: guest 2 ("a"): name: "a" is guest 1\'s already',
        ),
        (
            f"[[guest]]\nuuid = '{UUID}'\n[[guest]]\nuuid = '{UUID.upper()}'",
            f'h.toml:4: guest 2 (uuid {UUID}): uuid: "{UUID}" is guest 1\'s already',
        ),
        (
            f"[[guest]]\nuuid = '{UUID}'\nname = 'a*'",
            'h.toml:3: guest 1 ("a*"): name: is a pattern, but the uuid means one guest',
        ),
        ("[guest]\nname = 'a'", "h.toml:1: guest: is written [[guest]], one such table a guest"),
        (
            "[[guest]]\nname = 'a'\ncell.a = 1\ncell.b = 2",
            'h.toml:3: guest 1 ("a"): cell: is written [[guest.cell]], one such table a cell',
        ),
        ("guest = [1]", "h.toml:1: guest 1: is a table, not 1"),
        (
            "guest = [\n{name = 'a', vcpus = 0}]",
            'h.toml:1: guest 1 ("a"): vcpus: is a whole number from 1 to 8192, not 0',
        ),
        ("[[gest]]", 'h.toml:1: "gest" is no key here; did you mean "guest"?'),
        ("[x]", 'h.toml:1: "x" is no key here; known are guest, defaults, host, pool'),
        ("defaults = 1", "h.toml:1: defaults: is a table [defaults], not 1"),
        (
            "[defaults]\nvcpus = 1",
            (
                'h.toml:2: defaults: "vcpus" is no key here; known are policy, thread_policy, emulator, '
                "iothread_policy, core_kind, trust_domain, pool"
            ),
        ),
        (
            "[defaults]\npolicy = 'a'",
            'h.toml:2: defaults: policy: is one of "dedicated", "shared", "mixed", not "a"',
        ),
        ("x = " + "[" * 9000, "h.toml: is nested too deeply"),
        ("\nx." + "x." * 9000 + "x = 1", "h.toml:2: a key of 9002 parts; none here has more than 32"),
    ],
)
def test_what_is_wrong_in_a_file(text: str, problem: str) -> None:
    """What is wrong with a file as a whole is one problem with the line that is known."""
    assert [problem] == problems_of(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\nb = ?", "h.toml:2: column 5: "),
        ("a = 1\n\n[[b]", "h.toml:3: column "),
        ("a = '''\n\n", "h.toml: at the end of the file: "),
        ("[defaults]\n[defaults]", "h.toml:2: column "),
        ('a = 1\nb = "\x1b"', "h.toml:2: column "),
        ("[[guest]]\nvcpus = 1\nvcpus = 2", 'h.toml:3: column 10: "vcpus" is there already'),
        ("[[guest]]\nvcpus = 1\n[guest.vcpus]\n", 'h.toml:3: column 13: "guest.vcpus" is there already'),
        ("a = {b = 1, b = 2}", "h.toml:1: column "),
        ("a = 2024-02-31", "h.toml:1: column "),
        ("x = " + "9" * 5000, "h.toml: Exceeds the limit"),
    ],
)
def test_what_is_no_toml(text: str, place: str) -> None:
    """A text that is no TOML is one problem with its line and column, the key too where one stands twice."""
    (found,) = problems_of(text)
    assert found.startswith(place)
    assert len(found) > len(place)


@pytest.mark.parametrize(
    "unit", ["a.", '""".', '"\\', "'''", "[[", "{", "{a=", "{a.", '"\n', '\\"', "[[b]]\n"]
)
def test_no_text_takes_long(unit: str) -> None:
    """A large file of nothing but dots, quotes or brackets is refused in no more than seconds."""
    size = 1 << 20
    began = time.process_time()
    problems_of("x=" + unit * (size // len(unit)))
    problems_of(unit * (size // len(unit)))
    assert time.process_time() - began < 15


def test_a_mistake_hides_no_other_and_invents_none() -> None:
    """Policies are judged beside a mistake; what could follow from the mistake itself is not told."""
    text = """[[guest]]
name = "a"
vcpus = 4
max_vcpu = 8
policy = "shared"
thread_policy = "isolate"
cell = [{vcpus = "0-7"}]
"""
    expected = [
        'h.toml:4: guest 1 ("a"): "max_vcpu" is no key here; did you mean "max_vcpus"?',
        'h.toml:6: guest 1 ("a"): thread_policy: isolate needs the vCPU policy dedicated',
    ]
    assert expected == problems_of(text)


def test_no_mistake_hides_a_contradiction() -> None:
    """A field that is wrong by itself is left out of the spec, and of the others every contradiction is named."""
    text = """[[guest]]
name = "z"
vcpus = 5
threads = 2
policy = "dedicated"
memory = "8 GiB"
devices = ["zz"]
affinity = [{ guest = "z" }]
[[guest.cell]]
vcpus = "0-1"
memory = "5 GiB"
[[guest.cell]]
vcpus = "1-2"
memory = "2 GiB"
[[guest]]
name = "y"
policy = "shared"
dedicated_vcpus = "0"
bogus = 1
"""
    address = "is no PCI address; one looks like 0000:65:00.0, or 65:00.0 in domain 0000"
    together = f"have {7 << 30} bytes of memory together, the guest has {8 << 30}"
    expected = {
        'h.toml:4: guest 1 ("z"): threads: 2 threads a core do not divide 5 vCPUs',
        f"h.toml:7: guest 1 (\"z\"): devices: item 1 'zz' {address}",
        'h.toml:8: guest 1 ("z"): affinity: names the guest itself',
        'h.toml:9: guest 1 ("z"): cell: must hold each of the vCPUs 0-4 once',
        f'h.toml:9: guest 1 ("z"): cell: {together}',
        'h.toml:18: guest 2 ("y"): dedicated_vcpus: need the vCPU policy mixed, not shared',
    }
    *found, bogus = problems_of(text)
    assert expected == set(found)
    assert len(expected) == len(found)
    assert bogus.startswith('h.toml:19: guest 2 ("y"): "bogus" is no key here')


@attrs.frozen(eq=False)
class Mistake:
    """Lines of a guest's table by their keys, what is wrong with them and on which; and what must not be for that."""

    lines: dict[str, str]
    key: str
    problem: str
    needs: frozenset[str] = frozenset()


def _mistake(problem: str, *needs: str, **lines: str) -> Mistake:
    key = problem.partition(":")[0]
    return Mistake(lines, key if key in lines else next(iter(lines)), problem, frozenset(needs))


COUNT = ("vcpus", "max_vcpus")
OWN = (
    _mistake("vcpus: is a whole number from 1 to 8192, not 0", vcpus="0"),
    _mistake("max_vcpus: is a whole number from 1 to 8192, not a list", max_vcpus="[]"),
    _mistake("threads: is a whole number from 1 to 8, not 9", threads="9"),
    _mistake("memory: is from 1 byte to", memory="-1"),
    _mistake('policy: is one of "dedicated", "shared", "mixed", not 1', policy="1"),
    _mistake('thread_policy: is one of "prefer"', thread_policy="'x'"),
    _mistake('emulator: is one of "share"', emulator="'x'"),
    _mistake('iothread_policy: is one of "share"', iothread_policy="'x'"),
    _mistake('iothreads: item 2, "a", is item 1 again', iothreads="['a', 'a']"),
    _mistake("device_nodes: item 1 is a whole number", device_nodes="[true]"),
    _mistake("devices: item 1 'zz' is no PCI address", devices="['zz']"),
    _mistake("core_kind: is empty", core_kind="''"),
    _mistake("trust_domain: is a text, not 3", trust_domain="3"),
    _mistake("pool: is empty", pool="''"),
    _mistake("page_size: is a power of two", page_size="'3 MiB'"),
    _mistake("dedicated_vcpus: names no vCPU", dedicated_vcpus="''"),
    _mistake("affinity: item 1: guest: is a name, no pattern", affinity="[{guest = 'w*'}]"),
    _mistake("anti_affinity: is a list of tables", anti_affinity="[1]"),
    _mistake("cell 1: memory: is from 1 byte to", cell="[{vcpus = '0-4', memory = 0}]"),
    _mistake("cell 2: vcpus: names no vCPU", cell="[{vcpus = '0-1'}, {vcpus = ''}]"),
    _mistake('"bogus" is no key here', bogus="1"),
    _mistake('"thread" is no key here; did you mean', "threads", thread="3"),
)
"""Fields that are wrong by themselves."""
BETWEEN = (
    _mistake("threads: 2 threads a core do not divide 5 vCPUs", *COUNT, threads="2"),
    _mistake("max_vcpus: is a number from vcpus (5) to 8192, not 4", "vcpus", max_vcpus="4"),
    _mistake("cell: must hold each of the vCPUs 0-4 once", *COUNT, cell="[{vcpus = '1-2'}, {vcpus = '0-1'}]"),
    _mistake(
        "cell: have 5 bytes of memory together", *COUNT, memory="8", cell="[{vcpus = '0-4', memory = 5}]"
    ),
    _mistake("memory: 7 bytes are no whole number of pages of 4", "cell", memory="7", page_size="4"),
    _mistake("page_size: needs the guest's memory", "memory", "cell", page_size="4096"),
    _mistake(
        "dedicated_vcpus: need the vCPU policy mixed, not shared", policy="'shared'", dedicated_vcpus="'0'"
    ),
    _mistake("dedicated_vcpus: are of the vCPUs 0-4", *COUNT, "policy", dedicated_vcpus="'9'"),
    _mistake("thread_policy: isolate needs the vCPU policy", policy="'shared'", thread_policy="'isolate'"),
    _mistake("emulator: isolate needs the vCPU policy", policy="'shared'", emulator="'isolate'"),
    _mistake(
        "thread_policy: require fills pairs of siblings, which 5 vCPUs do not",
        *COUNT,
        "policy",
        "dedicated_vcpus",
        thread_policy="'require'",
    ),
    _mistake(
        "thread_policy: isolate keeps siblings empty, the guest's threads=5",
        threads="5",
        thread_policy="'isolate'",
    ),
    _mistake("affinity: names the guest itself", affinity="[{guest = 'z'}]"),
    _mistake(
        "anti_affinity: keeps it off the node of a",
        affinity="[{guest = 'a'}]",
        anti_affinity="[{guest = 'a'}]",
    ),
)
"""Fields that contradict each other, of a guest of five vCPUs."""


@given(hs.data())
def test_any_mistakes(data: hs.DataObject) -> None:
    """Of any mistakes that have no field in common each is answered on its line, and wrong fields invent none."""
    drawn: list[Mistake] = []
    lines: dict[str, str] = {}
    needs: set[str] = set()
    only_own = data.draw(hs.booleans())
    for one in data.draw(
        hs.lists(hs.sampled_from(OWN if only_own else OWN + BETWEEN), min_size=2, unique=True)
    ):
        if not (needs | lines.keys()) & one.lines.keys() and not one.needs & lines.keys():
            drawn.append(one)
            lines |= one.lines
            needs |= one.needs
    table = data.draw(hs.permutations(list({"vcpus": "5", **lines}.items())))
    defaults = data.draw(
        hs.sampled_from(("", "[defaults]\npolicy = 'dedicated'\nemulator = 'housekeeping'\n"))
    )
    text = "".join([defaults, "[[guest]]\nname = 'z'\n", *(f"{key} = {value}\n" for key, value in table)])
    found = problems_of(text)
    rows = {key: row for row, key in enumerate((line.partition(" =")[0] for line in text.splitlines()), 1)}
    for one in drawn:
        start = f'h.toml:{rows[one.key]}: guest 1 ("z"): {one.problem}'
        assert any(what.startswith(start) for what in found), (start, found)
    if only_own:
        assert len(drawn) == len(found)
