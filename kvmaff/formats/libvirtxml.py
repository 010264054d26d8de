"""
A guest's shape -> a libvirt domain: its vCPUs, IOThreads, pins, memory, NUMA cells and CPU.

Either a domain of its own, which has no disk and no network, or those elements in a domain that is there: everything
else of that stays (https://libvirt.org/formatdomain.html; docs/schemas/domaincommon.rng).

What libvirt has no element for, how the guest is to be placed, stands in the domain's metadata, so that the domain
alone says all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.spectoml import policies_toml, toml_list
from kvmaff.formats.xmltree import Element, XmlError, children, parse_xml, write_xml
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.host.vendor import AMD
from kvmaff.placement.shape import GuestShape

__all__ = ["METADATA", "PREFIX", "libvirt_xml", "machine_of"]

METADATA = "urn:kvmaff:guest:1"
"""The XML namespace of what stands in the metadata."""
PREFIX = "kvmaff"
_KIB = 1024
_ORDER = (
    *("name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory", "currentMemory"),
    *(
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "cputune",
        "numatune",
        "resource",
        "sysinfo",
    ),
    *("bootloader", "os", "features", "cpu"),
)
"""The order in which people know the elements; libvirt takes any."""
_CPU_MODES = ("host-passthrough", "host-model", "maximum")


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
    Write a guest's shape as a domain.

    Args:
        shape: The shape.
        machine: The machine type by whose rules the shape was made.
        cpu: How libvirt makes the CPU: ``host-passthrough``, ``host-model``, ``maximum``, or a model's name.
        accel: ``kvm`` or ``tcg``.
        vendor: Who made the host's CPUs, as /proc/cpuinfo says; None where not known.
        base: A domain whose other elements stay; its CPU's mode and model, its type and its machine stay, too. None for
            a domain of its own.

    Returns:
        The text.

    Raises:
        RequestError: libvirt could not take something: memory that is not said, or no multiple of 1 KiB.
        WrongUsage: The base is no domain, or another guest's.
    """
    problems = list(_problems(shape))
    if problems:
        raise RequestError.of(problems)
    root = _fresh(shape, machine, accel) if base is None else _domain(base, shape.spec.name)
    _memory(root, shape)
    _vcpus(root, shape)
    _cputune(root, shape)
    _numatune(root, shape)
    _cpu(root, shape, cpu, vendor, fresh=base is None)
    _dedicated(root, shape)
    _metadata(root, shape)
    return write_xml(root)


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
    called = (root.findtext("name") or "").strip()
    if name is not None and called != name:
        raise WrongUsage.of([f"the domain is that of {called!r}, not of {name!r}"])
    return root


def _fresh(shape: GuestShape, machine: str, accel: str) -> Element:
    root = Element("domain", type={"kvm": "kvm", "tcg": "qemu"}[accel])
    _text(root, "name", shape.spec.name)
    if shape.spec.uuid:
        _text(root, "uuid", shape.spec.uuid)
    _text(_child(root, "os"), "type", "hvm", arch="x86_64", machine=machine)
    return root


# -- elements


def _child(root: Element, name: str) -> Element:
    """Return an element of the domain, made in its place where it is not there."""
    found = root.find(name)
    if found is None:
        found = Element(name)
        before = _ORDER[: _ORDER.index(name)]
        at = max((place + 1 for place, child in enumerate(root) if child.tag in before), default=0)
        root.insert(at, found)
    return found


def _within(parent: Element, name: str) -> Element:
    found = parent.find(name)
    if found is None:
        found = _added(parent, name)
    return found


def _added(parent: Element, name: str, /, **attributes: str) -> Element:
    made = Element(name, attributes)
    parent.append(made)
    return made


def _replaced(parent: Element, name: str, /, **attributes: str) -> Element:
    _removed(parent, name)
    return _added(parent, name, **attributes)


def _removed(parent: Element, *names: str) -> None:
    for name in names:
        for child in list(children(parent, name)):
            parent.remove(child)


def _text(root: Element, name: str, text: str, **attributes: str) -> None:
    made = _child(root, name) if root.tag == "domain" else _within(root, name)
    made.text = text
    made.attrib.clear()
    made.attrib.update(attributes)


# -- what they hold


def _memory(root: Element, shape: GuestShape) -> None:
    _text(root, "memory", str(shape.memory_bytes // _KIB), unit="KiB")
    _removed(root, "currentMemory")  # one that is less would be a balloon's
    page = shape.spec.page_bytes
    if page:
        huge = _replaced(_child(root, "memoryBacking"), "hugepages")
        _added(huge, "page", size=str(page // _KIB), unit="KiB")
    elif (backing := root.find("memoryBacking")) is not None:
        _removed(backing, "hugepages")


def _vcpus(root: Element, shape: GuestShape) -> None:
    spec = shape.spec
    current = {"current": str(spec.vcpus)} if spec.vcpus != spec.max_vcpus else {}
    _text(root, "vcpu", str(spec.max_vcpus), placement="static", **current)
    _removed(root, "vcpus")  # says again which are plugged
    if spec.iothreads:
        _text(root, "iothreads", str(len(spec.iothreads)))
        ids = root.find("iothreadids")
        if ids is not None and len(list(children(ids, "iothread"))) != len(spec.iothreads):
            root.remove(ids)
    else:
        _removed(root, "iothreads", "iothreadids")


def _iothread_ids(root: Element, count: int) -> list[str]:
    """The ids that libvirt gives, or that the domain says."""
    ids = root.find("iothreadids")
    said = [] if ids is None else [str(one.get("id")) for one in children(ids, "iothread")]
    return said or [str(number) for number in range(1, count + 1)]


def _cputune(root: Element, shape: GuestShape) -> None:
    tune, placed = _child(root, "cputune"), shape.placed
    _removed(tune, "vcpupin", "emulatorpin", "iothreadpin")
    for vcpu in range(shape.spec.max_vcpus):
        _pin(tune, "vcpupin", placed.cpus_of(Role.VCPU, vcpu), vcpu=str(vcpu))
    _pin(tune, "emulatorpin", placed.cpus_of(Role.EMULATOR))
    for at, name in enumerate(_iothread_ids(root, len(shape.spec.iothreads))[: len(shape.spec.iothreads)]):
        _pin(tune, "iothreadpin", placed.cpus_of(Role.IOTHREAD, at), iothread=name)


def _pin(tune: Element, name: str, cpus: CpuSet | None, **attributes: str) -> None:
    if cpus:
        _added(tune, name, **attributes, cpuset=str(cpus))


def _numatune(root: Element, shape: GuestShape) -> None:
    _removed(root, "numatune")
    if not shape.nodes:
        return
    tune = _child(root, "numatune")
    _added(tune, "memory", mode="strict", nodeset=str(CpuSet(shape.nodes)))
    for at, cell in enumerate(shape.cells):
        _added(tune, "memnode", cellid=str(at), mode="strict", nodeset=str(CpuSet(cell.nodes)))


def _cpu(root: Element, shape: GuestShape, cpu: str, vendor: str | None, *, fresh: bool) -> None:
    made, smp = _child(root, "cpu"), shape.smp
    if fresh and cpu in _CPU_MODES:
        made.set("mode", cpu)
    elif fresh:
        made.set("mode", "custom")
        _added(made, "model").text = cpu
    _removed(made, "topology", "numa")
    counts = {"sockets": smp.sockets, "dies": smp.dies, "cores": smp.cores, "threads": smp.threads}
    _added(
        made,
        "topology",
        **{level: str(count) for level, count in counts.items() if level != "dies" or count > 1},
    )
    told = {str(one.get("name")) for one in children(made, "feature")}
    of_host = root.get("type") == "kvm" and made.get("mode") in _CPU_MODES
    if of_host and vendor in AMD and smp.threads > 1 and "topoext" not in told:
        _added(made, "feature", policy="require", name="topoext")
    if shape.cells:
        _numa(_added(made, "numa"), shape)


def _dedicated(root: Element, shape: GuestShape) -> None:
    """Tell the guest that nobody else runs where its vCPUs do, if that is so."""
    if shape.spec.vcpu_policy is VcpuPolicy.DEDICATED and root.get("type") == "kvm":
        _replaced(_within(_child(root, "features"), "kvm"), "hint-dedicated", state="on")
    elif (kvm := root.find("features/kvm")) is not None:
        _removed(kvm, "hint-dedicated")


def _numa(numa: Element, shape: GuestShape) -> None:
    for at, cell in enumerate(shape.cells):
        size = str(cell.memory_bytes // _KIB)
        made = _added(numa, "cell", id=str(at), cpus=str(CpuSet(cell.vcpus)), memory=size, unit="KiB")
        if shape.distances:
            far = _added(made, "distances")
            for other, distance in enumerate(shape.distances[at]):
                _added(far, "sibling", id=str(other), value=str(distance))


def _metadata(root: Element, shape: GuestShape) -> None:
    tag = f"{PREFIX}:guest"
    said = policies_toml(shape.spec) + _names(shape.spec.iothreads)
    kept = root.find("metadata")
    if kept is not None:
        _removed(kept, tag)
        if not len(kept):
            root.remove(kept)
    if said:
        made = _added(_child(root, "metadata"), tag)
        made.set(f"xmlns:{PREFIX}", METADATA)
        made.text = f"\n{said}"


def _names(iothreads: Sequence[str]) -> str:
    """IOThreads' names, where they are not those that libvirt gives."""
    plain = tuple(f"iothread{number}" for number in range(1, len(iothreads) + 1))
    if tuple(iothreads) == plain:
        return ""
    return f"iothreads = {toml_list(iothreads)}\n"
