"""Which entry of a file is for which guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import SpecError, SpecMismatch
from kvmaff.formats.matching import MatchedSpecs, specs_for, void_affinities
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.guest import Guest, GuestThread, Role
from kvmaff.guest.spec import MAX_VCPUS, GuestCell, GuestSpec, VcpuPolicy
from kvmaff.testing import inputs_guests as st
from tests.conftest import Qemu, needs_qemu
from tests.formats.written import written_specs

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
RUNS = 'the running guest "db" (pid 10)'
ADVICE = "say which by uuid, or mean all by a pattern"


def running(
    name: str,
    *,
    vcpus: tuple[int | None, ...] = (0, 1),
    pid: int = 10,
    uuid: str | None = None,
    iothreads: tuple[str, ...] = (),
    doubt: str | None = None,
) -> Guest:
    """A running guest."""
    parts = [(Role.VCPU, index, f"CPU {index}/KVM") for index in vcpus]
    parts += [(Role.EMULATOR, None, "qemu-system-x86")]
    parts += [
        (Role.IOTHREAD, index, f"IO {each}".encode()[:15].decode("utf-8", "ignore"))
        for index, each in enumerate(iothreads)
    ]
    threads = [
        GuestThread(
            pid=pid,
            tid=pid + place,
            ino=1,
            start=1,
            role=role,
            index=index,
            name=comm,
            mask=None,
            cpu=None,
            iothread=comm.removeprefix("IO ") if role is Role.IOTHREAD else None,
        )
        for place, (role, index, comm) in enumerate(parts)
    ]
    return Guest(
        name=name,
        uuid=uuid,
        pid=pid,
        start=1,
        seen=2,
        vmm="qemu",
        kvm=True,
        verified=True,
        why=None,
        doubt=doubt,
        threads=tuple(threads),
    )


def matched(text: str, *guests: Guest, default: VcpuPolicy = VcpuPolicy.SHARED) -> MatchedSpecs:
    """What a text and guests give together."""
    return specs_for(parse_specs(text, "h.toml"), guests, default=default)


def spec_of(text: str, guest: Guest, default: VcpuPolicy = VcpuPolicy.SHARED) -> GuestSpec:
    """The spec of one running guest."""
    found = matched(text, guest, default=default)
    assert ((), ()) == (found.to_come, found.warnings)
    ((same, spec),) = found.running
    assert guest is same
    return spec


def problems(text: str, *guests: Guest) -> tuple[str, ...]:
    """What is wrong between a text and guests."""
    with pytest.raises(SpecError) as caught:
        matched(text, *guests)
    assert "h.toml" == caught.value.path
    return caught.value.problems


PLAIN_NAMES = hs.text(alphabet="abcdef-0", min_size=1, max_size=8)


@given(hs.data(), st.guest_specs(name=PLAIN_NAMES))
def test_a_guest_that_runs_as_its_entry_says_has_its_spec(data: hs.DataObject, spec: GuestSpec) -> None:
    """A guest whose threads are those of its entry gets just that spec, whichever of its vCPUs are plugged in."""
    names = data.draw(hs.lists(PLAIN_NAMES, unique=True, max_size=3))
    spec = spec.with_changes(iothreads=tuple(names))
    plugged = data.draw(hs.permutations(range(spec.max_vcpus)))[: spec.vcpus]
    guest = running(spec.name, uuid=spec.uuid, vcpus=tuple(sorted(plugged)), iothreads=spec.iothreads)
    assert spec == spec_of(data.draw(written_specs([spec])).text, guest)


@given(
    hs.lists(hs.integers(0, 40), min_size=1, max_size=8, unique=True),
    hs.sampled_from([VcpuPolicy.SHARED, VcpuPolicy.DEDICATED]),
)
def test_a_guest_without_entry(vcpus: list[int], default: VcpuPolicy) -> None:
    """A running guest without entry gets what it shows: its vCPUs, places up to the highest, IOThreads, the default."""
    guest = running("a", uuid=UUID, vcpus=tuple(sorted(vcpus)), iothreads=("x", "y"))
    expected = GuestSpec(
        name="a",
        uuid=UUID,
        vcpus=len(vcpus),
        max_vcpus=max(vcpus) + 1,
        iothreads=("x", "y"),
        vcpu_policy=default,
    )
    assert expected == spec_of("", guest, default)
    assert expected.vcpu_policy is default


def test_exact_goes_before_patterns_and_patterns_in_order() -> None:
    """An exact name or a UUID goes before patterns wherever it stands; of patterns the first that fits holds."""
    text = f"""
[[guest]]
name = "web-*"
memory = 1
[[guest]]
name = "*"
memory = 2
[[guest]]
name = "web-1"
memory = 3
[[guest]]
uuid = "{UUID}"
memory = 4
[[guest]]
name = "w?b-[23]"
memory = 5
"""
    guests = [
        running("web-2", pid=10),
        running("web-1", pid=20),
        running("db", pid=30),
        running("web-3", pid=40, uuid=UUID),
        running("WEB-2", pid=50),
    ]
    found = matched(text, *guests)
    assert [1, 3, 2, 4, 2] == [spec.memory_bytes for _, spec in found.running]
    assert guests == [guest for guest, _ in found.running]
    assert () == found.warnings == found.to_come


def test_a_guest_without_a_name_of_its_own() -> None:
    """Guests that are only called by their process are meant by a pattern."""
    assert 3 == spec_of("[[guest]]\nname = 'pid:*'\nmemory = 3\n", running("pid:10")).memory_bytes


def test_who_is_to_come_and_who_is_left_over() -> None:
    """An exact name with vcpus is a guest to come; whatever else means no guest is a warning with its line."""
    text = f"""
[[guest]]
name = "new"
uuid = "{UUID}"
vcpus = 4
[[guest]]
name = "old"
[[guest]]
name = "web-*"
vcpus = 2
[[guest]]
uuid = "{UUID.replace("6", "7")}"
vcpus = 2
"""
    found = matched(text, running("db"), default=VcpuPolicy.DEDICATED)
    dedicated = VcpuPolicy.DEDICATED
    assert (GuestSpec(name="new", uuid=UUID, vcpus=4, vcpu_policy=dedicated),) == found.to_come
    assert (
        'h.toml:6: guest 2 ("old"): means no running guest, and a guest to come needs vcpus',
        'h.toml:8: guest 3 ("web-*"): means no running guest, and a pattern stands for none to come',
        f"h.toml:11: guest 4 (uuid {UUID.replace('6', '7')}): means no running guest, and a guest to come needs a name",
    ) == found.warnings


def test_a_uuid_alone_decides() -> None:
    """With a UUID the name finds no guest; a running guest of that name and another UUID is an error."""
    text = f'[[guest]]\nname = "db"\nuuid = "{UUID}"\nvcpus = 2\n'
    assert "other" == spec_of(text, running("other", uuid=UUID)).name
    assert (
        'h.toml:3: guest 1 ("db"): uuid: the guest that runs under this name does not show this UUID',
    ) == problems(text, running("db"))


def test_rivals_are_named() -> None:
    """Two entries with the same right to a guest, and an entry for one guest that means two, are errors."""
    text = f'[[guest]]\nname = "db"\n[[guest]]\nuuid = "{UUID}"\n'
    assert (
        f'h.toml:1: guest 1 ("db"): means {RUNS}, and so does guest 2 (uuid {UUID}) of h.toml:3',
    ) == problems(text, running("db", uuid=UUID))
    assert (
        f'h.toml:2: guest 1 ("db"): name: 2 running guests go by it: pid:10, pid:20; {ADVICE}',
        f"h.toml:4: guest 2 (uuid {UUID}): uuid: 2 running guests go by it: pid:30, pid:40",
    ) == problems(
        text,
        running("db"),
        running("db", pid=20),
        running("a", pid=30, uuid=UUID),
        running("b", pid=40, uuid=UUID),
    )


@pytest.mark.parametrize(
    ("given_fields", "guest", "problem"),
    [
        ("vcpus = 4", running("a"), ":3: {}vcpus: 4 is not what runs, 2 vCPUs"),
        ("vcpus = 1", running("a"), ":3: {}vcpus: 1 is not what runs, 2 vCPUs"),
        ("max_vcpus = 1", running("a"), ":3: {}max_vcpus: 1 is not what runs, 2 vCPUs"),
        (
            "vcpus = 1\nmax_vcpus = 4",
            running("a", vcpus=(0, 4)),
            ":4: {}max_vcpus: 4 is not above the number of a vCPU that runs, 4",
        ),
        ("iothreads = ['x']", running("a"), ":3: {}iothreads: x are not what runs, none"),
        (
            "iothreads = []",
            running("a", iothreads=("x", "y")),
            ":3: {}iothreads: none are not what runs, x, y",
        ),
        (
            "threads = 2",
            running("a", vcpus=(0, 1, 2)),
            ":3: {}threads: 2 threads a core do not divide 3 vCPUs",
        ),
        (
            "thread_policy = 'isolate'",
            running("a"),
            ":3: {}thread_policy: isolate needs the vCPU policy dedicated",
        ),
        (
            "cell = [{vcpus = '0-1'}]",
            running("a", vcpus=(0, 1, 2)),
            ":3: {}cell: must hold each of the vCPUs 0-2 once",
        ),
    ],
)
def test_what_contradicts_a_running_guest(given_fields: str, guest: Guest, problem: str) -> None:
    """What is given and is not what runs is an error with the line of the field, and names the guest."""
    (found,) = problems(f"[[guest]]\nname = 'a*'\n{given_fields}\n", guest)
    expected = f"h.toml{problem.format('guest 1 (' + chr(34) + 'a*' + chr(34) + '): ')}"
    assert f'{expected}; this is the running guest "a" (pid 10)' == found


def test_all_contradictions_are_told() -> None:
    """Contradictions of several guests, and of an entry for one to come, are told together."""
    text = "[[guest]]\nname = 'a'\nvcpus = 4\niothreads = ['x']\n[[guest]]\nname = 'b'\nmax_vcpus = 1\n"
    found = problems(text, running("a"), running("b", pid=20))
    assert ["h.toml:3:", "h.toml:4:", "h.toml:7:"] == [each.split(" ")[0] for each in found]


def test_plugged_vcpus_are_no_contradiction() -> None:
    """Between vcpus and max_vcpus any number may run; the spec has what runs."""
    text = "[[guest]]\nname = 'a'\nvcpus = 2\nmax_vcpus = 4\n"
    for count in (2, 3, 4):
        spec = spec_of(text, running("a", vcpus=tuple(range(count))))
        assert (count, 4) == (spec.vcpus, spec.max_vcpus)


def test_cells_say_how_many_vcpus_there_may_be() -> None:
    """Where an entry has cells and no number, the guest may have as many vCPUs as they hold."""
    spec = spec_of("[[guest]]\nname = 'a'\ncell = [{vcpus = [0]}, {vcpus = '1-3'}]\n", running("a"))
    assert (2, 4) == (spec.vcpus, spec.max_vcpus)
    assert (GuestCell(vcpus=(0,)), GuestCell(vcpus=(1, 2, 3))) == spec.cells


@pytest.mark.parametrize(
    "guest",
    [
        running("a", vcpus=(None,)),
        running("a", vcpus=(), doubt="none is named"),
        running("a", vcpus=(0,), doubt="vCPU 1 has no name"),
        running("a", vcpus=(99999,)),
        running("a", vcpus=()),
    ],
)
def test_an_unknown_number_of_vcpus(guest: Guest) -> None:
    """Where threads do not tell how many vCPUs there are, the entry does, and without one it is 1."""
    assert (1, 1) == (spec_of("", guest).vcpus, spec_of("", guest).max_vcpus)
    said = spec_of("[[guest]]\nname = 'a'\nvcpus = 6\nmax_vcpus = 8\n", guest)
    assert (6, 8) == (said.vcpus, said.max_vcpus)
    assert 3 == spec_of("[[guest]]\nname = 'a'\nmax_vcpus = 3\n", guest).max_vcpus
    assert MAX_VCPUS > said.max_vcpus


def test_iothreads_whose_names_are_cut() -> None:
    """A thread shows 12 bytes of an IOThread's name: an entry gives the whole, in order of the threads."""
    names = ("storage-disk-one", "net", "storage-disk-two")
    guest = running("a", iothreads=names)
    written = "[[guest]]\nname = 'a'\niothreads = ['net', 'storage-disk-one', 'storage-disk-two']\n"
    assert names == spec_of(written, guest).iothreads
    assert ("storage-disk", "net", "storage-disk~2") == spec_of("", guest).iothreads
    (found,) = problems("[[guest]]\nname = 'a'\niothreads = ['net', 'storage-disk-one']\n", guest)
    assert "net, storage-disk-one are not what runs, storage-disk, net, storage-disk" in found


def test_iothreads_in_doubt_are_believed() -> None:
    """A guest that names no thread shows no IOThread; the entry's are taken."""
    guest = running("a", vcpus=(), doubt="none is named")
    assert ("x",) == spec_of("[[guest]]\nname = 'a'\niothreads = ['x']\n", guest).iothreads


def test_default_policy_holds_where_the_file_is_silent() -> None:
    """The caller's policy is for guests and entries that have none of their own."""
    text = "[[guest]]\nname = 'a'\nthread_policy = 'isolate'\n[[guest]]\nname = 'b'\npolicy = 'shared'\n"
    found = matched(
        text, running("a"), running("b", pid=20), running("c", pid=30), default=VcpuPolicy.DEDICATED
    )
    assert ["dedicated", "shared", "dedicated"] == [spec.vcpu_policy for _, spec in found.running]


@needs_qemu
def test_a_real_guest(qemu: Callable[..., Qemu]) -> None:
    """A QEMU that runs has the vCPUs and the IOThread that it was started with."""
    guest = qemu("spec-real", vcpus=2).guest()
    spec = spec_of("[[guest]]\nname = 'spec-*'\nvcpus = 2\niothreads = ['io1']\nmemory = '32 MiB'\n", guest)
    assert GuestSpec(name="spec-real", vcpus=2, iothreads=("io1",), memory_bytes=32 << 20) == spec


def test_affinities_to_nobody() -> None:
    """An affinity to a guest that is not there is said with its line, and what was near."""
    entries = parse_specs(
        """[[guest]]
name = "a"
affinity = [{ guest = "cache" }, { guest = "db", level = "l3" }]
anti_affinity = [{ guest = "wbe" }, { guest = "wbe", level = "core" }]
[[guest]]
name = "b"
""",
        "h.toml",
    )
    assert (
        'h.toml:3: guest 1 ("a"): affinity: there is no guest "cache", so that it is no rule',
        'h.toml:4: guest 1 ("a"): anti_affinity: there is no guest "wbe", so that it is no rule; did you mean "web"?',
    ) == void_affinities(entries, {"a", "b", "db", "web"})
    assert () == void_affinities(entries, {"cache", "db", "wbe"})


def test_whose_mistake_it_is() -> None:
    """What contradicts only the guests that run is told apart from what contradicts itself."""
    db = running("db")
    with pytest.raises(SpecMismatch):
        matched('[[guest]]\nname = "db"\nvcpus = 3\n', db)
    late = '[[guest]]\nname = "late"\nvcpus = 2\nthread_policy = "require"\n'
    with pytest.raises(SpecError) as caught:
        matched(f'{late}[[guest]]\nname = "db"\nvcpus = 3\n', db)
    assert SpecError is type(caught.value)
    assert 2 == len(caught.value.problems)
    assert matched(late, db, default=VcpuPolicy.DEDICATED).to_come
