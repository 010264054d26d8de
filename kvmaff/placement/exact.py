"""The place that costs a dedicated guest least, of all there are: the compiled search, asked in its terms."""

from __future__ import annotations

from kvmaff.guest.spec import GuestSpec
from kvmaff.placement.board import Board
from kvmaff.placement.objective import Objective
from kvmaff.placement.scoring import Candidate, Wants, near, scored, siblings_together

__all__ = ["exact", "exact_knows"]

_MOST_NODES = 64
_MOST_CELLS = 256
_ENDLESS = 1 << 62


def exact_knows(board: Board, spec: GuestSpec) -> bool:
    """
    Whether the search is wide enough for a host and a guest.

    Args:
        board: The host.
        spec: What the guest needs.

    Returns:
        False on hosts of more than 64 NUMA nodes and for guests of more than 256 cells.
    """
    return len(board.nodes) <= _MOST_NODES and len(spec.cells) <= _MOST_CELLS


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
    cells = sorted(spec.cells, key=lambda cell: -len(cell.vcpus))
    cap, need, have = None, [], []
    if memory and any(cell.memory_bytes for cell in cells):
        need = [cell.memory_bytes for cell in cells]
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
        if wants.unit > 1 and not siblings_together(board, order, wants.unit):
            return None  # cells tear siblings apart
    return scored(board, spec, wants, objective, order, nodes, proved=fit.proved)
