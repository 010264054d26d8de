"""``kvmaff rebalance``: what a clean-up would gain."""

from __future__ import annotations

from typing import Any

import attrs
import click
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from kvmaff.api import plan as make_plan
from kvmaff.binding.journal import Journal
from kvmaff.cli.common import (
    console,
    finish_binding,
    json_errors,
    json_option,
    print_json,
    progress_on,
    say,
    state_option,
)
from kvmaff.cli.deciding import budget_options, strategy_options
from kvmaff.deciding import DEFAULT_STRATEGY
from kvmaff.deciding import rebalance as clean_up
from kvmaff.formats.moves import clean_up_data
from kvmaff.formats.specs import read_file
from kvmaff.guest.discover import find_guests
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host
from kvmaff.placement.moves import Moves
from kvmaff.report.moves import gains_table, steps_table

__all__ = ["rebalance"]


def _budget(command: Any) -> Any:
    for option in budget_options:
        command = option(command)
    return command


@click.command()
@strategy_options
@click.option(
    "--spec",
    "spec_files",
    multiple=True,
    metavar="FILE",
    help="What guests need of which nothing was decided.",
)
@click.option(
    "--max-moves",
    type=click.IntRange(0, 4096),
    metavar="N",
    help="Move at most N guests; without it, all that gain.",
)
@_budget
@click.option("--apply", "do_it", is_flag=True, help="Do it, in that order; kvmaff undo takes it back.")
@state_option
@json_option
def rebalance(
    strategy: str | None,
    options: dict[str, str],
    spec_files: tuple[str, ...],
    max_moves: int | None,
    max_moved_vcpus: int | None,
    max_moved_memory: int | None,
    journal: Journal,
    *,
    do_it: bool,
    as_json: bool,
) -> None:
    """
    Show what the guests that run would gain elsewhere, and in which order they could go; nothing is changed.

    A guest is where kvmaff apply placed it; one that it did not place is where its vCPUs are, if each is bound to a CPU
    of its own. In the order that is shown no CPU is ever two guests' at once.

    \b
    Examples:
      kvmaff rebalance
      kvmaff rebalance --strategy pack --max-moves 2 --json
      kvmaff rebalance --max-moves 1 --apply
    """
    name = strategy or DEFAULT_STRATEGY
    empty = {"strategy": name, "gains": [], "moved": [], "steps": [], "left_alone": []}
    with json_errors(empty, as_json=as_json):
        plugins = PluginManager.load()
        host = read_host()
        running = find_guests(vmms=tuple(plugins.vmms().values()))
        most = len(running) if max_moves is None else max_moves
        specs = [entry for file in spec_files for entry in read_file(file)[0]]
        with progress_on(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as shown:
            line = shown.add_task("looking who would gain")
            found = clean_up(
                host,
                running,
                name,
                moves=Moves(guests=most, vcpus=max_moved_vcpus, memory_bytes=max_moved_memory),
                specs=specs,
                options=options,
                plugins=plugins,
                state_dir=journal.folder,
                progress=lambda moved, used: shown.update(
                    line,
                    description=f"looking who would gain: {moved} so far, {used:.0%} of what is tried at most",
                ),
            )
    if do_it and found.gains:
        made = make_plan(host, found.placement, plugins=plugins, state_dir=journal.folder)
        if not as_json:
            console().print(gains_table(found))
        finish_binding(lambda: attrs.evolve(made, whole=False).apply(), as_json=as_json)
        return
    if as_json:
        print_json(clean_up_data(found))
    elif found.gains:
        console().print(gains_table(found))
        console().print(steps_table(found.steps))
    elif found.placement.guests:
        click.echo("nothing to gain: no guest would cost less elsewhere")
    else:
        click.echo("there is no guest of which it is known where it is to be")
    for guest, why in found.left_alone:
        say(f"guest {guest} was left alone: {why}")
