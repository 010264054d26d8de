"""Workers tell how far they are, and are gone when what they are for has ended, whatever ended it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from kvmaff.errors import RequestError
from kvmaff.hooks.chosen import Chosen
from kvmaff.placement.compare import Contestant, compare
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.workers import Workers
from kvmaff.placement.workload import Arrival, Poisson, Recorded

from .test_simulate import HOST


def spoil(request: PlacementRequest) -> None:
    """Decide nothing, and say so."""
    raise RequestError.of(["spoilt"])


def alive(pid: int) -> bool:
    """Whether a process is there and not only its number."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within some seconds."""
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def test_progress_within_a_run() -> None:
    """Of a run in another process it is told how far it is, never less than before, and its end; so of the next."""
    contestants = [Contestant(name="numa", decide=Chosen("numa"))]
    workload = Poisson(cpus=32, count=800)
    with Workers(1) as workers:
        for seed in range(2):
            told: list[float] = []
            found = compare(
                HOST,
                contestants,
                workload,
                [seed],
                executor=workers,
                progress=lambda done, total, told=told: told.append(done / total),  # type: ignore[misc]
            )
            assert found == compare(HOST, contestants, workload, [seed])
            assert told == sorted(told)
            assert 1 == told[-1]
            assert any(0 < part < 1 for part in told)


def test_what_a_run_raises_ends_all() -> None:
    """Who decides wrongly is told at once; a worker that would need minutes for its run is ended."""
    contestants = [
        Contestant(name="long", decide=Chosen("numa")),
        Contestant(name="wrong", decide=spoil),  # type: ignore[arg-type]
    ]
    begun = time.monotonic()
    with Workers(2) as workers, pytest.raises(RequestError, match="spoilt"):
        compare(HOST, contestants, Poisson(cpus=32, count=60_000), executor=workers)
    assert [] == multiprocessing.active_children()
    assert time.monotonic() - begun < 30
    with pytest.raises((BrokenProcessPool, RuntimeError)):
        workers.submit(int)


def test_the_block_is_left_by_an_error() -> None:
    """Whatever is raised beside the runs ends the workers, and nobody who waits for them waits for ever."""
    begun = time.monotonic()
    futures: list[Future[None]] = []

    def left() -> None:
        with Workers(2) as workers:
            futures.extend(workers.submit(time.sleep, 120) for _ in range(5))
            raise LookupError

    with pytest.raises(LookupError):
        left()
    assert [] == multiprocessing.active_children()
    assert time.monotonic() - begun < 30
    assert [BrokenProcessPool] * 5 == [type(future.exception(timeout=0)) for future in futures]


def test_who_does_not_listen_is_killed() -> None:
    """A plug-in that ignores SIGTERM does not keep its worker."""
    with Workers(1) as workers:
        workers.submit(signal.signal, signal.SIGTERM, signal.SIG_IGN).result()
        pid = workers.submit(os.getpid).result()
        workers.submit(time.sleep, 120)
        workers.end()
        assert not alive(pid)


def test_an_interrupt_is_not_theirs() -> None:
    """A worker that gets SIGINT goes on, and what it starts has SIGINT unblocked as usual."""
    with Workers(1) as workers:
        pid = workers.submit(os.getpid).result()
        os.kill(pid, signal.SIGINT)
        assert pid == workers.submit(os.getpid).result()
        assert set() == workers.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_they_follow_their_parent() -> None:
    """Where the parent is killed, which can do nothing about it, its workers end as well."""
    words = (
        "import os, time\nfrom kvmaff.placement.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    workers = Workers(1)\n    print(workers.submit(os.getpid).result(), flush=True)\n"
        "    workers.submit(time.sleep, 120)\n    time.sleep(120)\n"
    )
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    assert gone(pid)


def test_in_the_order_of_arguments() -> None:
    """Whoever ends first, outcomes are where they belong."""
    guests = [(Arrival(time=0, name="a", vcpus=size, lifetime=1),) for size in (40, 4)]
    one = Contestant(name="numa", decide=Chosen("numa"))
    other = Contestant(name="numa, 1 move", decide=Chosen("numa"), moves=1)
    with Workers(2) as workers:
        for some, accepted in zip(guests, (0, 1), strict=True):
            found = compare(HOST, [one, other], Recorded(guests=some), executor=workers)
            assert [(accepted,)] * 2 == [
                tuple(run.accepted for run in outcomes) for outcomes in found.outcomes
            ]
