"""
Which host CPU does every thread of every KVM guest run on?

The public names are loaded when they are first used (PEP 562): importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmaff.api import (
        capture,
        guests,
        hotplug,
        hotplug_async,
        pin,
        pin_process,
        plan,
        read_qmp,
        undo,
    )
    from kvmaff.binding.hotplug import HotplugReport, Plugged
    from kvmaff.binding.plan import Change, Plan
    from kvmaff.binding.report import Outcome, Report, ThreadResult
    from kvmaff.cpumodel.baseline import Baseline, HostLoss, baseline, baselines
    from kvmaff.cpumodel.cache import read_cpu_models
    from kvmaff.cpumodel.compare import Comparison, compare_hosts
    from kvmaff.cpumodel.explain import Explained, OtherVersion, explain_cpu
    from kvmaff.cpumodel.groups import Grouping, group_hosts
    from kvmaff.cpumodel.hostinfo import read_host_cpu
    from kvmaff.cpumodel.model import CpuModel, HostCpu, Verdict
    from kvmaff.cpumodel.table import CpuModels
    from kvmaff.cpumodel.text import CpuText, parse_cpu
    from kvmaff.cpuset import CpuSet
    from kvmaff.deciding import choices, place, rebalance
    from kvmaff.errors import (
        AmbiguousGuest,
        BindingFailed,
        CpuTextError,
        GuestNotFound,
        GuestNotVerified,
        HostReadError,
        JournalError,
        KvmaffError,
        PlacementImpossible,
        PlacementRefused,
        PluginError,
        QemuError,
        QmpBusy,
        QmpError,
        QmpRefused,
        RequestError,
        SpecError,
        SpecMismatch,
        Unsupported,
        WrongUsage,
    )
    from kvmaff.formats.capture import Captured
    from kvmaff.formats.hostcpu import load_host_cpu, load_host_cpus, save_host_cpu
    from kvmaff.formats.libvirtread import libvirt_reading, parse_libvirt, read_libvirt
    from kvmaff.formats.libvirtxml import LibvirtDomain, libvirt_domain, libvirt_xml
    from kvmaff.formats.qemuargs import qemu_arguments, qemu_notes
    from kvmaff.formats.qemuread import parse_qemu, parse_qemu_text, qemu_reading, qemu_text_reading
    from kvmaff.formats.reading import SpecReading
    from kvmaff.formats.specs import SpecEntry, read_rules, read_specs
    from kvmaff.formats.spectoml import spec_toml
    from kvmaff.guest.askmonitors import AskMonitors
    from kvmaff.guest.commandline import command_line
    from kvmaff.guest.discover import Discovery
    from kvmaff.guest.guest import Guest, GuestThread, Role, Source
    from kvmaff.guest.qmp import Qmp, QmpState, qmp_session
    from kvmaff.guest.qmpanswers import MonitorIoThread, MonitorVcpu, Slot
    from kvmaff.guest.smp import SmpPlace, SmpReading, SmpTopology, read_smp
    from kvmaff.guest.smpfaults import SmpError, SmpFault, SmpKind
    from kvmaff.guest.smprules import SmpRules, smp_rules
    from kvmaff.guest.spec import (
        Affinity,
        EmulatorPolicy,
        GuestCell,
        GuestSpec,
        Place,
        ThreadPolicy,
        VcpuPolicy,
    )
    from kvmaff.guest.vmm import Vmm
    from kvmaff.hooks.manager import PluginManager
    from kvmaff.hooks.plugin import PluginInfo
    from kvmaff.hooks.specs import hookimpl
    from kvmaff.host.cgroup import Grant
    from kvmaff.host.grants import granted, why_not
    from kvmaff.host.irqs import Irq
    from kvmaff.host.isolation import Isolation, Kept, KeptFrom
    from kvmaff.host.occupants import Occupancy, on_cpus
    from kvmaff.host.reader import Host, read_host
    from kvmaff.host.threads import Thread
    from kvmaff.host.topology import CoreKind, HugePages, NumaNode, Topology
    from kvmaff.host.vendor import cpu_vendor
    from kvmaff.placement.choices import Choice
    from kvmaff.placement.explain import Explanation, RunnerUp
    from kvmaff.placement.moves import Admission, Goal, Moved, Moves
    from kvmaff.placement.objective import Grain, Level, Objective
    from kvmaff.placement.order import Step
    from kvmaff.placement.placement import (
        GuestPlacement,
        Placement,
        Remedy,
        Removal,
        Score,
        ThreadPlacement,
        Unplaced,
    )
    from kvmaff.placement.rebalance import CleanUp, Gain
    from kvmaff.placement.request import Demand, Held, HostRules, PlacementRequest, Pool
    from kvmaff.placement.shape import GuestShape, ShapeCell, guest_shape
    from kvmaff.placement.solve import solve
    from kvmaff.placement.strategy import NoOptions, Strategy, option
    from kvmaff.placement.verify import Violation, verify

__all__ = [
    "Admission",
    "Affinity",
    "AmbiguousGuest",
    "AskMonitors",
    "Baseline",
    "BindingFailed",
    "Captured",
    "Change",
    "Choice",
    "CleanUp",
    "Comparison",
    "CoreKind",
    "CpuModel",
    "CpuModels",
    "CpuSet",
    "CpuText",
    "CpuTextError",
    "Demand",
    "Discovery",
    "EmulatorPolicy",
    "Explained",
    "Explanation",
    "Gain",
    "Goal",
    "Grain",
    "Grant",
    "Grouping",
    "Guest",
    "GuestCell",
    "GuestNotFound",
    "GuestNotVerified",
    "GuestPlacement",
    "GuestShape",
    "GuestSpec",
    "GuestThread",
    "Held",
    "Host",
    "HostCpu",
    "HostLoss",
    "HostReadError",
    "HostRules",
    "HotplugReport",
    "HugePages",
    "Irq",
    "Isolation",
    "JournalError",
    "Kept",
    "KeptFrom",
    "KvmaffError",
    "Level",
    "LibvirtDomain",
    "MonitorIoThread",
    "MonitorVcpu",
    "Moved",
    "Moves",
    "NoOptions",
    "NumaNode",
    "Objective",
    "Occupancy",
    "OtherVersion",
    "Outcome",
    "Place",
    "Placement",
    "PlacementImpossible",
    "PlacementRefused",
    "PlacementRequest",
    "Plan",
    "Plugged",
    "PluginError",
    "PluginInfo",
    "PluginManager",
    "Pool",
    "QemuError",
    "Qmp",
    "QmpBusy",
    "QmpError",
    "QmpRefused",
    "QmpState",
    "Remedy",
    "Removal",
    "Report",
    "RequestError",
    "Role",
    "RunnerUp",
    "Score",
    "ShapeCell",
    "Slot",
    "SmpError",
    "SmpFault",
    "SmpKind",
    "SmpPlace",
    "SmpReading",
    "SmpRules",
    "SmpTopology",
    "Source",
    "SpecEntry",
    "SpecError",
    "SpecMismatch",
    "SpecReading",
    "Step",
    "Strategy",
    "Thread",
    "ThreadPlacement",
    "ThreadPolicy",
    "ThreadResult",
    "Topology",
    "Unplaced",
    "Unsupported",
    "VcpuPolicy",
    "Verdict",
    "Violation",
    "Vmm",
    "WrongUsage",
    "baseline",
    "baselines",
    "capture",
    "choices",
    "command_line",
    "compare_hosts",
    "cpu_vendor",
    "explain_cpu",
    "granted",
    "group_hosts",
    "guest_shape",
    "guests",
    "hookimpl",
    "hotplug",
    "hotplug_async",
    "libvirt_domain",
    "libvirt_reading",
    "libvirt_xml",
    "load_host_cpu",
    "load_host_cpus",
    "on_cpus",
    "option",
    "parse_cpu",
    "parse_libvirt",
    "parse_qemu",
    "parse_qemu_text",
    "pin",
    "pin_process",
    "place",
    "plan",
    "qemu_arguments",
    "qemu_notes",
    "qemu_reading",
    "qemu_text_reading",
    "qmp_session",
    "read_cpu_models",
    "read_host",
    "read_host_cpu",
    "read_libvirt",
    "read_qmp",
    "read_rules",
    "read_smp",
    "read_specs",
    "rebalance",
    "save_host_cpu",
    "smp_rules",
    "solve",
    "spec_toml",
    "undo",
    "verify",
    "why_not",
]

_HOMES = {
    "kvmaff.cpumodel.baseline": ("Baseline", "HostLoss", "baseline", "baselines"),
    "kvmaff.cpumodel.cache": ("read_cpu_models",),
    "kvmaff.cpumodel.compare": ("Comparison", "compare_hosts"),
    "kvmaff.cpumodel.explain": ("Explained", "OtherVersion", "explain_cpu"),
    "kvmaff.cpumodel.groups": ("Grouping", "group_hosts"),
    "kvmaff.cpumodel.hostinfo": ("read_host_cpu",),
    "kvmaff.cpumodel.model": ("CpuModel", "HostCpu", "Verdict"),
    "kvmaff.cpumodel.table": ("CpuModels",),
    "kvmaff.cpumodel.text": ("CpuText", "parse_cpu"),
    "kvmaff.formats.hostcpu": ("load_host_cpu", "load_host_cpus", "save_host_cpu"),
    "kvmaff.api": (
        "capture",
        "guests",
        "hotplug",
        "hotplug_async",
        "pin",
        "pin_process",
        "plan",
        "read_qmp",
        "undo",
    ),
    "kvmaff.binding.hotplug": ("HotplugReport", "Plugged"),
    "kvmaff.guest.askmonitors": ("AskMonitors",),
    "kvmaff.guest.qmp": ("Qmp", "QmpState", "qmp_session"),
    "kvmaff.guest.qmpanswers": ("MonitorIoThread", "MonitorVcpu", "Slot"),
    "kvmaff.binding.plan": ("Change", "Plan"),
    "kvmaff.binding.report": ("Outcome", "Report", "ThreadResult"),
    "kvmaff.cpuset": ("CpuSet",),
    "kvmaff.deciding": ("choices", "place", "rebalance"),
    "kvmaff.errors": (
        "AmbiguousGuest",
        "BindingFailed",
        "CpuTextError",
        "GuestNotFound",
        "GuestNotVerified",
        "HostReadError",
        "JournalError",
        "KvmaffError",
        "PlacementImpossible",
        "PlacementRefused",
        "PluginError",
        "QemuError",
        "QmpBusy",
        "QmpError",
        "QmpRefused",
        "RequestError",
        "SpecError",
        "SpecMismatch",
        "Unsupported",
        "WrongUsage",
    ),
    "kvmaff.guest.discover": ("Discovery",),
    "kvmaff.guest.guest": ("Guest", "GuestThread", "Role", "Source"),
    "kvmaff.guest.smp": ("SmpPlace", "SmpReading", "SmpTopology", "read_smp"),
    "kvmaff.guest.smpfaults": ("SmpError", "SmpFault", "SmpKind"),
    "kvmaff.guest.smprules": ("SmpRules", "smp_rules"),
    "kvmaff.guest.spec": (
        "Affinity",
        "EmulatorPolicy",
        "GuestCell",
        "GuestSpec",
        "Place",
        "ThreadPolicy",
        "VcpuPolicy",
    ),
    "kvmaff.guest.vmm": ("Vmm",),
    "kvmaff.hooks.manager": ("PluginManager",),
    "kvmaff.hooks.plugin": ("PluginInfo",),
    "kvmaff.hooks.specs": ("hookimpl",),
    "kvmaff.formats.libvirtread": ("libvirt_reading", "parse_libvirt", "read_libvirt"),
    "kvmaff.formats.libvirtxml": ("LibvirtDomain", "libvirt_domain", "libvirt_xml"),
    "kvmaff.formats.qemuargs": ("qemu_arguments", "qemu_notes"),
    "kvmaff.formats.qemuread": ("parse_qemu", "parse_qemu_text", "qemu_reading", "qemu_text_reading"),
    "kvmaff.formats.reading": ("SpecReading",),
    "kvmaff.formats.spectoml": ("spec_toml",),
    "kvmaff.guest.commandline": ("command_line",),
    "kvmaff.host.vendor": ("cpu_vendor",),
    "kvmaff.placement.shape": ("GuestShape", "ShapeCell", "guest_shape"),
    "kvmaff.formats.specs": ("SpecEntry", "read_rules", "read_specs"),
    "kvmaff.formats.capture": ("Captured",),
    "kvmaff.host.cgroup": ("Grant",),
    "kvmaff.host.grants": ("granted", "why_not"),
    "kvmaff.host.irqs": ("Irq",),
    "kvmaff.host.isolation": ("Isolation", "Kept", "KeptFrom"),
    "kvmaff.host.occupants": ("Occupancy", "on_cpus"),
    "kvmaff.host.threads": ("Thread",),
    "kvmaff.host.reader": ("Host", "read_host"),
    "kvmaff.host.topology": ("CoreKind", "HugePages", "NumaNode", "Topology"),
    "kvmaff.placement.choices": ("Choice",),
    "kvmaff.placement.moves": ("Admission", "Goal", "Moved", "Moves"),
    "kvmaff.placement.order": ("Step",),
    "kvmaff.placement.rebalance": ("CleanUp", "Gain"),
    "kvmaff.placement.objective": ("Grain", "Level", "Objective"),
    "kvmaff.placement.explain": ("Explanation", "RunnerUp"),
    "kvmaff.placement.placement": (
        "GuestPlacement",
        "Placement",
        "Remedy",
        "Removal",
        "Score",
        "ThreadPlacement",
        "Unplaced",
    ),
    "kvmaff.placement.request": ("Demand", "Held", "HostRules", "PlacementRequest", "Pool"),
    "kvmaff.placement.solve": ("solve",),
    "kvmaff.placement.strategy": ("NoOptions", "Strategy", "option"),
    "kvmaff.placement.verify": ("Violation", "verify"),
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
