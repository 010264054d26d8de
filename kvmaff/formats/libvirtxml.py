"""
A guest's shape -> a libvirt domain: its vCPUs, IOThreads, pins, memory, NUMA cells and CPU.

Either a domain of its own, which has no disk and no network, or those elements in a domain that is there: everything
else of that stays (https://libvirt.org/formatdomain.html; docs/schemas/domaincommon.rng). What of it could not be true
any more is taken out and told, or is an error.

What libvirt has no element for, how the guest is to be placed, stands in the domain's metadata, so that the domain
alone says all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.libvirtedit import added, child, removed, replaced, set_text, within
from kvmaff.formats.libvirtmemory import write_cells, write_memory, write_nodes
from kvmaff.formats.libvirtparts import METADATA, PREFIX, our_metadata
from kvmaff.formats.libvirttune import write_iothreads, write_pins, write_vcpus
from kvmaff.formats.spectoml import policies_toml, toml_list
from kvmaff.formats.tomltext import shown
from kvmaff.formats.xmltree import Element, XmlError, children, content, parse_xml, write_xml
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.host.vendor import AMD
from kvmaff.placement.shape import GuestShape

__all__ = ["LibvirtDomain", "libvirt_domain", "libvirt_xml", "machine_of"]

_KIB = 1024
_CPU_MODES = ("host-passthrough", "host-model", "maximum")
_MACHINES = re.compile(r"q35|pc|pc-(?:q35|i440fx)-.+", re.ASCII)
"""The machine types of x86 that libvirt knows how to give a bus."""
_WITHOUT_REMAPPING = 255
"""More vCPUs have APIC ids that interrupts reach by way of an IOMMU only."""


@attrs.frozen(kw_only=True)
class LibvirtDomain:
    """
    A domain as it is written.

    Attributes:
        xml: The text.
        notes: What is in it that nobody asked for, or what of the domain that was there is not any more; a sentence
            each.
    """

    xml: str
    notes: tuple[str, ...]


def libvirt_xml(
    shape: GuestShape,
    *,
    machine: str = "q35",
    cpu: str = "host-passthrough",
    accel: str = "kvm",
    vendor: str | None = None,
    base: str | None = None,
) -> str:
    """
    Write a guest's shape as a domain: the text of :func:`libvirt_domain`.

    Args:
        shape: As there.
        machine: As there.
        cpu: As there.
        accel: As there.
        vendor: As there.
        base: As there.

    Returns:
        The text.

    Raises:
        RequestError: As there.
        WrongUsage: As there.
    """
    return libvirt_domain(shape, machine=machine, cpu=cpu, accel=accel, vendor=vendor, base=base).xml


def libvirt_domain(
    shape: GuestShape,
    *,
    machine: str = "q35",
    cpu: str = "host-passthrough",
    accel: str = "kvm",
    vendor: str | None = None,
    base: str | None = None,
) -> LibvirtDomain:
    """
    Write a guest's shape as a domain, and say what has to be known of it.

    Args:
        shape: The shape.
        machine: The machine type by whose rules the shape was made.
        cpu: How libvirt makes the CPU: ``host-passthrough``, ``host-model``, ``maximum``, or a model's name.
        accel: ``kvm`` or ``tcg``.
        vendor: Who made the host's CPUs, as /proc/cpuinfo says; None where not known.
        base: A domain whose other elements stay; its CPU's mode and model, its type and its machine stay, too. None for
            a domain of its own.

    Returns:
        The domain.

    Raises:
        RequestError: libvirt could not take something: memory that is not said, or no multiple of 1 KiB; in a domain
            that is there, an IOThread or a cell that a device needs and the guest has not.
        WrongUsage: The base is no domain, or another guest's; the CPU is no mode and no name of a model; libvirt has no
            such machine type for x86.
    """
    root = _fresh(shape, machine, accel) if base is None else _domain(base, shape.spec.name)
    wrong = list(_wrong_words(root, cpu))
    if wrong:
        raise WrongUsage.of(wrong)
    problems, notes = list(_problems(shape)), list[str]()
    write_memory(root, shape, problems, notes)
    write_vcpus(root, shape)
    ids = write_iothreads(root, shape, problems, notes)
    write_pins(root, shape, ids, notes)
    write_nodes(root, shape)
    _cpu(root, shape, cpu, vendor, notes, fresh=base is None)
    _dedicated(root, shape)
    _remapping(root, shape, problems, notes)
    _metadata(root, shape, ids)
    if problems:
        raise RequestError.of(problems)
    return LibvirtDomain(xml=write_xml(root), notes=tuple(notes))


def machine_of(base: str) -> str | None:
    """
    Say which machine type a domain has.

    Args:
        base: The domain.

    Returns:
        It; None where it is not said.

    Raises:
        WrongUsage: It is no domain.
    """
    kind = _domain(base).find("os/type")
    return None if kind is None else kind.get("machine")


def _problems(shape: GuestShape) -> Iterator[str]:
    name = shape.spec.name
    if not shape.memory_bytes:
        yield f"guest {name!r}: libvirt wants to know a domain's memory: say memory"
    if "/" in name:
        yield f"guest {name!r}: libvirt takes no name with a '/'"
    for what, size in (
        ("memory", shape.memory_bytes),
        *(("a cell's memory", cell.memory_bytes) for cell in shape.cells),
    ):
        if size % _KIB:
            yield f"guest {name!r}: {what} of {size} bytes is no whole number of KiB, in which libvirt counts"


def _domain(base: str, name: str | None = None) -> Element:
    try:
        root, _ = parse_xml(base)
    except XmlError as error:
        raise WrongUsage.of([f"the domain, line {error.line}: {error.message}"]) from None
    if root.tag != "domain":
        raise WrongUsage.of([f"the domain is an element <domain>, not <{root.tag}>"])
    title = root.find("name")
    called = "" if title is None else content(title).strip()
    if name is not None and called != name:
        raise WrongUsage.of([f"the domain is that of {called!r}, not of {name!r}"])
    return root


def _wrong_words(root: Element, cpu: str) -> Iterator[str]:
    if not cpu.strip() or not cpu.isprintable() or "," in cpu:
        yield (
            f"a libvirt CPU is {', '.join(_CPU_MODES)}, or the name of a model, not {shown(cpu)}; flags are elements "
            "<feature>"
        )
    kind = root.find("os/type")
    machine = None if kind is None else kind.get("machine")
    if machine is not None and not _MACHINES.fullmatch(machine):
        yield f"libvirt has no machine type {shown(machine)} for x86; q35 and pc are, and their versions"


def _fresh(shape: GuestShape, machine: str, accel: str) -> Element:
    root = Element("domain", type={"kvm": "kvm", "tcg": "qemu"}[accel])
    set_text(root, "name", shape.spec.name)
    if shape.spec.uuid:
        set_text(root, "uuid", shape.spec.uuid)
    kind = added(child(root, "os"), "type", arch="x86_64", machine=machine)
    kind.text = "hvm"
    return root


# -- elements


def _cpu(
    root: Element, shape: GuestShape, cpu: str, vendor: str | None, notes: list[str], *, fresh: bool
) -> None:
    made, smp = child(root, "cpu"), shape.smp
    if fresh and cpu in _CPU_MODES:
        made.set("mode", cpu)
    elif fresh:
        made.set("mode", "custom")
        added(made, "model").text = cpu
    removed(made, "topology")
    counts = {"sockets": smp.sockets, "dies": smp.dies, "cores": smp.cores, "threads": smp.threads}
    added(
        made,
        "topology",
        **{level: str(count) for level, count in counts.items() if level != "dies" or count > 1},
    )
    told = {str(one.get("name")) for one in children(made, "feature")}
    of_host = root.get("type") == "kvm" and made.get("mode") in _CPU_MODES
    if of_host and vendor in AMD and smp.threads > 1 and "topoext" not in told:
        added(made, "feature", policy="require", name="topoext")
    if root.get("type") == "qemu" and made.get("mode") == "maximum" and smp.threads > 1:
        notes.append(
            "under TCG the CPU maximum is one of AMD's without topoext, so that the guest may take siblings for cores; "
            "say --cpu with a model of Intel's"
        )
    write_cells(root, made, shape, notes)


def _dedicated(root: Element, shape: GuestShape) -> None:
    """Tell the guest that nobody else runs where its vCPUs do, if that is so."""
    if shape.spec.vcpu_policy is VcpuPolicy.DEDICATED and root.get("type") == "kvm":
        replaced(within(child(root, "features"), "kvm"), "hint-dedicated", state="on")
    elif (kvm := root.find("features/kvm")) is not None:
        removed(kvm, "hint-dedicated")


def _remapping(root: Element, shape: GuestShape, problems: list[str], notes: list[str]) -> None:
    """Let interrupts reach the vCPUs beyond the 255th, without which libvirt takes no such domain."""
    if shape.smp.maxcpus <= _WITHOUT_REMAPPING:
        return
    iommu = root.find("devices/iommu")
    if iommu is not None and iommu.get("model") != "intel":
        problems.append(
            f"more than {_WITHOUT_REMAPPING} vCPUs need an <iommu model='intel'>; the domain has one of model "
            f"{shown(iommu.get('model'))}"
        )
        return
    if iommu is None:
        iommu = added(child(root, "devices"), "iommu", model="intel")
    driver = within(iommu, "driver")
    ioapic = within(child(root, "features"), "ioapic")
    wanted = ((driver, "intremap", "on"), (driver, "eim", "on"), (ioapic, "driver", "qemu"))
    if any(element.get(key) != value for element, key, value in wanted):
        notes.append(
            f"more than {_WITHOUT_REMAPPING} vCPUs need interrupt remapping: its <iommu> and <ioapic> are for that"
        )
    for element, key, value in wanted:
        element.set(key, value)


def _metadata(root: Element, shape: GuestShape, ids: Sequence[str]) -> None:
    said = policies_toml(shape.spec) + _names(shape.spec.iothreads, ids)
    for one in our_metadata(root):
        for kept in children(root, "metadata"):
            if one in list(kept):
                kept.remove(one)
    for kept in list(children(root, "metadata")):
        if not len(kept):
            root.remove(kept)
    if said:
        made = added(child(root, "metadata"), f"{PREFIX}:guest")
        made.set(f"xmlns:{PREFIX}", METADATA)
        made.text = f"\n{said}"


def _names(iothreads: Sequence[str], ids: Sequence[str]) -> str:
    """IOThreads' names, where they are not those that follow from their ids."""
    if not iothreads or list(iothreads) == [f"iothread{one}" for one in ids]:
        return ""
    return f"iothreads = {toml_list(iothreads)}\n"
