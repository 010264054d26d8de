"""
A plug-in of the pytest inside a machine: what it finds is written to a file that the pytest outside reads.

Each line of the file is JSON: ``{"report": …}`` as pytest serialises it, ``{"finished": NODEID}`` after a test's last
one. A test has the time that its mark ``inside`` gives it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Generator

import pytest

VARIABLE = "KVMAFF_LAB_REPORTS"
SECONDS = 60.0


def limit(item: pytest.Item) -> float:
    """Return how many seconds a test may take in the machine."""
    mark = item.get_closest_marker("inside")
    return float(mark.kwargs.get("timeout", SECONDS)) if mark else SECONDS


class Reporter:
    """
    Writes the lines.

    Args:
        config: The running pytest's.
        path: The file.
    """

    def __init__(self, config: pytest.Config, path: str) -> None:
        self._config = config
        self._file = open(path, "a", buffering=1, encoding="utf-8")

    def _write(self, **line: object) -> None:
        self._file.write(json.dumps(line) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._write(report=data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(finished=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        seconds = limit(item)

        def late(*_: object) -> None:
            raise TimeoutError(f"the test took longer than {seconds:g} s")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, for a teardown that hangs as well
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_configure(config: pytest.Config) -> None:
    """Begin, where the pytest outside wants to know."""
    path = os.environ.get(VARIABLE)
    if path:
        config.pluginmanager.register(Reporter(config, path))
