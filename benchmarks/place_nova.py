"""Nova beside kvmaff for ``bench_place.py``: its virtual environment, and the process in it that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from _measure import HERE

from kvmaff.cpuset import CpuSet
from kvmaff.placement.request import PlacementRequest

VERSION = "34.0.0"


def environment(folder: Path) -> Path:
    """
    Make a virtual environment with Nova in it, if there is none yet.

    Args:
        folder: Where.

    Returns:
        Its Python.

    Raises:
        RuntimeError: Nova cannot be installed; says why.
    """
    python = folder / "bin" / "python"
    found = f"import importlib.metadata as m; raise SystemExit(m.version('nova') != {VERSION!r})"
    if (
        not python.exists()
        or subprocess.run([python, "-c", found], capture_output=True, check=False).returncode
    ):
        for words in (
            [sys.executable, "-m", "venv", folder],
            [python, "-m", "pip", "install", "--quiet", f"nova=={VERSION}"],
        ):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
                raise RuntimeError(f"{' '.join(map(str, words))}: {last[0]}")
    return python


class Nova:
    """
    The process that answers for Nova; a context manager.

    Args:
        python: The Python that has Nova.
    """

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, HERE / "nova_side.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """
        Let Nova answer.

        Args:
            question: As ``nova_side.py`` reads it.

        Returns:
            As that prints it.

        Raises:
            RuntimeError: It ended.
        """
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            last = self._process.stderr.read().strip().splitlines()[-1:] or ["no answer"]
            raise RuntimeError(f"nova_side.py: {last[0]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def as_nova_has_it(request: PlacementRequest) -> dict[str, Any]:
    """
    Write down a question for Nova.

    Args:
        request: The question; all that is held is dedicated.

    Returns:
        The same as ``nova_side.py`` reads it.
    """
    topology = request.host.topology
    taken = CpuSet.union_of(held.cpus for held in request.held)
    (demand,) = request.demands
    return {
        "cells": [
            {
                "cpus": list(node.cpus),
                "socket": next(at for at, cpus in enumerate(topology.packages) if node.cpus <= cpus),
                "siblings": [list(core) for core in topology.cores if core <= node.cpus],
                "pinned": list(node.cpus & taken),
            }
            for node in topology.nodes
        ],
        "guest": [len(cell.vcpus) for cell in demand.spec.cells],
    }
