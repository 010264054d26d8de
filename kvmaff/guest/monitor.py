"""
Where a QEMU listens for QMP, as its command line says; which is input, and proved when it is connected to.

``-qmp ADDRESS``, ``-qmp-pretty ADDRESS``, and ``-chardev socket,id=X,…`` with ``-mon chardev=X,mode=control`` or
``-qmp chardev:X`` are the ways to say it (QEMU qemu-options.hx, "Debug/Expert options"; chardev/char-socket.c). Only
UNIX sockets are used: the kernel says who listens at one (SO_PEERCRED), at a TCP port it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs

from kvmaff.guest.keyval import loose_pairs

__all__ = ["TIMEOUT", "Monitor", "Monitors", "monitors_said"]

TIMEOUT = 5.0
"""Seconds that each step with a monitor may take, unless said."""

_TRUE = ("on", "yes", "true", "y")


@attrs.frozen(kw_only=True)
class Monitor:
    """
    A UNIX socket at which a QEMU serves QMP.

    Attributes:
        path: Its path, as the QEMU sees it; or its name where it is abstract.
        abstract: Whether it is a name in the network namespace and no file.
        tight: Whether an abstract name ends with its last character; QEMU fills others up with NUL.
        waits: Whether the QEMU does not begin before somebody connects, so that who only looks must not.
    """

    path: str
    abstract: bool = False
    tight: bool = True
    waits: bool = False

    def __str__(self) -> str:
        return f"@{self.path}" if self.abstract else self.path


@attrs.frozen(kw_only=True)
class Monitors:
    """
    A QEMU's QMP monitors.

    Attributes:
        sockets: Those that can be connected to, in order.
        others: Why each of the others cannot, in words that follow "its QMP monitor".
    """

    sockets: tuple[Monitor, ...] = ()
    others: tuple[str, ...] = ()


def monitors_said(words: Sequence[str]) -> Monitors:
    """
    Read where a QEMU serves QMP.

    Args:
        words: Its command line.

    Returns:
        The monitors; none of either kind where it has none. Of files named by ``-readconfig`` nothing is known.
    """
    chardevs: dict[str, dict[str, str]] = {}
    controls: list[str] = []
    sockets: list[Monitor] = []
    others: list[str] = []
    for word, value in pairwise(words):
        option = f"-{word.lstrip('-')}" if word.startswith("-") else ""
        if option in {"-qmp", "-qmp-pretty"}:
            if value.startswith("chardev:"):
                controls.append(value.removeprefix("chardev:"))
            else:
                _sort(_legacy(value), sockets, others)
        elif option == "-chardev":
            said = dict(loose_pairs(value, "backend"))
            chardevs.setdefault(said.get("id", ""), said)
        elif option == "-mon":
            said = {"chardev": "", **dict(loose_pairs(value, "chardev"))}
            if said.get("mode") == "control":
                controls.append(said["chardev"])
    for name in controls:
        _sort(_socket(chardevs.get(name, {"backend": "nothing that is known"})), sockets, others)
    return Monitors(sockets=tuple(sockets), others=tuple(others))


def _sort(found: Monitor | str, sockets: list[Monitor], others: list[str]) -> None:
    if isinstance(found, Monitor):
        sockets.append(found)
    else:
        others.append(found)


def _legacy(text: str) -> Monitor | str:
    """``unix:PATH,server=on,wait=off`` and the like (chardev/char.c, qemu_chr_parse_compat)."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return _socket({"backend": "socket", **dict(loose_pairs(rest, "path"))})
    return _socket({"backend": "socket", "host": ""}) if kind in {"tcp", "telnet"} else f"is on {kind[:32]!r}"


def _socket(said: dict[str, str]) -> Monitor | str:
    if said.get("backend") != "socket":
        return f"is on {said.get('backend', '')[:32]!r}, no UNIX socket"
    if "fd" in said:
        return "is a descriptor that whoever started it (libvirt) gave it, and holds"
    if not said.get("path"):
        return "is on TCP, where nothing proves who listens; give it a UNIX socket"
    if not _flag(said, "server", "off"):
        return f"is a client of {said['path'][:128]!r} and lets nobody connect"
    return Monitor(
        path=said["path"],
        abstract=_flag(said, "abstract", "off"),
        tight=_flag(said, "tight", "on"),
        waits=_flag(said, "wait", "on"),
    )


def _flag(said: dict[str, str], key: str, default: str) -> bool:
    return said.get(key, default) in _TRUE
