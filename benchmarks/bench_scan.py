"""
What looking at ten thousand threads costs: beside the system calls alone, a tight Python loop, psutil, ps and taskset.

    python benchmarks/bench_scan.py [--json] [--rounds 9] [--floor PROG]

The threads are those of ``fakehost.c``: 200 processes of 50, among 500 others; all of them sleep. Everything is timed
in turns in one run, medians: psutil, ps and taskset once a round, the rest three times and, but for the look by two
threads, on one CPU.

``--floor`` names another program to compare with than ``scan_floor.c``, or its source, which is compiled. It is started
once, with the argument ``--descriptors`` if kvmaff looks through descriptors on this machine (see below). For each byte
on its standard input it makes one scan and prints a line: the nanoseconds that took and the number of threads found,
both decimal. It ends at the end of its input.

A scan: list /proc, tell VMMs by their executable, and read the name and the CPU mask of each of their threads. Ours
hands tids and names over to Python as lists, masks packed. Where neither debugfs nor the absence of any VM tells which
other processes hold a KVM VM, all their descriptors are gone through: then by the floor and the Python loop, too.

``--json`` prints one line. What is null has its reason under ``missing``:

* ``full_over_floor``: a new ``Discovery`` and its first look, over the floor; ``full_stat_over_floor``: the same with
  start times, flags and states; ``find_guests_over_floor``: ``find_guests()``, with a value for every thread;
  ``find_again_over_floor``: ``Discovery.find()`` where nothing has changed since it last did.
* ``incremental_over_floor``: a later look, which reads names of new threads only but every mask.
* ``threads2_over_full``: a first look by two threads over one by one; ``threads2_cpus``: how many CPUs those two had,
  in the median. Where that is about 1 something else keeps the others busy, and the ratio says nothing.
* ``python_over_ours``, ``psutil_over_ours_full``, ``psutil_over_ours_incremental``, ``ps_over_ours_full``,
  ``taskset_over_ours_full``: the others over ours. psutil gives names and masks, ``ps -eLo pid,lwp,psr,comm`` no masks,
  ``taskset -ap PID`` for each process no names.
* ``rows_ns``: nanoseconds for each thread until tids and names are lists; ``value_ns``: until it is a ``Task``.
* ``syscalls_per_thread_full``: system calls of a process that looks once, less those of one that does not, as strace
  counts them, for each thread.
* ``wake_ms_median``: how long ``time.sleep(0.001)`` takes in a Python thread while another one looks.
* ``us_per_thread``: microseconds for each thread found, by what was timed; ``threads``: how many those are.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _measure import (
    HERE,
    Floor,
    Job,
    in_turns,
    on_cpus,
    one_cpu,
    options,
    over,
    rounded,
    run_quietly,
    timed,
    work_folder,
)
from fakehost import THREADS, VMMS, fakehost

from kvmaff.guest.discover import Discovery, find_guests
from kvmaff.kernel.tasks import Tasks

VMM = "qemu-system-"
VM = "anon_inode:kvm-vm"
TURNS = 3
WAKE_SECONDS = 2.0
LOOKING = "from kvmaff.guest.discover import Discovery\nwith Discovery() as discovery:\n    "


def handed_over(tasks: Tasks) -> tuple[list[int], list[bytes]]:
    """
    Take all there is of threads as plain lists.

    Args:
        tasks: The threads.

    Returns:
        Their numbers and names.
    """
    return tasks.tids(), tasks.names()


def first_look(**how: Any) -> object:
    """
    Look at everything for the first time.

    Args:
        how: What :class:`Discovery` is to do otherwise than by default.

    Returns:
        All that was made for that.
    """
    with Discovery(**how) as discovery:
        look = discovery.look()
        return look, handed_over(look.tasks)


def python_loop(descriptors: bool) -> list[tuple[int, bytes, set[int]]]:
    """
    Do the same with the standard library, as fast as it goes.

    Args:
        descriptors: Look for a KVM VM among the descriptors of other processes.

    Returns:
        (tid, name, mask) of each thread.
    """
    found = []
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    for pid in os.listdir(proc):
        if not pid.isdigit():
            continue
        try:
            exe = os.readlink(f"{pid}/exe", dir_fd=proc)
            vmm = exe[exe.rfind("/") + 1 :].startswith(VMM)
            if not vmm and not (descriptors and _holds_vm(proc, pid)):
                continue
            task = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
        except OSError:
            continue  # a kernel thread, or gone
        for tid in os.listdir(task):
            try:
                comm = os.open(f"{tid}/comm", os.O_RDONLY, dir_fd=task)
                found.append((int(tid), os.read(comm, 64), os.sched_getaffinity(int(tid))))
                os.close(comm)
            except OSError:
                continue  # ended
        os.close(task)
    os.close(proc)
    return found


def _holds_vm(proc: int, pid: str) -> bool:
    folder = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return any(os.readlink(name, dir_fd=folder) == VM for name in os.listdir(folder))
    finally:
        os.close(folder)


def psutil_loop(psutil: Any) -> list[tuple[int, str, list[int]]]:
    """
    Do the same with psutil.

    Args:
        psutil: The module.

    Returns:
        (tid, name, mask) of each thread.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if os.path.basename(process.exe()).startswith(VMM):
                for item in process.threads():
                    thread = psutil.Process(item.id)
                    found.append((item.id, thread.name(), thread.cpu_affinity()))
    return found


def taskset_each(taskset: str, pids: list[int]) -> None:
    """
    Have taskset print the masks of each process's threads.

    Args:
        taskset: Its path.
        pids: The processes.
    """
    for pid in pids:
        run_quietly(taskset, "-ap", pid)


def peers(pids: list[int], missing: dict[str, str]) -> Iterator[tuple[str, Job]]:
    """
    Find what others have for the purpose.

    Args:
        pids: The fake VMMs.
        missing: What is not there is written here, with the reason.

    Yields:
        (name, job) of each that is installed.
    """
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        missing["psutil"] = "not installed (pip install 'kvmaff[bench]')"
    else:
        yield "psutil", timed(lambda: psutil_loop(psutil))
    ps, taskset = shutil.which("ps"), shutil.which("taskset")
    if ps:
        yield "ps", timed(lambda: run_quietly(ps, "-eLo", "pid,lwp,psr,comm"))
    else:
        missing["ps"] = "not installed (Debian: procps)"
    if taskset:
        yield "taskset", timed(lambda: taskset_each(taskset, pids))
    else:
        missing["taskset"] = "not installed (Debian: util-linux)"


def wake_ms() -> float:
    """
    Have a thread sleep while another one looks.

    Returns:
        Milliseconds that a sleep of one takes, median.
    """
    slept: list[int] = []
    ended = threading.Event()

    def sleeper() -> None:
        sleep = timed(lambda: time.sleep(0.001))
        while not ended.is_set():
            slept.append(sleep())

    thread = threading.Thread(target=sleeper)
    thread.start()
    try:
        end = time.monotonic() + WAKE_SECONDS
        while time.monotonic() < end:
            first_look()
    finally:
        ended.set()
        thread.join()
    return statistics.median(slept) / 1e6


def syscalls(missing: dict[str, str]) -> float | None:
    """
    Count the system calls of a look.

    Args:
        missing: Where they cannot be counted the reason is written here.

    Returns:
        Calls for each thread, or None.
    """
    strace = shutil.which("strace")
    if not strace:
        missing["syscalls_per_thread_full"] = "strace is not installed"
        return None
    calls, threads = {}, 0
    for what in ("print(0)", "print(len(discovery.look().tasks))"):
        with tempfile.NamedTemporaryFile("r") as counted:
            command = [strace, "-f", "-qq", "-c", "-o", counted.name, sys.executable, "-c", LOOKING + what]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            # "% time  seconds  usecs/call  calls  [errors]  syscall", between two lines of dashes
            table = itertools.islice(counted.readlines(), 2, None)
        if run.returncode:
            missing["syscalls_per_thread_full"] = f"strace: {run.stderr.strip().splitlines()[-1:]}"
            return None
        threads = int(run.stdout)
        rows = itertools.takewhile(lambda line: not line.startswith("-"), table)
        calls[what] = sum(int(line.split()[3]) for line in rows)
    without, looking = calls.values()
    return (looking - without) / threads


def measure(asked: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Measure everything.

    Args:
        asked: The command line.
        say: What shows a line of the table.

    Returns:
        What ``--json`` prints.
    """
    missing: dict[str, str] = {}
    had: list[float] = []
    with contextlib.ExitStack() as stack:
        again = stack.enter_context(Discovery())
        finding = stack.enter_context(Discovery(stats=True))
        with work_folder() as work:
            pids = stack.enter_context(fakehost(work))
            look = again.look()
            holders = again.holders
            descriptors = holders == "descriptors"
            with on_cpus(one_cpu()):
                words = ["--descriptors"] if descriptors else []
                floor = stack.enter_context(Floor(asked.floor, work, *words))
        threads, least = len(look.tasks), floor.ask()[1]
        if min(threads, least) < VMMS * THREADS or abs(threads - least) > threads / 100:
            raise RuntimeError(
                f"kvmaff finds {threads} threads, the floor {least}: that is not the same work"
            )

        def incremental() -> object:
            look = again.look()
            return look, handed_over(look.tasks)

        def by_two() -> int:
            with on_cpus(usable):
                used = time.process_time_ns()
                took = timed(lambda: first_look(threads=2))()
                had.append((time.process_time_ns() - used) / took)
                return took

        jobs: dict[str, Job] = {
            "floor": lambda: floor.ask()[0],
            "full": timed(first_look),
            "incremental": timed(incremental),
            "full_stat": timed(lambda: first_look(stats=True)),
            "find_guests": timed(find_guests),
            "find_again": timed(finding.find),
            "python": timed(lambda: python_loop(descriptors)),
            "rows": timed(lambda: handed_over(look.tasks)),
            "values": timed(lambda: list(look.tasks)),
        }
        usable = os.sched_getaffinity(0)
        if len(usable) > 1:
            jobs["threads2"] = by_two
        else:
            missing["threads2_over_full"] = "there is one CPU"
        found = in_turns(jobs, dict(peers(pids, missing)), asked.rounds, TURNS)
        if again.holders != holders:
            print(f"VMs were told by {holders} at first, then by {again.holders}", file=sys.stderr)
        wake = wake_ms()
        calls = syscalls(missing)
    each = {name: statistics.median(times) / threads / 1e3 for name, times in found.items()}
    say(f"{threads} threads of {len(look.evidence)} processes; KVM VMs told by: {holders}")
    for name, microseconds in each.items():
        best = min(found[name]) / threads / 1e3
        say(f"  {name:<26}{microseconds:9.3f} us a thread {best:9.3f} best")
    return {
        "full_over_floor": over(found, "full", "floor"),
        "full_stat_over_floor": over(found, "full_stat", "floor"),
        "find_guests_over_floor": over(found, "find_guests", "floor"),
        "find_again_over_floor": over(found, "find_again", "floor"),
        "incremental_over_floor": over(found, "incremental", "floor"),
        "threads2_over_full": over(found, "threads2", "full"),
        "threads2_cpus": statistics.median(had) if had else None,
        "python_over_ours": over(found, "python", "full"),
        "psutil_over_ours_incremental": over(found, "psutil", "incremental"),
        "psutil_over_ours_full": over(found, "psutil", "full"),
        "ps_over_ours_full": over(found, "ps", "full"),
        "taskset_over_ours_full": over(found, "taskset", "full"),
        "rows_ns": 1e3 * each["rows"],
        "value_ns": 1e3 * each["values"],
        "syscalls_per_thread_full": calls,
        "wake_ms_median": wake,
        "us_per_thread": rounded(each),
        "threads": threads,
        "vms_told_by": holders,
        "missing": missing,
    }


def main() -> None:
    """Measure, and print the table or the line of JSON."""
    parser = options("What looking at ten thousand threads costs.", rounds=9)
    parser.add_argument("--floor", type=Path, default=HERE / "scan_floor.c", help="compare with this program")
    asked = parser.parse_args()

    def say(line: str) -> None:
        if not asked.json:
            print(line, flush=True)

    figures = measure(asked, say)
    for name, figure in figures.items():
        if isinstance(figure, float):
            say(f"{name:<32}{figure:9.3f}")
    for name, why in figures["missing"].items():
        say(f"{name}: {why}")
    if asked.json:
        print(json.dumps(rounded(figures)))


if __name__ == "__main__":
    main()
