"""``kvmaff guests``: what runs, and where."""

from __future__ import annotations

import os

import click

from kvmaff.cli.common import console, json_option, print_json, root_option, say
from kvmaff.formats.plain import guests_data
from kvmaff.guest.askmonitors import AskMonitors
from kvmaff.guest.discover import find_guests
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host
from kvmaff.report.tables import guests_table

__all__ = ["guests"]


@click.command()
@click.option("--threads", is_flag=True, help="A row for each thread.")
@click.option(
    "--ask",
    type=click.Choice([str(one) for one in AskMonitors]),
    default=str(AskMonitors.IN_DOUBT),
    show_default=True,
    help="Whose QMP monitors are asked which thread is which: those of guests whose threads have no names, every "
    "guest's, to compare with names and with what the kernel says, or nobody's. A monitor serves one client.",
)
@root_option
@json_option
def guests(root: str, *, ask: str, threads: bool, as_json: bool) -> None:
    """
    List the running guests, their threads by role, and the CPUs each may run on.

    \b
    Examples:
      kvmaff guests
      kvmaff guests --threads
      kvmaff guests --threads --ask always
      kvmaff guests --json
    """
    vmms = tuple(PluginManager.load().vmms().values())
    found = find_guests(read_host(root).root, vmms=vmms, ask=AskMonitors(ask))
    if as_json:
        print_json(guests_data(found))
        return
    if not found:
        click.echo(
            "no guest is running" if os.geteuid() == 0 else "no guest is running that this user may see"
        )
        return
    console().print(guests_table(found, every_thread=threads))
    for guest in found:
        if not guest.verified:
            say(f"pid {guest.pid} ({guest.name}) is not proved to be a guest: {guest.why}")
        elif guest.doubt:
            say(f"guest {guest.name} (pid {guest.pid}): {guest.doubt}")
        elif guest.unanswered:
            say(f"guest {guest.name} (pid {guest.pid}): {guest.unanswered}")
