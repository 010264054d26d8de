"""
Hosts' CPUs for property tests, as hypothesis strategies: models of a binary, with features more and less.

Needs hypothesis (the extra ``test``).
"""

from __future__ import annotations

import attrs
from hypothesis import strategies as hs

from kvmaff.cpumodel.level import LEVELS
from kvmaff.cpumodel.model import CpuModel, HostCpu
from kvmaff.cpumodel.table import CpuModels

__all__ = ["host_cpus", "host_like"]


def host_like(
    models: CpuModels,
    model: CpuModel,
    *,
    more: frozenset[str] = frozenset(),
    less: frozenset[str] = frozenset(),
    name: str | None = None,
) -> HostCpu:
    """
    Make a host that can give just what a model has.

    Args:
        models: The binary's models.
        model: The model.
        more: What it can give besides.
        less: What it cannot.
        name: What to call it; None for the model's name.

    Returns:
        The host, running guests as the binary did when it was asked.
    """
    features = (model.features | more) - less
    return attrs.evolve(
        models.host,
        name=name or model.name,
        vendor=model.vendor or models.host.vendor,
        family=model.family,
        model=model.model,
        stepping=model.stepping,
        title=model.title,
        features=features,
        staying=features & {"invtsc"},
        lacks=models.names - features,
    )


def host_cpus(models: CpuModels, *, least: int = 1, most: int = 5) -> hs.SearchStrategy[list[HostCpu]]:
    """
    Groups of hosts of one vendor that run 64-bit guests.

    Args:
        models: The binary's models.
        least: How many hosts at least.
        most: How many at most.

    Returns:
        A strategy; names are different, features may be any.
    """
    vendors: dict[str, list[CpuModel]] = {}
    for model in models.models:
        if model.fixed and model.vendor and model.level:
            vendors.setdefault(model.vendor, []).append(model)
    needed = frozenset(LEVELS[0])

    @hs.composite
    def group(draw: hs.DrawFn) -> list[HostCpu]:
        some = vendors[draw(hs.sampled_from(sorted(vendors)))]
        hosts = []
        for number in range(draw(hs.integers(least, most))):
            model = draw(hs.sampled_from(some))
            more = draw(hs.frozensets(hs.sampled_from(sorted(models.names)), max_size=6))
            less = draw(hs.frozensets(hs.sampled_from(sorted(model.features - needed)), max_size=6))
            hosts.append(host_like(models, model, more=more, less=less, name=f"host{number}"))
        return hosts

    return group()
