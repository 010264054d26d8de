"""``kvmaff topology``: what the machine is."""

from __future__ import annotations

import click

from kvmaff.cli.common import console, json_option, print_json, root_option
from kvmaff.formats.plain import topology_data
from kvmaff.host.reader import read_host
from kvmaff.report.tables import host_table

__all__ = ["topology"]


@click.command()
@root_option
@json_option
def topology(root: str, *, as_json: bool) -> None:
    """
    Show packages, cores, caches, NUMA nodes and isolated CPUs.

    \b
    Examples:
      kvmaff topology
      kvmaff topology --json
      kvmaff topology --root ./recorded-machine
    """
    host = read_host(root)
    if as_json:
        print_json(topology_data(host))
    else:
        console().print(host_table(host))
