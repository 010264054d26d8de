"""What place says of a decision: why, and what the next best would cost; of who has no place, what is in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.host.topology import CoreKind
from kvmaff.testing.trees import grid, write_tree

from .test_cli import answer, run

GUESTS = """
[host]
reserved = "0,8"
overcommit = 4
[[pool]]
name = "fast"
cpus = "6-7,14-15"
[[guest]]
name = "db"
vcpus = 4
policy = "dedicated"
[[guest]]
name = "web"
vcpus = 2
pool = "fast"
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A recorded machine of 2 packages with a node each, 4 cores of 2 threads in a node, siblings 8 apart."""
    write_tree(tmp_path / "machine", grid(packages=2, cores=4, threads=2))
    return os.fspath(tmp_path / "machine")


def words(root: str, tmp_path: Path, *texts: str) -> list[str]:
    """The command line that places the guests of some files."""
    found = ["place", "--root", root]
    for number, text in enumerate(texts):
        file = tmp_path / f"guests{number}.toml"
        file.write_text(text)
        found += ["--spec", os.fspath(file)]
    return found


def vcpus(guest: dict[str, Any]) -> CpuSet:
    """The CPUs of a guest's vCPUs."""
    return CpuSet.union_of(
        CpuSet.parse(thread["cpus"]) for thread in guest["threads"] if thread["role"] == "vcpu"
    )


def test_explained(root: str, tmp_path: Path) -> None:
    """Unless said otherwise a few guests are explained: levels, whether it is proved, and the runner-up."""
    asked = words(root, tmp_path, GUESTS)
    data = answer(*asked)
    assert {"strategy", "guests", "unplaced", "admission", "moved", "steps", "choices"} == set(data)
    db, web = data["guests"]
    keys = {"name", "pid", "threads", "nodes", "owned", "score", "levels", "why", "proved", "explained"}
    assert keys | {"runner_up"} == set(db) == set(web)
    assert ("distance", 0) == (db["levels"][0]["level"], db["levels"][0]["value"])
    assert {name: value for name, value in db["score"].items() if name == "distance"} == {"distance": 0}
    assert (True, True, []) == (db["proved"], db["explained"], db["why"])
    assert {"cpus", "nodes", "levels", "worse"} == set(db["runner_up"])
    assert {"level", "by"} == set(db["runner_up"]["worse"])
    assert [one["level"] for one in db["levels"]] == [one["level"] for one in db["runner_up"]["levels"]]
    out = run(*asked).stdout
    assert "strategy numa: 2 guests placed" in out
    assert f"runner-up {db['runner_up']['cpus']} on node" in out


def test_not_explained(root: str, tmp_path: Path) -> None:
    """With --no-explain nothing is looked for, and so for more than 16 guests; --explain asks for it."""
    asked = words(root, tmp_path, GUESTS)
    db, _ = answer(*asked, "--no-explain")["guests"]
    assert (False, None) == (db["explained"], db["runner_up"])
    assert "runner-up" not in run(*asked, "--no-explain").stdout
    many = "".join(f'[[guest]]\nname = "g{number}"\nvcpus = 1\n' for number in range(17))
    asked = words(root, tmp_path, many)
    assert {False} == {guest["explained"] for guest in answer(*asked)["guests"]}
    assert {True} == {guest["explained"] for guest in answer(*asked, "--explain")["guests"]}


def test_what_the_host_keeps(root: str, tmp_path: Path) -> None:
    """Reserved CPUs, of a file and of the command line, and pools are kept; who names a pool is in it."""
    db, web = answer(*words(root, tmp_path, GUESTS), "--reserved", "1")["guests"]
    assert vcpus(db).isdisjoint(CpuSet.parse("0,1,8,6-7,14-15"))
    assert 4 == len(vcpus(db))
    assert vcpus(web) <= CpuSet.parse("6-7,14-15")


def test_a_file_that_can_be_read_only_once(root: str) -> None:
    """Guests and rules of a pipe are read in one go."""
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", "place", "--root", root, "--spec", "/dev/stdin", "--json"],
        input=GUESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "" == done.stderr
    db, web = json.loads(done.stdout)["guests"]
    assert vcpus(db).isdisjoint(CpuSet.parse("0,8,6-7,14-15"))
    assert vcpus(web) <= CpuSet.parse("6-7,14-15")


def test_overcommit(root: str, tmp_path: Path) -> None:
    """Where more vCPUs would float than the ratio allows there is no place, and the ratio is said."""
    text = '[host]\novercommit = 0.5\n[[guest]]\nname = "a"\nvcpus = 9\n'
    (only,) = answer(*words(root, tmp_path, text), code=1)["unplaced"]
    assert any("over-commit" in reason for reason in only["reasons"])
    assert [] == answer(*words(root, tmp_path, text.replace("= 9", "= 8")))["unplaced"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[host]\novercommit = 3\n", "host: overcommit: another file says otherwise"),
        ('[[pool]]\nname = "fast"\ncpus = "1"\n', "pool 'fast': is in the way of 'fast' of another file"),
        ('[[pool]]\nname = "slow"\ncpus = "7"\n', "pool 'slow': is in the way of 'fast' of another file"),
        ('[[pool]]\nname = "slow"\n', "guests1.toml:1: pool 1: cpus: is missing"),
    ],
)
def test_files_that_contradict_each_other(root: str, tmp_path: Path, more: str, said: str) -> None:
    """Rules of several files go together, and what does not is said with the file."""
    done = run(*words(root, tmp_path, GUESTS, more))
    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr


@pytest.mark.parametrize("value", ["x", "3-1", "99999"])
def test_wrong_reserved(root: str, value: str) -> None:
    """What is no cpulist is wrong usage."""
    done = run("place", "--root", root, "--reserved", value)
    assert (2, "") == (done.returncode, done.stdout)
    assert "--reserved" in done.stderr


def test_no_place(root: str, tmp_path: Path) -> None:
    """A refusal names what each rule took, and each single change that would help, in words and as data."""
    text = GUESTS + '[[guest]]\nname = "rt"\nvcpus = 9\npolicy = "dedicated"\n'
    data = answer(*words(root, tmp_path, text), code=1)
    (rt,) = data["unplaced"]
    assert {"name", "reasons", "removed", "remedies"} == set(rt)
    assert {"rule", "by", "cpus", "nodes", "l3_groups"} == set(rt["removed"][0])
    assert {"reserved", "pool"} <= {one["rule"] for one in rt["removed"]}
    assert {"what", "to", "text"} == set(rt["remedies"][0])
    assert {one["text"] for one in rt["remedies"]} <= set(rt["reasons"])
    (fewer,) = [one["to"] for one in rt["remedies"] if one["what"] == "vcpus"]
    done = answer(*words(root, tmp_path, text.replace("= 9", f"= {fewer}")))
    assert [] == done["unplaced"]  # a remedy is one


def test_every_contradiction_at_once(tmp_path: Path) -> None:
    """All that a machine cannot give a guest is named in one refusal, with exit code 1, in words and as data."""
    plain = grid(packages=2, cores=4)
    kinds = (
        CoreKind(name="P", cpus=CpuSet(range(4))),
        CoreKind(name="E", cpus=CpuSet(range(4, 8))),
    )
    write_tree(tmp_path / "plain", attrs.evolve(plain, topology=attrs.evolve(plain.topology, kinds=kinds)))
    text = """
[[guest]]
name = "big"
vcpus = 40
memory = "200 GiB"
policy = "dedicated"
thread_policy = "require"
device_nodes = [7]
devices = ["65:00.0"]
core_kind = "Q"
pool = "slow"
[[guest]]
name = "huge"
vcpus = 2
memory = "2 GiB"
page_size = "1 GiB"
"""
    expected = [
        "big has no place: its device 0000:65:00.0 is not on this host",
        "big has no place: its device is on NUMA node 7, which this host has not; it has 0, 1",
        "big has no place: needs 40 dedicated vCPUs, this host has 8 CPUs online",
        (
            "big has no place: thread policy require fills groups of 2 siblings, the cores of this host have 1 online"
        ),
        "big has no place: wants cores of kind 'Q', this host has P, E",
        "big has no place: wants the CPU pool 'slow', which is not told; there is none",
        "big has no place: wants 200 GiB of memory, this host has 128 GiB",
        ("huge has no place: wants its memory in pages of 1 GiB, of which this host has none; it has none"),
    ]
    asked = words(os.fspath(tmp_path / "plain"), tmp_path, text)
    done = run(*asked)
    assert 1 == done.returncode
    assert [] == [line for line in expected if line not in done.stderr]
    unplaced = {one["name"]: one for one in answer(*asked, code=1)["unplaced"]}
    assert {"big", "huge"} == set(unplaced)
    assert 7 < len(unplaced["big"]["reasons"])


def test_a_spec_against_itself(root: str, tmp_path: Path) -> None:
    """What contradicts itself is refused before anything is searched: each with its line, several of one guest, too."""
    text = """[[guest]]
name = "a"
vcpus = 4
threads = 2
policy = "dedicated"
thread_policy = "isolate"
memory = "3 GiB"
page_size = "2 GiB"
affinity = [{ guest = "b" }]
anti_affinity = [{ guest = "b" }]
[[guest.cell]]
vcpus = "0-1"
memory = "1 GiB"
[[guest]]
name = "b"
policy = "mixed"
"""
    done = run(*words(root, tmp_path, text))
    assert (2, "") == (done.returncode, done.stdout)
    for said in (
        ':6: guest 1 ("a"): thread_policy: isolate keeps siblings empty',
        ':7: guest 1 ("a"): memory: 3221225472 bytes are no whole number of pages',
        ':10: guest 1 ("a"): anti_affinity: keeps it off the node of b',
        'guest 1 ("a"): cell: must hold each of the vCPUs 0-3 once',
        'guest 1 ("a"): cell: have 1073741824 bytes of memory together, the guest has 3221225472',
        'guest 2 ("b"): dedicated_vcpus: names the vCPUs that are dedicated',
    ):
        assert said in done.stderr
