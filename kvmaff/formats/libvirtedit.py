"""Elements of a domain are found, made in their place, and taken out."""

from __future__ import annotations

from kvmaff.formats.xmltree import Element, children, set_content

__all__ = ["added", "child", "removed", "replaced", "set_text", "within"]

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


def child(root: Element, name: str) -> Element:
    """
    Find an element of the domain, or make it in its place.

    Args:
        root: The domain.
        name: The element's name.

    Returns:
        It.
    """
    found = root.find(name)
    if found is None:
        found = Element(name)
        before = _ORDER[: _ORDER.index(name)] if name in _ORDER else None
        places = [
            place + 1
            for place, other in enumerate(root)
            if not callable(other.tag) and (before is None or other.tag in before)
        ]
        root.insert(max(places, default=0), found)
    return found


def within(parent: Element, name: str) -> Element:
    """
    Find an element inside another one, or make it behind all that is there.

    Args:
        parent: The other one.
        name: The element's name.

    Returns:
        It.
    """
    found = parent.find(name)
    return added(parent, name) if found is None else found


def added(parent: Element, name: str, /, **attributes: str) -> Element:
    """
    Make an element inside another one.

    Args:
        parent: The other one.
        name: The element's name.
        **attributes: Its attributes.

    Returns:
        It.
    """
    made = Element(name, attributes)
    parent.append(made)
    return made


def replaced(parent: Element, name: str, /, **attributes: str) -> Element:
    """
    Make an element in place of all of its name.

    Args:
        parent: What it is in.
        name: Its name.
        **attributes: Its attributes.

    Returns:
        It.
    """
    removed(parent, name)
    return added(parent, name, **attributes)


def removed(parent: Element, *names: str) -> None:
    """
    Take elements out.

    Args:
        parent: What they are in.
        *names: Their names.
    """
    for name in names:
        for one in list(children(parent, name)):
            parent.remove(one)


def set_text(root: Element, name: str, text: str, /, **attributes: str | None) -> None:
    """
    Set the text of an element of the domain, and some of its attributes.

    Args:
        root: The domain.
        name: The element's name.
        text: The text.
        **attributes: Attributes by name; None for one that goes. Others stay.
    """
    made = child(root, name)
    set_content(made, text)
    for key, value in attributes.items():
        if value is None:
            made.attrib.pop(key, None)
        else:
            made.set(key, value)
