"""A place as QEMU's arguments: QEMU takes them and reports what was planned; they are read back; what is refused."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.errors import RequestError, SpecError
from kvmaff.formats.qemuargs import qemu_arguments, qemu_notes
from kvmaff.formats.qemuread import parse_qemu, parse_qemu_text
from kvmaff.guest.smprules import smp_rules
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.shape import GuestShape, guest_shape

from ..conftest import needs_qemu
from ..qmp import ask_qemu
from .shapes import host, placed, placed_guests

RULES = smp_rules("pc-q35-7.2")
PLAIN = GuestSpec(name="plain", vcpus=1)
SAID = ("name", "uuid", "vcpus", "max_vcpus", "threads", "memory_bytes", "cells", "iothreads", "page_bytes")
"""What arguments can say of a spec."""


def words_of(shape: GuestShape, **more: object) -> list[str]:
    """All words in order."""
    return [word for option in qemu_arguments(shape, **more) for word in option]


@settings(max_examples=80)
@given(placed_guests())
def test_a_spec_is_read_back(guest: GuestPlacement) -> None:
    """All of it but how it is to be placed, of which arguments say nothing."""
    spec = guest.spec
    read = parse_qemu(words_of(guest_shape(host(), guest, RULES)), "them")
    assert attrs.evolve(PLAIN, **{field: getattr(spec, field) for field in SAID}) == read


@needs_qemu
@settings(max_examples=80)
@given(placed_guests())
def test_qemu_reports_what_was_planned(guest: GuestPlacement) -> None:
    """Topology, the NUMA cell of every vCPU, memory backends, IOThreads."""
    shape = guest_shape(host(), guest, RULES)
    # here are neither the nodes nor the memory nor the huge pages of that host
    cells = tuple(
        attrs.evolve(cell, nodes=(), memory_bytes=(at + 1) << 20) for at, cell in enumerate(shape.cells)
    )
    memory = sum(cell.memory_bytes for cell in cells) or 16 << 20
    spec = attrs.evolve(shape.spec, page_bytes=0, cells=(), memory_bytes=memory)
    here = attrs.evolve(shape, spec=spec, nodes=(), cells=cells, memory_bytes=memory)
    said = ask_qemu(
        words_of(here, machine="q35", accel="tcg", cpu="max"),
        ("qom-get", {"path": "/machine", "property": "smp"}),
        ("query-hotpluggable-cpus", {}),
        ("query-memdev", {}),
        ("query-iothreads", {}),
        ("query-name", {}),
    )
    assert said.code == 0, said.errors
    smp, slots, backends, iothreads, name = said.returns
    assert smp == {word: getattr(shape.smp, word) for word in smp}
    home = {vcpu: at for at, cell in enumerate(cells) for vcpu in cell.vcpus}
    for vcpu, slot in enumerate(reversed(slots)):
        props, place = slot["props"], shape.smp.place(vcpu)
        assert (place.socket, place.core, place.thread) == (
            props["socket-id"],
            props["core-id"],
            props["thread-id"],
        )
        assert home.get(vcpu, 0) == props.get("node-id", 0)
    sizes = {one["id"]: one["size"] for one in backends}
    assert not cells or sizes == {f"mem{at}": cell.memory_bytes for at, cell in enumerate(cells)}
    assert set(spec.iothreads) == {one["id"] for one in iothreads}
    assert spec.name == name["name"]


@needs_qemu
def test_memory_is_bound_as_said() -> None:
    """QEMU takes host-nodes, policy and a context of threads, and says so again."""
    spec = GuestSpec(name="g", vcpus=2, vcpu_policy=VcpuPolicy.DEDICATED, memory_bytes=64 << 20)
    shape = attrs.evolve(guest_shape(host(), placed(spec), RULES), nodes=(0,))
    said = ask_qemu(words_of(shape, accel="tcg", cpu="max", prealloc=True), ("query-memdev", {}))
    assert said.code == 0, said.errors
    (backend,) = said.returns[0]
    assert ([0], "bind", True) == (backend["host-nodes"], backend["policy"], backend["prealloc"])


def test_what_is_added_to_the_cpu() -> None:
    """AMD's siblings need topoext; a guest that is alone is told so; neither under TCG."""
    spec = GuestSpec(name="g", vcpus=4, threads=2, vcpu_policy=VcpuPolicy.DEDICATED)
    shape = guest_shape(host(), placed(spec), RULES)

    def cpu(**more: object) -> str:
        words = words_of(shape, **more)
        return words[words.index("-cpu") + 1]

    assert "host,topoext=on,kvm-hint-dedicated=on" == cpu(vendor="AuthenticAMD")
    assert "host,kvm-hint-dedicated=on" == cpu(vendor="GenuineIntel")
    assert "EPYC,-svm,kvm-hint-dedicated=on" == cpu(vendor="AuthenticAMD", cpu="EPYC,-svm")
    assert "max" == cpu(vendor="AuthenticAMD", cpu="max", accel="tcg")
    assert "host,topoext=off,kvm-hint-dedicated=off" == cpu(
        vendor="AuthenticAMD", cpu="host,topoext=off,kvm-hint-dedicated=off"
    )


@needs_qemu
@pytest.mark.parametrize("cpu", ["max", "max,vendor=GenuineIntel", "qemu64", "EPYC", "Skylake-Client"])
def test_who_shows_no_siblings_under_tcg(cpu: str) -> None:
    """It is told of the CPUs of which QEMU warns, and of no others."""
    spec = GuestSpec(name="g", vcpus=4, threads=2, memory_bytes=64 << 20)
    shape = attrs.evolve(guest_shape(host(), placed(spec), RULES), nodes=())
    said = ask_qemu(words_of(shape, accel="tcg", cpu=cpu))
    assert said.code == 0, said.errors
    warned = any("hyperthreading" in line for line in (*said.warnings, *said.errors))
    assert warned == any("without topoext" in note for note in qemu_notes(shape, cpu=cpu, accel="tcg"))
    assert not qemu_notes(shape, cpu=cpu, accel="kvm")
    assert not qemu_notes(
        attrs.evolve(shape, smp=attrs.evolve(shape.smp, threads=1, cores=4)), cpu=cpu, accel="tcg"
    )


def test_more_than_255_vcpus() -> None:
    """QEMU starts, and the guest does not see the rest without an IOMMU: that is told."""
    shapes = {
        vcpus: guest_shape(host(), placed(GuestSpec(name="g", vcpus=vcpus, memory_bytes=1 << 30)), RULES)
        for vcpus in (255, 256)
    }
    assert ["255" in note and "intel-iommu" in note for note in qemu_notes(shapes[256])] == [True]
    assert () == qemu_notes(shapes[255])


def test_huge_pages() -> None:
    """Made by threads on the nodes that they are for, by a QEMU that can."""
    spec = GuestSpec(name="g", vcpus=1, memory_bytes=1 << 30, page_bytes=2 << 20)
    words = words_of(guest_shape(host(), placed(spec), RULES))
    assert "thread-context,id=tc-mem,node-affinity=0" in words
    assert (
        "memory-backend-memfd,id=mem,size=1G,hugetlb=on,hugetlbsize=2M,prealloc=on,prealloc-context=tc-mem,"
        "host-nodes=0,policy=bind"
    ) in words
    assert not any(
        "thread-context" in word for word in words_of(guest_shape(host(), placed(spec), RULES), qemu=(7, 1))
    )


def test_what_qemu_could_not_take() -> None:
    """All of it at once."""
    spec = GuestSpec(name="g", vcpus=1, memory_bytes=(1 << 30) + 1, iothreads=("1st", "ok", "a b"))
    with pytest.raises(RequestError) as error:
        qemu_arguments(guest_shape(host(), placed(spec), RULES))
    assert 3 == len(error.value.problems)


LIBVIRT = """/usr/bin/qemu-system-x86_64 -name guest=vm1,debug-threads=on -S \\
 -object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/x"} -machine pc-q35-7.2,usb=off -accel kvm \\
 -cpu host,migratable=on -m 2048 -overcommit mem-lock=off -smp 4,maxcpus=8,sockets=2,dies=1,cores=2,threads=2 \\
 -object {"qom-type":"iothread","id":"iothread1"} \\
 -object '{"qom-type":"memory-backend-ram","id":"ram-node0","size":1073741824,"host-nodes":[0],"policy":"bind"}' \\
 -numa node,nodeid=0,cpus=0-3,memdev=ram-node0 \\
 -object '{"qom-type":"memory-backend-ram","id":"ram-node1","size":1073741824,"host-nodes":[1],"policy":"bind"}' \\
 -numa node,nodeid=1,cpus=4-5,cpus=6-7,memdev=ram-node1 -uuid 6BA7B810-9dad-11d1-80b4-00c04fd430c8 -no-user-config \\
 -device '{"driver":"vfio-pci","host":"0000:41:00.1","id":"hostdev0"}' disk.img -snapshot
"""


def test_libvirts_own_command_line() -> None:
    """JSON beside words, vCPUs by number, a program's path, what is not ours."""
    text = (
        LIBVIRT.replace('-object {"', "-object '{\"")
        .replace('"file":"/x"}', '"file":"/x"}\'')
        .replace('"id":"iothread1"}', '"id":"iothread1"}\'')
    )
    assert GuestSpec(
        name="vm1",
        uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        vcpus=4,
        max_vcpus=8,
        threads=2,
        memory_bytes=2 << 30,
        cells=(
            GuestCell(vcpus=(0, 1, 2, 3), memory_bytes=1 << 30),
            GuestCell(vcpus=(4, 5, 6, 7), memory_bytes=1 << 30),
        ),
        iothreads=("iothread1",),
        devices=("0000:41:00.1",),
    ) == parse_qemu_text(text, "them")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["is not given: a guest needs a name"]),
        ("-smp 8,core=2 -name", ["-name: wants a value", "'smp.core' is unexpected (cores?)"]),
        ("-name a -smp 8,sockets=3", ["product of the hierarchy must match maxcpus"]),
        ("-name a -m 4X", ["-m: is no amount of memory"]),
        ("-name a -m -5", ["-m: is no amount of memory"]),
        ("-name a -uuid 12", ["-uuid: is a UUID"]),
        ("-name a -numa node,memdev=m", ["there is no memory backend"]),
        ("-name a -smp 2 -numa node,cpus=0-1 -numa node,cpus=x", ["cpus: "]),
        ("-name a -smp 2 -numa node,cpus=0-5", ["there is no vCPU 2"]),
        ("-name a -smp 2 -numa node -numa cpu,node-id=3,socket-id=0", ["there is no node"]),
        ("-name a -smp 2 -numa node -numa cpu,node-id=0,socket-id=7", ["no vCPU is at socket-id=7"]),
        ("-name a -smp 2 -numa node,nodeid=0 -numa node,nodeid=0", ["node 0 is there twice"]),
        ("-name a -smp 2 -numa node -numa node", ["node 1 has no vCPU"]),
        ("-name a -m 1G -object memory-backend-ram,id=m,size=2G -numa node,memdev=m", ["together, -m says"]),
        ("-name a -object '{'", ["is no JSON"]),
        ('-name a -object \'{"a":' + "[" * 100000 + "'", ["is no JSON"]),
        ("-name a -device vfio-pci,host=zz", ["-device: host: "]),
        ("-name 'a", ["is no command line"]),
        ("-name a -smp 99999", ["max CPUs"]),
        ("-name a -object iothread,id=x -object iothread,id=x", ['item 2, "x", is item 1 again']),
    ],
)
def test_command_lines_that_are_wrong(text: str, said: list[str]) -> None:
    """What is wrong and where; all of it."""
    with pytest.raises(SpecError) as error:
        parse_qemu_text(text, "start.sh")
    assert all(any(one in problem for problem in error.value.problems) for one in said), error.value.problems
    assert all(problem.startswith("start.sh:") for problem in error.value.problems)


@given(
    hs.lists(
        hs.sampled_from(["-name", "-smp", "-m", "-numa", "-object", "-device", "-machine", "-uuid"])
        | hs.text(max_size=12)
    )
)
def test_any_words(words: list[str]) -> None:
    """A spec, or what is wrong; nothing else."""
    try:
        parse_qemu(words, "them")
    except SpecError as error:
        assert error.problems
