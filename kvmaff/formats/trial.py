"""
What a table of a file says of a guest, tried as a spec.

Rule: a field that is wrong by itself hides nothing but itself. It is left out, and what else the spec needs is filled
up with what contradicts nothing, so that every contradiction that is found is one between fields that are right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kvmaff.formats.fields import is_pattern
from kvmaff.guest.spec import (
    MAX_VCPUS,
    EmulatorPolicy,
    GuestSpec,
    SpecContradiction,
    ThreadPolicy,
    VcpuPolicy,
)

__all__ = ["filled_up", "spec_problems", "under"]

_FOR_DEDICATED = frozenset(
    {
        ("thread_policy", ThreadPolicy.REQUIRE),
        ("thread_policy", ThreadPolicy.ISOLATE),
        ("emulator_policy", EmulatorPolicy.ISOLATE),
        ("iothread_policy", EmulatorPolicy.ISOLATE),
    }
)


def spec_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    What a spec of these values would be refused for.

    Args:
        values: Fields of :class:`~kvmaff.guest.spec.GuestSpec`.

    Returns:
        Each (field, what is wrong with it).
    """
    name = values.get("name")
    if not name or is_pattern(name):
        name = "*"  # which no guest is near to or apart from
    try:
        GuestSpec(**{**values, "name": name})
    except SpecContradiction as error:
        return list(error.problems)
    return []


def under(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """
    Lay a file's defaults under what a guest's own table says.

    Args:
        values: What the table says.
        defaults: What the file says of every guest.

    Returns:
        Both; a shared guest says otherwise than a default that is for dedicated guests only.
    """
    if values.get("vcpu_policy") is VcpuPolicy.SHARED:
        defaults = {field: value for field, value in defaults.items() if (field, value) not in _FOR_DEDICATED}
    return {**defaults, **values}


def filled_up(values: Mapping[str, Any], wrong: Collection[str]) -> dict[str, Any]:
    """
    Fill up what a table gives to a spec that is refused only for what the table says.

    Args:
        values: The fields that are given and right.
        wrong: The fields that are given and wrong; of cells whose memory alone is wrong, the vCPUs are in ``values``.

    Returns:
        The spec's fields.
    """
    spec = dict(values)
    # whoever applies the file may say that guests are dedicated
    policy = spec.setdefault("vcpu_policy", VcpuPolicy.DEDICATED)
    if "dedicated_vcpus" in wrong and policy is not VcpuPolicy.SHARED:
        spec["vcpu_policy"] = VcpuPolicy.DEDICATED  # which of them are is not looked at, and so not how many
        if spec.get("thread_policy") is ThreadPolicy.REQUIRE:
            del spec["thread_policy"]
    if "max_vcpus" in wrong or not {"vcpus", "max_vcpus"} & spec.keys():
        spec["max_vcpus"] = _most(spec)
    spec.setdefault("vcpus", 1)
    amounts = [spec.get("memory_bytes"), *(cell.memory_bytes for cell in spec.get("cells", ()))]
    if "page_bytes" in spec and not any(amounts) and not {"memory_bytes", "cells"}.isdisjoint(wrong):
        spec["memory_bytes"] = spec["page_bytes"]  # it has some, and how much is not looked at
    return spec


def _most(spec: Mapping[str, Any]) -> int:
    """Return how many vCPUs a guest may have that has been said to have no number of them, or a wrong one."""
    threads: int = spec.get("threads", 1)
    vcpus: int = spec.get("vcpus", 1)
    least, inside = vcpus, sum(len(cell.vcpus) for cell in spec.get("cells", ()))
    if inside >= least:
        return inside
    if not inside:
        least = max(least, 2 * threads, max(spec.get("dedicated_vcpus", (-1,))) + 2)
    return max(min(-(-least // threads) * threads, MAX_VCPUS // threads * threads), vcpus)
