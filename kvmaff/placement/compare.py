"""Several contestants on the same workloads, in this process or in any executor's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue

import attrs

from kvmaff.errors import RequestError
from kvmaff.host.reader import Host
from kvmaff.placement.outcome import Comparison, Outcome
from kvmaff.placement.simulate import Decide, Step, Terms, simulate
from kvmaff.placement.workers import Part, Workers
from kvmaff.placement.workload import Workload

__all__ = ["Contestant", "Progress", "compare"]

Progress = Callable[[float, int], object]
"""Is told how many runs are done, with parts of those at hand, and how many there are."""
_OFTEN = 20  # arrivals from one progress to the next
_LOOK = 0.1  # seconds from one look at how far others are to the next


@attrs.frozen(kw_only=True)
class Contestant:
    """
    Who finds places.

    Attributes:
        name: What it is called, by which it is told from the others.
        decide: What decides; to be sent to other processes it must pickle, as
            :class:`kvmaff.hooks.chosen.Chosen` does.
        moves: How many running guests it may move for one that comes.
    """

    name: str
    decide: Decide
    moves: int = 0


@attrs.frozen(kw_only=True)
class _Run:
    """One contestant on the workload of one seed."""

    host: Host
    contestant: Contestant
    workload: Workload
    seed: int
    terms: Terms

    def __call__(self, progress: Callable[[float], object] | None = None) -> Outcome:
        arrivals = self.workload.arrivals(self.seed)
        watch = None if progress is None else _Watch(len(arrivals), progress)
        return simulate(
            self.host,
            arrivals,
            self.contestant.decide,
            moves=self.contestant.moves,
            terms=self.terms,
            watch=watch,
        )


class _Watch:
    """Counts the arrivals of a run."""

    def __init__(self, total: int, progress: Callable[[float], object]) -> None:
        self._total, self._progress, self._seen = total, progress, 0

    def __call__(self, _step: Step) -> None:
        self._seen += 1
        if self._seen % _OFTEN == 0:
            self._progress(self._seen / self._total)


def compare(
    host: Host,
    contestants: Sequence[Contestant],
    workload: Workload,
    seeds: Iterable[int] = (0,),
    *,
    terms: Terms | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """
    Run each contestant on the same workloads.

    Args:
        host: The host, nobody on it at first.
        contestants: Who finds places; the others are compared with the first.
        workload: Who comes.
        seeds: What chance depends on, a run each.
        terms: What is asked for all guests; None for the defaults.
        executor: Where the runs go, any number of them at once; None for this process, one after the other. What is
            raised ends :class:`kvmaff.placement.workers.Workers` at once; in any other executor what has begun goes on.
        progress: Is told how far it is: here and in Workers also within runs, in any other executor after each.

    Returns:
        All outcomes, in the order of the arguments whatever ends first.

    Raises:
        RequestError: There is no contestant or no seed, or two are alike, or a workload names two guests alike.
        PlacementRefused: An answer breaks a rule; so does everything else that a contestant raises end all runs.
    """
    seeds = tuple(seeds)
    problems = []
    if not contestants or not seeds:
        problems.append("a comparison needs a contestant and a seed")
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    problems += [f"seed {seed} is there twice, which would be taken for two runs" for seed in twice]
    names = Counter(one.name for one in contestants)
    problems += [f"several contestants are called {name!r}" for name in names if names[name] > 1]
    if problems:
        raise RequestError.of(problems)
    given = terms or Terms()
    runs = [
        _Run(host=host, contestant=one, workload=workload, seed=seed, terms=given)
        for one in contestants
        for seed in seeds
    ]
    found = list(_here(runs, progress) if executor is None else _there(runs, executor, progress))
    each = len(seeds)
    return Comparison(
        contestants=tuple(one.name for one in contestants),
        seeds=seeds,
        outcomes=tuple(tuple(found[at : at + each]) for at in range(0, len(found), each)),
    )


def _here(runs: Sequence[_Run], progress: Progress | None) -> Iterator[Outcome]:
    for done, run in enumerate(runs):
        if progress is None:
            yield run()
        else:
            yield run(lambda part, done=done: progress(done + part, len(runs)))  # type: ignore[misc]
            progress(done + 1, len(runs))


def _there(runs: Sequence[_Run], executor: Executor, progress: Progress | None) -> list[Outcome]:
    own = executor if isinstance(executor, Workers) else None
    within = own if progress is not None else None
    futures: list[Future[Outcome]] = []
    ended: SimpleQueue[Future[Outcome]] = SimpleQueue()
    done, before = 0, within.parts if within else 0.0
    try:
        for run in runs:
            futures.append(executor.submit(_told, run) if within else executor.submit(run))
            futures[-1].add_done_callback(ended.put)
        while done < len(runs):
            try:
                future = ended.get(timeout=_LOOK if within else None)
            except Empty:
                pass
            else:
                future.result()  # what one raises need not wait for the others
                done += 1
            if progress is not None:
                progress(min(max(done, within.parts - before if within else 0), len(runs)), len(runs))
    except BaseException:
        if own:
            own.end()  # a run that has begun cannot be cancelled
        else:
            for future in futures:
                future.cancel()
        raise
    return [future.result() for future in futures]


def _told(run: _Run) -> Outcome:
    """Run it in a worker, and tell how far it is."""
    part = Part()
    found = run(part)
    part(1.0)
    return found
