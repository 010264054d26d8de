"""
Values -> what JSON can hold.

These shapes are a contract: other programs read them. CPUs are cpulists, as everywhere on Linux.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from kvmaff.binding.plan import Plan
from kvmaff.binding.report import Report
from kvmaff.binding.undo import Listed
from kvmaff.cpuset import CpuSet
from kvmaff.guest.guest import Guest
from kvmaff.host.cgroup import Grant
from kvmaff.host.isolation import Kept
from kvmaff.host.occupants import Occupancy
from kvmaff.host.reader import Host
from kvmaff.host.threads import Thread
from kvmaff.placement.explain import Explanation, RunnerUp
from kvmaff.placement.placement import Placement, Unplaced

__all__ = [
    "cpu_data",
    "grant_data",
    "guests_data",
    "placement_data",
    "plan_data",
    "records_data",
    "report_data",
    "topology_data",
]


def topology_data(host: Host) -> dict[str, Any]:
    """
    Describe a host.

    Args:
        host: The host.

    Returns:
        ``possible, present, online, offline, isolated, nohz_full`` as cpulists; ``drawers, books, packages, dies,
        clusters, cores, l2, l3`` as lists of cpulists, empty where the machine does not say; ``kinds``, a list of
        ``name, cpus``; ``smt``; ``nodes`` by number, with ``cpus, memory_bytes`` (null where not told), ``distances``
        by node number and ``huge_pages``, a list of ``size_bytes, total, free``; the machine's ``huge_pages``;
        ``isolation``, a list of ``cpus, from, by``, and ``doubts`` about it.
    """
    topology = host.topology
    levels = ("drawers", "books", "packages", "dies", "clusters", "cores", "l2", "l3")
    return {
        "possible": str(topology.possible),
        "present": str(topology.present),
        "online": str(topology.online),
        "offline": str(topology.offline),
        "isolated": str(host.isolated),
        "nohz_full": str(host.nohz_full),
        **{level: [str(group) for group in getattr(topology, level)] for level in levels},
        "kinds": [{"name": kind.name, "cpus": str(kind.cpus)} for kind in topology.kinds],
        "smt": topology.smt,
        "nodes": {
            str(node.number): {
                "cpus": str(node.cpus),
                "memory_bytes": node.memory_bytes,
                "distances": {str(other): distance for other, distance in node.distances},
                "huge_pages": [attrs.asdict(pages) for pages in node.huge_pages],
            }
            for node in topology.nodes
        },
        "huge_pages": [attrs.asdict(pages) for pages in topology.huge_pages],
        "isolation": _kept(host.isolation.kept),
        "doubts": list(host.isolation.doubts),
    }


def cpu_data(found: Occupancy, names: Mapping[int, str], why_not: str | None) -> dict[str, Any]:
    """
    Describe what runs on a CPU.

    Args:
        found: What runs there.
        names: What the threads of guests are, by thread number.
        why_not: Why the process in question may not run there; None where it may.

    Returns:
        ``cpu, state, isolated, isolation`` (as in :func:`topology_data`), ``clean`` (null where that cannot be known),
        ``dirt`` and ``hidden`` (why it is not clean, why it is not known: sentences), ``own, bound, here, movable``
        (lists of ``pid, tid, ppid, uid, name, args, mask, cpu, guest``), ``others`` (how many), ``irqs`` (null where
        not told; a list of ``number, name, count, allowed, effective``) and ``why_not``.
    """
    return {
        "cpu": found.cpu,
        "state": found.state,
        "isolated": found.isolated,
        "isolation": _kept(found.kept),
        "clean": found.clean,
        "dirt": list(found.dirt),
        "hidden": list(found.hidden),
        **{
            group: [_thread(thread, names.get(thread.tid)) for thread in getattr(found, group)]
            for group in ("own", "bound", "here", "movable")
        },
        "others": found.others,
        "irqs": [
            {
                "number": irq.number,
                "name": irq.name,
                "count": irq.count(found.cpu),
                "allowed": _text(irq.allowed),
                "effective": _text(irq.effective),
            }
            for irq in found.irqs
        ]
        if found.irqs is not None
        else None,
        "why_not": why_not,
    }


def guests_data(guests: Iterable[Guest]) -> list[dict[str, Any]]:
    """
    Describe guests.

    Args:
        guests: The guests.

    Returns:
        For each ``name, uuid, pid, start, vmm, kvm, verified, why, doubt,
        unanswered`` and ``threads``, a list of
        ``tid, role, index, name, mask, cpu, source, iothread``.
    """
    return [
        {
            "name": guest.name,
            "uuid": guest.uuid,
            "pid": guest.pid,
            "start": guest.start,
            "vmm": guest.vmm,
            "kvm": guest.kvm,
            "verified": guest.verified,
            "why": guest.why,
            "doubt": guest.doubt,
            "unanswered": guest.unanswered,
            "threads": [
                {
                    "tid": thread.tid,
                    "role": thread.role.value,
                    "index": thread.index,
                    "name": thread.name,
                    "mask": _text(thread.mask),
                    "cpu": thread.cpu,
                    "source": thread.source,
                    "iothread": thread.iothread,
                }
                for thread in guest.threads
            ],
        }
        for guest in guests
    ]


def placement_data(
    placement: Placement | None,
    unplaced: Iterable[Unplaced],
    strategy: str,
    explanations: Iterable[Explanation] = (),
) -> dict[str, Any]:
    """
    Describe a decision.

    Args:
        placement: The places; None where there is none.
        unplaced: The guests without a place.
        strategy: Who decided.
        explanations: Why guests have their places.

    Returns:
        ``strategy``; ``guests``, a list of ``name, pid, threads`` (``role, index, cpus``)``, nodes, owned, score,
        levels, why, proved, explained, runner_up``; ``unplaced``, a list of ``name, reasons, removed, remedies``. An
        index of null stands for every thread of the role. ``levels`` is a list of ``level, value``, what counts most
        first; ``runner_up`` has ``cpus, nodes, levels, worse`` (``level, by``, or null where it costs the same), and is
        null where there is none or none was looked for, as ``explained`` tells. ``removed`` is a list of
        ``rule, by, cpus, nodes, l3_groups``, ``remedies`` one of ``what, to, text``.
    """
    why = {one.name: one for one in explanations}
    return {
        "strategy": strategy,
        "guests": [
            {
                "name": guest.spec.name,
                "pid": guest.pid,
                "threads": [
                    {"role": thread.role.value, "index": thread.index, "cpus": str(thread.cpus)}
                    for thread in guest.threads
                ],
                "nodes": list(guest.nodes),
                "owned": str(guest.owned),
                "score": {
                    name: value
                    for name, value in attrs.asdict(guest.score).items()
                    if name != "levels" and value is not None
                },
                "levels": _levels(zip(guest.score.levels, guest.score.key, strict=True)),
                "why": list(guest.why),
                "proved": not guest.why,
                "explained": guest.spec.name in why,
                "runner_up": _runner_up(why[guest.spec.name].runner_up) if guest.spec.name in why else None,
            }
            for guest in (placement.guests if placement else ())
        ],
        "unplaced": [
            {
                "name": one.name,
                "reasons": list(one.reasons),
                "removed": [
                    {
                        "rule": cut.rule,
                        "by": cut.by,
                        "cpus": str(cut.cpus),
                        "nodes": list(cut.nodes),
                        "l3_groups": [str(group) for group in cut.l3_groups],
                    }
                    for cut in one.removed
                ],
                "remedies": [attrs.asdict(remedy) for remedy in one.remedies],
            }
            for one in unplaced
        ],
    }


def _levels(levels: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"level": name, "value": value} for name, value in levels]


def _runner_up(other: RunnerUp | None) -> dict[str, Any] | None:
    if other is None:
        return None
    return {
        "cpus": str(other.cpus),
        "nodes": list(other.nodes),
        "levels": _levels(other.levels),
        "worse": {"level": other.worse[0], "by": other.worse[1]} if other.worse else None,
    }


def plan_data(plan: Plan) -> dict[str, Any]:
    """
    Describe what differs from a decision.

    Args:
        plan: The plan.

    Returns:
        ``changes``, a list of ``guest, tid, role, index, from, to``; ``absent``, decided guests that do not run.
    """
    return {
        "strategy": plan.placement.strategy,
        "changes": [
            {
                "guest": change.guest,
                "tid": change.thread.tid,
                "role": change.thread.role.value,
                "index": change.thread.index,
                "from": _text(change.thread.mask),
                "to": str(change.to),
            }
            for change in plan.changes
        ],
        "absent": list(plan.absent),
        "homeless": list(plan.homeless),
    }


def report_data(report: Report) -> dict[str, Any]:
    """
    Describe what a call did.

    Args:
        report: The report.

    Returns:
        ``ok, changed, journal`` and ``threads``, a list of
        ``tid, role, index, before, asked, after, outcome, why``.
    """
    return {
        "ok": report.ok,
        "changed": report.changed,
        "journal": report.journal,
        "threads": [
            {
                "tid": thread.tid,
                "role": thread.role.value if thread.role else None,
                "index": thread.index,
                "before": _text(thread.before),
                "asked": _text(thread.asked),
                "after": _text(thread.after),
                "outcome": thread.outcome.value,
                "why": thread.why,
            }
            for thread in report.threads
        ],
    }


def records_data(records: Iterable[Listed]) -> list[dict[str, Any]]:
    """
    Describe the records that could be undone.

    Args:
        records: The records.

    Returns:
        For each ``number, time`` (seconds since the epoch), ``command, threads`` (how many), ``usable, why``.
    """
    return [
        {
            "number": listed.number,
            "time": listed.record.time if listed.record else None,
            "command": listed.record.command if listed.record else None,
            "threads": len(listed.record.entries) if listed.record else None,
            "usable": listed.why is None,
            "why": listed.why,
        }
        for listed in records
    ]


def _text(cpus: CpuSet | None) -> str | None:
    return None if cpus is None else str(cpus)


def grant_data(grant: Grant) -> dict[str, Any]:
    """
    Describe what a thread is granted.

    Args:
        grant: The grant.

    Returns:
        ``cgroup`` (empty where none limits it), ``cpus`` and ``nodes``, a list of numbers or null.
    """
    return {
        "cgroup": grant.cgroup,
        "cpus": str(grant.cpus),
        "nodes": None if grant.nodes is None else list(grant.nodes),
    }


def _kept(kept: Iterable[Kept]) -> list[dict[str, str]]:
    return [{"cpus": str(one.cpus), "from": one.what.value, "by": one.by} for one in kept]


def _thread(thread: Thread, guest: str | None) -> dict[str, Any]:
    return {
        "pid": thread.pid,
        "tid": thread.tid,
        "ppid": thread.ppid,
        "uid": thread.uid,
        "name": thread.name,
        "args": thread.args,
        "mask": _text(thread.mask),
        "cpu": thread.cpu,
        "guest": guest,
    }
