"""What the benchmarks share: compiled programs, floors that are asked for passes, jobs timed in turns, options."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent

Job = Callable[[], int]
"""Does something once and returns the nanoseconds that took."""


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """
    Make a private folder, on tmpfs where that may be written to and executed from.

    Yields:
        The folder, which is removed in the end.
    """
    memory = "/dev/shm"
    usable = os.access(memory, os.W_OK) and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    with tempfile.TemporaryDirectory(dir=memory if usable else None, prefix="kvmaff-bench-") as folder:
        yield Path(folder)


def compiled(source: Path, folder: Path) -> Path:
    """
    Compile a program of one file with the system's compiler.

    Args:
        source: The file, in C.
        folder: Where to put the program.

    Returns:
        The program.
    """
    program = folder / source.stem
    subprocess.run(["cc", "-O2", "-std=gnu11", source, "-o", program, "-pthread"], check=True)
    return program


class Floor:
    """
    A C program that does what is measured with the least it takes; a context manager.

    For each byte on its standard input it makes one pass and prints a line of numbers, of which the first is the
    nanoseconds that the pass took: its start is in none of them. It ends at the end of its input.

    Args:
        program: The program; a file that ends in ``.c`` is compiled first.
        folder: Where to put it then.
        arguments: Its arguments.
    """

    def __init__(self, program: Path, folder: Path, *arguments: object) -> None:
        if program.suffix == ".c":
            program = compiled(program, folder)
        self._process = subprocess.Popen(
            [program.resolve(), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()

    def ask(self, letter: str = ".") -> list[int]:
        """
        Have one pass made.

        Args:
            letter: What to do; what letters there are is the program's.

        Returns:
            The numbers of its line.

        Raises:
            RuntimeError: It ended or said something else.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(letter.encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline().split()
        if not line or not all(word.isdigit() for word in line):
            raise RuntimeError(f"{self._process.args!r} answers {line!r}")
        return [int(word) for word in line]


@contextlib.contextmanager
def on_cpus(cpus: Collection[int]) -> Iterator[None]:
    """
    Stay on these CPUs, with every thread and process that is started meanwhile.

    Args:
        cpus: The CPUs.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_cpu() -> set[int]:
    """
    Choose a CPU for what is compared: a floor that is woken on another one each time finds cold caches.

    Returns:
        The last one, as the first has most of the interrupts.
    """
    return {max(os.sched_getaffinity(0))}


def timed(work: Callable[[], object]) -> Job:
    """
    Make a job of a function.

    Args:
        work: What to do; what it returns is thrown away with the clock stopped.

    Returns:
        The job.
    """

    def job() -> int:
        start = time.perf_counter_ns()
        kept = work()
        took = time.perf_counter_ns() - start
        del kept
        return took

    return job


def in_turns(
    jobs: Mapping[str, Job], free: Mapping[str, Job], rounds: int, turns: int
) -> dict[str, list[int]]:
    """
    Time jobs in turns, so that what disturbs disturbs them all.

    Each time another one begins: what runs after something that leaves cold caches is not always the same.

    Args:
        jobs: What to time on one CPU, by name.
        free: What to time on any, once a round.
        rounds: How many rounds.
        turns: How many turns a round.

    Returns:
        Nanoseconds by name. Of the first round, which fills caches, there are none.
    """
    found: dict[str, list[int]] = {name: [] for name in (*jobs, *free)}
    for number in range((rounds + 1) * turns):
        times = {}
        start = number % len(jobs)
        with on_cpus(one_cpu()):
            for name in (*list(jobs)[start:], *list(jobs)[:start]):
                times[name] = jobs[name]()
        if number % turns == turns - 1:
            times.update((name, job()) for name, job in free.items())
        if number >= turns:
            for name, took in times.items():
                found[name].append(took)
    return found


def over(found: Mapping[str, Sequence[int]], one: str, other: str) -> float | None:
    """
    Return what one job takes in terms of another, of the medians; None where either was not measured.

    Args:
        found: What was measured.
        one: The job.
        other: The measure.

    Returns:
        The ratio.
    """
    if not found.get(one) or not found.get(other):
        return None
    return statistics.median(found[one]) / statistics.median(found[other])


def run_quietly(program: str, *words: object) -> None:
    """
    Run a program to its end, its output thrown away, for as little of our own time as can be.

    Args:
        program: Its path.
        words: Its arguments.

    Raises:
        RuntimeError: It failed.
    """
    null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(program, [program, *map(str, words)], os.environ, file_actions=[null])
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise RuntimeError(f"{program} {' '.join(map(str, words))}: {status}")


def options(what: str, rounds: int) -> argparse.ArgumentParser:
    """
    Return the command line that all benchmarks have.

    Args:
        what: What is measured.
        rounds: How often, by default.

    Returns:
        The parser, to which more may be added.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is timed ({rounds})")
    return parser


def rounded(figures: Mapping[str, Any], digits: int = 3) -> dict[str, Any]:
    """
    Round the figures for JSON.

    Args:
        figures: By name; what is no float stays as it is.
        digits: How many behind the point.

    Returns:
        The same names.
    """
    return {
        name: round(value, digits) if isinstance(value, float) else value for name, value in figures.items()
    }
