"""
What is said of ``-smp`` against the QEMU that is installed: the same result, or the same error text.

Where the two may differ, and why:

* OVERFLOW: QEMU keeps 32 bits of every number and goes on with another one, or ends with SIGFPE;
* HELP: QEMU shows its help and ends with 0, so that no guest runs;
* several words that there are not: QEMU names one of them, by the order of a hash table; all are named here.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as hs

from kvmaff.errors import WrongUsage
from kvmaff.guest.smp import SmpTopology, read_smp
from kvmaff.guest.smpfaults import SmpError, SmpKind
from kvmaff.guest.smprules import smp_rules
from kvmaff.testing.inputs_smp import smp_texts, smp_topologies

from ..conftest import needs_qemu
from ..qmp import ask_qemu, machine_types, qemu_version

pytestmark = needs_qemu

ASK = ("qom-get", {"path": "/machine", "property": "smp"})
NOT_STARTED = {"x-remote", "xenfv", "xenpv"}
"""Machine types that need more than -smp to start at all."""


def known() -> list[str]:
    """The machine types of this QEMU that are known."""
    found = []
    for name in machine_types():
        try:
            smp_rules(name, qemu_version())
        except WrongUsage:
            assert name.startswith(tuple(NOT_STARTED)) or name == "nitro", f"{name} should be known"
        else:
            found.append(name)
    return found


def of_qemu(machine: str, texts: list[str]) -> dict[str, int] | str:
    """What QEMU makes of it: the numbers, or its message."""
    words = [word for text in texts for word in ("-smp", text)]
    said = ask_qemu(["-accel", "tcg", "-M", machine, *words], ASK)
    if said.code == 0 and said.returns:
        return said.returns[0]
    line = re.sub(r"^qemu-system-x86_64: ", "", said.errors[0]) if said.errors else f"ended with {said.code}"
    return re.sub(r"^-smp .*?: (?=Invalid|Expected|Parameter)", "", line)


def compared(machine: str, texts: list[str]) -> str:
    """Both say the same; what that is, in a word."""
    answer = of_qemu(machine, texts)
    try:
        topology = SmpTopology.parse(texts, machine, qemu_version(), "tcg")
    except SmpError as error:
        first = error.faults[0]
        if first.kind is SmpKind.OVERFLOW:
            pass
        elif first.kind is SmpKind.HELP:
            assert answer == "ended with 0"
        elif first.kind is SmpKind.UNEXPECTED:
            assert answer in [fault.text for fault in error.faults]
        else:
            assert answer == first.text
        return str(first.kind)
    assert isinstance(answer, dict), answer
    assert answer == {word: getattr(topology, word) for word in answer}
    assert all(getattr(topology, word) == 1 for word in ("drawers", "books") if word not in answer)
    return "right"


@given(hs.data(), hs.lists(smp_texts(), min_size=1, max_size=2))
def test_qemu_says_the_same(data: hs.DataObject, texts: list[str]) -> None:
    """Any texts, any machine type of this QEMU that is known."""
    favourites = [name for name in known() if name in {"q35", "pc", "pc-q35-6.1", "pc-i440fx-6.1", "microvm"}]
    event(compared(data.draw(hs.sampled_from(favourites) | hs.sampled_from(known())), texts))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "8",
            "08",
            "0x8",
            "010",
            "8,",
            ",8",
            "8,,sockets=2",
            "8,9",
            "sockets=2,cores",
            "cpus=",
            "8,a.b=3",
        ),
        *(
            "core=2",
            "8,cpus.x=3",
            "cpus.x=2",
            "Foo!=3",
            "8,clusters=2",
            "8,clusters=1",
            "8,dies=2",
            "300",
            "256",
        ),
        *(
            "cpus=8,maxcpus=4",
            "9,sockets=2",
            "201,sockets=67,cores=3",
            "cpus=0",
            "8,sockets=0",
            "8,sockets=2,sockets=4",
        ),
        *(
            "8,modules=2",
            "8,books=2",
            "help",
            "8,?",
            "sockets=a,dies=b,foo=3",
            "cpus=99999999999999999999",
            "2.0=3",
        ),
        *(
            "maxcpus=6,sockets=2,threads=3",
            "3,maxcpus=12,cores=2,dies=3",
            f"{'x' * 200}=3",
            "8,__a_b.c=1",
            "8,a..b=3",
        ),
    ],
)
@pytest.mark.parametrize("machine", ["q35", "pc-q35-6.1", "microvm"])
def test_known_texts(machine: str, text: str) -> None:
    """What people write, and each way in which QEMU can refuse it."""
    compared(machine, [text])


@pytest.mark.parametrize(
    "texts",
    [
        ("8", "sockets=2"),
        ("sockets.a=1", "sockets=2"),
        ("sockets=2", "sockets.a=1"),
        ("sockets.a=1,sockets=2",),
        ("sockets=2,sockets.a=1",),
        ("sockets.a=1,sockets.a.b=2",),
        ("sockets.a.b=1", "sockets.a=2"),
        ("sockets.a=1", "sockets.b=2"),
        ("8,foo=1", "foo.x=2"),
    ],
)
def test_several_texts(texts: tuple[str, ...]) -> None:
    """Later ones win, key by key; a key is not at once that of a value and of more keys."""
    compared("q35", list(texts))


@example(SmpTopology(cpus=4, maxcpus=24, sockets=2, dies=3, cores=2, threads=2))
@given(smp_topologies(("sockets", "dies", "cores", "threads"), most=64))
def test_vcpus_are_where_qemu_has_them(topology: SmpTopology) -> None:
    """Sockets, dies, cores and threads of every vCPU, threads innermost; and what is written is read back."""
    rules = smp_rules("q35", qemu_version(), "tcg")
    text = topology.format()
    smp = ["-accel", "tcg", "-M", "q35", "-cpu", "EPYC", "-smp", text]
    if topology.apic_id(topology.maxcpus - 1) > 254:
        return
    said = ask_qemu(smp, ("query-hotpluggable-cpus", {}), ("query-cpus-fast", {}))
    assert said.code == 0, said.errors
    assert topology == read_smp(text, rules).topology
    slots, running = said.returns
    assert topology.cpus == len(running)
    assert topology.maxcpus == len(slots)
    for vcpu in running:
        place = topology.place(vcpu["cpu-index"])
        props = vcpu["props"]
        assert (place.socket, place.core, place.thread) == (
            props["socket-id"],
            props["core-id"],
            props["thread-id"],
        )
        assert place.die == props.get("die-id", 0)
        assert vcpu["cpu-index"] == topology.index(place)
