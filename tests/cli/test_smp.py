"""``kvmaff smp`` as people and programs use it."""

from __future__ import annotations

import json

import pytest

from .test_cli import answer, run


def test_table() -> None:
    """What each number is, why, and where vCPUs are; what will be plugged stands apart."""
    text = run("smp", "4,maxcpus=8,threads=2", "--machine", "pc-q35-7.2").stdout
    assert "pc-q35-7.2 on QEMU 7.2" in text
    assert "maxcpus (8) divided by all other levels (2)" in text
    assert "to be plugged" in text
    assert "to be plugged" not in run("smp", "4,sockets=2").stdout


def test_large_guests_are_short() -> None:
    """4,096 cores are not 4,096 lines."""
    assert len(run("smp", "4096,cores=64", "--machine", "pc-q35-9.0").stdout.splitlines()) < 60
    assert len(run("smp", "4096,sockets=4096", "--machine", "pc-q35-9.0").stdout.splitlines()) < 60


def test_json() -> None:
    """The same for programs; several texts are one, of which the later wins."""
    said = answer("smp", "8,sockets=4", "sockets=2", "--machine", "q35", "--qemu", "7.2.22")
    assert "pc-q35-7.2" == said["machine"]
    assert [7, 2] == said["qemu"]
    assert {"cpus": 8, "sockets": 2} == said["given"]
    assert (2, 4, 1) == tuple(said["smp"][word] for word in ("sockets", "cores", "threads"))
    assert "cpus=8,sockets=2,dies=1,cores=4,threads=1" == said["text"]
    assert [0, 0, 0, 0, 1, 1, 1, 1] == [vcpu["socket"] for vcpu in said["vcpus"]]
    assert list(range(8)) == [vcpu["apic_id"] for vcpu in said["vcpus"]]
    assert said["why"].keys() == {"cpus", "maxcpus", *said["levels"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["8,core=2,dies=x"], ["'smp.dies' expects integer (not 'x')", "'smp.core' is unexpected (cores?)"]),
        (["8,sockets=65536,cores=65536"], ["QEMU counts in 32 bits"]),
        (["8", "--machine", "foo"], ["machine type 'foo' is not known"]),
        (["8", "--qemu", "seven"], ["'seven' is no version"]),
        (["8", "--machine", "pc-q35-9.0", "--qemu", "7.2"], ["QEMU 7.2 has no machine type 'pc-q35-9.0'"]),
        (["--", "-1"], ["cpus=-1 is no number"]),
        (["\x1b[31m8"], ["expects integer"]),
        ([], ["Missing argument"]),
    ],
)
def test_mistakes(words: list[str], said: list[str]) -> None:
    """Wrong usage, everything that is wrong at once, and nothing that a terminal would obey."""
    done = run("smp", *words)
    assert 2 == done.returncode
    assert not done.stdout
    assert all(one in done.stderr for one in said), done.stderr
    assert "\x1b" not in done.stderr


def test_mistakes_as_json() -> None:
    """A program that asked for JSON gets JSON."""
    done = run("smp", "9,sockets=2", "--json")
    assert 2 == done.returncode
    said = json.loads(done.stdout)
    assert said["smp"] is None
    assert "product of the hierarchy must match maxcpus" in done.stderr
