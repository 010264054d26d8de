"""Where guests run, decided: one call to place them, one for the choice, one for a clean-up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import attrs

from kvmaff.asking import question, what_runs
from kvmaff.errors import PlacementImpossible
from kvmaff.formats.specs import SpecEntry
from kvmaff.guest.guest import Guest
from kvmaff.guest.spec import VcpuPolicy
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host
from kvmaff.placement.choices import Choice
from kvmaff.placement.choices import choices as all_choices
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.placement import Placement, Unplaced
from kvmaff.placement.rebalance import CleanUp, Progress
from kvmaff.placement.request import HostRules

__all__ = ["DEFAULT_STRATEGY", "choices", "default_policy", "place", "rebalance"]

DEFAULT_STRATEGY = "numa"
"""Who decides where nothing else is said."""


def place(
    host: Host,
    guests: Sequence[Guest] = (),
    strategy: str = DEFAULT_STRATEGY,
    *,
    specs: Iterable[SpecEntry] = (),
    options: Mapping[str, object] | None = None,
    dedicated: bool = False,
    others: Sequence[Guest] = (),
    anew: bool = False,
    rules: HostRules | None = None,
    moves: Moves | None = None,
    goal: Goal = Goal.VCPUS,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> Placement:
    """
    Decide where guests run; nothing is changed.

    Args:
        host: The machine, running or recorded.
        guests: The guests to place. Those that are not proved to be guests are passed over.
        strategy: Who decides: ``numa``, ``pack``, ``spread``, ``isolated`` or a plug-in's.
        specs: What guests need, as :func:`read_specs` gives it; of guests that do not run yet, too. A guest of which
            nothing is said is shared, but for strategies that say otherwise.
        options: The strategy's options.
        dedicated: Guests of which nothing is said are dedicated.
        others: Running guests that keep their CPUs; with ``moves`` those of which it was decided where they are may be
            moved, and are part of the answer.
        anew: Forget what was decided before, also for guests to come.
        rules: CPUs that are reserved, CPU pools, over-commit ratios; :func:`read_rules` reads them from specs' files.
            None for those of the last decision, unless it is forgotten.
        moves: How many of the others may be moved; None for none.
        goal: What counts where not all have a place: their vCPUs, or how many they are.
        plugins: The plug-ins; None for all that are installed.
        state_dir: Where it was decided before what the others keep.

    Returns:
        A CPU set for every thread of every guest, verified.

    Raises:
        PlacementImpossible: A guest has no place; says for each why and what would work, and has the others' places.
        PlacementRefused: The strategy's answer breaks a rule, or a plug-in objects.
        WrongUsage: There is no such strategy or option, or several specs are for one guest to come.
        RequestError: There is no such strategy, and a plug-in that does not work could have had it.
        SpecError: A spec contradicts what runs (SpecMismatch), or itself.
        JournalError: What was decided before cannot be believed.
        PluginError: A plug-in failed.
    """
    manager = plugins or PluginManager.load()
    asked = question(
        host,
        guests,
        specs=specs,
        default=default_policy(manager, strategy, dedicated=dedicated),
        others=others,
        anew=anew,
        rules=rules,
        moves=moves,
        goal=goal,
        state_dir=state_dir,
    )
    try:
        placement = manager.decide(asked.request, strategy, options)
    except PlacementImpossible as error:
        raise _impossible((*error.unplaced, *asked.unable), error.placement) from None
    if asked.unable:
        raise _impossible(asked.unable, placement)
    return placement


def choices(
    host: Host,
    guests: Sequence[Guest] = (),
    strategy: str = DEFAULT_STRATEGY,
    *,
    moves: Moves,
    specs: Iterable[SpecEntry] = (),
    options: Mapping[str, object] | None = None,
    dedicated: bool = False,
    others: Sequence[Guest] = (),
    rules: HostRules | None = None,
    goal: Goal = Goal.VCPUS,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> tuple[Choice, ...]:
    """
    Decide as :func:`place` does with no moves, one, two and so on; nothing is changed.

    Args:
        host: As there; so are all that follow.
        guests: The guests to place.
        strategy: Who decides.
        moves: The most that may be moved.
        specs: What guests need.
        options: The strategy's options.
        dedicated: Guests of which nothing is said are dedicated.
        others: Running guests that keep their CPUs, or may be moved if it was decided where they are.
        rules: CPUs that are reserved, CPU pools, over-commit ratios.
        goal: What counts where not all have a place.
        plugins: The plug-ins.
        state_dir: Where it was decided before what the others keep.

    Returns:
        The answer without moves, and each that admits more than the one before it; who has no place is in each.

    Raises:
        KvmaffError: As :func:`place` does, but for PlacementImpossible.
    """
    manager = plugins or PluginManager.load()
    asked = question(
        host,
        guests,
        specs=specs,
        default=default_policy(manager, strategy, dedicated=dedicated),
        others=others,
        anew=False,
        rules=rules,
        moves=moves,
        goal=goal,
        state_dir=state_dir,
    )
    found = all_choices(asked.request, lambda request: manager.decide(request, strategy, options))
    return tuple(attrs.evolve(one, unplaced=(*one.unplaced, *asked.unable)) for one in found)


def rebalance(
    host: Host,
    guests: Sequence[Guest],
    strategy: str = DEFAULT_STRATEGY,
    *,
    moves: Moves | None = None,
    specs: Iterable[SpecEntry] = (),
    options: Mapping[str, object] | None = None,
    rules: HostRules | None = None,
    plugins: PluginManager | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CleanUp:
    """
    Find what guests that run would gain elsewhere; nothing is changed.

    Args:
        host: The running machine.
        guests: The guests that run. Each is where it was decided; one of which nothing was decided is where its vCPUs
            are, if these have a CPU each.
        strategy: By whose levels.
        moves: The most that may be moved; None for no limit.
        specs: What guests need of which nothing was decided.
        options: The strategy's options.
        rules: CPUs that are reserved, CPU pools, over-commit ratios; None for those of the last decision.
        plugins: The plug-ins.
        state_dir: Where it was decided what the guests have.
        progress: Is told how many guests are moved so far, and how much is used of the steps that it may take.

    Returns:
        What each that is moved gains, the order in which they could go, and who was left alone and why. Its placement
        may be given to :func:`plan`.

    Raises:
        PlacementRefused: A plug-in objects.
        RequestError: The strategy does not tell what it wants.
        WrongUsage: There is no such strategy or option.
        SpecError: A spec contradicts what runs.
        JournalError: What was decided before cannot be believed.
        PluginError: A plug-in failed.
    """
    manager = plugins or PluginManager.load()
    budget = Moves(guests=len(guests)) if moves is None else moves
    asked = what_runs(host, guests, specs=specs, rules=rules, moves=budget, state_dir=state_dir)
    found = manager.rebalance(asked.request, strategy, options, progress=progress)
    alone = (*asked.kept, *((one.name, "; ".join(one.reasons)) for one in asked.unable))
    return attrs.evolve(found, left_alone=alone)


def default_policy(plugins: PluginManager, strategy: str, *, dedicated: bool) -> VcpuPolicy:
    """
    The vCPU policy of guests of which nothing is said.

    Args:
        plugins: The plug-ins.
        strategy: Who decides.
        dedicated: Whether the caller wants them dedicated.

    Returns:
        That of the strategy, unless they are dedicated anyway.
    """
    known = plugins.strategies().get(strategy)
    return VcpuPolicy.DEDICATED if dedicated or not known else known.vcpu_policy


def _impossible(unplaced: tuple[Unplaced, ...], placement: Placement | None) -> PlacementImpossible:
    lines = [f"{one.name}: {reason}" for one in unplaced for reason in one.reasons]
    return PlacementImpossible("\n".join(lines), unplaced=unplaced, placement=placement)
