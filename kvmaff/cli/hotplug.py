"""``kvmaff hotplug``: more vCPUs, where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvmaff.api import hotplug as plug_in
from kvmaff.binding.journal import Journal
from kvmaff.cli.common import console, json_errors, json_option, print_json, say, state_option
from kvmaff.formats.hotplug import hotplug_data, plugged_data
from kvmaff.guest.monitor import TIMEOUT
from kvmaff.host.reader import read_host
from kvmaff.report.hotplug import hotplug_table

if TYPE_CHECKING:
    from kvmaff.binding.hotplug import Plugged

__all__ = ["hotplug"]


@click.command()
@click.argument("guest")
@click.argument("count", type=click.IntRange(min=1), default=1, metavar="[N]")
@click.option("--qmp", "path", metavar="PATH", help="Its QMP socket.  [default: what its command line says]")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.01, max=3600),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long each step with QEMU may take.",
)
@click.option("--unbound", is_flag=True, help="Do it although nothing was decided for the guest.")
@state_option
@json_option
def hotplug(
    guest: str,
    count: int,
    path: str | None,
    timeout: float,
    journal: Journal,
    *,
    unbound: bool,
    as_json: bool,
) -> None:
    """
    Plug N vCPUs (one, unless said) into a running QEMU, in order of its topology, each born where it was decided to be.

    The guest needs -smp …,maxcpus= and a QMP monitor (-qmp unix:PATH,server=on,wait=off) that nobody else is connected
    to, and a decision: kvmaff apply GUEST --strategy … decides for all its vCPUs, those too that are not there yet.
    A vCPU that somebody else plugs in is put where it belongs by kvmaff apply. Guests of libvirt: virsh setvcpus, then
    kvmaff apply.

    \b
    Examples:
      kvmaff hotplug web
      kvmaff hotplug web 4
      kvmaff hotplug web 2 --qmp /run/web.qmp --json
    """
    empty = {"ok": False, "guest": guest, "asked": count, "plugged": []}
    there: list[Plugged] = []
    try:
        with json_errors(empty, as_json=as_json):
            report = plug_in(
                read_host(),
                guest,
                count,
                path=path,
                timeout=timeout,
                unbound=unbound,
                state_dir=journal.folder,
                told=there.append,
            )
    except KeyboardInterrupt:
        said = ", ".join(f"vCPU {one.index} (thread {one.tid})" for one in there) or "nothing"
        say(f"interrupted: {said} was plugged in, and is where it belongs")
        if as_json:
            print_json({**empty, "plugged": [plugged_data(one) for one in there], "errors": ["interrupted"]})
        raise
    errors = [*(report.error or "").splitlines(), *report.bound.problems]
    if as_json:
        print_json({**hotplug_data(report), "errors": errors})
    else:
        console().print(hotplug_table(report))
    for line in errors:
        say(line)
    if not report.ok:
        raise click.exceptions.Exit(1)
