"""
Which host CPU does every thread of every KVM guest run on?

The public names are loaded when they are first used (PEP 562): importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmaff.api import guests, pin, pin_process, read_host, undo
    from kvmaff.binding.report import Outcome, Report, ThreadResult
    from kvmaff.cpuset import CpuSet
    from kvmaff.errors import (
        AmbiguousGuest,
        BindingFailed,
        CpuTextError,
        GuestNotFound,
        GuestNotVerified,
        HostReadError,
        JournalError,
        KvmaffError,
        RequestError,
        Unsupported,
    )
    from kvmaff.guest.guest import Guest, GuestThread, Role
    from kvmaff.guest.vmm import Vmm
    from kvmaff.host.reader import Host
    from kvmaff.host.topology import NumaNode, Topology

__all__ = [
    "AmbiguousGuest",
    "BindingFailed",
    "CpuSet",
    "CpuTextError",
    "Guest",
    "GuestNotFound",
    "GuestNotVerified",
    "GuestThread",
    "Host",
    "HostReadError",
    "JournalError",
    "KvmaffError",
    "NumaNode",
    "Outcome",
    "Report",
    "RequestError",
    "Role",
    "ThreadResult",
    "Topology",
    "Unsupported",
    "Vmm",
    "guests",
    "pin",
    "pin_process",
    "read_host",
    "undo",
]

_HOMES = {
    "kvmaff.api": ("guests", "pin", "pin_process", "read_host", "undo"),
    "kvmaff.binding.report": ("Outcome", "Report", "ThreadResult"),
    "kvmaff.cpuset": ("CpuSet",),
    "kvmaff.errors": (
        "AmbiguousGuest",
        "BindingFailed",
        "CpuTextError",
        "GuestNotFound",
        "GuestNotVerified",
        "HostReadError",
        "JournalError",
        "KvmaffError",
        "RequestError",
        "Unsupported",
    ),
    "kvmaff.guest.guest": ("Guest", "GuestThread", "Role"),
    "kvmaff.guest.vmm": ("Vmm",),
    "kvmaff.host.reader": ("Host",),
    "kvmaff.host.topology": ("NumaNode", "Topology"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - the one place of the version is pyproject.toml

        return version("kvmaff")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kvmaff' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - loaded when first used, which is the point

    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
