"""``-smp`` by itself: rules as data, places, what is written is read again, every mistake told at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as hs

from kvmaff.errors import WrongUsage
from kvmaff.guest.smp import SmpTopology, read_smp
from kvmaff.guest.smpfaults import SmpError, SmpKind
from kvmaff.guest.smprules import LEVELS, SmpRules, known_machines, smp_rules, writing_rules
from kvmaff.testing.inputs_smp import smp_texts, smp_topologies

ALL = SmpRules(levels=LEVELS, max_cpus=1 << 20)


@given(smp_topologies(most=1 << 20))
def test_what_is_written_is_read_again(topology: SmpTopology) -> None:
    """By any rules that have the levels, old and new."""
    assert topology == SmpTopology.parse(topology.format(), ALL)
    old = SmpRules(levels=LEVELS, max_cpus=1 << 20, prefer_sockets=True)
    assert topology == SmpTopology.parse(topology.format(LEVELS), old)


@given(smp_topologies(most=256))
def test_every_vcpu_has_a_place_and_an_apic_id(topology: SmpTopology) -> None:
    """No two have the same, and a place says which vCPU it is; siblings come one after the other."""
    places = [topology.place(vcpu) for vcpu in range(topology.maxcpus)]
    assert list(range(topology.maxcpus)) == [topology.index(place) for place in places]
    assert len(set(places)) == topology.maxcpus
    assert [vcpu % topology.threads for vcpu in range(topology.maxcpus)] == [place.thread for place in places]
    for wrong in (-1, topology.maxcpus):
        with pytest.raises(IndexError):
            topology.place(wrong)


@given(smp_topologies(("sockets", "dies", "modules", "cores", "threads"), most=256))
def test_apic_ids_ascend(topology: SmpTopology) -> None:
    """Every level takes whole bits: no two vCPUs share an id, and their order is kept."""
    ids = [topology.apic_id(vcpu) for vcpu in range(topology.maxcpus)]
    assert sorted(set(ids)) == ids
    assert ids[-1] >= topology.maxcpus - 1


@given(
    smp_texts(),
    hs.sampled_from(known_machines()),
    hs.sampled_from([(6, 2), (7, 2), (8, 2), (9, 0), (10, 0), (11, 3)]),
)
def test_any_text_is_read_or_refused(text: str, name: str, qemu: tuple[int, int]) -> None:
    """Nothing else comes out; what is read keeps the machine's limits, and every number says why it is what it is."""
    rules = smp_rules(name.replace("VERSION", "6.1"), qemu)
    try:
        reading = read_smp(text, rules)
    except SmpError as error:
        assert error.faults
        assert len(error.faults) == len(error.problems)
        return
    assert rules.min_cpus <= reading.topology.cpus <= reading.topology.maxcpus <= rules.max_cpus
    assert ["cpus", "maxcpus", *rules.levels] == [word for word, _ in reading.why]
    assert all(getattr(reading.topology, word) == number for word, number in reading.given)


@pytest.mark.parametrize(
    ("text", "machine", "qemu", "counts"),
    [
        ("8", "pc-q35-6.1", None, (8, 1, 1)),
        ("8", "pc-q35-6.2", None, (1, 8, 1)),
        ("8", "q35", (6, 2), (1, 8, 1)),
        ("8,sockets=2", "q35", (10, 0), (2, 4, 1)),
        ("sockets=2,cores=4", "q35", None, (2, 4, 1)),
        ("8,threads=2", "pc-i440fx-4.2", (10, 0), (4, 1, 2)),
        ("8,cores=2,sockets=2", "virt", (8, 0), (2, 2, 2)),
        ("2,maxcpus=8,cores=4", "pc-q35-jammy", (8, 2), (2, 4, 1)),
    ],
)
def test_examples(
    text: str, machine: str, qemu: tuple[int, int] | None, counts: tuple[int, int, int]
) -> None:
    """What the chapter says is so with machine types up to 6.1 only."""
    found = SmpTopology.parse(text, machine, qemu)
    assert counts == (found.sockets, found.cores, found.threads)


@pytest.mark.parametrize(
    ("text", "machine", "qemu", "kinds", "first"),
    [
        ("8,core=2,thread=2", "q35", (7, 2), ["unexpected"] * 2, "Parameter 'smp.core' is unexpected"),
        ("8,cores=x,dies=y", "q35", (7, 2), ["number"] * 2, "Parameter 'smp.dies' expects integer"),
        (
            "8,dies=2,clusters=2",
            "microvm",
            (7, 2),
            ["unsupported"] * 2,
            "dies not supported by this machine's CPU topology",
        ),
        (
            "8,dies=2,clusters=2",
            "microvm",
            (9, 0),
            ["unsupported"] * 2,
            "dies > 1 not supported by this machine's CPU topology",
        ),
        (
            "8,dies=2,clusters=2",
            "microvm",
            (9, 1),
            ["unsupported"] * 2,
            "clusters > 1 not supported by this machine's CPU topology",
        ),
        (
            "8,sockets=0",
            "q35",
            (9, 0),
            ["zero"],
            "Invalid CPU topology: CPU topology parameters must be greater than zero",
        ),
        ("8,modules=2", "q35", (9, 0), ["unexpected"], "Parameter 'smp.modules' is unexpected"),
        ("8,books=2", "q35", (8, 1), ["unexpected"], "Parameter 'smp.books' is unexpected"),
        ("8,books=2", "q35", (8, 2), ["unsupported"], "books not supported by this machine's CPU topology"),
        (
            "5000",
            "q35",
            (9, 0),
            ["max_cpus"],
            "Invalid SMP CPUs 5000. The max CPUs supported by machine 'pc-q35-9.0' is 4096",
        ),
        (
            "8,cores=3",
            "q35",
            (9, 1),
            ["product"],
            (
                "Invalid CPU topology: product of the hierarchy must match maxcpus: "
                "sockets (2) * dies (1) * modules (1) * cores (3) * threads (1) != maxcpus (8)"
            ),
        ),
        (
            "8,sockets=65536,cores=65536",
            "q35",
            (7, 2),
            ["overflow"],
            "sockets (65536) * dies (1) * cores (65536) make 4294967296 vCPUs",
        ),
        (
            "4294967297",
            "q35",
            (7, 2),
            ["overflow"],
            "cpus=4294967297 is no number of vCPUs, sockets or cores",
        ),
        ("8,,=2", "q35", (7, 2), ["syntax"], "Invalid parameter ''"),
        ("help", "q35", (7, 2), ["help"], "help is asked for, with which QEMU ends"),
    ],
)
def test_mistakes(text: str, machine: str, qemu: tuple[int, int], kinds: list[str], first: str) -> None:
    """Each is told, QEMU's own first."""
    with pytest.raises(SmpError) as error:
        SmpTopology.parse(text, machine, qemu)
    assert kinds == [fault.kind for fault in error.value.faults]
    assert first == error.value.faults[0].text
    assert all(line.startswith(f"-smp {text!r}: ") for line in error.value.problems)


def test_near_misses_are_named() -> None:
    """A word that nearly is one."""
    with pytest.raises(SmpError, match=r"smp\.core' is unexpected \(cores\?\)"):
        SmpTopology.parse("8,core=2")
    with pytest.raises(SmpError, match=r"QEMU 7\.2 has no modules"):
        SmpTopology.parse("8,modules=2", "q35", (7, 2))


@pytest.mark.parametrize(
    ("machine", "qemu", "accel", "said"),
    [
        ("pc-q35", None, "kvm", "machine type 'pc-q35' is not known"),
        ("pc-q35-rhel9.2.0", None, "kvm", "can be described by SmpRules"),
        ("q35", (5, 0), "kvm", "QEMU 5.0 is too old"),
        ("pc-q35-9.0", (7, 2), "kvm", "QEMU 7.2 has no machine type 'pc-q35-9.0'"),
        ("q35", None, "hvf", "accelerator 'hvf' is not known"),
        ("q35\n", None, "kvm", "is not known"),
        ("pc-q35-999.0", None, "kvm", "of no version of QEMU that there is or soon will be"),
        ("pc-q35-7.3", None, "kvm", "of no version of QEMU that there is or soon will be"),
        ("pc-i440fx-2.13", (10, 0), "kvm", "of no version of QEMU that there is or soon will be"),
        ("pc-q35-0.0", None, "kvm", "of no version of QEMU that there is or soon will be"),
    ],
)
def test_what_is_not_known(machine: str, qemu: tuple[int, int] | None, accel: str, said: str) -> None:
    """Machine types, versions and accelerators."""
    with pytest.raises(WrongUsage) as error:
        smp_rules(machine, qemu, accel)
    assert said in str(error.value)


def test_tcg_has_no_x2apic_before_9_0() -> None:
    """67 sockets of 3 cores take 9 bits of APIC id; KVM has room for them."""
    text = "201,sockets=67,cores=3"
    assert SmpTopology.parse(text, "q35", (7, 2)) == SmpTopology.parse(text, "q35", (9, 0), "tcg")
    with pytest.raises(SmpError) as error:
        SmpTopology.parse(text, "q35", (7, 2), "tcg")
    assert [SmpKind.APIC_ID] == [fault.kind for fault in error.value.faults]


@pytest.mark.parametrize(
    "wrong", [{"levels": ("cores", "sockets", "threads")}, {"levels": ("dies",)}, {"max_cpus": 0}]
)
def test_rules_that_cannot_be(wrong: dict[str, object]) -> None:
    """Data is checked, too."""
    with pytest.raises(ValueError, match=r"levels are|min_cpus and max_cpus"):
        SmpRules(**{"max_cpus": 8, **wrong})


def test_what_is_written_in_full_is_for_distributions_own_machine_types() -> None:
    """Nobody knows what they prefer; where every number is said it is no matter."""
    rules = writing_rules("pc-q35-rhel9.2.0")
    assert ("pc-q35-rhel9.2.0", 288) == (rules.machine, rules.max_cpus)
    assert "dies" in writing_rules("pc-i440fx-rhel7.6.0").levels
    assert smp_rules("microvm", (7, 2)) == writing_rules("microvm", (7, 2))
    for wrong in ("pc-q35-", "pc-q36-rhel9", "vax", "pc-q35-rhel\n"):
        with pytest.raises(WrongUsage, match="is not known"):
            writing_rules(wrong)


@pytest.mark.parametrize("wrong", [{"cpus": 9}, {"cores": 3}, {"threads": 0}])
def test_topologies_that_cannot_be(wrong: dict[str, int]) -> None:
    """Numbers fit together, whoever made them."""
    with pytest.raises(ValueError, match=r"1 or more|make"):
        SmpTopology(**{"cpus": 8, "maxcpus": 8, "cores": 8, **wrong})


def test_warnings() -> None:
    """What QEMU warns of, and what changed with machine types."""
    old = read_smp("8,sockets=0", smp_rules("q35", (7, 2)))
    assert any(line.startswith("Deprecated CPU topology") for line in old.warnings)
    assert any("machine types up to 6.1" in line for line in old.warnings)
    assert not read_smp("8,sockets=2", smp_rules("q35", (7, 2))).warnings
    assert read_smp("8,sockets=2,clusters=1", smp_rules("q35", (9, 0))).warnings


def test_overflows_name_what_does_not_fit() -> None:
    """Also where QEMU's total has no room for more: what could not be counted is no 0 in the product."""
    with pytest.raises(SmpError) as error:
        SmpTopology.parse("65536,sockets=65536,cores=65536")
    (fault,) = error.value.faults
    assert (
        SmpKind.OVERFLOW,
        "sockets (65536) * dies (1) * modules (1) * cores (65536) make 4294967296 vCPUs",
    ) == (
        fault.kind,
        fault.text,
    )


def test_very_many_mistakes_are_told_in_part() -> None:
    """A long text is answered soon."""
    text = ",".join(f"core{number}=1" for number in range(100_000))
    began = time.process_time()
    with pytest.raises(SmpError) as error:
        SmpTopology.parse(text)
    assert 100 == len(error.value.faults)
    assert time.process_time() - began < 3
