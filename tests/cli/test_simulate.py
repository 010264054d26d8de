"""simulate as people use it: tables, JSON, pictures, and what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET  # our own file
from pathlib import Path

import pytest

from .test_cli import answer, run
from .test_deciding import machine

__all__ = ["machine"]

FEW = ("--arrivals", "30")
CSV = "time,id,vcpus,memory,lifetime\n0,a,4,1 GiB,10\n1,b,16,,\n20,c,8,,\n"


def test_a_table(machine: Path) -> None:
    """Strategies and moves are columns; the shares are compared with the first one."""
    words = ("simulate", "--root", str(machine), *FEW, "--strategy", "numa", "--strategy", "pack")
    done = run(*words, "--moves", "0", "--moves", "1", "--seeds", "2", "--jobs", "2")
    assert 0 == done.returncode, done.stderr
    assert "2 seeds, mean ± standard error" in done.stdout
    assert "vCPUs accepted, %" in done.stdout
    assert "pack" in done.stdout
    assert "" == done.stderr


def test_json_and_a_picture(machine: Path, tmp_path: Path) -> None:
    """The same figures as data, the same with several jobs; a picture that is XML, for everybody to read."""
    picture = tmp_path / "sim.svg"
    words = (
        "simulate",
        "--root",
        str(machine),
        *FEW,
        "--moves",
        "0",
        "--moves",
        "1",
        "--seeds",
        "2",
        "--seed",
        "5",
    )
    told = answer(*words, "--svg", str(picture))
    assert [5, 6] == told["seeds"]
    assert ["numa", "numa, 1 move"] == [one["name"] for one in told["contestants"]]
    assert [30, 30] == [one["guests"] for one in told["contestants"][0]["outcomes"]]
    for one in told["contestants"]:
        assert 0 < one["mean"]["vcpus_share"]["value"] <= 1
    root = ET.parse(picture).getroot()
    assert root.tag.endswith("svg")
    text = picture.read_text()
    assert "numa, 1 move" in text
    assert 0o644 == picture.stat().st_mode & 0o777
    again = answer(*words, "--jobs", "2")

    def decided(found: dict[str, list[dict[str, object]]]) -> object:
        return [
            {k: v for k, v in one.items() if not k.startswith("decision")}
            for each in found["contestants"]
            for one in each["outcomes"]  # type: ignore[attr-defined]
        ]

    assert decided(told) == decided(again)


def test_a_file_of_arrivals(machine: Path, tmp_path: Path) -> None:
    """Guests as they came: the second one is larger than a node, and spans where it may."""
    file = tmp_path / "came.csv"
    file.write_text(CSV)
    words = ("simulate", "--root", str(machine), "--csv", str(file))
    (one,) = answer(*words)["contestants"]
    assert (3, 2) == (one["outcomes"][0]["guests"], one["outcomes"][0]["accepted"])
    (other,) = answer(*words, "--spanning", "--shared")["contestants"]
    assert 3 == other["outcomes"][0]["accepted"]


def group(leader: int) -> dict[int, str]:
    """The processes of a group, but for those that only wait to be buried, and what they are."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, number = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:3]
            if int(number) == leader and state != "Z":
                found[int(name)] = Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("later", [0.0, 1.5], ids=["while they start", "while they run"])
def test_a_ctrl_c_with_several_jobs(machine: Path, number: signal.Signals, later: float) -> None:
    """Ctrl-C reaches all processes: they end within seconds, none is left, and nobody says more than that it is so."""
    words = ("--arrivals", "1000000", "--seeds", "8", "--moves", "0", "--moves", "1", "--jobs", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "kvmaff", "simulate", "--root", str(machine), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            until = time.monotonic() + 60
            while 2 > sum("spawn_main" in what for what in group(process.pid).values()):
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(later)
            assert process.poll() is None
            sent = time.monotonic()
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            out, err = process.communicate(timeout=60)
            assert time.monotonic() - sent < 10
            while (left := group(process.pid)) and time.monotonic() - sent < 20:
                time.sleep(0.02)
            assert {} == left
        finally:
            if group(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    assert ("", 1 if number == signal.SIGINT else 128 + number) == (out, process.returncode)
    assert ("Aborted!" if number == signal.SIGINT else "") == err.strip()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--strategy", "nmua"), 2),
        (("--option", "near"), 2),
        (("--option", "grian=pu"), 2),
        (("--option", "grain=perhaps"), 2),
        (("--load", "0"), 2),
        (("--arrivals", "0"), 2),
        (("--sizes", "1,x"), 2),
        (("--sizes", "0"), 2),
        (("--sizes", ""), 2),
        (("--lifetime", "0"), 2),
        (("--lifetime", "nan"), 2),
        (("--lifetime", "inf"), 2),
        (("--load", "nan"), 2),
        (("--memory", "2 GB"), 2),
        (("--reserved", "x"), 2),
        (("--reserved", "0-15"), 2),
        (("--seeds", "0"), 2),
        (("--jobs", "0"), 2),
        (("--moves", "-1"), 2),
        (("--seed", "-1"), 2),
        (("--seed", "1.5"), 2),
        (("--csv", "/nonexistent/a.csv"), 2),
        (("--csv", "/nonexistent/a.csv", "--load", "1"), 2),
        (("--svg", "/nonexistent/a.svg"), 1),
    ],
)
def test_what_is_wrong(machine: Path, words: tuple[str, ...], code: int) -> None:
    """Wrong usage is 2, what cannot be done 1, with a message and without a traceback."""
    few = () if "--csv" in words or "--arrivals" in words else ("--arrivals", "3")
    done = run("simulate", "--root", str(machine), *few, *words)
    assert code == done.returncode, (done.stdout, done.stderr)
    assert done.stderr
