"""The place that costs dedicated vCPUs least, of all there are: the compiled search, asked in its terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from kvmaff.guest.spec import GuestCell, GuestSpec, VcpuPolicy
from kvmaff.placement.board import ENDLESS, PARTS, Board
from kvmaff.placement.objective import Objective
from kvmaff.placement.request import Demand
from kvmaff.placement.scoring import Candidate, Wants, fitted

__all__ = ["exact"]

_MOST_PUS = 8192


def exact(
    board: Board,
    demand: Demand,
    wants: Wants,
    objective: Objective,
    *,
    extras: int = 0,
    cap: Sequence[int] | None = None,
    away: Sequence[int] | None = None,
) -> Candidate | None:
    """
    Find the place that costs dedicated vCPUs least, of all there are.

    Args:
        board: The host so far.
        demand: The guest.
        wants: What its dedicated vCPUs want, in the fit's terms.
        objective: What is wanted; its :attr:`Objective.exact` holds.
        extras: PUs for its other threads besides, each counted as a vCPU is; only where ``wants.unit`` is 1.
        cap: For each node the most PUs that it may give; None for no limit.
        away: For each node what a vCPU there costs besides; None for nothing.

    Returns:
        The place; None where it does not fit.

    Raises:
        TooLong: The search ended before it found a place or that there is none.
    """
    spec = demand.spec
    count = wants.vcpus
    if count % wants.unit:
        return None  # some would be without a sibling
    cells = sorted(joined(pinned_cells(spec), wants.unit), key=lambda cell: -len(cell.vcpus))
    need: list[int] = []
    have: list[int] = []
    if demand.pid is None and any(cell.memory_bytes for cell in cells):
        need = [min(cell.memory_bytes, ENDLESS) for cell in cells]
        have = [min(board.free_memory(spec, node), ENDLESS) for node in board.numbers]
    elif demand.pid is None and spec.memory_bytes:
        most = memory_cap(board, spec, count)
        if cells and extras:  # which are no vCPUs, and have no memory
            need, have = [len(cell.vcpus) for cell in cells], most
        else:
            cap = most if cap is None else [min(pair) for pair in zip(cap, most, strict=True)]
    if extras:
        if cells:
            cells += [GuestCell(vcpus=(count + more,)) for more in range(extras)]
            need += [0] * extras if need else []
            pairs = sorted(
                zip(cells, need or [0] * len(cells), strict=True), key=lambda one: -len(one[0].vcpus)
            )
            cells, need = [cell for cell, _ in pairs], [size for _, size in pairs] if need else []
        elif cap is not None:
            cap = [limit + extras for limit in cap]
    near = board.near(demand) if objective.near else [0] * len(board.nodes)
    if away is not None:
        near = [one + PARTS * other for one, other in zip(near, away, strict=True)]
    # memory alone is away by parts of the firmware's unit
    finely = bool(demand.memory) and any(far % PARTS for far in near)
    if not finely:
        near = [far // PARTS for far in near]
    host = board.together_finely if finely else board.together
    fit = host.fit(
        wants.order(count + extras),
        free=wants.free,
        near=near,
        cap=None if cap is None else [min(limit, _MOST_PUS) for limit in cap],
        cells=[len(cell.vcpus) for cell in cells],
        need=need,
        have=have,
    )
    if fit is None:
        return None
    order, places = list(fit.order), list(fit.nodes)
    if cells:
        vcpus = [vcpu for cell in cells for vcpu in cell.vcpus]
        order = [cpu for _, cpu in sorted(zip(vcpus, order, strict=True))]
        places = [place for _, place in sorted(zip(vcpus, places, strict=True))]
    elif extras:
        order, places = _split(order, places, extras, near, cap)
        if cap is not None and any(
            places[:count].count(place) > limit - extras for place, limit in enumerate(cap)
        ):
            return None  # more vCPUs on a node than its memory allows; others may fit yet
    if wants.unit == 1 and spec.threads > 1 and spec.vcpu_policy is VcpuPolicy.DEDICATED:
        order, places = _paired(board, spec, order, places)
    loose = sum(not cell.vcpus for cell in cells)  # they stand last
    homes = [board.numbers[place] for place in fit.cells[len(cells) - loose :]]
    if finely:
        fit = attrs.evolve(fit, distance=(fit.distance + PARTS // 2) // PARTS)
    return fitted(objective, fit, order, [board.numbers[place] for place in places], extras, homes)


def _split(
    order: list[int], places: list[int], extras: int, near: Sequence[int], cap: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """
    Put the PUs for other threads last: where a node has more than its memory allows vCPUs, else near what is near.

    Among those of a node the last ones, so that vCPUs keep their cores and L3 groups.
    """
    chosen: list[int] = []
    left = {place: places.count(place) for place in set(places)}
    for _ in range(extras):
        over = [place for place in left if cap is not None and left[place] > cap[place] - extras]
        place = min(over or [one for one in left if left[one]], key=lambda one: (near[one], left[one], -one))
        left[place] -= 1
        chosen.append(max(at for at, one in enumerate(places) if one == place and at not in chosen))
    rest = [at for at in range(len(order)) if at not in chosen] + chosen
    return [order[at] for at in rest], [places[at] for at in rest]


def _paired(
    board: Board, spec: GuestSpec, order: list[int], places: list[int]
) -> tuple[list[int], list[int]]:
    """Give vCPUs that the guest sees as siblings PUs of one core, as far as there are: its vCPUs change places."""
    unit, count = spec.threads, spec.max_vcpus
    cell_of = {vcpu: at for at, cell in enumerate(spec.cells) for vcpu in cell.vcpus}
    cores: dict[tuple[int, int], list[int]] = {}  # by cell and core: which of the PUs taken
    for vcpu in range(count):
        core = board.columns.core_at.get(order[vcpu], 1 << order[vcpu])
        cores.setdefault((cell_of.get(vcpu, 0), core), []).append(vcpu)
    sets: dict[int, list[list[int]]] = {}  # by cell: siblings
    for (cell, _), taken in cores.items():
        sets.setdefault(cell, []).extend(
            taken[at : at + unit] for at in range(0, len(taken) - unit + 1, unit)
        )
    source: dict[int, int] = {}
    for start in range(0, count, unit):
        group = range(start, start + unit)
        cells = {cell_of.get(vcpu, 0) for vcpu in group}
        whole = sets.get(min(cells)) if len(cells) == 1 else None
        if whole:
            source |= dict(zip(group, whole.pop(0), strict=True))
    used = set(source.values())
    rest: dict[int, list[int]] = {}
    for vcpu in range(count):
        if vcpu not in used:
            rest.setdefault(cell_of.get(vcpu, 0), []).append(vcpu)
    for vcpu in range(count):
        if vcpu not in source:
            source[vcpu] = rest[cell_of.get(vcpu, 0)].pop(0)
    taken = [source[vcpu] for vcpu in range(count)] + list(range(count, len(order)))
    return [order[at] for at in taken], [places[at] for at in taken]


def memory_cap(board: Board, spec: GuestSpec, count: int) -> list[int]:
    """
    How many vCPUs each node may have for the sake of memory that is spread as they are.

    Args:
        board: The host so far.
        spec: What the guest needs; of no cell of it memory is told.
        count: Over how many vCPUs its memory is spread.

    Returns:
        A number for each node, at most ``count``.
    """
    return [
        min(board.free_memory(spec, node) * count // spec.memory_bytes, count) if spec.memory_bytes else count
        for node in board.numbers
    ]


def pinned_cells(spec: GuestSpec) -> list[GuestCell]:
    """
    A guest's cells as the search for its dedicated vCPUs sees them.

    Args:
        spec: What it needs.

    Returns:
        The cells; vCPUs are counted among the dedicated ones alone, of which a cell may have none.
    """
    if len(spec.pinned) == spec.max_vcpus:
        return list(spec.cells)
    place = {vcpu: at for at, vcpu in enumerate(spec.pinned)}
    return [
        attrs.evolve(cell, vcpus=tuple(place[vcpu] for vcpu in cell.vcpus if vcpu in place))
        for cell in spec.cells
    ]


def joined(cells: Iterable[GuestCell], unit: int) -> list[GuestCell]:
    """
    Put cells together that must be in one node.

    Args:
        cells: The cells.
        unit: How many vCPUs, in order of their numbers, are siblings.

    Returns:
        Cells without siblings in common: siblings are on one core, so that cells with some in common count as one.
    """
    if unit == 1:
        return list(cells)
    found: list[GuestCell] = []
    for cell in cells:
        own = cell
        siblings = {vcpu // unit for vcpu in own.vcpus}
        for other in [one for one in found if not siblings.isdisjoint(vcpu // unit for vcpu in one.vcpus)]:
            found.remove(other)
            vcpus = tuple(sorted((*own.vcpus, *other.vcpus)))
            own = GuestCell(vcpus=vcpus, memory_bytes=own.memory_bytes + other.memory_bytes)
        found.append(own)
    return found
