"""``kvmaff plan``: what differs from the decision."""

from __future__ import annotations

import attrs
import click

from kvmaff.api import plan as make_plan
from kvmaff.binding.journal import Journal
from kvmaff.binding.plan import Plan
from kvmaff.cli.common import console, json_errors, json_option, print_json, say, state_option
from kvmaff.cli.deciding import Asked, decide, deciding_options
from kvmaff.errors import PlacementImpossible
from kvmaff.formats.plain import plan_data
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host
from kvmaff.report.tables import plan_table

__all__ = ["plan", "planned", "say_of"]


def planned(asked: Asked, journal: Journal) -> Plan:
    """
    Make the plan that the command line asks for.

    Args:
        asked: What it asks; without a strategy the machine is compared with what was decided last.
        journal: The folder of records and of the decision.

    Returns:
        The plan.

    Raises:
        PlacementImpossible: A guest has no place; nothing is planned then.
        UsageError: Something is said that only a new decision could use.
    """
    if asked.strategy is None:
        said = (asked.names, asked.options, asked.spec_files, asked.dedicated, asked.reserved, asked.moves)
        if any(said):
            raise click.UsageError(
                "without --strategy the machine is compared with what was decided last; with guests, options, "
                "specs, --reserved, --dedicated or --max-moves, say --strategy NAME too"
            )
        return make_plan(read_host(), plugins=PluginManager.load(), state_dir=journal.folder)
    found = decide(asked, journal)
    if found.unplaced or found.placement is None:
        lines = [f"{one.name} has no place: {reason}" for one in found.unplaced for reason in one.reasons]
        raise PlacementImpossible("\n".join(lines), unplaced=found.unplaced, placement=found.placement)
    made = make_plan(
        found.host, found.placement, rules=found.rules, plugins=found.plugins, state_dir=journal.folder
    )
    # who keeps places keeps what was decided of others, too
    return attrs.evolve(made, whole=not asked.names and asked.moves is None)


@click.command()
@deciding_options
@state_option
@json_option
def plan(asked: Asked, journal: Journal, *, as_json: bool) -> None:
    """
    Show which threads are not where they should be; nothing is changed.

    Without --strategy they should be where kvmaff apply put them last: what shows is drift, and vCPUs plugged in since.

    \b
    Examples:
      kvmaff plan
      kvmaff plan --strategy numa
      kvmaff plan web --strategy isolated --json
    """
    with json_errors({"strategy": asked.strategy, "changes": []}, as_json=as_json):
        made = planned(asked, journal)
    if as_json:
        print_json(plan_data(made))
    elif made:
        console().print(plan_table(made))
    elif made.placement.guests and not made.homeless:
        click.echo("nothing to do: every decided thread is where it should be")
    else:
        click.echo("nothing to do")
    say_of(made)
    if made.homeless:
        raise click.exceptions.Exit(1)


def say_of(made: Plan) -> None:
    """
    Say what a plan cannot do anything about.

    Args:
        made: The plan.
    """
    for name in made.absent:
        say(f"guest {name} was decided and does not run")
    for text in made.homeless:
        say(f"{text}; decide anew, with max_vcpus in its spec")
