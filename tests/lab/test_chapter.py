"""
The case of the chapter, on a kernel booted with isolcpus=4,5: a guest with two CPUs that nobody else's load reaches.

Everything that kvmaff says is compared with what ps, taskset and the kernel say.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvmaff
from kvmaff.binding.report import Report
from kvmaff.formats.specs import parse_specs
from kvmaff.guest.guest import Guest, Role
from kvmaff.host.isolation import Kept, KeptFrom

from ..conftest import kernel_masks
from . import tiny
from .guests import running
from .machine import Machine

MACHINE = Machine.parse("4x4", append="isolcpus=4,5")
TWO = kvmaff.CpuSet.parse("4,5")
HOUSEKEEPING = kvmaff.CpuSet.parse("0-3,6-15")

pytestmark = pytest.mark.inside(MACHINE, timeout=180)

Start = Callable[..., Guest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start guests; all end with the test."""
    with contextlib.ExitStack() as stack:

        def one(rom: bytes, name: str, **rest: Any) -> Guest:
            stack.enter_context(running(rom, tmp_path, name, **rest))
            return _guest(name)

        yield one


def _guest(name: str) -> Guest:
    (found,) = [guest for guest in kvmaff.guests(kvmaff.read_host()) if guest.name == name]
    return found


def _command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


def _json(*words: str) -> Any:
    return json.loads(_command("kvmaff", *words, "--json"))


def _make_clean() -> None:
    """Do what kvmaff says about each thing that is not clean: threads of the NUMA node, interrupts."""
    deadline = time.monotonic() + 60
    while dirt := [line for one in kvmaff.on_cpus(kvmaff.read_host(), TWO) for line in one.dirt]:
        assert time.monotonic() < deadline, dirt
        for line in dirt:
            if found := re.search(r": taskset -pc CPULIST (\d+)$", line):
                _command("taskset", "-pc", str(HOUSEKEEPING), found[1])
            elif found := re.search(r": write other CPUs to (/proc/irq/\d+/smp_affinity_list) ", line):
                Path(found[1]).write_text(str(HOUSEKEEPING))
            else:
                raise AssertionError(line)


def _masks(guest: Guest) -> dict[str, str]:
    """Masks by what the threads call themselves, as the kernel has them."""
    return {
        Path(f"/proc/{guest.pid}/task/{tid}/comm").read_text().strip(): str(kvmaff.CpuSet(mask))
        for tid, mask in kernel_masks(guest.pid).items()
    }


def _ps() -> dict[int, int]:
    """The CPU on which each thread of the machine ran last, by the chapter's command."""
    lines = _command("ps", "-eLo", "ruser,pid,ppid,lwp,psr,args").splitlines()[1:]
    return {int(lwp): int(psr) for _, _, _, lwp, psr, _ in (line.split(None, 5) for line in lines)}


def _taskset(pid: int) -> dict[int, str]:
    """The CPUs on which each thread may run, by the chapter's command."""
    found = re.findall(r"pid (\d+)'s current affinity list: (\S+)", _command("taskset", "-apc", str(pid)))
    return {int(tid): str(kvmaff.CpuSet.parse(cpus)) for tid, cpus in found}  # taskset writes a pair as "6,7"


def _agree(guest: Guest, report: Report | None = None) -> None:
    """What kvmaff reads, read back and shows is what taskset and the kernel say."""
    read = {thread.tid: str(thread.mask) for thread in _guest(guest.name).threads}
    assert _taskset(guest.pid) == read
    assert {tid: str(kvmaff.CpuSet(mask)) for tid, mask in kernel_masks(guest.pid).items()} == read
    if report:
        assert {thread.tid: str(thread.after) for thread in report.threads}.items() <= read.items()


def _settled(guest: Guest) -> dict[int, int]:
    """Wait until the vCPUs, which wake twenty times a second, have run where they are to run; say where that is."""
    deadline = time.monotonic() + 30
    masks = {thread.tid: thread.mask for thread in _guest(guest.name).vcpus}
    while True:
        found = {tid: cpu for tid, cpu in _ps().items() if tid in masks}
        if all(cpu in masks[tid] for tid, cpu in found.items()):
            return found
        assert time.monotonic() < deadline, found


def _bound(cpu: int) -> tuple[list[int], bool]:
    (one,) = kvmaff.on_cpus(kvmaff.read_host(), kvmaff.CpuSet([cpu]))
    return [thread.tid for thread in one.bound], one.clean


def test_1_two_cpus_are_isolated() -> None:
    """Step 1: the command line asks, the kernel shows, and kvmaff says the same; 4 and 5 are one core."""
    assert "isolcpus=4,5" in Path("/proc/cmdline").read_text().split()
    assert "4-5\n" == Path("/sys/devices/system/cpu/isolated").read_text()
    host = kvmaff.read_host()
    assert (Kept(cpus=TWO, what=KeptFrom.BALANCING, by="isolcpus=4,5"),) == host.isolation.kept
    assert () == host.isolation.doubts
    assert TWO == host.isolated
    assert TWO in host.topology.cores
    assert HOUSEKEEPING == kvmaff.CpuSet(os.sched_getaffinity(0))  # what everything starts with


def test_2_only_its_own_kernel_threads() -> None:
    """Step 1: on CPU 5 there are only the kernel's threads for that CPU, once the node's are told to stay away."""
    _make_clean()
    (found,) = _json("cpu", "5")["cpus"]
    assert ([], [], []) == (found["bound"], found["here"], found["movable"])
    assert (True, True, []) == (found["isolated"], found["clean"], found["dirt"])
    names = [thread["name"] for thread in found["own"]]
    assert {"cpuhp/5", "migration/5", "ksoftirqd/5", "kworker/5:0H"} <= {name.split("-")[0] for name in names}
    # a workqueue's rescuer is bound to the CPU whose work it does while it does it (wq's worker_attach_to_pool)
    own = r"(cpuhp|migration|ksoftirqd|kworker)/5\b|mm_percpu_wq$|kworker/R-"
    assert [] == [name for name in names if not re.match(own, name)]
    assert "isolcpus=4,5" in found["isolation"][0]["by"]
    assert "its mask is 0-3,6-15" in found["why_not"]


def test_3_isolated(start: Start, state_dir: Path) -> None:
    """Step 2: apply --strategy isolated gives each vCPU one of the two CPUs, and all else the others; undo restores."""
    guest = start(tiny.TICK, "iaas")
    for tid in kernel_masks(guest.pid):
        os.sched_setaffinity(tid, range(16))  # as libvirt starts it: QEMU alone keeps off isolated CPUs
    before = kernel_masks(guest.pid)
    report = _json("apply", "--strategy", "isolated")
    assert (True, len(before)) == (report["ok"], report["changed"])
    masks = _masks(guest)
    assert ("4", "5") == (masks.pop("CPU 0/TCG"), masks.pop("CPU 1/TCG"))
    assert {"IO disk0", "qemu-system-x86"} <= masks.keys()
    assert all(kvmaff.CpuSet.parse(mask) <= HOUSEKEEPING for mask in masks.values()), masks
    assert _taskset(guest.pid) == {thread["tid"]: thread["after"] for thread in report["threads"]}
    _agree(guest)
    assert [4, 5] == [_settled(guest)[thread.tid] for thread in guest.vcpus]
    _make_clean()
    found = _json("cpu", "4,5")["cpus"]
    assert [["iaas vcpu 0"], ["iaas vcpu 1"]] == [[one["guest"] for one in cpu["bound"]] for cpu in found]
    assert [(True, [], [])] * 2 == [(cpu["clean"], cpu["here"], cpu["movable"]) for cpu in found]
    _json("undo")
    assert before == kernel_masks(guest.pid)
    _agree(guest)


def test_4_as_the_chapter_does_it(start: Start, state_dir: Path) -> None:
    """Step 2 in the chapter's own form: QEMU and vCPU 0 on CPU 4, vCPU 1 on CPU 5; undo restores."""
    guest = start(tiny.TICK, "iaas")
    before = kernel_masks(guest.pid)
    assert _json("pin", "iaas", "emulator=4", "0=4", "1=5")["ok"]
    wanted = {thread.tid: "4" for thread in (*guest.vcpus[:1], *guest.by_role(Role.EMULATOR))}
    wanted[guest.vcpus[1].tid] = "5"
    assert guest.pid in wanted
    (disk,) = guest.by_role(Role.IOTHREAD)  # nobody named it
    assert {**wanted, disk.tid: str(HOUSEKEEPING)} == _taskset(guest.pid)
    _agree(guest)
    _settled(guest)
    _make_clean()
    assert (sorted(tid for tid, cpu in wanted.items() if cpu == "4"), True) == _bound(4)
    assert ([guest.vcpus[1].tid], True) == _bound(5)
    kvmaff.undo()
    assert before == kernel_masks(guest.pid)


@pytest.mark.parametrize("strategy", ["numa", "pack", "spread"])
def test_5_nobody_else_is_placed_there(strategy: str) -> None:
    """No other strategy gives away the two CPUs, whatever a guest asks for and however full the machine is."""
    host = kvmaff.read_host()

    def place(vcpus: int, rest: str) -> kvmaff.CpuSet:
        text = f'[[guest]]\nname = "other"\nvcpus = {vcpus}\n{rest}'
        placed = kvmaff.place(host, (), strategy, specs=parse_specs(text, "other.toml"))
        return kvmaff.CpuSet.union_of(thread.cpus for guest in placed.guests for thread in guest.threads)

    assert place(1, "") <= HOUSEKEEPING
    assert place(14, "") == HOUSEKEEPING
    assert place(13, 'policy = "dedicated"\nemulator = "isolate"\n') == HOUSEKEEPING
    for vcpus, rest in ((15, ""), (14, 'emulator = "isolate"\n')):
        with pytest.raises(kvmaff.PlacementImpossible):
            place(vcpus, f'policy = "dedicated"\n{rest}')


def test_5_whatever_others_do(start: Start, state_dir: Path) -> None:
    """Guests that spin, wherever they were put or not put, never run on the two CPUs; the one guest always does."""
    guests = {}
    for name, vcpus in (("loud", 1), ("placed", 1), ("iaas", 2)):
        guests[name] = start(tiny.SPIN, name, vcpus=vcpus)
        os.kill(guests[name].pid, signal.SIGSTOP)  # until all is prepared, which spinning would make slow
    loud, placed, guest = guests.values()
    host = kvmaff.read_host()
    report = kvmaff.plan(host, kvmaff.place(host, [guest], "isolated", others=[loud, placed])).apply()
    _agree(guest, report)
    spread = kvmaff.place(host, [placed], "spread", others=[_guest("iaas"), loud])
    _agree(placed, kvmaff.plan(host, spread).apply())
    seen: dict[str, set[tuple[str, int]]] = {name: set() for name in guests}
    psr = []
    begun = _times(guest)
    with _going(guests.values()):
        for _ in range(2):
            psr.append(_ps())
            for one in guests.values():
                seen[one.name] |= _where(one)
        spent = [
            (ran - then[0], waited - then[1])
            for (ran, waited), then in zip(_times(guest), begun, strict=True)
        ]
    assert [[4, 5]] * 2 == [[one[thread.tid] for thread in guest.vcpus] for one in psr]
    assert {("CPU 0/TCG", 4), ("CPU 1/TCG", 5)} == {one for one in seen["iaas"] if one[1] in TWO}
    others = {thread.tid for one in (loud, placed) for thread in one.threads}
    assert set() == set(TWO) & {cpu for one in psr for tid, cpu in one.items() if tid in others}
    assert set() == set(TWO) & {cpu for name in ("loud", "placed") for _, cpu in seen[name]}
    assert all(ran > 1e9 and waited < ran / 50 for ran, waited in spent), spent
    for _ in range(2):
        kvmaff.undo()
    for one in guests.values():
        assert {frozenset(HOUSEKEEPING)} == set(kernel_masks(one.pid).values())


@contextlib.contextmanager
def _going(guests: Iterable[Guest]) -> Iterator[None]:
    """Let guests go on, and stop them again."""
    for guest in guests:
        os.kill(guest.pid, signal.SIGCONT)
    yield
    for guest in guests:
        os.kill(guest.pid, signal.SIGSTOP)


def _where(guest: Guest) -> set[tuple[str, int]]:
    """Where each thread of a guest is now."""
    found = set()
    for task in Path(f"/proc/{guest.pid}/task").iterdir():
        name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        found.add((name, int(rest.split()[36])))
    return found


def _times(guest: Guest) -> list[tuple[int, int]]:
    """Nanoseconds that each vCPU ran, and that it waited for a CPU."""
    files = [Path(f"/proc/{guest.pid}/task/{thread.tid}/schedstat") for thread in guest.vcpus]
    return [(int(ran), int(waited)) for ran, waited, _ in (file.read_text().split() for file in files)]
