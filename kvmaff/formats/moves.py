"""
Who is moved for whose sake -> what JSON can hold.

These shapes are a contract, as those of ``plain``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from kvmaff.placement.choices import Choice
from kvmaff.placement.order import Step
from kvmaff.placement.placement import Placement
from kvmaff.placement.rebalance import CleanUp

__all__ = ["choices_data", "clean_up_data", "moves_data"]


def moves_data(placement: Placement | None) -> dict[str, Any]:
    """
    Describe how guests come to a placement.

    Args:
        placement: It.

    Returns:
        ``admission``: ``goal, asked, admitted, bound, gap``, or null where nobody knows; ``moved``: a list of ``guest,
        vcpus, memory_bytes, before, after`` (nodes); ``steps``: a list of ``guest, cpus, nodes, waits`` in order, null
        where no order was found.
    """
    admission = placement.admission if placement else None
    return {
        "admission": {**attrs.asdict(admission), "goal": admission.goal.value, "gap": admission.gap}
        if admission
        else None,
        "moved": [attrs.asdict(one) for one in placement.moved()] if placement else [],
        "steps": _steps(placement.steps() if placement else ()),
    }


def choices_data(choices: Iterable[Choice]) -> list[dict[str, Any]]:
    """
    Describe a choice.

    Args:
        choices: The answers, with more and more moves.

    Returns:
        For each ``moves`` (how many it was allowed), ``placed`` and ``unplaced`` (names), and the keys of
        :func:`moves_data`.
    """
    return [
        {
            "moves": one.moves,
            "placed": [guest.spec.name for guest in one.placement.guests] if one.placement else [],
            "unplaced": [guest.name for guest in one.unplaced],
            **moves_data(one.placement),
        }
        for one in choices
    ]


def clean_up_data(found: CleanUp) -> dict[str, Any]:
    """
    Describe what a clean-up would gain.

    Args:
        found: It.

    Returns:
        ``strategy``; ``gains``, a list of ``guest, before, after`` (each a list of ``level, value``, what counts most
        first); ``moved`` and ``steps`` as in :func:`moves_data`; ``left_alone``, a list of ``guest, why``.
    """
    data = moves_data(found.placement)
    return {
        "strategy": found.placement.strategy,
        "gains": [
            {
                "guest": gain.guest,
                **{
                    side: [
                        {"level": level, "value": value}
                        for level, value in zip(score.levels, score.key, strict=True)
                    ]
                    for side, score in (("before", gain.before), ("after", gain.after))
                },
            }
            for gain in found.gains
        ],
        "moved": data["moved"],
        "steps": _steps(found.steps),
        "left_alone": [{"guest": name, "why": why} for name, why in found.left_alone],
    }


def _steps(steps: Iterable[Step] | None) -> list[dict[str, Any]] | None:
    if steps is None:
        return None
    return [
        {
            "guest": step.guest,
            "cpus": str(step.place.vcpu_cpus),
            "nodes": list(step.place.nodes),
            "waits": step.waits,
        }
        for step in steps
    ]
