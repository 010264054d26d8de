"""``kvmaff strategies``: who can decide, and what can be asked of each."""

from __future__ import annotations

import click

from kvmaff.cli.common import console, json_errors, json_option, print_json, say
from kvmaff.deciding import DEFAULT_STRATEGY
from kvmaff.formats.strategies import strategies_data
from kvmaff.hooks.decide import find_strategy
from kvmaff.hooks.manager import PluginManager
from kvmaff.report.strategies import options_table, strategies_table

__all__ = ["strategies"]


@click.command()
@click.argument("name", required=False)
@json_option
def strategies(name: str | None, *, as_json: bool) -> None:
    """
    List the strategies, or show the one called NAME: what each wants, and its options.

    An option is given to place, plan and apply as --option OPTION=VALUE. What
    is wrong with a plug-in whose strategies are missing here is said by kvmaff plugins.

    \b
    Examples:
      kvmaff strategies
      kvmaff strategies numa --json
      kvmaff place --strategy numa --option grain=pu
    """
    manager = PluginManager.load()
    with json_errors(strategies_data((), default=DEFAULT_STRATEGY), as_json=as_json):
        names = list(manager.strategies()) if name is None else [name]
        found = [find_strategy(manager, one) for one in names]
    if as_json:
        print_json(strategies_data(found, default=DEFAULT_STRATEGY))
        return
    if found:
        console().print(strategies_table(found, default=DEFAULT_STRATEGY))
    else:
        click.echo("there is no strategy, kvmaff's own are missing too: is kvmaff itself installed?")
    options = options_table(found)
    if options:
        console().print(options)
        click.echo("An option is given as --option OPTION=VALUE, as often as there are options to give.")
    elif found:
        click.echo("It has no options." if name else "None of them has options.")
    if name is None and manager.suspects():
        say(manager.suspects())
