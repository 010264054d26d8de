"""Guests that have a place on a made-up host, for those who write them down."""

from __future__ import annotations

import functools

import attrs
import hypothesis
from hypothesis import strategies as hs

from kvmaff.errors import PlacementImpossible
from kvmaff.guest.spec import GuestSpec
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.request import Demand, PlacementRequest
from kvmaff.testing.inputs_guests import guest_specs
from kvmaff.testing.trees import grid

_NAMES = hs.from_regex(r"\A[A-Za-z][A-Za-z0-9._,=-]{0,20}\Z")
_IDS = hs.from_regex(r"\A[A-Za-z][A-Za-z0-9._-]{0,20}\Z")


@functools.cache
def host() -> Host:
    """2 packages, 4 nodes, 8 L3 groups, 32 cores of 2 threads."""
    return grid(packages=2, nodes=4, l3s=8, cores=32, threads=2)


@functools.cache
def manager() -> PluginManager:
    """The strategies."""
    return PluginManager.load()


def placed(spec: GuestSpec, strategy: str = "numa") -> GuestPlacement:
    """Place a guest on the host that is empty; huge pages are taken as there."""
    asked = attrs.evolve(spec, page_bytes=0, affinity=(), pool=None, core_kind=None)
    request = PlacementRequest(host=host(), demands=(Demand(spec=asked),))
    (found,) = manager().decide(request, strategy).guests
    return attrs.evolve(found, spec=spec)


@hs.composite
def placed_guests(draw: hs.DrawFn) -> GuestPlacement:
    """Guests of any kind that have memory, and their places."""
    spec = draw(guest_specs(name=_NAMES))
    memory = sum(cell.memory_bytes for cell in spec.cells) or draw(hs.integers(1, 64)) << 28
    cells = spec.cells
    if cells and not all(cell.memory_bytes for cell in cells):
        part = memory // len(cells) >> 21 << 21
        cells = tuple(attrs.evolve(cell, memory_bytes=part) for cell in cells)
        memory = part * len(cells)
    iothreads = tuple(draw(hs.lists(_IDS, unique=True, max_size=3)))
    spec = attrs.evolve(
        spec,
        memory_bytes=memory,
        cells=cells,
        page_bytes=draw(hs.sampled_from((0, 0, 2 << 20))),
        iothreads=iothreads,
    )
    try:
        return placed(spec)
    except PlacementImpossible:
        hypothesis.reject()
