"""
What stands where in a libvirt domain, for who reads one and who writes one.

Rules (libvirt: src/conf/domain_conf.c, src/util/virutil.c):

1. An amount has a unit in any case: K, KiB and none at all are 1024, KB is 1000.
2. IOThreads that have no id of their own get the lowest ids that are free.
3. What is ours in the metadata is known by its namespace, whatever prefix somebody has given it.
4. Memory devices (DIMMs) are a part of ``<memory>`` beside the cells, and hang on a cell each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kvmaff.formats.xmltree import Element, children, content, namespace

__all__ = [
    "METADATA",
    "PREFIX",
    "dimm_bytes",
    "iothread_ids",
    "memory_devices",
    "our_metadata",
    "scale_of",
    "used_iothreads",
]

METADATA = "urn:kvmaff:guest:1"
"""The XML namespace of what stands in the metadata."""
PREFIX = "kvmaff"
_KIB = 1 << 10
_UNIT = re.compile(r"([kmgtpe])(ib|b)?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_MOST_IOTHREADS = 8192


def scale_of(unit: str | None) -> int | None:
    """
    Say how many bytes a unit is.

    Args:
        unit: The unit; None where none is said, which is KiB.

    Returns:
        Bytes; None for a unit that libvirt does not know.
    """
    if not unit:
        return _KIB
    if unit.lower() in {"b", "byte", "bytes"}:
        return 1
    match = _UNIT.fullmatch(unit)
    if match is None:
        return None
    base = 1000 if (match[2] or "").lower() == "b" else 1024
    return int(base ** ("kmgtpe".index(match[1].lower()) + 1))


def our_metadata(root: Element) -> list[Element]:
    """
    Find what is ours in the metadata.

    Args:
        root: The domain.

    Returns:
        All of it, in order; more than one where somebody added some.
    """
    return [
        child
        for metadata in children(root, "metadata")
        for child in metadata
        if not callable(child.tag)  # a comment has a function
        and _is_ours(child, metadata, root)
    ]


def _is_ours(child: Element, *around: Element) -> bool:
    said, name = namespace(child, *around)
    return name == "guest" and (said == METADATA or (said is None and child.tag == f"{PREFIX}:guest"))


def iothread_ids(root: Element, count: int) -> list[str]:
    """
    Say which ids a domain's IOThreads have.

    Args:
        root: The domain.
        count: How many it has, at least.

    Returns:
        The ids that the domain says, then those that libvirt gives.
    """
    said = [str(one.get("id")) for one in root.iterfind("iothreadids/iothread")]
    number = 1
    taken = set(said)
    while len(said) < min(count, _MOST_IOTHREADS):
        if str(number) not in taken:
            said.append(str(number))
        number += 1
    return said


def used_iothreads(root: Element) -> dict[str, str]:
    """
    Say which IOThreads a domain's devices use.

    Args:
        root: The domain.

    Returns:
        A device's name by the id.
    """
    found: dict[str, str] = {}
    for device in root.iterfind("devices/*"):
        for one in device.iter():
            for said in (one.get("iothread"), one.get("id") if one.tag == "iothread" else None):
                if said is not None:
                    found.setdefault(said, str(device.tag))
    return found


def memory_devices(root: Element) -> Iterator[Element]:
    """
    Go through a domain's memory devices that are memory of the guest like any other.

    Args:
        root: The domain.

    Yields:
        DIMMs, in order; no NVDIMMs and no memory of enclaves, which are no part of ``<memory>``.
    """
    for device in root.iterfind("devices/memory"):
        if device.get("model") == "dimm":
            yield device


def dimm_bytes(device: Element) -> int:
    """
    Say how large a memory device is.

    Args:
        device: It.

    Returns:
        Bytes; 0 where that is not said, or wrongly.
    """
    size = device.find("target/size")
    text = "" if size is None else content(size).strip()
    scale = None if size is None else scale_of(size.get("unit"))
    return int(text) * scale if scale and _NUMBER.fullmatch(text) else 0
