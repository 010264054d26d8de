"""The place that costs a dedicated guest least, of all there are: the compiled search, asked in its terms."""

from __future__ import annotations

from collections.abc import Iterable

from kvmaff.guest.spec import GuestCell, GuestSpec
from kvmaff.placement.board import Board
from kvmaff.placement.objective import Objective
from kvmaff.placement.scoring import Candidate, Wants, near, scored

__all__ = ["exact"]

_ENDLESS = 1 << 62


def exact(
    board: Board, spec: GuestSpec, wants: Wants, objective: Objective, *, memory: bool
) -> Candidate | None:
    """
    Find the place that costs a dedicated guest least, of all there are.

    Args:
        board: The host so far.
        spec: What the guest needs.
        wants: The same in the fit's terms.
        objective: What is wanted; its :attr:`Objective.exact` holds.
        memory: Whether its memory is still to be found.

    Returns:
        The place; None where it does not fit.
    """
    if wants.vcpus % wants.unit:
        return None  # some would be without a sibling
    numbers = [node.number for node in board.nodes]
    away = [near(board, spec, node) if objective.near else 0 for node in numbers]
    cells = sorted(_joined(spec.cells, wants.unit), key=lambda cell: -len(cell.vcpus))
    cap, need, have = None, [], []
    if memory and any(cell.memory_bytes for cell in cells):
        need = [min(cell.memory_bytes, _ENDLESS) for cell in cells]
        have = [min(board.memory.get(node, _ENDLESS), _ENDLESS) for node in numbers]
    elif memory and spec.memory_bytes:
        # memory is spread as the vCPUs are, so that it limits how many of them a node can have
        cap = [
            min(board.memory.get(node, spec.memory_bytes) * wants.vcpus // spec.memory_bytes, wants.vcpus)
            for node in numbers
        ]
    fit = board.together().fit(
        wants.order(wants.vcpus),
        free=wants.free,
        near=away,
        cap=cap,
        cells=[len(cell.vcpus) for cell in cells],
        need=need,
        have=have,
    )
    if fit is None:
        return None
    order, nodes = list(fit.order), [numbers[place] for place in fit.nodes]
    if cells:
        vcpus = [vcpu for cell in cells for vcpu in cell.vcpus]
        order = [cpu for _, cpu in sorted(zip(vcpus, order, strict=True))]
        nodes = [node for _, node in sorted(zip(vcpus, nodes, strict=True))]
    return scored(board, spec, wants, objective, order, nodes, proved=fit.proved)


def _joined(cells: Iterable[GuestCell], unit: int) -> list[GuestCell]:
    """Cells that have siblings in common are in one node, as siblings are on one core: they count as one cell."""
    joined: list[GuestCell] = []
    for cell in cells:
        own = cell
        siblings = {vcpu // unit for vcpu in own.vcpus}
        for other in [one for one in joined if not siblings.isdisjoint(vcpu // unit for vcpu in one.vcpus)]:
            joined.remove(other)
            vcpus = tuple(sorted((*own.vcpus, *other.vcpus)))
            own = GuestCell(vcpus=vcpus, memory_bytes=own.memory_bytes + other.memory_bytes)
        joined.append(own)
    return joined
