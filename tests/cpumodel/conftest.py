"""The models of the QEMU that is installed, asked once for all tests."""

from __future__ import annotations

import functools
import os

import pytest

from kvmaff.cpumodel.reading import ask_models
from kvmaff.cpumodel.table import CpuModels

from ..conftest import needs_qemu

needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened"
)
BOTH = [pytest.param("tcg", id="tcg"), pytest.param("kvm", id="kvm", marks=needs_kvm)]


@functools.cache
def models_of(accel: str) -> CpuModels:
    """What the installed QEMU knows, run by an accelerator."""
    return ask_models(accel=accel)


@pytest.fixture(params=BOTH)
def models(request: pytest.FixtureRequest) -> CpuModels:
    """The models under TCG, and under KVM."""
    return models_of(request.param)


@pytest.fixture
def tcg() -> CpuModels:
    """The models under TCG."""
    return models_of("tcg")


__all__ = ["BOTH", "models", "models_of", "needs_kvm", "needs_qemu", "tcg"]
