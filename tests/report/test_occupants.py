"""What runs on a CPU -> what a person reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.console import Console, Group
from rich.text import Text

from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Role
from kvmaff.host.irqs import Irq
from kvmaff.host.isolation import Isolation, Kept, KeptFrom
from kvmaff.host.occupants import Occupancy
from kvmaff.host.threads import Thread
from kvmaff.kernel.tasks import PF_KTHREAD, PF_NO_SETAFFINITY
from kvmaff.report.occupants import guest_threads, occupants

from ..host.files import machine
from .test_hostsummary import groups, host, topology
from .test_hosttree import vm

HOST = attrs.evolve(host(topology("0-7", groups("4-5"), groups("0-3", "4-7"))), isolation=Isolation())
NOTHING = Occupancy(
    cpu=5, state="online", kept=(), isolated=False, own=(), bound=(), here=(), movable=(), others=0, irqs=()
)


def thread(tid: int, name: str = "x", mask: str = "0-7", **more: Any) -> Thread:
    """A thread that ran on CPU 5 last."""
    made = Thread(pid=tid, tid=tid, name=name, flags=0, cpu=5, mask=CpuSet.parse(mask))
    return attrs.evolve(made, **more)


def irq(number: int, count: int, goes_to: str) -> Irq:
    """An interrupt that came to CPU 5."""
    return Irq(
        number=number,
        name=f"nic{number}",
        allowed=CpuSet.parse("0-7"),
        effective=CpuSet.parse(goes_to),
        counts={5: count} if count else {},
    )


def lines(
    found: Occupancy, names: dict[int, str] | None = None, why: str | None = None, **how: bool
) -> list[str]:
    """What is shown, without blanks at the ends."""
    out = Console(width=160, color_system=None)
    with out.capture() as captured:
        out.print(occupants(found, HOST, names or {}, why, **how))
    return [line.rstrip() for line in captured.get().splitlines()]


def colours(found: Occupancy) -> dict[str, str]:
    """The style of each line of text."""
    shown = occupants(found, HOST, {}, None)
    assert isinstance(shown, Group)
    return {part.plain: str(part.style) for part in shown.renderables if isinstance(part, Text)}


def test_nothing_runs_there() -> None:
    """A CPU on which nothing runs has a line for each thing that does not."""
    assert [
        "CPU 5; online; core 4-5; package 2 of 2",
        "bound to it, and to nothing else: none",
        "ran here last, may run elsewhere: none",
        "kernel threads that ran here last and may run elsewhere: none",
        "its own kernel threads, as on every CPU: none",
        "0 more threads may run here and ran elsewhere last",
        "interrupts that come here: none",
    ] == lines(NOTHING)
    assert ["CPU 5; offline; core 4-5; package 2 of 2"] == lines(attrs.evolve(NOTHING, state="offline"))


def test_why_a_process_may_not_run_there() -> None:
    """The reason is said where there is one, below who keeps the CPU from what."""
    kept = (Kept(cpus=CpuSet([5]), what=KeptFrom.TICK, by="nohz_full=5"),)
    found = lines(attrs.evolve(NOTHING, kept=kept), why="its mask is 0-3")
    assert ["  kept from the tick by nohz_full=5", "  not for this process: its mask is 0-3"] == found[1:3]
    assert not any("not for this process" in line for line in lines(NOTHING))


def test_many_rows_are_folded_unless_all_are_asked_for() -> None:
    """Threads, interrupts and what is in the way have 24 rows and a count of the rest; --all shows every one."""
    many = tuple(thread(100 + at, f"t{at:02}") for at in range(30))
    found = attrs.evolve(
        NOTHING, isolated=True, here=many, irqs=tuple(irq(at, at + 1, "5") for at in range(30))
    )
    few, every = lines(found), lines(found, everything=True)
    assert ["  ... and 6 more (--all shows them)"] * 2 == [line for line in few if " 6 more" in line]
    assert "  ... and 36 more (--all shows them)" == few[-1]
    assert not any("--all" in line for line in every)
    for at in range(30):
        assert any(f" t{at:02}" in line for line in every)
        assert any(f"nic{at}" in line for line in every)
    assert not any(" t24" in line for line in few)


def test_interrupts_that_come_here_now_stand_first() -> None:
    """One that came often and no longer does hides none that still does; one that never came is only counted."""
    past = tuple(irq(at, 1000 + at, "0") for at in range(30))
    found = attrs.evolve(
        NOTHING, irqs=(*past, irq(90, 2, "5"), irq(91, 7, "4-5"), irq(92, 0, "5"), irq(93, 0, "1"))
    )
    shown = lines(found)
    at = shown.index("interrupts that come here, or did; 1 more may be sent here and never were:")
    rows = [line.split() for line in shown[at + 2 :]]
    assert [["91", "7"], ["90", "2"], ["92", "0"], ["29", "1029"], ["28", "1028"]] == [
        row[:2] for row in rows[:5]
    ]
    assert ["...", "and", "9"] == rows[-1][:3]


def test_interrupts_that_are_not_told() -> None:
    """A machine that does not say which interrupts come is not one where none do."""
    hidden = ("/proc/interrupts cannot be read",)
    found = attrs.evolve(NOTHING, irqs=None, hidden=hidden)
    assert [
        "interrupts that come here: not known",
        "not all may be seen: /proc/interrupts cannot be read",
    ] == lines(found)[-2:]


def test_the_verdict() -> None:
    """Clean is green, not clean red, and what cannot be known yellow with the reasons; no other CPU has one."""
    quiet = attrs.evolve(NOTHING, isolated=True)
    said = "CPU 5 is isolated and clean: nothing runs there but its own and what was bound to it"
    assert "green" == colours(quiet)[said]
    unsure = attrs.evolve(quiet, hidden=("the one", "the other"))
    assert ["CPU 5 is isolated; whether it is clean cannot be known:", "  the one", "  the other"] == lines(
        unsure
    )[-3:]
    assert {"yellow"} == set(list(colours(unsure).values())[-3:])
    dirty = attrs.evolve(unsure, here=(thread(7, "stranger"),))
    shown = lines(dirty)
    assert "CPU 5 is isolated, but not clean:" == shown[-4]
    assert "stranger (7)" in shown[-3]
    assert ["  not all may be seen: the one", "  not all may be seen: the other"] == shown[-2:]
    assert ["red", "red", "yellow", "yellow"] == list(colours(dirty).values())[-4:]
    for other in (NOTHING, attrs.evolve(quiet, state="offline")):
        assert not any("clean" in line for line in lines(other))


def test_what_a_thread_is() -> None:
    """A guest's thread is called so, a kernel's has brackets, and a long command line is cut where that is said."""
    fixed = PF_KTHREAD | PF_NO_SETAFFINITY
    found = attrs.evolve(
        NOTHING,
        own=(thread(2, "cpuhp/5", "5", flags=fixed), thread(3, "migration/5", "5", flags=fixed)),
        bound=(thread(10, "CPU 0/KVM", "5"), thread(11, "worker", "5", pid=9, args="daemon -x")),
        here=(thread(12, "sh", args="a" * 80), thread(13, "[red]", uid=4_000_000_000, ppid=1)),
        movable=(thread(14, "kswapd0", flags=PF_KTHREAD),),
    )
    shown = "\n".join(lines(found, {10: "web vcpu 0"}))
    for words in (
        "guest web vcpu 0 (CPU 0/KVM)",
        "worker: daemon -x",
        "a" * 69 + "...\n",
        "  4000000000   13     1      13  0-7",
        "  [red]\n",
        "[kswapd0]",
        "its own kernel threads, as on every CPU: cpuhp/5, migration/5\n",
    ):
        assert words in shown
    assert "a" * 70 not in shown


def test_only_proven_guests_are_named() -> None:
    """A process that only claims to be a guest gives no thread its name."""
    threads = ((Role.VCPU, 0, "5", 5), (Role.EMULATOR, None, "5", 5))
    assert {7: "web vcpu 0", 8: "web emulator"} == guest_threads([vm("web", *threads)])
    assert {} == guest_threads([vm("web", *threads, verified=False)])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [("topology", "--tree"), ("topology",), ("cpu", "0-7", "--root")])
def test_output_without_unicode(tmp_path: Path, encoding: str, words: tuple[str, ...]) -> None:
    """What is drawn is ASCII where the terminal has no more, and nothing has to be replaced."""
    pages = {f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": str(cpu) for cpu in range(8)}
    root = machine(tmp_path, files={**pages, "kvmaff/threads.json": '{"threads": []}'})
    command = [word for word in words if word != "--root"]
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", *command, "--root", str(root)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    assert done.stdout.isascii()
    assert b"?" not in done.stdout
    if "--tree" in words:
        assert b"\n`- 8 x core of 1 PU" in done.stdout
