"""
What a binary told of its models, kept for the next time: starting it takes longer than everything else.

Rules: kept by binary, accelerator and machine type, and true until the next boot, as long as the binary is the same
file and what KVM and the CPU show of themselves has not changed (modules, ``nested=``, microcode). Of a script nothing
is kept: the QEMU that it starts may be replaced behind it. A file that is not ours alone to write, or is damaged, is as
good as none. Where nothing can be kept, that is no error.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import stat
from importlib.metadata import version

from kvmaff.cpumodel.binary import accelerator, find_binary
from kvmaff.cpumodel.reading import ask_models
from kvmaff.cpumodel.stored import FORMAT, models_data, models_from
from kvmaff.cpumodel.table import CpuModels
from kvmaff.kernel.files import put_file

__all__ = ["cache_folder", "read_cpu_models"]

_MOST_BYTES = 16 << 20
_READER = 1
"""Moves with what is read of a binary, and how."""
_PROCESSOR = re.compile(rb"^(?:vendor_id|cpu family|model|stepping|microcode|flags)\s*:.*$", re.MULTILINE)


def cache_folder() -> str:
    """
    Say where it is kept.

    Returns:
        ``$KVMAFF_CACHE_DIR``; else /var/cache/kvmaff for root, ``$XDG_CACHE_HOME/kvmaff`` (~/.cache/kvmaff) for others.
    """
    if said := os.environ.get("KVMAFF_CACHE_DIR"):
        return said
    if os.geteuid() == 0:
        return "/var/cache/kvmaff"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kvmaff")


def read_cpu_models(
    binary: str | os.PathLike[str] | None = None,
    *,
    accel: str | None = None,
    machine: str = "none",
    fresh: bool = False,
) -> CpuModels:
    """
    Say which CPU models a QEMU binary has, and what this host can give them.

    Args:
        binary: A path, or a name in ``PATH``; None for the QEMU that is installed.
        accel: ``kvm`` or ``tcg``; None for KVM where this process may open /dev/kvm.
        machine: The machine type by which names without a version are resolved (``microvm`` takes the latest).
        fresh: Ask the binary also where its answers are kept.

    Returns:
        The models.

    Raises:
        WrongUsage: There is no such accelerator.
        QemuError: The binary cannot be asked.
        Unsupported: It is for another architecture, or the library ``qemu.qmp`` is not installed.
    """
    path = find_binary(binary)
    accel = accel or accelerator()
    key = _key(path)
    name = f"cpumodels-{hashlib.sha256(json.dumps([path, accel, machine]).encode()).hexdigest()[:24]}.json"
    with contextlib.ExitStack() as stack:
        folder = _opened(cache_folder())
        if folder is not None:
            stack.callback(os.close, folder)
            if not fresh and (kept := _kept(folder, name, key)) is not None:
                return kept
        found = ask_models(path, accel=accel, machine=machine)
        if folder is not None and key and key == _key(path):  # not replaced while it was asked
            text = json.dumps({"format": FORMAT, "key": key, "models": models_data(found)})
            with contextlib.suppress(OSError):
                put_file(folder, name, text.encode())
    return found


def _key(binary: str) -> list[str]:
    """What must not change, ourselves too; nothing where that cannot be told."""
    here = os.uname()
    try:
        fd = os.open(binary, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as program:
            info = os.fstat(fd)
            if program.read(4) != b"\x7fELF":
                return []
    except OSError:
        return []
    same = f"{info.st_dev}:{info.st_ino}:{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}"
    shown = hashlib.sha256()
    for path in sorted(glob.glob("/sys/module/kvm*/parameters/*") + glob.glob("/sys/module/kvm*/srcversion")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            shown.update(f"{path}=".encode() + file.read(4096))
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb") as cpus:
        shown.update(b"\n".join(_PROCESSOR.findall(cpus.read(1 << 14))[:6]))
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as said:
        boot = said.read().strip()
    reader = f"{version('kvmaff')} {_READER}"
    return [reader, os.path.realpath(binary), same, here.release, here.version, boot, shown.hexdigest()]


def _opened(path: str) -> int | None:
    """The folder, made where it is not there; None where it is not ours alone to write."""
    try:
        with contextlib.suppress(FileExistsError):
            os.makedirs(path, mode=0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    if not _ours(os.fstat(fd)):
        os.close(fd)
        return None
    return fd


def _ours(info: os.stat_result) -> bool:
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _kept(folder: int, name: str, key: list[str]) -> CpuModels | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not _ours(info) or not stat.S_ISREG(info.st_mode) or info.st_size > _MOST_BYTES:
            return None
        try:
            data = json.loads(file.read(_MOST_BYTES))
            if (
                not isinstance(data, dict)
                or data.get("format") != FORMAT
                or not key
                or data.get("key") != key
            ):
                return None
            return models_from(data.get("models"))
        except (OSError, ValueError, RecursionError):
            return None
