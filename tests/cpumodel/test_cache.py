"""What is kept of a binary's answers, and when it is not believed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kvmaff.cpumodel import cache
from kvmaff.cpumodel.reading import ask_models
from kvmaff.cpumodel.table import CpuModels

from ..conftest import QEMU, needs_qemu

pytestmark = needs_qemu


class Counted:
    """A QEMU of our own, and how often it was started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "qemu-system-x86_64"
        self.starts = 0
        self.path.symlink_to(str(shutil.which(QEMU)))
        monkeypatch.setattr(cache, "ask_models", self._ask)

    def _ask(self, *args: object, **options: object) -> CpuModels:
        self.starts += 1
        return ask_models(*args, **options)  # type: ignore[arg-type]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The binary, with a cache of its own."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", str(tmp_path / "cache"))
    return Counted(tmp_path, monkeypatch)


def read(counted: Counted, **options: object) -> CpuModels:
    """Read the models under TCG."""
    return cache.read_cpu_models(counted.path, accel="tcg", **options)  # type: ignore[arg-type]


def kept(tmp_path: Path) -> Path:
    """The file that is kept."""
    (path,) = (tmp_path / "cache").iterdir()
    return path


def test_kept(counted: Counted, tmp_path: Path) -> None:
    """The second time nothing is started, and the answer is the same; on wish it is asked anew."""
    first = read(counted)
    assert (1, first) == (counted.starts, read(counted))
    assert 1 == counted.starts
    assert 0o600 == kept(tmp_path).stat().st_mode & 0o777
    assert 0o700 == (tmp_path / "cache").stat().st_mode & 0o777
    assert first == read(counted, fresh=True)
    assert 2 == counted.starts


def test_by_what(counted: Counted, tmp_path: Path) -> None:
    """Whatever differs of what it was kept by (file, kernel, boot, CPU, kvmaff) makes it old."""
    read(counted)
    path = kept(tmp_path)
    data = json.loads(path.read_text())
    assert len(data["key"]) > 6
    for at in range(len(data["key"])):
        path.write_text(json.dumps({**data, "key": [*data["key"][:at], "other", *data["key"][at + 1 :]]}))
        read(counted)
        assert at + 2 == counted.starts


def test_by_the_file(tmp_path: Path) -> None:
    """A file that was written or replaced is another one; what is no program has no key."""
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF one")
    first = cache._key(str(path))
    assert first == cache._key(str(path))
    path.write_bytes(b"\x7fELF two and more")
    second = cache._key(str(path))
    path.unlink()
    path.write_bytes(b"\x7fELF two and more")
    assert 3 == len({tuple(key) for key in (first, second, cache._key(str(path)))})
    path.write_bytes(b"#!/bin/sh")
    assert [] == cache._key(str(path))


def test_by_machine_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine type is another answer, kept beside the first."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", str(tmp_path / "cache"))
    found = [cache.read_cpu_models(QEMU, accel="tcg", machine=machine) for machine in ("none", "microvm")]
    assert found == [cache.read_cpu_models(QEMU, accel="tcg", machine=one.machine) for one in found]
    assert 2 == len(list((tmp_path / "cache").iterdir()))


def test_of_a_script_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it starts may be replaced behind it."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", str(tmp_path / "cache"))
    script = tmp_path / "qemu"
    script.write_text(f'#!/bin/sh\nexec {shutil.which(QEMU)} "$@"\n')
    script.chmod(0o755)
    cache.read_cpu_models(script, accel="tcg")
    assert [] == list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "deep", "other", "link", "writable", "folder writable", "fifo"]
)
def test_not_believed(damage: str, counted: Counted, tmp_path: Path) -> None:
    """What is damaged, or somebody else could have written, is as good as none; and is replaced where that can be."""
    first = read(counted)
    path = kept(tmp_path)
    text = path.read_text()
    if damage == "empty":
        path.write_text("")
    elif damage == "cut":
        path.write_text(text[: len(text) // 2])
    elif damage == "deep":
        path.write_text("[" * 100_000)
    elif damage == "other":
        path.write_text(text.replace('"fixed": true', '"fixed": "\\u001b"', 1))
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "writable":
        path.chmod(0o666)
    elif damage == "folder writable":
        path.parent.chmod(0o777)
    else:
        path.unlink()
        os.mkfifo(path)
    assert first == read(counted)
    assert 2 == counted.starts
    if damage == "link":
        assert text == (tmp_path / "elsewhere").read_text()
    if damage != "folder writable":
        assert first == read(counted)
        assert 2 == counted.starts
        assert text == path.read_text()


def test_nowhere_to_keep(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing can be kept is no error."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", "/proc/nothing/here")
    assert read(counted) == read(counted)
    assert 2 == counted.starts
