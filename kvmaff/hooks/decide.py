"""
One decision: a strategy is found, given its options, asked, and its answer used only if it keeps every rule.

Rule: nothing of an answer is used before its shape, verify's rules and the plug-ins' objections have been looked at,
a part of an answer (PlacementImpossible with the places of the others) no more than a whole one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import PlacementImpossible, PlacementRefused, PluginError, RequestError, WrongUsage
from kvmaff.hooks.answers import judge_admission, judge_objective, judge_unplaced
from kvmaff.hooks.blame import Origin, blamed, clean
from kvmaff.hooks.options import build_options, near_miss, rebuild_options
from kvmaff.host.topology import Topology
from kvmaff.placement.basis import Basis
from kvmaff.placement.moves import Moves
from kvmaff.placement.placement import Placement, Unplaced
from kvmaff.placement.rebalance import CleanUp, Progress, rebalance
from kvmaff.placement.request import PlacementRequest
from kvmaff.placement.strategy import Strategy
from kvmaff.placement.verify import Violation, verify

__all__ = ["Panel", "clean_up", "decide", "find_strategy"]

_OURS = "kvmaff"
_SENTENCE = 4000
"""Sentences with cpulists of large hosts are long."""


class Panel(Protocol):
    """Who takes part in a decision, as the plug-in manager knows them."""

    def strategies(self) -> dict[str, Strategy]:
        """Return all strategies that can be used."""

    def strategy(self, name: str) -> tuple[Strategy | None, Origin | None]:
        """Return one and whose it is, or raise PluginError."""

    def reserved_cpus(self, topology: Topology) -> CpuSet:
        """Return what plug-ins reserve, or raise PluginError."""

    def check_placement(self, request: PlacementRequest, placement: Placement) -> tuple[Violation, ...]:
        """Return what plug-ins object, or raise PluginError."""

    def suspects(self) -> str:
        """Return who could have had what was not found."""


def decide(
    panel: Panel, request: PlacementRequest, name: str, options: Mapping[str, object] | None
) -> Placement:
    """
    Let a strategy decide; see :meth:`kvmaff.hooks.manager.PluginManager.decide`.

    Args:
        panel: Whose strategies and objections count.
        request: What is to be decided.
        name: The strategy's name.
        options: Its options, or None.

    Returns:
        The placement.

    Raises:
        WrongUsage: There is no such strategy, or an option is wrong.
        RequestError: There is no such strategy, and a plug-in that does not work could have had it.
        PlacementImpossible: A guest has no place.
        PlacementRefused: The answer breaks a rule, or a plug-in objects.
        PluginError: A plug-in failed.
    """
    strategy, origin = find_strategy(panel, name)
    asked = attrs.evolve(
        request,
        options=_options(panel, request, strategy, origin, options),
        reserved=request.reserved | panel.reserved_cpus(request.host.topology),
    )
    impossible: PlacementImpossible | None = None
    answer: object = None
    with blamed(origin, f"strategy {name!r} failed"):
        try:
            # a copy: what the answer is verified against must not be in a stranger's hands
            answer = strategy.place(asked if origin.distribution == _OURS else copy.deepcopy(asked))
        except PlacementImpossible as error:
            impossible = error
    if impossible is None:
        return _checked(panel, asked, strategy, origin, answer)
    raise _judged(panel, asked, strategy, origin, impossible) from impossible


def clean_up(
    panel: Panel,
    request: PlacementRequest,
    name: str,
    options: Mapping[str, object] | None,
    progress: Progress | None = None,
) -> CleanUp:
    """
    Find what guests would gain; see :meth:`kvmaff.hooks.manager.PluginManager.rebalance`.

    Args:
        panel: Whose strategies and objections count.
        request: The host, and guests that all have a place.
        name: The strategy's name.
        options: Its options, or None.
        progress: Is told how far it is.

    Returns:
        Who gains what.

    Raises:
        RequestError: There is no such strategy or option, or it does not tell what it wants.
        PlacementImpossible: A guest cannot stay where it is.
        PlacementRefused: An answer breaks a rule, or a plug-in objects.
        PluginError: A plug-in failed.
    """
    # where everybody stays: its levels are all that is wanted of this answer
    now = decide(panel, attrs.evolve(request, moves=Moves()), name, options)
    if now.basis is None or now.basis.objective is None:
        raise RequestError.of(
            [
                f"strategy '{clean(name, 60)}' does not tell what it wants: nobody can say what guests would gain"
            ]
        )
    asked = attrs.evolve(now.basis.request, moves=request.moves)
    found = rebalance(asked, now.basis.objective, progress=progress)
    assert found.placement.basis is not None
    asked = found.placement.basis.request
    violations = verify(asked, found.placement) or panel.check_placement(asked, found.placement)
    if violations:
        raise _refused(f"the clean-up by strategy {name!r} is refused:", name, violations)
    return found


def find_strategy(panel: Panel, name: str) -> tuple[Strategy, Origin]:
    """
    Find a strategy by its name.

    Args:
        panel: Whose strategies there are.
        name: The name.

    Returns:
        It, and whose it is.

    Raises:
        WrongUsage: There is none; says what was near, and all there are.
        RequestError: The same, where a plug-in that does not work could have had it.
        PluginError: There is, but it cannot be used, or several have the name.
    """
    strategy, origin = panel.strategy(name)
    if strategy is None or origin is None:
        names = list(panel.strategies())
        listed = f"there are: {', '.join(names)}" if names else "there is none at all"
        near = near_miss(name, names)
        said = f"no strategy '{clean(name, 60)}'{near}{'' if near else ';'} {listed}"
        suspects = panel.suspects()
        # what a plug-in that does not work would have given is not known, and so not whether the name is wrong
        raise RequestError.of([said, suspects]) if suspects else WrongUsage.of([said])
    return strategy, origin


def _options(
    panel: Panel,
    request: PlacementRequest,
    strategy: Strategy,
    origin: Origin,
    options: Mapping[str, object] | None,
) -> object:
    if request.options is None:
        return build_options(strategy, origin, options or {}, panel.strategies())
    problems = []
    if options:
        problems.append("options are given twice, in the request and beside it")
    if type(request.options) is not strategy.options:
        kind = clean(type(request.options).__name__, 60)
        problems.append(
            f"the request's options are of type {kind}, those of strategy {strategy.name!r} are not"
        )
    if problems:
        raise RequestError.of(problems)
    return rebuild_options(strategy, origin, request.options)


def _checked(
    panel: Panel, request: PlacementRequest, strategy: Strategy, origin: Origin, answer: object
) -> Placement:
    """Return the answer as it may be used, or raise what is wrong with it."""
    if type(answer) is not Placement:
        kind = clean(type(answer).__name__, 60)
        raise origin.error(f"strategy {strategy.name!r} gave a value of type {kind}, no Placement")
    violations = verify(request, answer)
    if not violations:
        # only now is it known that every part is what it should be
        guests = (
            attrs.evolve(guest, why=tuple(clean(text, _SENTENCE) for text in guest.why))
            if guest.why
            else guest
            for guest in answer.guests
        )
        # what was wanted is theirs to say, what was asked is not: it is searched again when somebody asks why
        objective = answer.basis.objective if type(answer.basis) is Basis else None
        basis = Basis(request=request, objective=objective) if judge_objective(objective) else None
        admission = answer.admission if judge_admission(answer.admission) else None
        placement = Placement(strategy=strategy.name, guests=tuple(guests), basis=basis, admission=admission)
        violations = panel.check_placement(request, placement)
    if violations:
        raise _refused(
            f"the answer of strategy {strategy.name!r} ({origin}) is refused:", strategy.name, violations
        )
    return placement


def _refused(head: str, name: str, violations: tuple[Violation, ...]) -> PlacementRefused:
    lines = [head]
    for violation in violations:
        text = clean(violation.message, _SENTENCE)
        whose = "" if violation.guest is None else f"guest {violation.guest!r}: "
        lines.append(f"{'' if text.startswith(whose) else whose}{text} [{violation.rule}]")
    return PlacementRefused("\n".join(lines), strategy=name, violations=violations)


def _judged(
    panel: Panel,
    request: PlacementRequest,
    strategy: Strategy,
    origin: Origin,
    error: PlacementImpossible,
) -> PlacementImpossible | PluginError:
    """Return the error as it may be shown, the places that it has checked like any; or what is wrong with it."""
    unplaced: Any = getattr(error, "unplaced", None)
    wrong = judge_unplaced(unplaced)
    if not wrong:
        names = {one.name for one in unplaced}
        strange = names - {demand.spec.name for demand in request.demands}
        wrong = [
            f"it finds no place for {clean(name, 60)!r}, which was not asked" for name in sorted(strange)
        ]
    if wrong:
        return origin.error("; ".join(f"strategy {strategy.name!r}: {what}" for what in wrong))
    placement = getattr(error, "placement", None)
    if placement is not None:
        others = tuple(demand for demand in request.demands if demand.spec.name not in names)
        placement = _checked(panel, attrs.evolve(request, demands=others), strategy, origin, placement)
    details = {
        **error.details,
        "unplaced": tuple(
            Unplaced(
                name=one.name,
                reasons=tuple(clean(reason, _SENTENCE) for reason in one.reasons),
                removed=one.removed,
                remedies=tuple(
                    attrs.evolve(remedy, text=clean(remedy.text, _SENTENCE)) for remedy in one.remedies
                ),
            )
            for one in unplaced
        ),
        "placement": placement,
    }
    text = "\n".join(clean(line, _SENTENCE) for line in error.message.splitlines())
    return PlacementImpossible(text, **details)
