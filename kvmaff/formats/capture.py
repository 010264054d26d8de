"""
A host in one file: what a later ``read_host(FILE)`` needs, on another machine, by somebody else.

What is in it is what the readers read (:class:`RecordingTree`), so nothing is missing: files of /sys and of cgroups as
they were, and as JSON the guests with their threads, masks, memory and PCI devices, and all threads with their names
and masks.
What is not: environments, command lines (unless asked; the kernel's own is cut to what it says of CPUs and memory),
mounts other than cgroups, host name, addresses.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import re
import tarfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import attrs

from kvmaff.errors import RequestError
from kvmaff.fields import Fields
from kvmaff.formats.outfile import put_out, replaceable
from kvmaff.guest.devices import guest_devices
from kvmaff.guest.discover import find_guests
from kvmaff.guest.memory import memory_by_node
from kvmaff.guest.recorded import GUESTS_FILE, guests_text
from kvmaff.guest.vmm import Vmm
from kvmaff.host.archive import MOST_BYTES, MOST_FILES
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.cmdline import BOOT_OPTIONS, WORD
from kvmaff.host.irqs import read_irqs
from kvmaff.host.pci import read_pci
from kvmaff.host.reader import host_of
from kvmaff.host.recording import RecordingTree
from kvmaff.host.threads import THREADS_FILE, read_threads, threads_text, with_details
from kvmaff.host.tree import BIG, Tree, open_tree
from kvmaff.host.vendor import read_vendor

__all__ = ["ABOUT_FILE", "Captured", "capture"]

ABOUT_FILE = "kvmaff/capture.json"
"""Where a capture says what it is."""
_FORMAT = 1
_KEPT_WORDS = frozenset(
    (
        *BOOT_OPTIONS,
        "nosmt",
        "maxcpus",
        "nr_cpus",
        "possible_cpus",
        "numa",
        "hugepages",
        "hugepagesz",
        "idle",
        "nohz",
    )
) | {"default_hugepagesz", "mitigations", "intel_pstate", "amd_pstate"}


@attrs.frozen(kw_only=True)
class Captured:
    """
    What a capture holds.

    Attributes:
        path: The file.
        size_bytes: Its size.
        files: Files of /sys and /proc.
        guests: Guests.
        threads: Threads.
    """

    path: str
    size_bytes: int
    files: int
    guests: int
    threads: int


def capture(
    path: str | os.PathLike[str], *, root: str = "/", command_lines: bool = False, vmms: Sequence[Vmm] = ()
) -> Captured:
    """
    Write a host into one file.

    Args:
        path: The file; one that is there is replaced when the new one is whole. It is ours alone to read (0600).
        root: The machine; ``/`` is this one.
        command_lines: Keep the command lines of all processes, which may hold secrets.
        vmms: VMMs to know beside the built-in ones.

    Returns:
        What it holds.

    Raises:
        HostReadError: The machine cannot be read.
        RequestError: It is too large for a capture, or the file cannot be written, or something is there that is no
            plain file; nothing is left behind.
        Unsupported: /proc is that of another pid namespace.
    """
    target = os.fsdecode(path)
    replaceable(target)
    with RecordingTree(open_tree(root)) as tree:
        host = host_of(tree)
        has_threads = (
            root == "/"
            or any(name.isdigit() for name in tree.names("proc"))
            or tree.read(THREADS_FILE, BIG) is not None
        )
        guests = find_guests(root, vmms=vmms) if has_threads else ()
        threads = with_details(read_threads(root), root) if has_threads else []
        cgroups = Cgroups(tree)
        cgroups.granted("self")
        for pid in sorted({thread.pid for thread in threads}):
            cgroups.granted(pid)
        for guest in guests:
            for thread in guest.threads:
                cgroups.granted(thread.pid, thread.tid)
        read_irqs(tree)
        read_pci(tree)
        read_vendor(tree)
        devices = {guest.pid: guest_devices(guest.pid, root) for guest in guests}
        memory = {guest.pid: memory_by_node(guest.pid, root) for guest in guests}
        files = {name: _without_secrets(name, data) for name, data in tree.files.items()}
        folders = tree.numbered_folders
        about = _about(tree, command_lines=command_lines)
    # which CPUs are online is concluded from more than the readers open, where the kernel has no list of them
    files.setdefault("sys/devices/system/cpu/online", f"{host.topology.online}\n".encode())
    count = len([name for name in files if not name.startswith("kvmaff/")])
    files[ABOUT_FILE] = json.dumps(about).encode()
    files[GUESTS_FILE] = guests_text(guests, memory, devices).encode()
    files[THREADS_FILE] = threads_text(threads, command_lines=command_lines).encode()
    packed = _packed(files, folders)
    put_out(target, packed)
    return Captured(
        path=target, size_bytes=len(packed), files=count, guests=len(guests), threads=len(threads)
    )


def _about(tree: Tree, *, command_lines: bool) -> dict[str, Any]:
    """What a capture says of itself; one of a capture says what that one said."""
    about = {
        "format": _FORMAT,
        "kvmaff": version("kvmaff"),
        "time": int(time.time()),
        "kernel": os.uname().release if tree.root == "/" else None,
        "machine": os.uname().machine if tree.root == "/" else None,
        "command_lines": command_lines,
    }
    try:
        said = json.loads(tree.read(ABOUT_FILE) or b"{}")
        fields = Fields(said, ABOUT_FILE)
        about |= {"time": fields.number("time")}
        about |= {name: fields.text_or_none(name) for name in ("kernel", "machine")}
    except (ValueError, RecursionError):
        pass  # no capture, or one that says nothing sensible of itself
    return about


def _without_secrets(name: str, data: bytes) -> bytes:
    if name == "proc/cmdline":
        words = [match[0] for match in WORD.finditer(data.decode("ascii", "replace"))]
        words = words[: words.index("--")] if "--" in words else words
        kept = [
            word for word in words if word.replace('"', "").partition("=")[0].replace("-", "_") in _KEPT_WORDS
        ]
        return " ".join(kept).encode("ascii", "replace") + b"\n"
    if name == "proc/self/mountinfo":
        kinds = (b"cgroup2 ", b"cgroup ")
        return b"".join(line for line in _lines(data) if line.partition(b" - ")[2].startswith(kinds))
    if re.fullmatch("proc/[^/]+(/task/[0-9]+)?/cgroup", name):  # of the other controllers nothing is needed
        fields = ((line, line.split(b":", 2)) for line in _lines(data))
        return b"".join(line for line, own in fields if own[0] == b"0" or b"cpuset" in own[1].split(b","))
    return data


def _lines(data: bytes) -> list[bytes]:
    """Lines as the kernel parts them, and nothing else does: by the newline alone."""
    return [line + b"\n" for line in data.split(b"\n") if line.count(b":") > 1 or b" - " in line]


def _packed(files: dict[str, bytes], folders: set[str]) -> bytes:
    """Numbered folders are kept also where the readers opened nothing in them."""
    inside = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    empty = sorted(folder for folder in folders if folder not in inside)
    total = sum(1024 + len(data) for data in files.values()) + 512 * len(empty)
    large = [name for name, data in files.items() if len(data) > BIG]
    if total > MOST_BYTES or len(files) + len(empty) > MOST_FILES or large:
        what = f"{large[0]} alone" if large else f"{len(files)} files of {total >> 20} MiB"
        raise RequestError.of([f"this machine is too large for a capture: {what}"])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in empty:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return lzma.compress(out.getvalue(), lzma.FORMAT_XZ, preset=3)
