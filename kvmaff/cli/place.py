"""``kvmaff place``: what would be."""

from __future__ import annotations

from typing import Any

import click

from kvmaff.binding.journal import Journal
from kvmaff.cli.common import console, json_errors, json_option, print_json, say, state_option
from kvmaff.cli.deciding import Asked, decide, deciding_options, root_option
from kvmaff.formats.plain import placement_data
from kvmaff.report.hostmap import host_map, placement_table

__all__ = ["place"]


@click.command()
@deciding_options
@root_option
@state_option
@json_option
def place(asked: Asked, root: str, journal: Journal, *, as_json: bool) -> None:
    """
    Decide where guests run, and show it; nothing is changed.

    Without GUEST all running guests are placed together, and those to come that a spec names. With --root the host is a
    recorded one, and guests come from the spec.

    \b
    Examples:
      kvmaff place
      kvmaff place web --strategy isolated
      kvmaff place --spec guests.toml --root ./recorded-machine
    """
    empty: dict[str, Any] = {"strategy": asked.strategy, "guests": [], "unplaced": []}
    with json_errors(empty, as_json=as_json):
        found = decide(asked, journal, root)
    if as_json:
        print_json(placement_data(found.placement, found.unplaced, found.strategy))
    elif found.placement is None or not found.placement.guests:
        click.echo("no guest was placed" if found.unplaced else "there is no guest to place")
    else:
        out = console()
        out.print(placement_table(found.placement))
        out.print()
        out.print(host_map(found.host, found.placement))
    for one in found.unplaced:
        for reason in one.reasons:
            say(f"{one.name} has no place: {reason}")
    if found.unplaced:
        raise click.exceptions.Exit(1)
