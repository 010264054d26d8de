"""``kvmaff place``: what would be."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from kvmaff.binding.journal import Journal
from kvmaff.cli.common import console, json_errors, json_option, print_json, say, state_option
from kvmaff.cli.deciding import Asked, decide, deciding_options, root_option
from kvmaff.deciding import DEFAULT_STRATEGY
from kvmaff.formats.moves import choices_data, moves_data
from kvmaff.formats.plain import placement_data
from kvmaff.placement.placement import Placement
from kvmaff.report.hostmap import host_map, placement_table
from kvmaff.report.moves import choices_table, steps_table

__all__ = ["place"]

_EXPLAINED = 16


@click.command()
@deciding_options
@root_option
@state_option
@click.option(
    "--explain/--no-explain",
    "with_why",
    default=None,
    help="Say why guests have their places, and what the next best would cost more; unless said, for up to 16.",
)
@json_option
def place(asked: Asked, root: str, journal: Journal, *, with_why: bool | None, as_json: bool) -> None:
    """
    Decide where guests run, and show it; nothing is changed.

    Without GUEST all running guests are placed together, and those to come that a spec names. With --root the host is a
    recorded one, and guests come from the spec.

    With --max-moves N, guests that kvmaff apply placed keep their places, and up to N of them may be moved to make room
    for the others: shown is who has a place with how many moves, and in which order they could be made.

    \b
    Examples:
      kvmaff place
      kvmaff place web --strategy isolated
      kvmaff place --spec guests.toml --root ./recorded-machine
      kvmaff place --spec new.toml --max-moves 3
    """
    empty: dict[str, Any] = {
        **placement_data(None, (), asked.strategy or DEFAULT_STRATEGY),
        **moves_data(None),
        "choices": [],
    }
    with json_errors(empty, as_json=as_json):
        found = decide(asked, journal, root)
    many = found.placement is not None and len(found.placement.guests) > _EXPLAINED
    if with_why is None:
        with_why = not many
    if as_json:
        why = found.placement.explained() if with_why and found.placement else ()
        print_json(
            {
                **placement_data(found.placement, found.unplaced, found.strategy, why),
                **moves_data(found.placement),
                "choices": choices_data(found.choices),
            }
        )
    elif found.placement is None or not found.placement.guests:
        click.echo("no guest was placed" if found.unplaced else "there is no guest to place")
    else:
        out = console()
        out.print(placement_table(found.placement))
        out.print()
        out.print(host_map(found.host, found.placement))
        if with_why:
            out.print()
            out.print(Text(found.placement.explain()), soft_wrap=True)
        if found.choices:
            out.print()
            out.print(choices_table(found.choices))
            _show_steps(found.placement)
    for one in found.unplaced:
        for reason in one.reasons:
            say(f"{one.name} has no place: {reason}")
    if found.unplaced:
        raise click.exceptions.Exit(1)


def _show_steps(placement: Placement) -> None:
    steps = placement.steps()
    if steps:
        console().print(steps_table(steps))
    elif steps is None:
        say("no order was found in which they could change places")
