"""
The lab for tests.

* ``@pytest.mark.lab(machine)`` with the fixture ``lab``: the test runs here and says what runs in the machine.
* ``@pytest.mark.inside(machine, timeout=60)``: the whole test runs in the machine, with its fixtures.
* The fixture ``bootable``: the test boots machines of its own, one at a time.

Such tests come last and machine by machine, so that each is booted once and one at a time. Where no machine can be
booted they skip with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from .batch import Batch
from .errors import LabError, LabUnavailable
from .lab import Lab
from .machine import Machine
from .yard import Yard

_INSIDE = "KVMAFF_LAB" in os.environ  # this is the pytest in the machine: such tests are like any other
_YARD = pytest.StashKey[Yard]()
_BATCH = pytest.StashKey[Batch]()


def _machine(item: pytest.Item) -> Machine | None:
    mark = item.get_closest_marker("inside") or item.get_closest_marker("lab")
    return mark.args[0] if mark else None


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marks, and keep a place for the machine."""
    config.addinivalue_line("markers", "lab(machine): drives a machine of the lab, by the fixture lab")
    config.addinivalue_line("markers", "inside(machine, timeout=60): runs in a machine of the lab")
    config.stash[_YARD] = Yard()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of each machine together; those that drive it before those that run inside."""
    if _INSIDE:
        return
    order: dict[Machine | None, int] = {None: -1}

    def key(item: pytest.Item) -> tuple[int, bool]:
        machine = _machine(item)
        return order.setdefault(machine, len(order)), item.get_closest_marker("inside") is not None

    items.sort(key=key)


def _end_batch(config: pytest.Config) -> None:
    batch = config.stash.get(_BATCH, None)
    if batch:
        batch.end()
        del config.stash[_BATCH]


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    """The running machine of the test's mark."""
    machine = _machine(request.node)
    assert machine is not None, "this test has no mark lab"
    return _booted(request.config, machine)


@pytest.fixture(scope="session")
def bootable(pytestconfig: pytest.Config) -> None:
    """For tests that boot a machine themselves: skip where that cannot be. They come before those of the mark lab."""
    try:
        pytestconfig.stash[_YARD].needs(Machine())
    except LabUnavailable as error:
        pytest.skip(f"no lab: {error}")


def _booted(config: pytest.Config, machine: Machine) -> Lab:
    try:
        return config.stash[_YARD].lab(machine)
    except LabUnavailable as error:
        raise pytest.skip.Exception(f"no lab: {error}", _use_item_location=True) from None
    except LabError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test in its machine, where its mark says so."""
    if _INSIDE or not item.get_closest_marker("inside"):
        _end_batch(item.config)
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # what a test before it in its module left set up for it, the one after it may not need
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _reports(item: pytest.Item) -> list[pytest.TestReport]:
    found: list[pytest.TestReport] = []

    def run() -> None:
        batch = item.config.stash.get(_BATCH, None)
        if batch is None or not batch.takes(item):
            _end_batch(item.config)
            machine = _machine(item)
            assert machine is not None
            lab = _booted(item.config, machine)
            rest = item.session.items[item.session.items.index(item) :]
            mine = [one for one in rest if one.get_closest_marker("inside") and _machine(one) == machine]
            batch = item.config.stash[_BATCH] = Batch(lab, mine)
        try:
            found.extend(batch.reports(item))
        except LabError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    call = pytest.CallInfo.from_call(run, when="call", reraise=KeyboardInterrupt)
    return found or [item.ihook.pytest_runtest_makereport(item=item, call=call)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the console's end beside what failed."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("console of the machine", lab.console()))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the machine that still runs, also after Ctrl-C."""
    session.config.stash[_YARD].close()
