"""``kvmaff cpumodel`` as people and programs use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ..conftest import needs_qemu
from .test_cli import answer, run

pytestmark = needs_qemu


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept where other people's programs look."""
    monkeypatch.setenv("KVMAFF_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kvmaff-cache"))


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """This host under TCG, and another that lacks something of it."""
    first, second = tmp_path / "alpha.json", tmp_path / "beta.json"
    assert 0 == run("cpumodel", "host", str(first), "--accel", "tcg").returncode
    data = json.loads(first.read_text())
    gone = ["avx2", "rdrand", "la57"]
    data["features"] = [name for name in data["features"] if name not in gone]
    data["lacks"] = sorted([*data["lacks"], *gone])
    second.write_text(json.dumps(data))
    return [str(first), str(second)]


def test_list(two: list[str]) -> None:
    """The models, those that run, and those of another host."""
    text = run("cpumodel", "list", "--accel", "tcg").stdout
    assert "qemu64-v1, the default" in text
    assert "Icelake-Server-v1" in text
    every, able = (answer("cpumodel", "list", "--accel", "tcg", *more) for more in ([], ["--runnable"]))
    names = [one["name"] for one in able["models"]]
    assert names == [one["name"] for one in every["models"] if one["runs"]]
    assert all(one["missing"] == one["qemu_says"] for one in every["models"])
    there = answer("cpumodel", "list", "--accel", "tcg", "--host", two[1])
    assert "beta" == there["host"]
    assert {one["qemu_says"] is None for one in there["models"]} == {True}
    assert "Opteron_G1" in {one["name"] for one in there["models"] if one["runs"]}


def test_baseline(two: list[str]) -> None:
    """The text alone, all about it, and the same for programs."""
    found = answer("cpumodel", "baseline", *two)
    assert f"{found['cpu']}\n" == run("cpumodel", "baseline", "-q", *two).stdout
    assert found["cpu"].endswith(",enforce")
    assert [[], ["alpha", "beta"]] == [found["hosts"][1]["lost"], [one["host"] for one in found["hosts"]]]
    assert ["avx2", "la57", "rdrand"] == found["hosts"][0]["lost"]
    assert [["beta"]] * 3 == [one["lack"] for one in found["blockers"].values()]
    assert ("x86-64-v2", False) == (found["level"], found["hosts"][0]["level_kept"])
    text = run("cpumodel", "baseline", *two).stdout
    for words in (
        "beta lacks avx2, la57, rdrand",
        "fell to x86-64-v2",
        "qemu64 (which a guest gets that asks for none) has",
        "RHEL 9",
        "AES",
    ):
        assert words in text


def test_group(two: list[str]) -> None:
    """Without a budget each is alone; with one they are together, and the text is that of the baseline."""
    assert [["alpha"], ["beta"]] == [one["hosts"] for one in answer("cpumodel", "group", *two)["groups"]]
    found = answer("cpumodel", "group", "--budget", "3", *two)
    assert [["alpha", "beta"]] == [one["hosts"] for one in found["groups"]]
    assert answer("cpumodel", "baseline", *two) == found["groups"][0]["baseline"]
    assert 2 == len(answer("cpumodel", "group", "--budget", "3", "--keep-level", *two)["groups"])
    text = run("cpumodel", "group", "--budget", "3", *two).stdout
    assert "1 group; within this budget fewer are not possible" in text
    assert f"1: {found['groups'][0]['baseline']['cpu']}" in text


def test_compare(two: list[str]) -> None:
    """What only one of them can give, without a QEMU."""
    found = answer("cpumodel", "compare", *two)
    assert (["avx2", "la57", "rdrand"], []) == (found["only_first"], found["only_second"])
    assert found["same"] is False
    assert "only alpha, 3:" in run("cpumodel", "compare", *two).stdout


def test_explain() -> None:
    """What a name stands for; a whole -cpu too."""
    text = run("cpumodel", "explain", "EPYC", "--accel", "tcg").stdout
    for words in ("EPYC is EPYC-v1", "AuthenticAMD family 23", "x86-64-v3", "EPYC-v2: + ibpb", "missing, "):
        assert words in text
    found = answer("cpumodel", "explain", "EPYC,-sha-ni,+avx512f", "--accel", "tcg")
    assert "avx512f" in found["missing"]
    assert "sha-ni" not in found["missing"]


def test_host(tmp_path: Path) -> None:
    """The capture: a file, standard output, and the degraded source, which has no no."""
    said: Any = json.loads(run("cpumodel", "host", "-", "--accel", "tcg").stdout)
    assert ("host cpu", "tcg", "qmp") == (said["kvmaff"], said["accel"], said["source"])
    poor: Any = json.loads(run("cpumodel", "host", "-", "--from", "cpuinfo").stdout)
    assert ("cpuinfo", None, []) == (poor["source"], poor["qemu"], poor["lacks"])
    path = tmp_path / "poor.json"
    path.write_text(json.dumps(poor))
    models = answer("cpumodel", "list", "--accel", "tcg", "--host", str(path))["models"]
    assert {True, None} >= {one["runs"] for one in models}
    assert not any(one["missing"] for one in models)


MISTAKES = [
    (["list", "--qemu", "/nowhere"], 1, "there is no such program"),
    (["list", "--qemu", "/bin/true"], 1, "it is no QEMU"),
    (["list", "--machine", "nothing", "--accel", "tcg"], 1, "unsupported machine type"),
    (["list", "--accel", "hvf"], 2, "hvf"),
    (["explain", "Haswel", "--accel", "tcg"], 2, "did you mean Haswell"),
    (["explain", "Haswell,+nonsense", "--accel", "tcg"], 2, "nonsense"),
    (["baseline"], 2, "Missing argument"),
    (["baseline", "/nowhere.json"], 1, "/nowhere.json: cannot be read"),
    (["compare", "/etc/passwd", "/dev/null"], 1, "/etc/passwd:1: is no JSON"),
    (["host", "/dev/null", "--accel", "tcg"], 1, "no plain file"),
    (["host", "x.json", "--from", "cpuinfo", "--accel", "tcg"], 2, "and of no QEMU"),
    (["group", "a.json", "--budget", "-1"], 2, "-1"),
]


@pytest.mark.parametrize(
    ("words", "code", "said"), MISTAKES, ids=lambda one: " ".join(one) if type(one) is list else ""
)
def test_mistakes(words: list[str], code: int, said: str) -> None:
    """What was wrong, without a traceback, and without an answer; programs get it as JSON."""
    done = run("cpumodel", *words)
    assert code == done.returncode, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    if code == 1:
        told = run("cpumodel", *words, "--json")
        assert any(said in one for one in json.loads(told.stdout)["errors"])


def test_baseline_mistakes(two: list[str], tmp_path: Path) -> None:
    """Groups that have no baseline, with all reasons and exit codes."""
    data = json.loads(Path(two[0]).read_text())
    other = tmp_path / "gamma.json"
    for change, words in (
        ({"arch": "i386"}, "different architectures"),
        ({"vendor": "GenuineIntel"}, "--cross-vendor"),
        ({"accel": "kvm"}, "different accelerators"),
        ({"features": [], "lacks": []}, "look at gamma"),
    ):
        other.write_text(json.dumps({**data, **change}))
        done = run("cpumodel", "baseline", two[0], str(other))
        assert (1, "") == (done.returncode, done.stdout)
        assert words in done.stderr
    assert 2 == run("cpumodel", "baseline", two[0], "--without", "nonsense").returncode
    assert 1 == run("cpumodel", "baseline", *two, "--model", "host").returncode
    assert 1 == run("cpumodel", "baseline", two[0], two[0]).returncode
