"""``kvmaff plugins``: who takes part in deciding."""

from __future__ import annotations

import click

from kvmaff.cli.common import console, json_option, print_json
from kvmaff.formats.plugins import plugins_data
from kvmaff.hooks.manager import PluginManager
from kvmaff.report.plugins import plugins_table

__all__ = ["plugins"]


@click.command()
@json_option
def plugins(*, as_json: bool) -> None:
    """
    List the installed plug-ins, what each gives, and what is wrong with those that do not work.

    A plug-in is an entry point of the group "kvmaff". KVMAFF_DISABLE_PLUGINS turns off those whose name fits one of
    its globs, parted by commas; they are not even imported.

    \b
    Examples:
      kvmaff plugins
      kvmaff plugins --json
      KVMAFF_DISABLE_PLUGINS='test-*,cache-aware' kvmaff plugins
    """
    found = PluginManager.load().plugins
    if as_json:
        print_json(plugins_data(found))
    elif found:
        console().print(plugins_table(found))
    else:
        click.echo("no plug-in is installed, kvmaff's own are missing too: is kvmaff itself installed?")
