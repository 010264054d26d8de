"""A machine in one file: what is read of it, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as hs

from kvmaff.errors import HostReadError
from kvmaff.host import archive
from kvmaff.host.reader import Host, read_host
from kvmaff.host.tree import open_tree

ONLINE = "sys/devices/system/cpu/online"


def _tar(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for what, data in members:
            member = tarfile.TarInfo(what) if isinstance(what, str) else what
            if member.isreg():
                member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


GOOD: list[tuple[tarfile.TarInfo | str, bytes]] = [(ONLINE, b"0-3\n")]


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "host.tar.xz"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bz2.compress])
@pytest.mark.parametrize("wrapper", ["", "./", "some-machine/"])
def test_archives_of_recorded_machines(tmp_path: Path, pack: Callable[[bytes], bytes], wrapper: str) -> None:
    """A compressed archive reads as its folder would, with or without a folder around sys and proc."""
    path = _file(
        tmp_path, pack(_tar([(f"{wrapper}{ONLINE}", b"0-3\n"), (f"{wrapper}proc/cmdline", b"isolcpus=2")]))
    )
    host = read_host(path)
    assert ("0-3", str(path), False) == (str(host.topology.online), host.root, host.live)
    assert "2" == str(host.isolation.unbalanced)
    with open_tree(str(path)) as tree:
        assert ["online"] == tree.names("sys/devices/system/cpu")
        assert [] == tree.names("sys/nowhere")
        assert None is tree.read(ONLINE, 3)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (_special("sys/link", tarfile.SYMTYPE, "/etc/passwd"), "something else"),
        (_special("sys/link", tarfile.LNKTYPE, ONLINE), "something else"),
        (_special("sys/fifo", tarfile.FIFOTYPE), "something else"),
        (_special("sys/dev", tarfile.CHRTYPE), "something else"),
        ("/etc/passwd", "leads out"),
        ("../up", "leads out"),
        ("sys/../../up", "leads out"),
        ("sys//x", "leads out"),
        ("sys/./x", "leads out"),
        ("/".join("d" * 30), "deeper"),
        ("sys/" + "n" * 2000, "deeper"),
        ("sys/\x1b[2J\n", None),
    ],
)
def test_what_is_no_plain_file_inside_is_refused(
    tmp_path: Path, what: tarfile.TarInfo | str, said: str | None
) -> None:
    """Links, devices, and names that lead out or are endless refuse the whole archive; the message is printable."""
    path = _file(tmp_path, lzma.compress(_tar([*GOOD, (what, b"x")])))
    if said is None:
        assert "0-3" == str(read_host(path).topology.online)
        return
    with pytest.raises(HostReadError, match=said) as caught:
        read_host(path)
    assert str(path) == caught.value.path
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a folder nor"),
        (b"hello", "neither a folder nor"),
        (_tar(GOOD), "neither a folder nor"),
        (lzma.compress(_tar(GOOD))[:-20], "damaged|cut short"),
        (gzip.compress(_tar(GOOD))[:-20], "damaged|cut short"),
        (lzma.compress(b"no archive"), "damaged"),
        (lzma.compress(_tar([("proc/cmdline", b"quiet")])), "names no CPU"),
        (b"\xfd7zXZ\0" + b"\xff" * 100, "damaged"),
    ],
)
def test_damage(tmp_path: Path, data: bytes, said: str) -> None:
    """What is no archive, or half of one, is an error that says so."""
    with pytest.raises(HostReadError, match=said):
        read_host(_file(tmp_path, data))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to more than the bound are refused, as are too many and too large files."""
    bomb = lzma.compress(bytes(archive.MOST_BYTES + 1), preset=0)
    with pytest.raises(HostReadError, match="unpacks to more than 128 MiB"):
        read_host(_file(tmp_path, bomb))
    large = lzma.compress(_tar([*GOOD, ("sys/large", bytes(archive.BIG + 1))]), preset=0)
    with pytest.raises(HostReadError, match="more than 16 MiB"):
        read_host(_file(tmp_path, large))
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(HostReadError, match="more than 3 files"):
        read_host(_file(tmp_path, lzma.compress(_tar([*GOOD, *((f"sys/{n}", b"") for n in range(3))]))))
    monkeypatch.setattr(archive, "_MOST_PACKED", 10)
    with pytest.raises(HostReadError, match="is longer"):
        read_host(_file(tmp_path, lzma.compress(_tar(GOOD))))


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """A FIFO in the place of the file is an error, not a hang."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostReadError):
        read_host(tmp_path / "pipe")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=hs.data())
def test_damaged_bytes_anywhere(tmp_path: Path, host: Host, data: hs.DataObject) -> None:
    """Whatever bytes of an unpacked archive are overwritten: a host, or an error with its path; nothing else."""
    raw = bytearray(_tar([*GOOD, ("proc/cmdline", b"isolcpus=1"), ("sys/" + "n" * 200, b"long name")]))
    for at, byte in data.draw(
        hs.lists(hs.tuples(hs.integers(0, 4096), hs.integers(0, 255)), min_size=1, max_size=8)
    ):
        raw[at % len(raw)] = byte
    path = _file(tmp_path, gzip.compress(bytes(raw)))
    try:
        read = read_host(path)
    except HostReadError as error:
        assert str(path) in str(error)
    else:
        assert read.topology.online


def test_the_last_archive_is_not_mistaken_for_another(tmp_path: Path) -> None:
    """A file that is replaced is read anew."""
    path = _file(tmp_path, lzma.compress(_tar(GOOD)))
    before = read_host(path)
    path.unlink()
    _file(tmp_path, lzma.compress(_tar([(ONLINE, b"0-9\n")])))
    assert before == attrs.evolve(before)
    assert ("0-3", "0-9") == (str(before.topology.online), str(read_host(path).topology.online))
