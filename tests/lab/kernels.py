"""
The lab's kernels and its busybox: made of Debian packages once, kept in a cache.

What is kept is complete: it is made beside its place and renamed into it, so that one who is interrupted leaves
nothing that looks ready. Of two who make the same at once the second waits, and finds it made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import LabUnavailable
from .machine import KERNELS
from .packages import Apt, read_deb

__all__ = ["Kernel", "busybox", "cache_folder", "in_order", "kernel", "package"]

_FORMAT = "1"  # of the cache; raised when what is kept changes
_SIZES = "sizes"  # of all files, by name, beside them; caches of the first days have none
_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_MODULE_FOLDERS = re.compile(r".*/kernel/(?:fs|lib|net/9p|drivers/virtio|drivers/char)/.*\.ko(?:\.xz)?")
_ELF, _XZ, _ZSTD = b"\x7fELF", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """
    A kernel that is ready to be booted.

    Attributes:
        image: The uncompressed kernel: booting it takes half the time of unpacking it under TCG.
        modules: What the machine needs to reach the host's files, in the order of loading.
    """

    image: Path
    modules: tuple[Path, ...]


def cache_folder() -> Path:
    """Return the folder for what is kept: ``KVMAFF_LAB_CACHE``, or ``kvmaff-lab`` in the user's cache."""
    said = os.environ.get("KVMAFF_LAB_CACHE")
    if said:
        return Path(said).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of XDG: a relative path is to be ignored
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "kvmaff-lab"


def kernel(series: str) -> Kernel:
    """
    Return a kernel, made if need be.

    Args:
        series: As in :data:`~tests.lab.machine.KERNELS`.

    Raises:
        LabUnavailable: It cannot be had here.
    """
    assert series in KERNELS
    folder = _kept(f"linux-{series}", package(series), _keep_kernel, ("vmlinux", "modules"))
    return Kernel(image=folder / "vmlinux", modules=tuple(sorted((folder / "modules").iterdir())))


def package(series: str) -> str:
    """
    Return the packages that have a kernel, as a regular expression: not those for clouds, which have no 9p.

    Args:
        series: The kernel's.
    """
    return rf"linux-image-{re.escape(series)}\.[0-9.]+(\+(deb|bpo)[0-9]*)?(-[0-9]+)?-amd64"


def busybox() -> Path:
    """
    Return a busybox without shared libraries, fetched if need be.

    Raises:
        LabUnavailable: It cannot be had here.
    """
    return _kept("busybox", "busybox-static", _keep_busybox, ("busybox",)) / "busybox"


def _kept(what: str, wanted: str, keep: Callable[[Path, Path], None], parts: tuple[str, ...]) -> Path:
    """Return a folder of the cache, filled from a package where a file of it is not there or not whole."""
    cache = cache_folder() / _FORMAT
    ready = cache / what

    def complete() -> bool:
        try:
            sizes = json.loads((ready / _SIZES).read_bytes())
            return all((ready / name).stat().st_size == size for name, size in sizes.items())
        except FileNotFoundError as error:
            return error.filename == str(ready / _SIZES) and all((ready / part).exists() for part in parts)
        except (OSError, ValueError):
            return False

    if complete():
        return ready
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache), tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as new:
            if not complete():
                shutil.rmtree(ready, ignore_errors=True)  # somebody has cleared away some of it
                download, made = Path(new, "download"), Path(new, "made")
                download.mkdir()
                made.mkdir()
                keep(Apt(cache / "apt").download(wanted, download), made)
                files = {
                    str(one.relative_to(made)): one.stat().st_size for one in made.rglob("*") if one.is_file()
                }
                (made / _SIZES).write_text(json.dumps(files), encoding="utf-8")
                for path in made.rglob("*"):
                    _to_disk(path)
                made.rename(ready)
    except OSError as error:
        raise LabUnavailable(f"{what} cannot be kept in {cache}: {error}") from error
    return ready


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Be the only one that adds to the cache, and clear away what one who died left."""
    with (cache / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _keep_busybox(package: Path, into: Path) -> None:
    for _, content in read_deb(package, "bin/busybox".__eq__):
        (into / "busybox").write_bytes(content)
        (into / "busybox").chmod(0o755)
    if not any(into.iterdir()):
        raise LabUnavailable(f"{package.name} has no bin/busybox")


def _keep_kernel(package: Path, into: Path) -> None:
    image, builtin, modules = b"", "", {}
    for path, content in read_deb(
        package,
        lambda path: (
            path.startswith("boot/vmlinuz-")
            or path.endswith("/modules.builtin")
            or _MODULE_FOLDERS.fullmatch(path) is not None
        ),
    ):
        if path.startswith("boot/"):
            image = content
        elif path.endswith("/modules.builtin"):
            builtin = content.decode()
        else:
            modules[_module_name(path)] = content
    if not image:
        raise LabUnavailable(f"{package.name} has no kernel")
    (into / "vmlinux").write_bytes(_unpacked(image))
    (into / "modules").mkdir()
    for number, (name, content) in enumerate(in_order(modules, set(map(_module_name, builtin.split())))):
        (into / "modules" / f"{number:02d}-{name}.ko").write_bytes(content)


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def in_order(modules: dict[str, bytes], builtin: set[str]) -> Iterator[tuple[str, bytes]]:
    """
    Yield the modules that the machine needs, each after those that it needs itself.

    Args:
        modules: What the package has, by name.
        builtin: What the kernel has anyway.

    Raises:
        LabUnavailable: The package lacks one.
    """
    done = set(builtin)

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done:
            return
        done.add(name)
        if name not in modules:
            raise LabUnavailable(f"the kernel's package has no module {name}")
        content = modules[name]
        if content.startswith(_XZ):
            content = lzma.decompress(content)
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else ():
            if need:
                yield from visit(need.replace("-", "_"))
        yield name, content

    for name in _MODULES:
        yield from visit(name)


def _unpacked(image: bytes) -> bytes:
    """Return the ELF file in a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, _length)."""
    start = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length]
    if payload.startswith(_XZ):
        payload = lzma.LZMADecompressor().decompress(payload)  # what follows is its length, no part of it
    elif payload.startswith(_ZSTD) and shutil.which("zstd"):
        words = ["zstd", "-dcq"]
        payload = subprocess.run(words, input=payload[:-4], capture_output=True, check=False).stdout
    if not payload.startswith(_ELF):
        raise LabUnavailable("the kernel is packed in a way that the lab does not know (zstd: install zstd)")
    return payload
