"""What was plugged in, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmaff.cpuset import CpuSet
from kvmaff.formats.plain import report_data

if TYPE_CHECKING:
    from kvmaff.binding.hotplug import HotplugReport, Plugged

__all__ = ["hotplug_data", "plugged_data"]


def hotplug_data(report: HotplugReport) -> dict[str, Any]:
    """
    Describe what was plugged in.

    Args:
        report: The report.

    Returns:
        ``ok, guest, pid, asked, plugged`` (a list, as :func:`plugged_data` has each), and ``bound`` as
        :func:`report_data` has it.
    """
    return {
        "ok": report.ok,
        "guest": report.guest,
        "pid": report.pid,
        "asked": report.asked,
        "plugged": [plugged_data(one) for one in report.plugged],
        "bound": report_data(report.bound),
    }


def plugged_data(one: Plugged) -> dict[str, Any]:
    """
    Describe a vCPU that was plugged in.

    Args:
        one: It.

    Returns:
        ``vcpu, tid, born, decided``.
    """
    return {"vcpu": one.index, "tid": one.tid, "born": _text(one.born), "decided": _text(one.decided)}


def _text(cpus: CpuSet | None) -> str | None:
    return None if cpus is None else cpus.cpulist
