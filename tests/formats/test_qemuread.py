"""What a QEMU's command line says of a guest, in the order of its words, against the QEMU that is installed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.errors import SpecError
from kvmaff.formats.qemuread import parse_qemu, qemu_reading
from kvmaff.guest.spec import GuestSpec

from ..conftest import needs_qemu
from ..qmp import ask_qemu

SMP = ("qom-get", {"path": "/machine", "property": "smp"})
MEMORY = ("query-memory-size-summary", {})
SLOTS = ("query-hotpluggable-cpus", {})
BACKEND = ("-object", "memory-backend-ram,id=mem,size=64M")


def spec_of(*words: str) -> GuestSpec:
    """Read a command line of a guest that has a name."""
    return parse_qemu(["-name", "g", *words], "them")


@needs_qemu
@settings(max_examples=60)
@given(
    hs.lists(
        hs.sampled_from(
            [
                *(("-smp", "4"), ("-smp", "sockets=2"), ("-smp", "8,threads=2"), ("-M", "q35,smp.cpus=2")),
                *(
                    ("-machine", "smp.threads=2"),
                    ("-M", "smp.sockets=1,smp.cpus=6"),
                    ("-m", "32"),
                    ("-m", "size=48M"),
                ),
                *(
                    ("-M", "smp.cpus=4,,cores=2"),
                    ("-M", "memory-backend=mem"),
                    ("-m", "64M"),
                    ("-machine", "pc"),
                ),
            ]
        ),
        max_size=4,
    )
)
def test_options_in_their_order(pairs: list[tuple[str, str]]) -> None:
    """-smp and -machine smp.x= win as they come; memory is that of the machine's backend; or both refuse."""
    words = [*BACKEND, *(word for pair in pairs for word in pair)]
    said = ask_qemu(["-accel", "tcg", *words], SMP, MEMORY)
    try:
        spec = spec_of("-accel", "tcg", *words)
    except SpecError as error:
        assert said.code != 0, error.problems
        return
    assert said.code == 0, said.errors
    smp, memory = said.returns
    assert (smp["cpus"], smp["maxcpus"], smp["threads"]) == (spec.vcpus, spec.max_vcpus, spec.threads)
    assert memory["base-memory"] == spec.memory_bytes


@needs_qemu
@settings(max_examples=60)
@given(
    hs.sampled_from(["8,sockets=4", "8,sockets=2,dies=2", "8,sockets=3,maxcpus=12", "4"]),
    hs.integers(1, 4),
    hs.lists(
        hs.sampled_from(
            [
                "socket-id=0",
                "socket-id=1",
                "socket-id=1,die-id=0",
                "core-id=0",
                "socket-id=0,core-id=1,thread-id=0",
            ]
        ).flatmap(lambda place: hs.integers(0, 3).map(lambda node: f"cpu,node-id={node},{place}")),
        max_size=3,
    ),
    hs.booleans(),
)
def test_nodes_are_where_qemu_has_them(smp: str, count: int, places: list[str], by_number: bool) -> None:
    """Without a word of vCPUs by their sockets, else those that are left in node 0; or both refuse."""
    if "dies" not in smp:  # of a guest with one die a socket QEMU wants no die-id, which says nothing
        places = [place.replace(",die-id=0", "") for place in places]
    cpus = [f",cpus={number}" if by_number else "" for number in range(count)]
    numa = [*(f"node,memdev=m{at}{one}" for at, one in enumerate(cpus)), *places]
    memory = [word for at in range(count) for word in ("-object", f"memory-backend-ram,id=m{at},size=32M")]
    words = ["-m", f"{32 * count}M", *memory, "-smp", smp, *(word for one in numa for word in ("-numa", one))]
    said = ask_qemu(["-accel", "tcg", "-M", "q35", "-cpu", "EPYC", *words], SLOTS)
    try:
        spec = spec_of("-M", "q35", *words)
    except SpecError as error:
        # a node without vCPUs is one that QEMU takes, and no spec can hold
        assert said.code != 0 or all("has no vCPU" in problem for problem in error.problems), error.problems
        return
    assert said.code == 0, said.errors
    home = {vcpu: at for at, cell in enumerate(spec.cells) for vcpu in cell.vcpus}
    (slots,) = said.returns
    assert [slot["props"]["node-id"] for slot in reversed(slots)] == [home[vcpu] for vcpu in sorted(home)]


@pytest.mark.parametrize(
    ("words", "vcpus"),
    [
        ("-M q35,smp.cpus=2 -smp 4", 4),
        ("-smp 4 -M q35,smp.cpus=2", 2),
        ("-enable-sync-profile -smp 4", 4),
        ("-async-teardown -smp 4", 4),
        ("-what-comes-with-qemu-12 -smp 4", 4),
    ],
)
def test_vcpus(words: str, vcpus: int) -> None:
    """The last word holds, and no switch takes an option away."""
    assert vcpus == spec_of(*words.split()).vcpus


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-M q35,smp.cpus=4,,cores=2", "'smp.cpus' expects integer"),
        ("-M memory-backend=mem", 'there is no memory backend "mem"'),
        ("-M memory-backend=m -object memory-backend-ram,id=m,size=1G -m 2G", "-m says 2147483648"),
        ("-smp 2 -numa node,cpus=0-1 -numa node,cpus=1", "vCPU 1 is put into two nodes"),
        ("-smp 2 -numa node,cpus=0-1,mem=x", "mem is no amount"),
        ("-object memory-backend-ram,id=m,size=4X", "-object: is no amount of memory"),
        ("-smp 4 " + "-numa node " * 129, "more than 128 nodes"),
    ],
)
def test_what_is_wrong(words: str, said: str) -> None:
    """Each is told once."""
    with pytest.raises(SpecError) as error:
        spec_of(*words.split())
    assert 1 == len([problem for problem in error.value.problems if said in problem]), error.value.problems


@pytest.mark.parametrize(
    ("words", "pages", "notes"),
    [
        (["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=2M"], 2 << 20, []),
        (
            ["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=on"],
            0,
            ["hugetlb=on: huge pages, whose size"],
        ),
        (
            ["-object", '{"qom-type":"memory-backend-memfd","id":"m","hugetlb":true,"size":1073741824}'],
            0,
            ["hugetlb=on"],
        ),
        (["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=off"], 0, []),
        (["-mem-path", "/dev/hugepages"], 0, ["-mem-path /dev/hugepages: huge pages"]),
        (["-mem-path", "/mnt/Huge-2M/x"], 0, ["/proc/mounts (pagesize)"]),
        (["-mem-path", "/dev/shm"], 0, []),
        (
            [
                "-object",
                '{"qom-type":"memory-backend-file","id":"pc.ram","mem-path":"/dev/hugepages/libvirt/qemu/1-web","size":1}',
            ],
            0,
            ["mem-path=/dev/hugepages/libvirt/qemu/1-web: huge pages"],
        ),
        (["-object", "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x"], 0, []),
    ],
)
def test_huge_pages(words: list[str], pages: int, notes: list[str]) -> None:
    """Of a size that is said; of one that is not they are told and not lost."""
    reading = qemu_reading(["-name", "g", "-m", "1G", *words], "start.sh")
    assert pages == reading.spec.page_bytes
    assert len(notes) == len(reading.notes)
    assert all(one in note for one, note in zip(notes, reading.notes, strict=True)), reading.notes
    assert all(re.match("start.sh: .*add page_size", note) for note in reading.notes)


@pytest.mark.parametrize(
    "words",
    [
        ["-numa", "node"] * 100_000,
        ["-numa", "node"] * 100 + ["-numa", "cpu,node-id=0,core-id=0"] * 50_000,
        ["-numa", "node"] + ["-numa", "cpu,node-id=0,socket-id=0"] * 50_000,
        ["-numa", "node," + ",".join(["cpus=0-8191"] * 50_000)],
        [word for at in range(50_000) for word in ("-numa", f"node,nodeid={at % 128},cpus=0-8191")],
        ["-smp", ",".join(f"a{at}=1" for at in range(100_000))],
        ["-machine", ",".join(f"smp.a{at}=1" for at in range(50_000))],
    ],
)
def test_many_words_cost_little(words: list[str]) -> None:
    """A command line of a megabyte or two, which whoever runs a guest can have, is read or refused with few words.

    Were it quadratic, nobody would wait for it.
    """
    try:
        assert spec_of("-M", "pc-q35-9.0", "-smp", "4096,sockets=1", *words).cells
    except SpecError as error:
        assert len(error.problems) <= 200
