"""Helpers that several tests share, and a test that they work."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.guest.vmm import Vmm
from kvmaff.hooks.specs import hookimpl


class PinnedHere:
    """A plug-in of a test: contributes VMMs, and hears of what was applied."""

    def __init__(self, *vmms: Vmm, applied: Callable[[Any], None] | None = None) -> None:
        self._vmms = vmms
        self._applied = applied

    @hookimpl
    def kvmaff_vmms(self) -> tuple[Vmm, ...]:
        return self._vmms

    @hookimpl
    def kvmaff_applied(self, report: Any) -> None:
        if self._applied:
            self._applied(report)


@contextlib.contextmanager
def narrow_cgroup(cpus: CpuSet) -> Iterator[Path]:
    """A cpuset cgroup of a test's own that grants some CPUs only; its processes must have ended by the end."""
    v1, v2 = Path("/sys/fs/cgroup/cpuset"), Path("/sys/fs/cgroup")
    name = f"kvmaff-test-{os.getpid()}-{os.urandom(3).hex()}"
    if (v1 / "cpuset.cpus").exists():
        folder = v1 / name
        folder.mkdir()
        (folder / "cpuset.mems").write_text((v1 / "cpuset.mems").read_text())
    elif "cpuset" in (v2 / "cgroup.subtree_control").read_text().split():
        folder = v2 / name
        folder.mkdir()
    else:
        pytest.skip("no cpuset controller is to be had here")
    try:
        (folder / "cpuset.cpus").write_text(str(cpus))
        yield folder
    finally:
        for _ in range(200):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.01)  # the last process has ended and is not yet gone


def test_plugin_of_a_test() -> None:
    """The plug-in hands on what it was given."""
    heard: list[object] = []
    plugin = PinnedHere(applied=heard.append)
    plugin.kvmaff_applied("x")
    assert (["x"], ()) == (heard, plugin.kvmaff_vmms())
