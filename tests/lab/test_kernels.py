"""How kernels get into the cache: no network is needed for these tests, and none is used."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from . import kernels
from .errors import LabUnavailable
from .packages import Apt, newest, read_deb

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("KVMAFF_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "1"


class _FakeApt:
    """An archive of one package, made on the spot."""

    downloads = 0

    def __init__(self, own: Path) -> None:
        del own

    def download(self, wanted: str, into: Path) -> Path:
        type(self).downloads += 1
        assert "busybox-static" == wanted or wanted.startswith("linux-image-")
        (into / "tree/bin").mkdir(parents=True)
        (into / "tree/DEBIAN").mkdir()
        (into / "tree/DEBIAN/control").write_text(
            "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n"
        )
        (into / "tree/bin/busybox").write_text("busy")
        words = ["dpkg-deb", "--build", "tree", "p.deb"]
        subprocess.run(words, cwd=into, check=True, stdout=subprocess.DEVNULL)
        return into / "p.deb"


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> type[_FakeApt]:
    """An archive that is always there."""
    fake = type("Fake", (_FakeApt,), {"downloads": 0})
    monkeypatch.setattr(kernels, "Apt", fake)
    return fake


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is where the environment says, else where XDG says, else in the home."""
    monkeypatch.setenv("KVMAFF_LAB_CACHE", "/a/b")
    assert Path("/a/b") == kernels.cache_folder()
    monkeypatch.delenv("KVMAFF_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert Path("/c/kvmaff-lab") == kernels.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    assert Path("/h/.cache/kvmaff-lab") == kernels.cache_folder()


def test_newest() -> None:
    """The newest kernel is the one with the highest numbers, and neither rt nor cloud nor debug symbols."""
    names = [
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-56-amd64-dbg",
        "linux-image-6.1.0-99-cloud-amd64",
        "linux-image-6.12.100+deb12-amd64",
        "linux-image-6.12.9+deb12-amd64",
        "linux-image-6.12.200+deb12-rt-amd64",
        "linux-image-6.12-amd64",
    ]
    assert "linux-image-6.1.0-56-amd64" == newest(names, kernels.package("6.1"))
    assert "linux-image-6.12.100+deb12-amd64" == newest(names, kernels.package("6.12"))
    assert newest(names, "linux-image-5.*") is None


@needs_dpkg
def test_kept_once(cache: Path, archive: type[_FakeApt]) -> None:
    """What is in the cache is not fetched again."""
    assert "busy" == kernels.busybox().read_text()
    assert cache / "busybox/busybox" == kernels.busybox()
    assert 1 == archive.downloads


@needs_dpkg
def test_partly_cleared(cache: Path, archive: type[_FakeApt]) -> None:
    """Where a file of it was cleared away or is not whole, all of it is fetched again."""
    kernels.busybox().unlink()
    assert "busy" == kernels.busybox().read_text()
    assert 2 == archive.downloads
    kernels.busybox().write_text("bu")
    assert "busy" == kernels.busybox().read_text()
    assert 3 == archive.downloads
    (cache / "busybox/sizes").unlink()
    assert "busy" == kernels.busybox().read_text()
    assert 3 == archive.downloads


@needs_dpkg
def test_two_at_once(cache: Path, archive: type[_FakeApt]) -> None:
    """Of two who need the same the second waits for the first, and finds it made."""
    threads = [threading.Thread(target=kernels.busybox) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == archive.downloads
    assert ["busybox", "lock"] == sorted(path.name for path in cache.iterdir())


@needs_dpkg
def test_interrupted(cache: Path, archive: type[_FakeApt], monkeypatch: pytest.MonkeyPatch) -> None:
    """One who is interrupted or killed leaves nothing that looks ready; the next clears it away."""
    (cache / ".new-killed").mkdir(parents=True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_keep_busybox", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kernels.busybox()
    assert ["lock"] == [path.name for path in cache.iterdir()]
    assert "busy" == kernels.busybox().read_text()


@needs_dpkg
def test_not_what_it_should_be(cache: Path, archive: type[_FakeApt]) -> None:
    """A package without a kernel is no reason to crash."""
    with pytest.raises(LabUnavailable, match=r"p\.deb has no kernel"):
        kernels.kernel("6.1")
    assert not (cache / "linux-6.1").exists()


def test_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written is said to be one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVMAFF_LAB_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(LabUnavailable, match="busybox cannot be kept in"):
        kernels.busybox()


def test_no_debian(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no apt, that is the reason."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabUnavailable, match="apt-get, apt-cache, dpkg-deb not found"):
        kernels.busybox()


def _fake_apt(folder: Path, *, succeeds: bool) -> None:
    """Write programs that say what they were asked, and give a package only by fresh lists, or never."""
    folder.mkdir()
    (folder / "dpkg-deb").write_text("#!/bin/sh\n")
    (folder / "apt-cache").write_text("#!/bin/sh\necho busybox-static\n")
    (folder / "apt-get").write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/asked\n'
        'case "$*" in\n'
        "*update) ;;\n"
        f"*Dir::State::lists=*download*) {'echo deb >p.deb' if succeeds else 'echo half >p.deb; exit 100'} ;;\n"
        '*) echo half >p.deb; echo "E: 404" >&2; exit 100 ;;\n'
        "esac\n"
    )
    for path in folder.iterdir():
        path.chmod(0o755)


@pytest.mark.parametrize("succeeds", [True, False])
def test_old_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, succeeds: bool) -> None:
    """Lists that are older than the archive are renewed in the lab's own folder; half a package is none."""
    _fake_apt(tmp_path / "bin", succeeds=succeeds)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    into = tmp_path / "into"
    into.mkdir()
    apt = Apt(tmp_path / "own")
    if succeeds:
        assert "deb\n" == apt.download("busybox-static", into).read_text()
    else:
        with pytest.raises(
            LabUnavailable, match="apt-get download busybox-static: .*; with fresh package lists too"
        ):
            apt.download("busybox-static", into)
    asked = (tmp_path / "bin/asked").read_text().splitlines()
    assert ["download", "update", "download"] == [
        next(word for word in line.split() if word in ("download", "update")) for line in asked
    ]
    assert all(f"Dir::State::lists={tmp_path}/own/lists" in line for line in asked[1:])


@needs_dpkg
def test_broken_package(tmp_path: Path) -> None:
    """Half a package is said to be broken."""
    (tmp_path / "half.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(LabUnavailable, match=r"half\.deb is broken"):
        list(read_deb(tmp_path / "half.deb", lambda _: True))


def _module(*needs: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_module_order() -> None:
    """A module comes after those that it needs, once; what is built in is not loaded."""
    modules = {
        "virtio_pci": _module("virtio", "virtio-ring"),
        "virtio": _module("virtio-ring"),
        "virtio_ring": _module(),
        "9pnet": _module(),
        "9pnet_virtio": _module("9pnet", "virtio"),
        "9p": _module("9pnet"),
        "overlay": _module(),
    }
    order = [name for name, _ in kernels.in_order(modules, {"virtio_console"})]
    assert ["virtio_ring", "virtio", "virtio_pci", "9pnet", "9pnet_virtio", "9p", "overlay"] == order
    del modules["9pnet"]
    with pytest.raises(LabUnavailable, match="no module 9pnet"):
        list(kernels.in_order(modules, {"virtio_console"}))
