"""What is kept of a binary's answers, and when it is not believed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from kvmaff.cpumodel.cache import read_cpu_models

from ..conftest import QEMU, needs_qemu

pytestmark = needs_qemu


class Counted:
    """A QEMU that counts how often it is started."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.path = folder / "qemu-system-x86_64"
        self.write("# one")

    def write(self, remark: str) -> None:
        """Replace the binary by one that says the same."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f'#!/bin/sh\n{remark}\necho x >>{self.log}\nexec {shutil.which(QEMU)} "$@"\n')
        fresh.chmod(0o755)
        fresh.rename(self.path)

    @property
    def starts(self) -> int:
        """How often it was started."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """The binary, with a cache of its own."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", str(tmp_path / "cache"))
    return Counted(tmp_path)


def read(counted: Counted, **options: object) -> object:
    """Read the models under TCG."""
    return read_cpu_models(counted.path, accel="tcg", **options)  # type: ignore[arg-type]


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
    """Another machine type is another answer; another binary in the same place, another kernel or CPU makes it old."""
    read(counted)
    read(counted, machine="q35")
    assert 2 == counted.starts
    counted.write("# two")
    read(counted)
    assert 3 == counted.starts
    paths = sorted((tmp_path / "cache").iterdir())
    assert 2 == len(paths)
    for path in paths:
        data = json.loads(path.read_text())
        for at in range(len(data["key"])):
            path.write_text(json.dumps({**data, "key": [*data["key"][:at], "other", *data["key"][at + 1 :]]}))
            before = counted.starts
            read(counted, machine=data["models"]["machine"])
            assert before + 1 == counted.starts


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
