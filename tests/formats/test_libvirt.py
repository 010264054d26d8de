"""A place as a libvirt domain: by libvirt's schema, on a real libvirtd, in a domain that is there, and read back."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.errors import RequestError, SpecError, WrongUsage
from kvmaff.formats.libvirtread import libvirt_reading, parse_libvirt
from kvmaff.formats.libvirtxml import libvirt_xml
from kvmaff.guest.smprules import smp_rules
from kvmaff.guest.spec import (
    Affinity,
    GuestCell,
    GuestSpec,
    Place,
    ThreadPolicy,
    VcpuPolicy,
)
from kvmaff.host.reader import read_host
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.placement.shape import guest_shape

from ..conftest import needs_qemu, needs_two_cpus
from ..libvirtd import libvirtd, needs_libvirtd
from .shapes import host, manager, placed, placed_guests

RULES = smp_rules("pc-q35-7.2")
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
needs_schema = pytest.mark.skipif(
    shutil.which("xmllint") is None or not SCHEMA.exists(), reason="needs xmllint and libvirt's schema"
)


def xml_of(guest: GuestPlacement, **more: object) -> str:
    """Write it."""
    return libvirt_xml(guest_shape(host(), guest, RULES), **more)


def judged(text: str, folder: Path) -> None:
    """By libvirt's own schema."""
    file = folder / "domain.xml"
    file.write_text(text)
    done = subprocess.run(
        ["xmllint", "--noout", "--relaxng", SCHEMA, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr}\n{text}"


@settings(max_examples=80)
@given(placed_guests())
def test_a_spec_is_read_back(guest: GuestPlacement) -> None:
    """All of it but its devices, which are the domain's own affair."""
    spec = attrs.evolve(guest.spec, devices=())
    assert spec == parse_libvirt(xml_of(guest), "them")


@settings(max_examples=60)
@given(placed_guests(), placed_guests())
def test_a_domain_is_written_anew(before: GuestPlacement, guest: GuestPlacement) -> None:
    """What one place wrote, another one writes over, but for the id, and for IOThreads that the spec does not name."""
    spec = attrs.evolve(guest.spec, name=before.spec.name, devices=())
    guest = attrs.evolve(guest, spec=spec)
    text = xml_of(guest, base=xml_of(before))
    kept = tuple(f"iothread{number}" for number in range(1, len(before.spec.iothreads) + 1))
    expected = attrs.evolve(spec, uuid=before.spec.uuid, iothreads=spec.iothreads or kept)
    assert expected == parse_libvirt(text, "them")
    assert text == xml_of(guest, base=text)


@needs_schema
@settings(max_examples=60)
@given(guest=placed_guests())
def test_libvirts_schema(guest: GuestPlacement, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every domain is one by the schema."""
    judged(xml_of(guest, vendor="AuthenticAMD"), tmp_path_factory.mktemp("schema"))


DOMAIN = """<!-- by hand -->
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <memory unit='GiB'>4</memory>
  <currentMemory unit='GiB'>2</currentMemory>
  <vcpu placement='auto' cpuset='0-3'>2</vcpu>
  <cputune><shares>2048</shares><vcpupin vcpu='0' cpuset='0'/></cputune>
  <os><type arch='x86_64' machine='pc-q35-6.2'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>EPYC</model><topology sockets='2' cores='1' threads='1'/></cpu>
  <!-- its disk -->
  <devices><disk type='file' device='disk'><source file='/x&amp;y'/><target dev='vda'/></disk>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0x0000' bus='0x41' slot='0x00' function='0x1'/></source>
    </hostdev></devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>
"""


def test_in_a_domain_that_is_there() -> None:
    """What is not ours stays: its disk, its comments, its CPU model, its namespaces; what was ours is replaced."""
    spec = GuestSpec(name="web", vcpus=4, memory_bytes=1 << 30, vcpu_policy=VcpuPolicy.DEDICATED, threads=2)
    text = xml_of(placed(spec), base=DOMAIN, vendor="AuthenticAMD")
    for kept in (
        *(
            "/x&amp;y",
            "<!-- its disk -->",
            "<model>EPYC</model>",
            "<shares>2048</shares>",
            'machine="pc-q35-6.2"',
        ),
        *('xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"', '<qemu:arg value="-S" />', "<acpi />"),
    ):
        assert kept in text
    for gone in ("currentMemory", "auto", 'sockets="2"', "topoext"):
        assert gone not in text
    assert attrs.evolve(spec, devices=("0000:41:00.1",)) == parse_libvirt(text, "web.xml")
    with pytest.raises(WrongUsage, match="that of 'web', not of 'db'"):
        xml_of(placed(attrs.evolve(spec, name="db")), base=DOMAIN)


def test_pins_say_who_is_dedicated() -> None:
    """A domain that nobody of us wrote: a vCPU that alone has one CPU is dedicated."""
    pins = "<vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/>"
    text = DOMAIN.replace("<vcpupin vcpu='0' cpuset='0'/>", pins)
    assert VcpuPolicy.DEDICATED is parse_libvirt(text, "them").vcpu_policy
    assert (0,) == parse_libvirt(DOMAIN, "them").dedicated_vcpus
    assert VcpuPolicy.SHARED is parse_libvirt(text.replace("'5'", "'4'"), "them").vcpu_policy


@given(hs.sampled_from("kmgtpe"), hs.sampled_from(["", "b", "ib"]), hs.data())
def test_units_in_any_case(letter: str, rest: str, data: hs.DataObject) -> None:
    """libvirt looks at no case; KB is 1000 bytes, K and KiB are 1024."""
    unit = "".join(data.draw(hs.sampled_from([char, char.upper()])) for char in letter + rest)
    size = (1000 if rest == "b" else 1024) ** ("kmgtpe".index(letter) + 1)
    assert (
        size * 3 == parse_libvirt(DOMAIN.replace("unit='GiB'>4<", f"unit='{unit}'>3<"), "them").memory_bytes
    )
    assert 3 << 10 == parse_libvirt(DOMAIN.replace("unit='GiB'>4<", "unit='Byte'>3072<"), "them").memory_bytes


def test_libvirts_own_cpusets() -> None:
    """With CPUs taken out: of pins and of cells."""
    text = DOMAIN.replace("vcpu='0' cpuset='0'", "vcpu='0' cpuset='0-1,^0'").replace(
        "</model>",
        "</model><numa><cell cpus='0-1,^1' memory='1'/><cell cpus='1' memory='1'/></numa>",
    )
    spec = parse_libvirt(text, "them")
    assert (0,) == spec.dedicated_vcpus
    assert [(0,), (1,)] == [cell.vcpus for cell in spec.cells]


def test_huge_pages_of_a_size_that_is_not_said() -> None:
    """A spec cannot hold them: it is without, and that is told."""
    text = DOMAIN.replace("<features>", "<memoryBacking><hugepages/></memoryBacking><features>")
    reading = libvirt_reading(text, "web.xml")
    assert 0 == reading.spec.page_bytes
    (note,) = reading.notes
    assert note.startswith("web.xml:9: <hugepages> are of the host's default size")
    assert not libvirt_reading(DOMAIN, "web.xml").notes


def test_what_libvirt_has_no_element_for() -> None:
    """How it is to be placed stands in the metadata, and is judged as a file of specs is."""
    spec = GuestSpec(
        name="web",
        vcpus=4,
        memory_bytes=1 << 30,
        vcpu_policy=VcpuPolicy.DEDICATED,
        thread_policy=ThreadPolicy.REQUIRE,
        trust_domain='a "b" <c>',
        anti_affinity=(Affinity(guest="db", level=Place.L3),),
    )
    text = xml_of(placed(spec))
    assert spec == parse_libvirt(text, "them")
    with pytest.raises(SpecError, match="policy") as error:
        parse_libvirt(text.replace('"dedicated"', '"selfish"'), "web.xml")
    assert error.value.problems[0].startswith("web.xml:4: <metadata>")
    with pytest.raises(SpecError, match="which the domain's own elements say"):
        parse_libvirt(
            text.replace("trust_domain =", "uuid = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'\nmemory = 1\n#"),
            "x",
        )
    for wrong, said in (
        ("[[guest]]\nname = 'mail'\ntrust_domain =", ":4: <metadata> has a table [[guest]]"),
        ("= =", ":4: <metadata> "),
        ("vcpu_policy =", ':4: <metadata> "vcpu_policy" is no key here'),
    ):
        with pytest.raises(SpecError) as error:
            parse_libvirt(text.replace("trust_domain =", wrong), "web.xml")
        (problem,) = error.value.problems
        assert problem.startswith(f"web.xml{said}"), problem
        assert "unpack" not in problem
    twice = text.replace("</metadata>", "<k:guest xmlns:k='urn:kvmaff:guest:1'/></metadata>")
    with pytest.raises(SpecError, match="says a second time"):
        parse_libvirt(twice, "web.xml")


ENTITIES = [
    '<!DOCTYPE domain [<!ENTITY a "b">]><domain><name>&a;</name></domain>',
    '<!DOCTYPE domain [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>',
    '<!DOCTYPE domain SYSTEM "http://localhost/x.dtd"><domain/>',
    "<!DOCTYPE domain><domain/>",
    '<!DOCTYPE domain [<!ENTITY a "0"><!ENTITY b "&a;&a;"><!ENTITY % c SYSTEM "x">%c;]><domain>&b;</domain>',
]


@pytest.mark.parametrize("text", ENTITIES)
def test_document_types_are_refused(text: str) -> None:
    """No entity is expanded, nothing is fetched."""
    with pytest.raises(SpecError, match="document type or an entity"):
        parse_libvirt(text, "them")
    with pytest.raises(WrongUsage, match="document type or an entity"):
        xml_of(placed(GuestSpec(name="g", vcpus=1, memory_bytes=1 << 30)), base=text)


@pytest.mark.parametrize(
    ("was", "is_", "said"),
    [
        ("<name>web</name>", "", [":2: <name> is missing"]),
        ("<name>web</name>", "<name></name>", [":3: <name> is empty"]),
        (">2</vcpu>", ">two</vcpu>", [":6: <vcpu> is a number"]),
        (">2</vcpu>", " current='3'>2</vcpu>", [":6: <vcpu current> is a number from 1 to 2"]),
        (
            "sockets='2'",
            "sockets='3'",
            [":10: <topology> makes 3 sockets x 1 cores x 1 threads = 3 vCPUs, the domain has 2"],
        ),
        ("sockets='2'", "sockets='0'", [":10: <topology sockets> is a number"]),
        ("unit='GiB'>4<", "unit='furlong'>4<", [":4: <memory> has the unit"]),
        ("unit='GiB'>4<", "unit='EiB'>999<", [":4: <memory> is a number"]),
        ("bus='0x41'", "bus='zz'", ["<address> is no PCI address"]),
        ("cpuset='0'/>", "cpuset='0-x'/>", [":7: <vcpupin cpuset>"]),
        ("<features>", "<iothreads>-1</iothreads><features>", ["<iothreads> is a number"]),
        ("<features>", "<uuid>1</uuid><features>", ["<uuid> is a UUID"]),
        (
            "</model>",
            "</model><numa><cell cpus='0-1' memory='1'/><cell cpus='1' memory='1'/></numa>",
            [":10: <cell cpus> has vCPU 1, which another cell has"],
        ),
        (
            "</model>",
            "</model><numa><cell cpus='0-1' memory='1'/><cell cpus='' memory='1'/></numa>",
            [":10: <cell cpus> names no vCPU; a spec has no cell without"],
        ),
        ("<features>", "<iothreadids><iothread/></iothreadids><features>", ["<iothread id> is a number"]),
        (
            "</model>",
            "</model><numa><cell id='0' cpus='0' memory='1'/></numa>",
            ["cells: must hold each of the vCPUs 0-1"],
        ),
        ("</model>", "</model><numa><cell cpus='x' memory='1'/></numa>", ["<cell cpus>"]),
        ("</domain>", "", ["no element found"]),
        ("<domain", "<network", ["mismatched tag"]),
        ("\n</domain>", "&nbsp;</domain>", ["undefined entity"]),
        ("4</memory>", "x</memory>", [":4: <memory> is a number"]),
    ],
)
def test_domains_that_are_wrong(was: str, is_: str, said: list[str]) -> None:
    """What is wrong and in which line."""
    assert was in DOMAIN
    with pytest.raises(SpecError) as error:
        parse_libvirt(DOMAIN.replace(was, is_, 1), "web.xml")
    assert all(any(one in problem for problem in error.value.problems) for one in said), error.value.problems
    assert all(problem.startswith("web.xml:") for problem in error.value.problems)


def test_everything_that_is_wrong_at_once() -> None:
    """In the order of the file; deep and large ones are refused before they cost anything."""
    text = DOMAIN.replace(">4<", ">x<").replace(">2</vcpu>", ">y</vcpu>").replace("'0x41'", "'z'")
    with pytest.raises(SpecError) as error:
        parse_libvirt(text, "web.xml")
    lines = [int(problem.split(":")[1]) for problem in error.value.problems]
    assert [4, 6, 14] == lines
    for bomb in ("<domain>" + "<a>" * 100_000, "<domain>" + " " * (17 << 20)):
        with pytest.raises(SpecError, match="deep|larger"):
            parse_libvirt(bomb, "them")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "<cpu><numa>" + "<cell cpus='0-8191' memory='1'/>" * 5000 + "</numa></cpu>",
            "which another cell has",
        ),
        ("<cpu><numa>" + "<cell cpus='' memory='1'/>" * 30000 + "</numa></cpu>", "names no vCPU"),
        (
            "<iothreadids>" + "<iothread id='1'/>" * 30000 + "</iothreadids>",
            "names one twice",
        ),
    ],
)
def test_many_numbers_cost_little(more: str, said: str) -> None:
    """A small file names very many vCPUs; what is wrong is said in a second or two, and memory stays small."""
    text = f"<domain><name>a</name><vcpu>8192</vcpu>{more}</domain>"
    began = time.process_time()
    with pytest.raises(SpecError, match=said):
        parse_libvirt(text, "them")
    assert time.process_time() - began < 3


def test_many_pins_cost_little() -> None:
    """Of vCPUs that all may run everywhere none is dedicated."""
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='0-8191'/>" for vcpu in range(8192))
    began = time.process_time()
    text = f"<domain><name>a</name><vcpu>8192</vcpu><cputune>{pins}</cputune></domain>"
    assert VcpuPolicy.SHARED is parse_libvirt(text, "them").vcpu_policy
    assert time.process_time() - began < 3


def test_what_libvirt_could_not_take() -> None:
    """Memory that is not said, or no whole KiB; a name with a slash."""
    with pytest.raises(RequestError, match="say memory"):
        xml_of(placed(GuestSpec(name="g", vcpus=1)))
    with pytest.raises(RequestError) as error:
        xml_of(placed(GuestSpec(name="a/b", vcpus=1, memory_bytes=(1 << 30) + 1)))
    assert 2 == len(error.value.problems)


@needs_qemu
@needs_libvirtd
@needs_two_cpus
def test_a_real_libvirtd(tmp_path: Path) -> None:
    """It defines and starts the domain; vCPUs and IOThreads are where they were decided; its XML says so, too."""
    spec = GuestSpec(
        name="web",
        uuid="6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        vcpus=2,
        vcpu_policy=VcpuPolicy.DEDICATED,
        memory_bytes=64 << 20,
        iothreads=("disk0",),
        cells=(GuestCell(vcpus=(0,), memory_bytes=32 << 20), GuestCell(vcpus=(1,), memory_bytes=32 << 20)),
    )
    here = read_host()
    (guest,) = manager().decide(PlacementRequest(host=here, demands=(Demand(spec=spec),)), "numa").guests
    text = libvirt_xml(guest_shape(here, guest, RULES), accel="tcg", cpu="maximum")
    file = tmp_path / "web.xml"
    file.write_text(text)
    (tmp_path / "run").mkdir()
    with libvirtd(tmp_path / "run") as libvirt:
        libvirt.virsh("define", str(file), "--validate")
        libvirt.virsh("start", "web", "--paused")
        lines = [
            line.split(":")
            for line in libvirt.virsh("vcpuinfo", "web", "--pretty").splitlines()
            if ":" in line
        ]
        masks = [value.split("(")[0].strip() for key, value in lines if key == "CPU Affinity"]
        assert [str(thread.cpus) for thread in guest.threads if thread.role == "vcpu"] == masks
        (iothread,) = [
            line.split() for line in libvirt.virsh("iothreadinfo", "web").splitlines() if line.strip()
        ]
        assert str(guest.cpus) == iothread[1]
        assert "2" == libvirt.virsh("vcpucount", "web", "--live", "--current").strip()
        assert spec == parse_libvirt(libvirt.virsh("dumpxml", "web"), "virsh dumpxml")
