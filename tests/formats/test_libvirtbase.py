"""A place in a libvirt domain that is there: what somebody else wrote stays, and never becomes something else."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.libvirtread import parse_libvirt
from kvmaff.formats.libvirtxml import libvirt_domain, libvirt_xml
from kvmaff.guest.smprules import smp_rules
from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.shape import guest_shape

from ..libvirtd import libvirtd, needs_libvirtd
from .shapes import host, placed, placed_guests

RULES = smp_rules("pc-q35-7.2")
GIB = 1 << 30
TEXTS = re.compile(r"<(?:name|uuid|memory|vcpu|iothreads)\b[^>]*>([^<]*)</")


def written(guest: GuestPlacement, base: str | None = None) -> str:
    """Write it."""
    return libvirt_xml(guest_shape(host(), guest, RULES), base=base)


def cells(*sizes: int) -> tuple[GuestCell, ...]:
    """Cells of two vCPUs each, with so many GiB."""
    return tuple(
        GuestCell(vcpus=(2 * at, 2 * at + 1), memory_bytes=size * GIB) for at, size in enumerate(sizes)
    )


def spec_of(*sizes: int, **more: object) -> GuestSpec:
    """A guest of such cells."""
    return GuestSpec(
        name="web", vcpus=2 * len(sizes), memory_bytes=sum(sizes) * GIB, cells=cells(*sizes), **more
    )


@settings(max_examples=60)
@given(placed_guests(), placed_guests(), hs.data())
def test_comments_are_no_part_of_a_text(
    before: GuestPlacement, guest: GuestPlacement, data: hs.DataObject
) -> None:
    """Wherever they stand in a number or a name, a domain says the same, and what is written into it, too."""
    guest = attrs.evolve(guest, spec=attrs.evolve(guest.spec, name=before.spec.name))
    plain = text = written(before)
    for match in reversed(list(TEXTS.finditer(plain))):
        at = data.draw(hs.integers(match.start(1), match.end(1)))
        if "&" not in match[1]:
            text = f"{text[:at]}<!-- {data.draw(hs.integers())} -->{text[at:]}"
    assert text != plain
    assert parse_libvirt(plain, "them") == parse_libvirt(text, "them")
    assert parse_libvirt(written(guest, plain), "them") == parse_libvirt(written(guest, text), "them")


def test_texts_that_stay_keep_their_blanks() -> None:
    """A comment in a text of somebody else's does not give it a line's end."""
    base = "<domain><name>web<!-- x --></name><title>a <!-- y -->b</title><a><b/><c> </c></a></domain>"
    root = ET.fromstring(written(placed(spec_of(1)), base))
    assert ("web", "a b", " ") == tuple(root.findtext(path) for path in ("name", "title", "a/c"))


@given(hs.sampled_from(["k", "g0", "kvmaff", "a.b"]), hs.sampled_from(["", "metadata", "domain"]))
def test_what_is_ours_is_known_by_its_namespace(prefix: str, where: str) -> None:
    """Whatever prefix it has, wherever that is declared: it is replaced, and somebody else's of that name stays."""
    said = f'xmlns:{prefix}="urn:kvmaff:guest:1"'
    metadata = (
        f"<metadata {said if where == 'metadata' else ''}>"
        f"<{prefix}:guest {said if not where else ''}>policy = 'dedicated'</{prefix}:guest>"
        '<other:guest xmlns:other="urn:other">policy</other:guest><x:myguest xmlns:x="urn:kvmaff:guest:1"/></metadata>'
    )
    base = f"<domain {said if where == 'domain' else ''}><name>web</name><vcpu>2</vcpu>{metadata}</domain>"
    assert VcpuPolicy.DEDICATED is parse_libvirt(base, "them").vcpu_policy
    for spec in (spec_of(1), spec_of(1, trust_domain="red")):
        text = written(placed(spec), base)
        assert spec == parse_libvirt(text, "them")
        assert 'xmlns:other="urn:other">policy<' in text
        assert "myguest" in text
        assert "dedicated" not in text


BASE = """<domain type='kvm'>
  <name>web</name>
  <memory unit='GiB' dumpCore='off'>8</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>16</vcpu>
  <iothreads>2</iothreads>
  <iothreadids><iothread id='2' thread_pool_max='4'/><iothread id='7'/></iothreadids>
  <cputune>
    <vcpusched vcpus='0-3' scheduler='fifo' priority='1'/>
    <vcpusched vcpus='12-15' scheduler='rr' priority='1'/>
    <iothreadsched iothreads='2,7' scheduler='batch'/>
  </cputune>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='host-passthrough'>
    <topology sockets='2' cores='8' threads='1'/>
    <numa>
      <cell id='0' cpus='0-7' memory='4' unit='GiB' memAccess='shared' discard='yes'>
        <distances><sibling id='0' value='10'/><sibling id='1' value='30'/></distances>
        <cache level='1' associativity='direct' policy='writeback'>
          <size value='8' unit='KiB'/><line value='64' unit='B'/></cache>
      </cell>
      <cell id='1' cpus='8-15' memory='4' unit='GiB' memAccess='shared' discard='yes'/>
    </numa>
  </cpu>
  <devices>
    <controller type='scsi' index='0' model='virtio-scsi'><driver iothread='2'/></controller>
  </devices>
</domain>
"""


def test_what_is_not_ours_in_elements_that_are() -> None:
    """How memory is shared, caches, schedulers and ids of IOThreads: for all that there still is, and no more."""
    spec = spec_of(2, 2, 2)
    domain = libvirt_domain(guest_shape(host(), placed(spec), RULES), base=BASE)
    root = ET.fromstring(domain.xml)
    found = root.findall("cpu/numa/cell")
    assert [("shared", "yes")] * 3 == [(one.get("memAccess"), one.get("discard")) for one in found]
    assert [1, 0, 0] == [len(one.findall("cache")) for one in found]
    assert [3, 3, 3] == [len(one.findall("distances/sibling")) for one in found]
    memory = root.find("memory")
    assert memory is not None
    assert {"unit": "KiB", "dumpCore": "off"} == memory.attrib
    assert "2" == root.findtext("iothreads")
    assert ["2", "7"] == [one.get("id") for one in root.findall("iothreadids/iothread")]
    assert {"2", "7"} == {one.get("iothread") for one in root.findall("cputune/iothreadpin")}
    assert ["0-3"] == [one.get("vcpus") for one in root.findall("cputune/vcpusched")]
    assert any("the spec names no IOThreads" in note for note in domain.notes)
    assert any("<vcpusched> is for the vCPUs 12-15 no more" in note for note in domain.notes)
    assert domain.xml == libvirt_xml(guest_shape(host(), placed(spec), RULES), base=domain.xml)


def test_iothreads_that_devices_use_stay() -> None:
    """The first is not used and goes; names follow the ids; too few are an error that says which are used."""
    shape = guest_shape(host(), placed(spec_of(1, 1, iothreads=("disk",))), RULES)
    base = BASE.replace("iothread='2'", "iothread='7'")
    domain = libvirt_domain(shape, base=base)
    root = ET.fromstring(domain.xml)
    assert ["7"] == [one.get("id") for one in root.findall("iothreadids/iothread")]
    assert ["7"] == [one.get("iothreads") for one in root.findall("cputune/iothreadsched")]
    assert ("disk",) == parse_libvirt(domain.xml, "them").iothreads
    assert any("IOThreads 2 are gone" in note for note in domain.notes)
    both = base.replace("</controller>", "</controller><disk><driver iothread='2'/></disk>")
    with pytest.raises(RequestError, match="devices use the IOThreads 2, 7"):
        libvirt_xml(shape, base=both)


def test_ids_are_given_as_libvirt_gives_them() -> None:
    """The lowest that are free, beside those that the domain says."""
    shape = guest_shape(host(), placed(spec_of(1, 1, iothreads=("a", "b", "c", "d"))), RULES)
    root = ET.fromstring(libvirt_xml(shape, base=BASE))
    assert ["2", "7", "1", "3"] == [one.get("id") for one in root.findall("iothreadids/iothread")]
    listed = root.find("iothreadids/iothread")
    assert listed is not None
    assert "4" == listed.get("thread_pool_max")


DIMM = "<memory model='dimm'><target><size unit='gib'>1</size><node>{}</node></target></memory>"
MOST = "<memory unit='GiB' dumpCore='off'>8</memory>"


def plugged(node: int, most: str = "16", unit: str = "GiB") -> str:
    """The domain with a DIMM."""
    text = BASE.replace("<devices>", f"<devices>{DIMM.format(node)}")
    return text.replace(MOST, f"<maxMemory slots='4' unit='{unit}'>{most}</maxMemory>{MOST}")


def test_a_dimm_is_part_of_its_cell() -> None:
    """A cell starts with what is no DIMM; both are read as one."""
    assert [4 * GIB, 5 * GIB] == [one.memory_bytes for one in parse_libvirt(plugged(1), "them").cells]
    spec = spec_of(2, 3)
    text = written(placed(spec), plugged(1))
    assert [str(2 << 20)] * 2 == re.findall(r'<cell .*memory="([0-9]+)"', text)
    assert spec.cells == parse_libvirt(text, "them").cells


@pytest.mark.parametrize(
    ("spec", "base", "said"),
    [
        (spec_of(2, 2), plugged(3), "a DIMM of the domain is in cell 3, the guest has 2"),
        (spec_of(1, 2), plugged(0), "there is none left to start with"),
        (spec_of(2, 2), plugged(0, "3"), "<maxMemory> is 3 GiB, less than the guest's memory"),
        (spec_of(2, 2), plugged(0, str(3 << 20), "k"), "less than the guest's memory"),
        (GuestSpec(name="web", vcpus=2, memory_bytes=GIB), plugged(0), "for which libvirt wants NUMA cells"),
        (
            spec_of(2, 2, iothreads=("a",)),
            BASE.replace("<devices>", "<devices><disk><driver iothread='7'/></disk>"),
            "name 2 in iothreads",
        ),
    ],
)
def test_what_the_domain_has_and_the_guest_cannot(spec: GuestSpec, base: str, said: str) -> None:
    """libvirt would refuse it; here is said what to change."""
    with pytest.raises(RequestError) as error:
        written(placed(spec), base)
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_what_goes_is_told() -> None:
    """Huge pages that the spec does not have; what is said of cells that are gone."""
    base = BASE.replace("<memoryBacking>", "<memoryBacking><hugepages/>")
    notes = libvirt_domain(guest_shape(host(), placed(spec_of(8)), RULES), base=base).notes
    assert any("huge pages no more" in note for note in notes)
    assert any("said of cell 1 besides" in note for note in notes)


def wide(vcpus: int = 256) -> str:
    """A guest of so many vCPUs."""
    spec = GuestSpec(name="web", vcpus=vcpus, memory_bytes=GIB)
    return libvirt_xml(guest_shape(host(), placed(spec), smp_rules("pc-q35-7.2")), machine="pc-q35-7.2")


def test_more_than_255_vcpus() -> None:
    """They need interrupt remapping by an IOMMU of Intel's, in a domain that is there, too; 255 do not."""
    assert '<driver intremap="on" eim="on" />' in wide()
    assert '<ioapic driver="qemu" />' in wide()
    assert "iommu" not in wide(255)
    base = wide().replace('eim="on"', 'eim="off"').replace('driver="qemu"', 'driver="kvm"')
    spec = GuestSpec(name="web", vcpus=256, memory_bytes=GIB)
    domain = libvirt_domain(guest_shape(host(), placed(spec), RULES), base=base)
    assert wide() == domain.xml
    assert any("interrupt remapping" in note for note in domain.notes)
    with pytest.raises(RequestError, match='has one of model "virtio"'):
        written(placed(spec), wide().replace('model="intel"', 'model="virtio"'))


@pytest.mark.parametrize("machine", ["microvm", "isapc", "none", "virt"])
def test_machines_that_libvirt_has_not(machine: str) -> None:
    """It knows no bus of theirs; in a domain that is there neither."""
    shape = guest_shape(host(), placed(spec_of(1)), RULES)
    with pytest.raises(WrongUsage, match="has no machine type"):
        libvirt_xml(shape, machine=machine)
    with pytest.raises(WrongUsage, match="has no machine type"):
        libvirt_xml(shape, base=BASE.replace("pc-q35-7.2", machine))


@pytest.mark.parametrize("cpu", ["", " ", "EPYC\x01", "EPYC\n", "EPYC,-svm"])
def test_cpus_that_are_none(cpu: str) -> None:
    """No text becomes XML that is none, or a model that libvirt does not know."""
    with pytest.raises(WrongUsage, match="a libvirt CPU is host-passthrough"):
        libvirt_xml(guest_shape(host(), placed(spec_of(1)), RULES), cpu=cpu)


@needs_libvirtd
def test_a_real_libvirtd_takes_them(tmp_path: Path) -> None:
    """Domains in domains that were there, and one of 256 vCPUs; it has the memory and the vCPUs that were meant."""
    commented = BASE.replace(">8</memory>", "><!-- 8 GiB -->8</memory>").replace(">16<", "><!-- was 8 -->16<")
    texts = {
        "4194304 2097152 2097152 4": written(placed(spec_of(2, 2)), commented),
        "5242880 2097152 2097152 4": written(placed(spec_of(2, 3)), plugged(1)),
        "6291456 2097152 2097152 2097152 6": written(placed(spec_of(2, 2, 2, iothreads=("x", "y"))), BASE),
        "1048576 256": wide(),
    }
    with libvirtd(tmp_path) as libvirt:
        for expected, text in texts.items():
            file = tmp_path / "web.xml"
            file.write_text(text)
            libvirt.virsh("define", str(file), "--validate")
            root = ET.fromstring(libvirt.virsh("dumpxml", "web"))
            sizes = [one.get("memory") for one in root.findall("cpu/numa/cell")]
            assert expected.split() == [root.findtext("memory"), *sizes, root.findtext("vcpu")]
            libvirt.virsh("undefine", "web")


@needs_libvirtd
def test_a_real_libvirtd_refuses_what_is_refused_here(tmp_path: Path) -> None:
    """Without the IOMMU, with a DIMM nowhere, with an IOThread that is not there: nothing is refused for nothing."""
    wrong = {
        re.sub("<iommu.*</iommu>", "", wide(), flags=re.DOTALL): "extended interrupt mode",
        written(placed(spec_of(2, 3)), plugged(1)).replace("<node>1<", "<node>3<"): "guest node '3'",
        written(placed(spec_of(2, 2)), BASE).replace('driver iothread="2"', 'driver iothread="9"'): "9",
    }
    with libvirtd(tmp_path) as libvirt:
        for text, said in wrong.items():
            file = tmp_path / "web.xml"
            file.write_text(text)
            assert said in libvirt.virsh("define", str(file), check=False)
