"""What place, plan and apply share: their options, and the way from them to a placement."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import click

from kvmaff.asking import placed_before
from kvmaff.binding.decided import last_decision
from kvmaff.binding.journal import Journal
from kvmaff.cli.common import root_option, say
from kvmaff.cli.values import cpulist, memory_or_none, name_and_value
from kvmaff.cpuset import CpuSet
from kvmaff.deciding import DEFAULT_STRATEGY, choices, default_policy, place
from kvmaff.errors import PlacementImpossible, WrongUsage
from kvmaff.formats.matching import means, specs_for, void_affinities
from kvmaff.formats.specs import SpecEntry, read_file
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.select import select_guest
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import Host, read_host
from kvmaff.placement.choices import Choice
from kvmaff.placement.moves import Goal, Moves
from kvmaff.placement.placement import Placement, Unplaced
from kvmaff.placement.request import HostRules

__all__ = [
    "Asked",
    "Decision",
    "budget_options",
    "decide",
    "deciding_options",
    "root_option",
    "strategy_options",
]


budget_options = (
    click.option(
        "--max-moved-vcpus",
        type=click.IntRange(0),
        metavar="N",
        help="With --max-moves: of guests with so many vCPUs together.",
    ),
    click.option(
        "--max-moved-memory",
        callback=memory_or_none,
        metavar="SIZE",
        help="With --max-moves: and so much memory together, as '64 GiB'; 0: none that has any.",
    ),
)
"""What else may be said of who may be moved."""


@attrs.frozen(kw_only=True)
class Asked:
    """
    What the command line asks of a decision.

    Attributes:
        names: The guests to place; none for all.
        strategy: Who decides; None where it is not said.
        options: The strategy's options.
        spec_files: Files of specs.
        dedicated: Guests of which nothing is said are dedicated.
        reserved: CPUs that no guest's thread may use.
        max_moves: How many guests that were placed before may be moved; None where all are decided for anew.
        max_moved_vcpus: With so many vCPUs; None for no limit.
        max_moved_memory: With so much memory, bytes; None for no limit.
        goal: What counts where not all have a place; None where it is not said.
    """

    names: tuple[str, ...]
    strategy: str | None
    options: dict[str, str]
    spec_files: tuple[str, ...]
    dedicated: bool
    reserved: CpuSet
    max_moves: int | None
    max_moved_vcpus: int | None
    max_moved_memory: int | None
    goal: str | None

    @property
    def moves(self) -> Moves | None:
        """
        The budget.

        Raises:
            UsageError: Something is said that only means something with ``--max-moves``.
        """
        if self.max_moves is None:
            if (self.max_moved_vcpus, self.max_moved_memory, self.goal) != (None, None, None):
                raise click.UsageError(
                    "--max-moved-vcpus, --max-moved-memory and --goal need --max-moves N, which says who keeps places"
                )
            return None
        return Moves(guests=self.max_moves, vcpus=self.max_moved_vcpus, memory_bytes=self.max_moved_memory)


_strategy = (
    click.option(
        "--strategy", metavar="NAME", help="Who decides: numa, pack, spread, isolated, or a plug-in's."
    ),
    click.option(
        "--option",
        "options",
        multiple=True,
        callback=name_and_value,
        metavar="NAME=VALUE",
        help="An option of the strategy.",
    ),
)


def strategy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Add the options that say who decides.

    Args:
        command: The command's function.

    Returns:
        The same with options.
    """
    for option in _strategy:
        command = option(command)
    return command


def deciding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Add the options that decide.

    Args:
        command: The command's function, which takes them together as ``asked``.

    Returns:
        The same with options.
    """

    @functools.wraps(command)
    def gathered(**given: Any) -> Any:
        asked = Asked(**{field.name: given.pop(field.name) for field in attrs.fields(Asked)})
        return command(asked=asked, **given)

    for option in (
        click.argument("names", nargs=-1, metavar="[GUEST]..."),
        *_strategy,
        click.option("--spec", "spec_files", multiple=True, metavar="FILE", help="What guests need (TOML)."),
        click.option(
            "--dedicated", is_flag=True, help="Guests of which nothing is said get CPUs of their own."
        ),
        click.option(
            "--reserved",
            callback=cpulist,
            default="",
            metavar="CPULIST",
            help="CPUs that no guest's thread may use.",
        ),
        click.option(
            "--max-moves",
            type=click.IntRange(0, 4096),
            metavar="N",
            help="Guests that apply placed before keep their places; up to N may be moved to make room.",
        ),
        *budget_options,
        click.option(
            "--goal",
            type=click.Choice([goal.value for goal in Goal]),
            help="With --max-moves: what counts where not all have a place (vcpus).",
        ),
    ):
        gathered = option(gathered)
    return gathered


@attrs.frozen(kw_only=True)
class Decision:
    """
    What came out.

    Attributes:
        host: The machine.
        strategy: Who decided.
        placement: The places; None where there is none.
        unplaced: The guests without one.
        rules: What was so for the host.
        plugins: The plug-ins.
        choices: With a budget of moves: the answer without moves, and each that admits more than the one before it;
            the last one is what came out.
    """

    host: Host
    strategy: str
    placement: Placement | None
    unplaced: tuple[Unplaced, ...]
    rules: HostRules
    plugins: PluginManager
    choices: tuple[Choice, ...] = ()


def decide(asked: Asked, journal: Journal, root: str = "/") -> Decision:
    """
    Decide as the command line says.

    Args:
        asked: What it says; without a strategy the default decides.
        journal: The folder with what was decided before.
        root: The machine.

    Returns:
        What came out, with the guests that have no place.

    Raises:
        KvmaffError: It cannot be decided at all.
    """
    plugins = PluginManager.load()
    chosen = asked.strategy or DEFAULT_STRATEGY
    moves = asked.moves
    host = read_host(root)
    files = [(file, *read_file(file)) for file in asked.spec_files]
    entries = tuple(entry for _, found, _ in files for entry in found)
    decided, before = None, HostRules()
    if host.live and (asked.names or moves):  # who decides for all decides anew, rules included
        decided, before = last_decision(journal)
    rules = _rules(asked.reserved, [(file, more) for file, _, more in files], before)
    running = find_guests(root, vmms=tuple(plugins.vmms().values())) if host.live or _has_proc(root) else ()
    to_place, entries = _named(running, entries, asked.names)
    if moves is not None and not asked.names:  # who has a place needs none
        settled = {guest.pid for guest, _ in placed_before(running, decided)}
        to_place = [guest for guest in to_place if guest.pid not in settled]
    policy = default_policy(plugins, chosen, dedicated=asked.dedicated)
    able = [one for one in to_place if one.verified and not one.doubt]
    matched = specs_for(entries, able, default=policy)
    there = {guest.name for guest in running if guest.verified} | {spec.name for spec in matched.to_come}
    there |= {one.spec.name for one in (decided.guests if decided else ()) if one.pid is None}
    for warning in (*matched.warnings, *void_affinities(entries, there)):
        say(warning)
    for guest in to_place:
        if not guest.verified:
            say(f"pid {guest.pid} ({guest.name}) is not proved to be a guest and is passed over: {guest.why}")
    others = [guest for guest in running if guest not in to_place]
    said: dict[str, Any] = {
        "specs": entries,
        "options": asked.options,
        "dedicated": asked.dedicated,
        "others": others,
        "rules": rules,
        "plugins": plugins,
        "state_dir": journal.folder,
    }
    found: tuple[Choice, ...] = ()
    if moves is not None:
        goal = Goal(asked.goal or Goal.VCPUS)
        found = choices(host, to_place, chosen, moves=moves, goal=goal, **said)
        placement, unplaced = found[-1].placement, found[-1].unplaced
    else:
        try:
            placement, unplaced = place(host, to_place, chosen, anew=not asked.names, **said), ()
        except PlacementImpossible as error:
            placement, unplaced = error.placement, error.unplaced
    return Decision(
        host=host,
        strategy=chosen,
        placement=placement,
        unplaced=unplaced,
        rules=rules,
        plugins=plugins,
        choices=found,
    )


def _rules(reserved: CpuSet, files: Iterable[tuple[str, HostRules]], before: HostRules) -> HostRules:
    """What all files, and the command line, say of the host together; what no file says is as it was decided before."""
    rules = HostRules()
    problems = []
    for file, more in files:
        if None not in (rules.overcommit, more.overcommit) and rules.overcommit != more.overcommit:
            problems.append(f"{file}: host: overcommit: another file says otherwise")
        problems += [
            f"{file}: pool {pool.name!r}: is in the way of {other.name!r} of another file"
            for pool in more.pools
            for other in rules.pools
            if pool.name == other.name or pool.cpus & other.cpus
        ]
        rules = HostRules(
            reserved=rules.reserved | more.reserved,
            overcommit=more.overcommit if rules.overcommit is None else rules.overcommit,
            pools=(*rules.pools, *more.pools),
        )
    if problems:
        raise WrongUsage.of(problems)
    return HostRules(
        reserved=(rules.reserved or before.reserved) | reserved,
        overcommit=before.overcommit if rules.overcommit is None else rules.overcommit,
        pools=rules.pools or before.pools,
    )


def _named(
    running: tuple[Guest, ...], entries: tuple[SpecEntry, ...], names: tuple[str, ...]
) -> tuple[list[Guest], tuple[SpecEntry, ...]]:
    """The guests that are meant, and the entries for them; a name may be that of a guest to come."""
    meant = {entry: [guest for guest in running if means(entry, guest)] for entry in entries}
    to_come = {entry.name for entry, found in meant.items() if entry.exact and entry.name and not found}
    guests = list(running) if not names else []
    for name in dict.fromkeys(names):
        if name not in to_come:
            guests.append(select_guest(running, name))
    if not names:
        # what cannot be told apart keeps its CPUs and stops nobody else
        for guest in [one for one in guests if one.verified and one.doubt]:
            say(f"guest {guest.name} (pid {guest.pid}) keeps its CPUs: {guest.doubt}")
            guests.remove(guest)
    kept = [
        entry
        for entry, found in meant.items()
        if not entry.exact
        or (found and any(guest in guests for guest in found))
        or (not found and (not names or entry.name in names))
    ]
    return guests, tuple(kept)


def _has_proc(root: str) -> bool:
    return os.path.isdir(os.path.join(root, "proc")) or os.path.isfile(root)
