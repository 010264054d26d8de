"""
The words of a QEMU's command line, and the texts in them.

Rules (QEMU: softmmu/vl.c, util/qemu-option.c, qemu-options.hx of 2.12 to 10.0):

1. An option begins with one or two dashes. Those that are read here have a value, which is the next word whatever it
   is; so have those whose value is any text. Switches have none.
2. Of an option that is not known the next word is taken for its value, unless it begins with a dash: no QEMU's list of
   options is needed, and what is newer than this file loses no option behind it.
3. What is no option is a disk image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from kvmaff.guest.keyval import loose_pairs

__all__ = ["READ", "Option", "bytes_of", "options", "switched_on", "texts"]

READ = frozenset({"name", "uuid", "smp", "machine", "m", "object", "numa", "device", "accel", "mem-path"})
"""The options that say something of a spec."""
_ANY_TEXT = frozenset({"append", "fw_cfg", "smbios", "prom-env", "kernel", "initrd", "serial", "D"})
_SWITCHES = frozenset(
    {
        *("S", "s", "h", "help", "version", "usb", "snapshot", "daemonize", "nodefaults", "no-user-config"),
        *(
            "nographic",
            "curses",
            "sdl",
            "full-screen",
            "portrait",
            "no-frame",
            "alt-grab",
            "ctrl-grab",
            "no-quit",
        ),
        *("enable-kvm", "enable-hax", "no-kvm", "no-kvm-irqchip", "no-kvm-pit", "no-kvm-pit-reinjection"),
        *(
            "no-acpi",
            "no-hpet",
            "no-reboot",
            "no-shutdown",
            "no-fd-bootchk",
            "win2k-hack",
            "rtc-td-hack",
            "tdf",
        ),
        *(
            "mem-prealloc",
            "only-migratable",
            "preconfig",
            "singlestep",
            "semihosting",
            "enable-fips",
            "old-param",
        ),
        *(
            "xen-create",
            "xen-attach",
            "xen-domid-restrict",
            "nodefconfig",
            "show-cursor",
            "localtime",
            "audio-help",
        ),
        *("enable-sync-profile", "async-teardown", "perfmap", "jitdump"),
    }
)
"""Options without a value, so that not even a disk image behind one is taken for it."""
_UNITS = {"": 1, **{letter: 1 << 10 * power for power, letter in enumerate("BKMGTPE")}}
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?)([bkmgtpe]?)", re.ASCII | re.IGNORECASE)
_LARGEST = 1 << 62
_LISTS = frozenset({"cpus", "host-nodes"})


@attrs.frozen(kw_only=True)
class Option:
    """
    An option.

    Attributes:
        name: Its name without dashes; ``machine`` also where it is written M.
        value: Its value; None for a switch.
        at: Its place among the words; that of its value is the next one.
    """

    name: str
    value: str | None
    at: int


def options(words: Sequence[str]) -> Iterator[Option]:
    """
    Find the options of a command line.

    Args:
        words: Its words, the program's name first or not.

    Yields:
        The options, in order.
    """
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-") or word == "-":
            continue  # the program, or a disk image
        name = word[2 if word.startswith("--") else 1 :]
        name = {"M": "machine"}.get(name, name)
        value = words[at] if at < len(words) else None
        needs = name in READ or name in _ANY_TEXT
        if name in _SWITCHES or (value is not None and value.startswith("-") and value != "-" and not needs):
            value = None
        yield Option(name=name, value=value, at=at - 1)
        at += value is not None


def texts(text: str, first: str) -> dict[str, Any]:
    """
    Take a text apart as QemuOpts does: a word alone is switched on, the first one is a value.

    Args:
        text: The text.
        first: The key that the first value has where it stands alone.

    Returns:
        Values by key. Of a key that is there several times ``cpus``, ``host-nodes`` and the like are lists; of others
        the last one holds.
    """
    found: dict[str, Any] = {}
    for key, value in loose_pairs(text, first):
        if not key:
            continue
        if key in _LISTS:
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return found


def switched_on(value: object) -> bool:
    """
    Say whether a value is one that switches something on.

    Args:
        value: A text, or what JSON has.

    Returns:
        Whether it is.
    """
    return value is True or str(value).lower() in {"on", "yes", "true", "y"}


def bytes_of(text: object, plain: int = 1) -> int | None:
    """
    Read an amount of memory.

    Args:
        text: A text such as ``4G`` or ``0x1000``, or what JSON has.
        plain: What a number without a unit counts.

    Returns:
        Bytes; None where it is no amount, or none that a guest can have.
    """
    if type(text) is int:
        return text if 0 < text < _LARGEST else None
    match = _SIZE.fullmatch(str(text))
    amount = 0
    if match is not None and len(match[1]) < 30:
        unit = _UNITS[match[2].upper()] if match[2] else plain
        if match[1].lower().startswith("0x"):
            amount = int(match[1], 16) * unit
        else:
            whole, _, part = match[1].partition(".")
            amount = int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)
    return amount if 0 < amount < _LARGEST else None
