"""
Tests that run in a machine as a whole, fixtures included, and are reported as if they ran here.

One pytest inside runs all those of one machine, since it takes seconds to start; its reports are passed on one by
one as they come.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence

import pytest

from . import reporter
from .environment import CHECKOUT, interpreter
from .errors import LabError, MachineDied
from .job import Job
from .lab import Lab

__all__ = ["Batch"]

_LOOK_SECONDS = 0.1
_START_SECONDS = 120.0  # of pytest and what it imports, on a busy host
_GRACE_SECONDS = 30.0  # until the machine itself has noticed that a test is late, and said so


class Batch:
    """
    A pytest in a machine.

    Args:
        lab: The machine.
        items: The tests, in their order.
    """

    def __init__(self, lab: Lab, items: Sequence[pytest.Item]) -> None:
        self.lab = lab
        config = items[0].config
        self._config = config
        self._path = lab.folder / f"reports-{id(self):x}"
        self._path.touch()
        self._file = self._path.open(encoding="utf-8")
        self._unread = ""
        self._reports: list[pytest.TestReport] = []
        self._left = {item.nodeid for item in items}
        self._job: Job = lab.start(
            *(interpreter(), "-m", "pytest", "-p", "tests.lab.reporter", "-p", "no:randomly"),
            *("-p", "no:cacheprovider", "-q", "--capture", str(config.getoption("capture"))),
            *("--rootdir", str(config.rootpath), *(item.nodeid for item in items)),
            cwd=config.rootpath,
            env={reporter.VARIABLE: str(self._path), "PYTHONPATH": str(CHECKOUT)},
        )
        self._begun = False

    def takes(self, item: pytest.Item) -> bool:
        """Return whether this test's reports come from here: the pytest inside may be far ahead, or at its end."""
        return item.nodeid in self._left or any(report.nodeid == item.nodeid for report in self._reports)

    def reports(self, item: pytest.Item) -> list[pytest.TestReport]:
        """
        Wait for a test's end.

        Args:
            item: The test.

        Returns:
            Its reports.

        Raises:
            LabError: There are none to come; the pytest inside was ended.
        """
        timeout = reporter.limit(item) + _GRACE_SECONDS + (0 if self._begun else _START_SECONDS)
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.lab.alive or self._job.code is not None  # asked before the last look at the file
            self._read()
            if item.nodeid not in self._left:
                break
            if ended or time.monotonic() > deadline:
                why = "the pytest inside ended" if ended else f"no result after {timeout:g} s"
                self._abandon()
                raise LabError(f"{why}; pytest said\n{self._said()}\n--- console\n{self.lab.console()}")
            with contextlib.suppress(MachineDied):  # seen above
                self.lab.pump(lambda: self._job.code is not None, _LOOK_SECONDS)
        self._begun = True
        found = [report for report in self._reports if report.nodeid == item.nodeid]
        self._reports = [report for report in self._reports if report.nodeid != item.nodeid]
        return found

    def end(self) -> None:
        """Wait until the pytest inside has ended; kill it where tests are left that nobody waits for."""
        if not self._left and self.lab.alive:
            with contextlib.suppress(LabError):
                self._job.wait(_GRACE_SECONDS)
        self._abandon()
        self._file.close()

    def _abandon(self) -> None:
        self._left.clear()
        if self.lab.alive:
            with contextlib.suppress(MachineDied):
                self._job.kill()

    def _read(self) -> None:
        self._unread += self._file.read()
        *lines, self._unread = self._unread.split("\n")
        for line in map(json.loads, lines):
            if "finished" in line:
                self._left.discard(line["finished"])
                continue
            hook = self._config.hook
            report = hook.pytest_report_from_serializable(config=self._config, data=line["report"])
            if isinstance(report.longrepr, list):
                report.longrepr = tuple(report.longrepr)  # of a skipped test; JSON knows no tuples
            if report.failed:
                report.sections.append(("console of the machine", self.lab.console()))
            self._reports.append(report)

    def _said(self) -> str:
        said = self._job.result()
        return f"{said.stdout}{said.stderr}".strip() or "nothing"
