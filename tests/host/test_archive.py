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


def _header(name: bytes, kind: bytes, data: bytes) -> bytes:
    member = tarfile.TarInfo(name.decode())
    member.type, member.size = kind, len(data)
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (_header(b"x", b"x", b"9 path=a\n") * 2 + _tar(GOOD), "several headers"),
        (_header(b"x", b"x", b"4 =\n" * 65) + _tar(GOOD), "too many records"),
        (_header(b"x", b"x", bytes(1 << 17)) + _tar(GOOD), "more than 64 KiB"),
        (_header(b"x", b"x", b"22 GNU.sparse.major=1\n") + _tar(GOOD), "sparse"),
        (_header(b"x", b"x", b"99 path=a\n") + _tar(GOOD), "makes no sense"),
        (_header(b"x", b"x", b"12 size=zwei\n") + _tar(GOOD), "makes no sense"),
        (_tar(GOOD)[:1024], "cut short"),
        (_tar(GOOD)[:700], "cut short"),
    ],
)
def test_headers_of_an_archive(tmp_path: Path, raw: bytes, said: str) -> None:
    """Headers in front of a file are few, short and sensible; an archive has an end."""
    with pytest.raises(HostReadError, match=said):
        read_host(_file(tmp_path, gzip.compress(raw)))


def test_long_names_are_read(tmp_path: Path) -> None:
    """Names as GNU tar and as POSIX write long ones."""
    name = f"sys/fs/{'c' * 150}/{'d' * 150}"
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=style) as file:
            for what, data in (*GOOD, (name, b"there")):
                member = tarfile.TarInfo(str(what))
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
        with open_tree(str(_file(tmp_path, gzip.compress(out.getvalue())))) as tree:
            assert "there" == tree.text(name)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bz2.compress])
def test_several_compressed_streams_are_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """What a second stream holds is not left out in silence."""
    raw = _tar([*GOOD, ("proc/cmdline", b"isolcpus=1")])
    with pytest.raises(HostReadError, match="more than one compressed stream"):
        read_host(_file(tmp_path, pack(raw) + pack(raw)))


def test_names_are_bounded_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many long names are refused before they fill the memory."""
    monkeypatch.setattr(archive, "_MOST_NAMES", 100)
    with pytest.raises(HostReadError, match="names of more than"):
        read_host(
            _file(tmp_path, lzma.compress(_tar([*GOOD, *((f"sys/{'n' * 50}{n}", b"") for n in range(3))])))
        )


def test_a_recorded_folder_leads_nowhere(tmp_path: Path) -> None:
    """Links on the way out of a recorded folder, and mounts that name a way out, are not followed; inside they are."""
    secret = tmp_path / "outside/devices/system/cpu"
    secret.mkdir(parents=True)
    (secret / "online").write_text("0-5")
    root = tmp_path / "root"
    root.mkdir()
    for target in (str(tmp_path / "outside"), "../outside"):
        (root / "sys").symlink_to(target)
        with pytest.raises(HostReadError):
            read_host(root)
        (root / "sys").unlink()
    (root / "inside/devices/system/cpu").mkdir(parents=True)
    (root / "inside/devices/system/cpu/online").write_text("0-1")
    (root / "sys").symlink_to("inside")
    assert "0-1" == str(read_host(root).topology.online)


@pytest.mark.parametrize("path", ["a\0b", "", "/nowhere/at/all"])
def test_what_is_no_path(path: str) -> None:
    """A path that cannot be one is an error of ours."""
    with pytest.raises(HostReadError):
        read_host(path)
