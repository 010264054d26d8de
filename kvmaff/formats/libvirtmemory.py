"""
A guest's memory and its NUMA cells, in a libvirt domain.

Rules:

1. A cell of the domain keeps what is not its vCPUs, its memory and its distances: whether its memory is shared, caches.
   A cell that comes anew is like the others where these are all alike.
2. A DIMM is part of its cell's memory. One that hangs on a cell that there is not any more is an error.
"""

from __future__ import annotations

from kvmaff.cpuset import CpuSet
from kvmaff.formats.libvirtedit import added, child, removed, replaced, set_text
from kvmaff.formats.libvirtparts import dimm_bytes, memory_devices, scale_of
from kvmaff.formats.xmltree import Element, children, content
from kvmaff.placement.shape import GuestShape

__all__ = ["write_cells", "write_memory", "write_nodes"]

_KIB = 1024
_OURS = ("id", "cpus", "memory", "unit")


def write_memory(root: Element, shape: GuestShape, problems: list[str], notes: list[str]) -> None:
    """
    Write how much memory, and of which pages.

    Args:
        root: The domain.
        shape: The guest's shape.
        problems: What libvirt could not take is added.
        notes: What is no more as it was is added.
    """
    _judged(root, shape, problems)
    set_text(root, "memory", str(shape.memory_bytes // _KIB), unit="KiB")
    removed(root, "currentMemory")  # one that is less would be a balloon's
    page = shape.spec.page_bytes
    if page:
        huge = replaced(child(root, "memoryBacking"), "hugepages")
        added(huge, "page", size=str(page // _KIB), unit="KiB")
    elif (backing := root.find("memoryBacking")) is not None and backing.find("hugepages") is not None:
        removed(backing, "hugepages")
        notes.append("its memory is of huge pages no more: the spec has no page_size")


def write_nodes(root: Element, shape: GuestShape) -> None:
    """
    Write on which of the host's nodes the memory is.

    Args:
        root: The domain.
        shape: The guest's shape.
    """
    removed(root, "numatune")
    if not shape.nodes:
        return
    tune = child(root, "numatune")
    added(tune, "memory", mode="strict", nodeset=str(CpuSet(shape.nodes)))
    for at, cell in enumerate(shape.cells):
        added(tune, "memnode", cellid=str(at), mode="strict", nodeset=str(CpuSet(cell.nodes)))


def write_cells(root: Element, cpu: Element, shape: GuestShape, notes: list[str]) -> None:
    """
    Write the guest's NUMA cells.

    Args:
        root: The domain.
        cpu: Its element ``<cpu>``.
        shape: The guest's shape.
        notes: What is no more as it was is added.
    """
    was = cpu.find("numa")
    removed(cpu, "numa")
    before = {} if was is None else _by_number(was)
    lost = sorted(number for number in before if number >= len(shape.cells) and _own(before[number]))
    if lost:
        notes.append(f"what the domain said of cell {CpuSet(lost)} besides is gone with it")
    if not shape.cells:
        return
    numa = added(cpu, "numa")
    common = _common(before)
    dimms = _dimms(root)
    for at, cell in enumerate(shape.cells):
        old = before.get(at)
        made = added(
            numa,
            "cell",
            id=str(at),
            cpus=str(CpuSet(cell.vcpus)),
            memory=str((cell.memory_bytes - dimms.get(at, 0)) // _KIB),
            unit="KiB",
        )
        made.attrib.update(common if old is None else _own(old))
        if shape.distances:
            far = added(made, "distances")
            for other, distance in enumerate(shape.distances[at]):
                added(far, "sibling", id=str(other), value=str(distance))
        made.extend([] if old is None else [one for one in old if one.tag != "distances"])
    for links in [] if was is None else children(was, "interconnects"):
        if {one.get(end) for one in links for end in ("initiator", "target")} - {None} <= {
            str(at) for at in range(len(shape.cells))
        }:
            numa.append(links)
        else:
            notes.append("what the domain said of ways between its cells is gone: some of the cells are")


def _judged(root: Element, shape: GuestShape, problems: list[str]) -> None:
    dimms = _dimms(root)
    most = root.find("maxMemory")
    if not shape.cells and (dimms or most is not None):
        problems.append(
            "the domain has memory that is plugged in (<maxMemory> or a DIMM), for which libvirt wants NUMA cells: "
            "say [[guest.cell]]"
        )
    elif most is not None:
        text, scale = content(most).strip(), scale_of(most.get("unit"))
        if scale and text.isascii() and text.isdigit() and int(text[:20]) * scale < shape.memory_bytes:
            problems.append(
                f"the domain's <maxMemory> is {text} {most.get('unit') or 'KiB'}, less than the guest's memory of "
                f"{shape.memory_bytes // _KIB} KiB: raise it, or take it out"
            )
    for node, size in dimms.items() if shape.cells else ():
        if not 0 <= node < len(shape.cells):
            problems.append(
                f"a DIMM of the domain is in cell {node}, the guest has {len(shape.cells)}: take it out"
            )
        elif size >= shape.cells[node].memory_bytes:
            problems.append(
                f"the domain's DIMMs in cell {node} have {size // _KIB} KiB, all memory of that cell is "
                f"{shape.cells[node].memory_bytes // _KIB} KiB: there is none left to start with"
            )


def _dimms(root: Element) -> dict[int, int]:
    """Say how much memory of each cell is DIMMs."""
    found: dict[int, int] = {}
    for device in memory_devices(root):
        node = device.find("target/node")
        text = "0" if node is None else content(node).strip()
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
        found[number] = found.get(number, 0) + dimm_bytes(device)
    return found


def _by_number(numa: Element) -> dict[int, Element]:
    found = {}
    for place, cell in enumerate(children(numa, "cell")):
        said = cell.get("id", str(place))
        found[int(said) if said.isascii() and said.isdigit() and len(said) < 6 else place] = cell
    return found


def _own(cell: Element) -> dict[str, str]:
    return {key: value for key, value in cell.attrib.items() if key not in _OURS}


def _common(cells: dict[int, Element]) -> dict[str, str]:
    """Return what all cells say alike."""
    all_of = [_own(cell) for cell in cells.values()]
    return all_of[0] if all_of and all(one == all_of[0] for one in all_of) else {}
