"""place, plan and apply as people and programs use them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.discover import find_guests

from ..conftest import Qemu, kernel_masks, needs_qemu, needs_two_cpus
from .test_cli import answer, run

HERE = CpuSet(os.sched_getaffinity(0))

SPEC = """
[[guest]]
name = "web"
vcpus = 4
policy = "dedicated"
[[guest]]
name = "db"
vcpus = 8
memory = "1 GiB"
iothreads = ["disk0"]
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A recorded machine of 2 nodes, 2 L3 groups each, 2 cores of 2 threads in each; CPUs 14 and 15 isolated."""
    root = tmp_path / "machine"
    files = {"cpu/online": "0-15", "cpu/present": "0-15", "cpu/possible": "0-15", "cpu/isolated": "14-15"}
    for cpu in range(16):
        core, group = cpu // 2 * 2, cpu // 4 * 4
        files[f"cpu/cpu{cpu}/topology/core_cpus_list"] = f"{core}-{core + 1}"
        files[f"cpu/cpu{cpu}/topology/package_cpus_list"] = "0-15"
        for name, text in (("level", "3"), ("type", "Unified"), ("shared_cpu_list", f"{group}-{group + 3}")):
            files[f"cpu/cpu{cpu}/cache/index3/{name}"] = text
    for node in range(2):
        files[f"node/node{node}/cpulist"] = f"{8 * node}-{8 * node + 7}"
        files[f"node/node{node}/distance"] = "10 21" if node == 0 else "21 10"
        files[f"node/node{node}/meminfo"] = (
            f"Node {node} MemTotal: 9000000 kB\nNode {node} MemFree: 8000000 kB\n"
        )
    for name, text in files.items():
        path = root / "sys/devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A file of two guests to come."""
    file = tmp_path / "guests.toml"
    file.write_text(SPEC)
    return file


@pytest.mark.parametrize("strategy", ["numa", "pack", "spread"])
def test_place_on_a_recorded_machine(machine: Path, spec: Path, state_dir: Path, strategy: str) -> None:
    """Guests from a spec are placed on a recorded machine; the JSON is the contract's, the picture shows them."""
    words = ["place", "--root", str(machine), "--spec", str(spec), "--strategy", strategy]
    data = answer(*words)
    assert strategy == data["strategy"]
    assert [] == data["unplaced"]
    web, db = data["guests"]
    assert {"name", "threads", "nodes", "score"} <= set(web)
    assert ("web", "db") == (web["name"], db["name"])
    pus = [thread["cpus"] for thread in web["threads"] if thread["role"] == "vcpu"]
    assert 4 == len(set(pus)) == len([pu for pu in pus if pu.isdigit()])
    assert 8 == sum(thread["role"] == "vcpu" for thread in db["threads"])
    assert {"role", "index", "cpus"} == set(web["threads"][0])
    assert "iothread" in {thread["role"] for thread in db["threads"]}
    out = run(*words).stdout
    assert "a web   b db" in out
    assert out.count("A") >= 4
    assert "[::]" in out  # the isolated core stays free
    assert not state_dir.exists()


def test_no_place(machine: Path, tmp_path: Path) -> None:
    """A guest without a place is exit code 1, listed with reasons beside those that have one."""
    file = tmp_path / "big.toml"
    file.write_text(SPEC + '[[guest]]\nname = "big"\nvcpus = 40\npolicy = "dedicated"\n')
    data = answer("place", "--root", str(machine), "--spec", str(file), code=1)
    (big,) = data["unplaced"]
    assert "big" == big["name"]
    assert any("40 dedicated vCPUs" in reason for reason in big["reasons"])
    assert any("vCPUs would fit" in reason for reason in big["reasons"])
    assert {"web", "db"} == {guest["name"] for guest in data["guests"]}
    done = run("place", "--root", str(machine), "--spec", str(file))
    assert 1 == done.returncode
    assert "big has no place: needs 40 dedicated vCPUs" in done.stderr


def test_by_name_and_isolated(machine: Path, spec: Path) -> None:
    """Only the guests named are placed; isolated takes the isolated core and says what would work beyond."""
    data = answer("place", "db", "--root", str(machine), "--spec", str(spec))
    assert ["db"] == [guest["name"] for guest in data["guests"]]
    data = answer(
        "place", "web", "--root", str(machine), "--spec", str(spec), "--strategy", "isolated", code=1
    )
    assert any("anywhere=yes" in reason for reason in data["unplaced"][0]["reasons"])
    words = ["place", "web", "--root", str(machine), "--spec", str(spec), "--strategy", "isolated"]
    data = answer(*words, "--option", "anywhere=yes")
    assert [] == data["unplaced"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["place", "--strategy", "nmua"], 2, "numa"),
        (["place", "--strategy", "pack", "--option", "anywhere=yes"], 2, "isolated"),
        (["place", "--strategy", "isolated", "--option", "anywere=yes"], 2, "anywhere"),
        (["place", "--strategy", "isolated", "--option", "anywhere=perhaps"], 2, "anywhere"),
        (["place", "--option", "x"], 2, "NAME=VALUE"),
        (["place", "nobody"], 1, "no guest 'nobody'"),
        (["place", "--spec", "/nonexistent.toml"], 2, "/nonexistent.toml"),
        (["place", "--root", "/nonexistent"], 2, "/nonexistent"),
        (["place", "--root", "/dev/null/x"], 2, "/dev/null/x"),
        (["place", "--root", "/dev/null"], 1, "/dev/null"),
        (["plan", "--strategy", "nmua"], 2, "numa"),
        (["apply", "--strategy", "nmua"], 2, "numa"),
        (["apply", "--strategy", "pack", "--spec", "/nonexistent.toml"], 2, "/nonexistent.toml"),
        (["apply", "nobody", "--strategy", "pack"], 1, "no guest 'nobody'"),
        (["strategies", "nmua"], 2, "numa"),
        (["plan", "web"], 2, "--strategy"),
        (["plan", "--dedicated"], 2, "--strategy"),
        (["apply", "--spec", "x"], 2, "--strategy"),
        (["apply", "--reserved", "0"], 2, "--strategy"),
        (["plan"], 1, "nothing was decided"),
        (["apply"], 1, "nothing was decided"),
        (["plan", "--root", "/tmp"], 2, "--root"),
    ],
)
def test_bad_input(words: list[str], code: int, said: str, state_dir: Path) -> None:
    """Wrong usage is 2, what cannot be done is 1, each with the reason, and nothing is written."""
    done = run(*words)
    assert (code, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert not state_dir.exists()


def test_three_mistakes_in_a_spec(machine: Path, tmp_path: Path) -> None:
    """Everything that is wrong with a spec is said at once."""
    file = tmp_path / "bad.toml"
    file.write_text('[[guest]]\nname = "a"\nvcpu = 2\nmemory = "8 GB"\npolicy = "dedicatd"\n')
    done = run("place", "--root", str(machine), "--spec", str(file))
    assert 2 == done.returncode
    for words in ("bad.toml:3", "bad.toml:4", "bad.toml:5"):
        assert words in done.stderr


@needs_qemu
@needs_two_cpus
def test_apply_plan_undo(qemu: Callable[..., Qemu], state_dir: Path) -> None:
    """A real guest is placed, applied, found undrifted, drifted, put back, and undone, by command alone."""
    started = qemu("web,debug-threads=on", vcpus=1)
    before = kernel_masks(started.pid)
    words = ["web", "--strategy", "spread"]
    data = answer("place", *words)
    assert [] == data["unplaced"]
    assert before == kernel_masks(started.pid)
    changes = answer("plan", *words)["changes"]
    assert changes
    assert {"guest", "tid", "role", "index", "from", "to"} == set(changes[0])
    report = answer("apply", *words)
    assert report["ok"]
    assert {change["tid"] for change in changes} == {thread["tid"] for thread in report["threads"]}
    for change in changes:
        assert CpuSet.parse(change["to"]) == CpuSet(os.sched_getaffinity(change["tid"]))
    assert [] == answer("plan")["changes"]
    assert "nothing to do" in run("plan").stdout
    assert "nothing to do" in run("apply").stdout
    (guest,) = find_guests(pids=[started.pid])
    os.sched_setaffinity(guest.vcpus[0].tid, HERE)
    (change,) = answer("plan")["changes"]
    assert guest.vcpus[0].tid == change["tid"]
    assert "vcpu 0" in run("plan").stdout
    assert answer("apply")["ok"]
    assert [] == answer("plan")["changes"]
    while answer("undo", "--list"):
        assert 0 == run("undo").returncode
    assert before == kernel_masks(started.pid)


def test_every_command_has_json(machine: Path, spec: Path) -> None:
    """What place prints with --json is JSON and nothing else, also where warnings are said."""
    spec.write_text(SPEC + '[[guest]]\nname = "nobody-*"\n')
    done = run("place", "--root", str(machine), "--spec", str(spec), "--json")
    assert {"strategy", "guests", "unplaced", "admission", "moved", "steps", "choices"} == set(
        json.loads(done.stdout)
    )
    assert "nobody-*" in done.stderr


@needs_qemu
@needs_two_cpus
def test_deciding_for_all_forgets_what_was(spec: Path, state_dir: Path) -> None:
    """A guest to come keeps its place until everything is decided anew."""
    if any(guest.verified for guest in find_guests()):
        pytest.skip("another guest runs on this machine and holds its CPUs")
    spec.write_text('[[guest]]\nname = "late"\nvcpus = 1\npolicy = "dedicated"\n')
    assert answer("apply", "late", "--strategy", "pack", "--spec", str(spec))["ok"]
    file = state_dir / "decided.json"
    assert ["late"] == [guest["spec"]["name"] for guest in json.loads(file.read_text())["guests"]]
    (late,) = answer("place", "late", "--spec", str(spec), "--strategy", "pack")["guests"]
    again = answer("place", "late", "--spec", str(spec), "--strategy", "pack")["guests"][0]
    assert late == again
    done = run("plan")
    assert "late was decided and does not run" in done.stderr
    assert answer("undo")["ok"]
    assert not file.exists()


def test_a_program_learns_whose_fault_it_is(machine: Path, tmp_path: Path) -> None:
    """With --json the exit codes are the same, and every problem is in the answer."""
    file = tmp_path / "bad.toml"
    file.write_text('[[guest]]\nname = "a"\nvcpus = 3\nthreads = 2\nvcpu = 1\n')
    data = answer("place", "--root", str(machine), "--spec", str(file), code=2)
    assert 2 == len(data["errors"])
    (only,) = answer("plan", "--strategy", "nmua", code=2)["errors"]
    assert "did you mean 'numa'" in only
    report = answer("apply", "--strategy", "nmua", code=2)
    assert (False, [only]) == (report["ok"], report["errors"])
    file.write_text('[[guest]]\nname = "a"\nvcpus = 2\nthread_policy = "require"\n')
    # by itself it is well, and nobody said that it is dedicated
    (only,) = answer("place", "--root", str(machine), "--spec", str(file), code=2)["errors"]
    assert "thread_policy: require needs the vCPU policy dedicated" in only
    assert [] == answer("place", "--root", str(machine), "--spec", str(file), "--dedicated")["unplaced"]


@needs_qemu
def test_a_spec_against_what_runs(qemu: Callable[..., Qemu], tmp_path: Path) -> None:
    """A spec that contradicts nothing but a running guest is no wrong usage."""
    started = qemu("web,debug-threads=on", vcpus=1)
    file = tmp_path / "web.toml"
    file.write_text('[[guest]]\nname = "web"\nvcpus = 2\n')
    done = run("place", f"pid:{started.pid}", "--spec", str(file))
    assert (1, "") == (done.returncode, done.stdout)
    assert "vcpus: 2 is not what runs, 1 vCPUs" in done.stderr


@needs_qemu
@needs_two_cpus
def test_the_rules_of_the_host_are_kept(qemu: Callable[..., Qemu], state_dir: Path, tmp_path: Path) -> None:
    """A pool of a file outlives the file: plan and apply know it, and so does who is placed later by name."""
    first, last = str(HERE.first), str(HERE.last)
    started = qemu("web,debug-threads=on", vcpus=1)
    before = kernel_masks(started.pid)
    pools, late, own = (tmp_path / name for name in ("pools.toml", "late.toml", "own.toml"))
    pools.write_text(f'[[pool]]\nname = "fast"\ncpus = "{last}"\n[[guest]]\nname = "web"\npool = "fast"\n')
    late.write_text('[[guest]]\nname = "late"\nvcpus = 1\n')
    own.write_text(
        late.read_text() + f'[host]\nreserved = "{first}"\n[[pool]]\nname = "x"\ncpus = "{first}"\n'
    )
    assert answer("apply", "web", "--strategy", "numa", "--spec", str(pools))["ok"]
    bound = kernel_masks(started.pid)
    (guest,) = find_guests(pids=[started.pid])
    assert CpuSet([HERE.last]) == guest.vcpus[0].mask
    assert [] == answer("plan")["changes"]
    done = answer("apply")
    assert (True, 0) == (done["ok"], done["changed"])
    assert bound == kernel_masks(started.pid)
    assert answer("pin", "web", f"0={first}")["ok"]
    assert [guest.vcpus[0].tid] == [change["tid"] for change in answer("plan")["changes"]]
    assert answer("apply")["ok"]
    assert bound == kernel_masks(started.pid)
    words = ["place", "late", "--strategy", "pack", "--spec"]
    cpus = [thread["cpus"] for thread in answer(*words, str(late))["guests"][0]["threads"]]
    assert all(CpuSet.parse(one).isdisjoint(CpuSet([HERE.last])) for one in cpus)
    if 2 == len(HERE):
        (only,) = answer(*words, str(late), "--reserved", first, code=1)["unplaced"]
        assert "late" == only["name"]
        (placed,) = answer(*words, str(own))["guests"]  # who says rules has them
        assert {last} == {thread["cpus"] for thread in placed["threads"]}
    assert answer("apply", "late", *words[2:], str(late))["ok"]
    assert [] == answer("plan")["changes"]
    assert ["fast"] == [
        pool["name"] for pool in json.loads((state_dir / "decided.json").read_text())["rules"]["pools"]
    ]
    while answer("undo", "--list"):
        assert answer("undo")["ok"]
    assert before == kernel_masks(started.pid)


def test_an_affinity_to_nobody(machine: Path, tmp_path: Path) -> None:
    """An affinity to a guest that neither is there nor is to come is said on standard error, and is no rule."""
    file = tmp_path / "near.toml"
    file.write_text(
        f'{SPEC}[[guest]]\nname = "near"\nvcpus = 1\naffinity = [{{ guest = "dbb" }}, {{ guest = "web" }}]\n'
    )
    words = ["place", "--root", str(machine), "--spec", str(file), "--no-explain"]
    done = run(*words, "--json")
    assert 0 == done.returncode
    (said,) = done.stderr.splitlines()
    assert said.endswith(
        'near.toml:14: guest 3 ("near"): affinity: there is no guest "dbb", so that it is no rule; did you mean "db"?'
    )
