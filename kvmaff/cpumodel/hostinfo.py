"""This host's CPU: as its QEMU tells it, or, where there is none, as far as /proc/cpuinfo does."""

from __future__ import annotations

import os

from kvmaff.cpumodel.cache import read_cpu_models
from kvmaff.cpumodel.cpuinfo import CPUINFO, address_bits, read_cpuinfo
from kvmaff.cpumodel.model import ON_UNDER_KVM, HostCpu
from kvmaff.errors import HostReadError, WrongUsage

__all__ = ["read_host_cpu"]

_LARGEST = 1 << 24
_MADE_BY_KVM = ON_UNDER_KVM - {"vme"}
"""What every KVM since Linux 5.10 offers its guests, whatever the CPU (arch/x86/kvm/cpuid.c, KVM_CPUID_FEATURES)."""


def read_host_cpu(
    binary: str | os.PathLike[str] | None = None,
    *,
    source: str = "qmp",
    accel: str | None = None,
    machine: str = "none",
    fresh: bool = False,
) -> HostCpu:
    """
    Say what this host can give its guests' CPUs.

    Args:
        binary: The QEMU to ask: a path, or a name in ``PATH``; None for the one that is installed.
        source: ``qmp`` to ask it; ``cpuinfo`` to read /proc/cpuinfo, which leaves most unknown.
        accel: ``kvm`` or ``tcg``; None for KVM where this process may open /dev/kvm.
        machine: The machine type to ask with.
        fresh: Ask the binary also where its answers are kept.

    Returns:
        The host, called ``this host``.

    Raises:
        WrongUsage: There is no such source or accelerator, or they do not fit.
        QemuError: The binary cannot be asked.
        HostReadError: /proc/cpuinfo cannot be read, or is that of another architecture.
        Unsupported: The binary is for another architecture, or the library ``qemu.qmp`` is not installed.
    """
    if source == "qmp":
        return read_cpu_models(binary, accel=accel, machine=machine, fresh=fresh).host
    if source != "cpuinfo":
        raise WrongUsage.of([f"the source is qmp or cpuinfo, not {source!r}"])
    if accel == "tcg" or binary is not None:
        raise WrongUsage.of(["/proc/cpuinfo tells of KVM on this host, and of no QEMU"])
    try:
        with open(CPUINFO, "rb") as file:
            data = file.read(_LARGEST)
    except OSError as error:
        raise HostReadError(f"{CPUINFO}: {error.strerror}", path=CPUINFO) from error
    found = read_cpuinfo(data)
    here = os.uname()
    return HostCpu(
        name="this host",
        arch="x86_64" if here.machine == "x86_64" else "i386",
        accel="kvm",
        source="cpuinfo",
        qemu=None,
        kernel=here.release,
        vendor=found.vendor,
        family=found.family,
        model=found.model,
        stepping=found.stepping,
        title=found.name,
        phys_bits=address_bits(data),
        features=found.features | (_MADE_BY_KVM if found.features else frozenset()),
    )
