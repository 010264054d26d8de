"""``kvmaff topology``: what the machine is."""

from __future__ import annotations

import os

import click

from kvmaff.cli.common import console, json_option, print_json, root_option, say
from kvmaff.errors import KvmaffError
from kvmaff.formats.plain import grant_data, topology_data
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.grants import granted
from kvmaff.host.reader import Host, read_host
from kvmaff.report.hostsummary import host_summary
from kvmaff.report.hosttree import host_tree

__all__ = ["topology"]


@click.command()
@click.option(
    "--tree",
    "as_tree",
    is_flag=True,
    help="Draw what holds what, down to the PU and the guests' threads on it.",
)
@root_option
@json_option
def topology(root: str, *, as_tree: bool, as_json: bool) -> None:
    """
    Show packages, cores, caches, NUMA nodes and isolated CPUs.

    \b
    Examples:
      kvmaff topology
      kvmaff topology --tree
      kvmaff topology --json
      kvmaff topology --root ./recorded-machine --tree

    In the tree, parts that are alike share a line; "package + L3" is a package whose CPUs are those of an L3. The JSON
    has every level anyway.
    """
    host = read_host(root)
    if as_json:
        print_json({**topology_data(host), "granted": grant_data(granted(host))})
        return
    out = console()
    if as_tree:
        drawn = host_tree(host, _guests(host), out.width, ascii_only=out.options.ascii_only)
    else:
        drawn = host_summary(host, out.width, granted(host))
    out.print(drawn, soft_wrap=True)


def _guests(host: Host) -> tuple[Guest, ...]:
    """The guests where they can be listed; a machine is drawn without them, too."""
    try:
        return find_guests(host.root, vmms=tuple(PluginManager.load().vmms().values()))
    except (KvmaffError, OSError) as error:
        if os.path.isdir(host.root) and not os.path.isdir(os.path.join(host.root, "proc")):
            return ()  # nobody recorded what ran
        say(f"the tree is without guests, which could not be listed: {error}")
        return ()
