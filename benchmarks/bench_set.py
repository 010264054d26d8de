"""
What binding ten thousand threads costs: beside the system calls alone, a Python loop, psutil and taskset.

    python benchmarks/bench_set.py [--json] [--rounds 9] [--floor PROG]

The threads are those of ``fakehost.c``, 200 processes of 50; no other thread is touched. Everything is timed in turns
in one run, medians: psutil and taskset once a round, the rest six times, all on one CPU. Each pass binds every thread
to one CPU, and to another one than the pass before, so that every set changes a mask.

``--floor`` names another program to compare with than ``set_floor.c``, or its source, which is compiled. It is started
once, with the arguments CPU_A CPU_B PID…. For each letter on its standard input it makes one pass over all threads of
these processes and prints a line: the nanoseconds that took and the number of threads that now have that mask, both
decimal. The letters: ``a`` binds to CPU_A and ``b`` to CPU_B, in four steps: get the mask, set it, prove that the
number still names the thread that it named when the program began, read the mask back; ``A`` and ``B`` only set it.
It ends at the end of its input.

``--json`` prints one line. What is null has its reason under ``missing``:

* ``set_over_floor``: ``bind(proc, Batch.of_tasks(tasks, want))`` and how many threads that did, over the four steps;
  ``bind_over_floor``: the same with the batch made before the clock runs.
* ``set_over_raw``: the first over ``sched_setaffinity`` alone.
* ``python_over_ours``: ``os.sched_setaffinity`` in a loop, which proves nothing and reads nothing back, over ours.
* ``psutil_over_ours``: ``psutil.Process(tid).cpu_affinity([cpu])`` over ours.
* ``taskset_over_ours``: ``taskset -pc CPU TID`` spawned for each thread of a sample, over ours.
* ``us_per_thread``: microseconds for each thread, by what was timed; ``threads``: how many those are.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import statistics
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

from kvmaff.cpuset import CpuSet
from kvmaff.kernel.masks import Batch, bind
from kvmaff.kernel.scan import Proc, Scanner
from kvmaff.kernel.tasks import Tasks

TURNS = 6
SAMPLE = 200
"""Threads that taskset is run for, twice a round."""


class Passes:
    """
    Passes that bind the threads to two CPUs by turns.

    Args:
        cpus: The CPUs.
        tasks: The threads.
        proc: Descriptor of /proc.
        floor: The floor.
    """

    def __init__(self, cpus: tuple[int, int], tasks: Tasks, proc: int, floor: Floor) -> None:
        self._tasks = tasks
        self._tids = tasks.tids()
        self._proc = proc
        self._floor = floor
        self._want = {cpu: [CpuSet([cpu])] * len(tasks) for cpu in cpus}
        self._letters = dict(zip(cpus, ("aA", "bB"), strict=True))
        self._next = itertools.cycle(cpus)

    def floor(self) -> int:
        """
        Let the floor go the four steps.

        Returns:
            Nanoseconds.
        """
        return self._ask(0)

    def raw(self) -> int:
        """
        Let the floor only set.

        Returns:
            Nanoseconds.
        """
        return self._ask(1)

    def ours(self) -> int:
        """
        Bind them all by kvmaff.

        Returns:
            Nanoseconds.
        """
        want = self._want[next(self._next)]
        return timed(lambda: self._bind(Batch.of_tasks(self._tasks, want)))()

    def ours_prepared(self) -> int:
        """
        Bind them all by kvmaff, from a batch that is there already.

        Returns:
            Nanoseconds.
        """
        batch = Batch.of_tasks(self._tasks, self._want[next(self._next)])
        return timed(lambda: self._bind(batch))()

    def python(self) -> int:
        """
        Bind them all in a loop.

        Returns:
            Nanoseconds.
        """
        cpus = [next(self._next)]

        def loop() -> None:
            for tid in self._tids:
                os.sched_setaffinity(tid, cpus)

        return timed(loop)()

    def psutil(self, psutil: Any) -> int:
        """
        Bind them all by psutil.

        Args:
            psutil: The module.

        Returns:
            Nanoseconds.
        """
        cpus = [next(self._next)]

        def loop() -> None:
            for tid in self._tids:
                psutil.Process(tid).cpu_affinity(cpus)

        return timed(loop)()

    def taskset(self, program: str) -> int:
        """
        Bind a sample by taskset, there and back again, so that all threads still have one mask.

        Args:
            program: Its path.

        Returns:
            Nanoseconds that all of them would have taken.
        """
        sample = self._tids[:: max(len(self._tids) // SAMPLE, 1)]
        cpus = [next(self._next), next(self._next)]

        def loop() -> None:
            for cpu, tid in itertools.product(cpus, sample):
                run_quietly(program, "-pc", cpu, tid)

        return timed(loop)() * len(self._tids) // (len(cpus) * len(sample))

    def _bind(self, batch: Batch) -> int:
        done = bind(self._proc, batch, seen=self._tasks.seen).done
        if done != len(self._tids):
            raise RuntimeError(f"kvmaff bound {done} of {len(self._tids)} threads")
        return done

    def _ask(self, kind: int) -> int:
        letter = self._letters[next(self._next)][kind]
        took, done = self._floor.ask(letter)
        if done != len(self._tids):
            raise RuntimeError(f"the floor bound {done} of {len(self._tids)} threads")
        return took


def peers(passes: Passes, missing: dict[str, str]) -> Iterator[tuple[str, Job]]:
    """
    Find what others have for the purpose.

    Args:
        passes: The passes.
        missing: What is not there is written here, with the reason.

    Yields:
        (name, job) of each that is installed.
    """
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        missing["psutil"] = "not installed (pip install 'kvmaff[bench]')"
    else:
        yield "psutil", lambda: passes.psutil(psutil)
    taskset = shutil.which("taskset")
    if taskset:
        yield "taskset", lambda: passes.taskset(taskset)
    else:
        missing["taskset"] = "not installed (Debian: util-linux)"


def measure(asked: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Measure everything.

    Args:
        asked: The command line.
        say: What shows a line of the table.

    Returns:
        What ``--json`` prints.

    Raises:
        RuntimeError: There is only one CPU to bind to.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise RuntimeError("with one CPU no set changes a mask")
    cpus = usable[0], usable[1]
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        with work_folder() as work:
            pids = stack.enter_context(fakehost(work, others=0))
            with on_cpus(one_cpu()):
                floor = stack.enter_context(Floor(asked.floor, work, *cpus, *pids))
        proc = stack.enter_context(Proc())
        tasks = Scanner(proc, masks=False).scan(pids)
        if len(tasks) != VMMS * THREADS:
            raise RuntimeError(f"{len(tasks)} threads of {VMMS} fake VMMs")
        passes = Passes(cpus, tasks, proc.fd, floor)
        passes.python()  # until now they had another mask than either
        jobs = {
            "floor": passes.floor,
            "ours": passes.ours,
            "ours_prepared": passes.ours_prepared,
            "raw": passes.raw,
            "python": passes.python,
        }
        found = in_turns(jobs, dict(peers(passes, missing)), asked.rounds, TURNS)
    each = {name: statistics.median(times) / len(tasks) / 1e3 for name, times in found.items()}
    say(f"{len(tasks)} threads of {VMMS} processes, CPU {cpus[0]} and CPU {cpus[1]} by turns")
    for name, microseconds in each.items():
        best = min(found[name]) / len(tasks) / 1e3
        say(f"  {name:<26}{microseconds:9.3f} us a thread {best:9.3f} best")
    return {
        "set_over_floor": over(found, "ours", "floor"),
        "bind_over_floor": over(found, "ours_prepared", "floor"),
        "set_over_raw": over(found, "ours", "raw"),
        "python_over_ours": over(found, "python", "ours"),
        "psutil_over_ours": over(found, "psutil", "ours"),
        "taskset_over_ours": over(found, "taskset", "ours"),
        "us_per_thread": rounded(each),
        "threads": len(tasks),
        "missing": missing,
    }


def main() -> None:
    """Measure, and print the table or the line of JSON."""
    parser = options("What binding ten thousand threads costs.", rounds=9)
    parser.add_argument("--floor", type=Path, default=HERE / "set_floor.c", help="compare with this program")
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
