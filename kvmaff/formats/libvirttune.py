"""
vCPUs, IOThreads and their pins, in a libvirt domain.

Rules:

1. Pins are ours, all of them. What else is said of vCPUs and IOThreads (schedulers, shares of a cache) stays for those
   that there still are; libvirt refuses the rest.
2. An IOThread that a device uses stays. Where the spec names none, nothing is said of them, and all stay, on the CPUs
   of the emulator.
"""

from __future__ import annotations

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.formats.libvirtedit import added, child, removed, set_text
from kvmaff.formats.libvirtparts import iothread_ids, used_iothreads
from kvmaff.formats.xmltree import Element, children, content
from kvmaff.guest.guest import Role
from kvmaff.placement.shape import GuestShape

__all__ = ["write_iothreads", "write_pins", "write_vcpus"]

_MOST = 8192
_TUNED = {"vcpusched": "vcpus", "cachetune": "vcpus", "memorytune": "vcpus", "iothreadsched": "iothreads"}


def write_vcpus(root: Element, shape: GuestShape) -> None:
    """
    Write how many vCPUs, and how many of them are plugged.

    Args:
        root: The domain.
        shape: The guest's shape.
    """
    spec = shape.spec
    current = str(spec.vcpus) if spec.vcpus != spec.max_vcpus else None
    set_text(root, "vcpu", str(spec.max_vcpus), placement="static", cpuset=None, current=current)
    removed(root, "vcpus")  # says again which are plugged


def write_iothreads(root: Element, shape: GuestShape, problems: list[str], notes: list[str]) -> list[str]:
    """
    Write how many IOThreads.

    Args:
        root: The domain.
        shape: The guest's shape.
        problems: What libvirt could not take is added.
        notes: What is no more as it was, or not as the spec says, is added.

    Returns:
        Their ids, in the order of the spec's names.
    """
    names = shape.spec.iothreads
    element = root.find("iothreads")
    said = "" if element is None else content(element).strip()
    had = iothread_ids(root, int(said) if said.isascii() and said.isdigit() and len(said) < 5 else 0)
    if not names:
        if had:
            notes.append(
                f"the spec names no IOThreads: the domain's {len(had)} stay, where the emulator is; name them in "
                "iothreads to give them places"
            )
        return had
    used = used_iothreads(root)
    needed = [one for one in had if one in used]
    if len(needed) > len(names):
        problems.append(
            f"the domain's devices use the IOThreads {', '.join(needed)} ({used[needed[-1]]} the last), the spec names "
            f"{len(names)}: name {len(needed)} in iothreads, or change the devices"
        )
        return had
    spare = len(names) - len(needed)
    others = [one for one in had if one not in used]
    kept = [one for one in had if one in used or one in others[:spare]]
    if len(kept) < len(had):
        notes.append(
            f"the domain's IOThreads {', '.join(one for one in had if one not in kept)} are gone: the spec names "
            f"{len(names)}"
        )
    ids = _filled(kept, len(names))
    set_text(root, "iothreads", str(len(names)))
    if root.find("iothreadids") is not None or ids != [str(number) for number in range(1, len(ids) + 1)]:
        listed = child(root, "iothreadids")
        there = {str(one.get("id")): one for one in children(listed, "iothread")}
        removed(listed, "iothread")
        listed.extend([there.get(one, Element("iothread", id=one)) for one in ids])
    return ids


def write_pins(root: Element, shape: GuestShape, ids: list[str], notes: list[str]) -> None:
    """
    Write where every thread runs.

    Args:
        root: The domain.
        shape: The guest's shape.
        ids: Those of the domain's IOThreads.
        notes: What is no more as it was is added.
    """
    tune, placed = child(root, "cputune"), shape.placed
    removed(tune, "vcpupin", "emulatorpin", "iothreadpin")
    for vcpu in range(shape.spec.max_vcpus):
        _pin(tune, "vcpupin", placed.cpus_of(Role.VCPU, vcpu), vcpu=str(vcpu))
    emulator = placed.cpus_of(Role.EMULATOR)
    _pin(tune, "emulatorpin", emulator)
    for at, name in enumerate(ids):
        cpus = placed.cpus_of(Role.IOTHREAD, at) if shape.spec.iothreads else emulator
        _pin(tune, "iothreadpin", cpus, iothread=name)
    there = {
        "vcpus": CpuSet(range(shape.spec.max_vcpus)),
        "iothreads": CpuSet(int(one) for one in ids if one.isascii() and one.isdigit() and int(one) < _MOST),
    }
    for tag, key in _TUNED.items():
        for one in list(children(tune, tag)):
            gone = _cut(tune, one, key, there[key])
            if gone:
                what = "vCPUs" if key == "vcpus" else "IOThreads"
                notes.append(f"<{tag}> is for the {what} {gone} no more, which there are not")


def _filled(kept: list[str], count: int) -> list[str]:
    """Add ids, the lowest that are free first."""
    found, number = list(kept), 1
    while len(found) < count:
        if str(number) not in kept:
            found.append(str(number))
        number += 1
    return found


def _pin(tune: Element, name: str, cpus: CpuSet | None, **attributes: str) -> None:
    if cpus:
        added(tune, name, **attributes, cpuset=str(cpus))


def _cut(parent: Element, element: Element, key: str, there: CpuSet) -> CpuSet:
    """Leave of an element, and of those in it, what is there; say what is not."""
    said = element.get(key)
    try:
        listed = CpuSet() if said is None else CpuSet.parse(said, exclude=True)
    except CpuTextError:
        return CpuSet()  # libvirt says what is wrong with it
    gone = listed - there
    for one in list(element):
        _cut(element, one, key, there)
    if gone and not listed & there:
        parent.remove(element)
    elif gone:
        element.set(key, str(listed & there))
    return gone
