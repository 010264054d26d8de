"""
What placing one guest costs, whether its place is the best there is, and how long Nova takes for the same.

    python benchmarks/bench_place.py [--json] [--rounds 1000] [--instances 1000] [--nova-venv build/nova-venv]

Everything is made from seeds, so that two runs ask the same questions; all figures of a run are from that run.

``--json`` prints one line. What is null has its reason under ``missing``:

* ``single_engine_us`` and ``single_api_us``: microseconds for a guest of eight dedicated vCPUs on a host of 256 CPUs
  in 8 nodes, and of 1,024 in 16, 70 % full; medians over ``--rounds`` hosts and guests. Each is asked about once. The
  hosts differ: in who is where, but also in their own values (CPU numbers, L3 groups, distances, memory), and each is
  made anew, so that nothing can be remembered from call to call, neither by identity nor by value; fifty are made, then
  each is asked about. The guests differ in thread policy, threads, cells, memory and devices. Making host and request
  is reading, and not timed.
  ``single_engine_us`` is the compiled search, integers in and integers out: whatever the module ``fit`` calls of it
  is timed where it is called, in a pass of its own; all calls until the place is found count (a guest that prefers
  siblings may ask twice). ``single_api_us`` is ``PluginManager.decide(request, "numa")``, which verifies; loading the
  plug-ins is not in it, the garbage collector's work is. Guests without a place, of which there are few, count in the
  second only.
* ``vs_cpsat``: random guests on ragged hosts of up to 256 CPUs, ``instances`` of them, placed by numa, pack and
  isolated in turn; ``equal``: for how many the levels of the answer's score are those that its PUs really cost and
  those that CP-SAT proves to be the least, or that both say that there is no place (``place_cpsat.py``).
* ``nova_over_ours``: ``nova.virt.hardware.numa_fit_instance_to_host`` over our engine, ratios of medians, the same
  hosts and guests in turns. Nova runs in a virtual environment of its own (``--nova-venv``, made if it is not there,
  which takes a minute; kept) and makes its own values of them with the clock stopped. ``fit8``: 8 dedicated vCPUs in
  a cell, ``fit32_8cells``: 32 in 8 cells, on 256 CPUs in 8 nodes, 70 % full. ``refusal``: 6 cells of 4 on 12 nodes, 5
  of which have room for one each: 89 % full, and nearly all permutations of nodes to be gone through.
* ``nova_differs``: what Nova says otherwise than we, of so many ``asked``: ``refused`` what fits, ``accepted`` with
  vCPUs left without CPUs of their own, ``found`` a place where we have none. They are those above, and besides guests
  with unequal cells that do not fit, and guests with more cells than nodes have room for, several of which fit in a
  node.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from types import ModuleType, TracebackType
from typing import Any, Self

from _measure import HERE, on_cpus, one_cpu, options, rounded
from place_hosts import for_nova, ragged, single
from place_nova import Nova, as_nova_has_it, environment

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible
from kvmaff.guest.guest import Role
from kvmaff.guest.spec import EmulatorPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.placement import _fit, fit
from kvmaff.placement.placement import GuestPlacement, Placement
from kvmaff.placement.request import PlacementRequest

HOSTS = {"256": (256, 8), "1024": (1024, 16)}
"""CPUs and nodes."""
STRATEGIES = ("numa", "pack", "isolated")
FITS = 200
"""Hosts and guests for each ratio to Nova; where it refuses, it takes more than a second each."""
REFUSALS = 9
ODD = 20
AT_ONCE = 50
"""So many hosts are made before the first is timed: making one empties the processor's caches."""
TURN = 20
"""So many by Nova, then the same by us: a process that is woken for each finds cold caches."""
WARM_UP = 10
SAID = {
    "refused": "refused, though they fit",
    "accepted": "accepted, and vCPUs left without CPUs of their own",
    "found": "found a place where we have none",
}
TARGETS = {
    "single_engine_us": {"1024": 10.0},
    "single_api_us": {"1024": 200.0},
    "nova_over_ours": {"fit8": 50.0, "fit32_8cells": 50.0, "refusal": 1000.0},
}


class EngineClock:
    """
    Times each call that the module ``fit`` makes to the compiled search, whatever it calls; a context manager.

    What is timed are functions: the search's own, wherever that module has them.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name, value in list(vars(fit).items()):
            if value is _fit or (callable(value) and getattr(value, "__module__", None) == _fit.__name__):
                self._before[name] = value
                setattr(fit, name, self._module() if value is _fit else self._timed(value))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            setattr(fit, name, value)

    def _module(self) -> ModuleType:
        """Return a module that is the search's but for its functions."""
        timed = ModuleType(_fit.__name__)
        for name, value in vars(_fit).items():
            plain = callable(value) and not isinstance(value, type)
            setattr(timed, name, self._timed(value) if plain else value)
        return timed

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        clock, note = time.perf_counter_ns, self.calls.append

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> object:
            start = clock()
            found = function(*arguments, **named)
            took = clock() - start
            note((took, found is not None))
            return found

        return timed

    def decide(self, manager: PluginManager, request: PlacementRequest) -> tuple[int, bool]:
        """
        Place a guest.

        Args:
            manager: Whom to ask.
            request: The guest.

        Returns:
            Nanoseconds in the search until it found a place, or until it first said that there is none; and whether
            there is one.

        Raises:
            RuntimeError: The search was not asked, as far as can be seen from here.
        """
        self.calls.clear()
        fits = decided(manager, request) is not None
        if not self.calls:
            raise RuntimeError("the module fit called no function of the compiled search")
        if not fits:
            return self.calls[0][0], False
        upto = next((at for at, (_, found) in enumerate(self.calls) if found), 0)
        return sum(took for took, _ in self.calls[: upto + 1]), True


def decided(manager: PluginManager, request: PlacementRequest, strategy: str = "numa") -> Placement | None:
    """
    Place a guest.

    Args:
        manager: Whom to ask.
        request: The guest.
        strategy: By which strategy.

    Returns:
        The placement, or None where there is none.
    """
    try:
        return manager.decide(request, strategy)
    except PlacementImpossible:
        return None


def measure_single(manager: PluginManager, cpus: int, nodes: int, rounds: int) -> dict[str, Any]:
    """
    Time one guest on one host, again and again.

    Args:
        manager: Whom to ask.
        cpus: How many CPUs the hosts have.
        nodes: How many nodes.
        rounds: How many hosts.

    Returns:
        Microseconds by what was timed, lists; and ``refused``, how many guests had no place.
    """
    engine, api, refused = [], [], 0
    for first in range(0, rounds, AT_ONCE):
        seeds = range(first, min(first + AT_ONCE, rounds))
        for request in [single(Random(seed), cpus, nodes) for seed in seeds]:
            start = time.perf_counter_ns()
            placement = decided(manager, request)
            api.append((time.perf_counter_ns() - start) / 1e3)
            refused += placement is None
        requests = [single(Random(rounds + seed), cpus, nodes) for seed in seeds]
        with EngineClock() as clock:
            for request in requests:
                took, fits = clock.decide(manager, request)
                if fits:
                    engine.append(took / 1e3)
    return {"engine": engine, "api": api, "refused": refused}


@functools.cache
def _manager() -> PluginManager:
    """Load the plug-ins, once a process."""
    return PluginManager.load()


def compare(seed: int) -> tuple[int, str, bool, str]:
    """
    Ask both about one instance.

    Args:
        seed: Its number.

    Returns:
        That number, the strategy, whether they agree, and in what.
    """
    from place_cpsat import LEVELS, NotProvedError, Question, least  # noqa: PLC0415 - loading it takes a second

    strategy = STRATEGIES[seed % len(STRATEGIES)]
    request = ragged(Random(seed), own_cpus=strategy != "isolated")
    placement = decided(_manager(), request, strategy)
    question = Question(request, strategy)
    try:
        best = least(question)
    except NotProvedError:
        return seed, strategy, False, "not proved in time"
    if placement is None:
        return seed, strategy, best is None, f"refused, CP-SAT has {best}" if best else "refused"
    (guest,) = placement.guests
    said = tuple(getattr(guest.score, level) for level in LEVELS)
    real = question.levels(guest.vcpu_cpus | own_pus(guest))
    nodes = f"{len(guest.nodes)} node{'' if len(guest.nodes) == 1 else 's'}"
    if said == real == best:
        return seed, strategy, True, nodes
    return seed, strategy, False, f"score {said}, costs {real}, CP-SAT has {best}"


def own_pus(guest: GuestPlacement) -> CpuSet:
    """
    Take the PUs that a guest's emulator has for itself.

    Args:
        guest: Its place.

    Returns:
        The PUs, none under other emulator policies.
    """
    alone = guest.spec.emulator_policy is EmulatorPolicy.ISOLATE
    return (guest.cpus_of(Role.EMULATOR) or CpuSet()) if alone else CpuSet()


def measure_cpsat(instances: int, say: Callable[[str], None]) -> dict[str, int]:
    """
    Compare with the solver, on all CPUs.

    Args:
        instances: How many questions.
        say: What shows a line.

    Returns:
        How many, and how many equal.
    """
    # processes that start from nothing: the solver has threads, which a fork loses
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        found = list(pool.map(compare, range(instances), chunksize=10))
    equal = sum(same for _, _, same, _ in found)
    kinds = Counter(what for _, _, same, what in found if same)
    told = ", ".join(f"{count} {what}" for what, count in kinds.most_common())
    say(f"CP-SAT: {equal} of {instances} equal ({told}) in {time.perf_counter() - start:.0f} s")
    for seed, strategy, same, what in found:
        if not same:
            say(f"  NOT EQUAL: ragged(Random({seed})) by {strategy}: {what}")
    return {"instances": instances, "equal": equal}


def nova_questions() -> Iterator[tuple[str, PlacementRequest]]:
    """
    Make what Nova is asked as well.

    Yields:
        The kind, and the question.
    """
    for seed in range(FITS):
        random = Random(seed)
        yield "fit8", for_nova(random, [random.randint(6, 13) for _ in range(8)], [8])
        yield "fit32_8cells", for_nova(random, [random.randint(6, 13) for _ in range(8)], [4] * 8)
    for seed in range(REFUSALS):
        random = Random(seed)
        free = [random.randint(4, 7) for _ in range(5)] + [random.randint(2, 3) for _ in range(7)]
        random.shuffle(free)
        yield "refusal", for_nova(random, free, [4] * 6)
    for seed in range(ODD):
        random = Random(seed)
        yield "unequal cells", for_nova(random, [3] * 8, [2, 2, 2, 2, 4])
        yield "cells together", for_nova(random, [16, 16, 16, 2, 2, 2, 2, 2], [4] * 4)


def measure_nova(
    manager: PluginManager, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, int]]:
    """
    Compare with Nova, on one CPU.

    Args:
        manager: Whom to ask for ours.
        folder: Its virtual environment.
        say: What shows a line.

    Returns:
        The ratios, and how often it says something else.

    Raises:
        RuntimeError: It cannot be had, or ended.
    """
    python = environment(folder)
    ours: dict[str, list[int]] = {}
    theirs: dict[str, list[int]] = {}
    differs = {"asked": 0, "refused": 0, "accepted": 0, "found": 0}
    kinds: Counter[tuple[str, str]] = Counter()
    questions = list(nova_questions())
    with on_cpus(one_cpu()), Nova(python) as nova:
        for _, request in questions[:WARM_UP]:
            nova.ask(as_nova_has_it(request))
            decided(manager, request)
        for at in range(0, len(questions), TURN):
            some = questions[at : at + TURN]
            answers = [nova.ask(as_nova_has_it(request)) for _, request in some]
            for (kind, request), answer in zip(some, answers, strict=True):
                with EngineClock() as clock:
                    took, fits = clock.decide(manager, request)
                theirs.setdefault(kind, []).append(answer["ns"])
                ours.setdefault(kind, []).append(took)
                differs["asked"] += 1
                how = ""
                if answer["fits"] and not answer["whole"]:
                    how = "accepted"
                elif answer["fits"] != fits:
                    how = "refused" if fits else "found"
                if how:
                    differs[how] += 1
                    kinds[kind, how] += 1
    ratios = {}
    for kind in TARGETS["nova_over_ours"]:
        nova_us, our_us = (statistics.median(some[kind]) / 1e3 for some in (theirs, ours))
        ratios[kind] = nova_us / our_us
        say(
            f"Nova, {kind:<16}{nova_us:14.1f} us, ours {our_us:8.2f} us in the engine ({len(ours[kind])} each)"
        )
    for (kind, how), count in kinds.items():
        say(f"  Nova, {kind}: {count} of {len(ours[kind])} {SAID[how]}")
    return ratios, dict(differs)


def measure(asked: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Measure everything.

    Args:
        asked: The command line.
        say: What shows a line.

    Returns:
        What ``--json`` prints.
    """
    manager = _manager()
    missing: dict[str, str] = {}
    figures: dict[str, Any] = {"single_engine_us": {}, "single_api_us": {}}
    for name, (cpus, nodes) in HOSTS.items():
        times = measure_single(manager, cpus, nodes, asked.rounds)
        say(
            f"{cpus} CPUs, {nodes} nodes, {asked.rounds} hosts and guests, {times['refused']} without a place"
        )
        for what in ("engine", "api"):
            figures[f"single_{what}_us"][name] = statistics.median(times[what])
            cuts = statistics.quantiles(times[what], n=100)
            say(f"  {what:<8}{cuts[49]:10.2f} us, 90 % {cuts[89]:10.2f}, 99 % {cuts[98]:10.2f}")
    try:
        ratios, differs = measure_nova(manager, asked.nova_venv, say)
        figures |= {"nova_over_ours": ratios, "nova_differs": differs}
    except (RuntimeError, OSError) as error:
        missing["nova"] = str(error)
        figures |= {"nova_over_ours": dict.fromkeys(TARGETS["nova_over_ours"]), "nova_differs": None}
    try:
        figures["vs_cpsat"] = measure_cpsat(asked.instances, say)
    except ImportError:
        missing["ortools"] = "not installed (pip install 'kvmaff[test]')"
        figures["vs_cpsat"] = None
    return {**figures, "missing": missing}


def main() -> None:
    """Measure, and print lines or the line of JSON."""
    parser = options("What placing one guest costs, and whether its place is the best.", rounds=1000)
    parser.add_argument("--instances", type=int, default=1000, help="how many to ask CP-SAT about (1000)")
    parser.add_argument(
        "--nova-venv",
        type=Path,
        default=HERE.parent / "build" / "nova-venv",
        help="virtual environment that has Nova or shall get it (build/nova-venv)",
    )
    asked = parser.parse_args()

    def say(line: str) -> None:
        if not asked.json:
            print(line, flush=True)

    figures = measure(asked, say)
    for name, targets in TARGETS.items():
        for part, target in targets.items():
            value = figures[name][part]
            if value is not None:
                most = name.endswith("_us")
                met = value <= target if most else value >= target
                words = f"{'at most' if most else 'at least'} {target:g}, {'met' if met else 'NOT MET'}"
                say(f"{name + ', ' + part:<32}{value:14.2f}   ({words})")
    for name, why in figures["missing"].items():
        say(f"{name}: {why}")
    if asked.json:
        parts = {
            name: rounded(value) if isinstance(value, dict) else value for name, value in figures.items()
        }
        print(json.dumps(parts))


if __name__ == "__main__":
    main()
