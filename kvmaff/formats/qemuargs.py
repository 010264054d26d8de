"""
A guest's shape -> arguments of ``qemu-system-x86_64``: what concerns CPUs, NUMA and memory, and nothing else.

Sources: qemu-options.hx, hw/core/numa.c, backends/hostmem.c, util/thread-context.c. Disks, networks and firmware are
the caller's. QEMU cannot pin its vCPUs: that is done when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kvmaff.cpuset import CpuSet
from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.tomltext import shown
from kvmaff.guest.keyval import escaped
from kvmaff.guest.smp import SmpTopology
from kvmaff.guest.smprules import Version
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.host.vendor import AMD
from kvmaff.placement.shape import GuestShape

__all__ = ["qemu_arguments", "qemu_notes"]

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}", re.ASCII)
_UNIT = 8192
"""QEMU rounds a guest's memory up to so many bytes."""
_WITHOUT_REMAPPING = 255
"""More vCPUs have APIC ids that interrupts reach by way of an IOMMU only."""
_OF_AMD = re.compile("max|qemu(?:32|64)|EPYC.*|Opteron.*|phenom|athlon", re.ASCII)
"""CPU models that are AMD's where nothing of the host's is in them."""
_CONTEXT = (7, 2)
"""The first QEMU that has thread-context."""


def qemu_arguments(
    shape: GuestShape,
    *,
    machine: str = "q35",
    cpu: str = "host",
    accel: str = "kvm",
    vendor: str | None = None,
    prealloc: bool = False,
    qemu: Version = _CONTEXT,
) -> tuple[tuple[str, ...], ...]:
    """
    Write a guest's shape as arguments.

    Args:
        shape: The shape.
        machine: The machine type by whose rules the shape was made.
        cpu: The CPU model, with what the caller adds to it.
        accel: ``kvm`` or ``tcg``.
        vendor: Who made the host's CPUs, as /proc/cpuinfo says; None where not known.
        prealloc: Whether all memory is there before the guest runs, and not when it is first used; of huge pages it
            always is.
        qemu: The version of the binary.

    Returns:
        The arguments, each option with its value; the order matters.

    Raises:
        WrongUsage: The CPU model is none.
        RequestError: QEMU could not take something: an IOThread's name, or an amount of memory.
    """
    if not cpu or not cpu.isprintable():
        raise WrongUsage.of([f"a CPU is the name of a model, with flags, not {shown(cpu)}"])
    problems = list(_problems(shape))
    if problems:
        raise RequestError.of(problems)
    spec = shape.spec
    found: list[tuple[str, ...]] = [("-name", f"guest={escaped(spec.name)},debug-threads=on")]
    if spec.uuid:
        found.append(("-uuid", spec.uuid))
    backend = (
        ",memory-backend=mem"
        if shape.memory_bytes and not shape.cells and _backed(shape, prealloc=prealloc)
        else ""
    )
    found += [
        ("-machine", f"{machine}{backend}"),
        ("-accel", accel),
        ("-cpu", _cpu(shape, cpu, accel, vendor)),
        ("-smp", shape.smp.format(("dies",) if shape.smp.dies > 1 else ())),
    ]
    if shape.memory_bytes:
        found.append(("-m", f"size={_size(shape.memory_bytes)}"))
    found += [("-object", one) for one in _memory(shape, qemu, prealloc=prealloc)]
    found += [("-numa", one) for one in _numa(shape)]
    found += [("-object", f"iothread,id={name}") for name in spec.iothreads]
    return tuple(found)


def qemu_notes(
    shape: GuestShape, *, machine: str = "q35", cpu: str = "host", accel: str = "kvm"
) -> tuple[str, ...]:
    """
    Say what has to be known of the arguments of :func:`qemu_arguments`.

    Args:
        shape: As there.
        machine: As there.
        cpu: As there.
        accel: As there.

    Returns:
        A sentence each.
    """
    found = []
    if shape.smp.maxcpus > _WITHOUT_REMAPPING and machine != "microvm":
        found.append(
            f"more than {_WITHOUT_REMAPPING} vCPUs need interrupt remapping, without which a guest's kernel leaves out "
            "the rest: add -device intel-iommu,intremap=on,eim=on before other devices, and kernel-irqchip=split to "
            "-machine"
        )
    model, *flags = cpu.split(",")
    amds = _OF_AMD.fullmatch(model) and not any(flag.startswith("vendor=") for flag in flags)
    if accel == "tcg" and shape.smp.threads > 1 and amds:
        found.append(
            f"under TCG the CPU {model} is one of AMD's without topoext, so the guest may take siblings for cores; say "
            f"--cpu {model},vendor=GenuineIntel, or a model of Intel's"
        )
    return tuple(found)


def _problems(shape: GuestShape) -> Iterator[str]:
    name = shape.spec.name
    for one in shape.spec.iothreads:
        if not _ID.fullmatch(one):
            yield f"guest {name!r}: QEMU takes no IOThread named {one!r}: a letter, then letters, digits, '-', '.', '_'"
    for what, size in (
        ("memory", shape.memory_bytes),
        *(("a cell's memory", cell.memory_bytes) for cell in shape.cells),
    ):
        if size % _UNIT:
            yield f"guest {name!r}: {what} of {size} bytes is no multiple of {_UNIT}, up to which QEMU rounds"


def _cpu(shape: GuestShape, cpu: str, accel: str, vendor: str | None) -> str:
    words = [cpu]
    # without it an AMD guest does not see siblings, and "host" does not turn it on by itself
    of_host = accel == "kvm" and cpu.partition(",")[0] in {"host", "max"}
    if of_host and vendor in AMD and shape.smp.threads > 1 and "topoext" not in cpu:
        words.append("topoext=on")
    alone = shape.spec.vcpu_policy is VcpuPolicy.DEDICATED
    if alone and accel == "kvm" and "kvm-hint-dedicated" not in cpu:
        words.append("kvm-hint-dedicated=on")
    return ",".join(words)


# -- memory


def _backed(shape: GuestShape, *, prealloc: bool) -> bool:
    return bool(shape.nodes or shape.spec.page_bytes or prealloc)


def _memory(shape: GuestShape, qemu: Version, *, prealloc: bool) -> Iterator[str]:
    if shape.cells:
        for at, cell in enumerate(shape.cells):
            if cell.memory_bytes:
                yield from _backend(shape, f"mem{at}", cell.memory_bytes, cell.nodes, qemu, prealloc=prealloc)
    elif shape.memory_bytes and _backed(shape, prealloc=prealloc):
        yield from _backend(shape, "mem", shape.memory_bytes, shape.nodes, qemu, prealloc=prealloc)


def _backend(
    shape: GuestShape, name: str, size: int, nodes: tuple[int, ...], qemu: Version, *, prealloc: bool
) -> Iterator[str]:
    page = shape.spec.page_bytes
    words = [f"memory-backend-{'memfd' if page else 'ram'}", f"id={name}", f"size={_size(size)}"]
    if page:
        words += ["hugetlb=on", f"hugetlbsize={_size(page)}"]
    if page or prealloc:  # huge pages are there from the start, or that it fails is seen when the guest runs
        words.append("prealloc=on")
        if nodes and qemu >= _CONTEXT:  # made by a thread on the nodes that they are for
            yield f"thread-context,id=tc-{name},{_listed('node-affinity', nodes)}"
            words.append(f"prealloc-context=tc-{name}")
    if nodes:
        words += [_listed("host-nodes", nodes), "policy=bind"]
    yield ",".join(words)


def _listed(word: str, numbers: Iterable[int]) -> str:
    """Write numbers as QEMU wants lists: the word again for each run."""
    return ",".join(f"{word}={run}" for run in str(CpuSet(numbers)).split(","))


def _size(size: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size}B"


# -- NUMA


def _numa(shape: GuestShape) -> Iterator[str]:
    for at, cell in enumerate(shape.cells):
        yield f"node,nodeid={at}" + (f",memdev=mem{at}" if cell.memory_bytes else "")
    if len(shape.cells) == 1:
        yield "cpu,node-id=0,socket-id=0"
    elif shape.by_socket:
        for at, cell in enumerate(shape.cells):
            yield f"cpu,node-id={at},socket-id={shape.smp.place(cell.vcpus[0]).socket}"
    elif shape.cells:
        yield from _by_core(shape)
    for source, row in enumerate(shape.distances):
        for target, distance in enumerate(row):
            yield f"dist,src={source},dst={target},val={distance}"


def _by_core(shape: GuestShape) -> Iterator[str]:
    smp = shape.smp
    home = {vcpu: at for at, cell in enumerate(shape.cells) for vcpu in cell.vcpus}
    for first in range(0, smp.maxcpus, smp.threads):
        core = range(first, first + smp.threads)
        whole = len({home[vcpu] for vcpu in core}) == 1
        for vcpu in core[:1] if whole else core:
            words = f"cpu,node-id={home[vcpu]},{_place(smp, vcpu)}"
            yield words if whole else f"{words},thread-id={smp.place(vcpu).thread}"


def _place(smp: SmpTopology, vcpu: int) -> str:
    place = smp.place(vcpu)
    die = f",die-id={place.die}" if smp.dies > 1 else ""
    return f"socket-id={place.socket}{die},core-id={place.core}"
