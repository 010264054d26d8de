"""``kvmaff simulate``: what strategies accept in the long run."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from itertools import product
from typing import Any

import click
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from kvmaff.cli.common import console, json_errors, json_option, print_json, progress_on, root_option
from kvmaff.cli.values import cpulist, memory, name_and_value
from kvmaff.cpuset import CpuSet
from kvmaff.deciding import DEFAULT_STRATEGY
from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.simulation import simulation_data
from kvmaff.formats.workload import read_workload
from kvmaff.guest.spec import MAX_VCPUS, VcpuPolicy
from kvmaff.hooks.chosen import Chosen
from kvmaff.hooks.decide import find_strategy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host, read_host
from kvmaff.kernel.files import put_path
from kvmaff.placement.compare import Contestant, compare
from kvmaff.placement.outcome import Comparison
from kvmaff.placement.simulate import Terms
from kvmaff.placement.strategy import options_of
from kvmaff.placement.workers import Workers
from kvmaff.placement.workload import Poisson, Workload
from kvmaff.report.simulation import simulation_table
from kvmaff.report.simulationplot import simulation_svg

__all__ = ["simulate"]

_MADE_UP = ("load", "arrivals", "lifetime", "sizes", "per_vcpu")


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    good = all(word.isascii() and word.isdigit() and len(word) < 9 for word in words)
    if not good or not all(1 <= int(word) <= MAX_VCPUS for word in words) or len(words) > 1000:
        raise click.BadParameter(f"{value!r} is no list of vCPUs from 1 to {MAX_VCPUS}, as 1,2,2,4,8")
    return tuple(map(int, words))


def _finite(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number to count with")
    return value


@click.command()
@root_option
@click.option(
    "--strategy", "strategies", multiple=True, metavar="NAME", help="Who decides; several to compare them."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    callback=name_and_value,
    metavar="NAME=VALUE",
    help="An option, for every strategy that has it.",
)
@click.option(
    "--moves",
    multiple=True,
    type=click.IntRange(0, 4096),
    metavar="N",
    help="Running guests that may be moved for one that comes (0); several to compare them.",
)
@click.option("--csv", "file", metavar="FILE", help="Guests as they came: time,id,vcpus,memory,lifetime.")
@click.option(
    "--load",
    type=click.FloatRange(0.01, 100),
    callback=_finite,
    help="vCPUs asked for, of the host's CPUs, on average (0.9).",
)
@click.option("--arrivals", type=click.IntRange(1, 1_000_000), metavar="N", help="Guests that come (2500).")
@click.option(
    "--lifetime",
    type=click.FloatRange(1e-12, 1e12),
    callback=_finite,
    help="How long a guest stays on average (100).",
)
@click.option(
    "--sizes", callback=_sizes, metavar="N,N,…", help="vCPUs of a guest, each as likely as any other."
)
@click.option(
    "--memory", "per_vcpu", callback=memory, metavar="SIZE", help="Memory for each vCPU, as '2 GiB'."
)
@click.option("--shared", is_flag=True, help="vCPUs float; without it each has a CPU of its own.")
@click.option("--spanning", is_flag=True, help="A guest may be on several NUMA nodes; without it, on one.")
@click.option(
    "--reserved", callback=cpulist, default="", metavar="CPULIST", help="CPUs that no guest may use."
)
@click.option("--seed", type=click.IntRange(0, 1 << 32), default=0, metavar="N", help="The first seed (0).")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, metavar="N", help="How many (1).")
@click.option("--jobs", type=click.IntRange(1, 1024), default=1, metavar="N", help="Processes at once (1).")
@click.option("--svg", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it, too.")
@json_option
def simulate(
    root: str,
    strategies: tuple[str, ...],
    options: dict[str, str],
    moves: tuple[int, ...],
    file: str | None,
    reserved: CpuSet,
    seed: int,
    seeds: int,
    jobs: int,
    svg: str | None,
    *,
    shared: bool,
    spanning: bool,
    as_json: bool,
    **made_up: Any,
) -> None:
    """
    Let guests come to this host, or another, and leave it: how many are accepted, and at what price?

    Guests come one by one at random, or as a file says; who has no place is refused for good. All strategies see the
    same guests. Nothing on this machine is changed.

    \b
    Examples:
      kvmaff simulate --strategy numa --strategy pack --seeds 5 --jobs 2
      kvmaff simulate --moves 0 --moves 1 --moves 3 --load 1.1 --svg moves.svg
      kvmaff simulate --root host.tar.xz --csv last-month.csv --json
    """
    said = [name for name in _MADE_UP if made_up[name] is not None]
    if file is not None and seeds > 1:
        raise click.UsageError(
            "--csv says which guests come: no seed changes anything, and --seeds makes no sense"
        )
    if file is not None and said:
        words = ", ".join("--memory" if name == "per_vcpu" else f"--{name}" for name in said)
        raise click.UsageError(f"--csv says which guests come, and so does {words}")
    with json_errors({"seeds": [], "contestants": []}, as_json=as_json):
        contestants = _contestants(
            dict.fromkeys(strategies or (DEFAULT_STRATEGY,)), options, dict.fromkeys(moves or (0,))
        )
        host = read_host(root)
        terms = Terms(
            policy=VcpuPolicy.SHARED if shared else VcpuPolicy.DEDICATED, spanning=spanning, reserved=reserved
        )
        if not terms.cpus(host):
            raise WrongUsage.of([f"--reserved {reserved} leaves no CPU for guests"])
        workload: Workload = read_workload(file) if file is not None else _made_up(host, terms, made_up)
        found = _compared(host, contestants, workload, range(seed, seed + seeds), terms, jobs)
        if svg is not None:
            _draw(svg, found)
    if as_json:
        print_json(simulation_data(found))
    else:
        console().print(simulation_table(found))


def _draw(path: str, found: Comparison) -> None:
    picture = simulation_svg(found)
    try:
        put_path(path, picture, mode=0o644)
    except OSError as error:
        raise RequestError.of([f"{path}: {error.strerror}"]) from error


def _contestants(names: dict[str, None], options: dict[str, str], moves: dict[int, None]) -> list[Contestant]:
    manager = PluginManager.load()
    known: dict[str, set[str]] = {}
    for name in names:
        strategy, _ = find_strategy(manager, name)
        known[name] = {option.name for option in options_of(strategy.options)}
    strange = [option for option in options if not any(option in some for some in known.values())]
    if strange:
        raise WrongUsage.of([f"none of {', '.join(names)} has an option {option!r}" for option in strange])
    return [
        Contestant(
            name=name if not count else f"{name}, {count} move{'' if count == 1 else 's'}",
            decide=Chosen(name, {key: value for key, value in options.items() if key in known[name]}),
            moves=count,
        )
        for name, count in product(names, moves)
    ]


def _made_up(host: Host, terms: Terms, said: dict[str, Any]) -> Poisson:
    names = {"arrivals": "count", "per_vcpu": "memory_per_vcpu"}
    given = {names.get(name, name): value for name, value in said.items() if value is not None}
    return Poisson(cpus=len(terms.cpus(host)), **given)


def _compared(
    host: Host, contestants: list[Contestant], workload: Workload, seeds: range, terms: Terms, jobs: int
) -> Comparison:
    shown = progress_on(
        TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn()
    )
    some = min(jobs, len(contestants) * len(seeds), (os.cpu_count() or 1) * 4)
    with shown, Workers(some) if some > 1 else nullcontext() as executor:
        bar = shown.add_task("", total=1.0)
        return compare(
            host,
            contestants,
            workload,
            seeds,
            terms=terms,
            executor=executor,
            progress=lambda done, total: shown.update(bar, completed=done / total),
        )
