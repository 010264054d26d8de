"""
What a plug-in may contribute: a function for each, marked with ``hookimpl``.

A plug-in is a module, a class or an object that an entry point of the group ``kvmaff`` names::

    from kvmaff import Strategy, hookimpl

    @hookimpl
    def kvmaff_strategies():
        return [Strategy(name="mine", summary="Where I like it.", place=place)]

Rule: plug-ins contribute, the core combines, and no combination depends on order. So a plug-in is never asked
what another one said, and one that registers a wrapper, ``tryfirst`` or ``trylast`` is refused.
Rule: this file is ground floor: it imports nothing of ours, so that whoever implements a hook loads pluggy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmaff.binding.report import Report
    from kvmaff.cpuset import CpuSet
    from kvmaff.guest.vmm import Vmm
    from kvmaff.host.topology import Topology
    from kvmaff.placement.placement import Placement
    from kvmaff.placement.request import PlacementRequest
    from kvmaff.placement.strategy import Strategy
    from kvmaff.placement.verify import Violation

__all__ = [
    "PROJECT",
    "hookimpl",
    "hookspec",
    "kvmaff_applied",
    "kvmaff_check_placement",
    "kvmaff_reserved_cpus",
    "kvmaff_strategies",
    "kvmaff_vmms",
]

PROJECT = "kvmaff"
"""What the markers, every hook's prefix and the group of entry points are called."""

hookspec = pluggy.HookspecMarker(PROJECT)
"""Marks the functions below, and nothing else."""

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plug-in's function as the implementation of the hook of the same name."""


@hookspec
def kvmaff_strategies() -> Iterable[Strategy]:
    """
    Return the strategies that this plug-in contributes.

    Returns:
        Strategies. Each is offered by its name; a name that two of them have is refused to both when it is asked
        for, and the others stay usable.

    Called once, when strategies are first listed or one is first asked for.
    """
    raise NotImplementedError


@hookspec
def kvmaff_vmms() -> Iterable[Vmm]:
    """
    Return the VMMs that this plug-in knows how to recognise.

    Returns:
        VMMs, known beside the built-in ones. A name that two of them have, or that a built-in one has, is refused.

    Called once, when VMMs are first listed or guests are first looked for.
    """
    raise NotImplementedError


@hookspec
def kvmaff_reserved_cpus(topology: Topology) -> CpuSet | None:
    """
    Return the CPUs that no guest's thread may use.

    Args:
        topology: The host's CPUs.

    Returns:
        Possible CPUs of that topology, or None for no opinion. What is reserved is the union of all answers.

    Called before every decision. One that fails or gives anything else stops the decision: a guest on a CPU that
    was to be kept free is worse than no answer.
    """
    raise NotImplementedError


@hookspec
def kvmaff_check_placement(request: PlacementRequest, placement: Placement) -> Iterable[Violation] | None:
    """
    Return what is wrong with a placement.

    Args:
        request: What was to be decided, reserved CPUs and options included.
        placement: The answer; it keeps the rules of ``verify`` already.

    Returns:
        An objection for each thing that must not be; nothing or None for no objection. Any objection of any plug-in
        refuses the placement; no plug-in can allow what another one refuses.

    Called for every answer of a strategy, before it is used. One that fails stops the decision.
    """
    raise NotImplementedError


@hookspec
def kvmaff_applied(report: Report) -> None:
    """
    Return nothing; take note of what was done.

    Args:
        report: What was bound, thread by thread.

    Called after threads were bound and read back. An exception is logged and undoes nothing.
    """
    raise NotImplementedError
