"""
The compiled fit beside a solver that knows nothing of it: OR-tools' CP-SAT, on ragged hosts of up to 128 CPUs.

The solver gets the rules and the definition of the cost. What comes first is minimised and fixed, then what comes
next; all the levels that follow the distance are one sum whose weights keep them apart. More than the usual number of
hosts: ``KVMAFF_CPSAT=1000 pytest tests/placement/test_fit_cpsat.py``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from random import Random

import pytest
from ortools.sat.python import cp_model

from kvmaff.placement._fit import fit_host

from .fit_twin import Answer, Cell, Core, Cost, Question, by_node, possible_takes, problems

HOSTS = int(os.environ.get("KVMAFF_CPSAT", "100"))
LIMIT_S = 60.0


def ragged_host(random: Random) -> Question:
    """A host of up to 8 nodes and 128 CPUs, part of it used, and a guest that most often fits."""
    nodes = random.choice((1, 2, 4, 4, 6, 8, 8, 8))
    per_node = random.choice((16, 16, 16, 12, 8))
    used = random.choice((0.0, 0.2, 0.5, 0.7, 0.9))
    cores = []
    for node in range(nodes):
        groups = random.choice((1, 1, 2, 4))
        left = random.choice((per_node, per_node, per_node // 2))
        while left > 0:
            total = min(left, random.choice((2, 2, 2, 2, 1, 4, 3)))
            left -= total
            some = random.random() < used
            free = 0 if some and random.random() < 0.6 else random.randint(0, total) if some else total
            cores.append(Core(random.randrange(groups), total, free, node))
    sockets = random.choice((1, 2, 2))
    inside, between = random.choice(((2, 22), (11, 11), (1, 11)))
    odd = random.random() < 0.3
    far = [[0] * nodes for _ in range(nodes)]
    for one in range(nodes):
        for other in range(one):
            same = one * sockets // nodes == other * sockets // nodes
            far[one][other] = far[other][one] = random.randint(1, 30) if odd else inside if same else between
    unit = random.choice((1, 1, 2))
    per_core = random.choice((0, 0, 0, unit))
    whole = random.random() < 0.2
    rules = Question(vcpus=unit, unit=unit, per_core=per_core, whole=whole)
    room = sum(max(possible_takes(rules, core)) for core in cores) // unit
    vcpus = unit * random.randint(1, max(room, 1))
    cells: tuple[Cell, ...] = ()
    have: tuple[tuple[int, ...], ...] = ()
    if random.random() < 0.25:
        cuts = sorted({random.randint(1, vcpus // unit) for _ in range(3)} | {vcpus // unit})
        sizes = sorted((end - begin for begin, end in zip([0, *cuts], cuts, strict=False)), reverse=True)
        cells = tuple(Cell(unit * size, (random.randint(0, 4),)) for size in sizes)
        cells += tuple(Cell(0, (random.randint(0, 9),)) for _ in range(random.choice((0, 0, 1, 2, 3))))
        have = tuple((random.randint(2, 9),) for _ in range(nodes))
    wide = [-1] * nodes
    for node in range(nodes):
        if len({core.group for core in cores if core.node == node}) == 1:
            wide[node] = random.choice((-1, 0, 1))
    return Question(
        vcpus=vcpus,
        unit=unit,
        per_core=per_core,
        whole=whole,
        cores=tuple(cores),
        distance=tuple(map(tuple, far)),
        near=tuple(random.choice((0, 0, 0, 2, 22)) for _ in range(nodes)),
        cap=tuple(random.choice((8192, 8192, 8192, 6)) for _ in range(nodes)),
        wide=tuple(wide),
        cells=cells,
        have=have,
    )


class Model:
    """A question as the solver has it."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.model = model = cp_model.CpModel()
        self.takes = [
            model.new_int_var_from_domain(
                cp_model.Domain.from_values(possible_takes(question, core)), f"core {at}"
            )
            for at, core in enumerate(question.cores)
        ]
        self.counts = [
            model.new_int_var(0, min(question.cap[node], question.vcpus), f"node {node}")
            for node in range(question.nodes)
        ]
        for node, count in enumerate(self.counts):
            model.add(count == sum(self.takes[at] for at in question.members(node)))
        model.add(sum(self.counts) == question.vcpus)
        self._cells()
        self.distance = self._distance()
        groups, shared, broken, lost = self._groups(), *self._cores(), self._lost()
        cores, worth = len(question.cores) + 1, 2 * question.accept[sum(c.free for c in question.cores)] + 1
        self.rest = ((groups * cores + shared) * cores + broken) * worth + lost

    def _used(self, some: Sequence[cp_model.IntVar], name: str) -> cp_model.IntVar:
        """Whether anything is taken."""
        used = self.model.new_bool_var(name)
        self.model.add(sum(some) >= 1).only_enforce_if(used)
        self.model.add(sum(some) == 0).only_enforce_if(~used)
        return used

    def _cells(self) -> None:
        question, model = self.question, self.model
        if not question.cells:
            return
        place = {
            (cell, node): model.new_bool_var(f"cell {cell} on {node}")
            for cell in range(len(question.cells))
            for node in range(question.nodes)
        }
        for cell in range(len(question.cells)):
            model.add_exactly_one(place[cell, node] for node in range(question.nodes))
        for node, count in enumerate(self.counts):
            here = [(one, place[at, node]) for at, one in enumerate(question.cells)]
            model.add(count == sum(one.vcpus * on for one, on in here))
            for resource, most in enumerate(question.have[node]):
                model.add(sum(one.need[resource] * on for one, on in here) <= most)

    def _distance(self) -> cp_model.LinearExprT:
        """The number of pairs on each two nodes is a product; all pairs of a node's vCPUs together are known."""
        question, model, counts = self.question, self.model, self.counts
        most = question.vcpus * question.vcpus
        pairs: dict[tuple[int, int], cp_model.IntVar] = {}
        for one in range(question.nodes):
            for other in range(one + 1):
                product = model.new_int_var(0, most, f"pairs {one} {other}")
                model.add_multiplication_equality(product, [counts[one], counts[other]])
                pairs[one, other] = pairs[other, one] = product
        for one in range(question.nodes):  # follows from the rest, but shortens the proof
            model.add(
                sum(pairs[one, other] for other in range(question.nodes)) == question.vcpus * counts[one]
            )
        total = sum(near * count for near, count in zip(question.near, counts, strict=True))
        return total + sum(
            question.distance[one][other] * pairs[one, other] for one, other in pairs if one > other
        )

    def _groups(self) -> cp_model.LinearExprT:
        members = defaultdict(list)
        for core, take in zip(self.question.cores, self.takes, strict=True):
            wide = self.question.wide[core.node]
            members[("wide", wide) if wide >= 0 else (core.node, core.group)].append(take)
        return sum(self._used(some, f"group {name}") for name, some in members.items())

    def _cores(self) -> tuple[cp_model.LinearExprT, cp_model.LinearExprT]:
        shared, broken = [], []
        for at, (core, take) in enumerate(zip(self.question.cores, self.takes, strict=True)):
            if core.free == 0:
                continue
            if core.free < core.total:
                shared.append(self._used([take], f"shared {at}"))
                continue
            part = self.model.new_bool_var(f"broken {at}")
            self.model.add_linear_expression_in_domain(
                take, cp_model.Domain.from_values([0, core.total])
            ).only_enforce_if(~part)
            broken.append(part)
        return sum(shared), sum(broken)

    def _lost(self) -> cp_model.LinearExprT:
        places = defaultdict(list)
        for core, take in zip(self.question.cores, self.takes, strict=True):
            places[core.node,].append((core.free, take))
            places[core.node, core.group].append((core.free, take))
        total: cp_model.LinearExprT = 0
        for name, some in places.items():
            worths = self.question.accept[: sum(free for free, _ in some) + 1]
            taken = self.model.new_int_var(0, len(worths) - 1, f"taken {name}")
            self.model.add(taken == sum(take for _, take in some))
            lost = self.model.new_int_var(0, worths[-1], f"lost {name}")
            self.model.add_element(taken, [worths[-1] - worth for worth in reversed(worths)], lost)
            total += lost
        return total

    def least(self, what: cp_model.LinearExprT, hint: Answer | None) -> int | None:
        """The least value, and nothing less from now on; None where there is no answer."""
        self.model.minimize(what)
        self.model.clear_hints()
        for var, value in zip(self.takes, hint.takes if hint else (), strict=False):
            self.model.add_hint(var, value)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.catch_sigint_signal = False  # or Ctrl-C would end Python unasked ever after
        solver.parameters.max_time_in_seconds = LIMIT_S
        status = solver.solve(self.model)
        if status == cp_model.INFEASIBLE:
            return None
        assert status == cp_model.OPTIMAL, solver.status_name(status)
        least = round(solver.objective_value)
        self.model.add(what == least)
        self.found = [solver.value(take) for take in self.takes]
        return least


def solved(question: Question, hint: Answer | None) -> Cost | None:
    """What the solver says that the best answer costs; an answer to begin with only makes it faster."""
    if any(cell.vcpus % question.unit for cell in question.cells):
        return None
    model = Model(question)
    distance = model.least(model.distance, hint)
    if distance is None:
        return None
    rest = model.least(model.rest, hint)
    assert rest is not None
    cores = len(question.cores) + 1
    rest, lost = divmod(rest, 2 * question.accept[sum(core.free for core in question.cores)] + 1)
    rest, broken = divmod(rest, cores)
    groups, shared = divmod(rest, cores)
    return distance, groups, shared, broken, lost


@pytest.mark.parametrize("seed", range(HOSTS))
def test_equal_to_the_solver(seed: int) -> None:
    """On any host the compiled fit costs what the solver proves to be the least, or both say that nothing fits."""
    question = ragged_host(Random(seed))
    actual = question.ask(fit_host)
    assert actual is None or (actual.proved and problems(question, actual) == [])
    assert solved(question, actual) == (actual and actual.cost)


def test_the_hosts_are_worth_asking_about() -> None:
    """Most guests fit, many need several nodes, some are refused."""
    questions = [ragged_host(Random(seed)) for seed in range(HOSTS)]
    answers = [(question, question.ask(fit_host)) for question in questions]
    fits = [(question, answer) for question, answer in answers if answer is not None]
    several = [1 for question, answer in fits if sum(map(bool, by_node(question, answer.takes))) > 1]
    assert len(fits) >= HOSTS // 2
    assert len(several) >= HOSTS // 5
    assert len(fits) < HOSTS
