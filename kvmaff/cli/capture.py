"""``kvmaff capture``: this host in one file."""

from __future__ import annotations

import attrs
import click

from kvmaff.cli.common import json_errors, json_option, print_json, root_option
from kvmaff.formats.capture import capture as write_capture
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host

__all__ = ["capture"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--command-lines", is_flag=True, help="Keep processes' command lines, which may hold secrets.")
@root_option
@json_option
def capture(file: str, root: str, *, command_lines: bool, as_json: bool) -> None:
    """
    Write this host into one file, to look at it and to place guests on it elsewhere.

    Kept: topology, isolation, paths and limits of cgroups, interrupts and whose they are, the kernel's release, guests,
    and of all threads names, user numbers and masks. Not kept: environments, command lines, mounts, host name and
    addresses. The file is readable by you alone.

    \b
    Examples:
      kvmaff capture host.tar.xz
      kvmaff topology --root host.tar.xz
      kvmaff place --spec guests.toml --root host.tar.xz
    """
    vmms = tuple(PluginManager.load().vmms().values())
    with json_errors({}, as_json=as_json):
        done = write_capture(file, root=read_host(root).root, command_lines=command_lines, vmms=vmms)
    if as_json:
        print_json(attrs.asdict(done))
        return
    kib = (done.size_bytes + 1023) // 1024
    click.echo(f"{done.path}: {kib} KiB; {done.files} files, {done.guests} guests, {done.threads} threads")
