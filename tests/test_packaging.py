"""A newcomer's installations, each in a clean environment: the folder, editable, a wheel from the sdist."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _call(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what belongs to the project, as a fresh clone has it."""
    copy = tmp_path_factory.mktemp("clone") / "kvmaff"
    names = _call("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def _clean(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin"


def _works(bin_folder: Path, cwd: Path) -> None:
    """The command runs where no source is near, and the library with the core's dependencies only."""
    data = json.loads(
        _call(bin_folder / "kvmaff", "demo", "--guests", "1", "--seconds", "0.2", "--json", cwd=cwd)
    )
    assert data["ok"]
    code = (
        "import kvmaff.placement.fit, kvmaff; print(kvmaff.read_host().topology.online, kvmaff.__version__)"
    )
    assert _call(bin_folder / "python", "-c", code, cwd=cwd).strip()


def test_wheel_from_sdist(source: Path, tmp_path: Path) -> None:
    """The sdist builds one cp311-abi3 wheel, which has the types and the three extensions, and works."""
    out = tmp_path / "dist"
    _call(sys.executable, "-m", "build", "--outdir", out, source, cwd=tmp_path)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    assert "-cp311-abi3-linux_" in wheel.name
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "ext/procscan.h",
        "ext/procscan.c",
        "ext/_fit.pyx",
        "ext/_lay.pyx",
        "ext/microvm.c",
        "tests/run",
        "LICENSE",
    } <= names
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "kvmaff/py.typed",
        "kvmaff/kernel/_procscan.abi3.so",
        "kvmaff/kernel/_procscan.pyi",
        "kvmaff/placement/_fit.abi3.so",
        "kvmaff/host/_lay.abi3.so",
        "kvmaff/testing/_microvm.abi3.so",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "ext/"))]
    bin_folder = _clean(tmp_path / "venv")
    _call(bin_folder / "pip", "install", "-q", f"kvmaff[cli] @ file://{wheel}", cwd=tmp_path)
    _works(bin_folder, tmp_path)


@pytest.mark.parametrize("options", [[], ["-e"]], ids=["plain", "editable"])
def test_install_from_the_folder(source: Path, tmp_path: Path, options: list[str]) -> None:
    """pip install '.[cli]' and pip install -e '.[cli]' work in a clean environment."""
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    bin_folder = _clean(tmp_path / "venv")
    _call(bin_folder / "pip", "install", "-q", *options, ".[cli]", cwd=folder)
    _works(bin_folder, tmp_path)


def test_core_alone_says_what_the_command_needs(source: Path, tmp_path: Path) -> None:
    """Without the extra the library works, and the command says which extra it needs."""
    bin_folder = _clean(tmp_path / "venv")
    folder = tmp_path / "source"
    shutil.copytree(source, folder)
    _call(bin_folder / "pip", "install", "-q", ".", cwd=folder)
    installed = _call(bin_folder / "pip", "list", "--format=freeze", cwd=tmp_path).lower().split()
    names = {line.partition("==")[0] for line in installed} - {"pip", "setuptools"}
    assert {"kvmaff", "attrs", "cffi", "pluggy", "pycparser"} == names
    done = subprocess.run([bin_folder / "kvmaff", "guests"], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert "kvmaff[cli]" in done.stderr
    _call(bin_folder / "python", "-c", "import kvmaff; kvmaff.guests(kvmaff.read_host())", cwd=tmp_path)
