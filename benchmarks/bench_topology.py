"""
What reading a machine costs: beside the system calls alone, beside lscpu and lstopo, beside an interpreter that starts.

    python benchmarks/bench_topology.py [--json] [--rounds 15] [--hosts FOLDER]

Machines: the recorded one of the most CPUs (of ../shared/hosts) and a generated one of 2 packages of 96 cores of 2
threads. Both lie on tmpfs. The recorded one is completed with what lscpu and lstopo insist on and kvmaff never reads:
proc/cpuinfo, and cpu/possible where it is missing.

``--json`` prints one line, each figure the worse of the two machines, null where a tool is missing:

* ``python_over_c_floor``: ``read_host(TREE)`` over ``topology_floor.c``, which opens, reads and closes the same files
  in the same order, those that are missing included, and parses nothing. Both in processes that run already, in
  turns; the best of all rounds, as what disturbs only ever adds.
* ``lscpu_over_ours``, ``lstopo_over_ours``: CPU time of the whole process ``lscpu --sysroot TREE -J`` or
  ``lstopo --if fsroot --input TREE --no-io --of xml`` over that of ``python -c "import kvmaff;
  kvmaff.read_host(TREE)"``, less that of the same interpreter with kvmaff imported and nothing read; medians. The
  imports are taken off as the interpreter's start is: they cost the same for every machine, a program pays them once
  however often it reads, and the next figure bounds them. The table has the ratios with the imports, too.
* ``process_ms_over_bare``: CPU milliseconds of ``python -c "import kvmaff; kvmaff.read_host()"`` on this machine over
  ``python -c pass``; medians.

CPU time is that of the process, in user mode and in the kernel: other load on the machine is not in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from _measure import HERE, Floor, compiled, options, timed, work_folder

from kvmaff.host.reader import host_of, read_host
from kvmaff.host.tree import FolderTree
from kvmaff.testing.trees import grid, write_tree

FLOOR = HERE / "topology_floor.c"
HOSTS = Path(__file__).resolve().parents[2] / "shared" / "hosts"
BARE = (sys.executable, "-c", "pass")
IMPORTED = (sys.executable, "-c", "import kvmaff; kvmaff.read_host")
PASSES = 8  # readings in a row, of each kind


class Recorder(FolderTree):
    """A tree that notes what is asked of it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def read(self, path: str, *limit: int) -> bytes | None:
        """Note and read a file."""
        self.asked.append(f"r {path}")
        return super().read(path, *limit)

    def names(self, path: str) -> list[str]:
        """Note and list a folder."""
        self.asked.append(f"d {path}")
        return super().names(path)


def recorded(hosts: Path, folder: Path) -> Path | None:
    """
    Unpack the largest recorded machine, and complete it.

    Args:
        hosts: Where the recorded machines are.
        folder: Where to put it.

    Returns:
        Its root, or None where there are none.
    """
    sizes = {}
    for truth in hosts.glob("*.truth.json"):
        known = json.loads(truth.read_text())
        sizes[known["name"]] = _cpus(known["online"])
    if not sizes:
        print(f"{hosts}: no recorded machines; measuring the generated one alone", file=sys.stderr)
        return None
    name = max(sizes, key=lambda each: (sizes[each], each))
    with tarfile.open(hosts / f"{name}.tar.xz") as archive:
        # Debian 12's own Python has no filters yet
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    root = folder / name
    system = root / "sys/devices/system/cpu"
    if not (system / "possible").exists():
        (system / "possible").write_text((system / "present").read_text())
    cpuinfo = root / "proc/cpuinfo"
    if not cpuinfo.exists():
        cpuinfo.parent.mkdir(exist_ok=True)
        cpus = read_host(root).topology.online
        cpuinfo.write_text("\n".join(f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\n" for cpu in cpus))
    return root


def floor(program: Path, root: Path, rounds: int) -> tuple[list[float], list[float], int]:
    """
    Time our reader and the floor, in turns.

    Args:
        program: The compiled floor.
        root: The machine.
        rounds: How often.

    Returns:
        Milliseconds of each pass of ours, of each of the floor's, and how many files and folders were asked for.
    """
    with Recorder(str(root)) as tree:
        host_of(tree)
    listed = program.with_name("asked")
    listed.write_text("".join(f"{line}\n" for line in tree.asked))
    reading = timed(lambda: read_host(root))
    ours, least = [], []
    with Floor(program, program.parent, root, listed) as process:
        for _ in range(rounds):
            least += [process.ask()[0] / 1e6 for _ in range(PASSES)]
            ours += [reading() / 1e6 for _ in range(PASSES)]
    return ours, least, len(tree.asked)


def processes(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """
    Time whole processes, in turns.

    Args:
        commands: What to run, by name.
        rounds: How often.

    Returns:
        (CPU, wall) milliseconds by name, medians; commands that fail are left out, with a message.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name in list(found):
            start = time.perf_counter()
            process = subprocess.Popen(
                commands[name], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            assert process.stderr
            said = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.stderr.close()
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                print(f"{' '.join(commands[name])}: {process.returncode}: {said.decode()}", file=sys.stderr)
                del found[name]
            elif turn:  # the first fills caches
                found[name].append((1e3 * (used.ru_utime + used.ru_stime), 1e3 * wall))
    return {
        name: (statistics.median(cpu for cpu, _ in times), statistics.median(wall for _, wall in times))
        for name, times in found.items()
    }


def tools(root: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """
    Find the tools that read a machine, too.

    Args:
        root: The machine.

    Returns:
        (name, command) of those that are installed; of the others standard error is told.
    """
    lstopo = ("--if", "fsroot", "--input", str(root), "--no-io", "--of", "xml")
    for name, programs, words in (
        ("lscpu", ("lscpu",), ("--sysroot", str(root), "-J")),
        ("lstopo", ("lstopo-no-graphics", "lstopo"), lstopo),
    ):
        program = next(filter(None, map(shutil.which, programs)), None)
        if program:
            yield name, (program, *words)
        else:
            print(f"{name} is not installed (Debian: util-linux, hwloc): not compared", file=sys.stderr)


def measure(
    program: Path, name: str, root: Path, rounds: int, say: Callable[[str], None]
) -> dict[str, float]:
    """
    Measure one machine.

    Args:
        program: The compiled floor.
        name: What to call the machine.
        root: Its files.
        rounds: How often each is timed.
        say: What shows a line of the table.

    Returns:
        The figures of ``--json`` but the last.
    """
    ours, least, asked = floor(program, root, rounds)
    say(f"\n{name}: {len(read_host(root).topology.online)} CPUs, {asked} files and folders asked for")
    for title, times in (("kvmaff.read_host", ours), ("floor in C", least)):
        say(f"  {title:<34}{min(times):9.2f} ms best {statistics.median(times):9.2f} ms median")
    ratios = {"python_over_c_floor": min(ours) / min(least)}
    say(
        f"  python_over_c_floor               {ratios['python_over_c_floor']:9.2f}"
        f"         {statistics.median(ours) / statistics.median(least):9.2f} of the medians"
    )
    reading = f"import kvmaff; kvmaff.read_host({str(root)!r})"
    others = dict(tools(root))
    commands = {"bare": BARE, "imported": IMPORTED, "ours": (sys.executable, "-c", reading), **others}
    spent = processes(commands, rounds)
    for title, (cpu, wall) in spent.items():
        say(f"  process {title:<26}{cpu:9.2f} ms CPU  {wall:9.2f} ms wall")
    for other in spent.keys() & others.keys():
        for taken_off in ("imported", "bare"):
            cpu, wall = (
                theirs / max(own - start, 1e-3)
                for theirs, own, start in zip(spent[other], spent["ours"], spent[taken_off], strict=True)
            )
            say(f"  {other}_over_ours, less {taken_off:<12}{cpu:9.2f}         {wall:9.2f} of the walls")
            ratios.setdefault(f"{other}_over_ours", cpu)
    return ratios


def _cpus(text: str) -> int:
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(pair[-1]) - int(pair[0]) + 1 for pair in ends)


def main() -> None:
    """Measure, and print the table or the line of JSON."""
    parser = options("What reading a machine costs.", rounds=15)
    parser.add_argument("--hosts", type=Path, default=HOSTS, help="the folder of recorded machines")
    asked = parser.parse_args()

    def say(line: str) -> None:
        if not asked.json:
            print(line, flush=True)

    found: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(work_folder())
        program = compiled(FLOOR, work)
        root = recorded(asked.hosts, work)
        if root:
            found.append(measure(program, root.name, root, asked.rounds, say))
        root = work / "generated"
        write_tree(root, grid(packages=2, cores=96, threads=2, nodes=2, l3s=12))
        found.append(measure(program, "generated 2 x 96 x 2", root, asked.rounds, say))
        here = processes(
            {"bare": BARE, "ours": (sys.executable, "-c", "import kvmaff; kvmaff.read_host()")},
            2 * asked.rounds,
        )
    over = here["ours"][0] - here["bare"][0]
    say(
        f"\nthis machine\n  process_ms_over_bare              {over:9.2f} ms CPU  (bare {here['bare'][0]:.2f})"
    )

    def worst(name: str, judge: Callable[[list[float]], float]) -> float | None:
        values = [each[name] for each in found if name in each]
        return round(judge(values), 2) if len(values) == len(found) else None

    if asked.json:
        print(
            json.dumps(
                {
                    "python_over_c_floor": worst("python_over_c_floor", max),
                    "lscpu_over_ours": worst("lscpu_over_ours", min),
                    "lstopo_over_ours": worst("lstopo_over_ours", min),
                    "process_ms_over_bare": round(over, 1),
                }
            )
        )


if __name__ == "__main__":
    main()
