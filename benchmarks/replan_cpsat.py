"""
The most vCPUs that could be admitted, by CP-SAT, for ``bench_replan.py``: who is on which node, in counts alone.

Every guest is of one cell and has a node to itself or not: nodes have so many CPUs, guests that run stay somewhere, and
at most so many of them elsewhere. In which order they could move is not asked of CP-SAT, so that its optimum is never
less than what can be done; of small hosts every order is gone through besides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ortools.sat.python import cp_model

from kvmaff.placement.request import PlacementRequest

__all__ = ["most_admitted", "most_in_order"]

_SECONDS = 20.0


def most_admitted(request: PlacementRequest) -> int | None:
    """
    Find the most vCPUs of guests to come that have a place.

    Args:
        request: Guests of one cell each.

    Returns:
        How many; None where that was not proved in time.
    """
    model = cp_model.CpModel()
    nodes = request.host.topology.nodes
    model_of = {
        (demand.spec.name, node.number): model.new_bool_var("")
        for demand in request.demands
        for node in nodes
    }
    moved = []
    for demand in request.demands:
        places = [model_of[demand.spec.name, node.number] for node in nodes]
        if demand.now is None:
            model.add(sum(places) <= 1)
        else:
            model.add(sum(places) == 1)
            moved.append(1 - model_of[demand.spec.name, demand.now.nodes[0]])
    for node in nodes:
        used = (demand.spec.max_vcpus * model_of[demand.spec.name, node.number] for demand in request.demands)
        model.add(sum(used) <= len(node.cpus))
    model.add(sum(moved) <= request.moves.guests)
    model.maximize(
        sum(
            demand.spec.max_vcpus * model_of[demand.spec.name, node.number]
            for demand in request.demands
            if demand.now is None
            for node in nodes
        )
    )
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.catch_sigint_signal = False  # or Ctrl-C would end Python unasked ever after
    solver.parameters.max_time_in_seconds = _SECONDS
    return round(solver.objective_value) if solver.solve(model) == cp_model.OPTIMAL else None


def most_in_order(request: PlacementRequest, most: int = 1 << 17) -> int | None:
    """
    Find the most vCPUs that can be admitted by moves one after the other, each guest onto CPUs that are free then.

    Args:
        request: Guests of one cell each.
        most: So many states are looked at.

    Returns:
        How many; None where there are more states. Any guest may wait anywhere meanwhile: who is back in the end was
        not moved.
    """
    nodes = {node.number: at for at, node in enumerate(request.host.topology.nodes)}
    sizes = [demand.spec.max_vcpus for demand in request.demands if demand.now is not None]
    start = tuple(nodes[demand.now.nodes[0]] for demand in request.demands if demand.now is not None)
    room = [len(node.cpus) for node in request.host.topology.nodes]
    come = sorted((demand.spec.max_vcpus for demand in request.demands if demand.now is None), reverse=True)
    seen, left = {start}, deque([start])
    best = 0
    while left:
        state = left.popleft()
        free = room[:]
        for size, at in zip(sizes, state, strict=True):
            free[at] -= size
        if sum(one != other for one, other in zip(state, start, strict=True)) <= request.moves.guests:
            best = max(best, _packed(come, free))
        for guest, size in enumerate(sizes):
            for at, have in enumerate(free):
                after = (*state[:guest], at, *state[guest + 1 :])
                if at != state[guest] and have >= size and after not in seen:
                    if len(seen) == most:
                        return None
                    seen.add(after)
                    left.append(after)
    return best


def _packed(sizes: Sequence[int], free: list[int]) -> int:
    """The most of some guests that nodes hold."""
    if not sizes:
        return 0
    best = _packed(sizes[1:], free)
    for at, have in enumerate(free):
        if have >= sizes[0]:
            rest = [*free[:at], have - sizes[0], *free[at + 1 :]]
            best = max(best, sizes[0] + _packed(sizes[1:], rest))
    return best
