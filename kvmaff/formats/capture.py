"""
A host in one file: what a later ``read_host(FILE)`` needs, on another machine, by somebody else.

What is in it is what the readers read (:class:`RecordingTree`), so nothing is missing: files of /sys and of cgroups as
they were, and as JSON the guests with their threads, masks and memory, and all threads with their names and masks.
What is not: environments, command lines (unless asked; the kernel's own is cut to what it says of CPUs and memory),
mounts other than cgroups, host name, addresses.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
import time
from collections.abc import Sequence
from importlib.metadata import version

import attrs

from kvmaff.errors import RequestError
from kvmaff.guest.discover import find_guests
from kvmaff.guest.memory import memory_by_node
from kvmaff.guest.recorded import GUESTS_FILE, guests_text
from kvmaff.guest.vmm import Vmm
from kvmaff.host.archive import MOST_BYTES, MOST_FILES
from kvmaff.host.cgroup import Cgroups
from kvmaff.host.cmdline import BOOT_OPTIONS
from kvmaff.host.irqs import read_irqs
from kvmaff.host.reader import host_of
from kvmaff.host.recording import RecordingTree
from kvmaff.host.threads import THREADS_FILE, read_threads, threads_text, with_details
from kvmaff.host.tree import BIG, open_tree
from kvmaff.kernel.files import put_file

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
        RequestError: It is too large for a capture.
        Unsupported: /proc is that of another pid namespace.
        OSError: The file cannot be written; nothing is left behind.
    """
    with RecordingTree(open_tree(root)) as tree:
        host_of(tree)
        has_threads = os.path.isdir(os.path.join(root, "proc")) or tree.read(THREADS_FILE, BIG) is not None
        guests = find_guests(root, vmms=vmms) if has_threads else ()
        threads = with_details(read_threads(root), root) if has_threads else []
        cgroups = Cgroups(tree)
        cgroups.granted("self")
        for guest in guests:
            cgroups.granted(guest.pid)
            for thread in guest.threads:
                cgroups.granted(thread.pid, thread.tid)
        read_irqs(tree)
        memory = {guest.pid: memory_by_node(guest.pid, root) for guest in guests}
        files = {name: _without_secrets(name, data) for name, data in tree.files.items()}
        folders = set(tree.folders)
    release = os.uname() if root == "/" else None
    about = {
        "format": _FORMAT,
        "kvmaff": version("kvmaff"),
        "time": int(time.time()),
        "kernel": release.release if release else None,
        "machine": release.machine if release else None,
        "command_lines": command_lines,
    }
    count = len(files)
    files[ABOUT_FILE] = json.dumps(about).encode()
    files[GUESTS_FILE] = guests_text(guests, memory).encode()
    files[THREADS_FILE] = threads_text(threads, command_lines=command_lines).encode()
    packed = _packed(files, folders)
    _put(os.fspath(path), packed)
    return Captured(
        path=os.fspath(path), size_bytes=len(packed), files=count, guests=len(guests), threads=len(threads)
    )


def _without_secrets(name: str, data: bytes) -> bytes:
    if name == "proc/cmdline":
        words = data.decode("ascii", "replace").split(" -- ")[0].split()
        kept = [word for word in words if word.partition("=")[0].replace("-", "_") in _KEPT_WORDS]
        return " ".join(kept).encode("ascii", "replace") + b"\n"
    if name == "proc/self/mountinfo":
        lines = data.splitlines(keepends=True)
        kinds = (b"cgroup2 ", b"cgroup ")
        return b"".join(line for line in lines if line.partition(b" - ")[2].startswith(kinds))
    return data


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


def _put(path: str, data: bytes) -> None:
    folder, name = os.path.split(os.path.abspath(path))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        put_file(fd, name, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)
